//! How a run begins: what it needs is looked at first, and only then does anything earlier in its folder go.

use super::agree::{self, Kept};
use super::{Control, Event, Run, device};
use crate::sets::named;
use crate::{Error, Job, Plan};
use config::{Config, Loaded, Resume, Tuning};
use data::Clock;
use dist::World;
use kernels::Backend;
use kernels::cuda::Cuda;
use rundir::tensorboard::EventFile;
use rundir::{Checkpoint, RunFolder};
use serde_json::Value;
use std::path::PathBuf;

/// What a run needs before it computes.
pub(super) struct Prepared {
    pub(super) job: Job,
    pub(super) plan: Plan,
    /// Where it computes; none: on the processor.
    pub(super) gpu: Option<Cuda<f32>>,
}

/// Looks at the model, reads the data and plans the memory. `None`: stopped on the way.
pub(super) fn prepare(
    world: &World,
    config: &Config,
    kept: &Kept,
    control: &Control,
    observe: &mut dyn FnMut(Event),
) -> Result<Option<Prepared>, Error> {
    let mut config = config.clone();
    config.batch.accumulation *= kept.replicas;
    let job = match Job::until(config, Clock::at(kept.clock), control, observe) {
        Err(Error::Data(data::Error::Stopped { .. })) => None,
        other => Some(other?),
    };
    let stopped = agree::any(world, job.is_none())?;
    let Some(mut job) = job.filter(|_| !stopped) else { return Ok(None) };
    let gpu = device::gpu_of(&job.config, control)?;
    job.gpu_memory = gpu.as_ref().map(|gpu| gpu.free_memory().map(|free| free as u64)).transpose()?;
    let plan = agree::plan(world, &job, kept)?;
    Ok(Some(Prepared { job, plan, gpu }))
}

/// Takes an earlier run's place for a run in stages, whose first stage is prepared for that and let go: its rows are tokenised
/// once. `false`: stopped on the way.
///
/// Errors: what keeps the first stage from its first step, or what a later one is to read is missing.
pub(crate) fn take_folder(
    world: &World,
    loaded: &Loaded,
    folder: &RunFolder,
    control: &Control,
    observe: &mut dyn FnMut(Event),
) -> Result<bool, Error> {
    if !loaded.config.saving.overwrite || !agree::waits(world, folder)? {
        return Ok(true);
    }
    for Loaded { config, .. } in &loaded.stages[1..] {
        let data = &config.data;
        named(config, &data.train, &data.train_split)?;
        named(config, &data.eval, &data.test_split)?;
    }
    let first = &loaded.stages[0].config;
    let (kept, _) = agree::kept(world, first, folder, false)?;
    // Notes and what was found are told when the stage itself begins.
    let mut progress = |event| match event {
        Event::Tokenising { .. } | Event::Progress { .. } => observe(event),
        _ => {}
    };
    if prepare(world, first, &kept, control, &mut progress)?.is_none() {
        return Ok(false);
    }
    folder.begun()?;
    world.barrier()?;
    Ok(true)
}

/// A run cannot read what it takes the place of.
pub(crate) fn check_overwritten(loaded: &Loaded) -> Result<(), Error> {
    let saving = &loaded.config.saving;
    if !saving.overwrite || saving.resume != Resume::No {
        return Ok(());
    }
    // Later stages read what the stages before them will have written.
    let first = loaded.stages.first().map_or(&loaded.config, |stage| &stage.config);
    let adapter = match &first.tuning {
        Tuning::Adapter { path, .. } => Some(path),
        _ => None,
    };
    let data = loaded.stages.iter().map(|stage| &stage.config.data).chain([&first.data]);
    let rows = data.flat_map(|data| {
        let of = |key| move |path| (key, path);
        data.train.iter().map(of("dataset_name")).chain(data.eval.iter().map(of("eval_dataset_name")))
    });
    let models = [("model_name_or_path", Some(&first.model.path)), ("adapter_name_or_path", adapter)];
    let mut read = models.into_iter().filter_map(|(key, path): (_, Option<&PathBuf>)| Some((key, path?))).chain(rows);
    match read.find(|(_, path)| rundir::folder::is_replaced(&saving.output_dir, path)) {
        None => Ok(()),
        Some((key, path)) => Err(Error::Mismatch {
            what: format!(
                "{key}: {} belongs to the run in output_dir ({}), which `overwrite_output_dir: true` would remove; give another output_dir",
                path.display(),
                saving.output_dir.display()
            ),
        }),
    }
}

impl<B: Backend> Run<'_, B> {
    /// A run takes its folder when it has made a step, or has anything to leave: by then model, data and memory are known to do.
    /// Until then an earlier run whose place it takes is as it was, and so are checkpoints and log lines beyond the checkpoint
    /// that it goes on from.
    pub(super) fn take_folder(&mut self) -> Result<(), Error> {
        if self.taken {
            return Ok(());
        }
        self.folder.begun()?;
        if let Some(found) = self.found {
            self.folder.discard_after(found.step())?;
        }
        let at = |key: &str| self.found.and_then(|c| c.manifest.meta.get(key)).and_then(Value::as_u64);
        self.log = self.folder.open_log("log.jsonl", at("log_bytes"))?;
        self.text = self.folder.open_log("train.log", at("text_bytes"))?;
        if self.job.config.logging.tensorboard && self.ranks.world.leads() {
            let dir = self.folder.path().join("tensorboard");
            self.events = Some(EventFile::create(&dir, self.found.map(Checkpoint::step))?);
        }
        self.taken = true;
        Ok(std::mem::take(&mut self.unwritten).iter().try_for_each(|line| self.text.line(line))?)
    }
}
