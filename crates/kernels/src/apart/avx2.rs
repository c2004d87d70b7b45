//! The same sums in AVX2 registers. A running sum of sixteen takes two of the sixteen registers there are, so a tile has one half of twelve dot
//! products, of four rows by three of the weight; the other half follows while their values are still near.
//!
//! A weight comes from memory while it is multiplied, and is asked for twice, line by line in its own order and evenly over the tiles: from
//! memory into the second-level cache well ahead, and from there into the first for the tiles that are next. Asked for in bursts, or
//! straight into the first-level cache, whose few places for lines on their way then fill up, the products wait for it.

use super::loops::SUMS;
use super::{Held, Kind};
use crate::{Cpu, Dst};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;

/// Floats of a register.
const WIDE: usize = 8;
/// Rows of a tile.
const TILE: usize = 4;
/// Rows of a weight that are multiplied with all rows before the next ones are looked at.
const GROUP: usize = 3;
/// Values of a row that are taken at a time, at most; of eight rows and two groups they stay in the first-level cache. The running sums wait in
/// memory meanwhile.
const DEEP: usize = 448;
/// Bytes ahead of what is multiplied, at least, that are asked for from memory.
const AHEAD: usize = 16 << 10;
/// Bytes that come from memory at a time.
const LINE: usize = 64;

/// The running sums of one row with a group.
type Sums = [[f32; SUMS]; GROUP];

/// What a thread computes in, from one product to the next.
struct Scratch {
    /// A block of all rows after the other, halves apart.
    packed: Vec<f32>,
    sums: Vec<Sums>,
    /// A block of a group whose storage has two bytes a value.
    unpacked: [[f32; DEEP]; GROUP],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { packed: Vec::new(), sums: Vec::new(), unpacked: [[0.0; DEEP]; GROUP] }) };
}

/// As [`super::Apart::dots`].
///
/// # Safety
/// AVX2 and FMA; shapes fit.
pub(super) unsafe fn dots(x: &[&[f32]], w: &Held<'_, f32>, dst: Dst<'_, Cpu<f32>, f32>) {
    // SAFETY: the caller's.
    SCRATCH.with_borrow_mut(|scratch| unsafe { each_group(x, w, dst, scratch) });
}

/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx2,fma")]
unsafe fn each_group(x: &[&[f32]], w: &Held<'_, f32>, mut dst: Dst<'_, Cpu<f32>, f32>, scratch: &mut Scratch) {
    let Scratch { packed, sums, unpacked } = scratch;
    let deep = w.cols.div_ceil(w.cols.div_ceil(DEEP).max(1)).next_multiple_of(SUMS);
    let blocks = || (0..w.cols).step_by(deep.max(1)).map(|first| first..(first + deep).min(w.cols));
    pack(x, blocks(), packed);
    sums.clear();
    sums.resize(x.len(), [[0.0; SUMS]; GROUP]);
    let row_bytes = w.ld * w.size();
    let group_bytes = GROUP * row_bytes;
    let tiles = 2 * x.len().div_ceil(TILE);
    let step = group_bytes.div_ceil((tiles * w.cols.div_ceil(SUMS)).max(1));
    let ahead = AHEAD.next_multiple_of(group_bytes.max(1));
    if ahead < w.rows * row_bytes {
        // What nobody has asked for when the first groups are multiplied.
        (0..ahead).step_by(LINE).for_each(|at| _mm_prefetch::<_MM_HINT_T1>(w.ptr.wrapping_add(at).cast()));
    }
    for j in (0..w.rows).step_by(GROUP) {
        let first = w.row(j);
        let mut far = first.wrapping_add(ahead);
        for deep in blocks() {
            let place = |c: usize| w.row((j + c).min(w.rows - 1)).wrapping_add(deep.start * w.size()).cast::<f32>();
            let group: [*const f32; GROUP] = match w.kind {
                // A row that is not there is the last one once more; its sums are left out.
                Kind::Own => std::array::from_fn(place),
                Kind::Bf16 | Kind::F16 => {
                    let mut rows = (j..).zip(unpacked.iter_mut());
                    std::array::from_fn(|_| match rows.next() {
                        Some((row, to)) => w.read(row.min(w.rows - 1), deep.clone(), to).as_ptr(),
                        None => std::ptr::null(),
                    })
                }
            };
            let next = if deep.end < w.cols { deep.end * w.size() } else { group_bytes };
            let mut asks = Asks { far, step, near: first.wrapping_add(next), row_bytes, near_step: SUMS * w.size() };
            let x = &packed[deep.start * x.len()..][..deep.len().next_multiple_of(SUMS) * x.len()];
            // SAFETY: every row of the group has the block's columns, and as many of each row are packed.
            unsafe { each_tile(x, group, deep.len(), &mut asks, sums) };
            far = asks.far;
        }
        for (t, sums) in sums.iter_mut().enumerate() {
            let joined = join(sums);
            for (y, sum) in dst.out.row_mut(t)[j..(j + GROUP).min(w.rows)].iter_mut().zip(joined) {
                *y = if dst.add { *y + sum } else { sum };
            }
            *sums = [[0.0; SUMS]; GROUP];
        }
    }
}

/// Lays a block of all rows together, and in it each half of sixteen values by itself, zeros after the last. Rows apart by a power of two
/// would drive each other from the cache; and a tile reads what it needs from one end to the other.
fn pack(x: &[&[f32]], blocks: impl Iterator<Item = Range<usize>>, packed: &mut Vec<f32>) {
    packed.resize(x.iter().map(|row| row.len().next_multiple_of(SUMS)).sum(), 0.0);
    let (mut eights, _) = packed.as_chunks_mut::<WIDE>();
    for block in blocks {
        for half in [0, WIDE] {
            for row in x {
                let (full, rest) = row[block.clone()].as_chunks::<SUMS>();
                let to;
                (to, eights) = eights.split_at_mut(full.len() + usize::from(!rest.is_empty()));
                for (to, sixteen) in to.iter_mut().zip(full) {
                    to.copy_from_slice(&sixteen[half..half + WIDE]);
                }
                if let Some(to) = to.get_mut(full.len()) {
                    let some = &rest[half.min(rest.len())..(half + WIDE).min(rest.len())];
                    to.fill(0.0);
                    to[..some.len()].copy_from_slice(some);
                }
            }
        }
    }
}

/// What is asked for while a tile is computed.
#[derive(Clone, Copy)]
struct Asks {
    /// From memory into the second-level cache, and how far that goes on with every sixteen values.
    far: *const u8,
    step: usize,
    /// The block that comes next, whose rows lie so far apart, into the first-level cache; and how far that goes on.
    near: *const u8,
    row_bytes: usize,
    near_step: usize,
}

/// A block of all rows by that of a group, `deep` values of each.
///
/// # Safety
/// AVX2 and FMA; there are as many values at each pointer, and the halves of each row in `x`, laid out by [`pack`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn each_tile(x: &[f32], group: [*const f32; GROUP], deep: usize, asks: &mut Asks, sums: &mut [Sums]) {
    let wide = deep.div_ceil(SUMS) * WIDE;
    let tiles = 2 * sums.len().div_ceil(TILE);
    let (mut tile, near) = (0, asks.near);
    for (half, x) in x.chunks_exact(wide * sums.len()).enumerate() {
        let group = group.map(|w| w.wrapping_add(half * WIDE));
        let deep = (deep, half * WIDE);
        for (x, sums) in x.chunks(wide * TILE).zip(sums.chunks_mut(TILE)) {
            // One row of the next block with each of the first tiles, or all of them where there are only two.
            asks.near = near.wrapping_add(tile % GROUP * asks.row_bytes);
            // SAFETY: the caller's.
            unsafe {
                match tile {
                    _ if tiles < GROUP => {
                        asks.near = near;
                        rows::<GROUP>(x, group, deep, asks, sums);
                    }
                    0..GROUP => rows::<1>(x, group, deep, asks, sums),
                    _ => rows::<0>(x, group, deep, asks, sums),
                }
            }
            tile += 1;
        }
    }
}

/// One to four rows.
///
/// # Safety
/// As [`each_tile`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn rows<const NEAR: usize>(
    x: &[f32],
    w: [*const f32; GROUP],
    deep: (usize, usize),
    asks: &mut Asks,
    sums: &mut [Sums],
) {
    // SAFETY: the caller's.
    unsafe {
        match sums.len() {
            1 => tile::<1, NEAR>(x, w, deep, asks, sums),
            2 => tile::<2, NEAR>(x, w, deep, asks, sums),
            3 => tile::<3, NEAR>(x, w, deep, asks, sums),
            _ => tile::<4, NEAR>(x, w, deep, asks, sums),
        }
    }
}

/// One half of the sums of `R` rows by a group, those from `half` on; `NEAR` rows of the next block are asked for meanwhile.
///
/// # Safety
/// As [`each_tile`]; `w` points at the half's first values, of `deep` less `half`.
#[target_feature(enable = "avx2,fma")]
unsafe fn tile<const R: usize, const NEAR: usize>(
    x: &[f32],
    w: [*const f32; GROUP],
    (deep, half): (usize, usize),
    asks: &mut Asks,
    sums: &mut [Sums],
) {
    let sums = &mut sums[..R];
    let wide = x.len() / R;
    let x: [*const f32; R] = std::array::from_fn(|r| x[r * wide..(r + 1) * wide].as_ptr());
    let mut all = [[_mm256_setzero_ps(); GROUP]; R];
    // SAFETY: a sum has sixteen places, `half` is 0 or 8; the rows have a place for each eight, and masked loads of the weight end at `deep`.
    unsafe {
        for r in 0..R {
            for c in 0..GROUP {
                all[r][c] = _mm256_loadu_ps(sums[r][c][half..].as_ptr());
            }
        }
        let full = deep / SUMS;
        let mut next = *asks;
        for i in 0..full {
            next.for_sixteen::<NEAR>();
            let mut row = [_mm256_setzero_ps(); GROUP];
            for c in 0..GROUP {
                row[c] = _mm256_loadu_ps(w[c].add(SUMS * i));
            }
            add_eight(&mut all, x, row, i);
        }
        asks.far = next.far;
        if deep % SUMS > half {
            let mask = mask(deep % SUMS - half);
            let mut row = [_mm256_setzero_ps(); GROUP];
            for c in 0..GROUP {
                row[c] = _mm256_maskload_ps(w[c].wrapping_add(SUMS * full), mask);
            }
            add_eight(&mut all, x, row, full);
        }
        for r in 0..R {
            for c in 0..GROUP {
                _mm256_storeu_ps(sums[r][c][half..].as_mut_ptr(), all[r][c]);
            }
        }
    }
}

impl Asks {
    /// The share of sixteen values.
    #[inline(always)]
    fn for_sixteen<const NEAR: usize>(&mut self) {
        // SAFETY: every processor with AVX2 has it; prefetching touches nothing, so addresses need not exist.
        unsafe {
            _mm_prefetch::<_MM_HINT_T1>(self.far.cast());
            if NEAR > 1 {
                // Few tiles for as many lines.
                _mm_prefetch::<_MM_HINT_T1>(self.far.wrapping_add(LINE).cast());
            }
            for c in 0..NEAR {
                _mm_prefetch::<_MM_HINT_T0>(self.near.wrapping_add(c * self.row_bytes).cast());
            }
        }
        self.far = self.far.wrapping_add(self.step);
        self.near = self.near.wrapping_add(self.near_step);
    }
}

/// Eight values of each row, number `i`, times those of the weight.
///
/// # Safety
/// AVX2 and FMA; they are there.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_eight<const R: usize>(
    sums: &mut [[__m256; GROUP]; R],
    x: [*const f32; R],
    row: [__m256; GROUP],
    i: usize,
) {
    // Loops, as vectors given to closures go through memory.
    for r in 0..R {
        // SAFETY: the caller's.
        let x = unsafe { _mm256_loadu_ps(x[r].add(WIDE * i)) };
        for c in 0..GROUP {
            sums[r][c] = _mm256_fmadd_ps(x, row[c], sums[r][c]);
        }
    }
}

/// Columns of a mix that are added up together: four registers for each of [`PAIR`] rows, and four of the weight.
const STRIP: usize = 4 * WIDE;
const PAIR: usize = 2;

/// As [`super::Apart::mix`], for a weight that is stored as it is computed in.
///
/// # Safety
/// AVX2 and FMA; shapes fit.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn mix(p: &[&[f32]], w: &Held<'_, f32>, dst: Dst<'_, Cpu<f32>, f32>) {
    assert!(w.kind == Kind::Own, "values of two bytes");
    let Dst { mut out, add } = dst;
    for first in (0..w.cols).step_by(STRIP) {
        let left = (w.cols - first).min(STRIP);
        for (p, t) in p.chunks(PAIR).zip((0..).step_by(PAIR)) {
            let y = |r: usize| out.row_mut((t + r).min(t + p.len() - 1))[first..].as_mut_ptr();
            let ys: [*mut f32; PAIR] = [0, 1].map(y);
            // SAFETY: rows and columns are inside, as the caller has checked.
            unsafe {
                match (p.len(), left) {
                    (PAIR, STRIP) => strip::<PAIR, true>(p, w, (first, left), ys, add),
                    (PAIR, _) => strip::<PAIR, false>(p, w, (first, left), ys, add),
                    (_, STRIP) => strip::<1, true>(p, w, (first, left), ys, add),
                    _ => strip::<1, false>(p, w, (first, left), ys, add),
                }
            }
        }
    }
}

/// `R` rows of a strip's first `left` columns; all, if it is whole.
///
/// # Safety
/// AVX2 and FMA; `ys` point at as many values in each row.
#[target_feature(enable = "avx2,fma")]
unsafe fn strip<const R: usize, const WHOLE: bool>(
    p: &[&[f32]],
    w: &Held<'_, f32>,
    (first, left): (usize, usize),
    ys: [*mut f32; PAIR],
    add: bool,
) {
    const REGISTERS: usize = STRIP / WIDE;
    let mut masks = [_mm256_setzero_si256(); REGISTERS];
    for c in 0..REGISTERS {
        masks[c] = mask(left.saturating_sub(c * WIDE));
    }
    let mut all = [[_mm256_setzero_ps(); REGISTERS]; R];
    // SAFETY: the caller's; masked loads and stores touch what the masks allow.
    unsafe {
        let load = |at: *const f32, c: usize| match WHOLE {
            true => _mm256_loadu_ps(at.add(c * WIDE)),
            false => _mm256_maskload_ps(at.wrapping_add(c * WIDE), masks[c]),
        };
        for r in 0..R {
            for c in 0..REGISTERS {
                if add {
                    all[r][c] = load(ys[r], c);
                }
            }
        }
        for j in 0..w.rows {
            let at = w.row(j).cast::<f32>().wrapping_add(first);
            let mut row = [_mm256_setzero_ps(); REGISTERS];
            for c in 0..REGISTERS {
                row[c] = load(at, c);
            }
            for r in 0..R {
                let p = _mm256_set1_ps(p[r][j]);
                for c in 0..REGISTERS {
                    all[r][c] = _mm256_fmadd_ps(p, row[c], all[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..REGISTERS {
                match WHOLE {
                    true => _mm256_storeu_ps(ys[r].add(c * WIDE), all[r][c]),
                    false => _mm256_maskstore_ps(ys[r].wrapping_add(c * WIDE), masks[c], all[r][c]),
                }
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

/// The sums of a group: halves joined until one is left, as in the plain loops.
#[inline]
#[target_feature(enable = "avx2")]
fn join(sums: &Sums) -> [f32; GROUP] {
    let mut four = [_mm_setzero_ps(); GROUP + 1];
    for (four, sums) in four.iter_mut().zip(sums) {
        // SAFETY: sixteen floats.
        let eight = unsafe { _mm256_add_ps(_mm256_loadu_ps(sums.as_ptr()), _mm256_loadu_ps(sums[WIDE..].as_ptr())) };
        *four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
    }
    let ab = _mm_add_ps(_mm_unpacklo_ps(four[0], four[1]), _mm_unpackhi_ps(four[0], four[1]));
    let cd = _mm_add_ps(_mm_unpacklo_ps(four[2], four[3]), _mm_unpackhi_ps(four[2], four[3]));
    let joined = _mm_add_ps(_mm_movelh_ps(ab, cd), _mm_movehl_ps(cd, ab));
    let mut all = [0.0; GROUP + 1];
    // SAFETY: four floats.
    unsafe { _mm_storeu_ps(all.as_mut_ptr(), joined) };
    [all[0], all[1], all[2]]
}
