//! A run: steps, logging, evaluation, checkpoints, and every way it can end.

pub(crate) mod agree;
pub(crate) mod begin;
pub(crate) mod device;
pub(crate) mod end;
pub(crate) mod load;
mod record;
mod reference;
mod rehearsal;
mod samples;
mod save;
mod traffic;
mod update;

use crate::evaluate::preference;
use crate::gradient::Gradient;
use crate::optimizer::optimizer_of;
use crate::plan::schedule_of;
use crate::policy::Policy;
use crate::spread::Spread;
use crate::step::{
    Execution, Interrupted, RowGroup, StepContext, StepReport, TextRow, preference_step, score_preference, text_step,
};
use crate::text::{TextLoss, shaped_text_step};
use crate::{Error, Job, Plan, Rows, report};
use config::{Config, HomogeneousBatch, Loaded, Normalisation, Resume, Z0Scope};
use dist::World;
use kernels::Backend;
use nn::Dropout;
use objective::metrics::{Metric, Window};
use optim::adamw::AdamW;
use optim::schedule::Schedule;
use reference::Pairs;
use rundir::tensorboard::EventFile;
use rundir::{Checkpoint, LineLog, Opening, RunFolder};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// What happens during a run, for whoever watches.
#[derive(Clone, Debug)]
pub enum Event {
    /// Something worth saying once.
    Note(String),
    /// A line of the opening: model, data, objective, plan.
    Opening(String),
    /// Rows are tokenised: bytes of their files done, and in all. `done` is `total` once, at the end.
    Tokenising {
        /// Which rows.
        what: &'static str,
        /// Bytes done.
        done: u64,
        /// Bytes in all.
        total: u64,
    },
    /// Work that takes a while, in units of its own.
    Progress {
        /// What is done.
        what: String,
        /// Units done.
        done: u64,
        /// Units in all.
        total: u64,
    },
    /// A step was made.
    Step {
        /// Steps made.
        step: u64,
        /// Steps in all.
        total: u64,
        /// What the step gave: loss, kl, rewards, tokens per second.
        values: Vec<(String, f64)>,
    },
    /// A line went to the log.
    Logged(Vec<(String, f64)>),
    /// A checkpoint was committed.
    Saved(PathBuf),
}

/// Requests from outside, set by signal handlers or another thread.
#[derive(Debug, Default)]
pub struct Control {
    /// Save and end as soon as possible.
    pub stop: AtomicBool,
    /// Save and go on.
    pub save: AtomicBool,
    /// Where a GPU's libraries lie and its kernels are kept.
    pub gpu: kernels::cuda::Options,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Steps made.
    pub step: u64,
    /// Whether it was stopped before its end and can be resumed.
    pub stopped: bool,
    /// The last logged values.
    pub values: Vec<(String, f64)>,
    /// The run folder.
    pub folder: PathBuf,
    /// Whether that is what the folder holds; not where it was stopped before its first step and was to take the place of an
    /// earlier run, which is as it was.
    pub begun: bool,
}

impl Ended {
    /// 0 done, 75 saved and to be resumed, 130 stopped with nothing to resume.
    pub fn exit_code(&self) -> u8 {
        match (self.stopped, self.begun) {
            (false, _) => 0,
            (true, true) => 75,
            (true, false) => 130,
        }
    }
}

/// Trains as a configuration says. `inputs` are the files it was read from; copies go to the run folder.
pub fn run(
    loaded: &Loaded,
    inputs: &[&Path],
    control: &Control,
    observe: &mut dyn FnMut(Event),
) -> Result<Ended, Error> {
    run_on(&World::solo(), loaded, inputs, control, observe)
}

/// As [`run`], as one rank of several that all make this call with the same configuration. Rank 0 holds the run folder, which
/// all of them can read.
pub fn run_on(
    world: &World,
    loaded: &Loaded,
    inputs: &[&Path],
    control: &Control,
    observe: &mut dyn FnMut(Event),
) -> Result<Ended, Error> {
    world.set_timeout(loaded.config.engine.dist_timeout);
    update::fits(world, &loaded.config)?;
    begin::check_overwritten(loaded)?;
    let result = match loaded.stages.is_empty() {
        true => run_one(world, loaded, inputs, control, observe),
        false => crate::stages::run(world, loaded, inputs, control, observe),
    };
    // The others learn at once what would otherwise cost them their patience.
    result.inspect_err(|e| world.leave(&e.to_string()))
}

/// A run without stages.
pub(crate) fn run_one(
    world: &World,
    loaded: &Loaded,
    inputs: &[&Path],
    control: &Control,
    observe: &mut dyn FnMut(Event),
) -> Result<Ended, Error> {
    let config = &loaded.config;
    let opening = opening_of(config);
    save::check_origin(&config.saving.resume, &config.saving.output_dir)?;
    let resume = opening == Opening::Resume;
    let folder = agree::open(world, &config.saving.output_dir, opening)?;
    end::recorded(world, &folder, |step| {
        let mut ended = in_folder(world, loaded, inputs, (&folder, resume), control, step, observe)?;
        if ended.stopped && config.saving.overwrite {
            ended.begun = !agree::waits(world, &folder)?;
        }
        Ok(ended)
    })
}

/// How the run folder is opened.
pub(crate) fn opening_of(config: &Config) -> Opening {
    match (&config.saving.resume, config.saving.overwrite) {
        (Resume::No, false) => Opening::Create,
        (Resume::No, true) => Opening::Overwrite,
        _ if !config.saving.output_dir.join(rundir::status::FILE).exists() => Opening::Create,
        _ => Opening::Resume,
    }
}

fn in_folder(
    world: &World,
    loaded: &Loaded,
    inputs: &[&Path],
    (folder, resume): (&RunFolder, bool),
    control: &Control,
    step: &mut u64,
    observe: &mut dyn FnMut(Event),
) -> Result<Ended, Error> {
    let (kept, lock) = agree::kept(world, &loaded.config, folder, resume)?;
    if world.leads() && lock.is_none() {
        end::keep_request(folder, loaded, inputs)?;
    }
    let Some(prepared) = begin::prepare(world, &loaded.config, &kept, control, observe)? else {
        let (values, folder) = (Vec::new(), folder.path().to_owned());
        return Ok(Ended { step: 0, stopped: true, values, folder, begun: true });
    };
    let begin::Prepared { job, plan, gpu } = prepared;
    if world.leads() {
        let now = agree::lock_of(&job, &plan, &kept)?;
        match &lock {
            Some(lock) => {
                lock.check(&now)?;
                let notes = save::check_config(folder, &loaded.resolved_yaml)?.into_iter().chain(lock.notes(&now));
                notes.for_each(|n| observe(Event::Note(n)));
            }
            None => folder.write(rundir::lock::FILE, &now.to_json())?,
        }
    }
    folder.set_total_steps(job.total_steps as u64)?;
    for note in job.notes.iter().cloned().chain(update::alone_note(world, &job.config)) {
        observe(Event::Note(note));
    }
    let (found, passed_over) = agree::checkpoint(world, &job, folder, kept.resume)?;
    passed_over.into_iter().for_each(|p| observe(Event::Note(p)));
    let zero = if world.size() == 1 { 0 } else { job.config.engine.zero_stage };
    let ranks = Ranks { world, elastic: kept.elastic, zero };
    let (found, resume, gpu) = (found.as_ref(), kept.resume, gpu.as_ref());
    let planned = device::Planned { ranks, job: &job, plan: &plan, folder, found, resume, gpu };
    planned.run(kept.threads, control, step, observe)
}

/// All ranks, and how the work is spread over them.
#[derive(Clone, Copy)]
struct Ranks<'a> {
    world: &'a World,
    /// Gradients are summed in a fixed tree over packs: the same bits on any number of ranks.
    elastic: bool,
    /// ZeRO's stage, as in [`Spread`].
    zero: u8,
}

/// A step and where it stands.
struct Place<'s> {
    step: data::Step<'s>,
    /// Passes over the rows once it is made.
    epoch: f64,
    /// Whether it is the last of its pass, or of the run.
    ends_epoch: bool,
}

/// A run in progress.
struct Run<'a, B: Backend> {
    backend: &'a B,
    ranks: Ranks<'a>,
    spread: Spread<'a>,
    job: &'a Job,
    folder: &'a RunFolder,
    execution: Execution,
    schedule: Schedule,
    policy: Policy<B>,
    /// Reference log-probabilities of training and evaluation rows, where cached.
    cached: reference::Cached,
    optimizer: AdamW<B>,
    dropout: f64,
    log: LineLog,
    text: LineLog,
    events: Option<EventFile>,
    /// Steps made.
    step: u64,
    tokens: u64,
    window: Window,
    best: Option<(f64, u64)>,
    stale_evaluations: usize,
    /// An evaluation of the present step was stopped on the way.
    evaluation_due: bool,
    one_class_steps: u64,
    /// The step of the newest checkpoint, written or about to be.
    last_saved: Option<u64>,
    /// What a checkpoint of this step, still to be written, says beside the weights.
    unsaved: Option<Value>,
    last_values: Vec<(String, f64)>,
    /// Lines of the opening that the log does not have yet.
    unwritten: Vec<String>,
    /// The checkpoint that the run goes on from.
    found: Option<&'a Checkpoint>,
    /// Whether the folder is this run's, with no earlier future and no earlier run in it.
    taken: bool,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(
        backend: &'a B,
        ranks: Ranks<'a>,
        job: &'a Job,
        plan: &Plan,
        folder: &'a RunFolder,
        found: Option<&'a Checkpoint>,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Run<'a, B>, Error> {
        let (policy, spread) = ranks.load(backend, job, observe)?;
        let (settings, layout) = optimizer_of(job, &policy.table, &ranks.updated(&spread, policy.table.len()));
        let layout = if ranks.zero == 3 { layout.with_values_beside() } else { layout };
        let opening = report::opening(job, plan);
        opening.iter().for_each(|line| observe(Event::Opening(line.clone())));
        let recorded = job.adapter.as_ref().map_or(0.0, |a| a.config.lora_dropout);
        let mut run = Run {
            backend,
            ranks,
            spread,
            job,
            folder,
            execution: plan.execution,
            schedule: schedule_of(job),
            optimizer: crate::optimizer::made(backend, job, settings, layout)?,
            policy,
            cached: [Pairs::none(), Pairs::none()],
            dropout: job.config.adapter_dropout(recorded),
            log: LineLog::nowhere(),
            text: LineLog::nowhere(),
            events: None,
            step: 0,
            tokens: 0,
            window: Window::default(),
            best: None,
            stale_evaluations: 0,
            evaluation_due: false,
            one_class_steps: 0,
            last_saved: None,
            unsaved: None,
            last_values: Vec::new(),
            unwritten: if found.is_none() { opening } else { Vec::new() },
            found,
            taken: false,
        };
        if found.is_none() && !folder.waits() {
            run.take_folder()?;
        }
        Ok(run)
    }

    /// What comes before the first step: the reference, then the state of the checkpoint. `false`: stopped on the way.
    fn begin(
        &mut self,
        found: Option<&Checkpoint>,
        resume: bool,
        control: &Control,
        observe: &mut dyn FnMut(Event),
    ) -> Result<bool, Error> {
        if !self.cache_reference(resume, control, observe)? {
            return Ok(false);
        }
        if let Some(found) = found {
            self.restore(found)?;
            let (path, total) = (found.path.display(), self.job.total_steps);
            observe(Event::Note(format!("resumed from {path} (step {} of {total})", self.step)));
        }
        Ok(true)
    }

    fn context<'s>(
        &'s self,
        rows: &'s Rows,
        which: usize,
        dropout: bool,
        interrupted: &'s (dyn Fn() -> bool + Sync),
    ) -> StepContext<'s, B> {
        let key = mix(mix(self.job.config.engine.seed) ^ self.step);
        StepContext {
            backend: self.backend,
            policy: &self.policy,
            data: &rows.data,
            cached: &self.cached[which],
            execution: self.execution,
            extra: self.job.config.logging.extra_metrics,
            balance: self.job.balance,
            dropout: (dropout && self.dropout > 0.0).then_some(Dropout { p: self.dropout, key }),
            interrupted,
            team: Some(&self.spread),
        }
    }

    /// The rows of a step, in groups that share a `z0`.
    fn groups(&self, step: data::Step) -> Vec<RowGroup> {
        let Some(kto) = self.job.kto() else { return Vec::new() };
        let micro: Vec<&[u32]> = step.micro_batches().collect();
        let (rows, windows) = (step.rows().len() as f64, micro.len() as f64);
        let normaliser = |m: &[u32]| match kto.normalisation {
            Normalisation::Rows => vec![1.0 / rows; m.len()],
            Normalisation::MeanOfMeans => vec![1.0 / (m.len() as f64 * windows); m.len()],
        };
        match kto.z0_scope {
            Z0Scope::MicroBatch => {
                micro.iter().map(|m| RowGroup { rows: m.to_vec(), normaliser: normaliser(m) }).collect()
            }
            Z0Scope::Step => vec![RowGroup {
                rows: step.rows().to_vec(),
                normaliser: micro.iter().flat_map(|m| normaliser(m)).collect(),
            }],
        }
    }

    fn train(&mut self, control: &Control, observe: &mut dyn FnMut(Event)) -> Result<Ended, Error> {
        let total = self.job.total_steps as u64;
        let mut grads = self.ranks.gradient(self.backend, &self.spread, self.policy.table.len());
        let mut epoch: Option<(usize, data::order::Epoch)> = None;
        if self.evaluation_due {
            self.evaluate(control, observe)?;
        }
        while !self.evaluation_due && self.step < total && !self.give_up() {
            let (e, s) = self.job.order.locate(self.step as usize);
            if epoch.as_ref().is_none_or(|(at, _)| *at != e) {
                epoch = Some((e, self.job.order.epoch(e)));
            }
            let Some((_, order)) = &epoch else { unreachable!("set above") };
            self.cached.iter().for_each(Pairs::rest);
            let step = order.step(s);
            let batches = |rows: usize| rows.div_ceil(self.job.order.micro_batch) as f64;
            let made = batches(s * self.job.order.rows_per_step() + step.rows().len());
            let place = Place {
                step,
                epoch: e as f64 + (made / batches(self.job.order.rows)).min(1.0),
                ends_epoch: s + 1 == order.len() || self.step + 1 == total,
            };
            if self.one_step(place, &mut grads, control, observe)?.is_none() {
                return self.stop(observe);
            }
            if self.ranks.any(control.save.swap(false, Ordering::SeqCst))? {
                self.save(observe)?;
            }
        }
        if self.evaluation_due {
            return self.stop(observe);
        }
        if self.give_up() {
            observe(Event::Note(format!(
                "early stopping at step {}: {} evaluations without improvement",
                self.step, self.stale_evaluations
            )));
        }
        self.finish(observe)
    }

    /// One optimiser step; `None` when it was abandoned because the run is to stop.
    fn one_step(
        &mut self,
        Place { step, epoch, ends_epoch }: Place,
        grads: &mut Gradient<B>,
        control: &Control,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Option<()>, Error> {
        let begin = Instant::now();
        self.ranks.world.set_step(self.step + 1);
        let interrupted = || control.stop.load(Ordering::SeqCst);
        if self.ranks.any(interrupted())? {
            return Ok(None);
        }
        grads.begin(self.backend);
        let skip = self.one_class(step, observe);
        let report = match self.gradient_and_save(step, &interrupted, grads, observe)? {
            Ok(report) => report,
            Err(Interrupted) => return self.ranks.world.failure().map_or(Ok(None), |e| Err(e.into())),
        };
        self.working()?;
        self.check(&report, step)?;
        let rate = self.job.config.optimizer.learning_rate * self.schedule.factor(self.step);
        let norm = self.update(step, grads, rate, skip)?;
        self.working()?;
        self.take_folder()?;
        self.step += 1;
        self.tokens += report.tokens;
        let seconds = begin.elapsed().as_secs_f64();
        let mut values = vec![
            (Metric::Loss, report.loss),
            (Metric::GradNorm, norm),
            (Metric::LearningRate, rate),
            (Metric::NumTokens, self.tokens as f64),
            (Metric::TokensPerSecond, report.tokens as f64 / seconds),
            (Metric::Epoch, epoch),
            (Metric::Step, self.step as f64),
        ];
        self.window.add(&values);
        report.groups.iter().for_each(|g| self.window.add(g));
        values.extend(report.groups.iter().flatten().copied());
        let values = values.iter().map(|(m, v)| (m.name().to_owned(), *v)).collect();
        observe(Event::Step { step: self.step, total: self.job.total_steps as u64, values });
        self.after_step(ends_epoch, control, observe)?;
        self.kl_guard(&report, observe)?;
        Ok(Some(()))
    }

    fn gradient(
        &self,
        step: data::Step,
        interrupted: &(dyn Fn() -> bool + Sync),
        grads: &mut Gradient<B>,
    ) -> Result<StepReport, Interrupted> {
        let (job, rows) = (self.job, &self.job.train);
        let cx = self.context(rows, 0, true, interrupted);
        let Some(preference) = preference(job, rows) else {
            let units: Vec<Vec<TextRow>> = step.rows().iter().map(|&u| rows.texts(u)).collect();
            let sizes: Vec<usize> = if job.config.compat_trl {
                units.chunks(job.config.batch.train_rows).map(|m| m.iter().map(Vec::len).sum()).collect()
            } else {
                vec![units.iter().map(Vec::len).sum()]
            };
            let texts: Vec<TextRow> = units.into_iter().flatten().collect();
            let shape = TextLoss::of(job, mix(mix(job.config.engine.seed) ^ self.step));
            return match shape.is_plain() {
                true => text_step(&cx, &texts, &sizes, grads),
                false => shaped_text_step(&cx, &texts, &sizes, shape, grads),
            };
        };
        let groups = self.groups(step);
        let mut report = preference_step(&cx, &preference, &groups, grads)?;
        if self.step == 0 && cx.dropout.is_some() {
            // Dropout moves the policy off its reference; the self-test looks at it without.
            let plain = self.context(rows, 0, false, interrupted);
            let scored = score_preference(&plain, &preference, &groups[0].rows)?;
            let losses =
                objective::evaluate(preference.loss, &preference.settings, &scored.outcomes, scored.kl.z0, 1.0);
            report.off_reference = scored.off_reference(&preference.settings, &losses);
        }
        Ok(report)
    }

    /// Stops on numbers that are not finite, and on a first step that does not find policy and reference equal.
    fn check(&self, report: &StepReport, step: data::Step) -> Result<(), Error> {
        if !report.not_finite.is_empty() {
            return Err(self.not_finite("a log-probability", &report.not_finite));
        }
        if !report.loss.is_finite() {
            return Err(self.not_finite("the loss", &self.rows_of(step)));
        }
        match &report.off_reference {
            Some(error) if self.step == 0 => Err(Error::Objective(error.clone())),
            _ => Ok(()),
        }
    }

    /// Rows of the data set that a step reads: its own, or those of its bins.
    fn rows_of(&self, step: data::Step) -> Vec<u32> {
        match &self.job.train.bins {
            None => step.rows().to_vec(),
            Some(bins) => step.rows().iter().flat_map(|&b| bins.bin(b as usize)).map(|p| p.row).collect(),
        }
    }

    fn not_finite(&self, what: &str, rows: &[u32]) -> Error {
        let data = &self.job.train.data;
        let named = |&row: &u32| {
            let (file, line) = data.source(row as usize);
            format!("{}:{line}", file.display())
        };
        let samples = rows.iter().take(16).map(named).collect();
        Error::NotFinite { what: what.to_owned(), step: self.step + 1, samples }
    }

    /// Counts a step of one class, says so the first time, and says whether it is to be skipped.
    fn one_class(&mut self, step: data::Step, observe: &mut dyn FnMut(Event)) -> bool {
        let Some(kto) = self.job.kto() else { return false };
        let desirable =
            step.rows().iter().filter(|&&r| self.job.train.data.row(r as usize).label == Some(true)).count();
        if desirable != 0 && desirable != step.rows().len() {
            return false;
        }
        self.one_class_steps += 1;
        let skip = kto.homogeneous_batch == HomogeneousBatch::Skip;
        if self.one_class_steps == 1 {
            let then = if skip { "skipped (homogeneous_batch: skip)" } else { "its exact loss is used" };
            let class = if desirable == 0 { "undesirable" } else { "desirable" };
            observe(Event::Note(format!(
                "step {}: all rows are {class}; {then}. Said once; such steps are counted",
                self.step + 1
            )));
        }
        skip
    }

    fn kl_guard(&mut self, report: &StepReport, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let Some(kto) = self.job.kto() else { return Ok(()) };
        let kls = report.groups.iter().flatten().filter(|(m, _)| *m == Metric::Kl).map(|(_, v)| *v);
        let kl = kls.fold(0.0, f64::max);
        if let Some(limit) = kto.kl_stop.filter(|l| kl > *l) {
            self.save(observe)?;
            return Err(Error::KlStop { step: self.step, kl, limit });
        }
        if kto.kl_warn.is_some_and(|l| kl > l) {
            observe(Event::Note(format!(
                "step {}: kl {kl:.3} nats is above kl_warn; try loss_type: kto_s, a larger beta, or a smaller learning_rate",
                self.step
            )));
        }
        Ok(())
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
