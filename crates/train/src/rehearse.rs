//! Everything a run does before its first step, and nothing of what it writes.

use crate::storage::storage_of;
use crate::{Error, Job};
use kernels::{Backend, Cpu};
use model::Built;

/// Loads the model of a job as its run would, adapter included, and lets go of it. Returns what is worth saying.
///
/// Errors: tensors that are missing or have another shape or type, an adapter that does not fit.
pub fn rehearse(job: &Job) -> Result<Vec<String>, Error> {
    load(job, &Cpu::<f32>::new(1))
}

fn load<B: Backend>(job: &Job, backend: &B) -> Result<Vec<String>, Error> {
    let (checkpoint, blueprint) = (&job.checkpoint, job.blueprint.clone());
    let Built { table, mut values, notes, .. } =
        Built::stored_as(&storage_of(job), backend, checkpoint, blueprint, job.tuning(), job.positions)?;
    if let Some(adapter) = &job.adapter {
        adapter.initialise(backend, &table, &mut values, job.config.engine.seed)?;
    }
    Ok(notes)
}
