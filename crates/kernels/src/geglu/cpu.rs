//! Elementwise over rows.

use super::GeGlu;
use crate::cpu::simd::loops;
use crate::{Cpu, Out, Real, View};

/// `gelu(x)` and its derivative; `tanh` by way of the exponential, which vectorises.
#[inline(always)]
fn gelu<E: Real>(x: E) -> (E, E) {
    let (c, k) = (E::of((2.0 / std::f64::consts::PI).sqrt()), E::of(0.044_715));
    let (one, two) = (E::ONE, E::of(2.0));
    let square = x * x;
    // (1 + tanh z / 2) / 2 is the logistic function of z. Of the amount of z, so that one minus it loses no digits.
    let z = two * c * x * (one + k * square);
    let e = (-z.max(-z)).exp();
    let share = one / (one + e);
    let s = if z < E::ZERO { e * share } else { share };
    let slope = two * c * (one + E::of(3.0) * k * square);
    (x * s, s + x * (e * share * share) * slope)
}

loops! {
    /// One row.
    trait GeGluLoops {
        fn geglu_row(gate: &[E], up: &[E], a: &mut [E]) {
            for ((a, g), u) in a.iter_mut().zip(gate).zip(up) {
                *a = gelu(*g).0 * *u;
            }
        }
        fn geglu_back_row(gate: &[E], up: &[E], da: &[E], dgate: &mut [E], dup: &mut [E]) {
            for ((((dg, du), g), u), da) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(da) {
                let (value, slope) = gelu(*g);
                *du = *da * value;
                *dg = *da * *u * slope;
            }
        }
    }
}

impl<E: Real> GeGlu for Cpu<E> {
    fn geglu(&self, gate: View<Self, E>, up: View<Self, E>, a: Out<Self, E>) {
        assert!(gate.rows == a.rows && up.rows == a.rows && gate.cols == a.cols && up.cols == a.cols);
        self.each(a.row_chunks(16), |(first, mut a)| {
            for t in 0..a.rows {
                E::geglu_row(gate.row(first + t), up.row(first + t), a.row_mut(t));
            }
        });
    }

    fn geglu_back(
        &self,
        gate: View<Self, E>,
        up: View<Self, E>,
        da: View<Self, E>,
        dgate: Out<Self, E>,
        dup: Out<Self, E>,
    ) {
        assert!([gate.rows, up.rows, dgate.rows, dup.rows].iter().all(|&r| r == da.rows));
        assert!([gate.cols, up.cols, dgate.cols, dup.cols].iter().all(|&c| c == da.cols));
        let tasks = dgate.row_chunks(16).into_iter().zip(dup.row_chunks(16)).collect();
        self.each(tasks, |((first, mut dgate), (_, mut dup))| {
            for t in 0..dgate.rows {
                let row = first + t;
                E::geglu_back_row(gate.row(row), up.row(row), da.row(row), dgate.row_mut(t), dup.row_mut(t));
            }
        });
    }
}
