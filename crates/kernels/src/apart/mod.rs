//! Products whose rows stand apart: what a row gives depends on that row and the weight alone, to the last bit, however many rows are
//! beside it. Generation needs that, for an answer must not depend on what else is being answered; and with one row or a few it is
//! also the fastest form, as each weight is read once, in the type it is stored in.
//!
//! A dot product has sixteen running sums, fused, joined in one fixed order; a mix of rows is added up row by row. Every
//! instruction set with fused multiply-add gives the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;
pub(crate) mod loops;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::cpu::Packed;
use crate::gemm::Weight;
use crate::{Cpu, Dst, Memory, Out, PAGE, Real, StoredDtype, View};
use std::marker::PhantomData;
use std::ops::Range;

/// Multiplications below which a product stays on its thread.
const SMALL: usize = 1 << 15;
/// Outputs that a thread takes at a time, where there are as many: inputs are laid out anew for each time.
const FEWEST: usize = 384;
/// Bytes of input rows that are multiplied with a weight before its rows are read again: they stay in the second-level cache.
const INPUT_BYTES: usize = 384 << 10;
/// Rows of a weight that is unpacked first.
const UNPACKED: usize = 32;

/// How values lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// As the float that is computed in.
    Own,
    /// Two bytes.
    Bf16,
    /// Two bytes.
    F16,
}

/// Rows as they are stored, read as `E`.
pub(crate) struct Held<'a, E> {
    pub(crate) ptr: *const u8,
    pub(crate) kind: Kind,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// Values from one row to the next.
    pub(crate) ld: usize,
    /// The pages whose rows these are, one page after the other; `None`: the matrix' own.
    pages: Option<&'a [u32]>,
    tie: PhantomData<&'a E>,
}

impl<E> Clone for Held<'_, E> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<E> Copy for Held<'_, E> {}
// SAFETY: a shared borrow of plain floats.
unsafe impl<E> Send for Held<'_, E> {}
// SAFETY: as above.
unsafe impl<E> Sync for Held<'_, E> {}

impl<'a, E: Real> Held<'a, E> {
    /// A matrix of `E`.
    pub(crate) fn of(v: View<'a, Cpu<E>, E>) -> Held<'a, E> {
        Held { ptr: v.ptr.cast(), kind: Kind::Own, rows: v.rows, cols: v.cols, ld: v.ld, pages: None, tie: PhantomData }
    }

    /// The first `rows` rows of some pages of a matrix.
    pub(crate) fn paged(v: View<'a, Cpu<E>, E>, pages: &'a [u32], rows: usize) -> Held<'a, E> {
        let inside = pages.iter().all(|&page| (page as usize + 1) * PAGE <= v.rows);
        assert!(inside && rows <= pages.len() * PAGE, "{rows} rows of pages {pages:?} of {} rows", v.rows);
        Held { rows, pages: Some(pages), ..Held::of(v) }
    }

    /// A weight, unless its storage has to be unpacked first.
    fn weight(w: Weight<'a, Cpu<E>>) -> Result<Held<'a, E>, Packed<'a, E>> {
        let stored = match crate::gemm::cpu::direct(w) {
            Ok(view) => return Ok(Held::of(view)),
            Err(stored) => stored,
        };
        let kind = match stored.dtype() {
            StoredDtype::Bf16 => Kind::Bf16,
            StoredDtype::F16 => Kind::F16,
            StoredDtype::F32 | StoredDtype::Mxfp4 | StoredDtype::Code4 | StoredDtype::Code8 => return Err(stored),
        };
        let (rows, cols) = (stored.rows, stored.cols);
        Ok(Held { ptr: stored.address(), kind, rows, cols, ld: cols, pages: None, tie: PhantomData })
    }

    /// Bytes of a value.
    pub(crate) fn size(&self) -> usize {
        if self.kind == Kind::Own { size_of::<E>() } else { 2 }
    }

    /// The address of row `i`.
    pub(crate) fn row(&self, i: usize) -> *const u8 {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        let i = self.pages.map_or(i, |pages| pages[i / PAGE] as usize * PAGE + i % PAGE);
        self.ptr.wrapping_add(i * self.ld * self.size())
    }

    /// Whether one row lies right behind the other.
    #[cfg(target_arch = "x86_64")]
    fn is_dense(&self) -> bool {
        self.ld == self.cols && self.pages.is_none()
    }

    /// Rows `r`.
    fn rows(self, r: Range<usize>) -> Held<'a, E> {
        assert!(self.pages.is_none(), "rows of pages");
        assert!(r.start <= r.end && r.end <= self.rows, "rows {r:?} of {}", self.rows);
        Held { ptr: self.ptr.wrapping_add(r.start * self.ld * self.size()), rows: r.end - r.start, ..self }
    }

    /// Columns `c`.
    fn cols(self, c: Range<usize>) -> Held<'a, E> {
        assert!(c.start <= c.end && c.end <= self.cols, "columns {c:?} of {}", self.cols);
        Held { ptr: self.ptr.wrapping_add(c.start * self.size()), cols: c.end - c.start, ..self }
    }

    /// Columns `c` of row `i` as `E`: where it lies, or unpacked into `scratch`.
    pub(crate) fn read<'s>(&'s self, i: usize, c: Range<usize>, scratch: &'s mut [E]) -> &'s [E] {
        assert!(c.end <= self.cols && c.len() <= scratch.len());
        let first = self.row(i).wrapping_add(c.start * self.size());
        // SAFETY: row and columns are inside the borrow; `Own` comes from a matrix of `E`, and is aligned.
        unsafe {
            match self.kind {
                Kind::Own => std::slice::from_raw_parts(first.cast(), c.len()),
                Kind::Bf16 => {
                    E::unpack_bf16(std::slice::from_raw_parts(first, 2 * c.len()), scratch);
                    &scratch[..c.len()]
                }
                Kind::F16 => {
                    E::unpack_f16(std::slice::from_raw_parts(first, 2 * c.len()), scratch);
                    &scratch[..c.len()]
                }
            }
        }
    }
}

/// Products of a few rows with rows that are stored in one way or another.
pub trait Apart: Sized {
    /// `out[t][j] (+)= x[t] . w[j]`; every `x[t]` is as long as a row of `w`.
    #[doc(hidden)]
    fn dots(x: &[&[Self]], w: Rows<'_, Self>, out: Dst<'_, Cpu<Self>, Self>);
    /// `out[t] (+)= sum of p[t][j] * w[j]`, `j` ascending; every `p[t]` is as long as `w` has rows.
    #[doc(hidden)]
    fn mix(p: &[&[Self]], w: Rows<'_, Self>, out: Dst<'_, Cpu<Self>, Self>);
}

/// [`Held`] in the hands of a public trait.
pub struct Rows<'a, E>(pub(crate) Held<'a, E>);

/// The rows of a matrix, as slices.
pub(crate) fn slices<'a, E: Real>(x: View<'a, Cpu<E>, E>) -> Vec<&'a [E]> {
    (0..x.rows).map(|t| x.row(t)).collect()
}

/// `y (+)= alpha * x Wᵀ`.
pub(crate) fn linear<E: Real>(cpu: &Cpu<E>, alpha: f64, x: View<Cpu<E>, E>, w: Weight<Cpu<E>>, y: Dst<Cpu<E>, E>) {
    let scaled = scaled(cpu, alpha, x);
    let rows = slices(scaled.as_ref().map_or(x, |x| x.view()));
    each_chunk(cpu, x.cols, y, |first, mut y| {
        let portion = (INPUT_BYTES / (x.cols * size_of::<E>()).max(1)).max(8).next_multiple_of(8);
        for (rows, from) in rows.chunks(portion).zip((0..).step_by(portion)) {
            let mut y = y.again();
            let mut y = Dst { out: y.out.again().rows(from..from + rows.len()), add: y.add };
            let outputs = first..first + y.out.cols;
            match Held::weight(w) {
                Ok(w) => E::dots(rows, Rows(w.rows(outputs)), y),
                Err(stored) => unpacked(cpu, stored, outputs, |at, w| {
                    let out = y.out.again().cols(at..at + w.rows);
                    E::dots(rows, Rows(Held::of(w)), Dst { out, add: y.add });
                }),
            }
        }
    });
}

/// `y (+)= alpha * x W`.
pub(crate) fn linear_turned<E: Real>(
    cpu: &Cpu<E>,
    alpha: f64,
    x: View<Cpu<E>, E>,
    w: Weight<Cpu<E>>,
    y: Dst<Cpu<E>, E>,
) {
    let scaled = scaled(cpu, alpha, x);
    let rows = slices(scaled.as_ref().map_or(x, |x| x.view()));
    each_chunk(cpu, x.cols, y, |first, mut y| {
        let outputs = first..first + y.out.cols;
        match Held::weight(w) {
            Ok(w) => E::mix(&rows, Rows(w.cols(outputs)), y),
            Err(stored) => unpacked(cpu, stored, 0..stored.rows, |at, w| {
                let part: Vec<&[E]> = rows.iter().map(|row| &row[at..at + w.rows]).collect();
                let dst = Dst { out: y.out.again(), add: y.add || at > 0 };
                E::mix(&part, Rows(Held::of(w.cols(outputs.clone()))), dst);
            }),
        }
    });
}

/// The rows times `alpha`, unless that is one.
fn scaled<E: Real>(cpu: &Cpu<E>, alpha: f64, x: View<Cpu<E>, E>) -> Option<crate::Mat<Cpu<E>, E>> {
    if alpha == 1.0 {
        return None;
    }
    let mut scaled = cpu.mat::<E>(x.rows, x.cols);
    let mut out = scaled.out();
    for t in 0..x.rows {
        out.row_mut(t).copy_from_slice(x.row(t));
        E::times(E::of(alpha), out.row_mut(t));
    }
    Some(scaled)
}

/// Cuts the outputs among the threads.
fn each_chunk<'a, E: Real>(
    cpu: &Cpu<E>,
    inner: usize,
    y: Dst<'a, Cpu<E>, E>,
    work: impl Fn(usize, Dst<'a, Cpu<E>, E>) + Send + Sync,
) {
    let Dst { out, add } = y;
    if out.rows == 0 || out.cols == 0 {
        return;
    }
    let multiplications = out.rows * out.cols * inner;
    let pieces =
        if multiplications < SMALL { 1 } else { cpu.num_threads() * (1 + multiplications / (SMALL << 8)).min(4) };
    // As many for one thread as for another.
    let most = (out.cols / (FEWEST * cpu.num_threads())).max(1) * cpu.num_threads();
    let chunk = out.cols.div_ceil(pieces.min(most)).next_multiple_of(16);
    cpu.each(out.col_chunks(chunk), |(first, out)| work(first, Dst { out, add }));
}

/// Calls `work(offset, panel)` for panels of some rows of a weight, unpacked into scratch memory.
fn unpacked<E: Real>(
    cpu: &Cpu<E>,
    stored: Packed<E>,
    rows: Range<usize>,
    mut work: impl FnMut(usize, View<Cpu<E>, E>),
) {
    let mut scratch = cpu.mat::<E>(UNPACKED.min(rows.len()), stored.cols);
    for first in rows.clone().step_by(UNPACKED) {
        let panel = first..(first + UNPACKED).min(rows.end);
        let mut out = scratch.out();
        panel.clone().zip(0..).for_each(|(row, i)| stored.unpack(row..row + 1, out.row_mut(i)));
        work(first - rows.start, scratch.view().rows(0..panel.len()));
    }
}

/// The destination of a tile's results.
pub(crate) fn row_of<'o, E: Real>(out: &'o mut Out<'_, Cpu<E>, E>, t: usize, cols: Range<usize>) -> &'o mut [E] {
    &mut out.row_mut(t)[cols]
}
