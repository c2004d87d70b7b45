//! Units of the table of parameters: what a decoder needs at a time, where values or gradients are with other ranks as well.
//!
//! Every rank asks for the same units in the same order, whether it has a pack or not: a rank without one *attends*.

use super::Decoder;
use kernels::Backend;
use nn::{Context, Grads, Params};

/// The embedding's unit, and the head's where it is the embedding.
pub(super) const EMBEDDING: usize = 0;

/// The unit of block `i`.
pub(super) fn block(i: usize) -> usize {
    1 + i
}

/// Does something with the values of a unit at hand, wherever they come from.
pub(super) fn at<B: Backend, R>(ctx: &Context<B>, unit: usize, work: impl FnOnce(&Context<B>) -> R) -> R {
    let gathered = ctx.params.away.and_then(|away| away.gather(ctx.backend, ctx.params.values, unit));
    match gathered {
        None => work(ctx),
        Some((table, values)) => {
            let params = Params { table, values: &values, halves: None, away: None };
            work(&Context { params, ..*ctx })
        }
    }
}

/// Does all that adds to the gradients of a unit.
pub(super) fn back<B: Backend, R>(
    ctx: &Context<B>,
    grads: &mut Grads<B>,
    unit: usize,
    work: impl FnOnce(&Context<B>, &mut Grads<B>) -> R,
) -> R {
    let done = at(ctx, unit, |ctx| work(ctx, &mut grads.unit(unit)));
    grads.end_unit(ctx.backend, unit);
    done
}

impl<B: Backend> Decoder<B> {
    pub(super) fn norm_unit(&self) -> usize {
        block(self.blocks.len())
    }

    pub(super) fn head_unit(&self) -> usize {
        if self.head.is_some() { self.norm_unit() + 1 } else { EMBEDDING }
    }

    /// Backward has been through the head; one that is the embedding gets more later.
    pub(super) fn end_head(&self, ctx: &Context<B>, grads: &mut Grads<B>) {
        if self.head.is_some() {
            grads.end_unit(ctx.backend, self.head_unit());
        }
    }

    /// Stands by while others go forward over a pack and score it.
    pub fn attend_forward(&self, ctx: &Context<B>) {
        let before = std::iter::once(EMBEDDING).chain((0..self.blocks.len()).map(block));
        before.chain([self.norm_unit(), self.head_unit()]).for_each(|unit| at(ctx, unit, |_| ()));
    }

    /// Stands by while others go backward, through the head as well unless they were there when they scored.
    pub fn attend_backward(&self, ctx: &Context<B>, grads: &mut Grads<B>, head: bool) {
        if head {
            at(ctx, self.head_unit(), |_| ());
        }
        self.end_head(ctx, grads);
        let blocks = (self.lowest_trained..self.blocks.len()).rev().map(block);
        std::iter::once(self.norm_unit()).chain(blocks).for_each(|unit| back(ctx, grads, unit, |_, _| ()));
        grads.end_unit(ctx.backend, EMBEDDING);
    }
}
