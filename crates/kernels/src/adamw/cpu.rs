//! One pass over the four arrays.

use super::{Adamw, AdamwStep};
use crate::cpu::simd::{lane_sum, loops};
use crate::{Acc, Cpu, Real, View};

/// Elements handed to a thread at a time; also the block of the norm's fixed summation order.
const BLOCK: usize = 1 << 14;

loops! {
    /// One block.
    trait AdamwLoops {
        fn adamw_block(s: &AdamwStep, p: &mut [E], g: &[E], m: &mut [E], v: &mut [E]) {
            let correction1 = 1.0 - s.beta1.powf(s.step as f64);
            let root = E::of((1.0 - s.beta2.powf(s.step as f64)).sqrt());
            let (b1, b2) = (E::of(s.beta1), E::of(s.beta2));
            let (c1, c2) = (E::of(1.0 - s.beta1), E::of(1.0 - s.beta2));
            let (decay, rate) = (E::of(1.0 - s.learning_rate * s.weight_decay), E::of(s.learning_rate / correction1));
            let (eps, scale) = (E::of(s.epsilon), E::of(s.grad_scale));
            for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
                let g = *g * scale;
                *m = b1 * *m + c1 * g;
                *v = b2 * *v + c2 * (g * g);
                *p = *p * decay - rate * (*m / (v.sqrt() / root + eps));
            }
        }
        fn square_sum(g: &[E]) -> f64 {
            lane_sum([g], |[g]| g.f64() * g.f64())
        }
    }
}

impl<E: Real> Adamw for Cpu<E> {
    fn adamw(&self, s: &AdamwStep, p: Acc<Self, E>, g: View<Self, E>, m: Acc<Self, E>, v: Acc<Self, E>) {
        let n = g.cols;
        assert!(g.rows == 1 && p.shape() == (1, n) && m.shape() == (1, n) && v.shape() == (1, n));
        let [p, m, v] = [p, m, v].map(|x| x.inner().col_chunks(BLOCK).into_iter());
        let tasks = p.zip(m).zip(v).collect();
        self.each(tasks, |(((first, mut p), (_, mut m)), (_, mut v))| {
            E::adamw_block(s, p.row_mut(0), &g.row(0)[first..], m.row_mut(0), v.row_mut(0));
        });
    }

    fn square_norm(&self, g: View<Self, E>) -> f64 {
        assert!(g.rows == 1);
        let g = g.row(0);
        let mut sums = vec![0.0f64; g.len().div_ceil(BLOCK)];
        let tasks: Vec<_> = sums.iter_mut().zip(g.chunks(BLOCK)).collect();
        self.each(tasks, |(sum, g)| *sum = E::square_sum(g));
        sums.iter().sum()
    }
}
