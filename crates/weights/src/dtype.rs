//! Element types and shapes: what a file says about a tensor.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The element types of the format, under its own names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[allow(non_camel_case_types, missing_docs)]
pub enum DType {
    BOOL,
    F4,
    F6_E2M3,
    F6_E3M2,
    U8,
    I8,
    F8_E5M2,
    F8_E4M3,
    F8_E8M0,
    F8_E4M3FNUZ,
    F8_E5M2FNUZ,
    I16,
    U16,
    F16,
    BF16,
    I32,
    U32,
    F32,
    C64,
    F64,
    I64,
    U64,
}

impl DType {
    /// Width of one element in bits.
    pub fn bits(self) -> usize {
        use DType::*;
        match self {
            F4 => 4,
            F6_E2M3 | F6_E3M2 => 6,
            BOOL | U8 | I8 | F8_E5M2 | F8_E4M3 | F8_E8M0 | F8_E4M3FNUZ | F8_E5M2FNUZ => 8,
            I16 | U16 | F16 | BF16 => 16,
            I32 | U32 | F32 => 32,
            C64 | F64 | I64 | U64 => 64,
        }
    }

    /// Bytes that an element's address must be a multiple of; 1 for types of less than a byte.
    pub fn alignment(self) -> usize {
        match self {
            DType::C64 => 4, // a pair of f32
            other => other.bits().div_ceil(8),
        }
    }

    /// Whether values convert to and from f32 and f64 by [`crate::convert`].
    pub fn is_float(self) -> bool {
        matches!(self, DType::F16 | DType::BF16 | DType::F32 | DType::F64)
    }

    /// The name PyTorch and config.json use for a float type.
    pub fn torch_name(self) -> Option<&'static str> {
        match self {
            DType::F16 => Some("float16"),
            DType::BF16 => Some("bfloat16"),
            DType::F32 => Some("float32"),
            DType::F64 => Some("float64"),
            _ => None,
        }
    }

    /// The inverse of [`DType::torch_name`], with or without the `torch.` in front.
    pub fn from_torch_name(name: &str) -> Option<DType> {
        let name = name.strip_prefix("torch.").unwrap_or(name);
        [DType::F16, DType::BF16, DType::F32, DType::F64].into_iter().find(|d| d.torch_name() == Some(name))
    }
}

impl fmt::Display for DType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What a file says about a tensor: everything but the values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// Name, at most 256 bytes.
    pub name: String,
    /// Element type.
    pub dtype: DType,
    /// Extent of each axis, slowest first; empty for a scalar.
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// Puts the three together.
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<usize>>) -> TensorInfo {
        TensorInfo { name: name.into(), dtype, shape: shape.into() }
    }

    /// Number of elements. Panics where [`TensorInfo::byte_len`] does.
    pub fn element_count(&self) -> usize {
        self.checked_element_count().unwrap_or_else(|| panic!("{}: {:?} elements", self.name, self.shape))
    }

    /// Size of the values in bytes. Panics where a shape of no file overflows; a file's shapes have been checked.
    pub fn byte_len(&self) -> usize {
        self.checked_byte_len().unwrap_or_else(|| panic!("{}: {:?} of {}", self.name, self.shape, self.dtype))
    }

    fn checked_element_count(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |n, &extent| n.checked_mul(extent))
    }

    /// `None` where the size overflows or is no whole number of bytes.
    pub(crate) fn checked_byte_len(&self) -> Option<usize> {
        let bits = self.checked_element_count()?.checked_mul(self.dtype.bits())?;
        (bits % 8 == 0).then_some(bits / 8)
    }
}

/// A tensor in memory that is to be written, values little-endian and row-major.
#[derive(Clone, Copy, Debug)]
pub struct Tensor<'a> {
    /// Name.
    pub name: &'a str,
    /// Element type.
    pub dtype: DType,
    /// Extent of each axis, slowest first.
    pub shape: &'a [usize],
    /// The values.
    pub bytes: &'a [u8],
}
