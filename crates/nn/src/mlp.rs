//! The gated feed-forward layer: `down(g(gate(x)) * up(x))`, `g` SiLU or GELU.

use crate::{Context, Grads, Linear, LinearSaved};
use kernels::{Backend, Dst, Mat, Out, View};

/// The activation on the gate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Gate {
    /// `x * sigma(x)`.
    #[default]
    Silu,
    /// GELU by its tanh approximation.
    Gelu,
}

impl Gate {
    /// `a = g(gate) * up`.
    pub(crate) fn forward<B: Backend>(self, k: &B, gate: View<B, B::Act>, up: View<B, B::Act>, a: Out<B, B::Act>) {
        match self {
            Gate::Silu => k.swiglu(gate, up, a),
            Gate::Gelu => k.geglu(gate, up, a),
        }
    }

    /// From `da` to `[dgate, dup]`.
    pub(crate) fn backward<B: Backend>(
        self,
        k: &B,
        [gate, up, da]: [View<B, B::Act>; 3],
        [dgate, dup]: [Out<B, B::Act>; 2],
    ) {
        match self {
            Gate::Silu => k.swiglu_back(gate, up, da, dgate, dup),
            Gate::Gelu => k.geglu_back(gate, up, da, dgate, dup),
        }
    }
}

/// Three projections and a gate.
pub struct Mlp<B: Backend> {
    /// `[f, d]`.
    pub gate: Linear<B>,
    /// `[f, d]`.
    pub up: Linear<B>,
    /// `[d, f]`.
    pub down: Linear<B>,
    /// The activation.
    pub activation: Gate,
}

/// What backward needs beside the input; the gated product is computed again.
pub struct MlpSaved<B: Backend> {
    gate_tf: Mat<B>,
    up_tf: Mat<B>,
    gate: LinearSaved<B>,
    up: LinearSaved<B>,
    down: LinearSaved<B>,
}

impl<B: Backend> Mlp<B> {
    /// Whether some parameter of it is trained.
    pub fn is_trained(&self) -> bool {
        [&self.gate, &self.up, &self.down].iter().any(|l| l.is_trained())
    }

    /// `x [t, d]` to `y [t, d]`.
    pub fn forward(&self, ctx: &Context<B>, x: View<B, B::Act>, y: Out<B, B::Act>) -> MlpSaved<B> {
        self.first(ctx, x, |a| self.down.forward(ctx, a, y))
    }

    /// What [`Mlp::forward`] saved of `x`, without its last product.
    pub fn again(&self, ctx: &Context<B>, x: View<B, B::Act>) -> MlpSaved<B> {
        self.first(ctx, x, |a| self.down.again(ctx, a))
    }

    /// Up to the gated product, which `down` takes on.
    fn first(
        &self,
        ctx: &Context<B>,
        x: View<B, B::Act>,
        down: impl FnOnce(View<B, B::Act>) -> LinearSaved<B>,
    ) -> MlpSaved<B> {
        let k = ctx.backend;
        let f = self.gate.outputs;
        let (mut gate_tf, mut up_tf, mut a_tf) = (k.mat(x.rows, f), k.mat(x.rows, f), k.mat(x.rows, f));
        let gate = self.gate.forward(ctx, x, gate_tf.out());
        let up = self.up.forward(ctx, x, up_tf.out());
        self.activation.forward(k, gate_tf.view(), up_tf.view(), a_tf.out());
        let down = down(a_tf.view());
        MlpSaved { gate_tf, up_tf, gate, up, down }
    }

    /// Adds the parameters' gradients and writes `dx`.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        x: View<B, B::Act>,
        saved: &MlpSaved<B>,
        dy: View<B, B::Act>,
        mut dx: Out<B, B::Act>,
    ) {
        let k = ctx.backend;
        let (gate, up) = (saved.gate_tf.view(), saved.up_tf.view());
        let mut a_tf = k.mat(x.rows, gate.cols);
        self.activation.forward(k, gate, up, a_tf.out());
        let mut da_tf = k.mat(x.rows, gate.cols);
        self.down.backward(ctx, grads, a_tf.view(), &saved.down, dy, Some(da_tf.out().into()));
        // The product's room is free now: it takes one of the two gradients.
        let (mut dgate_tf, mut dup_tf) = (a_tf, k.mat(x.rows, gate.cols));
        self.activation.backward(k, [gate, up, da_tf.view()], [dgate_tf.out(), dup_tf.out()]);
        self.gate.backward(ctx, grads, x, &saved.gate, dgate_tf.view(), Some(dx.again().into()));
        self.up.backward(ctx, grads, x, &saved.up, dup_tf.view(), Some(Dst::from(dx.into_acc())));
    }
}
