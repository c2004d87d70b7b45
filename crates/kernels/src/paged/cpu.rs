//! Dot products with the keys of all pages, one softmax over them, and the mix of the pages' values.

use super::{PAGE, Paged, PagedSpan, check};
use crate::apart::{Held, Rows};
use crate::{AttentionShape, Cpu, KeyValue, Memory, Out, Real, View};
use std::marker::PhantomData;
use std::ops::Range;

/// Rows and heads that are computed together at most, as (row, head) pairs.
const PAIRS: usize = 64;
/// Multiplications below which all stays on one thread.
const SMALL: usize = 1 << 16;

/// Some rows of a span under some query heads of one key/value head.
struct Piece<'a> {
    span: &'a PagedSpan,
    /// Rows, counted from the span's first.
    rows: Range<usize>,
    kv_head: usize,
    heads: Range<usize>,
}

fn pieces<'a>(shape: &AttentionShape, spans: &'a [PagedSpan]) -> Vec<Piece<'a>> {
    let group = shape.query_heads / shape.kv_heads;
    let heads_at_once = group.min(8);
    let rows_at_once = (PAIRS / heads_at_once).max(1);
    let mut all = Vec::new();
    for span in spans {
        for first in (0..span.rows.len()).step_by(rows_at_once) {
            let rows = first..(first + rows_at_once).min(span.rows.len());
            for kv_head in 0..shape.kv_heads {
                for head in (kv_head * group..(kv_head + 1) * group).step_by(heads_at_once) {
                    let heads = head..(head + heads_at_once).min((kv_head + 1) * group);
                    all.push(Piece { span, rows: rows.clone(), kv_head, heads });
                }
            }
        }
    }
    all
}

/// A copy of an exclusive borrow.
///
/// # Safety
/// While copies are in use, each may touch only elements that no other copy touches.
unsafe fn alias<'a, E>(out: &Out<'a, Cpu<E>, E>) -> Out<'a, Cpu<E>, E> {
    Out { ptr: out.ptr, rows: out.rows, cols: out.cols, ld: out.ld, tie: PhantomData }
}

impl<E: Real> Paged for Cpu<E> {
    fn paged(
        &self,
        shape: &AttentionShape,
        spans: &[PagedSpan],
        q: View<Self, E>,
        cache: KeyValue<Self>,
        o: Out<Self, E>,
        lse: Out<Self, E>,
    ) {
        check(shape, &q, &cache, &o, &lse);
        let work: usize = spans.iter().map(|s| s.rows.len() * (s.position + s.rows.len())).sum();
        let pieces = pieces(shape, spans);
        // SAFETY: a piece's rows and heads belong to it alone: spans tile the rows, pieces the rows and heads of a span.
        let run = |piece: Piece<'_>| unsafe { attend(self, shape, &piece, q, cache, (alias(&o), alias(&lse))) };
        if work * shape.query_heads * (shape.qk_width + shape.v_width) < SMALL {
            return pieces.into_iter().for_each(run);
        }
        self.each(pieces, run);
    }
}

fn attend<E: Real>(
    cpu: &Cpu<E>,
    shape: &AttentionShape,
    piece: &Piece<'_>,
    q: View<Cpu<E>, E>,
    cache: KeyValue<Cpu<E>>,
    (mut o, mut lse): (Out<Cpu<E>, E>, Out<Cpu<E>, E>),
) {
    let Piece { span, rows, kv_head, heads } = piece;
    let position = |row: usize| span.position + row;
    let seen_from = |row: usize| shape.window.map_or(0, |w| (position(row) + 1).saturating_sub(w));
    let pages = seen_from(rows.start) / PAGE..position(rows.end - 1) / PAGE + 1;
    let (base, end) = (pages.start * PAGE, position(rows.end - 1) + 1);
    let pairs: Vec<(usize, usize)> = rows.clone().flat_map(|row| heads.clone().map(move |head| (row, head))).collect();

    let mut scaled = cpu.mat::<E>(pairs.len(), shape.qk_width);
    let mut out = scaled.out();
    for (i, (row, head)) in pairs.iter().enumerate() {
        let q = &q.row(span.rows.start + row)[head * shape.qk_width..(head + 1) * shape.qk_width];
        out.row_mut(i).copy_from_slice(q);
        E::times(E::of(shape.scale), out.row_mut(i));
    }
    let x = crate::apart::slices(scaled.view());
    let mut scores = cpu.mat::<E>(pairs.len(), end - base);
    let held = |rows, width| {
        Held::paged(View::cols(rows, kv_head * width..(kv_head + 1) * width), &span.pages[pages.clone()], end - base)
    };
    E::dots(&x, Rows(held(cache.k, shape.qk_width)), scores.out().into());
    let mut out = scores.out();
    for (i, (row, head)) in pairs.iter().enumerate() {
        if let Some(cap) = shape.cap {
            E::cap_row(out.row_mut(i), cap);
        }
        let seen = seen_from(*row) - base..position(*row) + 1 - base;
        lse.row_mut(span.rows.start + row)[*head] = E::softmax_row(out.row_mut(i), seen);
    }
    let mut mixed = cpu.mat::<E>(pairs.len(), shape.v_width);
    E::mix(&crate::apart::slices(scores.view()), Rows(held(cache.v, shape.v_width)), mixed.out().into());
    for (i, (row, head)) in pairs.iter().enumerate() {
        let o = &mut o.row_mut(span.rows.start + row)[head * shape.v_width..(head + 1) * shape.v_width];
        o.copy_from_slice(mixed.view().row(i));
    }
}
