//! The language-model head of models that cap their logits (Gemma 2): `cap * tanh(h Wᵀ / cap)` in the place of `h Wᵀ`.

pub(crate) mod cpu;

use crate::{Acc, HeadSaved, HeadScores, Memory, Out, View, Weight};

/// As [`crate::Head`], operator by operator, with capped logits. A room of its own, so that the plain head pays nothing.
pub trait CappedHead: Memory {
    /// As [`crate::Head::head`]; no logits are kept, and `unit` receives `slope[token] w[token] - sum_v p_v slope[v] w[v]`, `slope = 1 - tanh²`.
    fn capped_head(
        &self,
        cap: f64,
        h_sd: View<Self, Self::Act>,
        w_vd: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        unit: Option<Out<Self, Self::Act>>,
    ) -> HeadScores<Self::Real>;
    /// As [`crate::Head::head_back`].
    fn capped_head_back(
        &self,
        cap: f64,
        h_sd: View<Self, Self::Act>,
        w_vd: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh_sd: Out<Self, Self::Act>,
        dw_vd: Acc<Self, Self::Real>,
    );
    /// As [`crate::Head::logits`].
    fn capped_logits(&self, cap: f64, h_sd: View<Self, Self::Act>, w_vd: Weight<Self>) -> Vec<Self::Real>;
}
