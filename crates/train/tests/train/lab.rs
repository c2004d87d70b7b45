//! A job with its policy, for steps outside a run.

use config::Config;
use data::Clock;
use kernels::{Backend, Real};
use model::{Built, Keep};
use nn::Dropout;
use objective::Settings;
use objective::metrics::Metric;
use serde_json::Value;
use std::ops::Range;
use testkit::noise;
use train::Job;
use train::gradient::Gradient;
use train::policy::{Policy, Reference, copy_of};
use train::step::{
    Execution, Preference, RowGroup, Scored, StepContext, StepReport, TextRow, preference_step, reference_logps,
    score_preference, text_step,
};

/// Everything in one pack, nothing computed twice.
pub(crate) const PLAIN: Execution = Execution {
    budget_rows: 1 << 20,
    keep: Keep::All,
    z0_first: false,
    share_prompts: true,
    kept_logits: 0,
    offload: false,
};

pub(crate) struct Lab<B: Backend> {
    pub(crate) backend: B,
    pub(crate) job: Job,
    pub(crate) policy: Policy<B>,
    pub(crate) cached: Vec<[f64; 2]>,
    pub(crate) dropout: Option<Dropout>,
}

/// A step's report and gradient.
pub(crate) struct Stepped {
    pub(crate) report: StepReport,
    pub(crate) gradient: Vec<f64>,
}

impl Stepped {
    pub(crate) fn metric(&self, metric: Metric) -> f64 {
        let found = self.report.groups.iter().flatten().find(|(m, _)| *m == metric);
        found.unwrap_or_else(|| panic!("no {}", metric.name())).1
    }

    /// Panics unless loss, metrics and gradient are the same bits.
    pub(crate) fn assert_same(&self, other: &Stepped, what: &str) {
        assert_eq!(self.report.loss.to_bits(), other.report.loss.to_bits(), "{what}: loss");
        assert_eq!(self.report.groups, other.report.groups, "{what}: metrics");
        assert!(self.gradient == other.gradient, "{what}: the gradients differ");
    }

    /// Panics unless loss and metrics are the same within `tolerance` relative (absolute below 1), and the gradient within
    /// `of_gradient` of its largest entry. The KL estimate is a difference of log-probabilities: what they are rounded to is its own rounding.
    pub(crate) fn assert_near(&self, other: &Stepped, (tolerance, of_gradient): (f64, f64), what: &str) {
        let within = |a: f64, b: f64, of: f64| (a - b).abs() <= tolerance * a.abs().max(of);
        let near = |a: f64, b: f64| within(a, b, 1.0);
        assert!(near(self.report.loss, other.report.loss), "{what}: {} {}", self.report.loss, other.report.loss);
        let logps = |(metric, value): &(Metric, f64)| {
            if matches!(metric, Metric::LogpsChosen | Metric::LogpsRejected) { value.abs() } else { 0.0 }
        };
        let sums = other.report.groups.iter().flatten().map(logps).fold(1.0, f64::max);
        let (a, b) = (self.report.groups.iter().flatten(), other.report.groups.iter().flatten());
        for ((metric, a), (_, b)) in a.zip(b) {
            let of = if matches!(metric, Metric::Kl | Metric::KlRaw) { sums } else { 1.0 };
            assert!(within(*a, *b, of), "{what}: {} is {a} and {b}", metric.name());
        }
        let gap = testkit::largest_gap(&other.gradient, &self.gradient);
        assert!(gap <= of_gradient, "{what}: gradients differ by {gap:e} of the largest entry");
    }
}

impl<B: Backend<Real = R>, R: Real> Lab<B> {
    /// Loads a job and moves its trainable values by `moved`, so that policy and reference differ.
    pub(crate) fn new(backend: B, config: &Value, moved: f64) -> Lab<B> {
        let loaded = config::load("lab.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
        let config: Config = loaded.config;
        let job = Job::new(config, Clock::at(0), &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
        let built = Built::new(&backend, &job.checkpoint, job.blueprint.clone(), job.tuning(), job.positions);
        let Built { decoder, table, mut values, halves, .. } = built.unwrap_or_else(|e| panic!("{e}"));
        if let Some(adapter) = &job.adapter {
            adapter.initialise(&backend, &table, &mut values, 1).unwrap();
        }
        let reference = match (&job.adapter, job.kto()) {
            (_, None) => Reference::None,
            (None, _) => Reference::Cached,
            (Some(a), _) if a.starts_at_zero() => Reference::AdaptersOff,
            (Some(_), _) => Reference::Initial(copy_of(&backend, &values)),
        };
        let policy = Policy { decoder, table, values, halves, reference };
        let mut lab = Lab { backend, job, policy, cached: Vec::new(), dropout: None };
        if lab.job.kto().is_some() {
            let all: Vec<u32> = (0..lab.job.train.data.len() as u32).collect();
            let cx = lab.context(PLAIN);
            lab.cached = reference_logps(&cx, &lab.preference(), &all).unwrap();
        }
        let values: Vec<f64> = lab.values();
        let shifted: Vec<f64> = values.iter().zip(noise(values.len(), 9)).map(|(v, n)| v + moved * n).collect();
        lab.set(&shifted);
        lab
    }

    pub(crate) fn values(&self) -> Vec<f64> {
        self.backend.to_host(self.policy.values.view()).iter().map(|x| x.f64()).collect()
    }

    pub(crate) fn set(&mut self, values: &[f64]) {
        let values: Vec<R> = values.iter().map(|x| R::of(*x)).collect();
        self.backend.upload(&values, self.policy.values.out());
    }

    pub(crate) fn preference(&self) -> Preference<'_> {
        let kto = self.job.kto().expect("a preference job");
        let (desirable_weight, undesirable_weight) = self.job.weights;
        let settings = Settings { beta: kto.beta, desirable_weight, undesirable_weight };
        Preference { loss: train::loss_of(kto), settings, partners: &self.job.train.partners, ftx: kto.ftx }
    }

    pub(crate) fn context(&self, execution: Execution) -> StepContext<'_, B> {
        StepContext {
            backend: &self.backend,
            policy: &self.policy,
            data: &self.job.train.data,
            cached: &self.cached,
            execution,
            extra: true,
            balance: self.job.balance,
            dropout: self.dropout,
            interrupted: &|| false,
            team: None,
        }
    }

    /// One KTO step over `rows`.
    pub(crate) fn preference_step(&self, execution: Execution, rows: Range<u32>) -> Stepped {
        let group = RowGroup { normaliser: vec![1.0 / rows.len() as f64; rows.len()], rows: rows.collect() };
        let mut grads = Gradient::running(&self.backend, self.policy.table.len());
        let report = preference_step(&self.context(execution), &self.preference(), &[group], &mut grads).unwrap();
        let gradient = self.backend.to_host(grads.values.view()).iter().map(|x: &R| x.f64()).collect();
        Stepped { report, gradient }
    }

    /// What `rows` score, without a gradient.
    pub(crate) fn scored(&self, rows: Range<u32>) -> Scored {
        let rows: Vec<u32> = rows.collect();
        score_preference(&self.context(PLAIN), &self.preference(), &rows).unwrap()
    }

    /// The text rows of units `0..n`.
    pub(crate) fn texts(&self, n: u32) -> Vec<TextRow> {
        (0..n).flat_map(|i| self.job.train.texts(i)).collect()
    }

    /// One SFT step.
    pub(crate) fn text_step(&self, execution: Execution, texts: &[TextRow]) -> Stepped {
        let mut grads = Gradient::running(&self.backend, self.policy.table.len());
        let report = text_step(&self.context(execution), texts, &[texts.len()], &mut grads).unwrap();
        let gradient = self.backend.to_host(grads.values.view()).iter().map(|x: &R| x.f64()).collect();
        Stepped { report, gradient }
    }
}
