//! Panels of a weight with the update added in f32, a block per row of them; the rest a thread per entry.

use super::{Dora, LowRank};
use crate::cuda::{Activation, Arg, Cuda, Dtype, NO_ROWS, Product, Source, column_sums, count, entries, factor, rows};
use crate::{Acc, Memory, Out, View, Weight};

pub(crate) const SOURCE: Source = Source { name: "dora", text: include_str!("kernel.cu") };
/// Rows of a weight that are updated at a time.
const ROWS: usize = 1024;

/// The same weight in the hands of the same device with f32 activations.
fn in_single<A: Activation>(w: Weight<'_, Cuda<A>>) -> Weight<'_, Cuda<f32>> {
    match w {
        Weight::Param(w) => Weight::Param(w.on()),
        Weight::Half(w) => Weight::Half(w.on()),
        Weight::Stored(s) => Weight::Stored(s),
    }
}

impl<A: Activation> Dora for Cuda<A> {
    fn row_norms(&self, w: Weight<Self>, update: Option<LowRank<Self>>, n: Out<Self, f32>) {
        let (single, (o, i)) = (self.single(), crate::cuda::shape(w));
        assert!(n.rows == 1 && n.cols == o);
        let (mut n, mut scratch) = (n, None);
        let mut sum = single.mat::<f32>(ROWS.min(o), i);
        for first in (0..o).step_by(ROWS) {
            let panel = single.panel(in_single(w), first..(first + ROWS).min(o), &mut scratch);
            let sum = sum.out().rows(0..panel.rows.len());
            single.round(panel.view(i), NO_ROWS, &sum);
            if let Some(LowRank { a, b, scale }) = &update {
                assert!(b.rows == o && a.cols == i && a.rows == b.cols);
                single.product(&Product {
                    shape: [panel.rows.len(), i, a.rows],
                    left: factor(b.rows(panel.rows.clone())),
                    right: factor(*a),
                    dtype: Dtype::F32,
                    out: factor(sum.view()),
                    out_dtype: Dtype::F32,
                    alpha: *scale as f32,
                    add: true,
                });
            }
            let norms = n.again().cols(panel.rows.clone());
            single.launch(&SOURCE, "row_norms", rows(sum.rows, i), &[sum.view().into(), count(i), Arg::from(&norms)]);
        }
    }

    fn scale_columns(&self, m: View<Self, f32>, n: View<Self, f32>, y: Out<Self, A>) {
        assert!(m.cols == y.cols && n.cols == y.cols && m.rows == 1 && n.rows == 1);
        let args = [m.into(), n.into(), count(y.cols), (&y).into()];
        self.launch(&SOURCE, "scale_columns", entries(y.rows, y.cols), &args);
    }

    fn magnitude_back(&self, dy: View<Self, A>, z: View<Self, A>, n: View<Self, f32>, dm: Acc<Self, f32>) {
        assert!(dy.rows == z.rows && dy.cols == z.cols && n.cols == dy.cols && dm.shape() == (1, dy.cols));
        let args = [dy.into(), z.into(), n.into(), count(dy.rows), count(dy.cols), (&dm.0).into()];
        self.launch(&SOURCE, "magnitude_back", column_sums(dy.cols), &args);
    }
}
