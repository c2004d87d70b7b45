//! MXFP4 as the released GPT-OSS files have it: codes in one tensor, scales in another.

use super::CHUNK;
use crate::Error;
use kernels::{HostTensor, StoredDtype};
use std::sync::Arc;
use weights::{DType, Mapped};

/// Values that share a scale.
pub(super) const BLOCK: usize = 32;

/// Codes and scales block by block, as the product reads them; four and a quarter bits a value.
pub(super) fn joined(blocks: &Mapped, scales: &Mapped) -> Result<HostTensor, Error> {
    for tensor in [blocks, scales] {
        if tensor.dtype() != DType::U8 {
            return Err(Error::Dtype { tensor: tensor.name().to_owned(), found: format!("{:?}", tensor.dtype()) });
        }
    }
    let mut bytes = Vec::with_capacity(blocks.bytes().len() + scales.bytes().len());
    blocks.in_pieces(CHUNK, |range| {
        let scales = &scales.bytes()[range.start / (BLOCK / 2)..];
        for (block, scale) in blocks.bytes()[range].chunks_exact(BLOCK / 2).zip(scales) {
            bytes.push(*scale);
            bytes.extend_from_slice(block);
        }
    });
    Ok(HostTensor::new(Arc::new(bytes), StoredDtype::Mxfp4))
}
