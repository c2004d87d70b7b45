//! A thread per row; what was chosen goes to the host, which sorts rows by expert.

use super::{Balance, Gating, Route, RouteShape, Routed};
use crate::cuda::{Activation, Arg, Cuda, Given, Grid, Source, blocks, column_sums, count};
use crate::{Memory, Out, View};

pub(crate) const SOURCE: Source = Source { name: "route", text: include_str!("kernel.cu") };

/// A thread per row, 32 of a block.
fn per_row(rows: usize) -> Grid {
    Grid { blocks: [blocks(rows.div_ceil(32)), 1, 1], threads: 32, shared: 0 }
}

impl<A: Activation> Cuda<A> {
    /// The shape as the kernels read it, and the factor of sigmoid gating.
    fn route_shape(&self, shape: &RouteShape, rows: usize) -> (Given<u32>, Arg) {
        let (gating, scale) = match shape.gating {
            Gating::Softmax => ([0, 1, 1, 0], 1.0),
            Gating::SoftmaxOfChosen => ([1, 1, 1, 0], 1.0),
            Gating::Sigmoid { groups, kept_groups, normalise, scale } => {
                ([2, groups, kept_groups, usize::from(normalise)], scale)
            }
        };
        let numbers = [rows, shape.experts, shape.chosen].into_iter().chain(gating).map(|n| n as u32);
        (self.given(&numbers.collect::<Vec<_>>()), Arg::from(scale as f32))
    }
}

impl<A: Activation> Route for Cuda<A> {
    fn route(&self, shape: &RouteShape, logits: View<Self, A>, correction: Option<View<Self, f32>>) -> Routed<f32> {
        let (t, e, c) = (logits.rows, shape.experts, shape.chosen);
        assert!(logits.cols == e && (1..=e).contains(&c), "{} logits, {shape:?}", logits.cols);
        assert!(correction.is_none_or(|b| b.rows == 1 && b.cols == e), "{shape:?}");
        let (numbers, scale) = self.route_shape(shape, t);
        let (scratch, experts, weights) = (self.mat::<f32>(t, 2 * e), self.mat::<u32>(t, c), self.mat::<f32>(t, c));
        let correction = correction.map_or(Arg::from(0u64), Arg::from);
        let results = [Arg::from(&scratch), Arg::from(&experts), Arg::from(&weights)];
        let args = [&[logits.into(), correction, (&numbers).into(), scale][..], &results].concat();
        self.launch(&SOURCE, "route", per_row(t), &args);
        Routed { experts: self.to_host(experts.view()), weights: self.to_host(weights.view()) }
    }

    fn route_load(&self, logits: View<Self, A>, counts: &[f32]) -> Vec<f64> {
        let (t, e) = (logits.rows, logits.cols);
        assert!(counts.len() == t, "{} counts for {t} rows", counts.len());
        let (p, counts, load) = (self.mat::<f32>(t, e), self.given(counts), self.mat::<f64>(1, e));
        self.launch(&SOURCE, "route_probabilities", per_row(t), &[logits.into(), count(t), count(e), (&p).into()]);
        let args = [(&p).into(), (&counts).into(), count(t), count(e), (&load).into()];
        self.launch(&SOURCE, "route_load", column_sums(e), &args);
        self.to_host(load.view())
    }

    fn route_back(
        &self,
        shape: &RouteShape,
        logits: View<Self, A>,
        routed: &Routed<f32>,
        dweights: &[f32],
        balance: Option<Balance<f32>>,
        dlogits: Out<Self, A>,
    ) {
        let (t, e, c) = (logits.rows, shape.experts, shape.chosen);
        assert!(dlogits.rows == t && dlogits.cols == logits.cols && logits.cols == e && dweights.len() == t * c);
        assert!(balance.is_none_or(|b| b.counts.len() == t && b.push.len() == e));
        let (numbers, scale) = self.route_shape(shape, t);
        let (experts, weights) = (self.given(&routed.experts), self.given(&routed.weights));
        let (dweights, scratch) = (self.given(dweights), self.mat::<f32>(t, 2 * e));
        let balance = balance.map(|b| [self.given(b.counts), self.given(b.push)]);
        let [counts, push] = balance.as_ref().map_or([Arg::from(0u64); 2], |b| b.each_ref().map(Arg::from));
        let given = [logits.into(), (&numbers).into(), scale, (&experts).into(), (&weights).into(), (&dweights).into()];
        let args = [&given[..], &[counts, push, (&scratch).into(), (&dlogits).into()]].concat();
        self.launch(&SOURCE, "route_back", per_row(t), &args);
    }
}
