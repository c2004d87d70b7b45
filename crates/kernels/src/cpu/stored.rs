//! Frozen weights where they lie: mapped from the checkpoint, unpacked a panel of rows at a time.

use super::Cpu;
use crate::{HostTensor, Real, StoredDtype, View};
use half::{bf16, f16};
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
        let bytes = tensor.bytes.bytes().len();
        assert_eq!(
            bytes,
            rows * cols * tensor.dtype.size(),
            "{rows} x {cols} weight of {:?} in {bytes} bytes",
            tensor.dtype
        );
        CpuStored { tensor, rows, cols }
    }

    /// The weight itself when it is stored as `E` and aligned for it.
    pub(crate) fn in_place<E: Real>(&self) -> Option<View<'_, Cpu<E>, E>> {
        let bytes = self.tensor.bytes.bytes();
        let same = match self.tensor.dtype {
            StoredDtype::F32 => TypeId::of::<E>() == TypeId::of::<f32>(),
            StoredDtype::Bf16 | StoredDtype::F16 => false,
        };
        let aligned = bytes.as_ptr() as usize % align_of::<E>() == 0;
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
        let size = self.tensor.dtype.size();
        let bytes = &self.tensor.bytes.bytes()[rows.start * self.cols * size..rows.end * self.cols * size];
        let dst = &mut dst[..(rows.end - rows.start) * self.cols];
        match self.tensor.dtype {
            StoredDtype::F32 => {
                let from = |b: &[u8]| E::of(f64::from(f32::from_le_bytes([b[0], b[1], b[2], b[3]])));
                dst.iter_mut().zip(bytes.chunks_exact(4)).for_each(|(y, b)| *y = from(b));
            }
            StoredDtype::Bf16 => {
                let from = |b: &[u8]| E::of(f64::from(bf16::from_le_bytes([b[0], b[1]]).to_f32()));
                dst.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(y, b)| *y = from(b));
            }
            StoredDtype::F16 => {
                let from = |b: &[u8]| E::of(f64::from(f16::from_le_bytes([b[0], b[1]]).to_f32()));
                dst.iter_mut().zip(bytes.chunks_exact(2)).for_each(|(y, b)| *y = from(b));
            }
        }
    }
}
