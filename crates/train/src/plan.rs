//! What a run will do and take, before it does it: steps, schedule, memory by part.

mod advice;
mod blocks;
mod free;
mod offload;
mod ranks;
mod room;

use crate::optimizer::holds_halves;
use crate::step::Execution;
use crate::{Error, Job};
pub(crate) use blocks::computed_again;
use blocks::{Blocks, held_rows};
use config::{Curve, Floor, Objective, ScheduleKind};
pub(crate) use free::available_memory;
use kernels::HEAD_ROWS;
use model::Blueprint;
use offload::{Way, pinnable};
use optim::adamw::{Layout, Member};
use optim::schedule::{Ramp, Schedule, Shape, StableDecay, warmup_steps};
pub use ranks::Team;
use ranks::{Dealing, Whole};
pub use room::ask_gpu;
pub(crate) use room::is_on_gpu;
use room::{of_activation, room, scratch};
use std::fmt::Write;

/// Rows of a pack beyond which products get no faster.
const PACK_ROWS: usize = 2048;
/// What the process takes before a model is loaded, bytes.
const PROCESS: u64 = 24 << 20;

/// A run's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How steps are computed.
    pub execution: Execution,
    /// Weights of the model.
    pub parameters: usize,
    /// Those that are trained.
    pub trainable: usize,
    /// Bytes by part, in order; the sum is the expected peak.
    pub memory: Vec<(&'static str, u64)>,
    /// Bytes that may be used.
    pub available: u64,
    /// Bytes of the host's memory that are pinned beside them, for inputs of blocks that wait there.
    pub host: u64,
    /// Of each of these ranks.
    team: Team,
}

/// Most rows of a step, by kind.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// Who has them.
    team: Team,
    /// Base rows of a whole step.
    base: usize,
    /// Tail rows of a whole step.
    tail: usize,
    /// Scored tokens of a whole step, with gradient.
    targets: usize,
    /// Rows of the longest family.
    family: usize,
    /// The step that has most rows.
    step: usize,
}

impl Load {
    const NONE: Load = Load { team: Team::ALONE, base: 0, tail: 0, targets: 0, family: 0, step: 0 };
}

impl Plan {
    /// Plans a run: the fastest execution that fits.
    pub fn new(job: &Job) -> Result<Plan, Error> {
        let load = heaviest(job);
        let budget_rows = load.family.max(PACK_ROWS.min(load.base + load.tail));
        Plan::within(job, load, &[budget_rows, load.family.max(512), load.family])
    }

    /// The fastest execution with one of these budgets that fits.
    fn within(job: &Job, load: Load, budgets: &[usize]) -> Result<Plan, Error> {
        let (available, pinnable) = (room(job), pinnable(job));
        let fits = |plan: &Plan| plan.total() <= available && plan.host <= pinnable;
        let mut smallest: Option<Plan> = None;
        for Way { first, last, offload } in offload::ways(job) {
            for (&budget_rows, z0_first) in budgets.iter().flat_map(|rows| [(rows, false), (rows, true)]) {
                let execution =
                    Execution { budget_rows, keep: first, z0_first, share_prompts: true, kept_logits: 0, offload };
                let plan = Plan::with(job, load, execution, available);
                if fits(&plan) {
                    let kept_logits = kept_logits(job, &plan, available);
                    return Ok(Plan::with(job, load, Execution { kept_logits, ..execution }, available));
                }
                let plan = Plan::with(job, load, Execution { keep: last, ..execution }, available);
                if fits(&plan) {
                    let keep = match first == last {
                        true => last,
                        false => Blocks::of(job).fullest(held_rows(job, load, execution), available - plan.total()),
                    };
                    return Ok(Plan::with(job, load, Execution { keep, ..execution }, available));
                }
                if smallest.as_ref().is_none_or(|s| plan.total() < s.total()) {
                    smallest = Some(plan);
                }
            }
        }
        let plan = smallest.expect("at least one execution was tried");
        // What the GPU has room for may still be too much for the host.
        let lacks = if plan.total() > available { (plan.total(), available) } else { (plan.host, pinnable) };
        Err(Error::Memory { needed: lacks.0, available: lacks.1, table: plan.advised(job) })
    }

    /// The parts as lines, and changes of the configuration that would take less.
    pub fn advised(&self, job: &Job) -> String {
        let advice = advice::changes(job, Load { team: self.team, ..heaviest(job) }, self).join("\n    ");
        format!("{}  what would change that:\n    {advice}", self.memory_table())
    }

    /// Bytes that a run's matrices may take: what it may use, less what is not in them.
    pub fn limit(&self, job: &Job) -> usize {
        let all = job.config.engine.max_memory.unwrap_or_else(available_memory);
        let apart =
            self.memory.iter().filter(|(part, _)| ["process", "frozen weights", "exchange", "data"].contains(part));
        all.saturating_sub(apart.map(|(_, bytes)| bytes).sum()) as usize
    }

    /// As [`Plan::new`], of each rank of several. Where gradients are summed in a tree, packs do not depend on how many ranks there
    /// are: they have a micro-batch's rows.
    pub fn over(job: &Job, team: Team) -> Result<Plan, Error> {
        if !team.is_elastic() {
            return Plan::new(job).map(|plan| Plan::given(job, plan.execution, team));
        }
        let load = Load { team, ..heaviest(job) };
        let micro_batches = job.order.rows_per_step().min(job.order.rows).div_ceil(job.order.micro_batch);
        let budget_rows = load.family.max((load.base + load.tail).div_ceil(micro_batches.max(1)));
        Plan::within(job, load, &[budget_rows])
    }

    /// A plan with a given execution (a resumed run keeps its own).
    pub fn given(job: &Job, execution: Execution, team: Team) -> Plan {
        Plan::with(job, Load { team, ..heaviest(job) }, execution, room(job))
    }

    fn with(job: &Job, load: Load, execution: Execution, available: u64) -> Plan {
        let (team, dealing) = (load.team, Dealing::of(job, load, execution));
        let [base, tail, targets] = [load.base, load.tail, load.targets].map(|all| dealing.most(all));
        let load = Load { base, tail, targets, ..load };
        let (b, on_gpu, act) = (&job.blueprint, is_on_gpu(job), of_activation(job));
        let tensors = trained_tensors(job);
        let trainable: usize = tensors.iter().map(|t| t.elements).sum();
        let stored = crate::storage::held_bytes(job);
        let frozen = match job.config.tuning {
            config::Tuning::Full => 0,
            config::Tuning::Blocks(_) => stored - stored / b.num_parameters().max(1) as u64 * trainable as u64,
            // A GPU has all of it; a processor reads what it needs where the file is mapped.
            _ => stored - crate::storage::copied_bytes(job) - if on_gpu { 0 } else { job.unread },
        };
        let frozen = team.frozen(frozen, &crate::storage::lent_bytes(job), on_gpu);
        let scale = |rows: usize, cap: usize| rows.min(cap);
        let rows = held_rows(job, load, execution);
        let blocks = Blocks::of(job);
        let (saved, again) = blocks.bytes(rows, execution.keep);
        let targets = scale(load.targets, execution.budget_rows.max(1));
        let held_targets = if execution.z0_first { targets } else { load.targets };
        // Of text, no more rows than the head has in hand wait for their backward.
        let waiting = if job.kto().is_some() { held_targets } else { held_targets.min(HEAD_ROWS) };
        let kept = execution.kept_logits.min(waiting * b.vocab);
        let tile = if on_gpu { 0 } else { HEAD_ROWS.min(held_targets.max(1)) * 2048 };
        let head = (act * (3 * held_targets * b.hidden + tile + kept)) as u64;
        let working = (act * scale(load.base + load.tail, execution.budget_rows) * working_floats(b)) as u64;
        let working = working + again + scratch(job);
        // Beside the rows: their order, partners and reference log-probabilities (measured on three million of them).
        let data = (job.train.data.held_bytes() + 64 * job.train.data.len()) as u64;
        let on_host = |bytes| if on_gpu { 0 } else { bytes };
        let copies = u64::from(job.kto().is_some() && job.adapter.as_ref().is_some_and(|a| !a.starts_at_zero()));
        let values: usize = tensors.iter().map(|t| t.elements * if t.half { 2 } else { 4 }).sum();
        let whole = Whole {
            units: units(job, &tensors),
            values: values as u64 + 4 * trainable as u64 * copies,
            moments: optimizer_bytes(job, &tensors),
        };
        let (held, on_disk) = (team.held(&whole, &dealing), job.config.optimizer.on_disk.is_some());
        let memory = vec![
            ("process", PROCESS),
            ("frozen weights", frozen),
            ("trained weights", held.values),
            ("gradients", held.gradients),
            ("optimiser state", if on_disk { held.moments.min(Layout::WINDOW_BYTES as u64) } else { held.moments }),
            ("saved activations", saved),
            ("working activations", working),
            ("head", head),
            ("exchange", on_host(held.exchange)),
            ("data", on_host(data)),
        ];
        let host = blocks.on_host(rows, execution.keep);
        Plan { execution, parameters: b.num_parameters(), trainable, memory, available, host, team }
    }

    /// Expected peak, bytes.
    pub fn total(&self) -> u64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }

    /// The parts as lines.
    pub fn memory_table(&self) -> String {
        let mut out = String::new();
        let parts = self.memory.iter().copied().filter(|(part, bytes)| *part != "exchange" || *bytes > 0);
        let pinned = (self.host > 0).then_some(("pinned, on the host", self.host));
        for (part, bytes) in parts.chain([("expected peak", self.total())]).chain(pinned) {
            let _ = writeln!(out, "  {part:<24} {:>10.1} MB", bytes as f64 / (1 << 20) as f64);
        }
        out
    }
}

/// Share of the room of weights, gradients and moments that the logits of a trained head may take: as many need not be
/// computed again, and the peak stays what the optimiser makes it. Text goes backward as many rows at a time as fit, so
/// half of it is enough.
const LOGITS_SHARE: u64 = 8;

/// Logits that a trained head keeps for backward, within a plan that fits without any.
fn kept_logits(job: &Job, plan: &Plan, available: u64) -> usize {
    let rounded = of_activation(job) != 4; // would not be the logits that were scored
    if !matches!(job.tuning(), model::Tuning::Full) || job.blueprint.logit_cap.is_some() || rounded {
        return 0;
    }
    let moments = if job.config.optimizer.on_disk.is_some() { 0 } else { 2 };
    let share =
        4 * (2 + moments) * plan.trainable as u64 / if job.kto().is_some() { LOGITS_SHARE } else { 2 * LOGITS_SHARE };
    (share.min(available - plan.total()) / 4) as usize
}

/// A tensor that is trained: its size, and how it and its moments are held.
struct Trained {
    elements: usize,
    /// Its block; `None`: the embedding, the last norm, the head.
    block: Option<usize>,
    head: bool,
    half: bool,
    eight: bool,
}

fn trained_tensors(job: &Job) -> Vec<Trained> {
    let (b, eight) = (&job.blueprint, job.config.optimizer.name == config::OptimizerName::Adamw8bit);
    if let Some(a) = &job.adapter {
        let layers =
            (0..b.layers.len()).flat_map(|i| b.projections(i).into_iter().chain(b.expert_projections(i).concat()));
        let factors = layers.filter_map(|p| a.adapters.modules.get(&p.path).map(|on| (p, on.rank)));
        let mut sizes: Vec<(Option<usize>, usize)> = factors
            .flat_map(|(p, r)| {
                let at = block_of(&p.path);
                [r * p.inputs, r * p.outputs, if a.adapters.dora { p.outputs } else { 0 }].map(|n| (at, n))
            })
            .collect();
        let whole = job.checkpoint.infos().filter(|t| a.adapters.trains(&t.name));
        sizes.extend(whole.map(|t| (block_of(&t.name), elements(b, t))));
        if b.tied && a.adapters.trains(HEAD) && !job.checkpoint.contains(HEAD) {
            sizes.push((None, b.vocab * b.hidden));
        }
        let of = |(block, elements)| Trained { elements, block, head: false, half: false, eight };
        return sizes.into_iter().map(of).collect();
    }
    let trained = |name: &str| match job.tuning() {
        model::Tuning::Blocks { first, past } => block_of(name).is_some_and(|b| (first..past).contains(&b)),
        _ => !(name.ends_with(".e_score_correction_bias") || b.tied && name == HEAD),
    };
    let of = |t: &weights::TensorInfo| Trained {
        elements: elements(b, t),
        block: block_of(&t.name),
        head: t.name == HEAD,
        half: holds_halves(job) && t.shape.len() > 1,
        eight: eight && !t.name.contains("embed_tokens"),
    };
    job.checkpoint.infos().filter(|t| trained(&t.name)).map(of).collect()
}

const HEAD: &str = "lm_head.weight";

/// The block that a tensor or a module is in.
pub(crate) fn block_of(name: &str) -> Option<usize> {
    name.strip_prefix("model.layers.")?.split('.').next()?.parse().ok()
}

/// Elements of what is needed at a time: the embedding, each block, the head. (The last norm counts with the embedding.)
fn units(job: &Job, tensors: &[Trained]) -> Vec<usize> {
    let blocks = job.blueprint.layers.len();
    let mut units = vec![0; blocks + 2];
    for t in tensors {
        units[t.block.map_or(if t.head { blocks + 1 } else { 0 }, |block| 1 + block)] += t.elements;
    }
    units
}

/// Elements of a trained tensor, with rows of the vocabulary that the checkpoint does not have.
fn elements(b: &Blueprint, t: &weights::TensorInfo) -> usize {
    let grows = t.name == HEAD || t.name == "model.embed_tokens.weight";
    t.element_count() + if grows { b.grown * b.hidden } else { 0 }
}

/// Both moments.
fn optimizer_bytes(job: &Job, tensors: &[Trained]) -> u64 {
    let mut first = 0;
    let members = tensors.iter().map(|t| {
        first += t.elements;
        Member { eight: t.eight, ..Member::plain(first - t.elements..first, job.adapter.is_none()) }
    });
    Layout::new(members).bytes(4) as u64
}

/// Floats in flight per row while a block is computed or differentiated.
fn working_floats(b: &Blueprint) -> usize {
    let (q, kv) = (b.heads * b.head_width, b.kv_heads * b.head_width);
    4 * b.hidden + (2 * q + 2 * kv + b.heads).max(4 * feed_forward_rows(b))
}

/// Feed-forward width of a row: of a dense layer, or of the experts that a row goes through.
pub(crate) fn feed_forward_rows(b: &Blueprint) -> usize {
    b.experts.as_ref().map_or(b.feed_forward, |e| {
        let experts = e.route.chosen * e.width + e.shared.map_or(0, |s| s.width) + b.hidden;
        if b.layers.iter().all(|l| l.experts) { experts } else { experts.max(b.feed_forward) }
    })
}

/// The step of the first epoch that takes most, and its rows.
pub(crate) fn heaviest_step(job: &Job, execution: Execution) -> (usize, usize) {
    let epoch = job.order.epoch(0);
    let steps = (0..epoch.len().min(job.total_steps)).map(|s| {
        let load = load_of(job, epoch.step(s).rows());
        let rows = load.base + load.tail;
        (held_rows(job, load, execution).held, rows.min(execution.budget_rows.max(load.family)), load.family, rows, s)
    });
    // The first of several.
    let most = steps.max_by_key(|&(held, pack, family, rows, s)| (held, pack, family, rows, std::cmp::Reverse(s)));
    most.map_or((0, 0), |(_, _, _, rows, s)| (s, rows))
}

/// Most of everything in a step of the first epoch.
fn heaviest(job: &Job) -> Load {
    let (mut worst, mut rows) = (Load::NONE, 0);
    let epoch = job.order.epoch(0);
    for s in 0..epoch.len().min(job.total_steps) {
        let load = load_of(job, epoch.step(s).rows());
        if load.base + load.tail > rows {
            (worst.step, rows) = (s, load.base + load.tail);
        }
        worst = Load {
            base: worst.base.max(load.base),
            tail: worst.tail.max(load.tail),
            targets: worst.targets.max(load.targets),
            family: worst.family.max(load.family),
            ..worst
        };
    }
    worst
}

fn load_of(job: &Job, units: &[u32]) -> Load {
    let mut load = Load::NONE;
    match &job.config.objective {
        Objective::Sft(_) => {
            for text in units.iter().flat_map(|&u| job.train.texts(u)) {
                let rows = text.prompt.len() + text.tokens.len();
                load.base += rows;
                load.family = load.family.max(rows);
                load.targets += text.num_targets();
            }
        }
        Objective::Kto(kto) => {
            let data = &job.train.data;
            let z0 = crate::prepare::loss_of(kto).needs_z0();
            for &u in units {
                let i = u as usize;
                let tail = if z0 { data.mismatched_completion(i, job.train.partners[i] as usize).len() } else { 0 };
                load.base += data.tokens(i).len();
                load.tail += tail;
                load.targets += data.completion(i).len();
                load.family = load.family.max(data.tokens(i).len() + tail);
            }
        }
    }
    load
}

/// The learning-rate schedule of a run.
pub(crate) fn schedule_of(job: &Job) -> Schedule {
    let total = job.total_steps as u64;
    let warmup = match job.config.schedule.warmup {
        config::Warmup::Steps(n) => n as u64,
        config::Warmup::Ratio(r) => warmup_steps(r, total),
    };
    Schedule { shape: shape_of(job.config.schedule.kind, job.config.optimizer.learning_rate), warmup, total }
}

/// The learning rate of every step of a run.
pub fn learning_rates(job: &Job) -> Vec<f64> {
    let schedule = schedule_of(job);
    (0..schedule.total).map(|step| job.config.optimizer.learning_rate * schedule.factor(step)).collect()
}

/// The schedule's shape; rates become shares of the peak.
fn shape_of(kind: ScheduleKind, peak: f64) -> Shape {
    let ramp = |c: Curve| match c {
        Curve::Linear => Ramp::Linear,
        Curve::Cosine => Ramp::Cosine,
        Curve::OneMinusSqrt => Ramp::OneMinusSqrt,
    };
    match kind {
        ScheduleKind::Linear => Shape::Linear,
        ScheduleKind::Cosine { num_cycles } => Shape::Cosine { cycles: num_cycles },
        ScheduleKind::CosineWithMinLr { num_cycles, floor } => {
            let floor = match floor {
                Floor::Rate(rate) => rate / peak,
                Floor::Share(share) => share,
            };
            Shape::CosineWithMinLr { cycles: num_cycles, floor }
        }
        ScheduleKind::CosineWithRestarts { num_cycles } => Shape::CosineWithRestarts { cycles: num_cycles as f64 },
        ScheduleKind::Polynomial { lr_end, power } => Shape::Polynomial { end: lr_end / peak, power },
        ScheduleKind::Constant => Shape::Constant,
        ScheduleKind::ConstantWithWarmup => Shape::ConstantWithWarmup,
        ScheduleKind::InverseSqrt { timescale } => Shape::InverseSqrt { timescale: timescale.map(|t| t as f64) },
        ScheduleKind::WarmupStableDecay {
            num_decay_steps,
            num_stable_steps,
            warmup_curve,
            decay_curve,
            min_lr_ratio,
            num_cycles,
        } => Shape::WarmupStableDecay(StableDecay {
            decay_steps: num_decay_steps as f64,
            stable_steps: num_stable_steps.map(|s| s as f64),
            warmup: ramp(warmup_curve),
            decay: ramp(decay_curve),
            floor: min_lr_ratio,
            cycles: num_cycles,
        }),
    }
}
