//! The router of a mixture of experts: a small linear layer, the choice, and the load-balancing loss.

use crate::{Context, Grads, Linear, LinearSaved, Part};
use kernels::{Backend, Balance, Dst, Mat, Real, RouteShape, Routed, View};

/// What a load-balancing loss needs of some rows, and what it gives back to them.
#[derive(Clone, Debug)]
pub struct Balancing<R> {
    /// How many sequences each row counts for, `[t]`.
    pub counts: Vec<R>,
    /// The loss's derivative by each expert's summed probability, `[e]`; empty until the loads of all rows are known.
    pub push: Vec<R>,
}

/// How some rows were routed, summed over layers: what the load-balancing loss is made of.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouterLoad {
    /// Rows sent to each expert, `[e]`.
    pub assigned: Vec<f64>,
    /// Sums of the probabilities of each expert, `[e]`.
    pub probability: Vec<f64>,
    /// Rows.
    pub rows: f64,
}

impl RouterLoad {
    /// Takes in the load of other rows, or of the same rows in another layer.
    pub fn add(&mut self, other: &RouterLoad) {
        let longer = |a: &mut Vec<f64>, b: &[f64]| {
            a.resize(a.len().max(b.len()), 0.0);
            a.iter_mut().zip(b).for_each(|(a, b)| *a += b);
        };
        longer(&mut self.assigned, &other.assigned);
        longer(&mut self.probability, &other.probability);
        self.rows += other.rows;
    }

    /// The load-balancing loss of the Switch transformer (Fedus et al. 2022, arXiv 2101.03961) as transformers computes it:
    /// experts times `sum_e f_e P_e`, `f` the share of rows sent to an expert and `P` its mean probability.
    pub fn loss(&self) -> f64 {
        let products = self.assigned.iter().zip(&self.probability).map(|(f, p)| f * p);
        self.assigned.len() as f64 * products.sum::<f64>() / (self.rows * self.rows).max(1.0)
    }

    /// Its derivative by each expert's summed probability, times `coefficient`. The choice has no gradient.
    pub fn push(&self, coefficient: f64) -> Vec<f64> {
        let factor = coefficient * self.assigned.len() as f64 / (self.rows * self.rows).max(1.0);
        self.assigned.iter().map(|f| factor * f).collect()
    }
}

/// Logits of experts, and how weights come of them.
pub struct Router<B: Backend> {
    /// `[e, d]`.
    pub linear: Linear<B>,
    /// Added to the scores for the choice only, `[1, e]`; never trained.
    pub correction: Option<Mat<B, B::Real>>,
    /// The choice.
    pub shape: RouteShape,
}

/// What backward needs beside the input.
pub struct RouterSaved<B: Backend> {
    logits_te: Mat<B>,
    pub(crate) routed: Routed<B::Real>,
    linear: LinearSaved<B>,
    pub(crate) load: Option<RouterLoad>,
}

impl<B: Backend> Router<B> {
    /// Chooses for every row of `x [t, d]`; measures the load where the part is to be balanced.
    pub fn forward(&self, ctx: &Context<B>, part: &Part<B>, x: View<B, B::Act>) -> RouterSaved<B> {
        let k = ctx.backend;
        let mut logits_te = k.mat(x.rows, self.shape.experts);
        let linear = self.linear.forward(ctx, x, logits_te.out());
        let routed = k.route(&self.shape, logits_te.view(), self.correction.as_ref().map(Mat::view));
        let load = part.balancing.as_ref().map(|b| {
            let mut assigned = vec![0.0; self.shape.experts];
            for (chosen, count) in routed.experts.chunks_exact(self.shape.chosen).zip(&b.counts) {
                chosen.iter().for_each(|&e| assigned[e as usize] += count.f64());
            }
            let probability = k.route_load(logits_te.view(), &b.counts);
            RouterLoad { assigned, probability, rows: b.counts.iter().map(|c| c.f64()).sum() }
        });
        RouterSaved { logits_te, routed, linear, load }
    }

    /// From the gradients `dweights [t, c]` of the weights to that of `x`, which is added to `dx`.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        part: &Part<B>,
        x: View<B, B::Act>,
        saved: &RouterSaved<B>,
        dweights: &[B::Real],
        dx: Dst<B, B::Act>,
    ) {
        let mut dlogits_te = ctx.backend.mat(x.rows, self.shape.experts);
        let balancing = part.balancing.as_ref().filter(|b| !b.push.is_empty());
        let balance = balancing.map(|b| Balance { counts: &b.counts, push: &b.push });
        let (logits, routed) = (saved.logits_te.view(), &saved.routed);
        ctx.backend.route_back(&self.shape, logits, routed, dweights, balance, dlogits_te.out());
        self.linear.backward(ctx, grads, x, &saved.linear, dlogits_te.view(), Some(dx));
    }
}
