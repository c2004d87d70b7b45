//! Rows of a weight unpacked a panel at a time; sums over tokens split columns between threads.

use super::{Dora, LowRank};
use crate::cpu::simd::{lane_sum, loops};
use crate::gemm::cpu::{direct, panels};
use crate::gemm::{Gemm, Weight};
use crate::{Acc, Cpu, Memory, Out, Real, View};

/// Rows of a weight that are updated at a time.
const ROWS: usize = 256;

loops! {
    /// One row.
    trait DoraLoops {
        fn squares(x: &[E]) -> E {
            lane_sum([x], |[x]| x * x)
        }
        fn scale_columns_row(m: &[E], n: &[E], y: &mut [E]) {
            for ((y, m), n) in y.iter_mut().zip(m).zip(n) {
                *y *= *m / *n;
            }
        }
        fn add_products(x: &[E], y: &[E], sum: &mut [E]) {
            for ((s, x), y) in sum.iter_mut().zip(x).zip(y) {
                *s += *x * *y;
            }
        }
    }
}

impl<E: Real> Dora for Cpu<E> {
    fn row_norms(&self, w: Weight<Self>, update: Option<LowRank<Self>>, mut n: Out<Self, E>) {
        assert!(n.rows == 1);
        let norms = n.row_mut(0);
        let mut panel = |first: usize, w: View<Self, E>| {
            let mut sum = self.mat::<E>(w.rows, w.cols);
            (0..w.rows).for_each(|o| sum.out().row_mut(o).copy_from_slice(w.row(o)));
            if let Some(LowRank { a, b, scale }) = &update {
                self.linear_dx(*scale, b.rows(first..first + w.rows), Weight::Param(*a), sum.acc());
            }
            (0..w.rows).for_each(|o| norms[first + o] = E::squares(sum.view().row(o)).sqrt());
        };
        match direct(w) {
            Ok(w) => {
                (0..w.rows).step_by(ROWS).for_each(|first| panel(first, w.rows(first..(first + ROWS).min(w.rows))))
            }
            Err(stored) => panels(self, stored, panel),
        }
    }

    fn scale_columns(&self, m: View<Self, E>, n: View<Self, E>, y: Out<Self, E>) {
        assert!(m.cols == y.cols && n.cols == y.cols && m.rows == 1 && n.rows == 1);
        self.each(y.row_chunks(64), |(_, mut y)| {
            (0..y.rows).for_each(|t| E::scale_columns_row(m.row(0), n.row(0), y.row_mut(t)));
        });
    }

    fn magnitude_back(&self, dy: View<Self, E>, z: View<Self, E>, n: View<Self, E>, dm: Acc<Self, E>) {
        assert!(dy.rows == z.rows && dy.cols == z.cols && n.cols == dy.cols && dm.shape() == (1, dy.cols));
        self.each(dm.inner().col_chunks(256), |(first, mut dm)| {
            let cols = first..first + dm.cols;
            let mut sum = vec![E::ZERO; dm.cols];
            (0..dy.rows).for_each(|t| E::add_products(&dy.row(t)[cols.clone()], &z.row(t)[cols.clone()], &mut sum));
            let n = &n.row(0)[cols];
            dm.row_mut(0).iter_mut().zip(sum).zip(n).for_each(|((d, s), n)| *d += s / *n);
        });
    }
}
