//! The operators that only some architectures use.

use super::{Fault, Tampered, weight};
use crate::{
    Acc, Adamw8, AdamwStep, AttentionShape, Backend, Balance, CappedHead, Clamp, ClampedGlu, Dora, Grouped, Groups,
    HeadSaved, HeadScores, KeyValue, Latent, LowRank, Memory, Moments, Out, Paged, PagedSpan, Route, RouteShape,
    Routed, Scale, Sink, Values, View, Weight,
};
use std::ops::Range;

/// The groups in the hands of the backend that does the work.
fn inner<'a, B: Backend + Memory<Act = f64, Real = f64>>(groups: &Groups<'a, Tampered<B>>) -> Groups<'a, B> {
    Groups { weights: groups.weights.iter().map(|w| weight(*w)).collect(), rows: groups.rows, turned: groups.turned }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Grouped for Tampered<B> {
    fn grouped(&self, x: View<Self, f64>, groups: &Groups<Self>, y: Out<Self, f64>) {
        self.inner.grouped(x.on(), &inner(groups), y.on());
    }
    fn grouped_dx(&self, dy: View<Self, f64>, groups: &Groups<Self>, dx: Out<Self, f64>) {
        self.spoil(Fault::GroupedDx, dx, |dx| self.inner.grouped_dx(dy.on(), &inner(groups), dx.out));
    }
    fn grouped_bias(&self, bias: View<Self, f64>, rows: &[Range<usize>], scale: &[f64], y: Acc<Self, f64>) {
        self.inner.grouped_bias(bias.on(), rows, scale, y.0.on().into_acc());
    }
    fn grouped_bias_back(&self, dy: View<Self, f64>, rows: &[Range<usize>], scale: &[f64], db: Acc<Self, f64>) {
        self.spoil(Fault::GroupedBiasBack, db, |db| {
            self.inner.grouped_bias_back(dy.on(), rows, scale, db.into_acc());
        });
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Route for Tampered<B> {
    fn route(&self, shape: &RouteShape, logits: View<Self, f64>, correction: Option<View<Self, f64>>) -> Routed<f64> {
        self.inner.route(shape, logits.on(), correction.map(View::on))
    }
    fn route_load(&self, logits: View<Self, f64>, counts: &[f64]) -> Vec<f64> {
        self.inner.route_load(logits.on(), counts)
    }
    fn route_back(
        &self,
        shape: &RouteShape,
        logits: View<Self, f64>,
        routed: &Routed<f64>,
        dweights: &[f64],
        balance: Option<Balance<f64>>,
        dlogits: Out<Self, f64>,
    ) {
        self.spoil(Fault::RouteBack, dlogits, |dlogits| {
            self.inner.route_back(shape, logits.on(), routed, dweights, balance, dlogits.out);
        });
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Scale for Tampered<B> {
    fn scale(&self, alpha: f64, y: Out<Self, f64>) {
        self.inner.scale(alpha, y.on());
    }
    fn scale_rows(&self, scale: &[f64], y: Out<Self, f64>) {
        self.inner.scale_rows(scale, y.on());
    }
    fn row_dots(&self, a: View<Self, f64>, b: View<Self, f64>) -> Vec<f64> {
        let factor = if self.is_at(Fault::RowDots) { self.factor } else { 1.0 };
        self.inner.row_dots(a.on(), b.on()).into_iter().map(|dot| factor * dot).collect()
    }
    fn sigmoids(&self, x: View<Self, f64>) -> Vec<f64> {
        self.inner.sigmoids(x.on())
    }
    fn column(&self, values: &[f64], y: Out<Self, f64>) {
        self.inner.column(values, y.on());
    }
    fn one_plus(&self, w: View<Self, f64>, y: Out<Self, f64>) {
        self.inner.one_plus(w.on(), y.on());
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> ClampedGlu for Tampered<B> {
    fn clamped_glu(&self, clamp: Clamp, x: View<Self, f64>, a: Out<Self, f64>) {
        self.inner.clamped_glu(clamp, x.on(), a.on());
    }
    fn clamped_glu_back(&self, clamp: Clamp, x: View<Self, f64>, da: View<Self, f64>, dx: Out<Self, f64>) {
        self.spoil(Fault::ClampedBack, dx, |dx| self.inner.clamped_glu_back(clamp, x.on(), da.on(), dx.out));
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Latent for Tampered<B> {
    fn latent_keys(
        &self,
        heads: usize,
        up: View<Self, f64>,
        rotated: View<Self, f64>,
        k: Out<Self, f64>,
        v: Out<Self, f64>,
    ) {
        self.inner.latent_keys(heads, up.on(), rotated.on(), k.on(), v.on());
    }
    fn latent_keys_back(
        &self,
        heads: usize,
        dk: View<Self, f64>,
        dv: View<Self, f64>,
        dup: Out<Self, f64>,
        drotated: Out<Self, f64>,
    ) {
        self.spoil(Fault::LatentDup, dup, |dup| {
            self.spoil(Fault::LatentDrotated, drotated, |drotated| {
                self.inner.latent_keys_back(heads, dk.on(), dv.on(), dup.out, drotated.out);
            });
        });
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Paged for Tampered<B> {
    fn paged(
        &self,
        shape: &AttentionShape,
        spans: &[PagedSpan],
        q: View<Self, f64>,
        cache: KeyValue<Self>,
        o: Out<Self, f64>,
        lse: Out<Self, f64>,
    ) {
        let cache = KeyValue { k: cache.k.on(), v: cache.v.on() };
        self.inner.paged(shape, spans, q.on(), cache, o.on(), lse.on());
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Sink for Tampered<B> {
    fn sink(&self, sinks: View<Self, f64>, o: Out<Self, f64>, lse: Out<Self, f64>) {
        self.inner.sink(sinks.on(), o.on(), lse.on());
    }
    fn sink_back(
        &self,
        sinks: View<Self, f64>,
        o: View<Self, f64>,
        d_o: View<Self, f64>,
        lse: View<Self, f64>,
        dsinks: Acc<Self, f64>,
    ) {
        self.spoil(Fault::SinkBack, dsinks, |dsinks| {
            self.inner.sink_back(sinks.on(), o.on(), d_o.on(), lse.on(), dsinks.into_acc());
        });
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> CappedHead for Tampered<B> {
    fn capped_head(
        &self,
        cap: f64,
        h: View<Self, f64>,
        w: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        unit: Option<Out<Self, f64>>,
    ) -> HeadScores<f64> {
        let Some(unit) = unit else { return self.inner.capped_head(cap, h.on(), weight(w), tokens, extra, None) };
        let mut scores = HeadScores::default();
        self.spoil(Fault::CappedUnit, unit, |unit| {
            scores = self.inner.capped_head(cap, h.on(), weight(w), tokens, extra, Some(unit.out));
        });
        scores
    }
    fn capped_head_back(
        &self,
        cap: f64,
        h: View<Self, f64>,
        w: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh: Out<Self, f64>,
        dw: Acc<Self, f64>,
    ) {
        self.spoil(Fault::CappedDh, dh, |dh| {
            self.spoil(Fault::CappedDw, dw, |dw| {
                self.inner.capped_head_back(cap, h.on(), weight(w), saved.on(), dh.out, dw.into_acc());
            });
        });
    }
    fn capped_logits(&self, cap: f64, h: View<Self, f64>, w: Weight<Self>) -> Vec<f64> {
        self.inner.capped_logits(cap, h.on(), weight(w))
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Adamw8 for Tampered<B> {
    fn adamw8(&self, s: &AdamwStep, p: Values<Self>, g: View<Self, f64>, moments: Moments<Self>) {
        self.inner.adamw8(s, p.on(), g.on(), moments.on());
    }
}

impl<B: Backend + Memory<Act = f64, Real = f64>> Dora for Tampered<B> {
    fn row_norms(&self, w: Weight<Self>, update: Option<LowRank<Self>>, n: Out<Self, f64>) {
        let update = update.map(|u| LowRank { a: u.a.on(), b: u.b.on(), scale: u.scale });
        self.inner.row_norms(weight(w), update, n.on());
    }
    fn scale_columns(&self, m: View<Self, f64>, n: View<Self, f64>, y: Out<Self, f64>) {
        self.inner.scale_columns(m.on(), n.on(), y.on());
    }
    fn magnitude_back(&self, dy: View<Self, f64>, z: View<Self, f64>, n: View<Self, f64>, dm: Acc<Self, f64>) {
        self.inner.magnitude_back(dy.on(), z.on(), n.on(), dm.0.on().into_acc());
    }
}
