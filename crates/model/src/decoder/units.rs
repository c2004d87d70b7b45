//! Units of the table of parameters: what a decoder needs at a time, where values or gradients are with other ranks as well.
//!
//! Every rank asks for the same units in the same order, whether it has a pack or not: a rank without one *attends*.

use super::Decoder;
use kernels::Backend;
use nn::{Context, Gathered, Grads, Params};

/// The embedding's unit, and the head's where it is the embedding.
pub(super) const EMBEDDING: usize = 0;

/// The unit of block `i`.
pub(super) fn block(i: usize) -> usize {
    1 + i
}

/// Does something with the values of a unit at hand, wherever they come from.
pub(super) fn at<B: Backend, R>(ctx: &Context<B>, unit: usize, work: impl FnOnce(&Context<B>) -> R) -> R {
    before(ctx, unit, None, work)
}

/// As [`at`]; meanwhile the unit that is needed next is fetched.
pub(super) fn before<B: Backend, R>(
    ctx: &Context<B>,
    unit: usize,
    next: Option<usize>,
    work: impl FnOnce(&Context<B>) -> R,
) -> R {
    let (backend, own) = (ctx.backend, &ctx.params);
    let gathered = own.away.and_then(|away| Some((away, away.gather(backend, own, unit)?)));
    let Some((away, Gathered { table, values, halves, lent })) = gathered else { return work(ctx) };
    if let Some(next) = next {
        away.ahead(backend, own, next);
    }
    let params = Params { table, values: &values, halves: Some(&halves), lent: &lent, away: None };
    work(&Context { params, ..*ctx })
}

/// Does all that adds to the gradients of a unit; meanwhile the one that is needed next is fetched.
pub(super) fn back<B: Backend, R>(
    ctx: &Context<B>,
    grads: &mut Grads<B>,
    (unit, next): (usize, Option<usize>),
    work: impl FnOnce(&Context<B>, &mut Grads<B>) -> R,
) -> R {
    let done = before(ctx, unit, next, |ctx| work(ctx, &mut grads.unit(unit)));
    grads.end_unit(ctx.backend, unit);
    done
}

impl<B: Backend> Decoder<B> {
    pub(super) fn norm_unit(&self) -> usize {
        block(self.blocks.len())
    }

    /// The block that backward comes to after block `i`, or after the norm above all.
    pub(super) fn below(&self, i: usize) -> Option<usize> {
        (i > self.lowest_trained).then(|| block(i - 1))
    }

    pub(super) fn head_unit(&self) -> usize {
        if self.head.is_some() { self.norm_unit() + 1 } else { EMBEDDING }
    }

    pub(crate) fn has_head(&self) -> bool {
        self.head.is_some()
    }

    /// Whether backward reads the head: a frozen one has left its part when it scored.
    pub(super) fn head_is_trained(&self) -> bool {
        self.head.as_ref().unwrap_or(&self.embed).is_trained()
    }

    /// Backward has been through the head; one that is the embedding gets more later.
    pub(super) fn end_head(&self, ctx: &Context<B>, grads: &mut Grads<B>) {
        if self.head.is_some() {
            grads.end_unit(ctx.backend, self.head_unit());
        }
    }

    /// Stands by while others go forward over a pack and score it.
    pub fn attend_forward(&self, ctx: &Context<B>) {
        (EMBEDDING..self.norm_unit()).for_each(|unit| before(ctx, unit, Some(unit + 1), |_| ()));
        [self.norm_unit(), self.head_unit()].into_iter().for_each(|unit| at(ctx, unit, |_| ()));
    }

    /// Stands by while others go backward, through the head as well unless they were there when they scored.
    pub fn attend_backward(&self, ctx: &Context<B>, grads: &mut Grads<B>, head: bool) {
        if head && self.head_is_trained() {
            at(ctx, self.head_unit(), |_| ());
        }
        self.end_head(ctx, grads);
        back(ctx, grads, (self.norm_unit(), self.below(self.blocks.len())), |_, _| ());
        let blocks = (self.lowest_trained..self.blocks.len()).rev();
        blocks.for_each(|i| back(ctx, grads, (block(i), self.below(i)), |_, _| ()));
        grads.end_unit(ctx.backend, EMBEDDING);
    }
}
