//! The configurations that are measured, and a job's steps driven one by one as a run drives them.

use crate::args::{Objective, RANK, Tuning};
use crate::device::Named;
use crate::error::Error;
use kernels::Backend;
use model::Built;
use optim::adamw::{AdamW, clip};
use std::path::Path;
use train::gradient::Gradient;
use train::policy::{Policy, Reference};
use train::step::{
    Interrupted, Preference, RowGroup, StepContext, TextRow, preference_step, reference_logps, text_step,
};
use train::work::{self, Mode, Work, packs_of, rows_of};
use train::{Job, Plan};

/// What is trained on what.
#[derive(Clone, Copy)]
pub(crate) struct Case<'a> {
    /// Name of the model in tables.
    pub(crate) name: &'a str,
    /// The model's folder.
    pub(crate) model: &'a Path,
    /// The rows.
    pub(crate) data: &'a Path,
    pub(crate) objective: Objective,
    pub(crate) tuning: Tuning,
    /// Rows of a step.
    pub(crate) batch: usize,
    /// Mixed precision.
    pub(crate) bf16: bool,
    /// What computes.
    pub(crate) device: Named,
}

impl Case<'_> {
    /// For progress and errors.
    pub(crate) fn title(&self) -> String {
        let (objective, tuning) = (self.objective.name(), self.tuning.name());
        format!("{} {objective} {tuning}, batch {}", self.name, self.batch)
    }

    /// The run's configuration. Rows are taken in the order of the file, so that a peer sees the same ones.
    pub(crate) fn yaml(&self, steps: usize, output: &Path) -> String {
        // JSON strings are YAML strings.
        let path = |path: &Path| serde_json::Value::from(path.display().to_string()).to_string();
        let adapter = match self.tuning {
            Tuning::Full => "use_peft: false\n".to_owned(),
            Tuning::Lora => {
                format!("use_peft: true\nlora_r: {RANK}\nlora_alpha: {}\nlora_target_modules: all-linear\n", 2 * RANK)
            }
        };
        format!(
            "trainer: {}\nmodel_name_or_path: {}\ndataset_name: {}\noutput_dir: {}\noverwrite_output_dir: true\n\
             per_device_train_batch_size: {}\nmax_steps: {steps}\nlearning_rate: 1e-5\nmax_length: 1024\nshuffle: false\n\
             save_strategy: \"no\"\nlogging_steps: 1\nbf16: {}\ndevice: {}\n{adapter}",
            self.objective.name(),
            path(self.model),
            path(self.data),
            path(output),
            self.batch,
            self.bf16,
            self.device.text(),
        )
    }

    /// Loads it.
    pub(crate) fn load(&self, steps: usize, output: &Path) -> Result<Job, Error> {
        let loaded = config::load("bench.yaml", &self.yaml(steps, output), &[])?;
        Ok(Job::new(loaded.config, data::Clock::now(), &mut |_| {})?)
    }
}

/// A job's model and optimiser, step by step.
pub(crate) struct Stepper<'a, B: Backend> {
    backend: &'a B,
    job: &'a Job,
    plan: &'a Plan,
    policy: Policy<B>,
    cached: Vec<[f64; 2]>,
    optimizer: AdamW<B>,
    grads: Gradient<B>,
    rates: Vec<f64>,
    step: usize,
}

fn never() -> bool {
    false
}

impl<'a, B: Backend> Stepper<'a, B> {
    /// Builds model and optimiser.
    pub(crate) fn new(backend: &'a B, job: &'a Job, plan: &'a Plan) -> Result<Stepper<'a, B>, Error> {
        let tuning = job.adapter.as_ref().map_or(model::Tuning::Full, |a| model::Tuning::Lora(&a.adapters));
        let Built { decoder, table, mut values, halves, .. } =
            Built::new(backend, &job.checkpoint, job.blueprint.clone(), tuning, job.positions)?;
        if let Some(adapter) = &job.adapter {
            adapter.initialise(backend, &table, &mut values, job.config.engine.seed)?;
        }
        let reference = match (job.kto(), &job.adapter) {
            (None, _) => Reference::None,
            (Some(_), None) => Reference::Cached,
            (Some(_), Some(_)) => Reference::AdaptersOff,
        };
        let (settings, layout) = train::optimizer_of(job, &table, &std::iter::once(0..table.len()).collect::<Vec<_>>());
        let len = table.len();
        Ok(Stepper {
            backend,
            job,
            plan,
            policy: Policy { decoder, table, values, halves, reference },
            cached: vec![[f64::NAN; 2]; job.train.data.len()],
            optimizer: AdamW::new(backend, settings, layout),
            grads: Gradient::running(backend, len),
            rates: train::learning_rates(job),
            step: 0,
        })
    }

    fn context(&self) -> StepContext<'_, B> {
        StepContext {
            backend: self.backend,
            policy: &self.policy,
            data: &self.job.train.data,
            cached: &self.cached,
            execution: self.plan.execution,
            extra: self.job.config.logging.extra_metrics,
            dropout: None,
            balance: self.job.balance,
            interrupted: &never,
            team: None,
        }
    }

    fn preference(&self) -> Option<Preference<'a>> {
        let kto = self.job.kto()?;
        let (desirable_weight, undesirable_weight) = self.job.weights;
        let settings = objective::Settings { beta: kto.beta, desirable_weight, undesirable_weight };
        Some(Preference { loss: train::loss_of(kto), settings, partners: &self.job.train.partners, ftx: kto.ftx })
    }

    /// Takes the reference's log-probabilities of all steps, where they are cached.
    pub(crate) fn cache_reference(&mut self) {
        let (Some(preference), Reference::Cached) = (self.preference(), &self.policy.reference) else { return };
        for step in 0..self.job.total_steps {
            let rows = rows_of(self.job, step);
            let cx = self.context();
            let pairs = self.backend.within(|| reference_logps(&cx, &preference, &rows));
            let pairs = pairs.unwrap_or_else(never_interrupted);
            rows.iter().zip(pairs).for_each(|(&row, pair)| self.cached[row as usize] = pair);
        }
    }

    /// Makes the next step; returns its loss and the tokens of its rows.
    pub(crate) fn step(&mut self) -> (f64, u64) {
        let rows = rows_of(self.job, self.step);
        self.grads.begin(self.backend);
        // The context borrows all but the gradient, which goes in and out by hand.
        let mut grads = std::mem::replace(&mut self.grads, Gradient::running(self.backend, 0));
        let report = match self.preference() {
            Some(preference) => {
                let normaliser = vec![1.0 / rows.len() as f64; rows.len()];
                let group = RowGroup { rows, normaliser };
                let cx = self.context();
                self.backend.within(|| preference_step(&cx, &preference, &[group], &mut grads))
            }
            None => {
                let texts: Vec<TextRow> = rows.iter().flat_map(|&unit| self.job.train.texts(unit)).collect();
                let cx = self.context();
                self.backend.within(|| text_step(&cx, &texts, &[texts.len()], &mut grads))
            }
        };
        let report = report.unwrap_or_else(never_interrupted);
        let norm = self.backend.square_norm(grads.values.view()).sqrt();
        let scale = self.job.config.optimizer.max_grad_norm.map_or(1.0, |max| clip(norm, max));
        let Policy { values, halves, .. } = &mut self.policy;
        self.optimizer.update(self.backend, values, halves, &grads.values, self.rates[self.step], scale);
        self.grads = grads;
        self.step += 1;
        (report.loss, report.tokens)
    }
}

fn never_interrupted<T>(_: Interrupted) -> T {
    unreachable!("nothing interrupts a measurement")
}

/// The operations that the mathematics of step `step` needs.
pub(crate) fn work_of(job: &Job, step: usize) -> Work {
    let mode = Mode { adapters: job.adapter.as_ref().map(|a| &a.adapters), preference: job.kto().is_some() };
    work::of_step(&job.blueprint, &packs_of(job, &rows_of(job, step)), mode)
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernels::Cpu;

    #[test]
    fn steps_follow_one_another_and_learn() {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/golden");
        let scratch = std::env::temp_dir().join(format!("prospect-bench-{}", std::process::id()));
        let (model, cpu) = (golden.join("models/qwen2"), Cpu::<f64>::new(1));
        for (objective, data) in [(Objective::Kto, "kto_plain.jsonl"), (Objective::Sft, "sft_prompt_completion.jsonl")]
        {
            for tuning in [Tuning::Lora, Tuning::Full] {
                let data = golden.join("data").join(data);
                let (batch, bf16, device) = (2, false, Named::Cpu);
                let case = Case { name: "qwen2", model: &model, data: &data, objective, tuning, batch, bf16, device };
                let job = case.load(3, &scratch).unwrap();
                let plan = Plan::new(&job).unwrap();
                let mut stepper = Stepper::new(&cpu, &job, &plan).unwrap();
                stepper.cache_reference();
                let made: Vec<(f64, u64)> = (0..3).map(|_| stepper.step()).collect();
                let told = format!("{}: {made:?}", case.title());
                assert!(made.iter().all(|(loss, tokens)| loss.is_finite() && *tokens > 0), "{told}");
                assert!(made[0].0 != made[1].0, "{told}");
            }
        }
        let _ = std::fs::remove_dir_all(&scratch);
    }
}
