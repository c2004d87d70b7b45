//! Tiles of rows by vocabulary through the plain product, with running statistics in between.

use super::{ForBackward, Head, HeadExtra, HeadSaved, HeadScores};
use crate::cuda::{
    Activation, Arg, Cuda, Dtype, Given, Panel, Product, Source, count, entries, factor, line, rows, shape,
};
use crate::gemm::Weight;
use crate::{Acc, CappedHead, Mat, Memory, Out, View};
use std::any::TypeId;
use std::ops::Range;

pub(crate) const SOURCE: Source = Source { name: "head", text: include_str!("kernel.cu") };
/// Scored rows of a tile: products of one shape give the same bits to who cuts rows at multiples of it.
const ROWS: usize = super::HEAD_ROWS;
/// Vocabulary entries of a tile.
const VOCAB: usize = 4096;
/// Words of a row's state in the kernel.
const STATE: usize = 8;
/// Bytes of what a tile takes: logits, their gradient, the weight's rows, two matrices of sums.
pub(crate) fn scratch_bytes(hidden: usize, vocabulary: usize, size: usize) -> usize {
    let wide = VOCAB.min(vocabulary);
    ROWS * wide * (4 + size) + size * wide * hidden + ROWS * hidden * (4 + size)
}

/// No matrix.
const NONE: Arg = Arg([0, 0]);

/// Rows of the head's input with their targets, the head's weight, and its cap (0: none).
struct Tile<'a, A: Activation> {
    cuda: &'a Cuda<A>,
    w: Weight<'a, Cuda<A>>,
    h: View<'a, Cuda<A>, A>,
    tokens: Given<u32>,
    cap: f32,
}

impl<'a, A: Activation> Tile<'a, A> {
    fn new(
        cuda: &'a Cuda<A>,
        (h, w): (View<'a, Cuda<A>, A>, Weight<'a, Cuda<A>>),
        tokens: &[u32],
        cap: f32,
    ) -> Tile<'a, A> {
        Tile { cuda, w, h, tokens: cuda.given(tokens), cap }
    }

    /// Calls `work(weight's rows, logits [rows, n])` for all of the vocabulary. Logits go to `kept [entries, rows]` as far as it
    /// reaches, or come from there when they are `known`.
    fn each(
        &self,
        mut kept: Option<Out<'_, Cuda<A>, f32>>,
        known: bool,
        mut work: impl FnMut(&Panel, Out<'_, Cuda<A>, f32>),
    ) {
        let (v, rows) = (shape(self.w).0, self.h.rows);
        let (mut scratch, mut logits) = (None, self.cuda.mat::<f32>(rows, VOCAB.min(v)));
        for first in (0..v).step_by(VOCAB) {
            let panel = self.cuda.panel(self.w, first..(first + VOCAB).min(v), &mut scratch);
            let n = panel.rows.len();
            let mut logits = logits.out().cols(0..n);
            let room = kept.as_mut().filter(|kept| first + n <= kept.rows).map(|k| k.again().rows(first..first + n));
            match &room {
                Some(kept) if known => {
                    let args = [kept.view().into(), count(rows), Arg::from(&logits)];
                    self.cuda.launch(&SOURCE, "head_recall", entries(n, rows), &args);
                }
                _ => self.cuda.product(&Product {
                    shape: [rows, n, self.h.cols],
                    left: factor(self.h),
                    right: panel.factor().turn(),
                    dtype: A::DTYPE,
                    out: factor(logits.view()),
                    out_dtype: Dtype::F32,
                    alpha: 1.0,
                    add: false,
                }),
            }
            if let Some(kept) = room.filter(|_| !known) {
                let args = [logits.view().into(), count(rows), Arg::from(&kept)];
                self.cuda.launch(&SOURCE, "head_keep", entries(n, rows), &args);
            }
            work(&panel, logits.again());
        }
    }

    /// `sums [rows, d] += left [rows, n] weight`.
    fn times_weight(&self, left: View<'_, Cuda<A>, A>, panel: &Panel, sums: &Mat<Cuda<A>, f32>) {
        self.cuda.product(&Product {
            shape: [left.rows, self.h.cols, left.cols],
            left: factor(left),
            right: panel.factor(),
            dtype: A::DTYPE,
            out: factor(sums.view()),
            out_dtype: Dtype::F32,
            alpha: 1.0,
            add: true,
        });
    }

    /// Scores the rows; `unit` receives the unit gradient.
    fn score(
        &self,
        extra: bool,
        unit: Option<Out<'_, Cuda<A>, A>>,
        kept: Option<Out<'_, Cuda<A>, f32>>,
        scores: &mut HeadScores<f32>,
    ) {
        let (cuda, s, d) = (self.cuda, self.h.rows, self.h.cols);
        let states = cuda.mat::<f32>(s, STATE);
        cuda.launch(&SOURCE, "head_begin", line(s), &[count(s), (&states).into()]);
        let sums = unit.as_ref().map(|_| cuda.zeros::<f32>(s, d));
        let p = unit.as_ref().map(|_| cuda.mat::<A>(s, VOCAB.min(shape(self.w).0)));
        self.each(kept, false, |panel, logits| {
            let n = panel.rows.len();
            let args = [
                (&logits).into(),
                count(panel.rows.start),
                count(n),
                (&self.tokens).into(),
                self.cap.into(),
                u32::from(extra).into(),
                p.as_ref().map_or(NONE, Arg::from),
                sums.as_ref().map_or(NONE, Arg::from),
                count(d),
                (&states).into(),
            ];
            cuda.launch(&SOURCE, "head_absorb", rows(s, n), &args);
            if let (Some(p), Some(sums)) = (&p, &sums) {
                self.times_weight(p.view().cols(0..n), panel, sums);
            }
        });
        if let (Some(unit), Some(sums)) = (unit, sums) {
            let mut own = cuda.mat::<A>(s, d);
            cuda.picked(self.w, self.tokens.view().reshape(s, 1), &own.out());
            let args = [(&sums).into(), (&own).into(), (&states).into(), count(d), (&unit).into()];
            cuda.launch(&SOURCE, "head_unit", entries(s, d), &args);
        }
        let vocabulary = shape(self.w).0 as f32;
        for state in cuda.to_host(states.view()).chunks_exact(STATE) {
            let [max, sum, weighted, total, target, _, argmax, _] = state.try_into().expect("whole states");
            let lse = max + f32::ln(sum);
            scores.logp.push(target - lse);
            scores.lse.push(lse);
            if let Some(extra) = &mut scores.extra {
                extra.entropy.push(lse - weighted / sum);
                extra.mean_logit.push(total / vocabulary);
                extra.argmax.push(f32::to_bits(argmax));
            }
        }
    }

    /// Writes `dh` and adds to `dw`.
    fn back(
        &self,
        (coefficient, lse): (&[f32], &[f32]),
        kept: Option<Out<'_, Cuda<A>, f32>>,
        dh: Out<'_, Cuda<A>, A>,
        mut dw: Acc<'_, Cuda<A>, f32>,
    ) {
        let (cuda, s, d) = (self.cuda, self.h.rows, self.h.cols);
        let (coefficient, lse) = (cuda.given(coefficient), cuda.given(lse));
        let sums = cuda.zeros::<f32>(s, d);
        let mut dlogits = cuda.mat::<A>(s, VOCAB.min(shape(self.w).0));
        self.each(kept, true, |panel, logits| {
            let Range { start, end } = panel.rows;
            let dlogits = dlogits.out().cols(0..end - start);
            let args = [
                logits.view().into(),
                count(start),
                count(end - start),
                (&self.tokens).into(),
                (&coefficient).into(),
                (&lse).into(),
                self.cap.into(),
                (&dlogits).into(),
            ];
            cuda.launch(&SOURCE, "head_dlogits", entries(s, end - start), &args);
            self.times_weight(dlogits.view(), panel, &sums);
            crate::Gemm::linear_dw(cuda, 1.0, dlogits.view(), self.h, dw.again().rows(start..end));
        });
        cuda.round(sums.view(), crate::cuda::NO_ROWS, &dh);
    }
}

/// f32 logits of a matrix of activations, where these are f32: rounded ones would not be the logits that were scored.
fn as_single<'a, A: Activation>(kept: Out<'a, Cuda<A>, A>) -> Option<Out<'a, Cuda<A>, f32>> {
    let same = TypeId::of::<A>() == TypeId::of::<f32>();
    same.then(|| Out { ptr: kept.ptr.cast(), rows: kept.rows, cols: kept.cols, ld: kept.ld, tie: Default::default() })
}

impl<A: Activation> Cuda<A> {
    fn scored(
        &self,
        input: (View<Self, A>, Weight<Self>),
        tokens: &[u32],
        (cap, extra): (f64, bool),
        mut unit: Option<Out<Self, A>>,
        mut kept: Option<Out<Self, f32>>,
    ) -> HeadScores<f32> {
        let (h, w) = input;
        assert!(h.rows == tokens.len() && shape(w).1 == h.cols);
        assert!(unit.as_ref().is_none_or(|unit| unit.rows == h.rows && unit.cols == h.cols));
        assert!(kept.as_ref().is_none_or(|kept| kept.rows <= shape(w).0 && kept.cols == h.rows));
        let mut scores = HeadScores { extra: extra.then(HeadExtra::default), ..Default::default() };
        for first in (0..h.rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(h.rows);
            let unit = unit.as_mut().map(|unit| unit.again().rows(rows.clone()));
            let kept = kept.as_mut().map(|kept| kept.again().cols(rows.clone()));
            let tile = Tile::new(self, (h.rows(rows.clone()), w), &tokens[rows], cap as f32);
            tile.score(extra, unit, kept, &mut scores);
        }
        scores
    }

    fn scored_back(
        &self,
        input: (View<Self, A>, Weight<Self>),
        saved: HeadSaved<'_, Self>,
        cap: f64,
        mut dh: Out<Self, A>,
        mut dw: Acc<Self, f32>,
    ) {
        let HeadSaved { tokens, lse, coefficient, logits } = saved;
        let (h, w) = input;
        assert!(h.rows == tokens.len() && lse.len() == h.rows && coefficient.len() == h.rows);
        assert!(dw.shape() == (shape(w).0, h.cols));
        let mut kept = logits.and_then(as_single);
        for first in (0..h.rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(h.rows);
            let kept = kept.as_mut().map(|kept| kept.again().cols(rows.clone()));
            let tile = Tile::new(self, (h.rows(rows.clone()), w), &tokens[rows.clone()], cap as f32);
            let saved = (&coefficient[rows.clone()], &lse[rows.clone()]);
            tile.back(saved, kept, dh.again().rows(rows), dw.again());
        }
    }

    /// All logits of a few rows, `[s, v]`.
    fn all_logits(&self, h: View<Self, A>, w: Weight<Self>) -> Vec<f32> {
        let mut all = self.mat::<f32>(h.rows, shape(w).0);
        let tile = Tile { cuda: self, w, h, tokens: self.given(&[]), cap: 0.0 };
        let mut out = all.out();
        tile.each(None, false, |panel, logits| {
            let y = out.again().cols(panel.rows.clone());
            let args = [logits.view().into(), count(y.cols), Arg::from(&y)];
            self.launch(&SOURCE, "head_copy", entries(y.rows, y.cols), &args);
        });
        self.to_host(all.view())
    }
}

impl<A: Activation> Head for Cuda<A> {
    fn head(
        &self,
        h: View<Self, A>,
        w: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        backward: ForBackward<Self>,
    ) -> HeadScores<f32> {
        let (unit, kept) = match backward {
            ForBackward::Nothing => (None, None),
            ForBackward::Unit(unit) => (Some(unit), None),
            ForBackward::Logits(logits) => (None, as_single(logits)),
        };
        self.scored((h, w), tokens, (0.0, extra), unit, kept)
    }

    fn head_back(
        &self,
        h: View<Self, A>,
        w: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh: Out<Self, A>,
        dw: Acc<Self, f32>,
    ) {
        self.scored_back((h, w), saved, 0.0, dh, dw);
    }

    fn logits(&self, h: View<Self, A>, w: Weight<Self>) -> Vec<f32> {
        self.all_logits(h, w)
    }
}

impl<A: Activation> CappedHead for Cuda<A> {
    fn capped_head(
        &self,
        cap: f64,
        h: View<Self, A>,
        w: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        unit: Option<Out<Self, A>>,
    ) -> HeadScores<f32> {
        self.scored((h, w), tokens, (cap, extra), unit, None)
    }

    fn capped_head_back(
        &self,
        cap: f64,
        h: View<Self, A>,
        w: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh: Out<Self, A>,
        dw: Acc<Self, f32>,
    ) {
        self.scored_back((h, w), HeadSaved { logits: None, ..saved }, cap, dh, dw);
    }

    fn capped_logits(&self, cap: f64, h: View<Self, A>, w: Weight<Self>) -> Vec<f32> {
        let cap = cap as f32;
        self.all_logits(h, w).into_iter().map(|x| cap * (x / cap).tanh()).collect()
    }
}
