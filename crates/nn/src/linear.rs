//! A linear layer, frozen or trained, with an optional low-rank adapter (Hu et al. 2021, arXiv 2106.09685).

use crate::{Context, Grads, ParamId, Tensor, Vector};
use kernels::{Backend, Dst, LowRank, Mat, Out, View, Weight};
use std::ops::Range;

/// A low-rank addition to a weight: `scale * B A`.
#[derive(Clone, Copy, Debug)]
pub struct Lora {
    /// `[r, i]`.
    pub a: ParamId,
    /// `[o, r]`, or more rows when several layers share it.
    pub b: ParamId,
    /// The row of `b` that is this layer's first.
    pub first: usize,
    /// `alpha / r`, or `alpha / sqrt(r)` for rsLoRA.
    pub scale: f64,
    /// `[1, o]`, or more columns when several layers share it: the length that every row of the sum is brought to (DoRA).
    pub magnitude: Option<ParamId>,
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
    /// With a magnitude.
    lengths: Option<Lengths<B>>,
}

/// What backward of DoRA needs.
struct Lengths<B: Backend> {
    /// Outputs before they were brought to length, without bias, `[t, o]`.
    z_to: Mat<B>,
    /// Lengths of the rows of the sum, `[1, o]`; a constant to backward.
    norms: Mat<B, B::Real>,
}

/// An adapter at work in a backward pass: its place and the gradient of its inner activations.
type Inner<B> = (Lora, Mat<B>);

impl<B: Backend> Linear<B> {
    fn active(&self, ctx: &Context<B>) -> Option<Lora> {
        self.lora.filter(|_| ctx.adapters)
    }

    /// The rows of the adapter's `b` that belong to this layer.
    fn b_rows(&self, lora: &Lora) -> Range<usize> {
        lora.first..lora.first + self.outputs
    }

    /// Whether some parameter of this layer is trained.
    pub fn is_trained(&self) -> bool {
        self.lora.is_some() || self.weight.is_trained() || self.bias.as_ref().is_some_and(|b| b.trained().is_some())
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
        let late = self.active(ctx).is_some_and(|lora| lora.magnitude.is_some());
        if let Some(bias) = self.bias.as_ref().filter(|_| !late) {
            k.add_bias(bias.view(&ctx.params), y.again().into_acc());
        }
        let saved = self.adapt(ctx, x, y.again());
        if let Some(bias) = self.bias.as_ref().filter(|_| late) {
            k.add_bias(bias.view(&ctx.params), y.into_acc());
        }
        saved
    }

    /// What [`Linear::forward`] saved of `x`, without its product wherever backward does not need that.
    pub(crate) fn again(&self, ctx: &Context<B>, x: View<B, B::Act>) -> LinearSaved<B> {
        let active = self.active(ctx);
        if active.is_some_and(|lora| lora.magnitude.is_some()) {
            let mut y = ctx.backend.mat(x.rows, self.outputs);
            return self.forward(ctx, x, y.out());
        }
        LinearSaved { u_tr: active.map(|lora| self.inner(ctx, &lora, x)), lengths: None }
    }

    /// The adapter's inner activation, `[t, r]`.
    fn inner(&self, ctx: &Context<B>, lora: &Lora, x: View<B, B::Act>) -> Mat<B> {
        let a = ctx.params.view(lora.a);
        let mut u = ctx.backend.mat(x.rows, a.rows);
        self.with_dropped(ctx, lora, x, |x| ctx.backend.linear(1.0, x, Weight::Param(a), u.out()));
        u
    }

    /// Lengths of the rows of weight and adapter together, `[1, o]`.
    fn norms(&self, ctx: &Context<B>, lora: &Lora) -> Mat<B, B::Real> {
        let mut norms = ctx.backend.mat(1, self.outputs);
        let update = LowRank {
            a: ctx.params.view(lora.a),
            b: ctx.params.view(lora.b).rows(self.b_rows(lora)),
            scale: lora.scale,
        };
        ctx.backend.row_norms(self.weight.weight(&ctx.params), Some(update), norms.out());
        norms
    }

    /// Adds what the adapter gives, if there is one, to a `y` that holds the rest.
    pub(crate) fn adapt(&self, ctx: &Context<B>, x: View<B, B::Act>, mut y: Out<B, B::Act>) -> LinearSaved<B> {
        let (k, active) = (ctx.backend, self.active(ctx));
        let u_tr = active.map(|lora| {
            let (u, b) = (self.inner(ctx, &lora, x), ctx.params.view(lora.b).rows(self.b_rows(&lora)));
            k.linear(lora.scale, u.view(), Weight::Param(b), y.again().into_acc());
            u
        });
        let lengths = active.and_then(|lora| Some((lora, lora.magnitude?))).map(|(lora, id)| {
            let (mut z_to, norms) = (k.mat(x.rows, self.outputs), self.norms(ctx, &lora));
            k.copy(y.view(), z_to.out());
            k.scale_columns(ctx.params.view(id).cols(self.b_rows(&lora)), norms.view(), y);
            Lengths { z_to, norms }
        });
        LinearSaved { u_tr, lengths }
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
        if let Some(dw) = self.weight.grad(grads) {
            k.linear_dw(1.0, dy, x, dw);
        }
        if let Some(id) = self.bias.as_ref().and_then(Vector::trained) {
            k.bias_back(dy, grads.acc(id));
        }
        let scaled = self.lengths_back(ctx, grads, saved, dy);
        let dy = scaled.as_ref().map_or(dy, Mat::view);
        let inner = self.adapter_grads(ctx, grads, x, saved, dy);
        let Some(mut dx) = dx else { return };
        k.linear_dx(1.0, dy, self.weight.weight(&ctx.params), dx.again());
        self.adapter_dx(ctx, inner, dx);
    }

    /// Adds the gradient of the magnitude, if there is one; returns the gradient of the outputs before they were brought to
    /// length.
    fn lengths_back(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        saved: &LinearSaved<B>,
        dy: View<B, B::Act>,
    ) -> Option<Mat<B>> {
        let (k, Lengths { z_to, norms }) = (ctx.backend, saved.lengths.as_ref()?);
        let lora = self.active(ctx)?;
        let (id, rows) = (lora.magnitude?, self.b_rows(&lora));
        k.magnitude_back(dy, z_to.view(), norms.view(), grads.acc(id).cols(rows.clone()));
        let mut dz = k.mat(dy.rows, dy.cols);
        k.copy(dy, dz.out());
        k.scale_columns(ctx.params.view(id).cols(rows), norms.view(), dz.out());
        Some(dz)
    }

    /// Adds the gradients of the adapter, if there is one.
    pub(crate) fn adapter_grads(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        x: View<B, B::Act>,
        saved: &LinearSaved<B>,
        dy: View<B, B::Act>,
    ) -> Option<Inner<B>> {
        let k = ctx.backend;
        let (lora, u) = self.active(ctx).zip(saved.u_tr.as_ref())?;
        let (rows, mut du) = (self.b_rows(&lora), k.mat(dy.rows, u.cols()));
        k.linear_dx(lora.scale, dy, Weight::Param(ctx.params.view(lora.b).rows(rows.clone())), du.out());
        k.linear_dw(lora.scale, dy, u.view(), grads.acc(lora.b).rows(rows));
        self.with_dropped(ctx, &lora, x, |x| k.linear_dw(1.0, du.view(), x, grads.acc(lora.a)));
        Some((lora, du))
    }

    /// Adds the adapter's part of `dx` to the rest.
    pub(crate) fn adapter_dx(&self, ctx: &Context<B>, inner: Option<Inner<B>>, dx: Dst<B, B::Act>) {
        let Some((lora, du)) = inner else { return };
        let (k, a) = (ctx.backend, Weight::Param(ctx.params.view(lora.a)));
        match &ctx.dropout {
            None => k.linear_dx(1.0, du.view(), a, dx.into_acc()),
            Some(d) => {
                let mut dropped = k.mat(du.rows(), self.inputs);
                k.linear_dx(1.0, du.view(), a, dropped.out());
                k.dropout_add(dropped.view(), d.p, d.key ^ lora.site, dx.into_acc());
            }
        }
    }

    /// `y = x W` with the adapter, `x [t, o]`, `y [t, i]`: the layer turned around, without bias and dropout. Latent attention
    /// brings queries to its cache with it.
    pub(crate) fn turned(&self, ctx: &Context<B>, x: View<B, B::Act>, mut y: Out<B, B::Act>) {
        let k = ctx.backend;
        let lengths = self.active(ctx).and_then(|lora| Some((lora, lora.magnitude?)));
        let scaled = lengths.map(|(lora, id)| {
            let mut scaled = k.mat(x.rows, x.cols);
            k.copy(x, scaled.out());
            let m = ctx.params.view(id).cols(self.b_rows(&lora));
            k.scale_columns(m, self.norms(ctx, &lora).view(), scaled.out());
            scaled
        });
        let x = scaled.as_ref().map_or(x, Mat::view);
        k.linear_dx(1.0, x, self.weight.weight(&ctx.params), y.again());
        if let Some(lora) = self.active(ctx) {
            let (a, b) = (ctx.params.view(lora.a), ctx.params.view(lora.b).rows(self.b_rows(&lora)));
            let mut u = k.mat(x.rows, a.rows);
            k.linear_dx(lora.scale, x, Weight::Param(b), u.out());
            k.linear_dx(1.0, u.view(), Weight::Param(a), y.into_acc());
        }
    }
}
