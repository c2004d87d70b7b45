//! From floats to codes.

use std::sync::Arc;

use half::f16;
use kernels::{Codes, Scales, StoredDtype};
use rayon::prelude::*;

use super::{Code, Quantised, Scheme, scales};
use crate::convert::Element;
use crate::dtype::DType;
use crate::error::Error;
use crate::safetensors::Mapped;

/// Elements that a thread converts at a time: whole blocks and whole bytes.
const CHUNK: usize = 1 << 16;

pub(super) fn quantised(tensor: &Mapped, scheme: Scheme) -> Result<Quantised, Error> {
    if !tensor.dtype().is_float() {
        return Err(tensor.wrong_type("F32, BF16, F16 or F64"));
    }
    let (bytes, scales, block) = match scheme.code {
        Code::Int8 => rows(tensor)?,
        code => blocks(tensor, code)?,
    };
    let rounded = match tensor.dtype() {
        _ if scheme.code == Code::Int8 => StoredDtype::F32,
        DType::BF16 => StoredDtype::Bf16,
        DType::F16 => StoredDtype::F16,
        _ => StoredDtype::F32,
    };
    let nested = scheme.nested && scheme.code != Code::Int8;
    let scales = if nested { scales::nested(&scales) } else { Scales::Plain(scales) };
    let codes = Codes { table: scheme.code.table(), block, scales, rounded };
    Ok(Quantised {
        bytes: Arc::new(bytes),
        codes: Arc::new(codes),
        code: scheme.code,
        shape: tensor.shape().to_vec(),
        dtype: tensor.dtype(),
    })
}

/// Codes, scales, and how many elements share one.
type Encoded = (Vec<u8>, Vec<f32>, usize);

fn blocks(tensor: &Mapped, code: Code) -> Result<Encoded, Error> {
    let n = tensor.info().element_count();
    let (mut bytes, mut scales) = (vec![0; n.div_ceil(2)], vec![0.0; n.div_ceil(Scheme::BLOCK)]);
    let nearest = Nearest::new(code);
    let chunks = bytes.par_chunks_mut(CHUNK / 2).zip(scales.par_chunks_mut(CHUNK / Scheme::BLOCK)).enumerate();
    chunks.try_for_each_init(
        || vec![0.0f32; CHUNK],
        |values, (i, (bytes, scales))| {
            let values = &mut values[..CHUNK.min(n - i * CHUNK)];
            take(tensor, i * CHUNK, values)?;
            let blocks = values.chunks_mut(Scheme::BLOCK).zip(bytes.chunks_mut(Scheme::BLOCK / 2)).zip(scales);
            blocks.for_each(|((values, bytes), scale)| *scale = nearest.block(values, bytes));
            tensor_is_finite(tensor, values)
        },
    )?;
    Ok((bytes, scales, Scheme::BLOCK))
}

/// Reads values that nobody reads again: their pages are let go of, so that a large tensor is not in memory beside its codes.
fn take(tensor: &Mapped, start: usize, values: &mut [f32]) -> Result<(), Error> {
    tensor.read_range(start, values)?;
    tensor.release_range(start..start + values.len());
    Ok(())
}

/// Fails on the first value that is not finite. Scaled blocks that had one hold NaN.
fn tensor_is_finite(tensor: &Mapped, values: &[f32]) -> Result<(), Error> {
    match values.iter().all(|x| x.is_finite()) {
        true => Ok(()),
        false => Err(Error::quantised(tensor.path(), tensor.name(), "a value is not finite and cannot be quantised")),
    }
}

/// Finds the nearest of sixteen values.
struct Nearest {
    /// Codes in the order of what they stand for.
    order: [u8; 16],
    /// Middles between neighbours; a value on one goes to the lower.
    middles: [f32; 15],
}

impl Nearest {
    fn new(code: Code) -> Nearest {
        let order = match code {
            // Both zeros of FP4 stand side by side, the unsigned one first.
            Code::Fp4 => [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3],
            _ => std::array::from_fn(|i| i as u8),
        };
        let value = order.map(|code_| code.table()[usize::from(code_)]);
        Nearest { order, middles: std::array::from_fn(|i| (value[i] + value[i + 1]) / 2.0) }
    }

    /// Codes of a block; `values` are scaled in place, NaN where one is not finite. Returns the scale.
    fn block(&self, values: &mut [f32], bytes: &mut [u8]) -> f32 {
        const SMALLEST: f32 = 1e-38;
        let largest = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let finite = values.iter().all(|x| x.is_finite());
        // The library multiplies whole blocks by a reciprocal and divides the last one when it is shorter.
        let (inverse, whole) = (1.0 / largest.max(SMALLEST), values.len() == Scheme::BLOCK);
        for x in values.iter_mut() {
            let scaled = if whole { *x * inverse } else { *x / largest.max(SMALLEST) };
            *x = if finite { scaled.clamp(-1.0, 1.0) } else { f32::NAN };
        }
        let code = |x: f32| {
            let rank: usize = self.middles.iter().map(|m| usize::from(x > *m)).sum();
            self.order[rank]
        };
        for (byte, pair) in bytes.iter_mut().zip(values.chunks(2)) {
            // A place without a value is filled as the library fills it, with the code of zero.
            *byte = code(pair[0]) << 4 | code(pair.get(1).copied().unwrap_or(0.0));
        }
        if whole { largest } else { largest.max(SMALLEST) }
    }
}

/// Row by row; as the library, from values rounded to f16.
fn rows(tensor: &Mapped) -> Result<Encoded, Error> {
    let (n, cols) = (tensor.info().element_count(), tensor.shape().last().copied().unwrap_or(1).max(1));
    let (mut bytes, mut scales) = (vec![0; n], vec![0.0; n / cols]);
    let rows = (CHUNK / cols).max(1);
    bytes.par_chunks_mut(rows * cols).zip(scales.par_chunks_mut(rows)).enumerate().try_for_each_init(
        || vec![0.0f32; rows * cols],
        |values, (i, (bytes, scales))| {
            let values = &mut values[..bytes.len()];
            take(tensor, i * rows * cols, values)?;
            let rows = values.chunks_mut(cols).zip(bytes.chunks_mut(cols)).zip(scales);
            rows.for_each(|((values, bytes), scale)| *scale = row(values, bytes));
            tensor_is_finite(tensor, values)
        },
    )?;
    Ok((bytes, scales, cols))
}

/// Codes of a row, whose `values` are rounded in place. Returns the scale.
fn row(values: &mut [f32], bytes: &mut [u8]) -> f32 {
    values.iter_mut().for_each(|x| *x = <f16 as Element>::from_f32(*x).to());
    let scale = values.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    // A number by a tensor is, in torch, the number times its reciprocal.
    let factor = 1.0 / scale * 127.0;
    // A row of zeros has no factor: zero times infinity converts to 0.
    let code = |x: &f32| (x * factor).round_ties_even() as i8 as u8;
    bytes.iter_mut().zip(values.iter()).for_each(|(b, x)| *b = code(x));
    scale
}
