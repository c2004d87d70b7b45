//! One pass per row.

use super::{RmsNorm, RmsNormSaved};
use crate::cpu::simd::{lane_sum, vectorise};
use crate::{Acc, Cpu, Dst, Out, Real, View};

/// Rows handed to a thread at a time.
const ROWS: usize = 32;
/// Columns of the weight gradient handed to a thread at a time.
const COLS: usize = 256;

/// Groups in a row.
fn groups<E: Real>(x: &View<Cpu<E>, E>, w: &View<Cpu<E>, E>) -> usize {
    assert!(
        w.rows == 1 && w.cols > 0 && x.cols % w.cols == 0,
        "norm over {} columns with a weight of {}",
        x.cols,
        w.cols
    );
    x.cols / w.cols
}

impl<E: Real> RmsNorm for Cpu<E> {
    fn rmsnorm(&self, x: View<Self, E>, w: View<Self, E>, eps: f64, y: Out<Self, E>, rstd: Out<Self, E>) {
        let (g, h) = (groups(&x, &w), w.cols);
        assert!(y.rows == x.rows && y.cols == x.cols && rstd.rows == x.rows && rstd.cols == g);
        let tasks = y.row_chunks(ROWS).into_iter().zip(rstd.row_chunks(ROWS)).collect();
        self.each(tasks, |((first, mut y), (_, mut rstd))| {
            vectorise(|| {
                let w = w.row(0);
                for t in 0..y.rows {
                    let x = x.row(first + t);
                    for j in 0..g {
                        let x = &x[j * h..(j + 1) * h];
                        let mean = lane_sum(h, |i| x[i] * x[i]) / E::of(h as f64);
                        let r = E::ONE / (mean + E::of(eps)).sqrt();
                        rstd.row_mut(t)[j] = r;
                        let y = &mut y.row_mut(t)[j * h..(j + 1) * h];
                        (0..h).for_each(|i| y[i] = x[i] * r * w[i]);
                    }
                }
            });
        });
    }

    fn rmsnorm_again(&self, x: View<Self, E>, w: View<Self, E>, rstd: View<Self, E>, y: Out<Self, E>) {
        let (g, h) = (groups(&x, &w), w.cols);
        assert!(y.rows == x.rows && y.cols == x.cols && rstd.rows == x.rows && rstd.cols == g);
        self.each(y.row_chunks(ROWS), |(first, mut y)| {
            vectorise(|| {
                let w = w.row(0);
                for t in 0..y.rows {
                    let (x, r) = (x.row(first + t), rstd.row(first + t));
                    for j in 0..g {
                        let (x, r) = (&x[j * h..(j + 1) * h], r[j]);
                        let y = &mut y.row_mut(t)[j * h..(j + 1) * h];
                        (0..h).for_each(|i| y[i] = x[i] * r * w[i]);
                    }
                }
            });
        });
    }

    fn rmsnorm_back<'a>(
        &self,
        saved: RmsNormSaved<'_, Self>,
        dy: View<Self, E>,
        dx: impl Into<Dst<'a, Self, E>>,
        dw: Option<Acc<Self, E>>,
    ) {
        let RmsNormSaved { x, w, rstd } = saved;
        let Dst { out: dx, add } = dx.into();
        let (g, h) = (groups(&x, &w), w.cols);
        assert!(
            dy.rows == x.rows
                && dy.cols == x.cols
                && dx.rows == x.rows
                && dx.cols == x.cols
                && rstd.rows == x.rows
                && rstd.cols == g
        );
        self.each(dx.row_chunks(ROWS), |(first, mut dx)| {
            vectorise(|| {
                let w = w.row(0);
                for t in 0..dx.rows {
                    let (x, dy, r) = (x.row(first + t), dy.row(first + t), rstd.row(first + t));
                    for j in 0..g {
                        let (x, dy, r) = (&x[j * h..(j + 1) * h], &dy[j * h..(j + 1) * h], r[j]);
                        let dx = &mut dx.row_mut(t)[j * h..(j + 1) * h];
                        // mean(g * xhat) * rstd, so that dx = rstd * g - x * rstd * that.
                        let m = lane_sum(h, |i| dy[i] * w[i] * x[i]) * r * r / E::of(h as f64);
                        let back = |i: usize| r * (dy[i] * w[i] - x[i] * m);
                        if add {
                            (0..h).for_each(|i| dx[i] += back(i));
                        } else {
                            (0..h).for_each(|i| dx[i] = back(i));
                        }
                    }
                }
            });
        });
        let Some(dw) = dw else { return };
        assert!(dw.shape() == (1, h));
        self.each(dw.inner().col_chunks(COLS), |(first, mut dw)| {
            vectorise(|| {
                let mut sum = vec![E::ZERO; dw.cols];
                for t in 0..x.rows {
                    let (x, dy, r) = (x.row(t), dy.row(t), rstd.row(t));
                    for j in 0..g {
                        let at = j * h + first;
                        let (x, dy, r) = (&x[at..at + sum.len()], &dy[at..at + sum.len()], r[j]);
                        (0..sum.len()).for_each(|i| sum[i] += dy[i] * (x[i] * r));
                    }
                }
                dw.row_mut(0).iter_mut().zip(&sum).for_each(|(d, s)| *d += *s);
            });
        });
    }
}
