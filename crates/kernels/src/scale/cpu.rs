//! Plain loops over rows.

use super::Scale;
use crate::cpu::simd::{lane_sum, loops};
use crate::{Cpu, Out, Real, View};

/// Rows handed to a thread at a time.
const ROWS: usize = 64;

loops! {
    /// One row.
    trait ScaleLoops {
        fn times(scale: E, y: &mut [E]) {
            y.iter_mut().for_each(|y| *y *= scale);
        }
        fn row_dot(a: &[E], b: &[E]) -> E {
            lane_sum([a, b], |[a, b]| a * b)
        }
    }
}

impl<E: Real> Scale for Cpu<E> {
    fn scale(&self, alpha: f64, y: Out<Self, E>) {
        self.each(y.row_chunks(ROWS), |(_, mut y)| (0..y.rows).for_each(|t| E::times(E::of(alpha), y.row_mut(t))));
    }

    fn scale_rows(&self, scale: &[E], y: Out<Self, E>) {
        assert!(scale.len() == y.rows, "{} factors for {} rows", scale.len(), y.rows);
        self.each(y.row_chunks(ROWS), |(first, mut y)| {
            (0..y.rows).for_each(|t| E::times(scale[first + t], y.row_mut(t)))
        });
    }

    fn row_dots(&self, a: View<Self, E>, b: View<Self, E>) -> Vec<E> {
        assert!(a.rows == b.rows && a.cols == b.cols, "[{}, {}] . [{}, {}]", a.rows, a.cols, b.rows, b.cols);
        let mut dots = vec![E::ZERO; a.rows];
        let tasks: Vec<_> = dots.chunks_mut(ROWS).enumerate().collect();
        self.each(tasks, |(chunk, dots)| {
            for (i, dot) in dots.iter_mut().enumerate() {
                let row = chunk * ROWS + i;
                *dot = E::row_dot(a.row(row), b.row(row));
            }
        });
        dots
    }

    fn sigmoids(&self, x: View<Self, E>) -> Vec<E> {
        assert!(x.cols == 1, "{} columns", x.cols);
        (0..x.rows).map(|t| E::ONE / (E::ONE + (-x.row(t)[0]).exp())).collect()
    }

    fn column(&self, values: &[E], mut y: Out<Self, E>) {
        assert!(y.cols == 1 && y.rows == values.len());
        (0..y.rows).for_each(|t| y.row_mut(t)[0] = values[t]);
    }

    fn one_plus(&self, w: View<Self, E>, mut y: Out<Self, E>) {
        assert!(w.rows == 1 && y.rows == 1 && w.cols == y.cols);
        y.row_mut(0).iter_mut().zip(w.row(0)).for_each(|(y, w)| *y = E::ONE + *w);
    }
}
