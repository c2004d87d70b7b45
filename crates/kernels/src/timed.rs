//! A backend that measures how long each operator of another one takes, for benchmarks.

mod special;

use crate::{
    Acc, Adamw, AdamwStep, Attention, AttentionGrads, AttentionSaved, AttentionShape, Backend, Dst, Elem, Embed,
    ForBackward, Gate, Gemm, Glu, Head, HeadSaved, HeadScores, HostTensor, KeyValue, Mark, Mat, Memory, Offloaded, Out,
    RmsNorm, RmsNormSaved, Rope, RopeTable, RowOps, Span, View, Weight,
};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What is measured apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operator {
    /// [`Memory::alloc`].
    Alloc,
    /// [`Memory::upload`] and [`Memory::download`].
    Transfer,
    /// [`Memory::fill_zero`].
    FillZero,
    /// [`Gemm::linear`].
    Linear,
    /// [`Gemm::linear_dx`].
    LinearDx,
    /// [`Gemm::linear_dw`].
    LinearDw,
    /// [`RmsNorm::rmsnorm`] and [`RmsNorm::rmsnorm_again`].
    RmsNorm,
    /// [`RmsNorm::rmsnorm_back`].
    RmsNormBack,
    /// [`Rope::rope`], both ways.
    Rope,
    /// [`Attention::attention`].
    Attention,
    /// [`Attention::attention_back`].
    AttentionBack,
    /// [`Glu::glu`].
    Glu,
    /// [`Glu::glu_back`].
    GluBack,
    /// [`Embed::embed`].
    Embed,
    /// [`Embed::embed_back`].
    EmbedBack,
    /// [`Head::head`] and [`Head::logits`].
    Head,
    /// [`Head::head_back`].
    HeadBack,
    /// [`RowOps::add`].
    Add,
    /// [`RowOps::add_bias`].
    AddBias,
    /// [`RowOps::bias_back`].
    BiasBack,
    /// [`RowOps::copy`], [`RowOps::gather`], [`RowOps::scatter`] and [`RowOps::scatter_add`].
    MoveRows,
    /// [`RowOps::dropout`] and [`RowOps::dropout_add`].
    Dropout,
    /// [`crate::Grouped::grouped`] and [`crate::Grouped::grouped_bias`].
    Grouped,
    /// [`crate::Grouped::grouped_dx`] and [`crate::Grouped::grouped_bias_back`].
    GroupedBack,
    /// [`crate::Route`], both ways.
    Route,
    /// [`crate::Scale`].
    Scale,
    /// [`Adamw::adamw`].
    Adamw,
    /// [`Adamw::square_norm`].
    SquareNorm,
}

impl Operator {
    /// Every one.
    pub const ALL: [Operator; 28] = [
        Operator::Alloc,
        Operator::Transfer,
        Operator::FillZero,
        Operator::Linear,
        Operator::LinearDx,
        Operator::LinearDw,
        Operator::RmsNorm,
        Operator::RmsNormBack,
        Operator::Rope,
        Operator::Attention,
        Operator::AttentionBack,
        Operator::Glu,
        Operator::GluBack,
        Operator::Embed,
        Operator::EmbedBack,
        Operator::Head,
        Operator::HeadBack,
        Operator::Add,
        Operator::AddBias,
        Operator::BiasBack,
        Operator::MoveRows,
        Operator::Dropout,
        Operator::Grouped,
        Operator::GroupedBack,
        Operator::Route,
        Operator::Scale,
        Operator::Adamw,
        Operator::SquareNorm,
    ];
}

/// Passes everything on to `inner` and adds up the time it takes, by operator.
pub struct Timed<B> {
    /// Who does the work.
    pub inner: B,
    /// Nanoseconds by operator, in the order of [`Operator::ALL`].
    nanoseconds: [AtomicU64; Operator::ALL.len()],
    /// Began and ended on a device that had not come to them when they were queued.
    queued: Mutex<Vec<(Operator, Mark, Mark)>>,
}

impl<B: Memory> Timed<B> {
    /// With all sums at zero.
    pub fn new(inner: B) -> Timed<B> {
        Timed { inner, nanoseconds: std::array::from_fn(|_| AtomicU64::new(0)), queued: Mutex::default() }
    }

    /// The time each operator took since the last call, on the device's own clock.
    pub fn take(&self) -> Vec<(Operator, Duration)> {
        for (operator, from, to) in std::mem::take(&mut *self.queued.lock().unwrap_or_else(PoisonError::into_inner)) {
            // Not a number after a failure: 0.
            self.add(operator, (1e9 * self.inner.seconds(&from, &to)) as u64);
        }
        let taken = self.nanoseconds.iter().map(|n| Duration::from_nanos(n.swap(0, Ordering::Relaxed)));
        Operator::ALL.into_iter().zip(taken).collect()
    }

    fn time<R>(&self, operator: Operator, work: impl FnOnce(&B) -> R) -> R {
        let from = self.inner.mark();
        let result = work(&self.inner);
        match (from, self.inner.mark()) {
            (Mark::Host(from), Mark::Host(to)) => {
                self.add(operator, u64::try_from((to - from).as_nanos()).unwrap_or(u64::MAX));
            }
            (from, to) => {
                self.queued.lock().unwrap_or_else(PoisonError::into_inner).push((operator, from, to));
            }
        }
        result
    }

    fn add(&self, operator: Operator, nanoseconds: u64) {
        self.nanoseconds[operator as usize].fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

fn weight<B: Backend>(w: Weight<Timed<B>>) -> Weight<B> {
    match w {
        Weight::Param(view) => Weight::Param(view.on()),
        Weight::Half(view) => Weight::Half(view.on()),
        Weight::Stored(stored) => Weight::Stored(stored),
    }
}

fn key_value<B: Backend>(kv: KeyValue<Timed<B>>) -> KeyValue<B> {
    KeyValue { k: kv.k.on(), v: kv.v.on() }
}

impl<'a, B, T> Dst<'a, Timed<B>, T> {
    fn inner(self) -> Dst<'a, B, T> {
        Dst { out: self.out.on(), add: self.add }
    }
}

impl<'a, B, T> Acc<'a, Timed<B>, T> {
    fn unwrapped(self) -> Acc<'a, B, T> {
        self.0.on().into_acc()
    }
}

impl<B: Backend> Memory for Timed<B> {
    type Act = B::Act;
    type Real = B::Real;
    type Buf<T: Elem> = B::Buf<T>;
    type Stored = B::Stored;

    fn alloc<T: Elem>(&self, len: usize) -> B::Buf<T> {
        self.time(Operator::Alloc, |b| b.alloc(len))
    }
    fn address<T: Elem>(buf: &B::Buf<T>) -> *const T {
        B::address(buf)
    }
    fn address_mut<T: Elem>(buf: &mut B::Buf<T>) -> *mut T {
        B::address_mut(buf)
    }
    fn upload<T: Elem>(&self, src: &[T], dst: Out<'_, Self, T>) {
        self.time(Operator::Transfer, |b| b.upload(src, dst.on()));
    }
    fn download<T: Elem>(&self, src: View<'_, Self, T>, dst: &mut [T]) {
        self.time(Operator::Transfer, |b| b.download(src.on(), dst));
    }
    fn fill_zero<T: Elem>(&self, dst: Out<'_, Self, T>) {
        self.time(Operator::FillZero, |b| b.fill_zero(dst.on()));
    }
    fn store(&self, tensor: HostTensor, rows: usize, cols: usize) -> B::Stored {
        self.inner.store(tensor, rows, cols)
    }
    fn stored_to_host(&self, stored: &B::Stored, dst: &mut [B::Real]) {
        self.inner.stored_to_host(stored, dst);
    }
    fn trouble(&self) -> Option<crate::cuda::Error> {
        self.inner.trouble()
    }
    fn repeats(&self) {
        self.inner.repeats();
    }
    fn mark(&self) -> Mark {
        self.inner.mark()
    }
    fn seconds(&self, from: &Mark, to: &Mark) -> f64 {
        self.inner.seconds(from, to)
    }
    fn offload(&self, mat: Mat<Self>) -> Offloaded<Self> {
        self.inner.offload(mat.on()).on()
    }
    fn reload(&self, offloaded: Offloaded<Self>) -> Mat<Self> {
        self.inner.reload(offloaded.on()).on()
    }
    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.inner.within(work)
    }
}

impl<B: Backend> Gemm for Timed<B> {
    fn linear<'a>(&self, alpha: f64, x: View<Self, B::Act>, w: Weight<Self>, y: impl Into<Dst<'a, Self, B::Act>>) {
        let y = y.into().inner();
        self.time(Operator::Linear, |b| b.linear(alpha, x.on(), weight(w), y));
    }
    fn linear_dx<'a>(&self, alpha: f64, dy: View<Self, B::Act>, w: Weight<Self>, dx: impl Into<Dst<'a, Self, B::Act>>) {
        let dx = dx.into().inner();
        self.time(Operator::LinearDx, |b| b.linear_dx(alpha, dy.on(), weight(w), dx));
    }
    fn linear_dw(&self, alpha: f64, dy: View<Self, B::Act>, x: View<Self, B::Act>, dw: Acc<Self, B::Real>) {
        self.time(Operator::LinearDw, |b| b.linear_dw(alpha, dy.on(), x.on(), dw.unwrapped()));
    }
}

impl<B: Backend> RmsNorm for Timed<B> {
    fn rmsnorm(
        &self,
        x: View<Self, B::Act>,
        w: View<Self, B::Real>,
        eps: f64,
        y: Out<Self, B::Act>,
        rstd: Out<Self, B::Real>,
    ) {
        self.time(Operator::RmsNorm, |b| b.rmsnorm(x.on(), w.on(), eps, y.on(), rstd.on()));
    }
    fn rmsnorm_again(
        &self,
        x: View<Self, B::Act>,
        w: View<Self, B::Real>,
        rstd: View<Self, B::Real>,
        y: Out<Self, B::Act>,
    ) {
        self.time(Operator::RmsNorm, |b| b.rmsnorm_again(x.on(), w.on(), rstd.on(), y.on()));
    }
    fn rmsnorm_back<'a>(
        &self,
        saved: RmsNormSaved<'_, Self>,
        dy: View<Self, B::Act>,
        dx: impl Into<Dst<'a, Self, B::Act>>,
        dw: Option<Acc<Self, B::Real>>,
    ) {
        let saved = RmsNormSaved { x: saved.x.on(), w: saved.w.on(), rstd: saved.rstd.on() };
        let (dx, dw) = (dx.into().inner(), dw.map(Acc::unwrapped));
        self.time(Operator::RmsNormBack, |b| b.rmsnorm_back(saved, dy.on(), dx, dw));
    }
}

impl<B: Backend> Rope for Timed<B> {
    fn rope(
        &self,
        x: Out<Self, B::Act>,
        positions: View<Self, u32>,
        table: &RopeTable<Self>,
        head_width: usize,
        inverse: bool,
    ) {
        let table = RopeTable { cos: table.cos.on(), sin: table.sin.on(), layout: table.layout, offset: table.offset };
        self.time(Operator::Rope, |b| b.rope(x.on(), positions.on(), &table, head_width, inverse));
    }
}

impl<B: Backend> Attention for Timed<B> {
    fn attention(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        q: View<Self, B::Act>,
        own: KeyValue<Self>,
        context: KeyValue<Self>,
        o: Out<Self, B::Act>,
        lse: Option<Out<Self, B::Real>>,
    ) {
        let (own, context, lse) = (key_value(own), key_value(context), lse.map(Out::on));
        self.time(Operator::Attention, |b| b.attention(shape, spans, q.on(), own, context, o.on(), lse));
    }
    fn attention_back(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        saved: AttentionSaved<'_, Self>,
        d_o: View<Self, B::Act>,
        grads: AttentionGrads<'_, Self>,
    ) {
        let AttentionSaved { q, kv, o, lse } = saved;
        let saved = AttentionSaved { q: q.on(), kv: key_value(kv), o: o.on(), lse: lse.on() };
        let grads = AttentionGrads { dq: grads.dq.on(), dk: grads.dk.on(), dv: grads.dv.on() };
        self.time(Operator::AttentionBack, |b| b.attention_back(shape, spans, saved, d_o.on(), grads));
    }
}

impl<B: Backend> Glu for Timed<B> {
    fn glu(&self, g: Gate, gate: View<Self, B::Act>, up: View<Self, B::Act>, a: Out<Self, B::Act>) {
        self.time(Operator::Glu, |b| b.glu(g, gate.on(), up.on(), a.on()));
    }
    fn glu_over(&self, g: Gate, up: View<Self, B::Act>, gate_to_a: Out<Self, B::Act>) {
        self.time(Operator::Glu, |b| b.glu_over(g, up.on(), gate_to_a.on()));
    }
    fn glu_back(&self, g: Gate, inputs: [View<Self, B::Act>; 2], dgate: Out<Self, B::Act>, d: Out<Self, B::Act>) {
        self.time(Operator::GluBack, |b| b.glu_back(g, inputs.map(View::on), dgate.on(), d.on()));
    }
}

impl<B: Backend> Embed for Timed<B> {
    fn embed(&self, tokens: View<Self, u32>, w: Weight<Self>, x: Out<Self, B::Act>) {
        self.time(Operator::Embed, |b| b.embed(tokens.on(), weight(w), x.on()));
    }
    fn embed_back(&self, tokens: View<Self, u32>, dx: View<Self, B::Act>, dw: Acc<Self, B::Real>) {
        self.time(Operator::EmbedBack, |b| b.embed_back(tokens.on(), dx.on(), dw.unwrapped()));
    }
}

impl<B: Backend> Head for Timed<B> {
    fn head(
        &self,
        h: View<Self, B::Act>,
        w: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        backward: ForBackward<Self>,
    ) -> HeadScores<B::Real> {
        self.time(Operator::Head, |b| b.head(h.on(), weight(w), tokens, extra, backward.on()))
    }
    fn head_back(
        &self,
        h: View<Self, B::Act>,
        w: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh: Out<Self, B::Act>,
        dw: Acc<Self, B::Real>,
    ) {
        self.time(Operator::HeadBack, |b| b.head_back(h.on(), weight(w), saved.on(), dh.on(), dw.unwrapped()));
    }
    fn logits(&self, h: View<Self, B::Act>, w: Weight<Self>) -> Vec<B::Real> {
        self.time(Operator::Head, |b| b.logits(h.on(), weight(w)))
    }
}

impl<B: Backend> RowOps for Timed<B> {
    fn add(&self, x: View<Self, B::Act>, y: Acc<Self, B::Act>) {
        self.time(Operator::Add, |b| b.add(x.on(), y.unwrapped()));
    }
    fn copy(&self, x: View<Self, B::Act>, y: Out<Self, B::Act>) {
        self.time(Operator::MoveRows, |b| b.copy(x.on(), y.on()));
    }
    fn add_bias(&self, bias: View<Self, B::Real>, y: Acc<Self, B::Act>) {
        self.time(Operator::AddBias, |b| b.add_bias(bias.on(), y.unwrapped()));
    }
    fn bias_back(&self, dy: View<Self, B::Act>, db: Acc<Self, B::Real>) {
        self.time(Operator::BiasBack, |b| b.bias_back(dy.on(), db.unwrapped()));
    }
    fn gather(&self, x: View<Self, B::Act>, rows: &[u32], y: Out<Self, B::Act>) {
        self.time(Operator::MoveRows, |b| b.gather(x.on(), rows, y.on()));
    }
    fn scatter(&self, x: View<Self, B::Act>, rows: &[u32], y: Out<Self, B::Act>) {
        self.time(Operator::MoveRows, |b| b.scatter(x.on(), rows, y.on()));
    }
    fn scatter_add(&self, x: View<Self, B::Act>, rows: &[u32], scale: &[B::Real], y: Acc<Self, B::Act>) {
        self.time(Operator::MoveRows, |b| b.scatter_add(x.on(), rows, scale, y.unwrapped()));
    }
    fn dropout(&self, x: View<Self, B::Act>, p: f64, key: u64, y: Out<Self, B::Act>) {
        self.time(Operator::Dropout, |b| b.dropout(x.on(), p, key, y.on()));
    }
    fn dropout_add(&self, x: View<Self, B::Act>, p: f64, key: u64, y: Acc<Self, B::Act>) {
        self.time(Operator::Dropout, |b| b.dropout_add(x.on(), p, key, y.unwrapped()));
    }
}

impl<B: Backend> Adamw for Timed<B> {
    fn adamw(
        &self,
        s: &AdamwStep,
        p: Acc<Self, B::Real>,
        g: View<Self, B::Real>,
        m: Acc<Self, B::Real>,
        v: Acc<Self, B::Real>,
    ) {
        let (p, m, v) = (p.unwrapped(), m.unwrapped(), v.unwrapped());
        self.time(Operator::Adamw, |b| b.adamw(s, p, g.on(), m, v));
    }
    fn square_norm(&self, g: View<Self, B::Real>) -> f64 {
        self.time(Operator::SquareNorm, |b| b.square_norm(g.on()))
    }
}
