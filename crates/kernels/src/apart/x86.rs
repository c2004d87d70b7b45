//! The same sums in AVX-512 registers: tiles of up to four rows by four rows of the weight, or of up to eight rows by three.

use super::{Held, Kind};
use crate::{Cpu, Dst};
use std::arch::x86_64::*;
use std::ops::Range;

/// Floats of a register.
const WIDE: usize = 16;
const OWN: u8 = 0;
const BF16: u8 = 1;
const F16: u8 = 2;
/// Bytes ahead of what is read, at least, that are asked for: with less, or asked into the first-level cache, the loads of a weight
/// that comes from memory are waited for; a core reads half as fast then. It reaches over the ends of pages, where the
/// hardware's own prefetching stops.
const AHEAD: usize = 16 << 10;

/// Sixteen values from `at`, of which `mask` says how many there are.
///
/// # Safety
/// AVX-512F, BW, VL; the values are readable.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn load<const KIND: u8>(at: *const u8, mask: Option<u16>) -> __m512 {
    // SAFETY: the caller's; masked loads touch only what the mask allows.
    unsafe {
        match (KIND, mask) {
            (OWN, None) => _mm512_loadu_ps(at.cast()),
            (OWN, Some(mask)) => _mm512_maskz_loadu_ps(mask, at.cast()),
            (_, mask) => {
                let two = match mask {
                    None => _mm256_loadu_si256(at.cast()),
                    Some(mask) => _mm256_maskz_loadu_epi16(mask, at.cast()),
                };
                if KIND == BF16 {
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(two)))
                } else {
                    _mm512_cvtph_ps(two)
                }
            }
        }
    }
}

/// The sums of four registers: halves joined until one is left, as in the plain loops.
#[inline]
#[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2")]
fn join(sums: [__m512; 4]) -> __m128 {
    let four = sums.map(|s| {
        let eight = _mm256_add_ps(_mm512_castps512_ps256(s), _mm512_extractf32x8_ps::<1>(s));
        _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight))
    });
    let pair = |a: __m128, b: __m128| _mm_add_ps(_mm_unpacklo_ps(a, b), _mm_unpackhi_ps(a, b));
    let (ab, cd) = (pair(four[0], four[1]), pair(four[2], four[3]));
    _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab))
}

/// `R` rows by `C` rows of a weight; sums that there are none of are zero. `ahead` bytes on lies what is asked for.
///
/// # Safety
/// The features; `x` and `w` point at `k` values each.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn tile<const KIND: u8, const R: usize, const C: usize>(
    x: [*const f32; R],
    w: [*const u8; C],
    k: usize,
    ahead: usize,
) -> [__m128; R] {
    let size = if KIND == OWN { 4 } else { 2 };
    let mut sums = [[_mm512_setzero_ps(); C]; R];
    let full = k - k % WIDE;
    let mut i = 0;
    // SAFETY: `i + 16 <= k` in the loop, and the mask ends at `k` after it; prefetching touches nothing.
    unsafe {
        while i < full {
            let row = w.map(|w| load::<KIND>(w.add(i * size), None));
            if KIND == OWN || i % (2 * WIDE) == 0 {
                w.iter().for_each(|w| _mm_prefetch::<_MM_HINT_T1>(w.wrapping_add(i * size + ahead).cast()));
            }
            for r in 0..R {
                let x = _mm512_loadu_ps(x[r].add(i));
                for c in 0..C {
                    sums[r][c] = _mm512_fmadd_ps(x, row[c], sums[r][c]);
                }
            }
            i += WIDE;
        }
        if i < k {
            let mask = (1u16 << (k - i)) - 1;
            let row = w.map(|w| load::<KIND>(w.add(i * size), Some(mask)));
            for r in 0..R {
                let x = _mm512_maskz_loadu_ps(mask, x[r].add(i));
                for c in 0..C {
                    sums[r][c] = _mm512_fmadd_ps(x, row[c], sums[r][c]);
                }
            }
        }
    }
    let mut joined = [_mm_setzero_ps(); R];
    for r in 0..R {
        let mut four = [_mm512_setzero_ps(); 4];
        four[..C].copy_from_slice(&sums[r]);
        joined[r] = join(four);
    }
    joined
}

/// As [`super::Apart::dots`].
///
/// # Safety
/// The features; shapes fit.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn dots(x: &[&[f32]], w: &Held<'_, f32>, out: Dst<'_, Cpu<f32>, f32>) {
    // SAFETY: the caller's.
    unsafe {
        match w.kind {
            Kind::Own if x.len() <= 4 => dots_of::<OWN, 4>(x, w, out),
            Kind::Own => dots_of::<OWN, 3>(x, w, out),
            Kind::Bf16 if x.len() <= 4 => dots_of::<BF16, 4>(x, w, out),
            Kind::Bf16 => dots_of::<BF16, 3>(x, w, out),
            Kind::F16 if x.len() <= 4 => dots_of::<F16, 4>(x, w, out),
            Kind::F16 => dots_of::<F16, 3>(x, w, out),
        }
    }
}

/// By `C` rows of the weight at a time.
///
/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn dots_of<const KIND: u8, const C: usize>(x: &[&[f32]], w: &Held<'_, f32>, mut dst: Dst<'_, Cpu<f32>, f32>) {
    // Whole groups of rows, so that every line is asked for once.
    let group = (C * w.ld * w.size()).max(1);
    let ahead = AHEAD.next_multiple_of(group);
    for j in (0..w.rows).step_by(C) {
        // A row that is not there is the last one once more; its sums are left out.
        let rows: [*const u8; C] = std::array::from_fn(|c| w.row((j + c).min(w.rows - 1)));
        let some = j..(j + C).min(w.rows);
        let mut first = 0;
        while first < x.len() {
            // SAFETY: every row of `x` has `w.cols` values, as the caller has checked.
            first += unsafe {
                match x.len() - first {
                    1 => tiled::<KIND, 1, C>(&x[first..], rows, (w.cols, ahead), &mut dst, (first, some.clone())),
                    2 => tiled::<KIND, 2, C>(&x[first..], rows, (w.cols, ahead), &mut dst, (first, some.clone())),
                    3 => tiled::<KIND, 3, C>(&x[first..], rows, (w.cols, ahead), &mut dst, (first, some.clone())),
                    4 => tiled::<KIND, 4, C>(&x[first..], rows, (w.cols, ahead), &mut dst, (first, some.clone())),
                    5 => tiled::<KIND, 5, C>(&x[first..], rows, (w.cols, ahead), &mut dst, (first, some.clone())),
                    6 => tiled::<KIND, 6, C>(&x[first..], rows, (w.cols, ahead), &mut dst, (first, some.clone())),
                    7 => tiled::<KIND, 7, C>(&x[first..], rows, (w.cols, ahead), &mut dst, (first, some.clone())),
                    _ => tiled::<KIND, 8, C>(&x[first..], rows, (w.cols, ahead), &mut dst, (first, some.clone())),
                }
            };
        }
    }
}

/// The first `R` rows of `x` by some rows of a weight, into rows from `first` and columns `some` of `dst`; returns `R`.
///
/// # Safety
/// As [`tile`].
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn tiled<const KIND: u8, const R: usize, const C: usize>(
    x: &[&[f32]],
    w: [*const u8; C],
    (k, ahead): (usize, usize),
    dst: &mut Dst<'_, Cpu<f32>, f32>,
    (first, some): (usize, Range<usize>),
) -> usize {
    // SAFETY: the caller's.
    let sums = unsafe { tile::<KIND, R, C>(std::array::from_fn(|r| x[r].as_ptr()), w, k, ahead) };
    for (sums, t) in sums.into_iter().zip(first..) {
        let mut four = [0f32; 4];
        // SAFETY: four floats.
        unsafe { _mm_storeu_ps(four.as_mut_ptr(), sums) };
        for (y, sum) in dst.out.row_mut(t)[some.clone()].iter_mut().zip(four) {
            *y = if dst.add { *y + sum } else { sum };
        }
    }
    R
}

/// As [`super::Apart::mix`].
///
/// # Safety
/// The features; shapes fit.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
pub(super) unsafe fn mix(p: &[&[f32]], w: &Held<'_, f32>, out: Dst<'_, Cpu<f32>, f32>) {
    // SAFETY: the caller's.
    unsafe {
        match w.kind {
            Kind::Own => mix_of::<OWN>(p, w, out),
            Kind::Bf16 => mix_of::<BF16>(p, w, out),
            Kind::F16 => mix_of::<F16>(p, w, out),
        }
    }
}

/// # Safety
/// As [`mix`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn mix_of<const KIND: u8>(p: &[&[f32]], w: &Held<'_, f32>, dst: Dst<'_, Cpu<f32>, f32>) {
    let Dst { mut out, add } = dst;
    for first in (0..w.cols).step_by(4 * WIDE) {
        let left = (w.cols - first).min(4 * WIDE);
        // Which of the strip's four registers' values exist.
        let masks: [u16; 4] = std::array::from_fn(|c| match left.saturating_sub(c * WIDE) {
            0 => 0,
            n if n >= WIDE => u16::MAX,
            n => (1 << n) - 1,
        });
        let mut t = 0;
        while t < p.len() {
            let ys: [*mut f32; 4] = std::array::from_fn(|r| match t + r < p.len() {
                true => out.row_mut(t + r)[first..].as_mut_ptr(),
                false => std::ptr::null_mut(),
            });
            // SAFETY: rows and columns are inside, as the caller has checked; masks end at the last column.
            unsafe {
                match p.len() - t {
                    1 => strip::<KIND, 1>(&p[t..], w, (first, masks), ys, add),
                    2 => strip::<KIND, 2>(&p[t..], w, (first, masks), ys, add),
                    3 => strip::<KIND, 3>(&p[t..], w, (first, masks), ys, add),
                    _ => strip::<KIND, 4>(&p[t..], w, (first, masks), ys, add),
                }
            }
            t += 4;
        }
    }
}

/// `R` rows of up to 64 columns.
///
/// # Safety
/// The features; `ys` point at the columns' places in `R` rows, masks end at the last column.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")]
unsafe fn strip<const KIND: u8, const R: usize>(
    p: &[&[f32]],
    w: &Held<'_, f32>,
    (first, masks): (usize, [u16; 4]),
    ys: [*mut f32; 4],
    add: bool,
) {
    let size = if KIND == OWN { 4 } else { 2 };
    let whole = masks == [u16::MAX; 4];
    // SAFETY: the caller's.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 4]; R];
        if add {
            for r in 0..R {
                for c in 0..4 {
                    sums[r][c] = _mm512_maskz_loadu_ps(masks[c], ys[r].wrapping_add(c * WIDE));
                }
            }
        }
        for j in 0..w.rows {
            let at = w.row(j).wrapping_add(first * size);
            let row: [__m512; 4] = if whole {
                std::array::from_fn(|c| load::<KIND>(at.wrapping_add(c * WIDE * size), None))
            } else {
                std::array::from_fn(|c| load::<KIND>(at.wrapping_add(c * WIDE * size), Some(masks[c])))
            };
            for r in 0..R {
                let p = _mm512_set1_ps(p[r][j]);
                for c in 0..4 {
                    sums[r][c] = _mm512_fmadd_ps(p, row[c], sums[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..4 {
                _mm512_mask_storeu_ps(ys[r].wrapping_add(c * WIDE), masks[c], sums[r][c]);
            }
        }
    }
}
