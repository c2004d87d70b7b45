//! Elementwise over rows.

use super::SwiGlu;
use crate::cpu::simd::loops;
use crate::{Cpu, Out, Real, View};

#[inline(always)]
fn sigmoid<E: Real>(x: E) -> E {
    E::ONE / (E::ONE + (-x).exp())
}

loops! {
    /// One row.
    trait SwiGluLoops {
        fn swiglu_row(gate: &[E], up: &[E], a: &mut [E]) {
            for ((a, g), u) in a.iter_mut().zip(gate).zip(up) {
                *a = *g * sigmoid(*g) * *u;
            }
        }
        fn swiglu_back_row(gate: &[E], up: &[E], da: &[E], dgate: &mut [E], dup: &mut [E]) {
            for ((((dg, du), g), u), da) in dgate.iter_mut().zip(dup).zip(gate).zip(up).zip(da) {
                let s = sigmoid(*g);
                *du = *da * (*g * s);
                *dg = *da * *u * (s * (E::ONE + *g * (E::ONE - s)));
            }
        }
    }
}

impl<E: Real> SwiGlu for Cpu<E> {
    fn swiglu(&self, gate: View<Self, E>, up: View<Self, E>, a: Out<Self, E>) {
        assert!(gate.rows == a.rows && up.rows == a.rows && gate.cols == a.cols && up.cols == a.cols);
        self.each(a.row_chunks(16), |(first, mut a)| {
            for t in 0..a.rows {
                E::swiglu_row(gate.row(first + t), up.row(first + t), a.row_mut(t));
            }
        });
    }

    fn swiglu_back(
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
                E::swiglu_back_row(gate.row(row), up.row(row), da.row(row), dgate.row_mut(t), dup.row_mut(t));
            }
        });
    }
}
