//! The model that a run trains, with as much of its values as this rank holds.

use super::{Event, Ranks, reference};
use crate::plan::is_on_gpu;
use crate::policy::Policy;
use crate::spread::{Spread, host, real};
use crate::{Error, Job};
use config::OptimizerName;
use dist::Shards;
use kernels::adamw8::BLOCK;
use kernels::{Backend, Mat};
use model::{Built, Lending, Lent, land};
use nn::Table;
use std::ops::Range;

/// How the arena of `table` is dealt to groups of `group` ranks. Tensors are only cut where a block of the optimiser's codes ends.
pub(crate) fn shards_of(job: &Job, table: &Table, group: usize) -> Shards {
    let block = if job.config.optimizer.name == OptimizerName::Adamw8bit { BLOCK } else { 1 };
    let allowed = |at: usize| {
        let first = table.params()[table.params().partition_point(|p| p.offset <= at) - 1].offset;
        first + (at - first) / block * block
    };
    Shards::with_borders(table.len(), group, allowed)
}

impl<'a> Ranks<'a> {
    /// Ranks that have a shard each.
    fn group(&self, job: &Job) -> usize {
        let group = job.config.engine.shard_ranks.filter(|_| self.world.size() > 1);
        group.unwrap_or(self.world.size())
    }

    /// How the arena of `table` and frozen matrices are spread over these ranks.
    fn spread(&self, job: &Job, table: &Table, lent: Vec<Lent>) -> Spread<'a> {
        Spread::new(self.world, self.zero, shards_of(job, table, self.group(job)), table, lent)
    }

    /// Builds the model, and says whose which of its values are.
    pub(super) fn load<B: Backend>(
        &self,
        backend: &B,
        job: &Job,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(Policy<B>, Spread<'a>), Error> {
        let members = self.group(job);
        let (member, mapped) = (self.world.rank() % members, is_on_gpu(job));
        let lending = (self.zero == 3).then_some(Lending { members, member, mapped });
        let mut unfilled = crate::storage::unfilled(job, backend, lending)?;
        let lent = std::mem::take(&mut unfilled.lent);
        let spread = self.spread(job, &unfilled.table, lent);
        let held = spread.held(&unfilled.table);
        let Built { decoder, table, mut values, halves, notes } = unfilled.fill(backend, &held);
        notes.into_iter().for_each(|n| observe(Event::Note(n)));
        if let Some(adapter) = &job.adapter {
            whole_for(backend, &table, (&mut values, &held.reals), |values| {
                adapter.initialise(backend, &table, values, job.config.engine.seed)
            })?;
        }
        let reference = reference::reference_of(backend, job, &values);
        Ok((Policy { decoder, table, values, halves, reference }, spread))
    }
}

/// Has something done that knows of whole arenas only, to one of which `held` is here.
pub(crate) fn whole_for<B: Backend>(
    backend: &B,
    table: &Table,
    (values, held): (&mut Mat<B, B::Real>, &[Range<usize>]),
    work: impl FnOnce(&mut Mat<B, B::Real>) -> Result<(), Error>,
) -> Result<(), Error> {
    if values.cols() == table.reals() {
        return work(values);
    }
    let mut whole = backend.zeros(1, table.reals());
    let mut first = 0;
    for run in held {
        let part = host(backend, values, first..first + run.len());
        backend.upload(&real::<B>(&part), whole.out().cols(run.clone()));
        first += run.len();
    }
    work(&mut whole)?;
    land(backend, &backend.to_host(whole.view()), 0, (values, held));
    Ok(())
}
