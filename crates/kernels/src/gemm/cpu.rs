//! Products on the CPU: the `gemm` crates on f32 and f64 panels; other storage is unpacked panel by panel, so that no
//! whole copy of a weight ever exists. Panels depend on shapes only, so the bits do not depend on the thread count.

use super::mixed::{Factors, Mixed};
use super::turn::TURNED;
use super::{Gemm, Weight, agree};
use crate::cpu::Packed;
use crate::cpu::simd::{lane_sum, loops};
use crate::{Acc, Cpu, Dst, Mat, Memory, Out, Real, View};
use gemm_common::Parallelism;
use std::ops::Range;

/// Elements of an unpacked panel: 1 MiB of f32, which stays in the second-level cache of current cores.
const PANEL_ELEMENTS: usize = 1 << 18;
/// Columns of a weight that are multiplied together: more, and its tiles would be so low that the other factor, and what is
/// added up, would come from memory for each of them.
const TILE_COLS: usize = 1024;
/// Elements of a tile: 2 MiB of f32, half in the second-level cache of each of two cores.
const TILE_ELEMENTS: usize = 1 << 19;
/// Rows up to which a product is a few dot products with each row of the weight.
const FEW: usize = 6;

/// A matrix operand with arbitrary strides.
#[derive(Clone, Copy)]
pub(crate) struct Operand<E> {
    ptr: *const E,
    row_stride: usize,
    col_stride: usize,
}

impl<E: Real> Operand<E> {
    pub(crate) fn of(v: View<Cpu<E>, E>) -> Operand<E> {
        Operand { ptr: v.ptr, row_stride: v.ld, col_stride: 1 }
    }
    /// The transpose.
    pub(crate) fn transposed(v: View<Cpu<E>, E>) -> Operand<E> {
        Operand { ptr: v.ptr, row_stride: 1, col_stride: v.ld }
    }
}

impl<E> Operand<E> {
    /// Elements from one row to the next, and from one column to the next.
    pub(crate) fn strides(&self) -> (usize, usize) {
        (self.row_stride, self.col_stride)
    }
    /// Where an element is.
    pub(crate) fn pointer(&self, row: usize, col: usize) -> *const E {
        self.ptr.wrapping_add(row * self.row_stride + col * self.col_stride)
    }
    /// The operand from an element on.
    pub(crate) fn at(&self, row: usize, col: usize) -> Operand<E> {
        Operand { ptr: self.pointer(row, col), ..*self }
    }
}

/// `dst := keep * dst + alpha * lhs rhs` for `m`, `n` and `k`; of each matrix the pointer and the distances of columns and of
/// rows. The first flag is whether `dst` is read, the others conjugate.
pub(crate) type Multiply<E> = unsafe fn(
    usize,
    usize,
    usize,
    *mut E,
    isize,
    isize,
    bool,
    *const E,
    isize,
    isize,
    *const E,
    isize,
    isize,
    E,
    E,
    bool,
    bool,
    bool,
    Parallelism,
);

/// An element type's product, for the widest instructions there are.
pub trait Multiplied: Sized {
    /// The function.
    fn multiply() -> Multiply<Self>;
}

impl Multiplied for f32 {
    fn multiply() -> Multiply<f32> {
        gemm_f32::gemm::f32::get_gemm_fn()
    }
}

impl Multiplied for f64 {
    fn multiply() -> Multiply<f64> {
        gemm_f64::gemm::f64::get_gemm_fn()
    }
}

/// `dst (+)= alpha * lhs rhs` with inner length `k`.
pub(crate) fn product<E: Real>(
    alpha: E,
    lhs: Operand<E>,
    rhs: Operand<E>,
    k: usize,
    dst: Dst<Cpu<E>, E>,
    par: Parallelism,
) {
    let Out { ptr, rows, cols, ld, .. } = dst.out;
    if rows == 0 || cols == 0 {
        return;
    }
    let keep = if dst.add { E::ONE } else { E::ZERO };
    // SAFETY: callers are the functions below and the attention and head kernels; each has asserted that the operands
    // have `rows` x `k` and `k` x `cols` elements within their views, and `dst` is an exclusive borrow.
    unsafe {
        // The transposed product: the kernels want columns of the result without gaps, and ours are rows.
        E::multiply()(
            cols,
            rows,
            k,
            ptr,
            ld as isize,
            1,
            dst.add,
            rhs.ptr,
            rhs.row_stride as isize,
            rhs.col_stride as isize,
            lhs.ptr,
            lhs.row_stride as isize,
            lhs.col_stride as isize,
            keep,
            alpha,
            false,
            false,
            false,
            par,
        );
    }
}

impl<E: Real> Cpu<E> {
    /// A product on one thread, in mixed precision where this CPU is asked for that.
    pub(crate) fn product(&self, alpha: E, lhs: Operand<E>, rhs: Operand<E>, k: usize, dst: Dst<Self, E>) {
        let factors = Factors { alpha, lhs, rhs, k, dst };
        match self.mixed.filter(|_| factors.fits()) {
            Some(mixed) => self.mixed_product(mixed, factors),
            None => product(alpha, lhs, rhs, k, factors.dst, Parallelism::None),
        }
    }

    fn mixed_product(&self, mixed: Mixed<E>, factors: Factors<E>) {
        let mut scratch = self.mat::<f32>(1, factors.scratch());
        // SAFETY: as for `product`: callers have asserted the shapes.
        unsafe { mixed(factors, scratch.out().row_mut(0)) }
    }

    fn parallel_product(&self, alpha: f64, lhs: Operand<E>, rhs: Operand<E>, k: usize, dst: Dst<Self, E>) {
        // Below this much work a second thread costs more than it brings; the bits are the same.
        let small = dst.out.rows * dst.out.cols * k < 1 << 16;
        let (alpha, threads) = (E::of(alpha), self.num_threads());
        if small || threads == 1 {
            return self.product(alpha, lhs, rhs, k, dst);
        }
        let factors = Factors { alpha, lhs, rhs, k, dst };
        let mixed = self.mixed.filter(|_| factors.fits());
        let Dst { out, add } = factors.dst;
        let (lhs, rhs) = (Sent(lhs), Sent(rhs));
        let Some(mixed) = mixed else {
            return self.install(move || {
                let (Sent(lhs), Sent(rhs)) = (lhs.whole(), rhs.whole());
                product(alpha, lhs, rhs, k, Dst { out, add }, Parallelism::Rayon(threads));
            });
        };
        let chunk = out.rows.div_ceil(threads);
        self.each(out.row_chunks(chunk), move |(row, out)| {
            let (Sent(lhs), Sent(rhs)) = (lhs.whole(), rhs.whole());
            self.mixed_product(mixed, Factors { alpha, lhs: lhs.at(row, 0), rhs, k, dst: Dst { out, add } });
        });
    }
}

/// An operand handed to another thread.
#[derive(Clone, Copy)]
struct Sent<E>(Operand<E>);
// SAFETY: an operand is a shared borrow of plain floats for the length of one product.
unsafe impl<E> Send for Sent<E> {}
// SAFETY: as above.
unsafe impl<E> Sync for Sent<E> {}
impl<E: Copy> Sent<E> {
    /// Makes a closure capture the wrapper and not the pointer inside.
    fn whole(self) -> Sent<E> {
        self
    }
}

/// Calls `work(first row, panel)` for panels of rows of a stored weight, unpacked into scratch memory.
pub(crate) fn panels<E: Real>(cpu: &Cpu<E>, stored: Packed<E>, mut work: impl FnMut(usize, View<Cpu<E>, E>)) {
    let rows = (PANEL_ELEMENTS / stored.cols.max(1)).clamp(16, stored.rows.max(16));
    let mut scratch = cpu.mat::<E>(rows.min(stored.rows), stored.cols);
    for first in (0..stored.rows).step_by(rows) {
        let last = (first + rows).min(stored.rows);
        let chunk = (last - first).div_ceil(cpu.num_threads()).max(16);
        cpu.each(scratch.out().rows(0..last - first).row_chunks(chunk), |(offset, out)| {
            let rows = first + offset..first + offset + out.rows;
            // SAFETY: whole rows of scratch are contiguous (`ld == cols`), exclusively borrowed by `out`.
            let dst = unsafe { std::slice::from_raw_parts_mut(out.ptr, out.rows * out.cols) };
            stored.unpack(rows, dst);
        });
        work(first, scratch.view().rows(0..last - first));
    }
}

/// Calls `work(first row, first column, tile)` for all tiles of a stored weight, unpacked into scratch memory.
fn tiles<E: Real>(cpu: &Cpu<E>, stored: Packed<E>, mut work: impl FnMut(usize, usize, View<Cpu<E>, E>)) {
    let (rows, wide) = tile(stored.rows, stored.cols);
    let mut scratch = cpu.mat::<E>(rows, wide);
    for from in (0..stored.cols).step_by(wide.max(1)) {
        let cols = from..(from + wide).min(stored.cols);
        for first in (0..stored.rows).step_by(rows.max(1)) {
            let mut tile = scratch.out().rows(0..rows.min(stored.rows - first)).cols(0..cols.len());
            let chunk = tile.rows.div_ceil(cpu.num_threads()).max(16);
            cpu.each(tile.again().row_chunks(chunk), |(offset, mut out)| {
                for r in 0..out.rows {
                    stored.unpack_part(first + offset + r, cols.clone(), out.row_mut(r));
                }
            });
            work(first, from, tile.view());
        }
    }
}

/// Rows and columns of a weight's tiles.
fn tile(rows: usize, cols: usize) -> (usize, usize) {
    let wide = cols.div_ceil(cols.div_ceil(TILE_COLS).max(1)).next_multiple_of(64).min(cols);
    ((TILE_ELEMENTS / wide.max(1)).clamp(16, rows.max(16)).min(rows), wide)
}

impl<E: Real> Gemm for Cpu<E> {
    fn linear<'a>(&self, alpha: f64, x: View<Self, E>, w: Weight<Self>, y: impl Into<Dst<'a, Self, E>>) {
        let Dst { mut out, add } = y.into();
        let (k, (o, i)) = (x.cols, shape(w));
        agree(x.shape(), (i, o), out.shape());
        if self.apart {
            return crate::apart::linear(self, alpha, x, w, Dst { out, add });
        }
        if x.rows <= FEW {
            return few_rows(self, alpha, x, w, Dst { out, add });
        }
        if k == 0 && !add {
            return self.fill_zero(out);
        }
        turned_tiles(self, w, |row, col, w| {
            let dst = Dst { out: out.again().cols(row..row + w.cols), add: add || col > 0 };
            let x = Operand::of(x.cols(col..col + w.rows));
            self.parallel_product(alpha, x, Operand::of(w), w.rows, dst);
        });
    }

    fn linear_dx<'a>(&self, alpha: f64, dy: View<Self, E>, w: Weight<Self>, dx: impl Into<Dst<'a, Self, E>>) {
        let Dst { mut out, add } = dx.into();
        let k = dy.cols;
        agree(dy.shape(), shape(w), out.shape());
        if self.apart {
            return crate::apart::linear_turned(self, alpha, dy, w, Dst { out, add });
        }
        match direct(w) {
            Ok(w) => {
                self.parallel_product(alpha, Operand::of(dy), Operand::of(w), k, Dst { out, add });
            }
            Err(stored) => {
                if k == 0 && !add {
                    return self.fill_zero(out);
                }
                tiles(self, stored, |row, col, w| {
                    let dst = Dst { out: out.again().cols(col..col + w.cols), add: add || row > 0 };
                    let dy = Operand::of(dy.cols(row..row + w.rows));
                    self.parallel_product(alpha, dy, Operand::of(w), w.rows, dst);
                });
            }
        }
    }

    fn linear_dw(&self, alpha: f64, dy: View<Self, E>, x: View<Self, E>, dw: Acc<Self, E>) {
        agree((dy.cols, dy.rows), x.shape(), dw.shape());
        self.parallel_product(alpha, Operand::transposed(dy), Operand::of(x), dy.rows, dw.into());
    }
}

/// `y (+)= alpha * x Wᵀ` for a few rows of `x`: each row of the weight is read once.
fn few_rows<E: Real>(cpu: &Cpu<E>, alpha: f64, x: View<Cpu<E>, E>, w: Weight<Cpu<E>>, y: Dst<Cpu<E>, E>) {
    if x.rows == 0 {
        return;
    }
    let Dst { out, add } = y;
    let (alpha, w) = (E::of(alpha), direct(w));
    // Not cut finer than is worth a hand-over to another thread.
    let chunk = out.cols.div_ceil(cpu.num_threads()).max((1 << 15) / x.cols.max(1)).max(1);
    cpu.each(out.col_chunks(chunk), |(first, mut y)| {
        let mut unpacked = vec![E::ZERO; if w.is_err() { x.cols } else { 0 }];
        for o in 0..y.cols {
            let row = match w {
                Ok(w) => w.row(first + o),
                Err(stored) => {
                    stored.unpack(first + o..first + o + 1, &mut unpacked);
                    &unpacked
                }
            };
            for t in 0..x.rows {
                let y = &mut y.row_mut(t)[o];
                let product = alpha * E::dot(x.row(t), row);
                *y = if add { *y + product } else { product };
            }
        }
    });
}

/// Calls `work(first row, first column, tile)` for all tiles of a weight, each turned into `[cols, rows]` in scratch memory. That is
/// the layout which the product takes as it is; turning a weight itself it takes longer than over the rest at small sizes.
fn turned_tiles<E: Real>(cpu: &Cpu<E>, w: Weight<Cpu<E>>, mut work: impl FnMut(usize, usize, View<Cpu<E>, E>)) {
    let (o, i) = shape(w);
    let (rows, wide) = tile(o, i);
    // A line more than the tile: a stride that is a power of two would use a few sets of the cache only.
    let mut scratch = cpu.mat::<E>(wide, rows.next_multiple_of(TURNED) + TURNED);
    for first in (0..o).step_by(rows.max(1)) {
        let rows = first..(first + rows).min(o);
        for from in (0..i).step_by(wide.max(1)) {
            let mut tile = scratch.out().rows(0..wide.min(i - from));
            let chunk = tile.rows.div_ceil(cpu.num_threads()).next_multiple_of(64);
            cpu.each(tile.again().row_chunks(chunk), |(column, out)| {
                let cols = from + column..from + column + out.rows;
                // SAFETY: whole rows of scratch are contiguous (`ld == cols`), exclusively borrowed by `out`.
                let dst = unsafe { std::slice::from_raw_parts_mut(out.ptr, out.rows * out.cols) };
                turn(w, rows.clone(), cols, dst, out.cols);
            });
            work(first, from, tile.view().cols(0..rows.len()));
        }
    }
}

/// The transpose of `x` in memory of its own, `[cols, rows]` with lines longer than that.
pub(crate) fn turned<E: Real>(cpu: &Cpu<E>, x: View<Cpu<E>, E>) -> Mat<Cpu<E>, E> {
    let mut out = cpu.mat::<E>(x.cols, x.rows.next_multiple_of(TURNED) + TURNED);
    let ld = out.cols();
    turn(Weight::Param(x), 0..x.rows, 0..x.cols, out.out().lines(), ld);
    out
}

/// Writes the transpose of a weight's `rows` x `cols` into `dst`, whose rows are `ld` apart.
fn turn<E: Real>(w: Weight<Cpu<E>>, rows: Range<usize>, cols: Range<usize>, dst: &mut [E], ld: usize) {
    let w = direct(w);
    let mut unpacked = vec![E::ZERO; if w.is_err() { TURNED * cols.len() } else { 0 }];
    for first in rows.clone().step_by(TURNED) {
        let count = TURNED.min(rows.end - first);
        let mut block: [&[E]; TURNED] = [&[]; TURNED];
        match w {
            Ok(w) => (0..count).for_each(|r| block[r] = &w.row(first + r)[cols.clone()]),
            Err(stored) => {
                for (r, part) in unpacked.chunks_exact_mut(cols.len()).take(count).enumerate() {
                    stored.unpack_part(first + r, cols.clone(), part);
                }
                unpacked.chunks_exact(cols.len()).enumerate().for_each(|(r, part)| block[r] = part);
            }
        }
        let dst = &mut dst[first - rows.start..];
        if count == TURNED {
            E::turn_rows(&block, dst, ld);
        } else {
            for (r, row) in block[..count].iter().enumerate() {
                row.iter().zip(dst.chunks_mut(ld)).for_each(|(x, dst)| dst[r] = *x);
            }
        }
    }
}

loops! {
    /// Rows of a weight.
    trait GemmLoops {
        fn dot(a: &[E], b: &[E]) -> E {
            lane_sum([a, b], |[a, b]| a * b)
        }
    }
}

/// Outputs and inputs.
pub(crate) fn shape<E: Real>(w: Weight<Cpu<E>>) -> (usize, usize) {
    match w {
        Weight::Param(w) => (w.rows, w.cols),
        Weight::Half(w) => (w.rows, w.cols),
        Weight::Stored(s) => (s.rows, s.cols),
    }
}

/// The weight as a matrix of `E` where it lies, or the storage that has to be unpacked.
pub(crate) fn direct<'a, E: Real>(w: Weight<'a, Cpu<E>>) -> Result<View<'a, Cpu<E>, E>, Packed<'a, E>> {
    match w {
        Weight::Param(view) => Ok(view),
        Weight::Half(half) => Err(Packed::half(half)),
        Weight::Stored(stored) => stored.in_place().ok_or(Packed::stored(stored)),
    }
}
