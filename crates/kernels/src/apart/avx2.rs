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
/// Rows of a tile, at most.
const TILE: usize = 4;
/// Rows of a weight that are multiplied with all rows before the next ones are looked at.
const GROUP: usize = 3;
/// Values of a row that are taken at a time, at most. The running sums wait in memory meanwhile.
const DEEP: usize = 896;
/// Half as many up to so many rows: their block stays in the first-level cache, for loads that miss it wait in one queue with what is
/// asked for from memory.
const FEW: usize = 16;
/// Bytes ahead of what is multiplied, at least, that are asked for from memory.
const AHEAD: usize = 16 << 10;
/// Rows ahead that are asked for where they lie apart.
const LEAD: usize = 32;
/// Bytes that come from memory at a time.
const LINE: usize = 64;

/// Both halves of the running sums of a tile with a group.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Sums([[[[f32; WIDE]; GROUP]; TILE]; 2]);

/// Some rows and their running sums.
struct Tile {
    rows: usize,
    sums: Sums,
}

/// Eight values each of two packed rows, or of one.
#[derive(Clone, Copy)]
#[repr(align(64))]
struct Line([[f32; WIDE]; 2]);

/// What a thread computes in, from one product to the next.
struct Scratch {
    /// All rows, as [`pack`] lays them.
    packed: Vec<Line>,
    tiles: Vec<Tile>,
    /// A block of a group whose storage has two bytes a value.
    unpacked: [[f32; DEEP]; GROUP],
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { packed: Vec::new(), tiles: Vec::new(), unpacked: [[0.0; DEEP]; GROUP] }) };
}

/// As [`super::Apart::dots`].
///
/// # Safety
/// AVX2 and FMA; shapes fit.
pub(super) unsafe fn dots(x: &[&[f32]], w: &Held<'_, f32>, dst: Dst<'_, Cpu<f32>, f32>) {
    // SAFETY: the caller's.
    SCRATCH.with_borrow_mut(|scratch| unsafe { each_group(x, w, dst, scratch) });
}

/// Cuts `rows` as evenly as tiles allow.
fn cut(rows: usize) -> impl Iterator<Item = Range<usize>> {
    let count = rows.div_ceil(TILE);
    (0..count).map(move |t| t * rows / count..(t + 1) * rows / count)
}

/// # Safety
/// As [`dots`].
#[target_feature(enable = "avx2,fma")]
unsafe fn each_group(x: &[&[f32]], w: &Held<'_, f32>, dst: Dst<'_, Cpu<f32>, f32>, scratch: &mut Scratch) {
    let Scratch { packed, tiles, unpacked } = scratch;
    let most = if x.len() > FEW { DEEP } else { DEEP / 2 };
    let deep = w.cols.div_ceil(w.cols.div_ceil(most).max(1)).next_multiple_of(SUMS);
    tiles.clear();
    tiles.extend(cut(x.len()).map(|rows| Tile { rows: rows.len(), sums: Sums([[[[0.0; WIDE]; GROUP]; TILE]; 2]) }));
    pack(x, w.cols, deep, packed);
    let count = tiles.len();
    let row_bytes = w.ld * w.size();
    let group_bytes = GROUP * row_bytes;
    let dense = w.is_dense();
    let step = if dense { group_bytes.div_ceil((2 * count * w.cols.div_ceil(SUMS)).max(1)) } else { 0 };
    let ahead = if dense { AHEAD.next_multiple_of(group_bytes.max(1)) } else { 0 };
    if ahead < w.rows * row_bytes {
        // What nobody has asked for when the first groups are multiplied.
        (0..ahead).step_by(LINE).for_each(|at| _mm_prefetch::<_MM_HINT_T1>(w.ptr.wrapping_add(at).cast()));
    }
    for j in (0..w.rows).step_by(GROUP) {
        if !dense {
            (j + LEAD..(j + LEAD + GROUP).min(w.rows)).for_each(|j| ask_row(w, j, 0..w.cols));
        }
        let first = w.row(j);
        let mut asks =
            Asks { far: first.wrapping_add(ahead), step, near: first, row_bytes, near_step: SUMS * w.size() };
        let mut x: *const f32 = packed.as_ptr().cast();
        let mut from = 0;
        loop {
            let block = from..(from + deep).min(w.cols);
            let closes = block.end == w.cols;
            let mut at = At {
                x,
                w: group(w, j, block.clone(), unpacked),
                deep: block.len(),
                opens: from == 0,
                closes,
                y: dst.out.ptr.wrapping_add(j),
                ld: dst.out.ld,
                cols: (w.rows - j).min(GROUP),
                add: dst.add,
            };
            asks.near = first.wrapping_add(if closes { group_bytes } else { block.end * w.size() });
            for (t, tile) in tiles.iter_mut().enumerate() {
                // SAFETY: every row of the group has the block's columns, as many of each row are packed, and the results have places.
                unsafe { any_tile(&at, (t, count), &mut asks, tile) };
                at.x = at.x.wrapping_add(tile.rows * block.len().next_multiple_of(SUMS));
                at.y = at.y.wrapping_add(tile.rows * at.ld);
            }
            if closes {
                break;
            }
            (x, from) = (at.x, block.end);
        }
    }
}

/// Asks for columns of a row.
#[inline]
#[target_feature(enable = "avx2")]
fn ask_row(w: &Held<'_, f32>, row: usize, cols: Range<usize>) {
    let row = w.row(row);
    for at in (cols.start * w.size()..cols.end * w.size()).step_by(LINE) {
        _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(at).cast());
    }
}

/// Where the columns `block` of a group's rows are, `j` the first; unpacked, if they have two bytes a value. A row that is not there is
/// the last one once more; its sums are left out.
#[inline]
fn group(w: &Held<'_, f32>, j: usize, block: Range<usize>, unpacked: &mut [[f32; DEEP]; GROUP]) -> [*const f32; GROUP] {
    let mut at = [std::ptr::null(); GROUP];
    for (c, (at, to)) in at.iter_mut().zip(unpacked).enumerate() {
        let row = (j + c).min(w.rows - 1);
        *at = match w.kind {
            Kind::Own => w.row(row).cast::<f32>().wrapping_add(block.start),
            Kind::Bf16 | Kind::F16 => w.read(row, block.clone(), to).as_ptr(),
        };
    }
    at
}

/// Lays out block after block, in it tile after tile, in it one half of every sixteen values and then the other: eight values of
/// each of the tile's rows after the other, zeros after the last. So a tile reads what it needs from one end to the other.
fn pack(x: &[&[f32]], cols: usize, deep: usize, packed: &mut Vec<Line>) {
    packed.resize(x.len() * cols.div_ceil(SUMS), Line([[0.0; WIDE]; 2]));
    let mut eights = packed.iter_mut().flat_map(|line| &mut line.0);
    for first in (0..cols).step_by(deep.max(1)) {
        let end = (first + deep).min(cols);
        for rows in cut(x.len()) {
            for half in [0, WIDE] {
                for at in (first + half..end.next_multiple_of(SUMS)).step_by(SUMS) {
                    for (row, eight) in x[rows.clone()].iter().zip(&mut eights) {
                        match row.get(at..at + WIDE) {
                            Some(all) => eight.copy_from_slice(all),
                            None => {
                                let some = &row[at.min(end)..];
                                eight.fill(0.0);
                                eight[..some.len()].copy_from_slice(some);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// A tile's factors: a block of its rows, as [`pack`] lays them, and of a group.
#[derive(Clone, Copy)]
struct At {
    x: *const f32,
    w: [*const f32; GROUP],
    deep: usize,
    /// Whether it is the first block, and the last.
    opens: bool,
    closes: bool,
    /// Where results go: the first row's, and how far the next row's are.
    y: *mut f32,
    ld: usize,
    /// How many there are in a row.
    cols: usize,
    add: bool,
}

/// What is asked for while a tile is computed.
#[derive(Clone, Copy)]
struct Asks {
    /// From memory into the second-level cache, and how far that goes on with every sixteen values.
    far: *const u8,
    step: usize,
    /// The block that comes next, whose rows lie so far apart, into the first-level cache; and how far that goes on.
    near: *const u8,
    near_step: usize,
    row_bytes: usize,
}

/// Tile `t` of `count` by a group: of the next block, which has three rows, one is asked for with each half of the first tiles, or two where
/// there are only two halves.
///
/// # Safety
/// AVX2 and FMA; there are as many values at each pointer, and places for the results.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn any_tile(at: &At, (t, count): (usize, usize), asks: &mut Asks, tile: &mut Tile) {
    let sums = &mut tile.sums;
    // SAFETY: the caller's.
    unsafe {
        match (tile.rows, count, t) {
            (1, ..) => by_group::<1, 2>(at, 0, asks, sums),
            (2, 1, _) => by_group::<2, 2>(at, 0, asks, sums),
            (3, 1, _) => by_group::<3, 2>(at, 0, asks, sums),
            (_, 1, _) => by_group::<4, 2>(at, 0, asks, sums),
            (2, ..) => by_group::<2, 1>(at, t, asks, sums),
            (3, _, 0..2) => by_group::<3, 1>(at, t, asks, sums),
            (_, _, 0..2) => by_group::<4, 1>(at, t, asks, sums),
            (3, ..) => by_group::<3, 0>(at, t, asks, sums),
            _ => by_group::<4, 0>(at, t, asks, sums),
        }
    }
}

/// `R` rows by a group; `NEAR` rows of the next block are asked for with each half.
///
/// # Safety
/// As [`any_tile`].
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn by_group<const R: usize, const NEAR: usize>(at: &At, t: usize, asks: &mut Asks, sums: &mut Sums) {
    // SAFETY: the caller's.
    unsafe {
        for (half, sums) in sums.0.iter_mut().enumerate() {
            let row = (NEAR * (2 * t + half)).min(GROUP - 1);
            match at.opens {
                true => add_half::<R, NEAR, true>(at, (half, row), asks, sums),
                false => add_half::<R, NEAR, false>(at, (half, row), asks, sums),
            }
        }
        if at.closes {
            close::<R>(at, sums);
        }
    }
}

/// One half of the sums: from nothing, or on from what is there.
///
/// # Safety
/// As [`any_tile`].
#[inline(never)]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_half<const R: usize, const NEAR: usize, const OPENS: bool>(
    at: &At,
    (half, near_row): (usize, usize),
    asks: &mut Asks,
    sums: &mut [[[f32; WIDE]; GROUP]; TILE],
) {
    let full = at.deep / SUMS;
    let x = at.x.wrapping_add(half * R * WIDE * at.deep.div_ceil(SUMS));
    let w = at.w.map(|w| w.wrapping_add(half * WIDE));
    let (mut far, step, near_step) = (asks.far, asks.step, asks.near_step);
    let mut near: [*const u8; NEAR] =
        std::array::from_fn(|n| asks.near.wrapping_add((near_row + n).min(GROUP - 1) * asks.row_bytes));
    let mut all = [[_mm256_setzero_ps(); GROUP]; R];
    // SAFETY: the caller's; prefetching touches nothing, so addresses need not exist; masked loads of the weight end at `deep`.
    unsafe {
        if !OPENS {
            for r in 0..R {
                for c in 0..GROUP {
                    all[r][c] = _mm256_load_ps(sums[r][c].as_ptr());
                }
            }
        }
        for i in 0..full {
            _mm_prefetch::<_MM_HINT_T1>(far.cast());
            if NEAR > 1 {
                // Few tiles for as many lines.
                _mm_prefetch::<_MM_HINT_T1>(far.wrapping_add(LINE).cast());
            }
            far = far.wrapping_add(step);
            for n in 0..NEAR {
                _mm_prefetch::<_MM_HINT_T0>(near[n].cast());
                near[n] = near[n].wrapping_add(near_step);
            }
            let mut row = [_mm256_setzero_ps(); GROUP];
            for c in 0..GROUP {
                row[c] = _mm256_loadu_ps(w[c].add(SUMS * i));
            }
            add_eight(&mut all, x.add(R * WIDE * i), row);
        }
        asks.far = far;
        let rest = at.deep % SUMS;
        if rest > half * WIDE {
            let mask = mask(rest - half * WIDE);
            let mut row = [_mm256_setzero_ps(); GROUP];
            for c in 0..GROUP {
                row[c] = _mm256_maskload_ps(w[c].wrapping_add(SUMS * full), mask);
            }
            add_eight(&mut all, x.add(R * WIDE * full), row);
        }
        for r in 0..R {
            for c in 0..GROUP {
                _mm256_store_ps(sums[r][c].as_mut_ptr(), all[r][c]);
            }
        }
    }
}

/// Joins the sums and hands them out.
///
/// # Safety
/// As [`any_tile`].
#[target_feature(enable = "avx2,fma")]
unsafe fn close<const R: usize>(at: &At, sums: &Sums) {
    let [low, high] = &sums.0;
    for r in 0..R {
        // SAFETY: sums have eight places; results have theirs.
        unsafe {
            let mut row = [_mm256_setzero_ps(); GROUP];
            for c in 0..GROUP {
                row[c] = _mm256_add_ps(_mm256_load_ps(low[r][c].as_ptr()), _mm256_load_ps(high[r][c].as_ptr()));
            }
            let (joined, y) = (join(row), at.y.add(r * at.ld));
            if at.cols == GROUP && !at.add {
                _mm_storel_epi64(y.cast(), _mm_castps_si128(joined));
                _mm_store_ss(y.add(2), _mm_movehl_ps(joined, joined));
                continue;
            }
            let mut all = [0.0; GROUP + 1];
            _mm_storeu_ps(all.as_mut_ptr(), joined);
            for (c, sum) in all.into_iter().enumerate().take(at.cols) {
                let y = y.add(c);
                *y = if at.add { *y + sum } else { sum };
            }
        }
    }
}

/// Eight values of each row times those of the weight.
///
/// # Safety
/// AVX2 and FMA; they are there.
#[inline]
#[target_feature(enable = "avx2,fma")]
unsafe fn add_eight<const R: usize>(sums: &mut [[__m256; GROUP]; R], x: *const f32, row: [__m256; GROUP]) {
    // Loops, as vectors given to closures go through memory.
    for r in 0..R {
        // SAFETY: the caller's.
        let x = unsafe { _mm256_load_ps(x.add(WIDE * r)) };
        for c in 0..GROUP {
            sums[r][c] = _mm256_fmadd_ps(x, row[c], sums[r][c]);
        }
    }
}

/// Rows of a mix that are added up together, by four registers of columns; a row by itself has eight.
const TRIPLE: usize = 3;

/// As [`super::Apart::mix`], for a weight that is stored as it is computed in.
///
/// # Safety
/// AVX2 and FMA; shapes fit.
#[target_feature(enable = "avx2,fma")]
pub(super) unsafe fn mix(p: &[&[f32]], w: &Held<'_, f32>, dst: Dst<'_, Cpu<f32>, f32>) {
    assert!(w.kind == Kind::Own, "values of two bytes");
    let strip = if p.len() == 1 { 8 } else { 4 } * WIDE;
    for first in (0..w.cols).step_by(strip) {
        let cols = first..(first + strip).min(w.cols);
        let whole = cols.len() == strip;
        for (p, t) in p.chunks(TRIPLE).zip((0..).step_by(TRIPLE)) {
            let y = dst.out.ptr.wrapping_add(t * dst.out.ld + first);
            let at = Strip { cols: cols.clone(), y, ld: dst.out.ld, add: dst.add, asks: t == 0 };
            // SAFETY: rows and columns are inside, as the caller has checked.
            unsafe {
                match (p.len(), strip == 8 * WIDE, whole) {
                    (1, true, true) => mix_strip::<1, 8, true>(p, w, at),
                    (1, true, false) => mix_strip::<1, 8, false>(p, w, at),
                    (1, false, _) => mix_strip::<1, 4, false>(p, w, at),
                    (2, _, true) => mix_strip::<2, 4, true>(p, w, at),
                    (2, _, false) => mix_strip::<2, 4, false>(p, w, at),
                    (_, _, true) => mix_strip::<3, 4, true>(p, w, at),
                    (_, _, false) => mix_strip::<3, 4, false>(p, w, at),
                }
            }
        }
    }
}

/// Some columns of a mix.
struct Strip {
    cols: Range<usize>,
    /// Where results go: the first row's, and how far the next row's are.
    y: *mut f32,
    ld: usize,
    add: bool,
    /// Whether nobody has asked for the weight's columns yet.
    asks: bool,
}

/// `R` rows of a strip of at most `C` registers; `WHOLE`: of as many.
///
/// # Safety
/// AVX2 and FMA; results have their places.
#[target_feature(enable = "avx2,fma")]
unsafe fn mix_strip<const R: usize, const C: usize, const WHOLE: bool>(p: &[&[f32]], w: &Held<'_, f32>, at: Strip) {
    let mut masks = [_mm256_setzero_si256(); C];
    for c in 0..C {
        masks[c] = mask(at.cols.len().saturating_sub(c * WIDE));
    }
    let mut all = [[_mm256_setzero_ps(); C]; R];
    // SAFETY: the caller's; masked loads and stores touch what the masks allow.
    unsafe {
        let load = |at: *const f32, c: usize| match WHOLE {
            true => _mm256_loadu_ps(at.add(c * WIDE)),
            false => _mm256_maskload_ps(at.wrapping_add(c * WIDE), masks[c]),
        };
        if at.add {
            for r in 0..R {
                for c in 0..C {
                    all[r][c] = load(at.y.wrapping_add(r * at.ld), c);
                }
            }
        }
        for j in 0..w.rows {
            if at.asks && j + LEAD < w.rows {
                ask_row(w, j + LEAD, at.cols.clone());
            }
            let row = w.row(j).cast::<f32>().wrapping_add(at.cols.start);
            let mut values = [_mm256_setzero_ps(); C];
            for c in 0..C {
                values[c] = load(row, c);
            }
            for r in 0..R {
                let p = _mm256_set1_ps(p[r][j]);
                for c in 0..C {
                    all[r][c] = _mm256_fmadd_ps(p, values[c], all[r][c]);
                }
            }
        }
        for r in 0..R {
            for c in 0..C {
                let y = at.y.wrapping_add(r * at.ld + c * WIDE);
                match WHOLE {
                    true => _mm256_storeu_ps(y, all[r][c]),
                    false => _mm256_maskstore_ps(y, masks[c], all[r][c]),
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

/// The sums of a group, of which two halves are joined: halves are joined until one is left, as in the plain loops.
#[inline]
#[target_feature(enable = "avx2")]
fn join(eights: [__m256; GROUP]) -> __m128 {
    let mut four = [_mm_setzero_ps(); GROUP];
    for c in 0..GROUP {
        four[c] = _mm_add_ps(_mm256_castps256_ps128(eights[c]), _mm256_extractf128_ps::<1>(eights[c]));
    }
    // Of the first two, and of the third twice.
    let two = _mm_add_ps(_mm_movelh_ps(four[0], four[1]), _mm_movehl_ps(four[1], four[0]));
    let third = _mm_add_ps(four[2], _mm_movehl_ps(four[2], four[2]));
    _mm_add_ps(_mm_shuffle_ps::<0b10_00_10_00>(two, third), _mm_shuffle_ps::<0b11_01_11_01>(two, third))
}
