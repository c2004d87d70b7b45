//! Elementwise over rows.

use super::SwiGlu;
use crate::cpu::simd::vectorise;
use crate::{Cpu, Out, Real, View};

#[inline(always)]
fn sigmoid<E: Real>(x: E) -> E {
    E::ONE / (E::ONE + (-x).exp())
}

impl<E: Real> SwiGlu for Cpu<E> {
    fn swiglu(&self, gate: View<Self, E>, up: View<Self, E>, a: Out<Self, E>) {
        assert!(gate.rows == a.rows && up.rows == a.rows && gate.cols == a.cols && up.cols == a.cols);
        self.each(a.row_chunks(16), |(first, mut a)| {
            vectorise(|| {
                for t in 0..a.rows {
                    let (g, u, a) = (gate.row(first + t), up.row(first + t), a.row_mut(t));
                    (0..a.len()).for_each(|i| a[i] = g[i] * sigmoid(g[i]) * u[i]);
                }
            });
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
            vectorise(|| {
                for t in 0..dgate.rows {
                    let (g, u, da) = (gate.row(first + t), up.row(first + t), da.row(first + t));
                    let (dg, du) = (dgate.row_mut(t), dup.row_mut(t));
                    for i in 0..da.len() {
                        let s = sigmoid(g[i]);
                        du[i] = da[i] * (g[i] * s);
                        dg[i] = da[i] * u[i] * (s * (E::ONE + g[i] * (E::ONE - s)));
                    }
                }
            });
        });
    }
}
