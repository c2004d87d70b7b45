//! The language-model head: log-probabilities of given tokens without ever holding a `[tokens, vocabulary]` matrix.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Acc, Memory, Out, View, Weight};

/// What the head says of each scored row.
#[derive(Clone, Debug, Default)]
pub struct HeadScores<R> {
    /// `log softmax(h Wᵀ)[token]`, nats, `[s]`.
    pub logp: Vec<R>,
    /// Log-sum-exp of the logits, `[s]`; saved for backward.
    pub lse: Vec<R>,
    /// Statistics of the whole distribution, when asked for.
    pub extra: Option<HeadExtra<R>>,
}

/// Statistics of the next-token distribution.
#[derive(Clone, Debug, Default)]
pub struct HeadExtra<R> {
    /// Entropy, nats, `[s]`.
    pub entropy: Vec<R>,
    /// Mean logit over the vocabulary, `[s]`.
    pub mean_logit: Vec<R>,
    /// Most likely token (the first of equals), `[s]`.
    pub argmax: Vec<u32>,
}

/// What a later backward pass will want of scored rows.
#[derive(Default)]
pub enum ForBackward<'a, B: Memory> {
    /// None will come, or it computes the logits again.
    #[default]
    Nothing,
    /// Through a frozen head: receives `d logp_s / d h_s = w[token_s] - sum_v p_v w[v]`, `[s, d]`. The loss sees one scalar
    /// per sequence, so backward is that row times the scalar, and logits are computed once.
    Unit(Out<'a, B, B::Act>),
    /// Through a trained head: receives the logits of the first entries of the vocabulary, `[first, s]`, as many as there is
    /// room for; the others are computed again.
    Logits(Out<'a, B, B::Act>),
}

/// Scored rows that a head works on at one time. Who cuts rows at multiples of it changes no bit of a result.
pub const HEAD_ROWS: usize = 256;

/// Scoring rows streams over vocabulary tiles with a running maximum and sum, as flash attention does over keys
/// (Dao et al. 2022; Wijmans et al. 2024, arXiv 2411.09009).
pub trait Head: Memory {
    /// Scores `tokens [s]` under `h [s, d]` and `w [v, d]`.
    fn head(
        &self,
        h_sd: View<Self, Self::Act>,
        w_vd: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        backward: ForBackward<Self>,
    ) -> HeadScores<Self::Real>;
    /// Backward through a trained head: with `dlogits = coefficient_s * (onehot(token_s) - p)`, `dh = dlogits W`, `dw += dlogitsᵀ h`.
    fn head_back(
        &self,
        h_sd: View<Self, Self::Act>,
        w_vd: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh_sd: Out<Self, Self::Act>,
        dw_vd: Acc<Self, Self::Real>,
    );
    /// All logits of a few rows, `[s, v]` (sampling, tests).
    fn logits(&self, h_sd: View<Self, Self::Act>, w_vd: Weight<Self>) -> Vec<Self::Real>;
}

/// What backward needs of the forward pass, and the derivative of the loss.
pub struct HeadSaved<'a, B: Memory> {
    /// Scored tokens, `[s]`.
    pub tokens: &'a [u32],
    /// Log-sum-exp, `[s]`.
    pub lse: &'a [B::Real],
    /// `d loss / d logp`, `[s]`.
    pub coefficient: &'a [B::Real],
    /// What [`ForBackward::Logits`] received, to be overwritten.
    pub logits: Option<Out<'a, B, B::Act>>,
}

impl<'a, B: Memory> ForBackward<'a, B> {
    /// The same memory in the hands of another backend.
    pub(crate) fn on<C: Memory<Act = B::Act>>(self) -> ForBackward<'a, C> {
        match self {
            ForBackward::Nothing => ForBackward::Nothing,
            ForBackward::Unit(unit) => ForBackward::Unit(unit.on()),
            ForBackward::Logits(logits) => ForBackward::Logits(logits.on()),
        }
    }
}

impl<'a, B: Memory> HeadSaved<'a, B> {
    /// The same memory in the hands of another backend.
    pub(crate) fn on<C: Memory<Act = B::Act, Real = B::Real>>(self) -> HeadSaved<'a, C> {
        let HeadSaved { tokens, lse, coefficient, logits } = self;
        HeadSaved { tokens, lse, coefficient, logits: logits.map(Out::on) }
    }
}
