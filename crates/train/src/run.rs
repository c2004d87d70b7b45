//! A run: steps, logging, evaluation, checkpoints, and every way it can end.

use crate::evaluate::{evaluate_rows, preference};
use crate::policy::{AdapterPlan, Policy, Reference, copy_of};
use crate::step::{
    Execution, Interrupted, RowGroup, StepContext, StepReport, TextRow, preference_step, reference_logps,
    score_preference, text_step,
};
use crate::{Error, Job, Plan, Rows, report, state};
use config::{Config, HomogeneousBatch, Interval, Loaded, Normalisation, Resume, Z0Scope};
use data::Clock;
use kernels::{Backend, Cpu, Mat};
use model::{Built, Keep, Tuning};
use nn::Dropout;
use objective::metrics::{Metric, Window};
use optim::adamw::{AdamW, Settings, clip, groups};
use optim::schedule::{Schedule, warmup_steps};
use rundir::lock::Lock;
use rundir::tensorboard::EventFile;
use rundir::{Checkpoint, LineLog, Opening, RunFolder};
use serde_json::{Map, Value, json};
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
}

impl Ended {
    /// 0 done, 75 saved and to be resumed.
    pub fn exit_code(&self) -> u8 {
        if self.stopped { 75 } else { 0 }
    }
}

/// Trains as a configuration says. `inputs` are the files it was read from; copies go to the run folder.
pub fn run(
    loaded: &Loaded,
    inputs: &[&Path],
    control: &Control,
    observe: &mut dyn FnMut(Event),
) -> Result<Ended, Error> {
    let config = &loaded.config;
    let opening = match (&config.saving.resume, config.saving.overwrite) {
        (Resume::No, false) => Opening::Create,
        (Resume::No, true) => Opening::Overwrite,
        _ if rundir::Status::read(&config.saving.output_dir).is_err() => Opening::Create,
        _ => Opening::Resume,
    };
    let resume = opening == Opening::Resume;
    let folder = RunFolder::open(&config.saving.output_dir, opening)?;
    let mut step = 0;
    let result = in_folder(loaded, inputs, &folder, resume, control, &mut step, observe);
    let (code, error) = match &result {
        Ok(ended) => (ended.exit_code(), None),
        Err(e) => (e.exit_code(), Some(e.to_string())),
    };
    let recorded = folder.end(code, step, error.as_deref());
    let ended = result?;
    recorded?;
    Ok(ended)
}

/// What a resumed run takes over from the one before: it decides bits.
struct Kept {
    threads: usize,
    clock: i64,
    execution: Option<Execution>,
}

fn in_folder(
    loaded: &Loaded,
    inputs: &[&Path],
    folder: &RunFolder,
    resume: bool,
    control: &Control,
    step: &mut u64,
    observe: &mut dyn FnMut(Event),
) -> Result<Ended, Error> {
    let config = &loaded.config;
    let lock = if resume { Some(Lock::read(folder.path())?) } else { None };
    let kept = kept_of(config, lock.as_ref());
    let job = Job::new(config.clone(), Clock::at(kept.clock), observe)?;
    let plan = match kept.execution {
        Some(execution) => Plan::given(&job, execution),
        None => Plan::new(&job)?,
    };
    let now = lock_of(&job, &plan, &kept)?;
    match &lock {
        Some(lock) => lock.check(&now)?,
        None => {
            folder.write("lock.json", &now.to_json())?;
            folder.write("config.yaml", loaded.resolved_yaml.as_bytes())?;
            folder.keep_inputs(inputs)?;
        }
    }
    folder.set_total_steps(job.total_steps as u64)?;
    for note in &job.notes {
        observe(Event::Note(note.clone()));
    }
    let backend = Cpu::<f32>::new(kept.threads);
    let mut run = Run::new(&backend, &job, &plan, folder, resume, observe)?;
    *step = run.step;
    let ended = run.train(control, observe);
    *step = run.step;
    ended
}

fn kept_of(config: &Config, lock: Option<&Lock>) -> Kept {
    let own = || std::thread::available_parallelism().map_or(1, usize::from);
    let plan = lock.map(|l| &l.plan);
    let number = |key: &str| plan.and_then(|p| p.get(key)).and_then(Value::as_i64);
    let flag = |key: &str| plan.and_then(|p| p.get(key)).and_then(Value::as_bool);
    let execution = number("budget_rows").map(|rows| Execution {
        budget_rows: rows as usize,
        keep: if flag("recompute").unwrap_or(false) { Keep::Inputs } else { Keep::All },
        z0_first: flag("z0_first").unwrap_or(false),
        share_prompts: true,
    });
    Kept {
        threads: lock.map_or_else(|| config.engine.threads.unwrap_or_else(own), |l| l.threads),
        clock: number("started").unwrap_or_else(|| Clock::now().unix_seconds()),
        execution,
    }
}

fn lock_of(job: &Job, plan: &Plan, kept: &Kept) -> Result<Lock, Error> {
    let e = plan.execution;
    let plan = json!({"started": kept.clock, "budget_rows": e.budget_rows, "recompute": e.keep == Keep::Inputs, "z0_first": e.z0_first});
    let (model, data) = (job.model_files(), job.data_files());
    let model: Vec<&Path> = model.iter().map(PathBuf::as_path).collect();
    let data: Vec<&Path> = data.iter().map(PathBuf::as_path).collect();
    Ok(Lock::new(&model, &data, kept.threads, plan)?)
}

/// A run in progress.
struct Run<'a, B: Backend> {
    backend: &'a B,
    job: &'a Job,
    folder: &'a RunFolder,
    execution: Execution,
    schedule: Schedule,
    policy: Policy<B>,
    /// Reference log-probabilities of training and evaluation rows, where cached.
    cached: [Vec<[f64; 2]>; 2],
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
    one_class_steps: u64,
    last_saved: Option<u64>,
    last_values: Vec<(String, f64)>,
}

impl<'a, B: Backend> Run<'a, B> {
    fn new(
        backend: &'a B,
        job: &'a Job,
        plan: &Plan,
        folder: &'a RunFolder,
        resume: bool,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Run<'a, B>, Error> {
        let tuning = job.adapter.as_ref().map_or(Tuning::Full, |a| Tuning::Lora(&a.adapters));
        let Built { decoder, table, mut values, notes } =
            Built::new(backend, &job.checkpoint, job.blueprint.clone(), tuning, job.positions)?;
        notes.into_iter().for_each(|n| observe(Event::Note(n)));
        if let Some(adapter) = &job.adapter {
            adapter.initialise(backend, &table, &mut values, job.config.engine.seed)?;
        }
        let reference = reference_of(backend, job, &values);
        let policy = Policy { decoder, table, values, reference };
        let o = &job.config.optimizer;
        let settings = Settings { beta1: o.beta1, beta2: o.beta2, epsilon: o.epsilon, weight_decay: o.weight_decay };
        let ranges = groups(policy.table.params().iter().map(|p| (p.range(), p.decay)));
        let len = policy.table.len();
        let (found, passed_over) = if resume { newest(job, folder)? } else { (None, Vec::new()) };
        passed_over.into_iter().for_each(|p| observe(Event::Note(p)));
        let at = |key: &str| found.as_ref().and_then(|c| c.manifest.meta.get(key)).and_then(Value::as_u64);
        let log_at = found.as_ref().map(|_| at("log_bytes").unwrap_or(0));
        let text_at = found.as_ref().map(|_| at("text_bytes").unwrap_or(0));
        if let Some(found) = &found {
            folder.discard_after(found.step())?;
        }
        let restart = if resume { Some(0) } else { None };
        let recorded = job.adapter.as_ref().map_or(0.0, |a| a.config.lora_dropout);
        let mut run = Run {
            backend,
            job,
            folder,
            execution: plan.execution,
            schedule: schedule_of(job)?,
            optimizer: AdamW::new(backend, len, settings, ranges),
            policy,
            cached: [Vec::new(), Vec::new()],
            dropout: job.config.adapter_dropout(recorded),
            log: folder.open_log("log.jsonl", log_at.or(restart))?,
            text: folder.open_log("train.log", text_at.or(restart))?,
            events: None,
            step: 0,
            tokens: 0,
            window: Window::default(),
            best: None,
            stale_evaluations: 0,
            one_class_steps: 0,
            last_saved: None,
            last_values: Vec::new(),
        };
        if job.config.logging.tensorboard {
            run.events =
                Some(EventFile::create(&folder.path().join("tensorboard"), found.as_ref().map(Checkpoint::step))?);
        }
        for line in report::opening(job, plan) {
            if found.is_none() {
                run.text.line(&line)?;
            }
            observe(Event::Opening(line));
        }
        run.cache_reference(observe)?;
        if let Some(found) = found {
            run.restore(&found)?;
            observe(Event::Note(format!(
                "resumed from {} (step {} of {})",
                found.path.display(),
                run.step,
                job.total_steps
            )));
        }
        Ok(run)
    }

    fn context<'s>(
        &'s self,
        rows: &'s Rows,
        which: usize,
        dropout: bool,
        interrupted: &'s dyn Fn() -> bool,
    ) -> StepContext<'s, B> {
        let key = mix(mix(self.job.config.engine.seed) ^ self.step);
        StepContext {
            backend: self.backend,
            policy: &self.policy,
            data: &rows.data,
            cached: &self.cached[which],
            execution: self.execution,
            extra: self.job.config.logging.extra_metrics,
            dropout: (dropout && self.dropout > 0.0).then_some(Dropout { p: self.dropout, key }),
            interrupted,
        }
    }

    /// Takes the reference's log-probabilities before anything is trained, in the packs that the steps will use, or reads them
    /// back.
    fn cache_reference(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        if !matches!(self.policy.reference, Reference::Cached) {
            return Ok(());
        }
        let (job, path) = (self.job, self.folder.path().join("reference.bin"));
        let counts = [job.train.data.len(), job.eval.as_ref().map_or(0, |e| e.data.len())];
        if let Some(cached) = read_pairs(&path, counts) {
            self.cached = cached;
            return Ok(());
        }
        let mut cached = counts.map(|n| vec![[f64::NAN; 2]; n]);
        let epoch = job.order.epoch(0);
        let steps = epoch.len().min(job.total_steps);
        let never = || false;
        for s in 0..steps {
            observe(Event::Progress {
                what: "reference log-probabilities".to_owned(),
                done: s as u64 + 1,
                total: steps as u64,
            });
            for group in self.groups(epoch.step(s)) {
                let cx = self.context(&job.train, 0, false, &never);
                let preference = preference(job, &job.train).expect("a reference is for a preference loss");
                let pairs = reference_logps(&cx, &preference, &group.rows).unwrap_or_default();
                group.rows.iter().zip(pairs).for_each(|(&r, p)| cached[0][r as usize] = p);
            }
        }
        if let Some(eval) = &job.eval {
            let rows: Vec<u32> = (0..eval.data.len() as u32).collect();
            for chunk in rows.chunks(job.config.batch.eval_rows) {
                let cx = self.context(eval, 1, false, &never);
                let preference = preference(job, eval).expect("a reference is for a preference loss");
                let pairs = reference_logps(&cx, &preference, chunk).unwrap_or_default();
                chunk.iter().zip(pairs).for_each(|(&r, p)| cached[1][r as usize] = p);
            }
        }
        let bytes: Vec<u8> = cached.iter().flatten().flatten().flat_map(|x| x.to_le_bytes()).collect();
        self.folder.write("reference.bin", &bytes)?;
        self.cached = cached;
        Ok(())
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
        let mut grads = self.backend.mat(1, self.policy.table.len());
        let mut epoch: Option<(usize, data::order::Epoch)> = None;
        while self.step < total {
            let (e, s) = self.job.order.locate(self.step as usize);
            if epoch.as_ref().is_none_or(|(at, _)| *at != e) {
                epoch = Some((e, self.job.order.epoch(e)));
            }
            let Some((_, order)) = &epoch else { unreachable!("set above") };
            let step = order.step(s);
            let batches = |rows: usize| rows.div_ceil(self.job.order.micro_batch) as f64;
            let made = batches(s * self.job.order.rows_per_step() + step.rows().len());
            let done = e as f64 + (made / batches(self.job.order.rows)).min(1.0);
            match self.one_step(step, done, &mut grads, control, observe)? {
                Some(()) => {}
                None => return self.stop(observe),
            }
            if s + 1 == order.len() || self.step == total {
                self.after_epoch(observe)?;
            }
            if control.save.swap(false, Ordering::SeqCst) {
                self.save(observe)?;
            }
            if self.give_up() {
                observe(Event::Note(format!(
                    "early stopping at step {}: {} evaluations without improvement",
                    self.step, self.stale_evaluations
                )));
                break;
            }
        }
        self.finish(observe)
    }

    /// One optimiser step; `None` when it was abandoned because the run is to stop.
    fn one_step(
        &mut self,
        step: data::Step,
        epoch: f64,
        grads: &mut Mat<B, B::Real>,
        control: &Control,
        observe: &mut dyn FnMut(Event),
    ) -> Result<Option<()>, Error> {
        let begin = Instant::now();
        let interrupted = || control.stop.load(Ordering::SeqCst);
        if interrupted() {
            return Ok(None);
        }
        self.backend.fill_zero(grads.out());
        let skip = self.one_class(step, observe);
        let Ok(report) = self.gradient(step, &interrupted, grads) else { return Ok(None) };
        self.check(&report, step)?;
        let norm = self.backend.square_norm(grads.view()).sqrt();
        if !norm.is_finite() {
            return Err(self.not_finite("the gradient", step.rows()));
        }
        let rate = self.job.config.optimizer.learning_rate * self.schedule.factor(self.step);
        if !skip {
            let scale = self.job.config.optimizer.max_grad_norm.map_or(1.0, |max| clip(norm, max));
            self.optimizer.update(self.backend, &mut self.policy.values, grads, rate, scale);
        }
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
        self.kl_guard(&report, observe)?;
        self.after_step(observe)?;
        Ok(Some(()))
    }

    fn gradient(
        &self,
        step: data::Step,
        interrupted: &dyn Fn() -> bool,
        grads: &mut Mat<B, B::Real>,
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
            return text_step(&cx, &texts, &sizes, grads);
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
            return Err(self.not_finite("the loss", step.rows()));
        }
        match &report.off_reference {
            Some(error) if self.step == 0 => Err(Error::Objective(error.clone())),
            _ => Ok(()),
        }
    }

    fn not_finite(&self, what: &str, units: &[u32]) -> Error {
        let data = &self.job.train.data;
        let named = |row: u32| {
            let (file, line) = data.source(row as usize);
            format!("{}:{line}", file.display())
        };
        let rows = units.iter().flat_map(|&u| match &self.job.train.bins {
            None => vec![u],
            Some(bins) => bins.bin(u as usize).iter().map(|p| p.row).collect(),
        });
        Error::NotFinite { what: what.to_owned(), step: self.step + 1, samples: rows.take(16).map(named).collect() }
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

    fn due(&self, interval: Interval) -> bool {
        let share = |s: f64| ((s * self.job.total_steps as f64).ceil() as u64).max(1);
        match interval {
            Interval::Never | Interval::Epoch => false,
            Interval::Steps(n) => self.step % n as u64 == 0,
            Interval::Share(s) => self.step % share(s) == 0,
        }
    }

    fn after_step(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let logging = &self.job.config.logging;
        if self.due(logging.every) || (logging.first_step && self.step == 1) {
            self.log_window(observe)?;
        }
        if self.due(self.job.config.evaluation.every) {
            self.evaluate(observe)?;
        }
        if self.due(self.job.config.saving.every) {
            self.save(observe)?;
        }
        Ok(())
    }

    fn after_epoch(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let config = &self.job.config;
        if config.logging.every == Interval::Epoch {
            self.log_window(observe)?;
        }
        if config.evaluation.every == Interval::Epoch {
            self.evaluate(observe)?;
        }
        if config.saving.every == Interval::Epoch {
            self.save(observe)?;
        }
        Ok(())
    }

    fn log_window(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let values: Vec<(String, f64)> = self.window.take().into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
        self.record(values, observe)
    }

    fn record(&mut self, values: Vec<(String, f64)>, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let record: Map<String, Value> = values.iter().map(|(k, v)| (k.clone(), number(k, *v))).collect();
        self.log.record(&record)?;
        self.text.line(&report::line(&values))?;
        if let Some(events) = &mut self.events {
            events.record(self.step, &record)?;
        }
        observe(Event::Logged(values.clone()));
        self.last_values.retain(|(k, _)| values.iter().all(|(n, _)| n != k));
        self.last_values.extend(values);
        Ok(())
    }

    fn evaluate(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        let Some(eval) = &self.job.eval else { return Ok(()) };
        let never = || false;
        let mut values = evaluate_rows(self.job, eval, &self.context(eval, 1, false, &never)).unwrap_or_default();
        values.push(("step".to_owned(), self.step as f64));
        if let Some(best) = &self.job.config.evaluation.best {
            let found = values.iter().find(|(k, _)| *k == best.metric).map(|(_, v)| *v);
            let Some(found) = found else {
                let known: Vec<&str> = values.iter().map(|(k, _)| k.as_str()).collect();
                return Err(Error::Mismatch {
                    what: format!("metric_for_best_model: {} is not among {}", best.metric, known.join(", ")),
                });
            };
            let threshold = self.job.config.evaluation.early_stopping.map_or(0.0, |e| e.threshold);
            let gain = self.best.map(|(old, _)| if best.greater_is_better { found - old } else { old - found });
            self.stale_evaluations = if gain.is_none_or(|g| g > threshold) { 0 } else { self.stale_evaluations + 1 };
            if gain.is_none_or(|g| g > 0.0) {
                self.best = Some((found, self.step));
            }
        }
        self.record(values, observe)?;
        if self.job.config.saving.when_best && self.best.is_some_and(|(_, step)| step == self.step) {
            self.save(observe)?;
        }
        Ok(())
    }

    fn give_up(&self) -> bool {
        self.job.config.evaluation.early_stopping.is_some_and(|e| self.stale_evaluations >= e.patience)
    }

    fn save(&mut self, observe: &mut dyn FnMut(Event)) -> Result<(), Error> {
        if self.last_saved == Some(self.step) {
            return Ok(());
        }
        self.log.sync()?;
        self.text.sync()?;
        let staging = self.folder.begin_checkpoint(self.step)?;
        let (policy, dir) = (&self.policy, staging.path().to_owned());
        state::write_weights(self.backend, self.job, &policy.table, &policy.values, &dir)?;
        state::write_optimizer(self.backend, self.job, &policy.table, &policy.values, &self.optimizer, &dir)?;
        let window: Vec<Value> =
            self.window.state().map(|(name, folded, count)| json!([name, folded.to_bits(), count])).collect();
        let checkpoint = staging.commit(json!({
            "log_bytes": self.log.position(),
            "text_bytes": self.text.position(),
            "tokens": self.tokens,
            "updates": self.optimizer.steps,
            "window": window,
            "best": self.best.map(|(value, step)| json!([value.to_bits(), step])),
            "stale_evaluations": self.stale_evaluations,
            "one_class_steps": self.one_class_steps,
        }))?;
        self.last_saved = Some(self.step);
        if let Some(keep) = self.job.config.saving.total_limit {
            let pinned: Vec<u64> = self.best.iter().map(|(_, step)| *step).collect();
            self.folder.rotate(&checkpoint, keep, &pinned)?;
        }
        observe(Event::Saved(checkpoint.path));
        Ok(())
    }

    fn restore(&mut self, found: &Checkpoint) -> Result<(), Error> {
        let meta = &found.manifest.meta;
        let broken = |key: &str| Error::Mismatch {
            what: format!(
                "{}: {key} is missing from its manifest; the checkpoint is of another version",
                found.path.display()
            ),
        };
        let number = |key: &str| meta.get(key).and_then(Value::as_u64).ok_or_else(|| broken(key));
        state::read(
            self.backend,
            self.job,
            &self.policy.table,
            &mut self.policy.values,
            &mut self.optimizer,
            &found.path,
        )?;
        self.step = found.step();
        self.tokens = number("tokens")?;
        self.optimizer.steps = number("updates")?;
        self.stale_evaluations = number("stale_evaluations")? as usize;
        self.one_class_steps = number("one_class_steps")?;
        let cells = meta.get("window").and_then(Value::as_array).ok_or_else(|| broken("window"))?;
        let cell = |v: &'_ Value| -> Option<(String, f64, u64)> {
            Some((v.get(0)?.as_str()?.to_owned(), f64::from_bits(v.get(1)?.as_u64()?), v.get(2)?.as_u64()?))
        };
        let cells: Vec<_> = cells.iter().map(cell).collect::<Option<_>>().ok_or_else(|| broken("window"))?;
        self.window = Window::restore(cells.iter().map(|(n, f, c)| (n.as_str(), *f, *c)))?;
        self.best = meta.get("best").and_then(|b| Some((f64::from_bits(b.get(0)?.as_u64()?), b.get(1)?.as_u64()?)));
        self.last_saved = Some(self.step);
        Ok(())
    }

    /// Ends before the end: saves what the last whole step left.
    fn stop(&mut self, observe: &mut dyn FnMut(Event)) -> Result<Ended, Error> {
        self.save(observe)?;
        observe(Event::Note(format!("stopped after step {}; saved, to be resumed", self.step)));
        Ok(self.ended(true))
    }

    fn ended(&self, stopped: bool) -> Ended {
        Ended { step: self.step, stopped, values: self.last_values.clone(), folder: self.folder.path().to_owned() }
    }

    fn finish(&mut self, observe: &mut dyn FnMut(Event)) -> Result<Ended, Error> {
        if self.window.state().next().is_some() {
            self.log_window(observe)?;
        }
        if self.job.config.saving.every != Interval::Never {
            self.save(observe)?;
        }
        if let Some((_, step)) =
            self.best.filter(|(_, step)| self.job.config.evaluation.load_best_at_end && *step != self.step)
        {
            let best = self.folder.path().join(format!("checkpoint-{step}"));
            state::read_weights(self.backend, self.job, &self.policy.table, &mut self.policy.values, &best)?;
            observe(Event::Note(format!("final/ holds the best checkpoint, of step {step}")));
        }
        let staging = self.folder.begin_final(self.step)?;
        let dir = staging.path().to_owned();
        state::write_weights(self.backend, self.job, &self.policy.table, &self.policy.values, &dir)?;
        if self.job.adapter.is_some() {
            weights::copy_companions(&self.job.config.model.path, &dir)?;
        }
        staging.commit(json!({"step": self.step}))?;
        let ended = self.ended(false);
        if self.one_class_steps > 0 {
            self.text.line(&format!("{} steps had rows of one class only", self.one_class_steps))?;
        }
        self.text.line("Training complete")?;
        self.text.line(&report::line(&ended.values))?;
        let plots = report::plots(self.folder)?;
        report::card(self.folder, self.job, &ended.values, plots)?;
        Ok(ended)
    }
}

fn reference_of<B: Backend>(backend: &B, job: &Job, values: &Mat<B, B::Real>) -> Reference<B> {
    let Some(kto) = job.kto() else { return Reference::None };
    match &job.adapter {
        None => Reference::Cached,
        Some(_) if kto.precompute_ref_log_probs => Reference::Cached,
        Some(adapter) if AdapterPlan::starts_at_zero(adapter) => Reference::AdaptersOff,
        Some(_) => Reference::Initial(copy_of(backend, values)),
    }
}

/// The checkpoint to go on from, and what was passed over on the way to it.
fn newest(job: &Job, folder: &RunFolder) -> Result<(Option<Checkpoint>, Vec<String>), Error> {
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

fn schedule_of(job: &Job) -> Result<Schedule, Error> {
    let total = job.total_steps as u64;
    let warmup = match job.config.schedule.warmup {
        config::Warmup::Steps(n) => n as u64,
        config::Warmup::Ratio(r) => warmup_steps(r, total),
    };
    Ok(Schedule {
        shape: crate::plan::shape_of(job.config.schedule.kind, job.config.optimizer.learning_rate),
        warmup,
        total,
    })
}

fn read_pairs(path: &Path, counts: [usize; 2]) -> Option<[Vec<[f64; 2]>; 2]> {
    let bytes = std::fs::read(path).ok()?;
    if bytes.len() != counts.iter().sum::<usize>() * 16 {
        return None;
    }
    let number = |b: &[u8]| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]);
    let mut pairs: Vec<[f64; 2]> = bytes.chunks_exact(16).map(|b| [number(&b[..8]), number(&b[8..])]).collect();
    let eval = pairs.split_off(counts[0]);
    Some([pairs, eval])
}

/// Whole numbers are written without a fraction where they are counts.
fn number(name: &str, value: f64) -> Value {
    match name {
        "step" | "num_tokens" | "n_chosen" | "n_rejected" => json!(value as u64),
        _ => serde_json::Number::from_f64(value).map_or(Value::Null, Value::Number),
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
