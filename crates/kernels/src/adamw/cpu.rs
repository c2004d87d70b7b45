//! One pass over the four arrays.

use super::{Adamw, AdamwStep};
use crate::cpu::simd::{lane_sum, vectorise};
use crate::{Acc, Cpu, Real, View};

/// Elements handed to a thread at a time; also the block of the norm's fixed summation order.
const BLOCK: usize = 1 << 14;

impl<E: Real> Adamw for Cpu<E> {
    fn adamw(&self, s: &AdamwStep, p: Acc<Self, E>, g: View<Self, E>, m: Acc<Self, E>, v: Acc<Self, E>) {
        let n = g.cols;
        assert!(g.rows == 1 && p.shape() == (1, n) && m.shape() == (1, n) && v.shape() == (1, n));
        let correction1 = 1.0 - s.beta1.powf(s.step as f64);
        let correction2 = (1.0 - s.beta2.powf(s.step as f64)).sqrt();
        let (b1, b2) = (E::of(s.beta1), E::of(s.beta2));
        let (c1, c2) = (E::of(1.0 - s.beta1), E::of(1.0 - s.beta2));
        let (decay, rate) = (E::of(1.0 - s.learning_rate * s.weight_decay), E::of(s.learning_rate / correction1));
        let (root, eps, scale) = (E::of(correction2), E::of(s.epsilon), E::of(s.grad_scale));
        let tasks: Vec<_> = p
            .inner()
            .col_chunks(BLOCK)
            .into_iter()
            .zip(m.inner().col_chunks(BLOCK))
            .zip(v.inner().col_chunks(BLOCK))
            .collect();
        self.each(tasks, |(((first, mut p), (_, mut m)), (_, mut v))| {
            vectorise(|| {
                let g = &g.row(0)[first..first + p.cols];
                let (p, m, v) = (p.row_mut(0), m.row_mut(0), v.row_mut(0));
                for i in 0..g.len() {
                    let g = g[i] * scale;
                    m[i] = b1 * m[i] + c1 * g;
                    v[i] = b2 * v[i] + c2 * (g * g);
                    p[i] = p[i] * decay - rate * (m[i] / (v[i].sqrt() / root + eps));
                }
            });
        });
    }

    fn square_norm(&self, g: View<Self, E>) -> f64 {
        assert!(g.rows == 1);
        let g = g.row(0);
        let mut sums = vec![0.0f64; g.len().div_ceil(BLOCK)];
        let tasks: Vec<_> = sums.iter_mut().zip(g.chunks(BLOCK)).collect();
        self.each(tasks, |(sum, g)| *sum = vectorise(|| lane_sum(g.len(), |i| g[i].f64() * g[i].f64())));
        sums.iter().sum()
    }
}
