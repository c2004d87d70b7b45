//! The same sums in AVX2 registers. A running sum of sixteen takes two of the sixteen registers there are, so a tile has six dot products:
//! of one row by six of the weight, two by three or three by two.

use super::loops::SUMS;
use super::{Held, Kind};
use crate::{Cpu, Dst};
use std::arch::x86_64::*;

/// Floats of a register.
const WIDE: usize = 8;
/// Rows of a weight that are multiplied with all rows before the next ones are looked at.
const GROUP: usize = 6;
/// Values of a row that are taken at a time, at most; of eight rows and a group they stay in the first-level cache. The running sums wait in
/// memory meanwhile.
const DEEP: usize = 448;
/// Bytes ahead of what is read, at least, that are asked for: without it a weight comes from memory at half the rate, or less.
const AHEAD: usize = 16 << 10;
/// Bytes that come from memory at a time.
const LINE: usize = 64;

/// The running sums of one row with a group.
type Sums = [[f32; SUMS]; GROUP];

/// As [`super::Apart::dots`].
///
/// # Safety
/// AVX2 and FMA; shapes fit.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn dots(x: &[&[f32]], w: &Held<'_, f32>, mut dst: Dst<'_, Cpu<f32>, f32>) {
    let deep = w.cols.div_ceil(w.cols.div_ceil(DEEP).max(1)).next_multiple_of(SUMS);
    let blocks = || (0..w.cols).step_by(deep.max(1)).map(|first| first..(first + deep).min(w.cols));
    // A block of all rows lies together: rows apart by a power of two would drive each other from the cache.
    let mut packed = Vec::with_capacity(x.len() * w.cols);
    blocks().for_each(|deep| x.iter().for_each(|row| packed.extend_from_slice(&row[deep.clone()])));
    let mut sums: Vec<Sums> = vec![[[0.0; SUMS]; GROUP]; x.len()];
    let mut scratch = [[0f32; DEEP]; GROUP];
    // Whole groups of rows, so that what is asked for is what comes next.
    let ahead = AHEAD.next_multiple_of((GROUP * w.ld * w.size()).max(1));
    for j in (0..w.rows).step_by(GROUP) {
        sums.as_flattened_mut().as_flattened_mut().fill(0.0);
        // A row that is not there is the last one once more; its sums are left out.
        let rows: [usize; GROUP] = std::array::from_fn(|c| (j + c).min(w.rows - 1));
        for deep in blocks() {
            let x = &packed[deep.start * x.len()..deep.end * x.len()];
            let group: [*const f32; GROUP] = if w.kind == Kind::Own {
                rows.map(|row| w.row(row).cast::<f32>().wrapping_add(deep.start))
            } else {
                let mut scratch = scratch.iter_mut();
                rows.map(|row| {
                    let at = w.row(row).wrapping_add(deep.start * w.size() + ahead);
                    (0..deep.len() * w.size()).step_by(LINE).for_each(|i| ask(at.wrapping_add(i)));
                    scratch.next().map_or(std::ptr::null(), |to| w.read(row, deep.clone(), to).as_ptr())
                })
            };
            // What was unpacked is here; a weight that is used where it lies is asked for while the first rows are multiplied.
            let ahead = if w.kind == Kind::Own { ahead } else { 0 };
            // SAFETY: every row of the group has the block's columns.
            unsafe { each_tile(x, group, (deep.len(), ahead), &mut sums) };
        }
        let some = j..(j + GROUP).min(w.rows);
        for (t, sums) in sums.iter().enumerate() {
            for (y, sums) in dst.out.row_mut(t)[some.clone()].iter_mut().zip(sums) {
                let sum = join(sums);
                *y = if dst.add { *y + sum } else { sum };
            }
        }
    }
}

/// Asks for the line of an address, which need not exist.
#[inline]
fn ask(at: *const u8) {
    // SAFETY: every processor with AVX2 has it; prefetching touches nothing.
    unsafe { _mm_prefetch::<_MM_HINT_T1>(at.cast()) }
}

/// A block of all rows, each `deep` long, by that of a group.
///
/// # Safety
/// AVX2 and FMA; there are as many values at each pointer.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn each_tile(x: &[f32], group: [*const f32; GROUP], (deep, ahead): (usize, usize), sums: &mut [Sums]) {
    let mut t = 0;
    while t < sums.len() {
        let ahead = if t == 0 { ahead } else { 0 };
        let (x, sums) = (&x[t * deep..], &mut sums[t..]);
        // SAFETY: the caller's.
        t += unsafe {
            match sums.len() {
                1 => tiles::<1, 6>(x, group, (deep, ahead), sums),
                2 | 4 => tiles::<2, 3>(x, group, (deep, ahead), sums),
                _ => tiles::<3, 2>(x, group, (deep, ahead), sums),
            }
        };
    }
}

/// The first `R` rows by a group, `C` of it at a time; returns `R`.
///
/// # Safety
/// As [`each_tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn tiles<const R: usize, const C: usize>(
    x: &[f32],
    group: [*const f32; GROUP],
    (deep, ahead): (usize, usize),
    sums: &mut [Sums],
) -> usize {
    let x: [*const f32; R] = std::array::from_fn(|r| x[r * deep..(r + 1) * deep].as_ptr());
    for c in (0..GROUP).step_by(C) {
        // SAFETY: the caller's.
        unsafe { tile::<R, C>(x, std::array::from_fn(|i| group[c + i]), (deep, ahead), sums, c) };
    }
    R
}

/// `R` rows by `C` of a group, from `at` on: each half of the sums in turn, so that sums, values of the weight and of a row fit the registers.
///
/// # Safety
/// As [`each_tile`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const C: usize>(
    x: [*const f32; R],
    w: [*const f32; C],
    (deep, ahead): (usize, usize),
    sums: &mut [Sums],
    at: usize,
) {
    let sums = &mut sums[..R];
    let mut low = [[_mm256_setzero_ps(); C]; R];
    let mut high = low;
    // SAFETY: a sum has sixteen places; `i + 16 <= deep` in the loop, and masked loads after it end at `deep`.
    unsafe {
        for r in 0..R {
            for c in 0..C {
                low[r][c] = _mm256_loadu_ps(sums[r][at + c].as_ptr());
                high[r][c] = _mm256_loadu_ps(sums[r][at + c][WIDE..].as_ptr());
            }
        }
        let (full, mut i) = (deep - deep % SUMS, 0);
        while i < full {
            if ahead > 0 {
                for w in w {
                    ask(w.wrapping_add(i).cast::<u8>().wrapping_add(ahead));
                }
            }
            add_eight(&mut low, x, w, i);
            add_eight(&mut high, x, w, i + WIDE);
            i += SUMS;
        }
        if i < deep {
            add_some(&mut low, x, w, i, deep - i);
            add_some(&mut high, x, w, i + WIDE, (deep - i).saturating_sub(WIDE));
        }
        for r in 0..R {
            for c in 0..C {
                _mm256_storeu_ps(sums[r][at + c].as_mut_ptr(), low[r][c]);
                _mm256_storeu_ps(sums[r][at + c][WIDE..].as_mut_ptr(), high[r][c]);
            }
        }
    }
}

/// Eight values from `i` on of each row, times those of the weight.
///
/// # Safety
/// AVX2 and FMA; they are there.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_eight<const R: usize, const C: usize>(
    sums: &mut [[__m256; C]; R],
    x: [*const f32; R],
    w: [*const f32; C],
    i: usize,
) {
    // SAFETY: the caller's. Loops, as vectors given to closures go through memory.
    unsafe {
        let mut row = [_mm256_setzero_ps(); C];
        for c in 0..C {
            row[c] = _mm256_loadu_ps(w[c].add(i));
        }
        for r in 0..R {
            let x = _mm256_loadu_ps(x[r].add(i));
            for c in 0..C {
                sums[r][c] = _mm256_fmadd_ps(x, row[c], sums[r][c]);
            }
        }
    }
}

/// The first `n` of eight values.
///
/// # Safety
/// AVX2 and FMA; they are there.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_some<const R: usize, const C: usize>(
    sums: &mut [[__m256; C]; R],
    x: [*const f32; R],
    w: [*const f32; C],
    i: usize,
    n: usize,
) {
    // SAFETY: the caller's; masked loads touch what the mask allows.
    unsafe {
        let mask = mask(n);
        for r in 0..R {
            let x = _mm256_maskload_ps(x[r].wrapping_add(i), mask);
            for c in 0..C {
                sums[r][c] = _mm256_fmadd_ps(x, _mm256_maskload_ps(w[c].wrapping_add(i), mask), sums[r][c]);
            }
        }
    }
}

/// The first `n` of eight.
#[inline]
#[target_feature(enable = "avx2")]
fn mask(n: usize) -> __m256i {
    let n = _mm256_set1_epi32(n.min(WIDE) as i32);
    _mm256_cmpgt_epi32(n, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))
}

/// Halves joined until one is left, as in the plain loops.
#[inline]
#[target_feature(enable = "avx2")]
fn join(sums: &[f32; SUMS]) -> f32 {
    // SAFETY: sixteen floats.
    let eight = unsafe { _mm256_add_ps(_mm256_loadu_ps(sums.as_ptr()), _mm256_loadu_ps(sums[WIDE..].as_ptr())) };
    let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
}
