//! Blocks of query rows against all keys they see, as two products per block; scratch is one block row of scores.

use super::{Attention, AttentionGrads, AttentionSaved, AttentionShape, KeyValue, Span};
use crate::cpu::simd::{exp_sum, lane_max, lane_sum, loops};
use crate::gemm::cpu::{Operand, product};
use crate::{Cpu, Dst, Memory, Out, Real, View};
use gemm_common::Parallelism;
use std::marker::PhantomData;
use std::ops::Range;

/// Query rows of a block.
const BLOCK: usize = 64;

/// The keys one block of rows sees: part of the context, then part of its own span.
struct Visible {
    context: Range<usize>,
    own: Range<usize>,
    /// Position of the first visible key.
    first_position: usize,
}

/// Keys seen by at least one of rows `block` (relative to the span) under the window.
fn visible(span: &Span, block: &Range<usize>, window: Option<usize>) -> Visible {
    let c = span.context.len();
    let first = window.map_or(0, |w| (c + block.start + 1).saturating_sub(w));
    let context = span.context.start + first.min(c)..span.context.end;
    let own = span.rows.start + first.saturating_sub(c)..span.rows.start + block.end;
    Visible { context, own, first_position: first }
}

/// Cuts a span's rows into blocks, relative to the span.
fn blocks(span: &Span) -> impl Iterator<Item = Range<usize>> {
    let rows = span.rows.len();
    (0..rows).step_by(BLOCK).map(move |b| b..(b + BLOCK).min(rows))
}

/// Columns that row `i` of a block sees, as a range of the block's score columns.
fn seen(span: &Span, block: &Range<usize>, visible: &Visible, window: Option<usize>, i: usize) -> Range<usize> {
    let position = span.context.len() + block.start + i;
    let first = window.map_or(0, |w| (position + 1).saturating_sub(w));
    first - visible.first_position.min(first)..position + 1 - visible.first_position
}

/// `scores [block, keys] = alpha * left keysᵀ` over both key ranges.
fn times_keys<E: Real>(
    alpha: f64,
    left: View<Cpu<E>, E>,
    context: View<Cpu<E>, E>,
    own: View<Cpu<E>, E>,
    mut scores: Out<Cpu<E>, E>,
) {
    let c = context.rows;
    for (keys, at) in [(context, 0..c), (own, c..c + own.rows)] {
        let out = scores.again().cols(at);
        product(E::of(alpha), Operand::of(left), Operand::transposed(keys), left.cols, out.into(), Parallelism::None);
    }
}

/// `out (+)= alpha * weights values` over both key ranges.
fn times_values<E: Real>(
    alpha: f64,
    weights: View<Cpu<E>, E>,
    context: View<Cpu<E>, E>,
    own: View<Cpu<E>, E>,
    mut out: Out<Cpu<E>, E>,
    add: bool,
) {
    let c = context.rows;
    let mut add = add;
    for (w, values) in [(weights.cols(0..c), context), (weights.cols(c..c + own.rows), own)] {
        if values.rows > 0 {
            product(
                E::of(alpha),
                Operand::of(w),
                Operand::of(values),
                values.rows,
                Dst { out: out.again(), add },
                Parallelism::None,
            );
            add = true;
        }
    }
}

loops! {
    /// One row of a block's scores.
    trait AttentionLoops {
        /// Replaces scores by softmax probabilities, zero outside `seen`; returns the log-sum-exp.
        fn softmax_row(row: &mut [E], seen: Range<usize>) -> E {
            let (before, rest) = row.split_at_mut(seen.start);
            let (live, after) = rest.split_at_mut(seen.end - seen.start);
            before.fill(E::ZERO);
            after.fill(E::ZERO);
            let max = lane_max(live);
            let sum = exp_sum(live, max);
            let scale = E::ONE / sum;
            live.iter_mut().for_each(|x| *x *= scale);
            max + sum.ln()
        }
        /// `scores[n][i] = scale * q[n] . keys[i][n / group]`; keys are whole rows, read once and in order.
        fn score_row(shape: &AttentionShape, q: &[E], keys: &[&[E]], scores: &mut [E]) {
            let (group, width) = (shape.query_heads / shape.kv_heads, shape.qk_width);
            for (i, key) in keys.iter().enumerate() {
                for (j, key) in key.chunks_exact(width).enumerate() {
                    for n in j * group..(j + 1) * group {
                        let q = &q[n * width..(n + 1) * width];
                        scores[n * keys.len() + i] = E::of(shape.scale) * lane_sum([q, key], |[q, k]| q * k);
                    }
                }
            }
        }
        /// Replaces scores by `cap * tanh(score / cap)`.
        fn cap_row(row: &mut [E], cap: f64) {
            let (cap, inverse) = (E::of(cap), E::of(1.0 / cap));
            row.iter_mut().for_each(|x| *x = cap * (*x * inverse).tanh());
        }
        /// As `cap_row`, and writes the derivative `1 - tanh²` to `slopes`.
        fn cap_slopes_row(row: &mut [E], cap: f64, slopes: &mut [E]) {
            let (cap, inverse) = (E::of(cap), E::of(1.0 / cap));
            for (x, s) in row.iter_mut().zip(slopes) {
                let t = (*x * inverse).tanh();
                (*x, *s) = (cap * t, E::ONE - t * t);
            }
        }
        fn times_row(x: &[E], y: &mut [E]) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y *= *x);
        }
        /// `o[n] = sum over i of p[n][i] * values[i][n / group]`.
        fn mix_row(shape: &AttentionShape, p: &[E], values: &[&[E]], o: &mut [E]) {
            let (group, width) = (shape.query_heads / shape.kv_heads, shape.v_width);
            o.fill(E::ZERO);
            for (i, value) in values.iter().enumerate() {
                for (j, value) in value.chunks_exact(width).enumerate() {
                    for n in j * group..(j + 1) * group {
                        let p = p[n * values.len() + i];
                        o[n * width..(n + 1) * width].iter_mut().zip(value).for_each(|(o, v)| *o += p * *v);
                    }
                }
            }
        }
        /// From scores and `do vᵀ` to `p` and `ds = p (do vᵀ - do . o)`, zero outside `seen`.
        fn softmax_back_row(p: &mut [E], ds: &mut [E], seen: Range<usize>, lse: E, d_o: &[E], o: &[E]) {
            let delta = lane_sum([d_o, o], |[d, o]| d * o);
            for outside in [0..seen.start, seen.end..p.len()] {
                p[outside.clone()].fill(E::ZERO);
                ds[outside].fill(E::ZERO);
            }
            for (p, ds) in p[seen.clone()].iter_mut().zip(&mut ds[seen]) {
                *p = (*p - lse).exp();
                *ds = *p * (*ds - delta);
            }
        }
    }
}

/// The columns of head `j`, `width` wide.
fn head(j: usize, width: usize) -> Range<usize> {
    j * width..(j + 1) * width
}

/// A copy of an exclusive borrow.
///
/// # Safety
/// While copies are in use, each may touch only elements that no other copy touches.
unsafe fn alias<'a, E>(out: &Out<'a, Cpu<E>, E>) -> Out<'a, Cpu<E>, E> {
    Out { ptr: out.ptr, rows: out.rows, cols: out.cols, ld: out.ld, tie: PhantomData }
}

fn check<E: Real>(shape: &AttentionShape, q: &View<Cpu<E>, E>, kv: &KeyValue<Cpu<E>>) {
    assert!(shape.query_heads.is_multiple_of(shape.kv_heads), "{shape:?}");
    assert!(q.cols == shape.query_heads * shape.qk_width && kv.k.cols == shape.kv_heads * shape.qk_width, "{shape:?}");
    assert!(kv.v.cols == shape.kv_heads * shape.v_width && kv.k.rows == kv.v.rows, "{shape:?}");
}

impl<E: Real> Attention for Cpu<E> {
    fn attention(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        q: View<Self, E>,
        own: KeyValue<Self>,
        context: KeyValue<Self>,
        o: Out<Self, E>,
        lse: Option<Out<Self, E>>,
    ) {
        check(shape, &q, &own);
        check(shape, &q, &context);
        assert!(o.rows == q.rows && o.cols == shape.query_heads * shape.v_width && own.k.rows == q.rows);
        assert!(lse.as_ref().is_none_or(|l| l.rows == q.rows && l.cols == shape.query_heads));
        let group = shape.query_heads / shape.kv_heads;
        let heads = |s: &Span| if s.rows.len() == 1 { 0..1 } else { 0..shape.kv_heads };
        let tasks: Vec<(&Span, usize)> = spans.iter().flat_map(|s| heads(s).map(move |j| (s, j))).collect();
        self.each(tasks, |(span, j)| {
            if span.rows.len() == 1 {
                // SAFETY: this row belongs to this task alone.
                let (o, lse) = unsafe { (alias(&o), lse.as_ref().map(|l| alias(l))) };
                return single_row(shape, span, q, [own, context], o, lse);
            }
            let keys = (span.context.len() + span.rows.len()).min(shape.window.map_or(usize::MAX, |w| w + BLOCK));
            let mut scratch = self.mat::<E>(BLOCK.min(span.rows.len()), keys);
            let (kc, vc) = (head(j, shape.qk_width), head(j, shape.v_width));
            for block in blocks(span) {
                let vis = visible(span, &block, shape.window);
                let rows = span.rows.start + block.start..span.rows.start + block.end;
                let width = vis.context.len() + vis.own.len();
                for n in j * group..(j + 1) * group {
                    let q = q.rows(rows.clone()).cols(head(n, shape.qk_width));
                    let mut scores = scratch.out().rows(0..block.len()).cols(0..width);
                    let (ck, ok) = (
                        context.k.rows(vis.context.clone()).cols(kc.clone()),
                        own.k.rows(vis.own.clone()).cols(kc.clone()),
                    );
                    times_keys(shape.scale, q, ck, ok, scores.again());
                    for i in 0..block.len() {
                        if let Some(cap) = shape.cap {
                            E::cap_row(scores.row_mut(i), cap);
                        }
                        let sum = E::softmax_row(scores.row_mut(i), seen(span, &block, &vis, shape.window, i));
                        if let Some(lse) = &lse {
                            // SAFETY: (row, head) belongs to this task alone: spans tile the rows, heads the columns.
                            unsafe { alias(lse) }.cols(n..n + 1).row_mut(rows.start + i)[0] = sum;
                        }
                    }
                    // SAFETY: these rows and the columns of this head belong to this task alone.
                    let o = unsafe { alias(&o) }.rows(rows.clone()).cols(head(n, shape.v_width));
                    let (cv, ov) = (
                        context.v.rows(vis.context.clone()).cols(vc.clone()),
                        own.v.rows(vis.own.clone()).cols(vc.clone()),
                    );
                    times_values(1.0, scores.view(), cv, ov, o, false);
                }
            }
        });
    }

    fn attention_back(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        saved: AttentionSaved<'_, Self>,
        d_o: View<Self, E>,
        grads: AttentionGrads<'_, Self>,
    ) {
        check(shape, &saved.q, &saved.kv);
        let AttentionGrads { mut dq, mut dk, mut dv } = grads;
        assert!(
            dq.rows == saved.q.rows && dk.rows == saved.q.rows && dv.rows == saved.q.rows && d_o.rows == saved.q.rows
        );
        self.fill_zero(dq.again());
        self.fill_zero(dk.again());
        self.fill_zero(dv.again());
        let families = families(spans);
        let tasks: Vec<(&Vec<&Span>, usize)> =
            families.iter().flat_map(|f| (0..shape.kv_heads).map(move |j| (f, j))).collect();
        self.each(tasks, |(family, j)| {
            // SAFETY: a task writes only rows of its family's spans, whose contexts lie in the same family, and of those
            // only the columns of key/value head `j` and of the query heads that it serves.
            let grads = unsafe { AttentionGrads { dq: alias(&dq), dk: alias(&dk), dv: alias(&dv) } };
            back_family(self, shape, family, j, &saved, d_o, grads);
        });
    }
}

/// Every visible row, oldest first.
fn seen_rows<'a, E: Real>(visible: &Visible, own: View<'a, Cpu<E>, E>, context: View<'a, Cpu<E>, E>) -> Vec<&'a [E]> {
    let before = visible.context.clone().map(|i| context.row(i));
    before.chain(visible.own.clone().map(|i| own.row(i))).collect()
}

/// One row against the keys it sees, all heads: products this thin are better written out, and keys and values are then
/// read as they lie. `key_values` are the row's own and the context's.
fn single_row<E: Real>(
    shape: &AttentionShape,
    span: &Span,
    q: View<Cpu<E>, E>,
    key_values: [KeyValue<Cpu<E>>; 2],
    mut o: Out<Cpu<E>, E>,
    lse: Option<Out<Cpu<E>, E>>,
) {
    let row = span.rows.start;
    let [own, context] = key_values;
    let visible = visible(span, &(0..1), shape.window);
    let (keys, values) = (seen_rows(&visible, own.k, context.k), seen_rows(&visible, own.v, context.v));
    let mut scores = vec![E::ZERO; shape.query_heads * keys.len()];
    E::score_row(shape, q.row(row), &keys, &mut scores);
    if let Some(cap) = shape.cap {
        E::cap_row(&mut scores, cap);
    }
    let heads = scores.chunks_exact_mut(keys.len());
    let sums: Vec<E> = heads.map(|scores| E::softmax_row(scores, 0..keys.len())).collect();
    if let Some(mut lse) = lse {
        lse.row_mut(row).copy_from_slice(&sums);
    }
    E::mix_row(shape, &scores, &values, o.row_mut(row));
}

/// Spans that share keys, in order of first appearance: a span without context, and those that continue it.
fn families(spans: &[Span]) -> Vec<Vec<&Span>> {
    let mut roots: Vec<Vec<&Span>> = Vec::new();
    for span in spans.iter().filter(|s| s.context.is_empty()) {
        roots.push(vec![span]);
    }
    for span in spans.iter().filter(|s| !s.context.is_empty()) {
        let root =
            roots.iter_mut().find(|f| f[0].rows.start <= span.context.start && span.context.end <= f[0].rows.end);
        root.expect("a span's context must lie in a span without context").push(span);
    }
    roots
}

fn back_family<E: Real>(
    cpu: &Cpu<E>,
    shape: &AttentionShape,
    family: &[&Span],
    j: usize,
    saved: &AttentionSaved<'_, Cpu<E>>,
    d_o: View<Cpu<E>, E>,
    grads: AttentionGrads<'_, Cpu<E>>,
) {
    let group = shape.query_heads / shape.kv_heads;
    let (kc, vc) = (head(j, shape.qk_width), head(j, shape.v_width));
    let most = family.iter().map(|s| s.context.len() + s.rows.len()).max().unwrap_or(0);
    let (mut p_scratch, mut ds_scratch) = (cpu.mat::<E>(BLOCK, most), cpu.mat::<E>(BLOCK, most));
    let (k, v) = (saved.kv.k.cols(kc.clone()), saved.kv.v.cols(vc.clone()));
    let (mut dk, mut dv) = (grads.dk.cols(kc), grads.dv.cols(vc));
    let mut dq = grads.dq;
    let mut slopes = vec![E::ONE; if shape.cap.is_some() { most } else { 0 }];
    for span in family {
        for block in blocks(span) {
            let vis = visible(span, &block, shape.window);
            let rows = span.rows.start + block.start..span.rows.start + block.end;
            let width = vis.context.len() + vis.own.len();
            for n in j * group..(j + 1) * group {
                let q = saved.q.rows(rows.clone()).cols(head(n, shape.qk_width));
                let o = saved.o.rows(rows.clone()).cols(head(n, shape.v_width));
                let d_o = d_o.rows(rows.clone()).cols(head(n, shape.v_width));
                let mut p = p_scratch.out().rows(0..block.len()).cols(0..width);
                let mut ds = ds_scratch.out().rows(0..block.len()).cols(0..width);
                times_keys(shape.scale, q, k.rows(vis.context.clone()), k.rows(vis.own.clone()), p.again());
                times_keys(1.0, d_o, v.rows(vis.context.clone()), v.rows(vis.own.clone()), ds.again());
                for i in 0..block.len() {
                    let lse = saved.lse.row(rows.start + i)[n];
                    let live = seen(span, &block, &vis, shape.window, i);
                    if let Some(cap) = shape.cap {
                        E::cap_slopes_row(p.row_mut(i), cap, &mut slopes);
                    }
                    E::softmax_back_row(p.row_mut(i), ds.row_mut(i), live, lse, d_o.row(i), o.row(i));
                    if shape.cap.is_some() {
                        E::times_row(&slopes, ds.row_mut(i));
                    }
                }
                let (p, ds) = (p.view(), ds.view());
                times_values(
                    shape.scale,
                    ds,
                    k.rows(vis.context.clone()),
                    k.rows(vis.own.clone()),
                    dq.again().rows(rows.clone()).cols(head(n, shape.qk_width)),
                    false,
                );
                for (keys, cols) in
                    [(vis.context.clone(), 0..vis.context.len()), (vis.own.clone(), vis.context.len()..width)]
                {
                    let add = |out| Dst { out, add: true };
                    let (ds, p) = (Operand::transposed(ds.cols(cols.clone())), Operand::transposed(p.cols(cols)));
                    product(
                        E::of(shape.scale),
                        ds,
                        Operand::of(q),
                        block.len(),
                        add(dk.again().rows(keys.clone())),
                        Parallelism::None,
                    );
                    product(E::ONE, p, Operand::of(d_o), block.len(), add(dv.again().rows(keys)), Parallelism::None);
                }
            }
        }
    }
}
