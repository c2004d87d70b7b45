//! Self-attention with grouped heads, rotary positions, optional biases, sinks, and per-head norms on queries and keys.

use crate::{
    Context, Grads, LatentAttention, LatentSaved, LayerCache, Linear, LinearSaved, Norm, NormSaved, Part, Rotary, Step,
    Vector,
};
use kernels::{AttentionGrads, AttentionSaved, AttentionShape, Backend, Dst, KeyValue, Mat, Out, View};

/// Projections around the attention kernel.
pub struct SelfAttention<B: Backend> {
    /// `[n*h, d]`.
    pub q: Linear<B>,
    /// `[k*h, d]`.
    pub k: Linear<B>,
    /// `[k*h, d]`.
    pub v: Linear<B>,
    /// `[d, n*h]`.
    pub o: Linear<B>,
    /// Norms over `h` on queries and keys, before rotation.
    pub qk_norm: Option<(Norm<B>, Norm<B>)>,
    /// A score per head that takes a share of the softmax and gives nothing, `[1, n]`.
    pub sinks: Option<Vector<B>>,
    /// Heads, widths, window.
    pub shape: AttentionShape,
}

/// What backward needs beside the input.
pub struct SelfAttentionSaved<B: Backend> {
    /// Queries after norm and rotation, `[t, n*h]`.
    q_tnh: Mat<B>,
    /// Keys after norm and rotation, `[t, k*h]`.
    k_tkh: Mat<B>,
    v_tkh: Mat<B>,
    o_tnh: Mat<B>,
    lse_tn: Mat<B, B::Real>,
    /// Queries and keys before their norms.
    raw: Option<[(Mat<B>, NormSaved<B>); 2]>,
    q: LinearSaved<B>,
    k: LinearSaved<B>,
    v: LinearSaved<B>,
    o: LinearSaved<B>,
}

impl<B: Backend> SelfAttentionSaved<B> {
    /// Keys and values of these rows, for rows that continue them.
    pub fn key_value(&self) -> KeyValue<'_, B> {
        KeyValue { k: self.k_tkh.view(), v: self.v_tkh.view() }
    }
}

impl<B: Backend> SelfAttention<B> {
    /// Whether some linear layer of it is trained.
    pub fn is_trained(&self) -> bool {
        [&self.q, &self.k, &self.v, &self.o].iter().any(|l| l.is_trained())
            || self.qk_norm.as_ref().is_some_and(|(q, k)| [q, k].iter().any(|n| n.weight.trained().is_some()))
            || self.sinks.as_ref().is_some_and(|s| s.trained().is_some())
    }

    /// An empty cache of `slots` rows.
    pub fn cache(&self, backend: &B, slots: usize) -> LayerCache<B> {
        let (k, v) = (backend.mat(slots, self.k.outputs), backend.mat(slots, self.v.outputs));
        LayerCache { k, v: Some(v), v_width: self.v.outputs }
    }

    /// New rows: their keys and values are written to the cache, then they attend to it.
    fn step(
        &self,
        ctx: &Context<B>,
        (rotary, step): (&Rotary<B>, &Step<B>),
        x: View<B, B::Act>,
        cache: &mut LayerCache<B>,
        y: Out<B, B::Act>,
    ) {
        let backend = ctx.backend;
        let project = |layer: &Linear<B>| {
            let mut out = backend.mat(x.rows, layer.outputs);
            layer.forward(ctx, x, out.out());
            out
        };
        let (mut q_tnh, mut k_tkh, v_tkh) = (project(&self.q), project(&self.k), project(&self.v));
        if let Some((nq, nk)) = &self.qk_norm {
            (q_tnh, k_tkh) = (nq.forward(ctx, q_tnh.view()).0, nk.forward(ctx, k_tkh.view()).0);
        }
        for m in [&mut q_tnh, &mut k_tkh] {
            backend.rope(m.out(), step.part.positions.view(), &rotary.table(), self.shape.qk_width, false);
        }
        backend.scatter(k_tkh.view(), &step.slots, cache.k.out());
        let v = cache.v.as_mut().expect("grouped heads keep their values");
        backend.scatter(v_tkh.view(), &step.slots, v.out());
        let mut o_tnh = backend.mat(x.rows, self.o.inputs);
        let mut lse_tn = backend.mat(x.rows, self.shape.query_heads);
        backend.paged(&self.shape, &step.spans, q_tnh.view(), cache.key_value(), o_tnh.out(), lse_tn.out());
        if let Some(sinks) = &self.sinks {
            backend.sink(sinks.view(&ctx.params), o_tnh.out(), lse_tn.out());
        }
        self.o.forward(ctx, o_tnh.view(), y);
    }

    /// `x [t, d]` to `y [t, d]`; `context` holds earlier keys and values when they are not among these rows.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        rotary: &Rotary<B>,
        part: &Part<B>,
        x: View<B, B::Act>,
        context: Option<KeyValue<B>>,
        y: Out<B, B::Act>,
    ) -> SelfAttentionSaved<B> {
        let backend = ctx.backend;
        let project = |layer: &Linear<B>| {
            let mut out = backend.mat(x.rows, layer.outputs);
            let saved = layer.forward(ctx, x, out.out());
            (out, saved)
        };
        let ((mut q_tnh, q), (mut k_tkh, k), (v_tkh, v)) = (project(&self.q), project(&self.k), project(&self.v));
        let raw = self.qk_norm.as_ref().map(|(nq, nk)| {
            let normed = |norm: &Norm<B>, m: &mut Mat<B>| {
                let (out, saved) = norm.forward(ctx, m.view());
                (std::mem::replace(m, out), saved)
            };
            [normed(nq, &mut q_tnh), normed(nk, &mut k_tkh)]
        });
        for m in [&mut q_tnh, &mut k_tkh] {
            backend.rope(m.out(), part.positions.view(), &rotary.table(), self.shape.qk_width, false);
        }
        let mut o_tnh = backend.mat(x.rows, self.o.inputs);
        let mut lse_tn = backend.mat(x.rows, self.shape.query_heads);
        let own = KeyValue { k: k_tkh.view(), v: v_tkh.view() };
        backend.attention(
            &self.shape,
            &part.spans,
            q_tnh.view(),
            own,
            context.unwrap_or(own),
            o_tnh.out(),
            Some(lse_tn.out()),
        );
        if let Some(sinks) = &self.sinks {
            backend.sink(sinks.view(&ctx.params), o_tnh.out(), lse_tn.out());
        }
        let o = self.o.forward(ctx, o_tnh.view(), y);
        SelfAttentionSaved { q_tnh, k_tkh, v_tkh, o_tnh, lse_tn, raw, q, k, v, o }
    }

    /// Adds the parameters' gradients; writes `dx` when something below needs it.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        (rotary, part): (&Rotary<B>, &Part<B>),
        x: View<B, B::Act>,
        saved: &SelfAttentionSaved<B>,
        dy: View<B, B::Act>,
        dx: Option<Out<B, B::Act>>,
    ) {
        let backend = ctx.backend;
        let like = |m: &Mat<B>| backend.mat(m.rows(), m.cols());
        let mut do_tnh = like(&saved.o_tnh);
        self.o.backward(ctx, grads, saved.o_tnh.view(), &saved.o, dy, Some(do_tnh.out().into()));
        if let Some(sinks) = &self.sinks
            && let Some(id) = sinks.trained()
        {
            let (o, d_o, lse) = (saved.o_tnh.view(), do_tnh.view(), saved.lse_tn.view());
            backend.sink_back(sinks.view(&ctx.params), o, d_o, lse, grads.acc(id));
        }
        let (mut dq, mut dk, mut dv) = (like(&saved.q_tnh), like(&saved.k_tkh), like(&saved.v_tkh));
        let kept = AttentionSaved {
            q: saved.q_tnh.view(),
            kv: saved.key_value(),
            o: saved.o_tnh.view(),
            lse: saved.lse_tn.view(),
        };
        let into = AttentionGrads { dq: dq.out(), dk: dk.out(), dv: dv.out() };
        backend.attention_back(&self.shape, &part.spans, kept, do_tnh.view(), into);
        for m in [&mut dq, &mut dk] {
            backend.rope(m.out(), part.positions.view(), &rotary.table(), self.shape.qk_width, true);
        }
        if let (Some((nq, nk)), Some([raw_q, raw_k])) = (&self.qk_norm, &saved.raw) {
            for (norm, (raw, rstd), d) in [(nq, raw_q, &mut dq), (nk, raw_k, &mut dk)] {
                let mut below = like(d);
                norm.backward(ctx, grads, raw.view(), rstd, d.view(), below.out());
                *d = below;
            }
        }
        let mut dx = dx;
        let mut first = true;
        for (layer, kept, d) in [(&self.q, &saved.q, &dq), (&self.k, &saved.k, &dk), (&self.v, &saved.v, &dv)] {
            let into =
                dx.as_mut().map(|dx| if first { Dst::from(dx.again()) } else { Dst::from(dx.again().into_acc()) });
            layer.backward(ctx, grads, x, kept, d.view(), into);
            first = false;
        }
    }
}

/// The first half of a block.
#[allow(clippy::large_enum_variant)] // one per block; never moved in a loop
pub enum Attention<B: Backend> {
    /// Grouped heads.
    Grouped(SelfAttention<B>),
    /// Through a latent.
    Latent(LatentAttention<B>),
}

/// What backward needs beside the input.
#[allow(clippy::large_enum_variant)] // one per block; never moved in a loop
pub enum AttentionKept<B: Backend> {
    /// Of grouped heads.
    Grouped(SelfAttentionSaved<B>),
    /// Of latent attention.
    Latent(LatentSaved<B>),
}

impl<B: Backend> AttentionKept<B> {
    /// Keys and values of these rows, for rows that continue them.
    pub fn key_value(&self) -> KeyValue<'_, B> {
        match self {
            AttentionKept::Grouped(saved) => saved.key_value(),
            AttentionKept::Latent(saved) => saved.key_value(),
        }
    }
}

impl<B: Backend> Attention<B> {
    /// Whether some linear layer of it is trained.
    pub fn is_trained(&self) -> bool {
        match self {
            Attention::Grouped(a) => a.is_trained(),
            Attention::Latent(a) => a.is_trained(),
        }
    }

    /// `x [t, d]` to `y [t, d]`; `context` holds earlier keys and values when they are not among these rows.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        rotary: &Rotary<B>,
        part: &Part<B>,
        x: View<B, B::Act>,
        context: Option<KeyValue<B>>,
        y: Out<B, B::Act>,
    ) -> AttentionKept<B> {
        match self {
            Attention::Grouped(a) => AttentionKept::Grouped(a.forward(ctx, rotary, part, x, context, y)),
            Attention::Latent(a) => AttentionKept::Latent(a.forward(ctx, rotary, part, x, context, y)),
        }
    }

    /// Adds the parameters' gradients; writes `dx` when something below needs it.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        at: (&Rotary<B>, &Part<B>),
        x: View<B, B::Act>,
        saved: &AttentionKept<B>,
        dy: View<B, B::Act>,
        dx: Option<Out<B, B::Act>>,
    ) {
        match (self, saved) {
            (Attention::Grouped(a), AttentionKept::Grouped(saved)) => a.backward(ctx, grads, at, x, saved, dy, dx),
            (Attention::Latent(a), AttentionKept::Latent(saved)) => a.backward(ctx, grads, at, x, saved, dy, dx),
            _ => panic!("a layer was given what another kind of layer saved"),
        }
    }

    /// An empty cache of `slots` rows.
    pub fn cache(&self, backend: &B, slots: usize) -> LayerCache<B> {
        match self {
            Attention::Grouped(a) => a.cache(backend, slots),
            Attention::Latent(a) => a.cache(backend, slots),
        }
    }

    /// New rows: they are added to the cache, then they attend to it.
    pub fn step(
        &self,
        ctx: &Context<B>,
        at: (&Rotary<B>, &Step<B>),
        x: View<B, B::Act>,
        cache: &mut LayerCache<B>,
        y: Out<B, B::Act>,
    ) {
        match self {
            Attention::Grouped(a) => a.step(ctx, at, x, cache, y),
            Attention::Latent(a) => a.step(ctx, at, x, cache, y),
        }
    }
}
