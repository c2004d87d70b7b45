//! A linear layer, frozen or trained, with an optional low-rank adapter (Hu et al. 2021, arXiv 2106.09685).

use crate::{Context, Grads, ParamId, Tensor, Vector};
use kernels::{Backend, Dst, Mat, Out, View, Weight};

/// A low-rank addition to a weight: `scale * B A`.
#[derive(Clone, Copy, Debug)]
pub struct Lora {
    /// `[r, i]`.
    pub a: ParamId,
    /// `[o, r]`.
    pub b: ParamId,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f64,
    /// Distinguishes this layer's dropout mask from others'.
    pub site: u64,
}

/// `y = x Wᵀ + bias + scale * (dropout(x) Aᵀ) Bᵀ`.
pub struct Linear<B: Backend> {
    /// `[o, i]`.
    pub weight: Tensor<B>,
    /// `[1, o]`.
    pub bias: Option<Vector<B>>,
    /// Added when the context has adapters on.
    pub lora: Option<Lora>,
    /// `i`.
    pub inputs: usize,
    /// `o`.
    pub outputs: usize,
}

/// What backward needs beside the input: the adapter's inner activations.
pub struct LinearSaved<B: Backend> {
    /// `dropout(x) Aᵀ`, `[t, r]`.
    u_tr: Option<Mat<B>>,
}

impl<B: Backend> Linear<B> {
    fn active(&self, ctx: &Context<B>) -> Option<Lora> {
        self.lora.filter(|_| ctx.adapters)
    }

    /// Whether some parameter of this layer is trained.
    pub fn is_trained(&self) -> bool {
        self.lora.is_some()
            || matches!(self.weight, Tensor::Trained(_))
            || self.bias.as_ref().is_some_and(|b| b.trained().is_some())
    }

    /// Runs `work` with the adapter's input: `x`, or `x` with entries dropped.
    fn with_dropped<R>(
        &self,
        ctx: &Context<B>,
        lora: &Lora,
        x: View<B, B::Act>,
        work: impl FnOnce(View<B, B::Act>) -> R,
    ) -> R {
        match &ctx.dropout {
            None => work(x),
            Some(d) => {
                let mut dropped = ctx.backend.mat(x.rows, x.cols);
                ctx.backend.dropout(x, d.p, d.key ^ lora.site, dropped.out());
                work(dropped.view())
            }
        }
    }

    /// `x [t, i]` to `y [t, o]`.
    pub fn forward(&self, ctx: &Context<B>, x: View<B, B::Act>, mut y: Out<B, B::Act>) -> LinearSaved<B> {
        let k = ctx.backend;
        k.linear(1.0, x, self.weight.weight(&ctx.params), y.again());
        if let Some(bias) = &self.bias {
            k.add_bias(bias.view(&ctx.params), y.again().into_acc());
        }
        let u_tr = self.active(ctx).map(|lora| {
            let (a, b) = (ctx.params.view(lora.a), ctx.params.view(lora.b));
            let mut u = k.mat(x.rows, a.rows);
            self.with_dropped(ctx, &lora, x, |x| k.linear(1.0, x, Weight::Param(a), u.out()));
            k.linear(lora.scale, u.view(), Weight::Param(b), y.into_acc());
            u
        });
        LinearSaved { u_tr }
    }

    /// Adds the parameters' gradients; writes or adds `dx` when asked for.
    pub fn backward<'a>(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        x: View<B, B::Act>,
        saved: &LinearSaved<B>,
        dy: View<B, B::Act>,
        dx: Option<Dst<'a, B, B::Act>>,
    ) {
        let k = ctx.backend;
        if let Tensor::Trained(id) = self.weight {
            k.linear_dw(1.0, dy, x, grads.acc(id));
        }
        if let Some(id) = self.bias.as_ref().and_then(Vector::trained) {
            k.bias_back(dy, grads.acc(id));
        }
        let lora = self.active(ctx).zip(saved.u_tr.as_ref());
        let du = lora.map(|(lora, u)| {
            let mut du = k.mat(dy.rows, u.cols());
            k.linear_dx(lora.scale, dy, Weight::Param(ctx.params.view(lora.b)), du.out());
            k.linear_dw(lora.scale, dy, u.view(), grads.acc(lora.b));
            self.with_dropped(ctx, &lora, x, |x| k.linear_dw(1.0, du.view(), x, grads.acc(lora.a)));
            (lora, du)
        });
        let Some(mut dx) = dx else { return };
        k.linear_dx(1.0, dy, self.weight.weight(&ctx.params), dx.again());
        let Some((lora, du)) = du else { return };
        let a = Weight::Param(ctx.params.view(lora.a));
        match &ctx.dropout {
            None => k.linear_dx(1.0, du.view(), a, dx.into_acc()),
            Some(d) => {
                let mut dropped = k.mat(x.rows, x.cols);
                k.linear_dx(1.0, du.view(), a, dropped.out());
                k.dropout_add(dropped.view(), d.p, d.key ^ lora.site, dx.into_acc());
            }
        }
    }
}
