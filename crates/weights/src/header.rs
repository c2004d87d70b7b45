//! The header of a safetensors file: parsed in bounded memory and checked before anything else is believed.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use crate::dtype::{DType, TensorInfo};
use crate::json::{StringMap, short_string};

/// The longest header that is read, in bytes; the reference implementation's limit.
pub(crate) const MAX_HEADER: u64 = 100_000_000;
/// The most axes of a tensor.
const MAX_RANK: usize = 8;
/// The longest name of a tensor, in bytes.
pub(crate) const MAX_NAME: usize = 256;
/// The header's key that is no tensor.
pub(crate) const METADATA_KEY: &str = "__metadata__";

/// The ways in which a file can break the format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Fewer bytes than the header's length takes.
    NoHeaderLength {
        /// Bytes in the file.
        file: u64,
    },
    /// A header longer than the format allows.
    HeaderTooLong {
        /// Bytes it claims.
        claimed: u64,
    },
    /// A header that ends past the file.
    HeaderTruncated {
        /// Bytes the header claims.
        claimed: u64,
        /// Bytes behind its length.
        present: u64,
    },
    /// A header that is not the JSON it should be.
    Json {
        /// Byte of the file, from 0.
        byte: usize,
        /// What was found and expected.
        what: String,
    },
    /// Two tensors of one name.
    DuplicateName {
        /// The name.
        name: String,
    },
    /// Offsets that end before they begin.
    OffsetsReversed {
        /// The tensor.
        name: String,
        /// Its first byte.
        begin: usize,
        /// The byte behind its last.
        end: usize,
    },
    /// A shape whose size in bytes overflows or is no whole number.
    SizeImpossible {
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: DType,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Offsets that do not fit the shape.
    SizeMismatch {
        /// The tensor.
        name: String,
        /// Bytes by type and shape.
        shape: usize,
        /// Bytes by offsets.
        offsets: usize,
    },
    /// Bytes that belong to no tensor.
    Hole {
        /// The tensor behind the hole.
        name: String,
        /// Where the tensor before it ends.
        previous_end: usize,
        /// Where this one begins.
        begin: usize,
    },
    /// Bytes that belong to two tensors.
    Overlap {
        /// The second tensor.
        name: String,
        /// Where the tensor before it ends.
        previous_end: usize,
        /// Where this one begins.
        begin: usize,
    },
    /// Fewer data bytes than the tensors take.
    DataTruncated {
        /// Bytes the tensors take.
        needed: usize,
        /// Bytes behind the header.
        present: u64,
    },
    /// More data bytes than the tensors take.
    TrailingData {
        /// Bytes the tensors take.
        needed: usize,
        /// Bytes behind the header.
        present: u64,
    },
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::NoHeaderLength { file } => {
                write!(f, "the file has {file} bytes, fewer than the 8 of the header's length; it is truncated")
            }
            Fault::HeaderTooLong { claimed } => {
                write!(
                    f,
                    "a header of {claimed} bytes, at most {MAX_HEADER} are allowed; is this another kind of file?"
                )
            }
            Fault::HeaderTruncated { claimed, present } => {
                write!(f, "a header of {claimed} bytes, but only {present} follow; the file is truncated")
            }
            Fault::Json { byte, what } => write!(f, "header, at byte {byte} of the file: {what}"),
            Fault::DuplicateName { name } => write!(f, "tensor {name:?} is there twice"),
            Fault::OffsetsReversed { name, begin, end } => {
                write!(f, "tensor {name:?} ends at {end}, before it begins at {begin}")
            }
            Fault::SizeImpossible { name, dtype, shape } => write!(
                f,
                "tensor {name:?} of shape {shape:?} and type {dtype} is too large or no whole number of bytes"
            ),
            Fault::SizeMismatch { name, shape, offsets } => {
                write!(f, "tensor {name:?} needs {shape} bytes by its shape and has {offsets} by its offsets")
            }
            Fault::Hole { name, previous_end, begin } => {
                write!(f, "tensor {name:?} begins at {begin}, but the one before it ends at {previous_end}: a hole")
            }
            Fault::Overlap { name, previous_end, begin } => {
                write!(f, "tensor {name:?} begins at {begin}, but the one before it ends at {previous_end}: an overlap")
            }
            Fault::DataTruncated { needed, present } => write!(
                f,
                "the tensors take {needed} bytes, but only {present} follow the header; the file is truncated, \
                 download or save it again"
            ),
            Fault::TrailingData { needed, present } => {
                write!(f, "the tensors take {needed} bytes, but {present} follow the header")
            }
        }
    }
}

/// A tensor and its bytes, counted from the end of the header.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) info: TensorInfo,
    pub(crate) range: Range<usize>,
}

/// A checked header: entries sorted by name.
#[derive(Debug, Default)]
pub(crate) struct Header {
    pub(crate) entries: Vec<Entry>,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Parses and checks the JSON of a header that `data_len` bytes follow. Memory stays within a few times `json.len()`.
pub(crate) fn parse_header(json: &[u8], data_len: u64) -> Result<Header, Fault> {
    if json.first() != Some(&b'{') {
        return Err(Fault::Json { byte: 8, what: "expected '{'".to_owned() });
    }
    let mut header: Header = serde_json::from_slice(json).map_err(|e| json_fault(json, &e))?;

    header.entries.sort_by_key(|e| (e.range.start, e.range.end));
    let mut previous_end = 0;
    for Entry { info, range } in &header.entries {
        let name = || info.name.clone();
        if range.start > range.end {
            return Err(Fault::OffsetsReversed { name: name(), begin: range.start, end: range.end });
        }
        let Some(bytes) = info.checked_byte_len() else {
            return Err(Fault::SizeImpossible { name: name(), dtype: info.dtype, shape: info.shape.clone() });
        };
        if bytes != range.len() {
            return Err(Fault::SizeMismatch { name: name(), shape: bytes, offsets: range.len() });
        }
        if range.start > previous_end {
            return Err(Fault::Hole { name: name(), previous_end, begin: range.start });
        }
        if range.start < previous_end {
            return Err(Fault::Overlap { name: name(), previous_end, begin: range.start });
        }
        previous_end = range.end;
    }
    if previous_end as u64 > data_len {
        return Err(Fault::DataTruncated { needed: previous_end, present: data_len });
    }
    if (previous_end as u64) < data_len {
        return Err(Fault::TrailingData { needed: previous_end, present: data_len });
    }

    header.entries.sort_by(|a, b| a.info.name.cmp(&b.info.name));
    if let Some(pair) = header.entries.windows(2).find(|pair| pair[0].info.name == pair[1].info.name) {
        return Err(Fault::DuplicateName { name: pair[0].info.name.clone() });
    }
    Ok(header)
}

/// The place and message of a JSON error; the header starts at byte 8 of the file.
fn json_fault(json: &[u8], e: &serde_json::Error) -> Fault {
    let line_start: usize =
        json.split_inclusive(|&b| b == b'\n').take(e.line().saturating_sub(1)).map(<[u8]>::len).sum();
    let message = e.to_string();
    let what = message.rsplit_once(" at line ").map_or(message.as_str(), |(what, _)| what).to_owned();
    Fault::Json { byte: 8 + line_start + e.column().saturating_sub(1), what }
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Header, D::Error> {
        struct HeaderVisitor;
        impl<'de> Visitor<'de> for HeaderVisitor {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to dtype, shape and data_offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut header = Header::default();
                let mut has_metadata = false;
                while let Some(Name(name)) = map.next_key()? {
                    if name != METADATA_KEY {
                        let RawEntry { dtype, shape: Shape(shape), data_offsets: (begin, end) } = map.next_value()?;
                        let info = TensorInfo { name, dtype, shape };
                        header.entries.push(Entry { info, range: begin..end });
                    } else if has_metadata {
                        return Err(A::Error::custom("__metadata__ is there twice"));
                    } else {
                        has_metadata = true;
                        header.metadata = map.next_value::<StringMap>()?.0;
                    }
                }
                Ok(header)
            }
        }
        deserializer.deserialize_map(HeaderVisitor)
    }
}

#[derive(Deserialize)]
struct RawEntry {
    dtype: DType,
    shape: Shape,
    data_offsets: (usize, usize),
}

struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Name, D::Error> {
        short_string(deserializer, MAX_NAME).map(Name)
    }
}

/// A shape that stops growing at [`MAX_RANK`], whatever the header holds.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shape, D::Error> {
        struct ShapeVisitor;
        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a list of at most {MAX_RANK} extents")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(extent) = seq.next_element()? {
                    if shape.len() == MAX_RANK {
                        return Err(A::Error::custom(format_args!("a shape of more than {MAX_RANK} axes")));
                    }
                    shape.push(extent);
                }
                Ok(Shape(shape))
            }
        }
        deserializer.deserialize_seq(ShapeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(json: &str, data_len: u64) -> Fault {
        parse_header(json.as_bytes(), data_len).unwrap_err()
    }

    fn u8_entry(name: &str, begin: usize, end: usize) -> String {
        format!(r#""{name}":{{"dtype":"U8","shape":[{}],"data_offsets":[{begin},{end}]}}"#, end.wrapping_sub(begin))
    }

    fn json_message(json: &str) -> (usize, String) {
        match fault(json, 0) {
            Fault::Json { byte, what } => (byte, what),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn entries_come_sorted_with_their_bytes() {
        let json =
            format!(r#"{{"__metadata__":{{"format":"pt"}},{},{}}}   "#, u8_entry("b", 0, 3), u8_entry("a", 3, 5));
        let header = parse_header(json.as_bytes(), 5).unwrap();
        let found: Vec<_> = header.entries.iter().map(|e| (e.info.name.as_str(), e.range.clone())).collect();
        assert_eq!(found, [("a", 3..5), ("b", 0..3)]);
        assert_eq!(header.metadata["format"], "pt");
    }

    #[test]
    fn empty_tensors_and_scalars_are_tensors() {
        let json = r#"{"e":{"dtype":"F32","shape":[4,0],"data_offsets":[8,8]},"s":{"dtype":"F64","shape":[],"data_offsets":[0,8]}}"#;
        let header = parse_header(json.as_bytes(), 8).unwrap();
        assert_eq!(header.entries[0].info.element_count(), 0);
        assert_eq!(header.entries[1].info.element_count(), 1);
    }

    #[test]
    fn a_hole_is_named() {
        let expected = Fault::Hole { name: "b".into(), previous_end: 3, begin: 4 };
        assert_eq!(fault(&format!("{{{},{}}}", u8_entry("a", 0, 3), u8_entry("b", 4, 5)), 5), expected);
        let expected = Fault::Hole { name: "a".into(), previous_end: 0, begin: 1 };
        assert_eq!(fault(&format!("{{{}}}", u8_entry("a", 1, 3)), 3), expected);
    }

    #[test]
    fn an_overlap_is_named() {
        let expected = Fault::Overlap { name: "b".into(), previous_end: 3, begin: 2 };
        assert_eq!(fault(&format!("{{{},{}}}", u8_entry("a", 0, 3), u8_entry("b", 2, 5)), 5), expected);
    }

    #[test]
    fn reversed_offsets_are_named() {
        let json = r#"{"a":{"dtype":"U8","shape":[1],"data_offsets":[3,2]}}"#;
        assert_eq!(fault(json, 3), Fault::OffsetsReversed { name: "a".into(), begin: 3, end: 2 });
    }

    #[test]
    fn missing_and_spare_data_are_named() {
        let json = format!("{{{}}}", u8_entry("a", 0, 3));
        assert_eq!(fault(&json, 2), Fault::DataTruncated { needed: 3, present: 2 });
        assert_eq!(fault(&json, 4), Fault::TrailingData { needed: 3, present: 4 });
    }

    #[test]
    fn offsets_that_do_not_fit_the_shape_are_named() {
        let json = r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,23]}}"#;
        assert_eq!(fault(json, 23), Fault::SizeMismatch { name: "a".into(), shape: 24, offsets: 23 });
    }

    #[test]
    fn sizes_that_overflow_or_split_a_byte_are_named() {
        let huge = format!(r#"{{"a":{{"dtype":"F32","shape":[{0},{0}],"data_offsets":[0,8]}}}}"#, 1u64 << 33);
        assert!(matches!(fault(&huge, 8), Fault::SizeImpossible { .. }));
        let bits = format!(r#"{{"a":{{"dtype":"F64","shape":[{}],"data_offsets":[0,8]}}}}"#, 1u64 << 60);
        assert!(matches!(fault(&bits, 8), Fault::SizeImpossible { .. }));
        let odd = r#"{"a":{"dtype":"F4","shape":[3],"data_offsets":[0,2]}}"#;
        assert!(matches!(fault(odd, 2), Fault::SizeImpossible { .. }));
        let even = r#"{"a":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}"#;
        assert_eq!(parse_header(even.as_bytes(), 3).unwrap().entries[0].info.byte_len(), 3);
    }

    #[test]
    fn a_name_that_comes_twice_is_named() {
        let json = format!("{{{},{}}}", u8_entry("a", 0, 3), u8_entry("a", 3, 5));
        assert_eq!(fault(&json, 5), Fault::DuplicateName { name: "a".into() });
    }

    #[test]
    fn names_and_shapes_are_bounded_while_they_are_read() {
        let (_, what) = json_message(&format!("{{{}}}", u8_entry(&"n".repeat(257), 0, 1)));
        assert_eq!(what, "a name of 257 bytes, at most 256 are allowed");
        let (_, what) = json_message(r#"{"a":{"dtype":"U8","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,1]}}"#);
        assert_eq!(what, "a shape of more than 8 axes");
    }

    #[test]
    fn what_is_no_header_is_named_with_its_byte() {
        assert_eq!(json_message(""), (8, "expected '{'".into()));
        assert_eq!(json_message(r#" {"a":1}"#), (8, "expected '{'".into()));
        let (byte, what) = json_message(r#"{"a":{"dtype":"F99","shape":[],"data_offsets":[0,0]}}"#);
        assert!(what.starts_with("unknown variant `F99`"), "{what}");
        assert_eq!(byte, 8 + r#"{"a":{"dtype":"F99"#.len());
        let cases = [
            (r#"{"a":{"dtype":"U8","shape":[-1],"data_offsets":[0,0]}}"#, "invalid value: integer `-1`"),
            (r#"{"a":{"dtype":"U8","shape":[1.5],"data_offsets":[0,0]}}"#, "invalid type: floating point"),
            (r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0]}}"#, "invalid length 1"),
            (r#"{"a":{"dtype":"U8","shape":[0],"data_offsets":[0,0,0]}}"#, "trailing characters"),
            (r#"{"a":{"dtype":"U8","shape":[0]}}"#, "missing field `data_offsets`"),
            (r#"{"a":{"dtype":"U8","dtype":"U8","shape":[0],"data_offsets":[0,0]}}"#, "duplicate field `dtype`"),
            (r#"{"__metadata__":{"a":1}}"#, "invalid type: integer `1`"),
            (r#"{"__metadata__":{},"__metadata__":{}}"#, "__metadata__ is there twice"),
            (r#"{"__metadata__":{"a":"x","a":"y"}}"#, "a key is there twice"),
            (r#"{"a":"#, "EOF while parsing"),
            (r#"{} {}"#, "trailing characters"),
        ];
        for (json, expected) in cases {
            let (_, what) = json_message(json);
            assert!(what.starts_with(expected), "{json}: {what}");
        }
    }

    #[test]
    fn unknown_keys_of_an_entry_are_skipped() {
        let json = r#"{"a":{"dtype":"U8","note":{"x":[1]},"shape":[1],"data_offsets":[0,1]}}"#;
        assert_eq!(parse_header(json.as_bytes(), 1).unwrap().entries.len(), 1);
    }
}
