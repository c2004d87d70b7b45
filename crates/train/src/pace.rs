//! How long a run will take: its operations over the rates of this machine, measured for a second or two, or of a device's makers.

use crate::work::{self, Work};
use crate::{Job, Plan};
use config::Objective;
use kernels::{Backend, ForBackward, HEAD_ROWS, Weight};
use model::Blueprint;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What a device does in a second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates {
    /// Operations of products as the model's layers need them.
    pub products: f64,
    /// Operations of the head's products, whose tiles of logits stay in caches.
    pub head: f64,
    /// Bytes read and written, of memory that no cache holds.
    pub bytes: f64,
    /// Whether they were measured here.
    pub measured: bool,
}

/// How fast a run is expected to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Pace {
    /// Of an optimiser step.
    pub seconds_per_step: f64,
    /// Tokens of the rows (prompt and completion, each by itself) per second.
    pub tokens_per_second: f64,
    /// Of one pass over the rows.
    pub hours_per_epoch: f64,
    /// Before the first step, of all that is to be trained: the reference of a full run.
    pub reference_seconds: f64,
}

/// Attention's operations, over time, as a share of the products' rate: scores are made tile by tile, and the exponentials between
/// two products are no operations that anyone counts.
const ATTENTION: f64 = 0.4;
/// Steps whose work is counted: spread over the epoch.
const COUNTED: usize = 24;
/// Rows of the products that are measured.
const ROWS: usize = 1024;
/// Floats that are copied: far beyond any cache.
const COPIED: usize = 16 << 20;

impl Rates {
    /// Of this machine's processor, on the shapes of a job's model and the threads that its run would have.
    pub fn here(job: &Job) -> Rates {
        let own = || std::thread::available_parallelism().map_or(1, usize::from);
        Rates::measure(
            &crate::run::device::processor(job, job.config.engine.threads.unwrap_or_else(own)),
            &job.blueprint,
        )
    }

    /// Measures a device on the shapes of a model, for about two seconds.
    fn measure<B: Backend<Act = f32, Real = f32>>(backend: &B, b: &Blueprint) -> Rates {
        // How often a layer has each shape.
        let mut shapes: BTreeMap<[usize; 2], usize> = BTreeMap::new();
        for p in (0..b.layers.len().min(1)).flat_map(|i| b.projections(i)) {
            *shapes.entry([p.outputs, p.inputs]).or_default() += 1;
        }
        let room = Duration::from_secs_f64(1.3 / shapes.len() as f64);
        let (mut operations, mut seconds) = (0.0, 0.0);
        for (&[o, i], &times) in &shapes {
            let size = (o * i * times) as f64;
            operations += size;
            seconds += size / product_rate(backend, [ROWS, o, i], room);
        }
        let head = head_rate(backend, [b.vocab.min(8192), b.hidden]);
        Rates { products: operations / seconds, head, bytes: copy_rate(backend), measured: true }
    }
}

/// Mean seconds of the calls within `room`, at least two, after one that does not count: others on the machine slow a run as they
/// slow these.
fn typical(room: Duration, mut call: impl FnMut()) -> f64 {
    call();
    let (begin, mut calls) = (Instant::now(), 0u32);
    while calls < 2 || begin.elapsed() < room {
        call();
        calls += 1;
    }
    begin.elapsed().as_secs_f64() / f64::from(calls)
}

/// Numbers of no meaning, in [-0.5, 0.5).
fn noise(n: usize) -> Vec<f32> {
    (0..n).map(|k| (k * 7919 % 1013) as f32 / 1013.0 - 0.5).collect()
}

/// Operations per second of `y = x Wᵀ` and of `dx = dy W`, as often one as the other.
fn product_rate<B: Backend<Act = f32, Real = f32>>(backend: &B, [t, o, i]: [usize; 3], room: Duration) -> f64 {
    let (x, w) = (backend.from_host(t, i, &noise(t * i)), backend.from_host(o, i, &noise(o * i)));
    let (mut y, mut dx) = (backend.from_host(t, o, &noise(t * o)), backend.from_host(t, i, &noise(t * i)));
    let seconds = backend.within(|| {
        typical(room / 2, || backend.linear(1.0, x.view(), Weight::Param(w.view()), y.out()))
            + typical(room / 2, || backend.linear_dx(1.0, y.view(), Weight::Param(w.view()), dx.out()))
    });
    4.0 * (t * o * i) as f64 / seconds
}

/// Operations per second of log-probabilities and of their gradient.
fn head_rate<B: Backend<Act = f32, Real = f32>>(backend: &B, [vocab, hidden]: [usize; 2]) -> f64 {
    let h = backend.from_host(HEAD_ROWS, hidden, &noise(HEAD_ROWS * hidden));
    let w = backend.from_host(vocab, hidden, &noise(vocab * hidden));
    let mut unit = backend.zeros(HEAD_ROWS, hidden);
    let tokens: Vec<u32> = (0..HEAD_ROWS).map(|row| (row % vocab) as u32).collect();
    let seconds = backend.within(|| {
        typical(Duration::from_millis(300), || {
            drop(backend.head(h.view(), Weight::Param(w.view()), &tokens, false, ForBackward::Unit(unit.out())));
        })
    });
    4.0 * (HEAD_ROWS * vocab * hidden) as f64 / seconds
}

/// Bytes per second of an addition in place: two numbers read, one written.
fn copy_rate<B: Backend<Act = f32, Real = f32>>(backend: &B) -> f64 {
    let (mut to, from) = (backend.zeros::<f32>(1, COPIED), backend.zeros::<f32>(1, COPIED));
    let seconds = backend.within(|| typical(Duration::from_millis(200), || backend.add(from.view(), to.acc())));
    12.0 * COPIED as f64 / seconds
}

impl Pace {
    /// Of a planned run on a device with those rates.
    pub fn new(job: &Job, plan: &Plan, rates: &Rates) -> Pace {
        let steps = job.total_steps.max(1);
        let counted: Vec<usize> = (0..COUNTED.min(steps)).map(|i| i * steps / COUNTED.min(steps)).collect();
        let (mut seconds, mut tokens, mut reference) = (0.0, 0usize, 0.0);
        for &step in &counted {
            let rows = work::rows_of(job, step);
            let packs = work::packs_of(job, &rows);
            seconds += step_seconds(job, plan, rates, &packs);
            reference += forward(&work::of_scoring(&job.blueprint, &packs), rates);
            tokens += rows.iter().map(|&unit| tokens_of(job, unit)).sum::<usize>();
        }
        let n = counted.len().max(1) as f64;
        let (step, tokens) = (seconds / n, tokens as f64 / n);
        let cached = job.kto().is_some() && job.adapter.is_none();
        let per_epoch = job.order.epoch(0).len() as f64;
        Pace {
            seconds_per_step: step,
            tokens_per_second: tokens / step,
            hours_per_epoch: step * per_epoch / 3600.0,
            reference_seconds: if cached { reference / n * per_epoch.min(steps as f64) } else { 0.0 },
        }
    }
}

fn tokens_of(job: &Job, unit: u32) -> usize {
    match job.config.objective {
        Objective::Sft(_) => job.train.texts(unit).iter().map(|t| t.prompt.len() + t.tokens.len()).sum(),
        Objective::Kto(_) => job.train.data.tokens(unit as usize).len(),
    }
}

fn forward(work: &Work, rates: &Rates) -> f64 {
    (work.linear + work.adapters + work.attention / ATTENTION) / rates.products + work.head / rates.head
}

fn step_seconds(job: &Job, plan: &Plan, rates: &Rates, packs: &[pack::Pack]) -> f64 {
    let b = &job.blueprint;
    let mode = work::Mode { adapters: job.adapter.as_ref().map(|a| &a.adapters), preference: job.kto().is_some() };
    let mut seconds = forward(&work::of_step(b, packs, mode), rates);
    let rows: usize = packs.iter().map(pack::Pack::num_rows).sum();
    let base: usize = packs.iter().map(|p| p.base.len()).sum();
    // What is computed again is the base rows' way through the blocks, once for each reason.
    let again = crate::plan::computed_again(job, plan.execution.keep) / b.layers.len().max(1) as f64
        + f64::from(u8::from(plan.execution.z0_first));
    let bases: Vec<pack::Pack> = packs.iter().map(pack::Pack::base_only).collect();
    let blocks = Work { head: 0.0, ..work::of_scoring(b, &bases) };
    seconds += again * forward(&blocks, rates);
    // Norms, activations, residual sums: every row of every block goes through memory a number of times, forward and back.
    let width = 12 * b.hidden + 8 * b.heads * b.head_width + 8 * crate::plan::feed_forward_rows(b);
    let passes = if mode.preference && mode.adapters.is_some() { 2 * rows + 2 * base } else { rows + 2 * base };
    seconds += (4 * width * b.layers.len()) as f64 * (passes as f64 + again * base as f64) / rates.bytes;
    if matches!(job.tuning(), model::Tuning::Full) {
        // The gradient of the head is added to for every few rows; their logits are written, read, and read again.
        let targets: usize = packs.iter().map(|p| p.num_grad_targets).sum();
        let bytes = b.vocab * (8 * b.hidden * targets.div_ceil(HEAD_ROWS) + 12 * targets);
        seconds += bytes as f64 / rates.bytes;
    }
    // Values, gradient and moments are read, and all but the gradient written; the gradient was cleared and its norm taken.
    seconds + (4 * 10 * plan.trainable) as f64 / rates.bytes
}
