//! The gated activation of Gemma's feed-forward layers (Shazeer 2020, arXiv 2002.05202).

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};

/// `a = gelu(gate) * up`, `gelu(x) = x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x³)))`. All matrices `[t, f]`.
pub trait GeGlu: Memory {
    /// Writes `a`.
    fn geglu(&self, gate: View<Self, Self::Act>, up: View<Self, Self::Act>, a: Out<Self, Self::Act>);
    /// `dgate = da * up * gelu'(gate)`, `dup = da * gelu(gate)`.
    fn geglu_back(
        &self,
        gate: View<Self, Self::Act>,
        up: View<Self, Self::Act>,
        da: View<Self, Self::Act>,
        dgate: Out<Self, Self::Act>,
        dup: Out<Self, Self::Act>,
    );
}
