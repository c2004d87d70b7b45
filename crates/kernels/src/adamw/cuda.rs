//! A thread per parameter; the norm a block per run of them, joined on the host in their order.

use super::{Adamw, AdamwStep};
use crate::cuda::{Activation, Arg, Cuda, Grid, Source, blocks, line};
use crate::{Acc, Memory, View};

pub(crate) const SOURCE: Source = Source { name: "adamw", text: include_str!("kernel.cu") };
/// Entries that a block squares and sums, as in the kernel.
const BLOCK: usize = 1 << 14;

/// What an update needs of a step, in the kernels' order.
pub(crate) fn numbers(s: &AdamwStep) -> [f32; 9] {
    let all = [
        s.beta1,
        s.beta2,
        1.0 - s.beta1,
        1.0 - s.beta2,
        1.0 - s.learning_rate * s.weight_decay,
        s.learning_rate / (1.0 - s.beta1.powf(s.step as f64)),
        s.epsilon,
        s.grad_scale,
        (1.0 - s.beta2.powf(s.step as f64)).sqrt(),
    ];
    all.map(|x| x as f32)
}

impl<A: Activation> Adamw for Cuda<A> {
    fn adamw(&self, s: &AdamwStep, p: Acc<Self, f32>, g: View<Self, f32>, m: Acc<Self, f32>, v: Acc<Self, f32>) {
        let n = g.cols;
        assert!(g.rows == 1 && p.shape() == (1, n) && m.shape() == (1, n) && v.shape() == (1, n));
        let numbers = self.given(&numbers(s));
        let [p, m, v] = [&p, &m, &v].map(|x| Arg::from(&x.0));
        self.launch(&SOURCE, "adamw", line(n), &[p, g.into(), m, v, Arg::from(n as u64), (&numbers).into()]);
    }

    fn square_norm(&self, g: View<Self, f32>) -> f64 {
        assert!(g.rows == 1);
        let parts = g.cols.div_ceil(BLOCK);
        let sums = self.mat::<f64>(1, parts);
        let grid = Grid { blocks: [blocks(parts), 1, 1], threads: 256, shared: 0 };
        self.launch(&SOURCE, "square_norm", grid, &[g.into(), Arg::from(g.cols as u64), (&sums).into()]);
        self.to_host(sums.view()).iter().sum()
    }
}
