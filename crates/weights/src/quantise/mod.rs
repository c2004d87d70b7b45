//! Weights of four and eight bits, as bitsandbytes makes and stores them: NF4, FP4 and row-wise int8.
//!
//! (Dettmers et al. 2022, 2023; arXiv 2208.07339, 2305.14314.) Codes and scales are those of bitsandbytes 0.50 on a CPU, bit for bit.

mod encode;
mod folder;
mod read;
mod scales;
#[cfg(test)]
mod tests;

pub use folder::{QuantiseReport, is_quantisable, quantise_folder};

use std::ops::Range;
use std::sync::Arc;

use kernels::codes::Decode;
use kernels::{Coded, Codes, HostBytes, HostTensor, StoredDtype};

use crate::convert::{self, Element};
use crate::dtype::DType;
use crate::error::Error;
use crate::safetensors::Mapped;

/// What a weight's codes mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    /// Four bits, sixteen values at quantiles of the normal distribution.
    Nf4,
    /// Four bits: sign, two of exponent, one of mantissa.
    Fp4,
    /// Eight bits, evenly spaced; one scale per row.
    Int8,
}

impl Code {
    /// As bitsandbytes and this program's settings call it.
    pub fn name(self) -> &'static str {
        match self {
            Code::Nf4 => "nf4",
            Code::Fp4 => "fp4",
            Code::Int8 => "int8",
        }
    }

    /// The code of that name.
    pub fn of(name: &str) -> Option<Code> {
        [Code::Nf4, Code::Fp4, Code::Int8].into_iter().find(|code| code.name() == name)
    }

    /// What codes of four bits stand for.
    pub(crate) fn table(self) -> [f32; 16] {
        match self {
            Code::Nf4 => NF4,
            Code::Fp4 => FP4.map(|x| x / 12.0),
            Code::Int8 => [0.0; 16],
        }
    }
}

/// `create_normal_map(offset=0.9677083, use_extra_value=True)` of bitsandbytes.
#[allow(clippy::excessive_precision)] // as they are published
const NF4: [f32; 16] = [
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
];
const FP4: [f32; 16] = [0.0, 0.0625, 8.0, 12.0, 4.0, 6.0, 2.0, 3.0, 0.0, -0.0625, -8.0, -12.0, -4.0, -6.0, -2.0, -3.0];

/// How weights are to be quantised.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scheme {
    /// The code.
    pub code: Code,
    /// Whether the scales of four-bit codes are quantised too: 4.127 bits a weight, not 4.5.
    pub nested: bool,
}

impl Scheme {
    /// Elements that share a scale; `None`: a row.
    pub(crate) const BLOCK: usize = 64;

    /// Bytes that a weight of `rows` by `cols` takes.
    pub fn bytes(&self, rows: usize, cols: usize) -> usize {
        let (n, blocks) = (rows * cols, (rows * cols).div_ceil(Scheme::BLOCK));
        match (self.code, self.nested) {
            (Code::Int8, _) => n + 4 * rows,
            (_, false) => n.div_ceil(2) + 4 * blocks,
            (_, true) => n.div_ceil(2) + blocks + 4 * blocks.div_ceil(scales::NESTED_BLOCK),
        }
    }
}

/// A weight in codes: made from a float tensor, or found in a file.
#[derive(Clone)]
pub struct Quantised {
    bytes: Arc<dyn HostBytes>,
    codes: Arc<Codes>,
    code: Code,
    /// Extent of each axis.
    pub shape: Vec<usize>,
    /// The float type it was made from, which values of four bits are rounded to.
    pub dtype: DType,
}

impl Quantised {
    /// Quantises a tensor, block by block in parallel: only codes and scales are ever whole in memory.
    ///
    /// Errors: a tensor of no float type; values that are not finite (for int8: in f16, which bitsandbytes rounds to first).
    pub fn new(tensor: &Mapped, scheme: Scheme) -> Result<Quantised, Error> {
        encode::quantised(tensor, scheme)
    }

    fn stored(&self) -> StoredDtype {
        if self.code == Code::Int8 { StoredDtype::Code8 } else { StoredDtype::Code4 }
    }

    /// What the codes mean.
    pub fn code(&self) -> Code {
        self.code
    }

    /// What the codes stand for.
    pub fn codes(&self) -> &Codes {
        &self.codes
    }

    /// The codes: two in a byte, or one.
    pub fn bytes(&self) -> &[u8] {
        self.bytes.bytes()
    }

    /// Elements.
    pub fn element_count(&self) -> usize {
        self.shape.iter().product()
    }

    /// The elements from `first` on as an operand of products.
    pub fn host(&self, first: usize) -> HostTensor {
        let coded = Coded { codes: self.codes.clone(), first };
        HostTensor { bytes: self.bytes.clone(), dtype: self.stored(), coded: Some(coded) }
    }

    /// The values from element `start` on.
    pub fn read_range<T: Element>(&self, start: usize, out: &mut [T]) {
        let mut piece = [0.0f32; 1024];
        for (i, out) in out.chunks_mut(piece.len()).enumerate() {
            let (first, piece) = (start + i * 1024, &mut piece[..out.len()]);
            f32::decode(self.stored(), self.bytes(), &self.codes, first..first + out.len(), piece);
            convert::convert(piece, out);
        }
    }
}

/// A tensor's values, however they are stored.
#[derive(Clone)]
pub enum Values {
    /// As floats.
    Plain(Mapped),
    /// As codes.
    Quantised(Quantised),
}

impl Values {
    /// Converts `out.len()` values from element `start` on; fails if the tensor does not hold floats.
    pub fn read_range<T: Element>(&self, start: usize, out: &mut [T]) -> Result<(), Error> {
        match self {
            Values::Plain(mapped) => mapped.read_range(start, out),
            Values::Quantised(quantised) => {
                quantised.read_range(start, out);
                Ok(())
            }
        }
    }

    /// Extent of each axis.
    pub fn shape(&self) -> &[usize] {
        match self {
            Values::Plain(mapped) => mapped.shape(),
            Values::Quantised(quantised) => &quantised.shape,
        }
    }

    /// The float type that the values have.
    pub fn dtype(&self) -> DType {
        match self {
            Values::Plain(mapped) => mapped.dtype(),
            Values::Quantised(quantised) => quantised.dtype,
        }
    }

    /// Lets go of physical pages, where the values are mapped.
    pub fn release(&self) {
        if let Values::Plain(mapped) = self {
            mapped.release();
        }
    }
}

/// Bytes of a mapped tensor.
struct InFile(Mapped, Range<usize>);

impl HostBytes for InFile {
    fn bytes(&self) -> &[u8] {
        &self.0.bytes()[self.1.clone()]
    }
}
