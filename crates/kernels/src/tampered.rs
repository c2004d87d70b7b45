//! A backend that gets one backward operator wrong, for tests that show that a gradient check would notice.

mod special;

use crate::{
    Acc, Adamw, AdamwStep, Attention, AttentionGrads, AttentionSaved, AttentionShape, Backend, Dst, Elem, Embed,
    ForBackward, Gate, Gemm, Glu, Head, HeadSaved, HeadScores, HostTensor, KeyValue, Memory, Out, RmsNorm,
    RmsNormSaved, Rope, RopeTable, RowOps, Span, View, Weight,
};
use std::sync::atomic::{AtomicU64, Ordering};

/// The result that is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `dx` of [`Gemm::linear_dx`].
    LinearDx,
    /// `dw` of [`Gemm::linear_dw`].
    LinearDw,
    /// `dx` of [`RmsNorm::rmsnorm_back`].
    RmsNormDx,
    /// `dw` of [`RmsNorm::rmsnorm_back`].
    RmsNormDw,
    /// The inverse of [`Rope::rope`].
    RopeInverse,
    /// `dq` of [`Attention::attention_back`].
    AttentionDq,
    /// `dk` of [`Attention::attention_back`].
    AttentionDk,
    /// `dv` of [`Attention::attention_back`].
    AttentionDv,
    /// `dgate` of [`Glu::glu_back`].
    GluDgate,
    /// `dup` of [`Glu::glu_back`].
    GluDup,
    /// [`Embed::embed_back`].
    EmbedBack,
    /// [`RowOps::bias_back`].
    BiasBack,
    /// [`RowOps::dropout_add`].
    DropoutAdd,
    /// [`RowOps::scatter_add`].
    ScatterAdd,
    /// The unit gradient of [`Head::head`].
    HeadUnit,
    /// `dh` of [`Head::head_back`].
    HeadDh,
    /// `dw` of [`Head::head_back`].
    HeadDw,
    /// [`crate::Grouped::grouped_dx`].
    GroupedDx,
    /// [`crate::Grouped::grouped_bias_back`].
    GroupedBiasBack,
    /// [`crate::Route::route_back`].
    RouteBack,
    /// [`crate::Scale::row_dots`].
    RowDots,
    /// [`crate::ClampedGlu::clamped_glu_back`].
    ClampedBack,
    /// `dup` of [`crate::Latent::latent_keys_back`].
    LatentDup,
    /// `drotated` of [`crate::Latent::latent_keys_back`].
    LatentDrotated,
    /// [`crate::Sink::sink_back`].
    SinkBack,
    /// The unit gradient of [`crate::CappedHead::capped_head`].
    CappedUnit,
    /// `dh` of [`crate::CappedHead::capped_head_back`].
    CappedDh,
    /// `dw` of [`crate::CappedHead::capped_head_back`].
    CappedDw,
}

impl Fault {
    /// Those of operators that a plain dense decoder uses.
    pub const DENSE: [Fault; 17] = [
        Fault::LinearDx,
        Fault::LinearDw,
        Fault::RmsNormDx,
        Fault::RmsNormDw,
        Fault::RopeInverse,
        Fault::AttentionDq,
        Fault::AttentionDk,
        Fault::AttentionDv,
        Fault::GluDgate,
        Fault::GluDup,
        Fault::EmbedBack,
        Fault::BiasBack,
        Fault::DropoutAdd,
        Fault::ScatterAdd,
        Fault::HeadUnit,
        Fault::HeadDh,
        Fault::HeadDw,
    ];

    /// Those of the other operators.
    pub const SPECIAL: [Fault; 11] = [
        Fault::GroupedDx,
        Fault::GroupedBiasBack,
        Fault::RouteBack,
        Fault::RowDots,
        Fault::ClampedBack,
        Fault::LatentDup,
        Fault::LatentDrotated,
        Fault::SinkBack,
        Fault::CappedUnit,
        Fault::CappedDh,
        Fault::CappedDw,
    ];
}

/// Passes everything on to `inner`, and multiplies what it writes or adds at `fault` by `factor`.
pub struct Tampered<B> {
    inner: B,
    fault: Fault,
    factor: f64,
    /// A bit for each place where an error could have been.
    reached: AtomicU64,
}

impl<B> Tampered<B> {
    /// With an error of size `factor` at `fault`: 1 is no error, -1 a wrong sign.
    pub fn new(inner: B, fault: Fault, factor: f64) -> Tampered<B> {
        Tampered { inner, fault, factor, reached: AtomicU64::new(0) }
    }

    /// Whether anything was written or added at `fault`.
    pub fn has_reached(&self, fault: Fault) -> bool {
        self.reached.load(Ordering::Relaxed) & 1 << fault as u64 != 0
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Tampered<B> {
    /// Whether the error is `here`.
    fn is_at(&self, here: Fault) -> bool {
        self.reached.fetch_or(1 << here as u64, Ordering::Relaxed);
        here == self.fault
    }

    /// Runs `work` on `dst` and spoils its result if the error is planted `here`.
    fn spoil<'a>(&self, here: Fault, dst: impl Into<Dst<'a, Self, f64>>, work: impl FnOnce(Dst<B, f64>)) {
        let Dst { mut out, add } = dst.into();
        if !self.is_at(here) {
            return work(Dst { out: out.on(), add });
        }
        let before = self.to_host(out.view());
        work(Dst { out: out.again().on(), add });
        let after = self.to_host(out.view());
        let kept = |before: f64| if add { before } else { 0.0 };
        let spoilt = before.iter().zip(&after).map(|(&b, a)| kept(b) + self.factor * (a - kept(b)));
        self.upload(&spoilt.collect::<Vec<_>>(), out);
    }
}

fn weight<B: Memory>(w: Weight<Tampered<B>>) -> Weight<B>
where
    Tampered<B>: Memory<Real = B::Real, Stored = B::Stored>,
{
    match w {
        Weight::Param(view) => Weight::Param(view.on()),
        Weight::Half(view) => Weight::Half(view.on()),
        Weight::Stored(stored) => Weight::Stored(stored),
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Memory for Tampered<B> {
    type Act = f64;
    type Real = f64;
    type Buf<T: Elem> = B::Buf<T>;
    type Stored = B::Stored;

    fn alloc<T: Elem>(&self, len: usize) -> B::Buf<T> {
        self.inner.alloc(len)
    }
    fn address<T: Elem>(buf: &B::Buf<T>) -> *const T {
        B::address(buf)
    }
    fn address_mut<T: Elem>(buf: &mut B::Buf<T>) -> *mut T {
        B::address_mut(buf)
    }
    fn upload<T: Elem>(&self, src: &[T], dst: Out<'_, Self, T>) {
        self.inner.upload(src, dst.on());
    }
    fn download<T: Elem>(&self, src: View<'_, Self, T>, dst: &mut [T]) {
        self.inner.download(src.on(), dst);
    }
    fn fill_zero<T: Elem>(&self, dst: Out<'_, Self, T>) {
        self.inner.fill_zero(dst.on());
    }
    fn store(&self, tensor: HostTensor, rows: usize, cols: usize) -> B::Stored {
        self.inner.store(tensor, rows, cols)
    }
    fn stored_to_host(&self, stored: &B::Stored, dst: &mut [f64]) {
        self.inner.stored_to_host(stored, dst);
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Gemm for Tampered<B> {
    fn linear<'a>(&self, alpha: f64, x: View<Self, f64>, w: Weight<Self>, y: impl Into<Dst<'a, Self, f64>>) {
        let Dst { out, add } = y.into();
        self.inner.linear(alpha, x.on(), weight(w), Dst { out: out.on(), add });
    }
    fn linear_dx<'a>(&self, alpha: f64, dy: View<Self, f64>, w: Weight<Self>, dx: impl Into<Dst<'a, Self, f64>>) {
        self.spoil(Fault::LinearDx, dx, |dx| self.inner.linear_dx(alpha, dy.on(), weight(w), dx));
    }
    fn linear_dw(&self, alpha: f64, dy: View<Self, f64>, x: View<Self, f64>, dw: Acc<Self, f64>) {
        self.spoil(Fault::LinearDw, dw, |dw| self.inner.linear_dw(alpha, dy.on(), x.on(), dw.into_acc()));
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> RmsNorm for Tampered<B> {
    fn rmsnorm(&self, x: View<Self, f64>, w: View<Self, f64>, eps: f64, y: Out<Self, f64>, rstd: Out<Self, f64>) {
        self.inner.rmsnorm(x.on(), w.on(), eps, y.on(), rstd.on());
    }
    fn rmsnorm_again(&self, x: View<Self, f64>, w: View<Self, f64>, rstd: View<Self, f64>, y: Out<Self, f64>) {
        self.inner.rmsnorm_again(x.on(), w.on(), rstd.on(), y.on());
    }
    fn rmsnorm_back<'a>(
        &self,
        saved: RmsNormSaved<'_, Self>,
        dy: View<Self, f64>,
        dx: impl Into<Dst<'a, Self, f64>>,
        dw: Option<Acc<Self, f64>>,
    ) {
        let saved = || RmsNormSaved { x: saved.x.on(), w: saved.w.on(), rstd: saved.rstd.on() };
        self.spoil(Fault::RmsNormDx, dx, |dx| self.inner.rmsnorm_back(saved(), dy.on(), dx, None));
        let Some(dw) = dw else { return };
        let mut unused = self.inner.mat::<f64>(dy.rows, dy.cols);
        let out = unused.out();
        self.spoil(Fault::RmsNormDw, dw, |dw| self.inner.rmsnorm_back(saved(), dy.on(), out, Some(dw.into_acc())));
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Rope for Tampered<B> {
    fn rope(
        &self,
        x: Out<Self, f64>,
        positions: View<Self, u32>,
        table: &RopeTable<Self>,
        head_width: usize,
        inverse: bool,
    ) {
        let table = RopeTable { cos: table.cos.on(), sin: table.sin.on(), layout: table.layout, offset: table.offset };
        let positions = positions.on();
        if inverse {
            self.spoil(Fault::RopeInverse, x, |x| self.inner.rope(x.out, positions, &table, head_width, true));
        } else {
            self.inner.rope(x.on(), positions, &table, head_width, false);
        }
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Attention for Tampered<B> {
    fn attention(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        q: View<Self, f64>,
        own: KeyValue<Self>,
        context: KeyValue<Self>,
        o: Out<Self, f64>,
        lse: Option<Out<Self, f64>>,
    ) {
        let [own, context] = [own, context].map(|kv| KeyValue { k: kv.k.on(), v: kv.v.on() });
        self.inner.attention(shape, spans, q.on(), own, context, o.on(), lse.map(Out::on));
    }
    fn attention_back(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        saved: AttentionSaved<'_, Self>,
        d_o: View<Self, f64>,
        grads: AttentionGrads<'_, Self>,
    ) {
        let AttentionSaved { q, kv, o, lse } = saved;
        let kv = KeyValue { k: kv.k.on(), v: kv.v.on() };
        let saved = AttentionSaved { q: q.on(), kv, o: o.on(), lse: lse.on() };
        let AttentionGrads { dq, dk, dv } = grads;
        self.spoil(Fault::AttentionDq, dq, |dq| {
            self.spoil(Fault::AttentionDk, dk, |dk| {
                self.spoil(Fault::AttentionDv, dv, |dv| {
                    let grads = AttentionGrads { dq: dq.out, dk: dk.out, dv: dv.out };
                    self.inner.attention_back(shape, spans, saved, d_o.on(), grads);
                });
            });
        });
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Glu for Tampered<B> {
    fn glu(&self, g: Gate, gate: View<Self, f64>, up: View<Self, f64>, a: Out<Self, f64>) {
        self.inner.glu(g, gate.on(), up.on(), a.on());
    }
    fn glu_over(&self, g: Gate, up: View<Self, f64>, gate_to_a: Out<Self, f64>) {
        self.inner.glu_over(g, up.on(), gate_to_a.on());
    }
    fn glu_back(&self, g: Gate, inputs: [View<Self, f64>; 2], dgate: Out<Self, f64>, da_to_dup: Out<Self, f64>) {
        self.spoil(Fault::GluDgate, dgate, |dgate| {
            self.spoil(Fault::GluDup, da_to_dup, |d| {
                self.inner.glu_back(g, inputs.map(View::on), dgate.out, d.out);
            });
        });
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Embed for Tampered<B> {
    fn embed(&self, tokens: View<Self, u32>, w: Weight<Self>, x: Out<Self, f64>) {
        self.inner.embed(tokens.on(), weight(w), x.on());
    }
    fn embed_back(&self, tokens: View<Self, u32>, dx: View<Self, f64>, dw: Acc<Self, f64>) {
        self.spoil(Fault::EmbedBack, dw, |dw| self.inner.embed_back(tokens.on(), dx.on(), dw.into_acc()));
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Head for Tampered<B> {
    fn head(
        &self,
        h: View<Self, f64>,
        w: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        backward: ForBackward<Self>,
    ) -> HeadScores<f64> {
        let ForBackward::Unit(unit) = backward else {
            return self.inner.head(h.on(), weight(w), tokens, extra, backward.on());
        };
        let mut scores = HeadScores::default();
        self.spoil(Fault::HeadUnit, unit, |unit| {
            scores = self.inner.head(h.on(), weight(w), tokens, extra, ForBackward::Unit(unit.out));
        });
        scores
    }
    fn head_back(
        &self,
        h: View<Self, f64>,
        w: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh: Out<Self, f64>,
        dw: Acc<Self, f64>,
    ) {
        self.spoil(Fault::HeadDh, dh, |dh| {
            self.spoil(Fault::HeadDw, dw, |dw| {
                self.inner.head_back(h.on(), weight(w), saved.on(), dh.out, dw.into_acc());
            });
        });
    }
    fn logits(&self, h: View<Self, f64>, w: Weight<Self>) -> Vec<f64> {
        self.inner.logits(h.on(), weight(w))
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> RowOps for Tampered<B> {
    fn add(&self, x: View<Self, f64>, y: Acc<Self, f64>) {
        self.inner.add(x.on(), y.0.on().into_acc());
    }
    fn copy(&self, x: View<Self, f64>, y: Out<Self, f64>) {
        self.inner.copy(x.on(), y.on());
    }
    fn add_bias(&self, bias: View<Self, f64>, y: Acc<Self, f64>) {
        self.inner.add_bias(bias.on(), y.0.on().into_acc());
    }
    fn bias_back(&self, dy: View<Self, f64>, db: Acc<Self, f64>) {
        self.spoil(Fault::BiasBack, db, |db| self.inner.bias_back(dy.on(), db.into_acc()));
    }
    fn gather(&self, x: View<Self, f64>, rows: &[u32], y: Out<Self, f64>) {
        self.inner.gather(x.on(), rows, y.on());
    }
    fn scatter(&self, x: View<Self, f64>, rows: &[u32], y: Out<Self, f64>) {
        self.inner.scatter(x.on(), rows, y.on());
    }
    fn scatter_add(&self, x: View<Self, f64>, rows: &[u32], scale: &[f64], y: Acc<Self, f64>) {
        self.spoil(Fault::ScatterAdd, y, |y| self.inner.scatter_add(x.on(), rows, scale, y.into_acc()));
    }
    fn dropout(&self, x: View<Self, f64>, p: f64, key: u64, y: Out<Self, f64>) {
        self.inner.dropout(x.on(), p, key, y.on());
    }
    fn dropout_add(&self, x: View<Self, f64>, p: f64, key: u64, y: Acc<Self, f64>) {
        self.spoil(Fault::DropoutAdd, y, |y| self.inner.dropout_add(x.on(), p, key, y.into_acc()));
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Adamw for Tampered<B> {
    fn adamw(&self, s: &AdamwStep, p: Acc<Self, f64>, g: View<Self, f64>, m: Acc<Self, f64>, v: Acc<Self, f64>) {
        let [p, m, v] = [p, m, v].map(|x| x.0.on().into_acc());
        self.inner.adamw(s, p, g.on(), m, v);
    }
    fn square_norm(&self, g: View<Self, f64>) -> f64 {
        self.inner.square_norm(g.on())
    }
}
