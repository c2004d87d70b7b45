//! The gated activation of a decoder's feed-forward layer (Shazeer 2020, arXiv 2002.05202).

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};

/// `a = silu(gate) * up`, `silu(x) = x * sigma(x)`. All matrices `[t, f]`.
pub trait SwiGlu: Memory {
    /// Writes `a`.
    fn swiglu(&self, gate: View<Self, Self::Act>, up: View<Self, Self::Act>, a: Out<Self, Self::Act>);
    /// `dgate = da * up * sigma(gate) * (1 + gate * (1 - sigma(gate)))`, `dup = da * silu(gate)`.
    fn swiglu_back(
        &self,
        gate: View<Self, Self::Act>,
        up: View<Self, Self::Act>,
        da: View<Self, Self::Act>,
        dgate: Out<Self, Self::Act>,
        dup: Out<Self, Self::Act>,
    );
}
