//! Tiles of rows by vocabulary; the logits of one tile are the only ones that exist.

use super::{ForBackward, Head, HeadExtra, HeadSaved, HeadScores};
use crate::cpu::simd::{exp_sums, lane_max, loops};
use crate::gemm::cpu::{direct, panels, shape};
use crate::gemm::{Gemm, Weight};
use crate::{Acc, Cpu, Mat, Memory, Out, Real, View};

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
        /// Sums of `exp(logit - max)`, of `exp(logit - max) * logit`, and of logits.
        fn sums_row(row: &mut [E], max: E) -> [E; 3] {
            exp_sums::<E, false>(row, max)
        }
        /// The same; leaves `exp(logit - max)` in place of each logit.
        fn exp_row(row: &mut [E], max: E) -> [E; 3] {
            exp_sums::<E, true>(row, max)
        }
        /// Replaces each logit by `-coefficient * exp(logit - lse)`.
        fn dlogits_row(row: &mut [E], coefficient: E, lse: E) {
            row.iter_mut().for_each(|x| *x = -(coefficient * (*x - lse).exp()));
        }
    }
}

/// Takes one tile's logits into a row's statistics; with `write` it leaves `exp(logit - max)` in their place. Returns the factor
/// by which earlier sums shrank.
fn absorb<E: Real>(row: &mut [E], first: usize, token: u32, write: bool, state: &mut Running<E>) -> E {
    if let Some(&logit) = (token as usize).checked_sub(first).and_then(|i| row.get(i)) {
        state.target = logit;
    }
    let tile_max = E::max_row(row);
    // A NaN never compares greater; the sum below carries it on to the log-probability, where it is noticed.
    let max = state.max.max(tile_max);
    let shrink = if state.max == max { E::ONE } else { (state.max - max).exp() };
    if tile_max > state.max {
        state.argmax = (first + row.iter().position(|&x| x == tile_max).unwrap_or(0)) as u32;
    }
    let [sum, weighted, total] = if write { E::exp_row(row, max) } else { E::sums_row(row, max) };
    state.sum = state.sum * shrink + sum;
    state.weighted = state.weighted * shrink + weighted;
    state.total += total;
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
        backward: ForBackward<Self>,
    ) -> HeadScores<E> {
        assert!(h.rows == tokens.len());
        let mut scores = HeadScores { extra: extra.then(HeadExtra::default), ..Default::default() };
        let vocabulary = shape(w).0;
        let mut backward = backward;
        match &backward {
            ForBackward::Nothing => {}
            ForBackward::Unit(unit) => assert!(unit.rows == h.rows && unit.cols == h.cols),
            ForBackward::Logits(logits) => assert!(logits.rows == h.rows && logits.cols <= vocabulary),
        }
        for first in (0..h.rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(h.rows);
            let backward = match &mut backward {
                ForBackward::Nothing => ForBackward::Nothing,
                ForBackward::Unit(unit) => ForBackward::Unit(unit.again().rows(rows.clone())),
                ForBackward::Logits(logits) => ForBackward::Logits(logits.again().rows(rows.clone())),
            };
            let states = score_rows(self, h.rows(rows.clone()), w, &tokens[rows], backward);
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
        saved: HeadSaved<'_, Self>,
        dh: Out<Self, E>,
        dw: Acc<Self, E>,
    ) {
        let HeadSaved { tokens, lse, coefficient, logits: mut kept } = saved;
        assert!(
            h.rows == tokens.len()
                && lse.len() == h.rows
                && coefficient.len() == h.rows
                && dw.shape() == (shape(w).0, h.cols)
        );
        let (mut dh, mut dw) = (dh, dw);
        let mut scratch = Scratch::new(self, h.rows.min(ROWS));
        for begin in (0..h.rows).step_by(ROWS) {
            let rows = begin..(begin + ROWS).min(h.rows);
            let h = h.rows(rows.clone());
            self.fill_zero(dh.again().rows(rows.clone()));
            let mut kept = kept.as_mut().map(|kept| kept.again().rows(rows.clone()));
            tiles(self, w, |first, w| {
                let mut logits = match room(kept.as_mut(), first, w.rows) {
                    Some(logits) => logits,
                    None => {
                        let mut logits = scratch.of(h.rows, w.rows);
                        self.linear(1.0, h, Weight::Param(w), logits.again());
                        logits
                    }
                };
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

/// The logits of one tile.
struct Scratch<'c, E: Real> {
    cpu: &'c Cpu<E>,
    logits: Mat<Cpu<E>, E>,
}

impl<'c, E: Real> Scratch<'c, E> {
    fn new(cpu: &'c Cpu<E>, rows: usize) -> Scratch<'c, E> {
        Scratch { cpu, logits: cpu.mat(rows, VOCAB) }
    }

    /// Room for a tile; one of a stored weight may be wider than others.
    fn of(&mut self, rows: usize, cols: usize) -> Out<'_, Cpu<E>, E> {
        if cols > self.logits.cols() {
            self.logits = self.cpu.mat(self.logits.rows(), cols);
        }
        self.logits.out().rows(0..rows).cols(0..cols)
    }
}

/// The columns of a tile among the logits that are kept, when all of them are.
fn room<'o, E: Real>(
    kept: Option<&'o mut Out<'_, Cpu<E>, E>>,
    first: usize,
    cols: usize,
) -> Option<Out<'o, Cpu<E>, E>> {
    kept.filter(|kept| first + cols <= kept.cols).map(|kept| kept.again().cols(first..first + cols))
}

/// The running statistics of up to [`ROWS`] rows after the whole vocabulary; fills what backward wants.
fn score_rows<E: Real>(
    cpu: &Cpu<E>,
    h: View<Cpu<E>, E>,
    w: Weight<Cpu<E>>,
    tokens: &[u32],
    backward: ForBackward<Cpu<E>>,
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
    let mut scratch = Scratch::new(cpu, h.rows);
    let (mut unit, mut kept) = match backward {
        ForBackward::Nothing => (None, None),
        ForBackward::Unit(unit) => (Some(unit), None),
        ForBackward::Logits(logits) => (None, Some(logits)),
    };
    if let Some(unit) = &mut unit {
        cpu.fill_zero(unit.again());
    }
    tiles(cpu, w, |first, w| {
        let mut logits = room(kept.as_mut(), first, w.rows).unwrap_or_else(|| scratch.of(h.rows, w.rows));
        cpu.linear(1.0, h, Weight::Param(w), logits.again());
        let write = unit.is_some();
        let tasks: Vec<_> =
            logits.again().row_chunks(16).into_iter().zip(states.chunks_mut(16)).zip(shrinks.chunks_mut(16)).collect();
        cpu.each(tasks, |(((at, mut logits), states), shrinks)| {
            for i in 0..logits.rows {
                shrinks[i] = absorb(logits.row_mut(i), first, tokens[at + i], write, &mut states[i]);
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
        finish_unit(&states, tokens, w, unit);
    }
    states
}

/// From `sum_v exp(logit_v - max) w[v]` to `w[token] - sum_v p_v w[v]`.
fn finish_unit<E: Real>(states: &[Running<E>], tokens: &[u32], w: Weight<Cpu<E>>, unit: &mut Out<Cpu<E>, E>) {
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
