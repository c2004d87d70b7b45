//! Elementwise over pairs.

use super::{Clamp, ClampedGlu};
use crate::cpu::simd::loops;
use crate::{Cpu, Out, Real, View};

/// Clamped gate and up, and the sigmoid.
#[inline(always)]
fn parts<E: Real>(clamp: Clamp, gate: E, up: E) -> (E, E, E) {
    let (alpha, limit) = (E::of(clamp.alpha), E::of(clamp.limit));
    let gate = if gate > limit { limit } else { gate };
    let up = if up > limit { limit } else { up };
    let up = if up < -limit { -limit } else { up };
    (gate, up, E::ONE / (E::ONE + (-(alpha * gate)).exp()))
}

loops! {
    /// One row.
    trait ClampedLoops {
        fn clamped_row(clamp: Clamp, x: &[E], a: &mut [E]) {
            for (a, x) in a.iter_mut().zip(x.chunks_exact(2)) {
                let (gate, up, s) = parts(clamp, x[0], x[1]);
                *a = (up + E::ONE) * (gate * s);
            }
        }
        fn clamped_back_row(clamp: Clamp, x: &[E], da: &[E], dx: &mut [E]) {
            let (alpha, limit) = (E::of(clamp.alpha), E::of(clamp.limit));
            for ((dx, x), da) in dx.chunks_exact_mut(2).zip(x.chunks_exact(2)).zip(da) {
                let (gate, up, s) = parts(clamp, x[0], x[1]);
                let dgate = *da * (up + E::ONE) * (s * (E::ONE + alpha * gate * (E::ONE - s)));
                let dup = *da * (gate * s);
                dx[0] = if x[0] > limit { E::ZERO } else { dgate };
                dx[1] = if x[1] > limit || x[1] < -limit { E::ZERO } else { dup };
            }
        }
    }
}

impl<E: Real> ClampedGlu for Cpu<E> {
    fn clamped_glu(&self, clamp: Clamp, x: View<Self, E>, a: Out<Self, E>) {
        assert!(x.rows == a.rows && x.cols == 2 * a.cols, "[{}, {}] to [{}, {}]", x.rows, x.cols, a.rows, a.cols);
        self.each(a.row_chunks(16), |(first, mut a)| {
            (0..a.rows).for_each(|t| E::clamped_row(clamp, x.row(first + t), a.row_mut(t)))
        });
    }

    fn clamped_glu_back(&self, clamp: Clamp, x: View<Self, E>, da: View<Self, E>, dx: Out<Self, E>) {
        assert!(x.rows == da.rows && x.cols == 2 * da.cols && dx.rows == x.rows && dx.cols == x.cols);
        self.each(dx.row_chunks(16), |(first, mut dx)| {
            (0..dx.rows).for_each(|t| E::clamped_back_row(clamp, x.row(first + t), da.row(first + t), dx.row_mut(t)))
        });
    }
}
