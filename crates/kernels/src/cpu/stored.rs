//! Frozen weights where they lie: mapped from the checkpoint, unpacked a panel of rows at a time.

use super::Cpu;
use super::simd::loops;
use crate::{HostTensor, Real, StoredDtype, View};
use half::bf16;
use std::any::TypeId;
use std::marker::PhantomData;
use std::ops::Range;

/// A frozen weight `[rows, cols]` in its storage dtype.
pub struct CpuStored {
    tensor: HostTensor,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

impl CpuStored {
    pub(crate) fn new(tensor: HostTensor, rows: usize, cols: usize) -> CpuStored {
        let (bytes, dtype) = (tensor.bytes.bytes().len(), tensor.dtype);
        let fits = match &tensor.coded {
            None => bytes == dtype.bytes(rows * cols),
            Some(coded) => {
                let end = coded.first + rows * cols;
                let scales = coded.codes.scales.len();
                end.next_multiple_of(dtype.block()) <= bytes * dtype.block() && end <= scales * coded.codes.block
            }
        };
        assert!(fits, "{rows} x {cols} weight of {dtype:?} in {bytes} bytes");
        CpuStored { tensor, rows, cols }
    }

    /// How it is stored.
    pub(crate) fn dtype(&self) -> StoredDtype {
        self.tensor.dtype
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.tensor.bytes.bytes()
    }

    /// The weight itself when it is stored as `E` and aligned for it.
    pub(crate) fn in_place<E: Real>(&self) -> Option<View<'_, Cpu<E>, E>> {
        let bytes = self.tensor.bytes.bytes();
        let same = match self.tensor.dtype {
            StoredDtype::F32 => TypeId::of::<E>() == TypeId::of::<f32>(),
            _ => false,
        };
        let aligned = bytes.as_ptr().cast::<E>().is_aligned();
        // The pointer is read only as `E`, whose size the constructor has multiplied out.
        (same && aligned && cfg!(target_endian = "little")).then(|| View {
            ptr: bytes.as_ptr().cast(),
            rows: self.rows,
            cols: self.cols,
            ld: self.cols,
            tie: PhantomData,
        })
    }

    /// Rows `rows` as `E`, row-major, into the beginning of `dst`.
    pub(crate) fn unpack<E: Real>(&self, rows: Range<usize>, dst: &mut [E]) {
        self.unpack_elements(rows.start * self.cols..rows.end * self.cols, dst);
    }

    /// Columns `cols` of a row as `E`, into the beginning of `dst`.
    pub(crate) fn unpack_part<E: Real>(&self, row: usize, cols: Range<usize>, dst: &mut [E]) {
        assert!(cols.end <= self.cols, "columns {cols:?} of {}", self.cols);
        self.unpack_elements(row * self.cols + cols.start..row * self.cols + cols.end, dst);
    }

    fn unpack_elements<E: Real>(&self, elements: Range<usize>, dst: &mut [E]) {
        let (dtype, dst) = (self.tensor.dtype, &mut dst[..elements.len()]);
        if let Some(coded) = &self.tensor.coded {
            let elements = coded.first + elements.start..coded.first + elements.end;
            return E::decode(dtype, self.tensor.bytes.bytes(), &coded.codes, elements, dst);
        }
        let skipped = elements.start % dtype.block();
        let whole = elements.start - skipped..elements.end.next_multiple_of(dtype.block());
        let bytes = &self.tensor.bytes.bytes()[dtype.bytes(whole.start)..dtype.bytes(whole.end)];
        match dtype {
            StoredDtype::F32 => E::unpack_f32(bytes, dst),
            StoredDtype::Bf16 => E::unpack_bf16(bytes, dst),
            StoredDtype::F16 => E::unpack_f16(bytes, dst),
            StoredDtype::Mxfp4 => E::unpack_mxfp4(bytes, skipped, dst),
            StoredDtype::Code4 | StoredDtype::Code8 => unreachable!("codes come with what they stand for"),
        }
    }
}

/// A weight whose rows have to be unpacked before they can be multiplied.
#[derive(Clone, Copy)]
pub(crate) struct Packed<'a, E> {
    source: Source<'a, E>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

#[derive(Clone, Copy)]
enum Source<'a, E> {
    Stored(&'a CpuStored),
    Half(View<'a, Cpu<E>, bf16>),
}

impl<'a, E: Real> Packed<'a, E> {
    pub(crate) fn stored(stored: &'a CpuStored) -> Packed<'a, E> {
        Packed { source: Source::Stored(stored), rows: stored.rows, cols: stored.cols }
    }

    pub(crate) fn half(view: View<'a, Cpu<E>, bf16>) -> Packed<'a, E> {
        Packed { source: Source::Half(view), rows: view.rows, cols: view.cols }
    }

    /// How it is stored.
    pub(crate) fn dtype(&self) -> StoredDtype {
        match self.source {
            Source::Stored(stored) => stored.dtype(),
            Source::Half(_) => StoredDtype::Bf16,
        }
    }

    /// The address of the first byte; rows follow one another without gaps.
    pub(crate) fn address(&self) -> *const u8 {
        match self.source {
            Source::Stored(stored) => stored.bytes().as_ptr(),
            Source::Half(view) => {
                assert!(view.ld == view.cols, "rows of a weight in bfloat16 lie together");
                view.ptr.cast()
            }
        }
    }

    /// Rows `rows`, row-major, into the beginning of `dst`.
    pub(crate) fn unpack(&self, rows: Range<usize>, dst: &mut [E]) {
        match self.source {
            Source::Stored(stored) => stored.unpack(rows, dst),
            Source::Half(view) => {
                dst.chunks_mut(self.cols.max(1)).zip(rows).for_each(|(dst, row)| E::unpack_halves(view.row(row), dst));
            }
        }
    }

    /// Columns `cols` of a row, into the beginning of `dst`.
    pub(crate) fn unpack_part(&self, row: usize, cols: Range<usize>, dst: &mut [E]) {
        match self.source {
            Source::Stored(stored) => stored.unpack_part(row, cols, dst),
            Source::Half(view) => E::unpack_halves(&view.row(row)[cols], dst),
        }
    }
}

/// The values of MXFP4's codes.
const MXFP4: [f64; 16] = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0];

loops! {
    /// Little-endian bytes to floats.
    trait UnpackLoops {
        fn unpack_f32(bytes: &[u8], dst: &mut [E]) {
            for (y, b) in dst.iter_mut().zip(bytes.chunks_exact(4)) {
                *y = E::of(f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
            }
        }
        fn unpack_bf16(bytes: &[u8], dst: &mut [E]) {
            for (y, b) in dst.iter_mut().zip(bytes.chunks_exact(2)) {
                let bits = u32::from(u16::from_le_bytes([b[0], b[1]])) << 16;
                *y = E::of(f64::from(f32::from_bits(bits)));
            }
        }
        fn unpack_halves(src: &[bf16], dst: &mut [E]) {
            for (y, x) in dst.iter_mut().zip(src) {
                *y = E::of(f64::from(f32::from_bits(u32::from(x.to_bits()) << 16)));
            }
        }
        /// Blocks of 17 bytes; the first `skip` values of the first block are left out.
        fn unpack_mxfp4(blocks: &[u8], skip: usize, dst: &mut [E]) {
            let (mut skip, mut rest) = (skip, dst);
            let mut values = [E::ZERO; 32];
            for block in blocks.chunks_exact(17) {
                let scale = (f64::from(block[0]) - 127.0).exp2();
                let table: [E; 16] = std::array::from_fn(|code| E::of(MXFP4[code] * scale));
                for (pair, byte) in values.chunks_exact_mut(2).zip(&block[1..]) {
                    pair[0] = table[usize::from(byte & 15)];
                    pair[1] = table[usize::from(byte >> 4)];
                }
                let (now, later) = rest.split_at_mut((32 - skip).min(rest.len()));
                now.copy_from_slice(&values[skip..skip + now.len()]);
                (skip, rest) = (0, later);
            }
        }
        /// Exponent and mantissa move into place, and a multiplication by 2^112 corrects the exponent's bias, of
        /// subnormal numbers too; branch-free, so that it vectorises.
        fn unpack_f16(bytes: &[u8], dst: &mut [E]) {
            for (y, b) in dst.iter_mut().zip(bytes.chunks_exact(2)) {
                let bits = u32::from(u16::from_le_bytes([b[0], b[1]]));
                let magnitude = f32::from_bits((bits & 0x7fff) << 13) * f32::from_bits((127 + 112) << 23);
                let infinite = if bits & 0x7c00 == 0x7c00 { 0xff << 23 } else { 0 };
                let value = f32::from_bits(magnitude.to_bits() | infinite | (bits & 0x8000) << 16);
                *y = E::of(f64::from(value));
            }
        }
    }
}
