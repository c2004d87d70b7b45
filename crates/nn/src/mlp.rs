//! The gated feed-forward layer: `down(g(gate(x)) * up(x))`, `g` SiLU or GELU.

use crate::{Context, Grads, Linear, LinearSaved};
use kernels::{Backend, Dst, Gate, Mat, Out, View};

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

    /// As [`Mlp::forward`], of rows that no backward will come to: a third less memory.
    pub fn apply(&self, ctx: &Context<B>, x: View<B, B::Act>, y: Out<B, B::Act>) {
        let k = ctx.backend;
        let (mut gate_tf, mut up_tf) = (k.mat(x.rows, self.gate.outputs), k.mat(x.rows, self.gate.outputs));
        self.gate.forward(ctx, x, gate_tf.out());
        self.up.forward(ctx, x, up_tf.out());
        k.glu_over(self.activation, up_tf.view(), gate_tf.out());
        drop(up_tf);
        self.down.forward(ctx, gate_tf.view(), y);
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
        k.glu(self.activation, gate_tf.view(), up_tf.view(), a_tf.out());
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
        k.glu(self.activation, gate, up, a_tf.out());
        let mut da_tf = k.mat(x.rows, gate.cols);
        self.down.backward(ctx, grads, a_tf.view(), &saved.down, dy, Some(da_tf.out().into()));
        // The product's room is free now: it takes one of the two gradients, that of the product becomes the other.
        let (mut dgate_tf, mut dup_tf) = (a_tf, da_tf);
        k.glu_back(self.activation, [gate, up], dgate_tf.out(), dup_tf.out());
        self.gate.backward(ctx, grads, x, &saved.gate, dgate_tf.view(), Some(dx.again().into()));
        self.up.backward(ctx, grads, x, &saved.up, dup_tf.view(), Some(Dst::from(dx.into_acc())));
    }
}
