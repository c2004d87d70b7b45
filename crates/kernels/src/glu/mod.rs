//! The gated activation of a feed-forward layer (Shazeer 2020, arXiv 2002.05202).

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};

/// The activation `g` on the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// `x * sigma(x)`, SwiGLU's.
    #[default]
    Silu,
    /// `x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x³)))`, GELU by its tanh approximation, GeGLU's.
    Gelu,
}

/// `a = g(gate) * up`. All matrices `[t, f]`.
pub trait Glu: Memory {
    /// Writes `a`.
    fn glu(&self, g: Gate, gate: View<Self, Self::Act>, up: View<Self, Self::Act>, a: Out<Self, Self::Act>);
    /// Writes `a` over `gate`, where no backward will ask for it; the same bits.
    fn glu_over(&self, g: Gate, up: View<Self, Self::Act>, gate_to_a: Out<Self, Self::Act>);
    /// `dgate = da * up * g'(gate)`, `dup = da * g(gate)`; `inputs` are `[gate, up]`. `dup` is written over `da`: these
    /// are the widest matrices of a backward pass, and of them its peak is made.
    fn glu_back(
        &self,
        g: Gate,
        inputs: [View<Self, Self::Act>; 2],
        dgate: Out<Self, Self::Act>,
        da_to_dup: Out<Self, Self::Act>,
    );
}
