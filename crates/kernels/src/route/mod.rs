//! The router of a mixture-of-experts layer: from logits over all experts to a few experts and their weights, per row.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};

/// How logits become weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Gating {
    /// Softmax over all experts; weights are the probabilities of the chosen ones.
    Softmax,
    /// Softmax over the chosen ones only; the same as dividing the probabilities of [`Gating::Softmax`] by their sum.
    SoftmaxOfChosen,
    /// Sigmoid, a correction added for the choice only, and experts in groups of which only some can be chosen
    /// (DeepSeek-AI 2024, arXiv 2412.19437).
    Sigmoid {
        /// Groups that the experts are cut into.
        groups: usize,
        /// Groups that stay, by the sum of their two best.
        kept_groups: usize,
        /// Divide weights by their sum.
        normalise: bool,
        /// Factor of the weights.
        scale: f64,
    },
}

/// A router's shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RouteShape {
    /// Experts, `e`.
    pub experts: usize,
    /// Experts per row, `c`.
    pub chosen: usize,
    /// Weights.
    pub gating: Gating,
}

/// Chosen experts and their weights, row by row, best first. Of equal logits the lower expert wins.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Routed<R> {
    /// `[t, c]`.
    pub experts: Vec<u32>,
    /// `[t, c]`.
    pub weights: Vec<R>,
}

/// The gradient of a load-balancing loss `sum_t counts[t] * sum_e push[e] * p[t, e]`, `p` the softmax over all experts.
#[derive(Clone, Copy, Debug)]
pub struct Balance<'a, R> {
    /// How many sequences each row counts for, `[t]`.
    pub counts: &'a [R],
    /// `[e]`.
    pub push: &'a [R],
}

/// Routing.
pub trait Route: Memory {
    /// Chooses experts by `logits [t, e]`; `correction [1, e]` is for sigmoid gating.
    fn route(
        &self,
        shape: &RouteShape,
        logits_te: View<Self, Self::Act>,
        correction: Option<View<Self, Self::Real>>,
    ) -> Routed<Self::Real>;
    /// `sum_t counts[t] * softmax(logits[t])`, `[e]`, in row order.
    fn route_load(&self, logits_te: View<Self, Self::Act>, counts: &[Self::Real]) -> Vec<f64>;
    /// Writes `dlogits` from the gradients `dweights [t, c]` of the weights; the choice itself has none.
    fn route_back(
        &self,
        shape: &RouteShape,
        logits_te: View<Self, Self::Act>,
        routed: &Routed<Self::Real>,
        dweights: &[Self::Real],
        balance: Option<Balance<Self::Real>>,
        dlogits_te: Out<Self, Self::Act>,
    );
}
