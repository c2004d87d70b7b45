//! Tiles of vocabulary by rows; the logits of one tile are the only ones that exist, beside those that backward asked for.
//!
//! The vocabulary is cut into strips that are worked on independently, each with a maximum, sums and gradients of its own which
//! are joined at the end: no thread waits for another between tiles, and a tile stays in its core's cache. There are as many
//! strips whatever the number of threads, so the bits do not depend on it. A tile is `[entries, rows]`, the transpose of how one
//! would write it: so all three products take their larger operand as it lies in memory, and a row's statistics are lanes.

use super::{ForBackward, HEAD_ROWS as ROWS, Head, HeadExtra, HeadSaved, HeadScores};
use crate::cpu::Packed;
use crate::cpu::simd::{LANES, loops};
use crate::gemm::cpu::{Operand, direct, shape};
use crate::gemm::{Gemm, Weight};
use crate::{Acc, Cpu, Dst, Mat, Memory, Out, Real, View};
use std::ops::Range;

/// Vocabulary entries of a tile.
const VOCAB: usize = 128;
/// Pieces of the vocabulary.
const STRIPS: usize = 16;

loops! {
    /// A tile `[entries, rows]` whose entries are `ld` apart; lanes are rows.
    trait HeadLoops {
        /// Takes a tile's logits into the largest of each row.
        fn column_max(tile: &[E], ld: usize, max: &mut [E]) {
            let mut at = 0;
            while at + LANES <= max.len() {
                block_max(tile, ld, at, LANES, max);
                at += LANES;
            }
            if at < max.len() {
                block_max(tile, ld, at, max.len() - at, max);
            }
        }
        /// Adds to each row's sums of `exp(logit - max)`, of `exp(logit - max) * logit`, and of logits.
        fn column_sums(tile: &mut [E], ld: usize, max: &[E], sums: &mut [Vec<E>; 3]) {
            column_blocks::<E, false>(tile, ld, max, sums);
        }
        /// The same; leaves `exp(logit - max)` in place of each logit.
        fn column_exps(tile: &mut [E], ld: usize, max: &[E], sums: &mut [Vec<E>; 3]) {
            column_blocks::<E, true>(tile, ld, max, sums);
        }
        /// Replaces each logit by `-coefficient * exp(logit - lse)`.
        fn column_dlogits(tile: &mut [E], ld: usize, coefficient: &[E], lse: &[E]) {
            for entry in tile.chunks_mut(ld) {
                for ((x, c), l) in entry.iter_mut().zip(coefficient).zip(lse) {
                    *x = -(*c * (*x - *l).exp());
                }
            }
        }
    }
}

#[inline(always)]
fn block_max<E: Real>(tile: &[E], ld: usize, at: usize, lanes: usize, max: &mut [E]) {
    let mut largest = [E::NEG_INFINITY; LANES];
    largest[..lanes].copy_from_slice(&max[at..at + lanes]);
    for entry in tile.chunks(ld) {
        let entry = &entry[at..at + lanes];
        // A NaN never compares greater; the sums carry it on to the log-probability, where it is noticed.
        for l in 0..lanes {
            largest[l] = entry[l].max(largest[l]);
        }
    }
    max[at..at + lanes].copy_from_slice(&largest[..lanes]);
}

#[inline(always)]
fn column_blocks<E: Real, const WRITE: bool>(tile: &mut [E], ld: usize, max: &[E], sums: &mut [Vec<E>; 3]) {
    let mut at = 0;
    while at + LANES <= max.len() {
        block_sums::<E, WRITE>(tile, ld, (at, LANES), max, sums);
        at += LANES;
    }
    if at < max.len() {
        block_sums::<E, WRITE>(tile, ld, (at, max.len() - at), max, sums);
    }
}

#[inline(always)]
fn block_sums<E: Real, const WRITE: bool>(
    tile: &mut [E],
    ld: usize,
    (at, lanes): (usize, usize),
    max: &[E],
    sums: &mut [Vec<E>; 3],
) {
    let max = &max[at..at + lanes];
    let mut added = [[E::ZERO; LANES]; 3];
    for entry in tile.chunks_mut(ld) {
        let entry = &mut entry[at..at + lanes];
        for l in 0..lanes {
            let x = entry[l];
            let e = (x - max[l]).exp();
            if WRITE {
                entry[l] = e;
            }
            added[0][l] += e;
            added[1][l] += e * x;
            added[2][l] += x;
        }
    }
    for (sum, added) in sums.iter_mut().zip(&added) {
        for l in 0..lanes {
            sum[at + l] += added[l];
        }
    }
}

/// What a strip of the vocabulary says of each row of a tile of rows.
struct Strip<E: Real> {
    max: Vec<E>,
    /// Sums of `exp(logit - max)`, of `exp(logit - max) * logit`, and of logits.
    sums: [Vec<E>; 3],
    /// The target's logit, where the strip has it.
    target: Vec<Option<E>>,
    argmax: Vec<u32>,
    /// `sum_v exp(logit_v - max) w[v]`, `[rows, d]`, when asked for.
    unit: Option<Mat<Cpu<E>, E>>,
}

/// Rows of the head's input, as the products want them, with their targets.
struct Tile<'a, E: Real> {
    cpu: &'a Cpu<E>,
    w: Weight<'a, Cpu<E>>,
    h: View<'a, Cpu<E>, E>,
    /// `h` turned: `[d, rows]`, lines longer than that.
    turned: Mat<Cpu<E>, E>,
    tokens: &'a [u32],
}

impl<'a, E: Real> Tile<'a, E> {
    fn new(cpu: &'a Cpu<E>, h: View<'a, Cpu<E>, E>, w: Weight<'a, Cpu<E>>, tokens: &'a [u32]) -> Tile<'a, E> {
        let turned = crate::gemm::cpu::turned(cpu, h);
        Tile { cpu, w, h, turned, tokens }
    }

    /// Calls `work(first, weight [n, d], logits [n, rows])` for the tiles of a strip. Logits go to `kept` as far as it reaches, or
    /// are found there when they are `known`; the others are computed into scratch memory.
    fn each(
        &self,
        strip: Range<usize>,
        mut kept: Option<Out<Cpu<E>, E>>,
        known: bool,
        mut work: impl FnMut(usize, View<Cpu<E>, E>, Out<Cpu<E>, E>),
    ) {
        let (rows, d) = (self.h.rows, self.h.cols);
        let mut scratch = self.cpu.mat::<E>(VOCAB.min(strip.len()), rows);
        let held = direct(self.w);
        let mut panel = self.cpu.mat::<E>(if held.is_err() { VOCAB.min(strip.len()) } else { 0 }, d);
        for first in strip.clone().step_by(VOCAB) {
            let n = VOCAB.min(strip.end - first);
            let w = match held {
                Ok(w) => w.rows(first..first + n),
                Err(stored) => unpacked(stored, first..first + n, &mut panel),
            };
            let at = first - strip.start;
            let room = kept.as_mut().filter(|kept| at + n <= kept.rows).map(|kept| kept.again().rows(at..at + n));
            let is_known = known && room.is_some();
            let mut logits = room.unwrap_or_else(|| scratch.out().rows(0..n));
            if !is_known {
                let h = Operand::of(self.turned.view().cols(0..rows));
                self.cpu.product(E::ONE, Operand::of(w), h, d, logits.again().into());
            }
            work(first, w, logits);
        }
    }

    /// Places in a tile of the targets of the rows, by row.
    fn targets(&self, first: usize, n: usize) -> impl Iterator<Item = (usize, usize)> {
        let inside = move |token: &u32| (*token as usize).checked_sub(first).filter(|at| *at < n);
        self.tokens.iter().enumerate().filter_map(move |(s, token)| Some((s, inside(token)?)))
    }

    fn score(&self, strip: Range<usize>, extra: bool, unit: bool, kept: Option<Out<Cpu<E>, E>>) -> Strip<E> {
        let rows = self.h.rows;
        let none = || vec![E::ZERO; rows];
        let mut found = Strip {
            max: vec![E::NEG_INFINITY; rows],
            sums: [none(), none(), none()],
            target: vec![None; rows],
            argmax: vec![0; rows],
            unit: unit.then(|| self.cpu.zeros(rows, self.h.cols)),
        };
        let mut max = found.max.clone();
        self.each(strip, kept, false, |first, w, mut logits| {
            let (n, ld) = (logits.rows, logits.ld);
            let tile = logits.lines();
            self.targets(first, n).for_each(|(s, at)| found.target[s] = Some(tile[at * ld + s]));
            E::column_max(tile, ld, &mut max);
            found.grow(&max, |s, max| {
                if extra {
                    let best = (0..n).find(|at| tile[at * ld + s] == max);
                    best.map(|at| (first + at) as u32)
                } else {
                    None
                }
            });
            match &mut found.unit {
                None => E::column_sums(tile, ld, &max, &mut found.sums),
                Some(unit) => {
                    E::column_exps(tile, ld, &max, &mut found.sums);
                    let (logits, unit) = (Operand::transposed(logits.view()), Acc(unit.out()));
                    self.cpu.product(E::ONE, logits, Operand::of(w), n, unit.into());
                }
            }
        });
        found
    }

    /// `dh` of a strip, and the gradient of its weights added to `dw`.
    fn back(
        &self,
        strip: Range<usize>,
        (coefficient, lse): (&[E], &[E]),
        kept: Option<Out<Cpu<E>, E>>,
        mut dw: Out<Cpu<E>, E>,
    ) -> Mat<Cpu<E>, E> {
        let mut dh = self.cpu.zeros(self.h.rows, self.h.cols);
        let start = strip.start;
        self.each(strip, kept, true, |first, w, mut logits| {
            let (n, ld) = (logits.rows, logits.ld);
            let tile = logits.lines();
            E::column_dlogits(tile, ld, coefficient, lse);
            self.targets(first, n).for_each(|(s, at)| tile[at * ld + s] += coefficient[s]);
            let dlogits = logits.view();
            self.cpu.product(E::ONE, Operand::transposed(dlogits), Operand::of(w), n, Acc(dh.out()).into());
            let dw = Dst { out: dw.again().rows(first - start..first - start + n), add: true };
            self.cpu.product(E::ONE, Operand::of(dlogits), Operand::of(self.h), self.h.rows, dw);
        });
        dh
    }
}

impl<E: Real> Strip<E> {
    /// Takes over larger maxima: sums and unit shrink, and `place(row, max)` says where the largest is.
    fn grow(&mut self, max: &[E], place: impl Fn(usize, E) -> Option<u32>) {
        for (s, (old, new)) in self.max.iter_mut().zip(max).enumerate() {
            if *new > *old {
                let shrink = (*old - *new).exp();
                self.sums[0][s] *= shrink;
                self.sums[1][s] *= shrink;
                if let Some(unit) = self.unit.as_mut().filter(|_| *old > E::NEG_INFINITY) {
                    E::scale_row(shrink, unit.out().row_mut(s));
                }
                if let Some(at) = place(s, *new) {
                    self.argmax[s] = at;
                }
                *old = *new;
            }
        }
    }
}

/// Rows of a stored weight in scratch memory.
fn unpacked<'p, E: Real>(stored: Packed<E>, rows: Range<usize>, panel: &'p mut Mat<Cpu<E>, E>) -> View<'p, Cpu<E>, E> {
    let n = rows.len();
    stored.unpack(rows, panel.out().rows(0..n).lines());
    panel.view().rows(0..n)
}

/// A strip, and the rows of something that belong to it.
type Share<'o, E> = (Range<usize>, Option<Out<'o, Cpu<E>, E>>);

/// The strips of a vocabulary of `v`, with what belongs to each of `of`, cut by rows.
fn strips<'o, E: Real>(v: usize, of: Option<Out<'o, Cpu<E>, E>>) -> Vec<Share<'o, E>> {
    let width = v.div_ceil(STRIPS).next_multiple_of(VOCAB);
    let mut parts = of.map(|of| of.row_chunks(width)).unwrap_or_default().into_iter();
    (0..v).step_by(width).map(|at| (at..(at + width).min(v), parts.next().map(|(_, part)| part))).collect()
}

impl<E: Real> Cpu<E> {
    /// Runs `work` for each item in parallel, and returns what it gives in their order.
    fn gather_each<I: Send, R: Send>(&self, items: Vec<I>, work: impl Fn(I) -> R + Send + Sync) -> Vec<R> {
        let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
        self.each(results.iter_mut().zip(items).collect(), |(result, item)| *result = Some(work(item)));
        results.into_iter().flatten().collect()
    }
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
        let v = shape(w).0;
        let (mut unit, mut kept) = match backward {
            ForBackward::Nothing => (None, None),
            ForBackward::Unit(unit) => (Some(unit), None),
            ForBackward::Logits(logits) => (None, Some(logits)),
        };
        assert!(unit.as_ref().is_none_or(|unit| unit.rows == h.rows && unit.cols == h.cols));
        assert!(kept.as_ref().is_none_or(|kept| kept.rows <= v && kept.cols == h.rows));
        for first in (0..h.rows).step_by(ROWS) {
            let rows = first..(first + ROWS).min(h.rows);
            let tile = Tile::new(self, h.rows(rows.clone()), w, &tokens[rows.clone()]);
            let kept = kept.as_mut().map(|kept| kept.again().cols(rows.clone()));
            let (tile_ref, wants_unit) = (&tile, unit.is_some());
            let found =
                self.gather_each(strips(v, kept), |(strip, kept)| tile_ref.score(strip, extra, wants_unit, kept));
            let joined = Joined::of(&found);
            if let Some(unit) = &mut unit {
                joined.unit(&tile, &found, unit.again().rows(rows));
            }
            joined.scores(v, &mut scores);
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
        let v = shape(w).0;
        assert!(
            h.rows == tokens.len() && lse.len() == h.rows && coefficient.len() == h.rows && dw.shape() == (v, h.cols)
        );
        let (mut dh, mut dw) = (dh, dw.inner());
        for begin in (0..h.rows).step_by(ROWS) {
            let rows = begin..(begin + ROWS).min(h.rows);
            let tile = Tile::new(self, h.rows(rows.clone()), w, &tokens[rows.clone()]);
            let kept = kept.as_mut().map(|kept| kept.again().cols(rows.clone()));
            let tasks = strips(v, kept).into_iter().zip(strips(v, Some(dw.again()))).collect();
            let saved = (&coefficient[rows.clone()], &lse[rows.clone()]);
            let tile = &tile;
            let parts = self.gather_each(tasks, |((strip, kept), (_, dw))| {
                tile.back(strip, saved, kept, dw.expect("every strip has rows of its own"))
            });
            self.each(dh.again().rows(rows).row_chunks(16), |(first, mut dh)| {
                for s in 0..dh.rows {
                    let row = dh.row_mut(s);
                    row.fill(E::ZERO);
                    parts.iter().for_each(|part| E::add_row(part.view().row(first + s), row));
                }
            });
        }
    }

    fn logits(&self, h: View<Self, E>, w: Weight<Self>) -> Vec<E> {
        let mut out = self.mat(h.rows, shape(w).0);
        self.linear(1.0, h, w, out.out());
        self.to_host(out.view())
    }
}

/// The strips' statistics, joined: by row, over the whole vocabulary.
struct Joined<E> {
    max: Vec<E>,
    sums: [Vec<E>; 3],
    target: Vec<E>,
    argmax: Vec<u32>,
    /// Factors of the strips' exponentials, by strip and row.
    shrinks: Vec<Vec<E>>,
}

impl<E: Real> Joined<E> {
    fn of(strips: &[Strip<E>]) -> Joined<E> {
        let rows = strips.first().map_or(0, |s| s.max.len());
        let none = || vec![E::ZERO; rows];
        let mut all = Joined {
            max: vec![E::NEG_INFINITY; rows],
            sums: [none(), none(), none()],
            target: vec![E::NEG_INFINITY; rows],
            argmax: vec![0; rows],
            shrinks: Vec::with_capacity(strips.len()),
        };
        for strip in strips {
            for s in 0..rows {
                if strip.max[s] > all.max[s] {
                    (all.max[s], all.argmax[s]) = (strip.max[s], strip.argmax[s]);
                }
                if let Some(logit) = strip.target[s] {
                    all.target[s] = logit;
                }
            }
        }
        for strip in strips {
            let shrink: Vec<E> = strip.max.iter().zip(&all.max).map(|(own, all)| (*own - *all).exp()).collect();
            for s in 0..rows {
                all.sums[0][s] += strip.sums[0][s] * shrink[s];
                all.sums[1][s] += strip.sums[1][s] * shrink[s];
                all.sums[2][s] += strip.sums[2][s];
            }
            all.shrinks.push(shrink);
        }
        all
    }

    fn scores(&self, vocabulary: usize, scores: &mut HeadScores<E>) {
        for s in 0..self.max.len() {
            let lse = self.max[s] + self.sums[0][s].ln();
            scores.logp.push(self.target[s] - lse);
            scores.lse.push(lse);
            if let Some(extra) = &mut scores.extra {
                extra.entropy.push(lse - self.sums[1][s] / self.sums[0][s]);
                extra.mean_logit.push(self.sums[2][s] / E::of(vocabulary as f64));
                extra.argmax.push(self.argmax[s]);
            }
        }
    }

    /// `w[token] - sum_v p_v w[v]` of each row.
    fn unit(&self, tile: &Tile<E>, strips: &[Strip<E>], out: Out<Cpu<E>, E>) {
        let table = direct(tile.w);
        tile.cpu.each(out.row_chunks(16), |(first, mut out)| {
            let mut own = vec![E::ZERO; out.cols];
            for i in 0..out.rows {
                let (s, row) = (first + i, out.row_mut(i));
                row.fill(E::ZERO);
                for (strip, shrink) in strips.iter().zip(&self.shrinks) {
                    let unit = strip.unit.as_ref().expect("asked for").view();
                    E::add_scaled_row(shrink[s], unit.row(s), row);
                }
                let token = tile.tokens[s] as usize;
                match table {
                    Ok(w) => own.copy_from_slice(w.row(token)),
                    Err(stored) => stored.unpack(token..token + 1, &mut own),
                }
                let scale = E::ONE / self.sums[0][s];
                row.iter_mut().zip(&own).for_each(|(u, w)| *u = *w - *u * scale);
            }
        });
    }
}
