//! Multi-head latent attention (DeepSeek-AI 2024, arXiv 2405.04434): keys and values come up from one narrow latent per
//! token, and all heads share one rotated key. Generation keeps the latent and that key only.

use crate::{Context, Grads, LayerCache, Linear, LinearSaved, Norm, NormSaved, Part, Rotary, Step};
use kernels::{AttentionGrads, AttentionSaved, AttentionShape, Backend, Dst, KeyValue, Mat, Out, View};
use std::ops::Range;

/// How queries come of the input.
#[allow(clippy::large_enum_variant)] // one per block; never moved in a loop
pub enum LatentQuery<B: Backend> {
    /// `[n*(p+r), d]`.
    Direct(Linear<B>),
    /// By way of a narrow layer and a norm.
    LowRank {
        /// `[c, d]`.
        down: Linear<B>,
        /// Over `c`.
        norm: Norm<B>,
        /// `[n*(p+r), c]`.
        up: Linear<B>,
    },
}

/// Attention through a latent. Letters: `l` its width, `p` a head's unrotated key columns, `r` the rotated ones, `w` a value's.
pub struct LatentAttention<B: Backend> {
    /// Queries.
    pub q: LatentQuery<B>,
    /// Latent and rotated key, `[l+r, d]`.
    pub down: Linear<B>,
    /// Over `l`.
    pub norm: Norm<B>,
    /// Per head `p` key columns and `w` value columns, `[n*(p+w), l]`.
    pub up: Linear<B>,
    /// The same weights head by head: key `[p, l]` and value `[w, l]`.
    pub heads: Vec<[Linear<B>; 2]>,
    /// `[d, n*w]`.
    pub o: Linear<B>,
    /// Heads, widths `p+r` and `w`.
    pub shape: AttentionShape,
    /// `l`.
    pub latent: usize,
}

/// Queries, and what their backward needs.
struct QuerySaved<B: Backend> {
    q_tn: Mat<B>,
    /// The narrow layer's output and its norm.
    narrow: Option<(Mat<B>, NormSaved<B>, LinearSaved<B>)>,
    last: LinearSaved<B>,
}

/// What backward needs beside the input.
pub struct LatentSaved<B: Backend> {
    query: QuerySaved<B>,
    /// Latent before its norm, and the rotated key.
    down_t: Mat<B>,
    norm: NormSaved<B>,
    k_tn: Mat<B>,
    v_tn: Mat<B>,
    o_tn: Mat<B>,
    lse_tn: Mat<B, B::Real>,
    down: LinearSaved<B>,
    up: LinearSaved<B>,
    o: LinearSaved<B>,
}

impl<B: Backend> LatentSaved<B> {
    /// Keys and values of these rows, for rows that continue them.
    pub fn key_value(&self) -> KeyValue<'_, B> {
        KeyValue { k: self.k_tn.view(), v: self.v_tn.view() }
    }
}

impl<B: Backend> LatentQuery<B> {
    fn is_trained(&self) -> bool {
        match self {
            LatentQuery::Direct(q) => q.is_trained(),
            LatentQuery::LowRank { down, up, .. } => down.is_trained() || up.is_trained(),
        }
    }

    fn forward(&self, ctx: &Context<B>, x: View<B, B::Act>) -> QuerySaved<B> {
        let project = |layer: &Linear<B>, x: View<B, B::Act>| {
            let mut y = ctx.backend.mat(x.rows, layer.outputs);
            let saved = layer.forward(ctx, x, y.out());
            (y, saved)
        };
        match self {
            LatentQuery::Direct(q) => {
                let (q_tn, last) = project(q, x);
                QuerySaved { q_tn, narrow: None, last }
            }
            LatentQuery::LowRank { down, norm, up } => {
                let (raw, first) = project(down, x);
                let (normed, rstd) = norm.forward(ctx, raw.view());
                let (q_tn, last) = project(up, normed.view());
                QuerySaved { q_tn, narrow: Some((raw, rstd, first)), last }
            }
        }
    }

    fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        x: View<B, B::Act>,
        saved: &QuerySaved<B>,
        dq: View<B, B::Act>,
        dx: Option<Dst<B, B::Act>>,
    ) {
        match (self, &saved.narrow) {
            (LatentQuery::LowRank { down, norm, up }, Some((raw, rstd, first))) => {
                let normed = norm.again(ctx, raw.view(), rstd);
                let mut dnormed = ctx.backend.mat(raw.rows(), raw.cols());
                up.backward(ctx, grads, normed.view(), &saved.last, dq, Some(dnormed.out().into()));
                let mut draw = normed;
                norm.backward(ctx, grads, raw.view(), rstd, dnormed.view(), draw.out());
                down.backward(ctx, grads, x, first, draw.view(), dx);
            }
            (LatentQuery::Direct(q), _) => q.backward(ctx, grads, x, &saved.last, dq, dx),
            (LatentQuery::LowRank { .. }, None) => panic!("a narrow query without its narrow output"),
        }
    }
}

impl<B: Backend> LatentAttention<B> {
    /// Whether some linear layer of it is trained.
    pub fn is_trained(&self) -> bool {
        self.q.is_trained() || [&self.down, &self.up, &self.o].iter().any(|l| l.is_trained())
    }

    /// Columns of a head's key that are not rotated.
    fn unrotated(&self) -> usize {
        self.shape.qk_width - (self.down.outputs - self.latent)
    }

    /// The latent's columns of the first projection, and the rotated key's.
    fn columns(&self) -> [Range<usize>; 2] {
        [0..self.latent, self.latent..self.down.outputs]
    }

    /// Queries, latent and rotated key of `x`, everything rotated.
    fn project(
        &self,
        ctx: &Context<B>,
        rotary: &Rotary<B>,
        part: &Part<B>,
        x: View<B, B::Act>,
    ) -> (QuerySaved<B>, Mat<B>, LinearSaved<B>) {
        let k = ctx.backend;
        let mut query = self.q.forward(ctx, x);
        let table = rotary.table_at(self.unrotated());
        k.rope(query.q_tn.out(), part.positions.view(), &table, self.shape.qk_width, false);
        let mut down_t = k.mat(x.rows, self.down.outputs);
        let down = self.down.forward(ctx, x, down_t.out());
        self.rotate_key(ctx, rotary, part, &mut down_t, false);
        (query, down_t, down)
    }

    fn rotate_key(&self, ctx: &Context<B>, rotary: &Rotary<B>, part: &Part<B>, m: &mut Mat<B>, inverse: bool) {
        let [_, rotated] = self.columns();
        let width = rotated.len();
        ctx.backend.rope(m.out().cols(rotated), part.positions.view(), &rotary.table(), width, inverse);
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
    ) -> LatentSaved<B> {
        let (k, n) = (ctx.backend, self.shape.query_heads);
        let (query, down_t, down) = self.project(ctx, rotary, part, x);
        let [latent, rotated] = self.columns();
        let (c_tl, norm) = self.norm.forward(ctx, down_t.view().cols(latent));
        let mut up_tn = k.mat(x.rows, self.up.outputs);
        let up = self.up.forward(ctx, c_tl.view(), up_tn.out());
        let (mut k_tn, mut v_tn) = (k.mat(x.rows, n * self.shape.qk_width), k.mat(x.rows, n * self.shape.v_width));
        k.latent_keys(n, up_tn.view(), down_t.view().cols(rotated), k_tn.out(), v_tn.out());
        drop(up_tn);
        let (mut o_tn, mut lse_tn) = (k.mat(x.rows, self.o.inputs), k.mat(x.rows, n));
        let own = KeyValue { k: k_tn.view(), v: v_tn.view() };
        let (q, lse) = (query.q_tn.view(), Some(lse_tn.out()));
        k.attention(&self.shape, &part.spans, q, own, context.unwrap_or(own), o_tn.out(), lse);
        let o = self.o.forward(ctx, o_tn.view(), y);
        LatentSaved { query, down_t, norm, k_tn, v_tn, o_tn, lse_tn, down, up, o }
    }

    /// Adds the parameters' gradients; writes `dx` when something below needs it.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        (rotary, part): (&Rotary<B>, &Part<B>),
        x: View<B, B::Act>,
        saved: &LatentSaved<B>,
        dy: View<B, B::Act>,
        dx: Option<Out<B, B::Act>>,
    ) {
        let k = ctx.backend;
        let like = |m: &Mat<B>| k.mat(m.rows(), m.cols());
        let [latent, rotated] = self.columns();
        let mut do_tn = like(&saved.o_tn);
        self.o.backward(ctx, grads, saved.o_tn.view(), &saved.o, dy, Some(do_tn.out().into()));
        let (mut dq, mut dk, mut dv) = (like(&saved.query.q_tn), like(&saved.k_tn), like(&saved.v_tn));
        let (q, kv) = (saved.query.q_tn.view(), saved.key_value());
        let kept = AttentionSaved { q, kv, o: saved.o_tn.view(), lse: saved.lse_tn.view() };
        let into = AttentionGrads { dq: dq.out(), dk: dk.out(), dv: dv.out() };
        k.attention_back(&self.shape, &part.spans, kept, do_tn.view(), into);
        drop(do_tn);
        let table = rotary.table_at(self.unrotated());
        k.rope(dq.out(), part.positions.view(), &table, self.shape.qk_width, true);

        let (mut dup_tn, mut ddown_t) = (k.mat(x.rows, self.up.outputs), like(&saved.down_t));
        let drotated = ddown_t.out().cols(rotated);
        k.latent_keys_back(self.shape.query_heads, dk.view(), dv.view(), dup_tn.out(), drotated);
        drop((dk, dv));
        self.rotate_key(ctx, rotary, part, &mut ddown_t, true);
        let raw = saved.down_t.view().cols(latent.clone());
        let c_tl = self.norm.again(ctx, raw, &saved.norm);
        let mut dc_tl = k.mat(x.rows, self.latent);
        self.up.backward(ctx, grads, c_tl.view(), &saved.up, dup_tn.view(), Some(dc_tl.out().into()));
        self.norm.backward(ctx, grads, raw, &saved.norm, dc_tl.view(), ddown_t.out().cols(latent));
        let mut dx = dx;
        let first = dx.as_mut().map(|dx| Dst::from(dx.again()));
        self.down.backward(ctx, grads, x, &saved.down, ddown_t.view(), first);
        self.q.backward(ctx, grads, x, &saved.query, dq.view(), dx.map(|dx| Dst::from(dx.into_acc())));
    }

    /// An empty cache of `slots` rows.
    pub fn cache(&self, backend: &B, slots: usize) -> LayerCache<B> {
        LayerCache { k: backend.mat(slots, self.down.outputs), v: None, v_width: self.latent }
    }

    /// New rows: their latents and rotated keys are written to the cache, then they attend to it.
    ///
    /// Queries are brought to the latent (`q Wₖ`) and attend to it as to one shared key and value; what comes out is brought
    /// up by `Wᵥ`. That is the same sum in another order, and keys and values of the past never exist.
    pub fn step(
        &self,
        ctx: &Context<B>,
        (rotary, step): (&Rotary<B>, &Step<B>),
        x: View<B, B::Act>,
        cache: &mut LayerCache<B>,
        y: Out<B, B::Act>,
    ) {
        let (k, n, l) = (ctx.backend, self.shape.query_heads, self.latent);
        let (query, down_t, _) = self.project(ctx, rotary, &step.part, x);
        let [latent, rotated] = self.columns();
        let (wide, r, p) = (self.down.outputs, rotated.len(), self.unrotated());
        let c_tl = self.norm.forward(ctx, down_t.view().cols(latent.clone())).0;
        let mut own = k.mat(x.rows, wide);
        k.copy(c_tl.view(), own.out().cols(latent.clone()));
        k.copy(down_t.view().cols(rotated.clone()), own.out().cols(rotated));
        k.scatter(own.view(), &step.slots, cache.k.out());
        let mut q_tn = k.mat(x.rows, n * wide);
        for (h, [key, _]) in self.heads.iter().enumerate() {
            let q = query.q_tn.view().cols(h * (p + r)..(h + 1) * (p + r));
            key.turned(ctx, q.cols(0..p), q_tn.out().cols(h * wide..h * wide + l));
            k.copy(q.cols(p..p + r), q_tn.out().cols(h * wide + l..(h + 1) * wide));
        }
        let shape = AttentionShape { kv_heads: 1, qk_width: wide, v_width: l, ..self.shape };
        let (mut o_tnl, mut lse_tn) = (k.mat(x.rows, n * l), k.mat(x.rows, n));
        k.paged(&shape, &step.spans, q_tn.view(), cache.key_value(), o_tnl.out(), lse_tn.out());
        let mut o_tn = k.mat(x.rows, self.o.inputs);
        let w = self.shape.v_width;
        for (h, [_, value]) in self.heads.iter().enumerate() {
            value.forward(ctx, o_tnl.view().cols(h * l..(h + 1) * l), o_tn.out().cols(h * w..(h + 1) * w));
        }
        self.o.forward(ctx, o_tn.view(), y);
    }
}
