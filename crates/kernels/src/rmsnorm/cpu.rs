//! One pass per row.

use super::{RmsNorm, RmsNormSaved, forward_groups};
use crate::cpu::simd::{lane_sum, loops};
use crate::{Acc, Cpu, Dst, Out, Real, View};

/// Rows handed to a thread at a time.
const ROWS: usize = 32;
/// Columns of the weight gradient handed to a thread at a time.
const COLS: usize = 256;

loops! {
    /// One row, group by group.
    trait RmsNormLoops {
        fn rmsnorm_row(x: &[E], w: &[E], eps: f64, y: &mut [E], rstd: &mut [E]) {
            let h = w.len();
            for ((x, y), r) in x.chunks_exact(h).zip(y.chunks_exact_mut(h)).zip(rstd) {
                let mean = lane_sum([x], |[x]| x * x) / E::of(h as f64);
                *r = E::ONE / (mean + E::of(eps)).sqrt();
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = *x * *r * *w;
                }
            }
        }
        fn rmsnorm_again_row(x: &[E], w: &[E], rstd: &[E], y: &mut [E]) {
            let h = w.len();
            for ((x, y), r) in x.chunks_exact(h).zip(y.chunks_exact_mut(h)).zip(rstd) {
                for ((y, x), w) in y.iter_mut().zip(x).zip(w) {
                    *y = *x * *r * *w;
                }
            }
        }
        fn rmsnorm_back_row(x: &[E], w: &[E], rstd: &[E], dy: &[E], dx: &mut [E], add: bool) {
            let h = w.len();
            let groups = x.chunks_exact(h).zip(dy.chunks_exact(h)).zip(dx.chunks_exact_mut(h)).zip(rstd);
            for (((x, dy), dx), r) in groups {
                // mean(g * xhat) * rstd, so that dx = rstd * g - x * rstd * that.
                let m = lane_sum([dy, w, x], |[dy, w, x]| dy * w * x) * *r * *r / E::of(h as f64);
                let back = |dy: E, w: E, x: E| *r * (dy * w - x * m);
                let entries = dx.iter_mut().zip(dy).zip(w).zip(x);
                if add {
                    entries.for_each(|(((dx, dy), w), x)| *dx += back(*dy, *w, *x));
                } else {
                    entries.for_each(|(((dx, dy), w), x)| *dx = back(*dy, *w, *x));
                }
            }
        }
        /// Adds one group's part of the weight gradient.
        fn rmsnorm_weight_row(x: &[E], dy: &[E], rstd: E, sum: &mut [E]) {
            for ((s, x), dy) in sum.iter_mut().zip(x).zip(dy) {
                *s += *dy * (*x * rstd);
            }
        }
    }
}

impl<E: Real> RmsNorm for Cpu<E> {
    fn rmsnorm(&self, x: View<Self, E>, w: View<Self, E>, eps: f64, y: Out<Self, E>, rstd: Out<Self, E>) {
        forward_groups(&x, &w, &y, rstd.shape());
        let tasks = y.row_chunks(ROWS).into_iter().zip(rstd.row_chunks(ROWS)).collect();
        self.each(tasks, |((first, mut y), (_, mut rstd))| {
            for t in 0..y.rows {
                E::rmsnorm_row(x.row(first + t), w.row(0), eps, y.row_mut(t), rstd.row_mut(t));
            }
        });
    }

    fn rmsnorm_again(&self, x: View<Self, E>, w: View<Self, E>, rstd: View<Self, E>, y: Out<Self, E>) {
        forward_groups(&x, &w, &y, rstd.shape());
        self.each(y.row_chunks(ROWS), |(first, mut y)| {
            for t in 0..y.rows {
                E::rmsnorm_again_row(x.row(first + t), w.row(0), rstd.row(first + t), y.row_mut(t));
            }
        });
    }

    fn rmsnorm_back<'a>(
        &self,
        saved: RmsNormSaved<'_, Self>,
        dy: View<Self, E>,
        dx: impl Into<Dst<'a, Self, E>>,
        dw: Option<Acc<Self, E>>,
    ) {
        let Dst { out: dx, add } = dx.into();
        saved.groups(&dy, &dx, dw.as_ref());
        let RmsNormSaved { x, w, rstd } = saved;
        let h = w.cols;
        self.each(dx.row_chunks(ROWS), |(first, mut dx)| {
            for t in 0..dx.rows {
                let row = first + t;
                E::rmsnorm_back_row(x.row(row), w.row(0), rstd.row(row), dy.row(row), dx.row_mut(t), add);
            }
        });
        let Some(dw) = dw else { return };
        self.each(dw.inner().col_chunks(COLS), |(first, mut dw)| {
            let mut sum = vec![E::ZERO; dw.cols];
            for t in 0..x.rows {
                for (j, &r) in rstd.row(t).iter().enumerate() {
                    let at = j * h + first;
                    let cols = at..at + sum.len();
                    E::rmsnorm_weight_row(&x.row(t)[cols.clone()], &dy.row(t)[cols], r, &mut sum);
                }
            }
            E::add_row(&sum, dw.row_mut(0));
        });
    }
}
