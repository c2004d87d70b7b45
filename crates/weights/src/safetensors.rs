//! Safetensors files: opened with a checked header, mapped, and used in place.
//!
//! Layout: u64 length of the header, the header (JSON), the data. Format and data types as in the `safetensors` library
//! 0.8 (<https://github.com/huggingface/safetensors>). The header is read by ordinary reads and checked against the
//! file's length before anything is mapped, so a truncated file is an error and never a fault.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::convert::{self, Element};
use crate::dtype::{DType, TensorInfo};
use crate::error::Error;
use crate::header::{Entry, Fault, Header, MAX_HEADER, parse_header};
use mapped::Map;

/// An open safetensors file.
#[derive(Clone, Debug)]
pub struct SafeTensors {
    map: Arc<Map>,
    header: Arc<Header>,
    data_start: usize,
}

impl SafeTensors {
    /// Reads and checks the header, and maps the file. No tensor is read.
    pub fn open(path: &Path) -> Result<SafeTensors, Error> {
        let invalid = |fault| Error::Safetensors { path: path.to_owned(), fault };
        // Asked before opening: opening a pipe would wait for a writer.
        if !fs::metadata(path).map_err(Error::io("open", path))?.is_file() {
            let source = std::io::Error::new(std::io::ErrorKind::InvalidInput, "not a regular file");
            return Err(Error::Io { action: "open", path: path.to_owned(), source });
        }
        let mut file = File::open(path).map_err(Error::io("open", path))?;
        let file_len = file.metadata().map_err(Error::io("open", path))?.len();

        let Some(behind_length) = file_len.checked_sub(8) else {
            return Err(invalid(Fault::NoHeaderLength { file: file_len }));
        };
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(Error::io("read", path))?;
        let claimed = u64::from_le_bytes(length);
        if claimed > MAX_HEADER {
            return Err(invalid(Fault::HeaderTooLong { claimed }));
        }
        let Some(data_len) = behind_length.checked_sub(claimed) else {
            return Err(invalid(Fault::HeaderTruncated { claimed, present: behind_length }));
        };
        let mut json = vec![0; claimed as usize];
        file.read_exact(&mut json).map_err(Error::io("read", path))?;
        let header = parse_header(&json, data_len).map_err(invalid)?;

        let map = Map::new(path, &file, file_len as usize).map_err(Error::io("map", path))?;
        Ok(SafeTensors { map: Arc::new(map), header: Arc::new(header), data_start: 8 + json.len() })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The header's `__metadata__`.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.header.metadata
    }

    /// Every tensor's name, type and shape, sorted by name.
    pub fn infos(&self) -> impl ExactSizeIterator<Item = &TensorInfo> {
        self.header.entries.iter().map(|e| &e.info)
    }

    /// The tensor of that name.
    pub fn get(&self, name: &str) -> Option<Mapped> {
        self.find(name).map(|index| self.at(index))
    }

    /// The place of `name` in the order of [`SafeTensors::infos`].
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.header.entries.binary_search_by(|e| e.info.name.as_str().cmp(name)).ok()
    }

    pub(crate) fn info(&self, index: usize) -> &TensorInfo {
        &self.header.entries[index].info
    }

    pub(crate) fn at(&self, index: usize) -> Mapped {
        let Entry { info, range } = &self.header.entries[index];
        let range = self.data_start + range.start..self.data_start + range.end;
        Mapped { map: self.map.clone(), range, info: info.clone() }
    }
}

/// A tensor in a mapped file, which it keeps open: to be used in place, or converted.
#[derive(Clone, Debug)]
pub struct Mapped {
    map: Arc<Map>,
    /// Bytes of the file.
    range: Range<usize>,
    info: TensorInfo,
}

impl Mapped {
    /// Name, type and shape.
    pub fn info(&self) -> &TensorInfo {
        &self.info
    }

    /// Name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Element type.
    pub fn dtype(&self) -> DType {
        self.info.dtype
    }

    /// Extent of each axis, slowest first.
    pub fn shape(&self) -> &[usize] {
        &self.info.shape
    }

    /// The file.
    pub fn path(&self) -> &Path {
        self.map.path()
    }

    /// The values, little-endian and row-major.
    pub fn bytes(&self) -> &[u8] {
        &self.map.bytes()[self.range.clone()]
    }

    /// Whether the values start at a multiple of their element's size, as [`Mapped::view`] needs.
    pub fn is_aligned(&self) -> bool {
        self.bytes().as_ptr().addr().is_multiple_of(self.info.dtype.alignment())
    }

    /// The values in place. Fails if they are of another type or not aligned.
    pub fn view<T: Element>(&self) -> Result<&[T], Error> {
        if self.info.dtype != T::DTYPE {
            return Err(self.wrong_type(T::DTYPE.torch_name().unwrap_or("a float type")));
        }
        bytemuck::try_cast_slice(self.bytes()).map_err(|_| Error::Misaligned {
            path: self.path().to_owned(),
            name: self.info.name.clone(),
            dtype: self.info.dtype,
        })
    }

    /// Converts all values to `T`, rounding to nearest even; `out` has one place per element. Fails if the tensor does
    /// not hold floats.
    pub fn read<T: Element>(&self, out: &mut [T]) -> Result<(), Error> {
        self.read_range(0, out)
    }

    /// Converts `out.len()` values from element `start` on, as [`Mapped::read`] does all of them.
    pub fn read_range<T: Element>(&self, start: usize, out: &mut [T]) -> Result<(), Error> {
        if !self.info.dtype.is_float() {
            return Err(self.wrong_type("F32, BF16, F16 or F64"));
        }
        let size = self.info.dtype.bits() / 8;
        convert::decode(self.info.dtype, &self.bytes()[start * size..(start + out.len()) * size], out);
        Ok(())
    }

    /// All values as f32, in a new vector.
    pub fn to_f32(&self) -> Result<Vec<f32>, Error> {
        let mut out = vec![0.0; self.info.element_count()];
        self.read(&mut out)?;
        Ok(out)
    }

    /// All values as f64, in a new vector.
    pub fn to_f64(&self) -> Result<Vec<f64>, Error> {
        let mut out = vec![0.0; self.info.element_count()];
        self.read(&mut out)?;
        Ok(out)
    }

    /// Fails unless the tensor has that shape.
    pub fn expect_shape(&self, expected: &[usize]) -> Result<(), Error> {
        if self.info.shape == expected {
            return Ok(());
        }
        Err(Error::Shape {
            path: self.path().to_owned(),
            name: self.info.name.clone(),
            expected: expected.to_vec(),
            found: self.info.shape.clone(),
        })
    }

    /// Lets go of the tensor's physical pages after it was copied, so that they do not count as this process's memory.
    /// The tensor stays readable: the next access reads the file again.
    pub fn release(&self) {
        self.release_range(0..self.info.element_count());
    }

    /// The same of elements `range`.
    pub fn release_range(&self, range: Range<usize>) {
        let byte = |element: usize| self.range.start + element * self.info.dtype.bits() / 8;
        self.map.release(byte(range.start)..byte(range.end).min(self.range.end));
    }

    /// Has all elements read, `len` at a time, by `work`, and lets go of the pages behind them as it goes: those of a tensor that is
    /// converted would otherwise count beside what it becomes until the last of it is.
    pub fn in_pieces(&self, len: usize, mut work: impl FnMut(Range<usize>)) {
        let all = self.info.element_count();
        for start in (0..all).step_by(len) {
            let piece = start..(start + len).min(all);
            work(piece.clone());
            self.release_range(piece);
        }
    }

    /// An error that names the tensor and its type.
    pub fn wrong_type(&self, expected: &'static str) -> Error {
        Error::Type { path: self.path().to_owned(), name: self.info.name.clone(), expected, found: self.info.dtype }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Tensor;
    use crate::testdir::TestDir;
    #[cfg(target_os = "linux")]
    use crate::testdir::resident;
    use crate::write::write_tensors;
    use half::bf16;

    /// A file with the given header text, unpadded, and data.
    fn raw(header: &str, data: &[u8]) -> Vec<u8> {
        [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
    }

    fn fault(dir: &TestDir, bytes: &[u8]) -> Fault {
        match SafeTensors::open(&dir.file("x.safetensors", bytes)).unwrap_err() {
            Error::Safetensors { fault, .. } => fault,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_written_file_reads_back_in_place() {
        let dir = TestDir::new();
        let path = dir.join("x.safetensors");
        let weights = [1.5f32, -2.0, 3.25];
        let tensors = [
            Tensor { name: "flag", dtype: DType::BOOL, shape: &[1], bytes: &[1] },
            Tensor { name: "weight", dtype: DType::F32, shape: &[3, 1], bytes: bytemuck::cast_slice(&weights) },
        ];
        assert_eq!(write_tensors(&path, &tensors).unwrap(), 13);

        let file = SafeTensors::open(&path).unwrap();
        assert_eq!(file.infos().map(|i| i.name.as_str()).collect::<Vec<_>>(), ["flag", "weight"]);
        assert_eq!(file.metadata()["format"], "pt");
        let weight = file.get("weight").unwrap();
        assert_eq!(weight.view::<f32>().unwrap(), weights);
        assert_eq!(weight.shape(), [3, 1]);
        assert_eq!(file.get("flag").unwrap().bytes(), [1]);
        assert!(file.get("Weight").is_none());
        drop(file);
        weight.release();
        assert_eq!(weight.to_f64().unwrap(), [1.5, -2.0, 3.25], "a tensor keeps its file, released or not");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn of_a_tensor_that_is_read_in_pieces_one_piece_is_in_memory() {
        const PIECE: usize = 1 << 20;
        let dir = TestDir::new();
        let path = dir.join("x.safetensors");
        let weights: Vec<f32> = (0..6 * PIECE + 77).map(|i| i as f32).collect();
        let tensors =
            [Tensor { name: "w", dtype: DType::F32, shape: &[weights.len()], bytes: bytemuck::cast_slice(&weights) }];
        write_tensors(&path, &tensors).unwrap();
        let tensor = SafeTensors::open(&path).unwrap().get("w").unwrap();
        let (mut sum, mut most) = (0.0, 0);
        tensor.in_pieces(PIECE, |range| {
            sum += tensor.view::<f32>().unwrap()[range].iter().map(|x| f64::from(*x)).sum::<f64>();
            most = most.max(resident(&path));
        });
        assert_eq!(sum, weights.iter().map(|x| f64::from(*x)).sum::<f64>(), "every element once");
        // The system maps some that lie around what is read, up to 2 MB on either side.
        assert!((4 * PIECE..12 * PIECE).contains(&most), "{most} bytes of {}", 4 * weights.len());
        assert!(resident(&path) < 4 * PIECE);
    }

    #[test]
    fn every_truncation_is_an_error() {
        let dir = TestDir::new();
        let path = dir.join("x.safetensors");
        let tensors = [
            Tensor { name: "a", dtype: DType::BF16, shape: &[2, 3], bytes: &[7; 12] },
            Tensor { name: "b", dtype: DType::U8, shape: &[5], bytes: &[9; 5] },
        ];
        write_tensors(&path, &tensors).unwrap();
        let whole = fs::read(&path).unwrap();
        for len in 0..whole.len() {
            let found = fault(&dir, &whole[..len]);
            let truncated = matches!(
                found,
                Fault::NoHeaderLength { .. } | Fault::HeaderTruncated { .. } | Fault::DataTruncated { .. }
            );
            assert!(truncated, "{len} bytes: {found:?}");
        }
    }

    #[test]
    fn a_header_past_the_limit_or_the_file_is_not_read() {
        let dir = TestDir::new();
        assert_eq!(fault(&dir, &[0xff; 16]), Fault::HeaderTooLong { claimed: u64::MAX });
        let claimed = MAX_HEADER + 1;
        assert_eq!(fault(&dir, &[&claimed.to_le_bytes()[..], b"{}"].concat()), Fault::HeaderTooLong { claimed });
        let bytes = [&9u64.to_le_bytes()[..], b"{}"].concat();
        assert_eq!(fault(&dir, &bytes), Fault::HeaderTruncated { claimed: 9, present: 2 });
    }

    #[test]
    fn every_byte_of_a_header_may_be_wrong_without_a_panic() {
        let dir = TestDir::new();
        let header = r#"{"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}}"#;
        let whole = raw(header, &[1, 2, 3]);
        for at in 0..8 + header.len() {
            for bit in 0..8 {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << bit;
                if let Ok(file) = SafeTensors::open(&dir.file("x.safetensors", &bytes)) {
                    assert_eq!(file.infos().map(TensorInfo::byte_len).sum::<usize>(), 3, "byte {at} bit {bit}");
                }
            }
        }
    }

    #[test]
    fn an_odd_start_is_reported_and_still_converts() {
        let dir = TestDir::new();
        let data: Vec<u8> = [1.0f32, 2.0].iter().flat_map(|x| x.to_le_bytes()).collect();
        // A header of odd length, as writers that do not pad make it.
        let mut header = r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}"#.to_owned();
        header.push_str(if header.len().is_multiple_of(2) { " " } else { "" });
        let tensor = SafeTensors::open(&dir.file("x.safetensors", raw(&header, &data))).unwrap().get("a").unwrap();
        assert!(!tensor.is_aligned());
        assert!(matches!(tensor.view::<f32>(), Err(Error::Misaligned { .. })));
        assert_eq!(tensor.to_f32().unwrap(), [1.0, 2.0]);
        let mut last = [0.0f64];
        tensor.read_range(1, &mut last).unwrap();
        assert_eq!(last, [2.0]);
    }

    #[test]
    fn wrong_types_and_shapes_are_named_with_both() {
        let dir = TestDir::new();
        let header = r#"{"a":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}"#;
        let tensor = SafeTensors::open(&dir.file("x.safetensors", raw(header, &[0; 8]))).unwrap().get("a").unwrap();
        for error in [tensor.to_f32().unwrap_err(), tensor.view::<bf16>().unwrap_err()] {
            let message = error.to_string();
            assert!(message.contains("\"a\" has type I32, expected"), "{message}");
        }
        let message = tensor.expect_shape(&[2, 1]).unwrap_err().to_string();
        assert!(message.contains("shape [2], expected [2, 1]"), "{message}");
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let dir = TestDir::new();
        for path in [dir.path().to_owned(), dir.join("absent.safetensors")] {
            let error = SafeTensors::open(&path).unwrap_err();
            assert!(matches!(error, Error::Io { .. }), "{error}");
            assert_eq!(error.exit_code(), 6);
        }
    }
}
