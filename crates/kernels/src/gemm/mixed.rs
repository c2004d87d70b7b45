//! Mixed precision: products whose factors are rounded to bfloat16 and whose sums are f32, where the processor multiplies pairs of
//! them (AVX-512 BF16: twice as many multiplications in an instruction).
//!
//! Both factors are copied into panels block by block: rows of the left one as pairs that are neighbours along the inner
//! dimension, and of the right one the pairs of [`COLS`] columns side by side. A sum has its terms in the order of the inner
//! dimension, in blocks of [`INNER`], so its bits do not depend on the rows and columns beside it, nor on threads.

use super::cpu::Operand;
use crate::{Cpu, Dst};

/// Length of the inner dimension of a block.
const INNER: usize = 256;
/// Rows of a tile of sums, which stays in registers.
const ROWS: usize = 14;
/// Columns of it: two registers.
const COLS: usize = 32;
/// Rows and columns whose panels are held at a time: 112 and 512 KiB, together within a core's second-level cache.
const HELD: (usize, usize) = (16 * ROWS, 32 * COLS);
/// A product with a side shorter than this is computed as it stands: a rank, mostly, and its tile would be mostly empty.
const LEAST: usize = 32;

/// One product `dst (+)= alpha * lhs rhs`, with an inner length.
pub struct Factors<'a, E> {
    #[cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
    // read by the function, which other processors do not have
    pub(crate) alpha: E,
    pub(crate) lhs: Operand<E>,
    pub(crate) rhs: Operand<E>,
    pub(crate) k: usize,
    pub(crate) dst: Dst<'a, Cpu<E>, E>,
}

impl<E> Factors<'_, E> {
    /// Whether the product is worth rounding, and lies as the panels want it.
    pub(crate) fn fits(&self) -> bool {
        let long = self.k.min(self.dst.out.rows).min(self.dst.out.cols) >= LEAST;
        long && self.rhs.strides().1 == 1 && (self.lhs.strides().0 == 1 || self.lhs.strides().1 == 1)
    }

    /// Words of scratch memory that it needs.
    pub(crate) fn scratch(&self) -> usize {
        let rows = self.dst.out.rows.next_multiple_of(16).min(HELD.0);
        let cols = self.dst.out.cols.next_multiple_of(COLS).min(HELD.1);
        (rows + cols) * INNER / 2
    }
}

/// Computes a product with scratch memory of [`Factors::scratch`].
///
/// # Safety
/// As for every product: the operands have as many rows and columns as the result and the inner length say.
pub(crate) type Mixed<E> = unsafe fn(Factors<E>, &mut [f32]);

/// Floats that may be multiplied in mixed precision.
pub trait Mix: Sized {
    /// The function, where this processor has one.
    fn mixed() -> Option<Mixed<Self>>;
}

impl Mix for f32 {
    fn mixed() -> Option<Mixed<f32>> {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx512bf16")
            && is_x86_feature_detected!("avx512bw")
            && crate::cpu::simd::isa() == crate::cpu::simd::Isa::Avx512
        {
            return Some(x86::product);
        }
        None
    }
}

impl Mix for f64 {
    /// Never: it is what others are compared with.
    fn mixed() -> Option<Mixed<f64>> {
        None
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::super::turn::{TURNED, Turn};
    use super::{COLS, Factors, HELD, INNER, Operand, ROWS};
    use std::arch::x86_64::*;

    /// Pairs of a row of a panel.
    const PAIRS: usize = INNER / 2;

    /// [`super::Mixed`].
    pub(super) unsafe fn product(factors: Factors<f32>, scratch: &mut [f32]) {
        // SAFETY: whoever has the function has looked for the features; the rest is the caller's promise.
        unsafe { blocks(factors, scratch) }
    }

    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2")]
    unsafe fn blocks(factors: Factors<f32>, scratch: &mut [f32]) {
        let Factors { alpha, lhs, rhs, k, dst } = factors;
        let (rows, cols, ld) = (dst.out.rows, dst.out.cols, dst.out.ld);
        let held_cols = cols.next_multiple_of(COLS).min(HELD.1);
        let (right, left) = scratch.split_at_mut(held_cols * PAIRS);
        for inner in (0..k).step_by(INNER) {
            let depth = INNER.min(k - inner);
            let add = dst.add || inner > 0;
            for first_col in (0..cols).step_by(HELD.1) {
                let n = HELD.1.min(cols - first_col);
                // SAFETY: block by block within the operands; panels as large as `Factors::scratch` says.
                unsafe { pack_right(rhs.at(inner, first_col), (depth, n), right) };
                for first_row in (0..rows).step_by(HELD.0) {
                    let m = HELD.0.min(rows - first_row);
                    // SAFETY: as above.
                    unsafe { pack_left(lhs.at(first_row, inner), (m, depth), left) };
                    let tile = |row: usize, col: usize| Tile {
                        // SAFETY: inside the result.
                        sums: unsafe { dst.out.ptr.add((first_row + row) * ld + first_col + col) },
                        ld,
                        cols: COLS.min(n - col),
                        add,
                        alpha,
                    };
                    for (col, right) in (0..n).step_by(COLS).zip(right.chunks_exact(COLS * PAIRS)) {
                        for row in (0..m).step_by(ROWS) {
                            let left = &left[row * PAIRS..];
                            // SAFETY: `m - row` rows of the left panel, a whole group of the right one, and their tile.
                            unsafe { tile(row, col).compute((m - row).min(ROWS), left, right, depth.div_ceil(2)) };
                        }
                    }
                }
            }
        }
    }

    /// Where the sums of a tile go.
    struct Tile {
        sums: *mut f32,
        ld: usize,
        cols: usize,
        add: bool,
        alpha: f32,
    }

    impl Tile {
        /// # Safety
        /// `rows` rows and `pairs` pairs are in both panels, and the tile is in the result.
        #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2")]
        unsafe fn compute(&self, rows: usize, left: &[f32], right: &[f32], pairs: usize) {
            assert!(left.len() >= (rows - 1) * PAIRS + pairs && right.len() >= pairs * COLS, "panels of {pairs} pairs");
            let (left, right) = (left.as_ptr(), right.as_ptr());
            // SAFETY: the caller's promise, and the assertion.
            unsafe {
                match rows {
                    1 => self.sums_of::<1>(left, right, pairs),
                    2 => self.sums_of::<2>(left, right, pairs),
                    3 => self.sums_of::<3>(left, right, pairs),
                    4 => self.sums_of::<4>(left, right, pairs),
                    5 => self.sums_of::<5>(left, right, pairs),
                    6 => self.sums_of::<6>(left, right, pairs),
                    7 => self.sums_of::<7>(left, right, pairs),
                    8 => self.sums_of::<8>(left, right, pairs),
                    9 => self.sums_of::<9>(left, right, pairs),
                    10 => self.sums_of::<10>(left, right, pairs),
                    11 => self.sums_of::<11>(left, right, pairs),
                    12 => self.sums_of::<12>(left, right, pairs),
                    13 => self.sums_of::<13>(left, right, pairs),
                    14 => self.sums_of::<14>(left, right, pairs),
                    _ => unreachable!("at most {ROWS} rows"),
                }
            }
        }

        /// # Safety
        /// As [`Tile::compute`], for `N` rows.
        #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2")]
        unsafe fn sums_of<const N: usize>(&self, left: *const f32, right: *const f32, pairs: usize) {
            let mut sums = [[_mm512_setzero_ps(); 2]; N];
            for pair in 0..pairs {
                // SAFETY: within the panels.
                unsafe {
                    let right = right.add(pair * COLS);
                    let b = [as_pairs(_mm512_loadu_ps(right)), as_pairs(_mm512_loadu_ps(right.add(16)))];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let a = as_pairs(_mm512_set1_ps(*left.add(r * PAIRS + pair)));
                        sums[0] = _mm512_dpbf16_ps(sums[0], a, b[0]);
                        sums[1] = _mm512_dpbf16_ps(sums[1], a, b[1]);
                    }
                }
            }
            let alpha = _mm512_set1_ps(self.alpha);
            for (r, sums) in sums.iter().enumerate() {
                for (half, sums) in sums.iter().enumerate() {
                    let mask = lanes(self.cols.saturating_sub(16 * half));
                    // SAFETY: the columns of the mask are in the result.
                    unsafe {
                        let at = self.sums.wrapping_add(r * self.ld + 16 * half);
                        let before = if self.add { _mm512_maskz_loadu_ps(mask, at) } else { _mm512_setzero_ps() };
                        _mm512_mask_storeu_ps(at, mask, _mm512_fmadd_ps(alpha, *sums, before));
                    }
                }
            }
        }
    }

    /// A mask of the first lanes.
    fn lanes(count: usize) -> u16 {
        if count >= 16 { u16::MAX } else { (1 << count) - 1 }
    }

    #[target_feature(enable = "avx512f")]
    fn as_pairs(x: __m512) -> __m512bh {
        // SAFETY: both are 512 bits of plain numbers.
        unsafe { std::mem::transmute(x) }
    }

    /// Sixteen values and the sixteen below them along the inner dimension, as pairs.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2")]
    fn paired(upper: __m512, lower: __m512) -> __m512 {
        #[rustfmt::skip]
        let places = _mm512_set_epi16(
            31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0,
        );
        // SAFETY: both are 512 bits of plain numbers.
        let rounded: __m512i = unsafe { std::mem::transmute(_mm512_cvtne2ps_pbh(lower, upper)) };
        _mm512_castsi512_ps(_mm512_permutexvar_epi16(places, rounded))
    }

    /// Groups of [`COLS`] columns: pair by pair, a group's columns side by side; zero beyond the last.
    ///
    /// # Safety
    /// `depth` x `cols` elements are at `from`, columns side by side.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2")]
    unsafe fn pack_right(from: Operand<f32>, (depth, cols): (usize, usize), panel: &mut [f32]) {
        for (first, group) in (0..cols).step_by(COLS).zip(panel.chunks_exact_mut(COLS * PAIRS)) {
            for (pair, pairs) in group.chunks_exact_mut(COLS).take(depth.div_ceil(2)).enumerate() {
                for (half, pairs) in pairs.chunks_exact_mut(16).enumerate() {
                    let col = first + 16 * half;
                    let mask = lanes(cols.saturating_sub(col));
                    // SAFETY: masked to the columns there are; the second of a last pair may be missing.
                    unsafe {
                        let upper = _mm512_maskz_loadu_ps(mask, from.pointer(2 * pair, col));
                        let mask = if 2 * pair + 1 < depth { mask } else { 0 };
                        let lower = _mm512_maskz_loadu_ps(mask, from.pointer(2 * pair + 1, col));
                        _mm512_storeu_ps(pairs.as_mut_ptr(), paired(upper, lower));
                    }
                }
            }
        }
    }

    /// Rows, each with its pairs one after the other.
    ///
    /// # Safety
    /// `rows` x `depth` elements are at `from`, rows or columns side by side.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2")]
    unsafe fn pack_left(from: Operand<f32>, (rows, depth): (usize, usize), panel: &mut [f32]) {
        if from.strides().1 != 1 {
            // SAFETY: the caller's promise.
            return unsafe { pack_left_turned(from, (rows, depth), panel) };
        }
        for (row, pairs) in panel.chunks_exact_mut(PAIRS).take(rows).enumerate() {
            for (at, pairs) in (0..depth).step_by(32).zip(pairs.chunks_exact_mut(16)) {
                // SAFETY: masked to the elements there are.
                unsafe {
                    let from = from.pointer(row, at);
                    let first = _mm512_maskz_loadu_ps(lanes(depth - at), from);
                    let then = _mm512_maskz_loadu_ps(lanes((depth - at).saturating_sub(16)), from.wrapping_add(16));
                    let rounded: __m512 = std::mem::transmute(_mm512_cvtne2ps_pbh(then, first));
                    _mm512_storeu_ps(pairs.as_mut_ptr(), rounded);
                }
            }
        }
    }

    /// [`pack_left`] of a matrix whose rows are side by side: sixteen rows by sixteen pairs at a time.
    ///
    /// # Safety
    /// `rows` x `depth` elements are at `from`, rows side by side.
    #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx512bw,avx512bf16,avx2")]
    unsafe fn pack_left_turned(from: Operand<f32>, (rows, depth): (usize, usize), panel: &mut [f32]) {
        for row in (0..rows).step_by(16) {
            let mask = lanes(rows - row);
            for pair in (0..depth.div_ceil(2)).step_by(TURNED) {
                let mut block = [[0_f32; 16]; TURNED];
                for (at, pairs) in (2 * pair..depth).step_by(2).zip(&mut block) {
                    // SAFETY: masked to the rows there are; the second of a last pair may be missing.
                    unsafe {
                        let upper = _mm512_maskz_loadu_ps(mask, from.pointer(row, at));
                        let mask = if at + 1 < depth { mask } else { 0 };
                        let lower = _mm512_maskz_loadu_ps(mask, from.pointer(row, at + 1));
                        _mm512_storeu_ps(pairs.as_mut_ptr(), paired(upper, lower));
                    }
                }
                let block: [&[f32]; TURNED] = std::array::from_fn(|i| &block[i][..]);
                f32::turn_rows(&block, &mut panel[row * PAIRS + pair..], PAIRS);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Gemm, Memory, Weight};
    use half::bf16;

    fn noise(len: usize, seed: u32) -> Vec<f32> {
        let step = |x: u32| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let mut state = seed;
        let next = || {
            state = step(state);
            (state >> 8) as f32 / (1 << 23) as f32 - 1.0
        };
        std::iter::repeat_with(next).take(len).collect()
    }

    fn rounded(x: &[f32]) -> Vec<f64> {
        x.iter().map(|x| bf16::from_f32(*x).to_f64()).collect()
    }

    /// Largest error of each kind of product beside f64's of the rounded factors, as a share of the sum of sizes.
    fn errors(cpu: &Cpu<f32>, (t, i, o): (usize, usize, usize)) -> [f64; 3] {
        let (x, w, dy) = (noise(t * i, 1), noise(o * i, 2), noise(t * o, 3));
        let [xm, wm, dym] = [(t, i, &x), (o, i, &w), (t, o, &dy)].map(|(r, c, v)| cpu.from_host(r, c, v));
        let (mut y, mut dx, mut dw) = (cpu.zeros(t, o), cpu.zeros(t, i), cpu.zeros(o, i));
        cpu.linear(0.5, xm.view(), Weight::Param(wm.view()), y.out());
        // Half of it, twice: what is there is kept.
        (0..2).for_each(|_| cpu.linear_dx(0.5, dym.view(), Weight::Param(wm.view()), dx.acc()));
        cpu.linear_dw(1.0, dym.view(), xm.view(), dw.acc());
        let (x, w, dy) = (rounded(&x), rounded(&w), rounded(&dy));
        let worst = |found: Vec<f32>, cols: usize, k: usize, scale: f64, term: &dyn Fn(usize, usize, usize) -> f64| {
            let error = |at: usize| {
                let terms = (0..k).map(|l| scale * term(at / cols, at % cols, l));
                let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), x| (sum + x, size + x.abs()));
                (f64::from(found[at]) - sum).abs() / size
            };
            (0..found.len()).map(error).fold(0.0, f64::max)
        };
        [
            worst(cpu.to_host(y.view()), o, i, 0.5, &|r, c, l| x[r * i + l] * w[c * i + l]),
            worst(cpu.to_host(dx.view()), i, o, 1.0, &|r, c, l| dy[r * o + l] * w[l * i + c]),
            worst(cpu.to_host(dw.view()), i, t, 1.0, &|r, c, l| dy[l * o + r] * x[l * i + c]),
        ]
    }

    #[test]
    fn sums_are_those_of_rounded_factors() {
        let cpu = Cpu::<f32>::new(2).mixed();
        for shape in [(33, 64, 47), (32, 35, 32), (61, 300, 33), (250, 97, 1100), (40, 519, 66)] {
            let found = errors(&cpu, shape);
            // Without the instructions nothing is rounded, which is a few thousandths away.
            let bound = if Cpu::<f32>::has_mixed() { 2e-7 } else { 4e-3 };
            assert!(found.iter().all(|error| *error < bound), "{shape:?}: {found:?}");
        }
    }

    #[test]
    fn a_side_as_short_as_a_rank_is_not_rounded() {
        let (plain, mixed) = (Cpu::<f32>::new(2), Cpu::<f32>::new(2).mixed());
        let (x, w) = (noise(50 * 64, 1), noise(8 * 64, 2));
        let of = |cpu: &Cpu<f32>| {
            let (x, w, mut y) = (cpu.from_host(50, 64, &x), cpu.from_host(8, 64, &w), cpu.zeros(50, 8));
            cpu.linear(1.0, x.view(), Weight::Param(w.view()), y.out());
            cpu.to_host(y.view())
        };
        assert_eq!(of(&plain), of(&mixed));
    }

    #[test]
    fn threads_change_no_bit() {
        let of = |threads: usize| {
            let cpu = Cpu::<f32>::new(threads).mixed();
            let (x, w) = (cpu.from_host(77, 300, &noise(77 * 300, 1)), cpu.from_host(90, 300, &noise(90 * 300, 2)));
            let mut y = cpu.zeros(77, 90);
            cpu.linear(1.0, x.view(), Weight::Param(w.view()), y.out());
            cpu.to_host(y.view())
        };
        assert_eq!(of(1), of(3));
    }
}
