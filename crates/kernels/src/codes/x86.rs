//! Sixteen values in one or two registers, and codes as the numbers of lanes.

use super::{Steps, scaled};
use std::arch::x86_64::*;

/// # Safety
/// AVX-512F; the steps have a code for every place of `dst`.
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2")]
pub(super) unsafe fn four_512(steps: &Steps, dst: &mut [f32]) {
    let (mut from, mut to) = (steps.bytes.as_ptr(), dst.as_mut_ptr());
    let low = _mm_set1_epi8(15);
    for scale in steps.scales {
        let table = scaled(steps.table, *scale, steps.rounded);
        // SAFETY: a step reads 16 bytes and writes 32 floats; a block is whole steps, and the caller has compared the lengths.
        unsafe {
            let table = _mm512_loadu_ps(table.as_ptr());
            for _ in 0..steps.block / 32 {
                let pairs = _mm_loadu_si128(from.cast());
                let (first, second) = (_mm_and_si128(_mm_srli_epi16::<4>(pairs), low), _mm_and_si128(pairs, low));
                let lanes = |x| _mm512_permutexvar_ps(_mm512_cvtepu8_epi32(x), table);
                _mm512_storeu_ps(to, lanes(_mm_unpacklo_epi8(first, second)));
                _mm512_storeu_ps(to.add(16), lanes(_mm_unpackhi_epi8(first, second)));
                (from, to) = (from.add(16), to.add(32));
            }
        }
    }
}

/// As [`four_512`], with the table in two registers.
///
/// # Safety
/// AVX2; lengths as for [`four_512`].
#[target_feature(enable = "avx2")]
pub(super) unsafe fn four_256(steps: &Steps, dst: &mut [f32]) {
    let (mut from, mut to) = (steps.bytes.as_ptr(), dst.as_mut_ptr());
    let low = _mm_set1_epi8(15);
    for scale in steps.scales {
        let table = scaled(steps.table, *scale, steps.rounded);
        // SAFETY: as above.
        unsafe {
            let (below, above) = (_mm256_loadu_ps(table.as_ptr()), _mm256_loadu_ps(table.as_ptr().add(8)));
            for _ in 0..steps.block / 32 {
                let pairs = _mm_loadu_si128(from.cast());
                let (first, second) = (_mm_and_si128(_mm_srli_epi16::<4>(pairs), low), _mm_and_si128(pairs, low));
                let lanes = |x| {
                    let code = _mm256_cvtepu8_epi32(x);
                    // Bit 3 of a code, as the sign, says which half of the table.
                    let half = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(code));
                    let (b, a) = (_mm256_permutevar8x32_ps(below, code), _mm256_permutevar8x32_ps(above, code));
                    _mm256_blendv_ps(b, a, half)
                };
                let (x, y) = (_mm_unpacklo_epi8(first, second), _mm_unpackhi_epi8(first, second));
                _mm256_storeu_ps(to, lanes(x));
                _mm256_storeu_ps(to.add(8), lanes(_mm_srli_si128::<8>(x)));
                _mm256_storeu_ps(to.add(16), lanes(y));
                _mm256_storeu_ps(to.add(24), lanes(_mm_srli_si128::<8>(y)));
                (from, to) = (from.add(16), to.add(32));
            }
        }
    }
}
