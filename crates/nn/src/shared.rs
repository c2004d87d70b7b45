//! Shared experts: a feed-forward layer that every row goes through beside its routed experts.

use crate::{Context, Grads, Linear, LinearSaved, Mlp, MlpSaved};
use kernels::{Backend, Dst, Mat, Out, Real, View};

/// A feed-forward layer, weighted by the sigmoid of a linear layer where there is one.
pub struct SharedExpert<B: Backend> {
    /// The layer.
    pub mlp: Mlp<B>,
    /// `[1, d]`.
    pub gate: Option<Linear<B>>,
}

/// What backward needs beside the input.
pub struct SharedSaved<B: Backend> {
    mlp: MlpSaved<B>,
    gate: Option<GateSaved<B>>,
}

struct GateSaved<B: Backend> {
    /// The layer's output before it is weighted, `[t, d]`.
    raw_td: Mat<B>,
    /// Weights, `[t]`.
    weights: Vec<B::Real>,
    linear: LinearSaved<B>,
}

impl<B: Backend> SharedExpert<B> {
    /// Whether some parameter of it is trained.
    pub fn is_trained(&self) -> bool {
        self.mlp.is_trained() || self.gate.as_ref().is_some_and(Linear::is_trained)
    }

    /// `x [t, d]` to `y [t, d]`.
    pub fn forward(&self, ctx: &Context<B>, x: View<B, B::Act>, mut y: Out<B, B::Act>) -> SharedSaved<B> {
        let k = ctx.backend;
        let Some(gate) = &self.gate else {
            return SharedSaved { mlp: self.mlp.forward(ctx, x, y), gate: None };
        };
        let mut raw_td = k.mat(x.rows, y.cols);
        let mlp = self.mlp.forward(ctx, x, raw_td.out());
        let mut logits = k.mat(x.rows, 1);
        let linear = gate.forward(ctx, x, logits.out());
        let weights = k.sigmoids(logits.view());
        k.copy(raw_td.view(), y.again());
        k.scale_rows(&weights, y);
        SharedSaved { mlp, gate: Some(GateSaved { raw_td, weights, linear }) }
    }

    /// Adds the parameters' gradients and writes `dx`.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        x: View<B, B::Act>,
        saved: &SharedSaved<B>,
        dy: View<B, B::Act>,
        mut dx: Out<B, B::Act>,
    ) {
        let k = ctx.backend;
        let (Some(gate), Some(kept)) = (&self.gate, &saved.gate) else {
            return self.mlp.backward(ctx, grads, x, &saved.mlp, dy, dx);
        };
        let mut weighted = k.mat(dy.rows, dy.cols);
        k.copy(dy, weighted.out());
        k.scale_rows(&kept.weights, weighted.out());
        self.mlp.backward(ctx, grads, x, &saved.mlp, weighted.view(), dx.again());
        let dots = k.row_dots(dy, kept.raw_td.view());
        let slopes: Vec<B::Real> = dots.iter().zip(&kept.weights).map(|(d, w)| *d * *w * (B::Real::ONE - *w)).collect();
        let mut dlogits = k.mat(x.rows, 1);
        k.column(&slopes, dlogits.out());
        gate.backward(ctx, grads, x, &kept.linear, dlogits.view(), Some(Dst::from(dx.into_acc())));
    }
}
