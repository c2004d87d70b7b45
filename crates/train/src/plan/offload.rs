//! Whether inputs of blocks that are computed again wait on the host of a GPU: where that is asked for, or nothing else fits.

use super::{Plan, available_memory, is_on_gpu};
use crate::Job;
use config::Recompute;
use model::Keep;

/// What blocks keep for backward at most and at least, and whether inputs of those that are computed again wait on the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) first: Keep,
    pub(super) last: Keep,
    pub(super) offload: bool,
}

/// The ways to try, one after the other.
pub(super) fn ways(job: &Job) -> Vec<Way> {
    let engine = &job.config.engine;
    let (first, last) = match engine.recompute {
        Recompute::Auto => (Keep::All, Keep::Inputs),
        Recompute::Always => (Keep::Inputs, Keep::Inputs),
        Recompute::Never => (Keep::All, Keep::All),
    };
    let (here, away) = (Way { first, last, offload: false }, Way { first, last, offload: true });
    match engine.offload {
        // On a processor they are on the host as it is; without recomputation none waits alone.
        _ if !is_on_gpu(job) || engine.recompute == Recompute::Never => vec![here],
        Some(false) => vec![here],
        None => vec![here, away],
        Some(true) => vec![Way { first: Keep::Inputs, ..away }],
    }
}

/// Bytes of the host that may be pinned: most of what it has free. `u64::MAX` where the GPU is not there to be asked: the host is
/// another one then, too.
pub(super) fn pinnable(job: &Job) -> u64 {
    job.gpu_memory.map_or(u64::MAX, |_| available_memory() / 20 * 17)
}

impl Plan {
    /// What waits on the host, and why, of a run in which something does.
    pub(crate) fn offload_words(&self, job: &Job) -> Option<String> {
        let why = match job.config.engine.offload {
            Some(true) => "as activation_offloading says",
            _ => "as nothing else fits",
        };
        let mb = self.host as f64 / f64::from(1 << 20);
        (self.host > 0).then(|| format!("inputs of blocks, {mb:.1} MB, wait in pinned memory of the host, {why}"))
    }
}
