//! Everything a run does before its first step, and nothing of what it writes.

use crate::storage::unfilled;
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
    let Built { table, mut values, notes, .. } = unfilled(job, backend, None)?.whole(backend);
    if let Some(adapter) = &job.adapter {
        adapter.initialise(backend, &table, &mut values, job.config.engine.seed)?;
    }
    Ok(notes)
}
