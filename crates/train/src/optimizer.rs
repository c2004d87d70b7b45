//! From the configuration to the optimiser: its settings, and where its state and the weights are.

use crate::{Error, Job};
use config::OptimizerName;
use kernels::{Backend, Rounding};
use optim::adamw::{AdamW, Layout, Member, Settings};
use std::ops::Range;

/// Whether trained matrices are held in bfloat16 and nowhere else.
pub(crate) fn holds_halves(job: &Job) -> bool {
    job.adapter.is_none() && job.config.optimizer.master == config::Master::None
}

/// The optimiser's settings, and where its state of some runs of the arena is.
pub fn optimizer_of(job: &Job, table: &nn::Table, ranges: &[Range<usize>]) -> (Settings, Layout) {
    let o = &job.config.optimizer;
    let settings = Settings {
        beta1: o.beta1,
        beta2: o.beta2,
        epsilon: o.epsilon,
        weight_decay: o.weight_decay,
        rounding: if job.config.compat_trl { Rounding::Grid } else { Rounding::Nearest },
        seed: job.config.engine.seed,
    };
    let member = |p: &nn::Param| Member {
        range: p.range(),
        values: (p.values().start, matches!(p.home, nn::Home::Half(_))),
        decay: p.decay,
        // Transformers keeps moments of embeddings in full precision.
        eight: o.name == OptimizerName::Adamw8bit && !p.name.contains("embed_tokens"),
    };
    (settings, Layout::of_ranges(ranges, table.params().iter().map(member)))
}

/// The optimiser before its first step, its moments where the job wants them.
pub(crate) fn made<B: Backend>(backend: &B, job: &Job, settings: Settings, layout: Layout) -> Result<AdamW<B>, Error> {
    let Some(folder) = &job.config.optimizer.on_disk else { return Ok(AdamW::new(backend, settings, layout)) };
    let path = folder.clone();
    AdamW::on_disk(backend, settings, layout, folder).map_err(|source| Error::Io {
        doing: "keep the optimiser's state on the disk of",
        path,
        source,
    })
}
