//! From a step's gradient to new values: on one rank, or each rank its shard of the arena.

use super::{Ranks, Run};
use crate::Error;
use crate::gradient::Gradient;
use crate::policy::Policy;
use crate::spread::{Spread, real};
use dist::World;
use kernels::Backend;
use optim::adamw::clip;
use std::ops::Range;

/// Elements that are given to the optimiser at a time.
const PIECE: usize = 1 << 20;

/// Refuses what ranks have no way for.
pub(super) fn fits(world: &World, config: &config::Config) -> Result<(), Error> {
    let (engine, ranks) = (&config.engine, world.size());
    if ranks == 1 {
        return Ok(());
    }
    match engine.shard_ranks {
        Some(group) if !ranks.is_multiple_of(group) => Err(Error::Mismatch {
            what: format!("shard_ranks: expected a divisor of the {ranks} ranks, found {group}"),
        }),
        _ => Ok(()),
    }
}

/// What one process makes of keys for several.
pub(super) fn alone_note(world: &World, config: &config::Config) -> Option<String> {
    let group = config.engine.shard_ranks.filter(|_| world.size() == 1)?;
    Some(format!("shard_ranks: {group} changes nothing here: this is one process, which has all shards"))
}

impl Ranks<'_> {
    /// Whether this rank alone computes the whole step as one process does.
    fn alone(&self) -> bool {
        self.world.size() == 1 && !self.elastic
    }

    /// The elements of an arena that this rank's optimiser updates.
    pub(super) fn updated(&self, spread: &Spread, len: usize) -> Vec<Range<usize>> {
        if self.zero == 0 { std::iter::once(0..len).collect() } else { spread.own() }
    }

    /// Room for a gradient.
    pub(super) fn gradient<B: Backend>(&self, backend: &B, spread: &Spread, len: usize) -> Gradient<B> {
        match (self.elastic, self.zero) {
            (_, 2..) => Gradient::sharded(backend, spread),
            (true, _) => Gradient::elastic(backend, len, spread),
            (false, _) => Gradient::running(backend, len),
        }
    }

    /// Whether any rank says so.
    pub(super) fn any(&self, own: bool) -> Result<bool, Error> {
        super::agree::any(self.world, own)
    }
}

impl<B: Backend> Run<'_, B> {
    /// Updates the values by the gradient of a step, unless it is to be skipped; returns the gradient's norm before clipping.
    pub(super) fn update(
        &mut self,
        step: data::Step,
        grads: &mut Gradient<B>,
        rate: f64,
        skip: bool,
    ) -> Result<f64, Error> {
        let backend = self.backend;
        if self.ranks.alone() {
            let norm = backend.square_norm(grads.values.view()).sqrt();
            let scale = self.scale(norm, step)?;
            if !skip {
                let Policy { values, halves, .. } = &mut self.policy;
                self.optimizer.update(backend, values, halves, &grads.values, rate, scale);
            }
            return Ok(norm);
        }
        let own = grads.reduced(backend, &self.spread, &self.policy.table)?;
        let norm = self.spread.norm(&own)?;
        let scale = self.scale(norm, step)?;
        if skip {
            return Ok(norm);
        }
        if self.ranks.zero == 0 {
            for unit in 0..self.spread.units() {
                let part = &own[self.spread.own_of(unit)];
                self.spread.gather(self.spread.window(unit), part, &mut |at, part| {
                    backend.upload(&real::<B>(part), grads.values.out().cols(at..at + part.len()));
                })?;
            }
        } else {
            // Gradients have left, so there is room for what the optimiser reads.
            for (piece, first) in own.chunks(PIECE).zip((0..).step_by(PIECE)) {
                backend.upload(&real::<B>(piece), grads.values.out().cols(first..first + piece.len()));
            }
        }
        drop(own);
        let Policy { values, halves, .. } = &mut self.policy;
        self.optimizer.update(backend, values, halves, &grads.values, rate, scale);
        if (1..3).contains(&self.ranks.zero) {
            for unit in 0..self.spread.units() {
                let window = self.spread.window(unit);
                let own = self.spread.own_values(backend, &self.policy, window.clone());
                let policy = &mut self.policy;
                self.spread.gather(window, &own, &mut |at, part| policy.put(backend, at, part))?;
            }
        }
        Ok(norm)
    }

    /// What clipping multiplies the gradient by.
    fn scale(&self, norm: f64, step: data::Step) -> Result<f64, Error> {
        if !norm.is_finite() {
            return Err(self.not_finite("the gradient", &self.rows_of(step)));
        }
        Ok(self.job.config.optimizer.max_grad_norm.map_or(1.0, |max| clip(norm, max)))
    }
}
