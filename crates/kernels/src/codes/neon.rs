//! Sixteen values as 64 bytes in four registers, and codes as the numbers of bytes.

use super::{Steps, scaled};
use std::arch::aarch64::*;

/// # Safety
/// the steps have a code for every place of `dst`.
pub(super) unsafe fn four(steps: &Steps, dst: &mut [f32]) {
    const SPREAD: [[u8; 16]; 4] = {
        let mut spread = [[0; 16]; 4];
        let mut i = 0;
        while i < 64 {
            spread[i / 16][i % 16] = (i / 4) as u8;
            i += 1;
        }
        spread
    };
    const WITHIN: [u8; 16] = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3];
    let (mut from, mut to) = (steps.bytes.as_ptr(), dst.as_mut_ptr());
    for scale in steps.scales {
        let table = scaled(steps.table, *scale, steps.rounded);
        // SAFETY: a step reads 16 bytes and writes 32 floats; a block is whole steps, and the caller has compared the lengths.
        unsafe {
            let table = vld1q_u8_x4(table.as_ptr().cast());
            let within = vld1q_u8(WITHIN.as_ptr());
            for _ in 0..steps.block / 32 {
                let pairs = vld1q_u8(from);
                let (first, second) = (vshrq_n_u8::<4>(pairs), vandq_u8(pairs, vdupq_n_u8(15)));
                for (half, codes) in [vzip1q_u8(first, second), vzip2q_u8(first, second)].into_iter().enumerate() {
                    let quads = vshlq_n_u8::<2>(codes);
                    for (quarter, spread) in SPREAD.iter().enumerate() {
                        let byte = vaddq_u8(vqtbl1q_u8(quads, vld1q_u8(spread.as_ptr())), within);
                        vst1q_u8(to.add(16 * half + 4 * quarter).cast(), vqtbl4q_u8(table, byte));
                    }
                }
                (from, to) = (from.add(16), to.add(32));
            }
        }
    }
}
