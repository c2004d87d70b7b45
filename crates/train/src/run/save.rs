//! Checkpoints of a run: what is saved beside the weights, and how a run goes on from it.

use super::{Event, Run};
use crate::gradient::Gradient;
use crate::state::{self, shard};
use crate::step::{Interrupted, StepReport};
use crate::{Error, Job};
use config::{Resume, Section, Status};
use kernels::Backend;
use objective::metrics::Window;
use rundir::{Checkpoint, RunFolder};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

impl<B: Backend> Run<'_, B> {
    /// Commits a checkpoint of the present step, unless there is one.
    pub(super) fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        self.save_later()?;
        let Some(meta) = self.unsaved.take() else { return Ok(()) };
        let checkpoint = self.commit(meta)?;
        self.saved(checkpoint, observe)
    }

    /// Has a checkpoint of the present step written beside the next step's gradient, which only reads what is saved: nothing is
    /// copied for it. Several ranks write at once, in turns of their own.
    pub(super) fn save_beside(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        match self.ranks.world.size() {
            1 => self.save_later(),
            _ => self.save(observe),
        }
    }

    /// Notes what the checkpoint says beside the weights, unless there is one of this step.
    fn save_later(&mut self) -> Result<(), Error> {
        if self.last_saved == Some(self.step) {
            return Ok(());
        }
        self.take_folder()?;
        self.log.sync()?;
        self.text.sync()?;
        let window: Vec<Value> =
            self.window.state().map(|(name, folded, count)| json!([name, folded.to_bits(), count])).collect();
        self.unsaved = Some(json!({
            "log_bytes": self.log.position(),
            "text_bytes": self.text.position(),
            "tokens": self.tokens,
            "updates": self.optimizer.steps,
            "window": window,
            "best": self.best.map(|(value, step)| json!([value.to_bits(), step])),
            "stale_evaluations": self.stale_evaluations,
            "evaluation_due": self.evaluation_due,
            "one_class_steps": self.one_class_steps,
        }));
        self.last_saved = Some(self.step);
        Ok(())
    }

    /// What follows a commit.
    pub(super) fn saved(
        &mut self,
        checkpoint: Option<Checkpoint>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<(), Error> {
        let Some(checkpoint) = checkpoint else { return Ok(()) };
        if let Some(keep) = self.job.config.saving.total_limit {
            let pinned: Vec<u64> = self.best.iter().map(|(_, step)| *step).collect();
            self.folder.rotate(&checkpoint, keep, &pinned)?;
        }
        observe(Event::Saved(checkpoint.path));
        Ok(())
    }

    /// Writes what there is to write, every rank its part, and seals it once all parts are there; `None` where another rank does that.
    pub(super) fn commit(&self, meta: Value) -> Result<Option<Checkpoint>, Error> {
        let (world, policy) = (self.ranks.world, &self.policy);
        if world.size() == 1 {
            let staging = self.folder.begin_checkpoint(self.step)?;
            let dir = staging.path().to_owned();
            let read = |range| Ok(policy.host(self.backend, range));
            state::write_weights(self.job, &policy.table, &read, &dir)?;
            state::write_optimizer(self.backend, self.job, policy, &self.optimizer, &dir)?;
            self.working()?;
            return Ok(Some(staging.commit(meta)?));
        }
        let staging = if world.leads() { Some(self.folder.begin_checkpoint(self.step)?) } else { None };
        let dir = staging.as_ref().map_or_else(String::new, |s| s.path().display().to_string());
        let dir = PathBuf::from(String::from_utf8_lossy(&world.broadcast(dir.as_bytes())?).into_owned());
        let mut hash = Vec::new();
        if self.spread.writes() {
            let file = state::shard_file(world.rank(), world.size());
            shard::write(self.backend, self.job, policy, &self.spread, &self.optimizer, &dir.join(&file))?;
            self.working()?;
            let durable = rundir::checkpoint::durable(&dir, &file)?;
            hash = serde_json::to_vec(&durable).expect("strings and numbers");
        }
        self.spread.reading(self.backend, policy, |read| state::write_weights(self.job, &policy.table, read, &dir))?;
        let hashes = world.gather(&hash)?;
        let Some(mut staging) = staging else { return Ok(None) };
        for hash in hashes.into_iter().filter(|hash| !hash.is_empty()) {
            let hash = serde_json::from_slice(&hash).map_err(|e| Error::Mismatch { what: e.to_string() })?;
            staging.adopt_hashed(hash)?;
        }
        Ok(Some(staging.commit(meta)?))
    }

    /// A step's gradient, and the checkpoint that is still to be written of the step before. Both only read the weights.
    pub(super) fn gradient_and_save(
        &mut self,
        step: data::Step,
        interrupted: &(dyn Fn() -> bool + Sync),
        grads: &mut Gradient<B>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Result<StepReport, Interrupted>, Error> {
        let unsaved = self.unsaved.take();
        let run = &*self;
        let (report, committed) = std::thread::scope(|scope| {
            let writer = unsaved.map(|meta| scope.spawn(move || run.commit(meta)));
            let report = run.backend.within(|| run.gradient(step, interrupted, grads));
            (report, writer.map(|writer| writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))))
        });
        if let Some(committed) = committed {
            self.saved(committed?, observe)?;
        }
        Ok(report)
    }

    /// Takes over a checkpoint's state.
    pub(super) fn restore(&mut self, found: &Checkpoint) -> Result<(), Error> {
        let meta = &found.manifest.meta;
        let broken = |key: &str| Error::Mismatch {
            what: format!(
                "{}: {key} is missing from its manifest; the checkpoint is of another version",
                found.path.display()
            ),
        };
        let number = |key: &str| meta.get(key).and_then(Value::as_u64).ok_or_else(|| broken(key));
        let held = self.spread.held(&self.policy.table);
        let whole = self.ranks.zero == 0;
        state::read(self.backend, self.job, (&mut self.policy, &held), (&mut self.optimizer, whole), &found.path)?;
        self.step = found.step();
        self.tokens = number("tokens")?;
        self.optimizer.steps = number("updates")?;
        self.stale_evaluations = number("stale_evaluations")? as usize;
        self.evaluation_due = meta.get("evaluation_due").and_then(Value::as_bool).unwrap_or(false);
        self.one_class_steps = number("one_class_steps")?;
        let cells = meta.get("window").and_then(Value::as_array).ok_or_else(|| broken("window"))?;
        let cell = |v: &'_ Value| -> Option<(String, f64, u64)> {
            Some((v.get(0)?.as_str()?.to_owned(), f64::from_bits(v.get(1)?.as_u64()?), v.get(2)?.as_u64()?))
        };
        let cells: Vec<_> = cells.iter().map(cell).collect::<Option<_>>().ok_or_else(|| broken("window"))?;
        self.window = Window::restore(cells.iter().map(|(n, f, c)| (n.as_str(), *f, *c)))?;
        self.best = meta.get("best").and_then(|b| Some((f64::from_bits(b.get(0)?.as_u64()?), b.get(1)?.as_u64()?)));
        self.last_saved = Some(self.step);
        let log = self.folder.path().join("log.jsonl");
        for record in rundir::log::read_tail_at(&log, number("log_bytes")?)? {
            self.remember(record.into_iter().filter_map(|(k, v)| Some((k, v.as_f64()?))).collect());
        }
        Ok(())
    }
}

/// The checkpoint to go on from, and what was passed over on the way to it.
pub(super) fn newest(job: &Job, folder: &RunFolder) -> Result<(Option<Checkpoint>, Vec<String>), Error> {
    if let Resume::From(path) = &job.config.saving.resume {
        return Ok((Some(rundir::verify(path)?), Vec::new()));
    }
    let (found, passed_over) = rundir::newest_verified(folder.path())?;
    let mut notes: Vec<String> =
        passed_over.iter().map(|p| format!("passed over {}: {}", p.path.display(), p.why)).collect();
    if found.is_none() {
        notes.push("no checkpoint yet: starting from step 0".to_owned());
    }
    Ok((found, notes))
}

/// Whether another value makes it another run. Files are compared by what is in them (the lock), and a run may be made longer.
fn decides(key: &str) -> bool {
    let free = [
        "model_name_or_path",
        "adapter_name_or_path",
        "dataset_name",
        "eval_dataset_name",
        "dataset_dir",
        "tokenized_path",
        "max_steps",
        "num_train_epochs",
        "kl_warn",
        "zero_stage",
        "shard_ranks",
        "dist_timeout",
        "ddp_backend",
        "kl_stop",
        "threads",
        "max_memory",
        "offload_optimizer_device",
        "offload_optimizer_nvme_path",
        "gradient_checkpointing",
        "activation_offloading",
    ];
    let entry = config::keys().find(|entry| entry.key == key);
    let section =
        entry.and_then(|entry| if let Status::Works(section, _) = entry.status { Some(section) } else { None });
    let records = [Section::Evaluation, Section::Saving, Section::Logging];
    !free.contains(&key) && section.is_none_or(|section| !records.contains(&section))
}

/// What differs from the configuration that the run in `folder` began with, one sentence each.
///
/// Errors: a key that decides what is computed has another value.
pub(super) fn check_config(folder: &RunFolder, resolved: &str) -> Result<Vec<String>, Error> {
    let changed = rundir::runs::changed(folder.path(), resolved)?;
    let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
    let said = |d: &rundir::runs::Differing<String>| {
        format!("{}: {} when the run began, {} now", d.key, side(&d.left), side(&d.right))
    };
    let (refused, free): (Vec<_>, Vec<_>) = changed.iter().partition(|d| decides(&d.key));
    if refused.is_empty() {
        let quiet = ["output_dir", "resume_from_checkpoint", "overwrite_output_dir"];
        return Ok(free.into_iter().filter(|d| !quiet.contains(&d.key.as_str())).map(said).collect());
    }
    let what = format!(
        "the run in {} began with another configuration, and would be neither of the two:\n  {}\nuse the same settings (`prospect resume {0}` does), or begin a new run from one of its checkpoints",
        folder.path().display(),
        refused.into_iter().map(said).collect::<Vec<_>>().join("\n  ")
    );
    Err(Error::Mismatch { what })
}

/// A checkpoint that is named has to be one of the run folder: its log, its reference and its lock belong to it.
pub(super) fn check_origin(resume: &Resume, output_dir: &Path) -> Result<(), Error> {
    let Resume::From(path) = resume else { return Ok(()) };
    let resolved = |p: &Path| p.canonicalize().ok();
    let parent = resolved(path).and_then(|p| p.parent().map(Path::to_owned));
    if parent.is_some() && parent == resolved(output_dir) {
        return Ok(());
    }
    let found = if path.exists() { "which is not in output_dir" } else { "which does not exist" };
    let what = format!(
        "resume_from_checkpoint: expected a checkpoint-N folder of the run at output_dir ({}), found {}, {found}; give one of its own, or `true` for the newest",
        output_dir.display(),
        path.display()
    );
    Err(Error::Mismatch { what })
}
