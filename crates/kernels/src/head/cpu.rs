//! Tiles of rows by vocabulary; the logits of one tile are the only ones that exist.

use super::{Head, HeadExtra, HeadSaved, HeadScores};
use crate::cpu::simd::{exp_sum, lane_max, lane_sum, loops};
use crate::gemm::cpu::{direct, panels, shape};
use crate::gemm::{Gemm, Weight};
use crate::{Acc, Cpu, Memory, Out, Real, View};

/// Scored rows of a tile.
const ROWS: usize = 512;
/// Vocabulary entries of a tile.
const VOCAB: usize = 2048;

/// Running softmax statistics of one row.
#[derive(Clone, Copy)]
struct Running<E> {
    max: E,
    /// Sum of `exp(logit - max)`.
    sum: E,
    /// Sum of `exp(logit - max) * logit`.
    weighted: E,
    /// Sum of logits.
    total: E,
    target: E,
    argmax: u32,
}

/// Calls `work(first, w [tile, d])` for tiles of the vocabulary.
fn tiles<E: Real>(cpu: &Cpu<E>, w: Weight<Cpu<E>>, mut work: impl FnMut(usize, View<Cpu<E>, E>)) {
    match direct(w) {
        Ok(w) => (0..w.rows).step_by(VOCAB).for_each(|first| work(first, w.rows(first..(first + VOCAB).min(w.rows)))),
        Err(stored) => panels(cpu, stored, work),
    }
}

loops! {
    /// One row of a tile's logits.
    trait HeadLoops {
        fn max_row(row: &[E]) -> E {
            lane_max(row)
        }
        /// Replaces each logit by `exp(logit - max)` and returns the sum.
        fn exp_row(row: &mut [E], max: E) -> E {
            exp_sum(row, max)
        }
        /// Sum of logits, and of `exp(logit - max) * logit`.
        fn logit_sums_row(row: &[E], max: E) -> (E, E) {
            (lane_sum([row], |[x]| x), lane_sum([row], |[x]| (x - max).exp() * x))
        }
        /// Replaces each logit by `-coefficient * exp(logit - lse)`.
        fn dlogits_row(row: &mut [E], coefficient: E, lse: E) {
            row.iter_mut().for_each(|x| *x = -(coefficient * (*x - lse).exp()));
        }
    }
}

/// Takes one tile's logits into a row's statistics and leaves `exp(logit - max)` in their place; returns the factor by
/// which earlier sums shrank.
fn absorb<E: Real>(row: &mut [E], first: usize, token: u32, extra: bool, state: &mut Running<E>) -> E {
    if let Some(&logit) = (token as usize).checked_sub(first).and_then(|i| row.get(i)) {
        state.target = logit;
    }
    let tile_max = E::max_row(row);
    // A NaN never compares greater; the sum below carries it on to the log-probability, where it is noticed.
    let max = state.max.max(tile_max);
    let shrink = if state.max == max { E::ONE } else { (state.max - max).exp() };
    if extra {
        if tile_max > state.max {
            state.argmax = (first + row.iter().position(|&x| x == tile_max).unwrap_or(0)) as u32;
        }
        let (total, weighted) = E::logit_sums_row(row, max);
        state.total += total;
        state.weighted = state.weighted * shrink + weighted;
    }
    state.sum = state.sum * shrink + E::exp_row(row, max);
    state.max = max;
    shrink
}

impl<E: Real> Head for Cpu<E> {
    fn head(
        &self,
        h: View<Self, E>,
        w: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        unit: Option<Out<Self, E>>,
    ) -> HeadScores<E> {
        assert!(h.rows == tokens.len() && unit.as_ref().is_none_or(|u| u.rows == h.rows && u.cols == h.cols));
        let mut scores = HeadScores { extra: extra.then(HeadExtra::default), ..Default::default() };
        let mut unit = unit;
        let vocabulary = shape(w).0;
        for first in (0..h.rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(h.rows);
            let unit = unit.as_mut().map(|u| u.again().rows(rows.clone()));
            let states = score_rows(self, h.rows(rows.clone()), w, &tokens[rows], extra, unit);
            for s in states {
                let lse = s.max + s.sum.ln();
                scores.logp.push(s.target - lse);
                scores.lse.push(lse);
                if let Some(extra) = &mut scores.extra {
                    extra.entropy.push(lse - s.weighted / s.sum);
                    extra.mean_logit.push(s.total / E::of(vocabulary as f64));
                    extra.argmax.push(s.argmax);
                }
            }
        }
        scores
    }

    fn head_back(
        &self,
        h: View<Self, E>,
        w: Weight<Self>,
        saved: HeadSaved<'_, E>,
        dh: Out<Self, E>,
        dw: Acc<Self, E>,
    ) {
        let HeadSaved { tokens, lse, coefficient } = saved;
        assert!(
            h.rows == tokens.len()
                && lse.len() == h.rows
                && coefficient.len() == h.rows
                && dw.shape() == (shape(w).0, h.cols)
        );
        let (mut dh, mut dw) = (dh, dw);
        let mut scratch = self.mat::<E>(ROWS.min(h.rows), VOCAB.max(1));
        for begin in (0..h.rows).step_by(ROWS) {
            let rows = begin..(begin + ROWS).min(h.rows);
            let h = h.rows(rows.clone());
            self.fill_zero(dh.again().rows(rows.clone()));
            tiles(self, w, |first, w| {
                if w.rows > scratch.cols() {
                    scratch = self.mat(scratch.rows(), w.rows);
                }
                let mut logits = scratch.out().rows(0..h.rows).cols(0..w.rows);
                self.linear(1.0, h, Weight::Param(w), logits.again());
                self.each(logits.again().row_chunks(16), |(at, mut logits)| {
                    for i in 0..logits.rows {
                        let s = rows.start + at + i;
                        let row = logits.row_mut(i);
                        E::dlogits_row(row, coefficient[s], lse[s]);
                        if let Some(x) = (tokens[s] as usize).checked_sub(first).and_then(|i| row.get_mut(i)) {
                            *x += coefficient[s];
                        }
                    }
                });
                self.linear_dx(1.0, logits.view(), Weight::Param(w), Acc(dh.again().rows(rows.clone())));
                self.linear_dw(1.0, logits.view(), h, dw.again().rows(first..first + w.rows));
            });
        }
    }

    fn logits(&self, h: View<Self, E>, w: Weight<Self>) -> Vec<E> {
        let mut out = self.mat(h.rows, shape(w).0);
        self.linear(1.0, h, w, out.out());
        self.to_host(out.view())
    }
}

/// The running statistics of up to [`ROWS`] rows after the whole vocabulary; fills `unit`.
fn score_rows<E: Real>(
    cpu: &Cpu<E>,
    h: View<Cpu<E>, E>,
    w: Weight<Cpu<E>>,
    tokens: &[u32],
    extra: bool,
    mut unit: Option<Out<Cpu<E>, E>>,
) -> Vec<Running<E>> {
    let start = Running {
        max: E::NEG_INFINITY,
        sum: E::ZERO,
        weighted: E::ZERO,
        total: E::ZERO,
        target: E::NEG_INFINITY,
        argmax: 0,
    };
    let mut states = vec![start; h.rows];
    let mut shrinks = vec![E::ONE; h.rows];
    let mut scratch = cpu.mat::<E>(h.rows, VOCAB.min(shape(w).0).max(1));
    if let Some(unit) = &mut unit {
        cpu.fill_zero(unit.again());
    }
    tiles(cpu, w, |first, w| {
        if w.rows > scratch.cols() {
            scratch = cpu.mat(h.rows, w.rows);
        }
        let mut logits = scratch.out().cols(0..w.rows);
        cpu.linear(1.0, h, Weight::Param(w), logits.again());
        let tasks: Vec<_> =
            logits.again().row_chunks(16).into_iter().zip(states.chunks_mut(16)).zip(shrinks.chunks_mut(16)).collect();
        cpu.each(tasks, |(((at, mut logits), states), shrinks)| {
            for i in 0..logits.rows {
                shrinks[i] = absorb(logits.row_mut(i), first, tokens[at + i], extra, &mut states[i]);
            }
        });
        if let Some(unit) = &mut unit {
            for (s, &shrink) in shrinks.iter().enumerate().filter(|(_, s)| **s != E::ONE) {
                E::scale_row(shrink, unit.row_mut(s));
            }
            cpu.linear_dx(1.0, logits.view(), Weight::Param(w), Acc(unit.again()));
        }
    });
    if let Some(unit) = &mut unit {
        let table = direct(w);
        let mut own = vec![E::ZERO; unit.cols];
        for (s, state) in states.iter().enumerate() {
            let token = tokens[s] as usize;
            match table {
                Ok(w) => own.copy_from_slice(w.row(token)),
                Err(stored) => stored.unpack(token..token + 1, &mut own),
            }
            let scale = E::ONE / state.sum;
            unit.row_mut(s).iter_mut().zip(&own).for_each(|(u, w)| *u = *w - *u * scale);
        }
    }
    states
}
