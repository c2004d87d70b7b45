//! A block per row and group; the weight's gradient a block per 32 columns.

use super::{RmsNorm, RmsNormSaved, forward_groups};
use crate::cuda::{Activation, Arg, Cuda, Grid, Source, blocks, column_sums, count, entries, rows};
use crate::{Acc, Dst, Out, View};

pub(crate) const SOURCE: Source = Source { name: "rmsnorm", text: include_str!("kernel.cu") };

/// A block for every group of `h` columns of every row.
fn per_group(t: usize, groups: usize, h: usize) -> Grid {
    let Grid { blocks: [t, ..], threads, shared } = rows(t, h);
    Grid { blocks: [t, blocks(groups), 1], threads, shared }
}

impl<A: Activation> RmsNorm for Cuda<A> {
    fn rmsnorm(&self, x: View<Self, A>, w: View<Self, f32>, eps: f64, y: Out<Self, A>, rstd: Out<Self, f32>) {
        let g = forward_groups(&x, &w, &y, rstd.shape());
        let args = [x.into(), w.into(), Arg::from(eps as f32), count(w.cols), (&y).into(), (&rstd).into()];
        self.launch(&SOURCE, "rmsnorm", per_group(x.rows, g, w.cols), &args);
    }

    fn rmsnorm_again(&self, x: View<Self, A>, w: View<Self, f32>, rstd: View<Self, f32>, y: Out<Self, A>) {
        forward_groups(&x, &w, &y, rstd.shape());
        let args = [x.into(), w.into(), rstd.into(), count(w.cols), count(x.cols), (&y).into()];
        self.launch(&SOURCE, "rmsnorm_again", entries(x.rows, x.cols), &args);
    }

    fn rmsnorm_back<'a>(
        &self,
        saved: RmsNormSaved<'_, Self>,
        dy: View<Self, A>,
        dx: impl Into<Dst<'a, Self, A>>,
        dw: Option<Acc<Self, f32>>,
    ) {
        let Dst { out: dx, add } = dx.into();
        let g = saved.groups(&dy, &dx, dw.as_ref());
        let RmsNormSaved { x, w, rstd } = saved;
        let h = w.cols;
        if let Some(dw) = dw {
            let args = [x.into(), rstd.into(), dy.into(), count(x.rows), count(g), count(h), (&dw.0).into()];
            self.launch(&SOURCE, "rmsnorm_weight", column_sums(h), &args);
        }
        let args = [x.into(), w.into(), rstd.into(), dy.into(), count(h), (&dx).into(), Arg::from(u32::from(add))];
        self.launch(&SOURCE, "rmsnorm_back", per_group(x.rows, g, h), &args);
    }
}
