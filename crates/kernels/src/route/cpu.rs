//! Row by row: experts are few, so the choice is a plain search.

use super::{Balance, Gating, Route, RouteShape, Routed};
use crate::{Cpu, Out, Real, View};

/// Rows handed to a thread at a time.
const ROWS: usize = 64;
/// Keeps the sum that weights are divided by away from zero, as in the models' own code.
const TINY: f64 = 1e-20;

fn sigmoid<E: Real>(x: E) -> E {
    E::ONE / (E::ONE + (-x).exp())
}

fn softmax<E: Real>(x: &mut [E]) {
    let max = x.iter().fold(E::NEG_INFINITY, |m, &x| x.max(m));
    let mut sum = E::ZERO;
    for x in &mut *x {
        *x = (*x - max).exp();
        sum += *x;
    }
    let scale = E::ONE / sum;
    x.iter_mut().for_each(|x| *x *= scale);
}

/// The indices of the largest entries, largest first, the first of equals first.
fn largest<E: Real>(x: &[E], chosen: &mut [u32]) {
    for n in 0..chosen.len() {
        let (taken, rest) = chosen.split_at_mut(n);
        let mut best: Option<usize> = None;
        for i in (0..x.len()).filter(|&i| !taken.contains(&(i as u32))) {
            if best.is_none_or(|b| x[i] > x[b]) {
                best = Some(i);
            }
        }
        rest[0] = best.expect("no more experts are chosen than there are") as u32;
    }
}

/// Replaces the entries of all groups but the best by minus infinity.
fn keep_groups<E: Real>(choice: &mut [E], groups: usize, kept: usize) {
    let width = choice.len() / groups;
    let score = |group: &[E]| {
        let mut best = [0; 2];
        let n = best.len().min(width);
        largest(group, &mut best[..n]);
        best[..n].iter().fold(E::ZERO, |sum, &i| sum + group[i as usize])
    };
    let scores: Vec<E> = choice.chunks_exact(width).map(score).collect();
    let mut best = vec![0; kept];
    largest(&scores, &mut best);
    for (g, group) in choice.chunks_exact_mut(width).enumerate() {
        if !best.contains(&(g as u32)) {
            group.fill(E::NEG_INFINITY);
        }
    }
}

/// Chooses for one row.
fn route_row<E: Real>(
    shape: &RouteShape,
    logits: &[E],
    correction: Option<&[E]>,
    chosen: &mut [u32],
    weights: &mut [E],
) {
    let pick = |from: &[E], chosen: &[u32], weights: &mut [E]| {
        weights.iter_mut().zip(chosen).for_each(|(w, &e)| *w = from[e as usize]);
    };
    match shape.gating {
        Gating::Softmax => {
            largest(logits, chosen);
            let mut p = logits.to_vec();
            softmax(&mut p);
            pick(&p, chosen, weights);
        }
        Gating::SoftmaxOfChosen => {
            largest(logits, chosen);
            pick(logits, chosen, weights);
            softmax(weights);
        }
        Gating::Sigmoid { groups, kept_groups, normalise, scale } => {
            let s: Vec<E> = logits.iter().map(|&x| sigmoid(x)).collect();
            let mut choice = s.clone();
            if let Some(correction) = correction {
                choice.iter_mut().zip(correction).for_each(|(c, b)| *c += *b);
            }
            if kept_groups < groups {
                keep_groups(&mut choice, groups, kept_groups);
            }
            largest(&choice, chosen);
            pick(&s, chosen, weights);
            let sum = weights.iter().fold(E::ZERO, |sum, &w| sum + w) + E::of(TINY);
            let factor = if normalise { E::of(scale) / sum } else { E::of(scale) };
            weights.iter_mut().for_each(|w| *w *= factor);
        }
    }
}

/// One row's `dlogits`, zero before.
fn back_row<E: Real>(
    shape: &RouteShape,
    logits: &[E],
    chosen: &[u32],
    weights: &[E],
    dweights: &[E],
    dlogits: &mut [E],
) {
    let weighted = dweights.iter().zip(weights).fold(E::ZERO, |sum, (d, w)| sum + *d * *w);
    let picked = || chosen.iter().map(|&e| e as usize).zip(weights.iter().zip(dweights));
    match shape.gating {
        Gating::Softmax => {
            let mut p = logits.to_vec();
            softmax(&mut p);
            dlogits.iter_mut().zip(&p).for_each(|(d, p)| *d = -(*p * weighted));
            picked().for_each(|(e, (w, dw))| dlogits[e] += *w * *dw);
        }
        Gating::SoftmaxOfChosen => picked().for_each(|(e, (w, dw))| dlogits[e] = *w * (*dw - weighted)),
        Gating::Sigmoid { normalise, scale, .. } => {
            let s = |e: usize| sigmoid(logits[e]);
            let sum = chosen.iter().fold(E::ZERO, |sum, &e| sum + s(e as usize)) + E::of(TINY);
            let scale = E::of(scale);
            for (e, (_, dw)) in picked() {
                let ds = if normalise { (scale * *dw - weighted) / sum } else { scale * *dw };
                dlogits[e] = ds * s(e) * (E::ONE - s(e));
            }
        }
    }
}

impl<E: Real> Route for Cpu<E> {
    fn route(&self, shape: &RouteShape, logits: View<Self, E>, correction: Option<View<Self, E>>) -> Routed<E> {
        let c = shape.chosen;
        assert!(logits.cols == shape.experts && c >= 1, "{} logits, {shape:?}", logits.cols);
        assert!(correction.is_none_or(|b| b.rows == 1 && b.cols == shape.experts), "{shape:?}");
        let mut routed = Routed { experts: vec![0; logits.rows * c], weights: vec![E::ZERO; logits.rows * c] };
        let tasks: Vec<_> =
            routed.experts.chunks_mut(ROWS * c).zip(routed.weights.chunks_mut(ROWS * c)).enumerate().collect();
        self.each(tasks, |(chunk, (experts, weights))| {
            for (i, (experts, weights)) in experts.chunks_mut(c).zip(weights.chunks_mut(c)).enumerate() {
                route_row(shape, logits.row(chunk * ROWS + i), correction.map(|b| b.row(0)), experts, weights);
            }
        });
        routed
    }

    fn route_load(&self, logits: View<Self, E>, counts: &[E]) -> Vec<f64> {
        assert!(counts.len() == logits.rows, "{} counts for {} rows", counts.len(), logits.rows);
        let mut load = vec![0.0; logits.cols];
        let mut p = vec![E::ZERO; logits.cols];
        for (t, count) in counts.iter().enumerate().filter(|(_, c)| **c != E::ZERO) {
            p.copy_from_slice(logits.row(t));
            softmax(&mut p);
            load.iter_mut().zip(&p).for_each(|(l, p)| *l += count.f64() * p.f64());
        }
        load
    }

    fn route_back(
        &self,
        shape: &RouteShape,
        logits: View<Self, E>,
        routed: &Routed<E>,
        dweights: &[E],
        balance: Option<Balance<E>>,
        dlogits: Out<Self, E>,
    ) {
        let c = shape.chosen;
        assert!(dlogits.rows == logits.rows && dlogits.cols == logits.cols && dweights.len() == logits.rows * c);
        assert!(balance.is_none_or(|b| b.counts.len() == logits.rows && b.push.len() == logits.cols));
        self.each(dlogits.row_chunks(ROWS), |(first, mut dlogits)| {
            for i in 0..dlogits.rows {
                let (t, d) = (first + i, dlogits.row_mut(i));
                let at = t * c..(t + 1) * c;
                d.fill(E::ZERO);
                let (experts, weights) = (&routed.experts[at.clone()], &routed.weights[at.clone()]);
                back_row(shape, logits.row(t), experts, weights, &dweights[at], d);
                if let Some(Balance { counts, push }) = balance {
                    let mut p = logits.row(t).to_vec();
                    softmax(&mut p);
                    let mean = p.iter().zip(push).fold(E::ZERO, |sum, (p, v)| sum + *p * *v);
                    let entries = d.iter_mut().zip(&p).zip(push);
                    entries.for_each(|((d, p), v)| *d += counts[t] * *p * (*v - mean));
                }
            }
        });
    }
}
