//! MXFP4 as the released GPT-OSS files have it: 32 values share a power of two, each has four bits.

use crate::Error;
use half::bf16;
use kernels::{HostTensor, StoredDtype};
use std::sync::Arc;
use weights::{DType, Mapped};

/// Values that share a scale.
pub(super) const BLOCK: usize = 32;

/// The values of the four-bit codes without their sign, bit 3.
const CODES: [f32; 8] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0];

/// All values in order: of a byte the low half comes first; a scale byte `s` is `2^(s - 127)`.
pub(super) fn unpack(blocks: &Mapped, scales: &Mapped) -> Result<HostTensor, Error> {
    for tensor in [blocks, scales] {
        if tensor.dtype() != DType::U8 {
            return Err(Error::Dtype { tensor: tensor.name().to_owned(), found: format!("{:?}", tensor.dtype()) });
        }
    }
    let mut bytes = Vec::with_capacity(4 * blocks.bytes().len());
    for (block, scale) in blocks.bytes().chunks_exact(BLOCK / 2).zip(scales.bytes()) {
        // In double precision, so that no scale is out of range before the product is rounded.
        let scale = f64::from(*scale) - 127.0;
        let table: [[u8; 2]; 16] = std::array::from_fn(|code| {
            let value = f64::from(CODES[code & 7]) * scale.exp2();
            bf16::from_f64(if code & 8 == 0 { value } else { -value }).to_le_bytes()
        });
        for byte in block {
            bytes.extend(table[usize::from(byte & 15)]);
            bytes.extend(table[usize::from(byte >> 4)]);
        }
    }
    Ok(HostTensor { bytes: Arc::new(bytes), dtype: StoredDtype::Bf16 })
}
