//! The operators that only some architectures use.

use super::{Operator, Timed, weight};
use crate::adamw8::{Arrays, Part};
use crate::{
    Acc, Adamw8, AdamwStep, AttentionShape, Backend, Balance, CappedHead, Clamp, ClampedGlu, Dora, Grouped, Groups,
    HeadSaved, HeadScores, KeyValue, Latent, LowRank, Moments, Out, Paged, PagedSpan, Route, RouteShape, Routed, Scale,
    Sink, Values, View, Weight,
};
use std::ops::Range;

/// The groups in the hands of the backend that does the work.
fn inner<'a, B: Backend>(groups: &Groups<'a, Timed<B>>) -> Groups<'a, B> {
    Groups { weights: groups.weights.iter().map(|w| weight(*w)).collect(), rows: groups.rows, turned: groups.turned }
}

impl<B: Backend> Grouped for Timed<B> {
    fn grouped(&self, x: View<Self, B::Act>, groups: &Groups<Self>, y: Out<Self, B::Act>) {
        self.time(Operator::Grouped, |b| b.grouped(x.on(), &inner(groups), y.on()));
    }
    fn grouped_dx(&self, dy: View<Self, B::Act>, groups: &Groups<Self>, dx: Out<Self, B::Act>) {
        self.time(Operator::GroupedBack, |b| b.grouped_dx(dy.on(), &inner(groups), dx.on()));
    }
    fn grouped_bias(&self, bias: View<Self, B::Real>, rows: &[Range<usize>], scale: &[B::Real], y: Acc<Self, B::Act>) {
        self.time(Operator::Grouped, |b| b.grouped_bias(bias.on(), rows, scale, y.unwrapped()));
    }
    fn grouped_bias_back(
        &self,
        dy: View<Self, B::Act>,
        rows: &[Range<usize>],
        scale: &[B::Real],
        db: Acc<Self, B::Real>,
    ) {
        self.time(Operator::GroupedBack, |b| b.grouped_bias_back(dy.on(), rows, scale, db.unwrapped()));
    }
}

impl<B: Backend> Route for Timed<B> {
    fn route(
        &self,
        shape: &RouteShape,
        logits: View<Self, B::Act>,
        correction: Option<View<Self, B::Real>>,
    ) -> Routed<B::Real> {
        self.time(Operator::Route, |b| b.route(shape, logits.on(), correction.map(View::on)))
    }
    fn route_load(&self, logits: View<Self, B::Act>, counts: &[B::Real]) -> Vec<f64> {
        self.time(Operator::Route, |b| b.route_load(logits.on(), counts))
    }
    fn route_back(
        &self,
        shape: &RouteShape,
        logits: View<Self, B::Act>,
        routed: &Routed<B::Real>,
        dweights: &[B::Real],
        balance: Option<Balance<B::Real>>,
        dlogits: Out<Self, B::Act>,
    ) {
        self.time(Operator::Route, |b| b.route_back(shape, logits.on(), routed, dweights, balance, dlogits.on()));
    }
}

impl<B: Backend> Scale for Timed<B> {
    fn scale(&self, alpha: f64, y: Out<Self, B::Act>) {
        self.time(Operator::Scale, |b| b.scale(alpha, y.on()));
    }
    fn scale_rows(&self, scale: &[B::Real], y: Out<Self, B::Act>) {
        self.time(Operator::Scale, |b| b.scale_rows(scale, y.on()));
    }
    fn row_dots(&self, a: View<Self, B::Act>, b: View<Self, B::Act>) -> Vec<B::Real> {
        self.time(Operator::Scale, |k| k.row_dots(a.on(), b.on()))
    }
    fn sigmoids(&self, x: View<Self, B::Act>) -> Vec<B::Real> {
        self.time(Operator::Scale, |b| b.sigmoids(x.on()))
    }
    fn column(&self, values: &[B::Real], y: Out<Self, B::Act>) {
        self.time(Operator::Scale, |b| b.column(values, y.on()));
    }
    fn one_plus(&self, w: View<Self, B::Real>, y: Out<Self, B::Real>) {
        self.time(Operator::Scale, |b| b.one_plus(w.on(), y.on()));
    }
}

impl<B: Backend> ClampedGlu for Timed<B> {
    fn clamped_glu(&self, clamp: Clamp, x: View<Self, B::Act>, a: Out<Self, B::Act>) {
        self.time(Operator::Glu, |b| b.clamped_glu(clamp, x.on(), a.on()));
    }
    fn clamped_glu_back(&self, clamp: Clamp, x: View<Self, B::Act>, da: View<Self, B::Act>, dx: Out<Self, B::Act>) {
        self.time(Operator::GluBack, |b| b.clamped_glu_back(clamp, x.on(), da.on(), dx.on()));
    }
}

impl<B: Backend> Latent for Timed<B> {
    fn latent_keys(
        &self,
        heads: usize,
        up: View<Self, B::Act>,
        rotated: View<Self, B::Act>,
        k: Out<Self, B::Act>,
        v: Out<Self, B::Act>,
    ) {
        self.time(Operator::MoveRows, |b| b.latent_keys(heads, up.on(), rotated.on(), k.on(), v.on()));
    }
    fn latent_keys_back(
        &self,
        heads: usize,
        dk: View<Self, B::Act>,
        dv: View<Self, B::Act>,
        dup: Out<Self, B::Act>,
        drotated: Out<Self, B::Act>,
    ) {
        self.time(Operator::MoveRows, |b| b.latent_keys_back(heads, dk.on(), dv.on(), dup.on(), drotated.on()));
    }
}

impl<B: Backend> Paged for Timed<B> {
    fn paged(
        &self,
        shape: &AttentionShape,
        spans: &[PagedSpan],
        q: View<Self, B::Act>,
        cache: KeyValue<Self>,
        o: Out<Self, B::Act>,
        lse: Out<Self, B::Real>,
    ) {
        let cache = KeyValue { k: cache.k.on(), v: cache.v.on() };
        self.time(Operator::Attention, |b| b.paged(shape, spans, q.on(), cache, o.on(), lse.on()));
    }
}

impl<B: Backend> Sink for Timed<B> {
    fn sink(&self, sinks: View<Self, B::Real>, o: Out<Self, B::Act>, lse: Out<Self, B::Real>) {
        self.time(Operator::Attention, |b| b.sink(sinks.on(), o.on(), lse.on()));
    }
    fn sink_back(
        &self,
        sinks: View<Self, B::Real>,
        o: View<Self, B::Act>,
        d_o: View<Self, B::Act>,
        lse: View<Self, B::Real>,
        dsinks: Acc<Self, B::Real>,
    ) {
        self.time(Operator::AttentionBack, |b| {
            b.sink_back(sinks.on(), o.on(), d_o.on(), lse.on(), dsinks.unwrapped());
        });
    }
}

impl<B: Backend> CappedHead for Timed<B> {
    fn capped_head(
        &self,
        cap: f64,
        h: View<Self, B::Act>,
        w: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        unit: Option<Out<Self, B::Act>>,
    ) -> HeadScores<B::Real> {
        self.time(Operator::Head, |b| b.capped_head(cap, h.on(), weight(w), tokens, extra, unit.map(Out::on)))
    }
    fn capped_head_back(
        &self,
        cap: f64,
        h: View<Self, B::Act>,
        w: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh: Out<Self, B::Act>,
        dw: Acc<Self, B::Real>,
    ) {
        self.time(Operator::HeadBack, |b| {
            b.capped_head_back(cap, h.on(), weight(w), saved.on(), dh.on(), dw.unwrapped())
        });
    }
    fn capped_logits(&self, cap: f64, h: View<Self, B::Act>, w: Weight<Self>) -> Vec<B::Real> {
        self.time(Operator::Head, |b| b.capped_logits(cap, h.on(), weight(w)))
    }
}

impl<B: Backend> Adamw8 for Timed<B> {
    fn adamw8(&self, s: &AdamwStep, p: Values<Self>, g: View<Self, B::Real>, moments: Moments<Self>) {
        self.time(Operator::Adamw, |b| b.adamw8(s, p.on(), g.on(), moments.on()));
    }
    fn adamw8_parts(&self, arrays: Arrays<Self>, parts: &[Part]) {
        self.time(Operator::Adamw, |b| b.adamw8_parts(arrays.on(), parts));
    }
}

impl<B: Backend> Dora for Timed<B> {
    fn row_norms(&self, w: Weight<Self>, update: Option<LowRank<Self>>, n: Out<Self, B::Real>) {
        let update = update.map(|u| LowRank { a: u.a.on(), b: u.b.on(), scale: u.scale });
        self.time(Operator::Scale, |b| b.row_norms(weight(w), update, n.on()));
    }
    fn scale_columns(&self, m: View<Self, B::Real>, n: View<Self, B::Real>, y: Out<Self, B::Act>) {
        self.time(Operator::Scale, |b| b.scale_columns(m.on(), n.on(), y.on()));
    }
    fn magnitude_back(
        &self,
        dy: View<Self, B::Act>,
        z: View<Self, B::Act>,
        n: View<Self, B::Real>,
        dm: Acc<Self, B::Real>,
    ) {
        self.time(Operator::Scale, |b| b.magnitude_back(dy.on(), z.on(), n.on(), dm.unwrapped()));
    }
}
