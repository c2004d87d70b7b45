//! Root-mean-square norm, over rows or over heads.

use crate::{Context, Grads, Vector};
use kernels::{Backend, Dst, Mat, RmsNormSaved, View};

/// `y = x / rms(x) * weight`, over groups of `weight.len()` columns.
pub struct Norm<B: Backend> {
    /// `[1, h]`.
    pub weight: Vector<B>,
    /// Added to the mean square.
    pub eps: f64,
    /// Whether the weight is stored around zero, and one is to be added.
    pub one_plus: bool,
}

/// What backward needs beside the input.
pub struct NormSaved<B: Backend> {
    rstd: Mat<B, B::Real>,
}

impl<B: Backend> Norm<B> {
    /// Runs `work` with the weight as it multiplies.
    fn with_weight<R>(&self, ctx: &Context<B>, work: impl FnOnce(View<B, B::Real>) -> R) -> R {
        let w = self.weight.view(&ctx.params);
        if !self.one_plus {
            return work(w);
        }
        let mut plus = ctx.backend.mat(1, w.cols);
        ctx.backend.one_plus(w, plus.out());
        work(plus.view())
    }

    /// Normalises; returns the output and what backward needs.
    pub fn forward(&self, ctx: &Context<B>, x: View<B, B::Act>) -> (Mat<B>, NormSaved<B>) {
        self.with_weight(ctx, |w| {
            let (mut y, mut rstd) = (ctx.backend.mat(x.rows, x.cols), ctx.backend.mat(x.rows, x.cols / w.cols));
            ctx.backend.rmsnorm(x, w, self.eps, y.out(), rstd.out());
            (y, NormSaved { rstd })
        })
    }

    /// The output once more.
    pub fn again(&self, ctx: &Context<B>, x: View<B, B::Act>, saved: &NormSaved<B>) -> Mat<B> {
        let mut y = ctx.backend.mat(x.rows, x.cols);
        self.with_weight(ctx, |w| ctx.backend.rmsnorm_again(x, w, saved.rstd.view(), y.out()));
        y
    }

    /// Adds the weight's gradient when it is trained, and writes or adds `dx`.
    pub fn backward<'a>(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        x: View<B, B::Act>,
        saved: &NormSaved<B>,
        dy: View<B, B::Act>,
        dx: impl Into<Dst<'a, B, B::Act>>,
    ) {
        let dw = self.weight.trained().map(|id| grads.acc(id));
        self.with_weight(ctx, |w| {
            ctx.backend.rmsnorm_back(RmsNormSaved { x, w, rstd: saved.rstd.view() }, dy, dx, dw);
        });
    }
}
