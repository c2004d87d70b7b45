//! Tiles of rows by vocabulary with running sums, as the plain head; beside each tile of logits lies one of their slopes.

use super::CappedHead;
use crate::cpu::simd::{exp_sum, lane_max, lane_sum, loops};
use crate::gemm::cpu::{direct, panels, shape};
use crate::gemm::{Gemm, Weight};
use crate::{Acc, Cpu, HeadExtra, HeadSaved, HeadScores, Mat, Memory, Out, Real, View};

/// Scored rows of a tile.
const ROWS: usize = 256;
/// Vocabulary entries of a tile.
const VOCAB: usize = 2048;

loops! {
    /// One row of a tile's logits.
    trait CappedLoops {
        /// Caps logits and writes the derivative of each.
        fn cap_logits_row(cap: f64, row: &mut [E], slopes: &mut [E]) {
            let (cap, inverse) = (E::of(cap), E::of(1.0 / cap));
            for (x, s) in row.iter_mut().zip(slopes) {
                let t = (*x * inverse).tanh();
                (*x, *s) = (cap * t, E::ONE - t * t);
            }
        }
        fn capped_max_row(row: &[E]) -> E {
            lane_max(row)
        }
        /// Sum of logits, and of `exp(logit - max) * logit`.
        fn capped_sums_row(row: &[E], max: E) -> (E, E) {
            (lane_sum([row], |[x]| x), lane_sum([row], |[x]| (x - max).exp() * x))
        }
        /// Replaces each logit by `exp(logit - max)` and returns the sum.
        fn capped_exp_row(row: &mut [E], max: E) -> E {
            exp_sum(row, max)
        }
        /// Replaces each logit by `-coefficient * exp(logit - lse)`.
        fn capped_dlogits_row(row: &mut [E], coefficient: E, lse: E) {
            row.iter_mut().for_each(|x| *x = -(coefficient * (*x - lse).exp()));
        }
    }
}

/// Running softmax statistics of one row.
#[derive(Clone, Copy)]
struct Running<E> {
    max: E,
    sum: E,
    weighted: E,
    total: E,
    target: E,
    /// Derivative of the target's cap.
    slope: E,
    argmax: u32,
}

/// Calls `work(first, w, logits, slopes)` for tiles of the vocabulary: capped logits of `h`, and their derivatives.
fn tiles<E: Real>(
    cpu: &Cpu<E>,
    cap: f64,
    h: View<Cpu<E>, E>,
    w: Weight<Cpu<E>>,
    mut work: impl FnMut(usize, View<Cpu<E>, E>, Out<Cpu<E>, E>, Out<Cpu<E>, E>),
) {
    let mut scratch: Option<[Mat<Cpu<E>, E>; 2]> = None;
    let mut tile = |first: usize, w: View<Cpu<E>, E>| {
        if scratch.as_ref().is_none_or(|[logits, _]| logits.cols() < w.rows) {
            scratch = Some([cpu.mat(h.rows, w.rows), cpu.mat(h.rows, w.rows)]);
        }
        let [logits, slopes] = scratch.as_mut().expect("made above");
        let (mut logits, mut slopes) = (logits.out().cols(0..w.rows), slopes.out().cols(0..w.rows));
        cpu.linear(1.0, h, Weight::Param(w), logits.again());
        let rows = logits.again().row_chunks(16).into_iter().zip(slopes.again().row_chunks(16)).collect();
        cpu.each(rows, |((_, mut logits), (_, mut slopes))| {
            (0..logits.rows).for_each(|i| E::cap_logits_row(cap, logits.row_mut(i), slopes.row_mut(i)));
        });
        work(first, w, logits, slopes);
    };
    match direct(w) {
        Ok(w) => (0..w.rows).step_by(VOCAB).for_each(|first| tile(first, w.rows(first..(first + VOCAB).min(w.rows)))),
        Err(stored) => panels(cpu, stored, tile),
    }
}

/// Takes one tile's logits into a row's statistics and leaves `exp(logit - max) * slope` in their place; returns the factor by
/// which earlier sums shrank.
fn absorb<E: Real>(
    row: &mut [E],
    slopes: &[E],
    (first, token): (usize, u32),
    extra: bool,
    state: &mut Running<E>,
) -> E {
    if let Some(i) = (token as usize).checked_sub(first).filter(|&i| i < row.len()) {
        (state.target, state.slope) = (row[i], slopes[i]);
    }
    let tile_max = E::capped_max_row(row);
    let max = state.max.max(tile_max);
    let shrink = if state.max == max { E::ONE } else { (state.max - max).exp() };
    if extra {
        if tile_max > state.max {
            state.argmax = (first + row.iter().position(|&x| x == tile_max).unwrap_or(0)) as u32;
        }
        let (total, weighted) = E::capped_sums_row(row, max);
        state.total += total;
        state.weighted = state.weighted * shrink + weighted;
    }
    state.sum = state.sum * shrink + E::capped_exp_row(row, max);
    state.max = max;
    E::times_row(slopes, row);
    shrink
}

/// The statistics of up to [`ROWS`] rows; fills `unit`.
fn score_rows<E: Real>(
    cpu: &Cpu<E>,
    cap: f64,
    (h, w): (View<Cpu<E>, E>, Weight<Cpu<E>>),
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
        slope: E::ONE,
        argmax: 0,
    };
    let (mut states, mut shrinks) = (vec![start; h.rows], vec![E::ONE; h.rows]);
    if let Some(unit) = &mut unit {
        cpu.fill_zero(unit.again());
    }
    tiles(cpu, cap, h, w, |first, w, mut logits, slopes| {
        let slopes = slopes.view();
        let tasks: Vec<_> =
            logits.again().row_chunks(16).into_iter().zip(states.chunks_mut(16)).zip(shrinks.chunks_mut(16)).collect();
        cpu.each(tasks, |(((at, mut logits), states), shrinks)| {
            for i in 0..logits.rows {
                let place = (first, tokens[at + i]);
                shrinks[i] = absorb(logits.row_mut(i), slopes.row(at + i), place, extra, &mut states[i]);
            }
        });
        if let Some(unit) = &mut unit {
            (0..h.rows).for_each(|s| E::times(shrinks[s], unit.row_mut(s)));
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
            unit.row_mut(s).iter_mut().zip(&own).for_each(|(u, w)| *u = state.slope * *w - *u * scale);
        }
    }
    states
}

impl<E: Real> CappedHead for Cpu<E> {
    fn capped_head(
        &self,
        cap: f64,
        h: View<Self, E>,
        w: Weight<Self>,
        tokens: &[u32],
        extra: bool,
        unit: Option<Out<Self, E>>,
    ) -> HeadScores<E> {
        assert!(h.rows == tokens.len() && unit.as_ref().is_none_or(|u| u.rows == h.rows && u.cols == h.cols));
        let mut scores = HeadScores { extra: extra.then(HeadExtra::default), ..Default::default() };
        let mut unit = unit;
        let vocabulary = E::of(shape(w).0 as f64);
        for first in (0..h.rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(h.rows);
            let unit = unit.as_mut().map(|u| u.again().rows(rows.clone()));
            for s in score_rows(self, cap, (h.rows(rows.clone()), w), &tokens[rows], extra, unit) {
                let lse = s.max + s.sum.ln();
                scores.logp.push(s.target - lse);
                scores.lse.push(lse);
                if let Some(extra) = &mut scores.extra {
                    extra.entropy.push(lse - s.weighted / s.sum);
                    extra.mean_logit.push(s.total / vocabulary);
                    extra.argmax.push(s.argmax);
                }
            }
        }
        scores
    }

    fn capped_head_back(
        &self,
        cap: f64,
        h: View<Self, E>,
        w: Weight<Self>,
        saved: HeadSaved<'_, Self>,
        dh: Out<Self, E>,
        dw: Acc<Self, E>,
    ) {
        let HeadSaved { tokens, lse, coefficient, .. } = saved;
        assert!(h.rows == tokens.len() && lse.len() == h.rows && coefficient.len() == h.rows);
        assert!(dw.shape() == (shape(w).0, h.cols));
        let (mut dh, mut dw) = (dh, dw);
        for begin in (0..h.rows).step_by(ROWS) {
            let rows = begin..(begin + ROWS).min(h.rows);
            let h = h.rows(rows.clone());
            self.fill_zero(dh.again().rows(rows.clone()));
            tiles(self, cap, h, w, |first, w, mut logits, slopes| {
                let slopes = slopes.view();
                self.each(logits.again().row_chunks(16), |(at, mut logits)| {
                    for i in 0..logits.rows {
                        let s = rows.start + at + i;
                        let row = logits.row_mut(i);
                        E::capped_dlogits_row(row, coefficient[s], lse[s]);
                        if let Some(x) = (tokens[s] as usize).checked_sub(first).and_then(|i| row.get_mut(i)) {
                            *x += coefficient[s];
                        }
                        E::times_row(slopes.row(at + i), row);
                    }
                });
                self.linear_dx(1.0, logits.view(), Weight::Param(w), Acc(dh.again().rows(rows.clone())));
                self.linear_dw(1.0, logits.view(), h, dw.again().rows(first..first + w.rows));
            });
        }
    }

    fn capped_logits(&self, cap: f64, h: View<Self, E>, w: Weight<Self>) -> Vec<E> {
        let mut out = self.mat::<E>(h.rows, shape(w).0);
        self.linear(1.0, h, w, out.out());
        self.each(out.out().row_chunks(16), |(_, mut rows)| {
            (0..rows.rows).for_each(|i| E::cap_row(rows.row_mut(i), cap));
        });
        self.to_host(out.view())
    }
}
