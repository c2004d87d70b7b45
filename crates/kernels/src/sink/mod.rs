//! Attention sinks: one learned score per head that takes a share of the softmax and gives nothing
//! (Xiao et al. 2024, arXiv 2309.17453, as GPT-OSS has them).

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Acc, Memory, Out, View};

/// A sink changes finished attention: with `lse` the log-sum-exp of a row's scores and `s` the sink, the output shrinks by
/// `e^lse / (e^lse + e^s)` and `lse` becomes `ln(e^lse + e^s)`. Attention's own backward is then right as it is, because its
/// probabilities are `exp(score - lse)` and sum to less than 1.
pub trait Sink: Memory {
    /// Updates `o [t, n*h]` and `lse [t, n]` by `sinks [1, n]`.
    fn sink(&self, sinks: View<Self, Self::Real>, o: Out<Self, Self::Act>, lse: Out<Self, Self::Real>);
    /// `dsinks += sum_t -exp(s - lse) * (do . o)` per head, in row order; `o` and `lse` as [`Sink::sink`] left them.
    fn sink_back(
        &self,
        sinks: View<Self, Self::Real>,
        o: View<Self, Self::Act>,
        d_o: View<Self, Self::Act>,
        lse: View<Self, Self::Real>,
        dsinks: Acc<Self, Self::Real>,
    );
}
