//! Reading a GGUF file: header, metadata, tensors. Every length is checked against the bytes there are before it is believed.

use crate::Error;
use crate::quant::Kind;
use crate::value::{Metadata, Value, find};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Most axes of a tensor.
const MAX_AXES: u32 = 4;
/// Longest name of a tensor or key, in bytes.
const MAX_NAME: usize = 65_535;
/// Deepest nesting of lists.
const MAX_DEPTH: usize = 4;

/// A tensor of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// llama.cpp's name.
    pub name: String,
    /// Extents, slowest first: the file has them the other way round.
    pub shape: Vec<usize>,
    /// How values are stored.
    pub kind: Kind,
    /// Of its first byte in the file.
    pub offset: u64,
}

impl Info {
    /// Number of values.
    pub fn values(&self) -> usize {
        self.shape.iter().product()
    }
}

/// An open file.
#[derive(Debug)]
pub struct Gguf {
    path: PathBuf,
    file: File,
    /// The metadata.
    pub metadata: Metadata,
    /// The tensors, in the order of the file.
    pub tensors: Vec<Info>,
}

/// Bytes of the header part, with the place.
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Parsed<T> = Result<T, String>;

impl<'a> Cursor<'a> {
    fn take(&mut self, n: u64) -> Parsed<&'a [u8]> {
        let left = self.bytes.len() - self.at;
        let n = usize::try_from(n).ok().filter(|n| *n <= left);
        let n = n.ok_or_else(|| format!("byte {}: more is announced than the {left} bytes left", self.at))?;
        self.at += n;
        Ok(&self.bytes[self.at - n..self.at])
    }

    fn u32(&mut self) -> Parsed<u32> {
        Ok(self.take(4)?.iter().rev().fold(0, |x, b| x << 8 | u32::from(*b)))
    }

    fn u64(&mut self) -> Parsed<u64> {
        Ok(self.take(8)?.iter().rev().fold(0, |x, b| x << 8 | u64::from(*b)))
    }

    fn text(&mut self) -> Parsed<String> {
        let length = self.u64()?;
        let at = self.at;
        let bytes = self.take(length)?;
        String::from_utf8(bytes.to_vec()).map_err(|_| format!("byte {at}: a text that is not UTF-8"))
    }

    fn name(&mut self) -> Parsed<String> {
        let at = self.at;
        self.text().and_then(|name| match name.len() {
            0..=MAX_NAME => Ok(name),
            n => Err(format!("byte {at}: a name of {n} bytes")),
        })
    }

    fn value(&mut self, kind: u32, depth: usize) -> Parsed<Value> {
        let width = |kind: u32| match kind {
            0 | 1 | 7 => Some(1u64),
            2 | 3 => Some(2),
            4..=6 => Some(4),
            10..=12 => Some(8),
            _ => None,
        };
        Ok(match kind {
            4 => Value::U32(self.u32()?),
            5 => Value::I32(self.u32()? as i32),
            6 => Value::F32(f32::from_bits(self.u32()?)),
            7 => Value::Bool(self.take(1)?[0] != 0),
            8 => Value::Text(self.text()?),
            9 => {
                let (of, length) = (self.u32()?, self.u64()?);
                let all = |this: &mut Self, width: u64| {
                    let bytes =
                        length.checked_mul(width).ok_or_else(|| format!("byte {}: a list too long", this.at))?;
                    this.take(bytes)
                };
                let word = |four: &[u8]| u32::from_le_bytes([four[0], four[1], four[2], four[3]]);
                match (of, width(of)) {
                    (5, _) => Value::I32s(all(self, 4)?.chunks_exact(4).map(|four| word(four) as i32).collect()),
                    (6, _) => {
                        Value::F32s(all(self, 4)?.chunks_exact(4).map(|four| f32::from_bits(word(four))).collect())
                    }
                    (_, Some(width)) => {
                        all(self, width)?;
                        Value::Other
                    }
                    // A text takes eight bytes at least, so no list is longer than the file.
                    (8, _) if length <= (self.bytes.len() - self.at) as u64 / 8 => {
                        Value::Texts((0..length).map(|_| self.text()).collect::<Parsed<_>>()?)
                    }
                    (9, _) if depth < MAX_DEPTH && length <= (self.bytes.len() - self.at) as u64 / 12 => {
                        (0..length).try_for_each(|_| self.value(9, depth + 1).map(drop))?;
                        Value::Other
                    }
                    _ => return Err(format!("byte {}: a list of {length} of type {of}", self.at)),
                }
            }
            other => match width(other) {
                Some(width) => {
                    self.take(width)?;
                    Value::Other
                }
                None => return Err(format!("byte {}: a value of type {other}", self.at)),
            },
        })
    }
}

/// Metadata, tensors with offsets from the data's start, and where the header ends.
fn header(bytes: &[u8]) -> Parsed<(Metadata, Vec<Info>, usize)> {
    let mut cursor = Cursor { bytes, at: 0 };
    if cursor.take(4)? != b"GGUF" {
        return Err("it does not begin with GGUF".into());
    }
    let version = cursor.u32()?;
    if version != 3 {
        return Err(format!("expected version 3, found {version}"));
    }
    let (tensors, pairs) = (cursor.u64()?, cursor.u64()?);
    // A tensor takes 32 bytes at least and a pair 13, so nothing larger than the file is set aside.
    let left = bytes.len() as u64;
    if tensors > left / 32 || pairs > left / 13 {
        return Err(format!("{tensors} tensors and {pairs} keys in {left} bytes"));
    }
    let mut metadata = Metadata::new();
    for _ in 0..pairs {
        let key = cursor.name()?;
        let kind = cursor.u32()?;
        let value = cursor.value(kind, 0)?;
        if find(&metadata, &key).is_some() {
            return Err(format!("key {key:?} is there twice"));
        }
        metadata.push((key, value));
    }
    let tensors = (0..tensors).map(|_| tensor(&mut cursor)).collect::<Parsed<Vec<_>>>()?;
    Ok((metadata, tensors, cursor.at))
}

fn tensor(cursor: &mut Cursor<'_>) -> Parsed<Info> {
    let name = cursor.name()?;
    let axes = cursor.u32()?;
    if axes > MAX_AXES {
        return Err(format!("{name:?}: {axes} axes"));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        shape.push(usize::try_from(cursor.u64()?).map_err(|_| format!("{name:?}: an axis too long"))?);
    }
    let values = shape.iter().try_fold(1usize, |n, axis| n.checked_mul(*axis));
    let id = cursor.u32()?;
    let kind = Kind::from_id(id).ok_or_else(|| format!("{name:?}: storage type {id} is not known"))?;
    let rows = *shape.first().unwrap_or(&1);
    shape.reverse();
    let fits = values.is_some_and(|n| n.checked_mul(kind.block().1).is_some()) && rows % kind.block().0 == 0;
    if !fits {
        return Err(format!("{name:?}: {shape:?} values of {}", kind.name()));
    }
    Ok(Info { name, shape, kind, offset: cursor.u64()? })
}

impl Gguf {
    /// Opens a file and checks all of its header: nothing lies outside of the file, no two tensors overlap.
    ///
    /// # Errors
    /// [`Error::Malformed`], and files that cannot be read.
    pub fn open(path: &Path) -> Result<Self, Error> {
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let length = file.metadata().map_err(Error::io("read", path))?.len();
        // The header is read in growing pieces: it is small beside the tensors.
        let mut size = length.min(1 << 20);
        let (metadata, mut tensors, end) = loop {
            let mut bytes = Vec::new();
            file.seek(SeekFrom::Start(0)).map_err(Error::io("read", path))?;
            (&mut file).take(size).read_to_end(&mut bytes).map_err(Error::io("read", path))?;
            match header(&bytes) {
                Ok(found) => break found,
                Err(_) if size < length => size = length.min(size * 4),
                Err(reason) => return Err(Error::Malformed { path: path.to_owned(), reason }),
            }
        };
        let bad = |reason: String| Error::Malformed { path: path.to_owned(), reason };
        let alignment = match find(&metadata, "general.alignment") {
            None => 32,
            Some(Value::U32(n)) if n.is_power_of_two() => u64::from(*n),
            Some(other) => return Err(bad(format!("general.alignment: expected a power of two, found {other:?}"))),
        };
        let start = (end as u64).next_multiple_of(alignment);
        let mut taken = Vec::new();
        for info in &mut tensors {
            let bytes = info.kind.bytes(info.values()) as u64;
            let offset = start.checked_add(info.offset).filter(|_| info.offset % alignment == 0);
            let whole = offset.and_then(|offset| offset.checked_add(bytes)).filter(|end| *end <= length);
            let (Some(offset), Some(end)) = (offset, whole) else {
                return Err(bad(format!("{:?} does not lie in the file's {length} bytes", info.name)));
            };
            info.offset = offset;
            taken.push((offset, end, info.name.clone()));
        }
        taken.sort();
        if let Some(pair) = taken.windows(2).find(|pair| pair[0].1 > pair[1].0) {
            return Err(bad(format!("{:?} and {:?} overlap", pair[0].2, pair[1].2)));
        }
        Ok(Self { path: path.to_owned(), file, metadata, tensors })
    }

    /// The tensor of that name.
    ///
    /// # Errors
    /// [`Error::Malformed`] where there is none.
    pub fn tensor(&self, name: &str) -> Result<&Info, Error> {
        let found = self.tensors.iter().find(|info| info.name == name);
        found.ok_or_else(|| Error::Malformed { path: self.path.clone(), reason: format!("no tensor {name:?}") })
    }

    /// All values of a tensor, row-major.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn values(&self, info: &Info) -> Result<Vec<f32>, Error> {
        let mut bytes = vec![0; info.kind.bytes(info.values())];
        let mut file = &self.file;
        file.seek(SeekFrom::Start(info.offset)).map_err(Error::io("read", &self.path))?;
        file.read_exact(&mut bytes).map_err(Error::io("read", &self.path))?;
        let mut values = vec![0.0; info.values()];
        info.kind.dequantise(&bytes, &mut values);
        Ok(values)
    }
}
