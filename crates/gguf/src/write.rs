//! Writing a GGUF file: header and metadata at once, then tensor by tensor, row by row; whole or not at all.

use crate::Error;
use crate::quant::Kind;
use crate::value::Metadata;
use rayon::prelude::*;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: usize = 32;
/// Values converted at a time.
const PIECE: usize = 1 << 20;

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    /// llama.cpp's name.
    pub(crate) name: String,
    /// Extents, slowest first.
    pub(crate) shape: Vec<usize>,
    /// How values are stored.
    pub(crate) kind: Kind,
}

impl Planned {
    pub(crate) fn values(&self) -> usize {
        self.shape.iter().product()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.kind.bytes(self.values())
    }
}

/// A file that is being written under another name; that is removed unless the file is finished.
pub(crate) struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    /// Tensors still to come, the next last.
    open: Vec<Planned>,
    finished: bool,
}

fn header(metadata: &Metadata, tensors: &[Planned]) -> Vec<u8> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    for (key, value) in metadata {
        text(&mut out, key);
        value.write(&mut out);
    }
    let mut offset = 0;
    for tensor in tensors {
        text(&mut out, &tensor.name);
        out.extend((tensor.shape.len() as u32).to_le_bytes());
        tensor.shape.iter().rev().for_each(|axis| out.extend((*axis as u64).to_le_bytes()));
        out.extend(tensor.kind.id().to_le_bytes());
        out.extend((offset as u64).to_le_bytes());
        offset += tensor.bytes().next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
    out
}

impl Writer {
    pub(crate) fn create(path: &Path, metadata: &Metadata, tensors: &[Planned]) -> Result<Self, Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = path.with_file_name(format!(".{name}.partial"));
        match std::fs::remove_file(&temporary) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io("remove", &temporary)(e)),
            _ => {}
        }
        let file = File::create_new(&temporary).map_err(Error::io("create", &temporary))?;
        let open = tensors.iter().rev().cloned().collect();
        let out = BufWriter::with_capacity(1 << 20, file);
        let mut writer = Self { path: path.to_owned(), temporary, out, open, finished: false };
        writer.put(&header(metadata, tensors))?;
        Ok(writer)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.out.write_all(bytes).map_err(Error::io("write", &self.path))
    }

    /// Writes the next tensor, which must be the one of that name; `fill` puts the values of some whole rows, from the given
    /// row on, into the slice it is given.
    pub(crate) fn tensor(
        &mut self,
        name: &str,
        mut fill: impl FnMut(usize, &mut [f32]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let next = self.open.pop().unwrap_or_else(|| panic!("no place for {name}"));
        assert_eq!(next.name, name, "the tensor whose turn it is");
        let width = *next.shape.last().unwrap_or(&1);
        let rows = next.values() / width.max(1);
        let together = (PIECE / width.max(1)).clamp(1, rows.max(1));
        let mut values = vec![0.0; together * width];
        let mut bytes = vec![0; next.kind.bytes(values.len())];
        for from in (0..rows).step_by(together) {
            let n = together.min(rows - from);
            let (values, bytes) = (&mut values[..n * width], &mut bytes[..next.kind.bytes(n * width)]);
            fill(from, values)?;
            let row = next.kind.bytes(width);
            let pairs = values.par_chunks_exact(width).zip(bytes.par_chunks_exact_mut(row));
            pairs.for_each(|(values, bytes)| next.kind.quantise(values, bytes));
            self.out.write_all(bytes).map_err(Error::io("write", &self.path))?;
        }
        let length = next.bytes();
        self.put(&[0; ALIGNMENT][..length.next_multiple_of(ALIGNMENT) - length])
    }

    /// Brings all to the disk and gives the file its name.
    pub(crate) fn finish(mut self) -> Result<(), Error> {
        assert!(self.open.is_empty(), "{} tensors were not written", self.open.len());
        let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_all());
        synced.and_then(|()| std::fs::rename(&self.temporary, &self.path)).map_err(Error::io("write", &self.path))?;
        self.finished = true;
        Ok(())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::read::Gguf;
    use crate::value::Value;

    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("prospect-gguf-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    fn written(path: &Path) -> Metadata {
        let metadata = vec![
            ("general.architecture".to_owned(), Value::Text("llama".into())),
            ("a".to_owned(), Value::U32(7)),
            ("b".to_owned(), Value::Texts(vec!["x".into(), "ü".into()])),
            ("c".to_owned(), Value::F32s(vec![0.5, -1.0])),
            ("d".to_owned(), Value::Bool(true)),
            ("e".to_owned(), Value::I32s(vec![-1])),
        ];
        let planned = |name: &str, shape: &[usize], kind| Planned { name: name.into(), shape: shape.into(), kind };
        let tensors = [planned("t", &[3, 32], Kind::Q8_0), planned("n", &[5], Kind::F32)];
        let mut writer = Writer::create(path, &metadata, &tensors).unwrap();
        writer
            .tensor("t", |row, out| {
                let _: () = out.iter_mut().enumerate().for_each(|(i, x)| *x = (row * 32 + i) as f32);
                Ok(())
            })
            .unwrap();
        writer
            .tensor("n", |_, out| {
                let _: () = out.fill(2.0);
                Ok(())
            })
            .unwrap();
        writer.finish().unwrap();
        metadata
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = folder("roundtrip");
        let path = folder.join("m.gguf");
        let metadata = written(&path);
        let file = Gguf::open(&path).unwrap();
        assert_eq!(file.metadata, metadata);
        let info = file.tensor("t").unwrap();
        assert_eq!((info.shape.as_slice(), info.kind), (&[3, 32][..], Kind::Q8_0));
        let values = file.values(info).unwrap();
        assert!(values.iter().enumerate().all(|(i, x)| (x - i as f32).abs() < 0.5), "{values:?}");
        assert_eq!(file.values(file.tensor("n").unwrap()).unwrap(), [2.0; 5]);
        assert!(file.tensor("missing").is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn no_damage_of_a_header_is_a_panic() {
        let folder = folder("damage");
        let path = folder.join("m.gguf");
        written(&path);
        let whole = std::fs::read(&path).unwrap();
        let damaged = folder.join("d.gguf");
        // The last tensor is followed by twelve bytes that nobody needs.
        for length in 0..whole.len() - 12 {
            std::fs::write(&damaged, &whole[..length]).unwrap();
            assert!(Gguf::open(&damaged).is_err(), "cut to {length} of {}", whole.len());
        }
        for at in 0..whole.len() {
            for flip in [1, 0xff] {
                let mut bytes = whole.clone();
                bytes[at] ^= flip;
                std::fs::write(&damaged, &bytes).unwrap();
                if let Ok(file) = Gguf::open(&damaged) {
                    file.tensors.iter().for_each(|info| drop(file.values(info).unwrap()));
                }
            }
        }
        std::fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn an_unfinished_file_leaves_nothing() {
        let folder = folder("unfinished");
        let path = folder.join("m.gguf");
        drop(Writer::create(&path, &Metadata::new(), &[]).unwrap());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
