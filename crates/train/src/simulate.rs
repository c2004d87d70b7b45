//! A step over any number of ranks without its arithmetic: who has which pack, every exchange that each rank makes, what each rank holds.
//!
//! Packs, their dealing, shards, units and the tree of sums are those of a run. Of an exchange only its length is looked at, as
//! [`dist::World`] counts it; tests hold the bytes against those of real runs.

use crate::evaluate::preference;
use crate::run::load::shards_of;
use crate::step::{Cut, NUMBERS, TextRow, dealt, sequences_of};
use crate::text::TextLoss;
use crate::{Error, Job, Plan};
use config::Z0Scope;
use dist::tree::{Node, Tree};
use dist::{Collective, Shards};
use kernels::Cpu;
use model::Unfilled;
use pack::{Last, Pack};
use std::ops::Range;

/// One rank of a simulated step.
#[derive(Clone, Debug, Default)]
pub struct Simulated {
    /// Packs that fall to it.
    pub packs: usize,
    /// Their rows.
    pub rows: usize,
    /// What it does with others, in order, and the bytes that it sends.
    pub calls: Vec<(Collective, u64)>,
    /// Bytes that it holds, by part.
    pub memory: Vec<(&'static str, u64)>,
}

impl Simulated {
    /// Bytes sent in all.
    pub fn sent(&self) -> u64 {
        self.calls.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Bytes held in all.
    pub fn held(&self) -> u64 {
        self.memory.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Multiplies a step's micro-batches by the number of ranks, as a run does that begins with so many.
pub fn over_ranks(config: &mut config::Config, ranks: usize) {
    if config.batch.step_rows.is_none() {
        config.batch.accumulation *= ranks;
    }
}

/// The plan that a run over so many ranks begins with.
pub fn plan_over(job: &Job, ranks: usize) -> Result<Plan, Error> {
    if is_elastic(job, ranks) { Plan::elastic(job) } else { Plan::new(job) }
}

fn is_elastic(job: &Job, ranks: usize) -> bool {
    job.config.engine.elastic.unwrap_or(job.config.engine.deterministic && ranks > 1)
}

/// Step `step` of a job over `ranks` ranks with ZeRO's stage `zero`; all ranks, in order.
///
/// Errors: the model's tensors are not what its configuration says; a loss whose packs are cut in windows of its own.
pub fn simulate(job: &Job, plan: &Plan, ranks: usize, zero: u8, step: usize) -> Result<Vec<Simulated>, Error> {
    let backend = Cpu::<f32>::new(1);
    let storage = crate::storage::storage_of(job);
    let blueprint = job.blueprint.clone();
    let table = Unfilled::new(&storage, &backend, &job.checkpoint, blueprint, job.tuning(), job.positions)?.table;
    let group = job.config.engine.shard_ranks.unwrap_or(ranks);
    let scene = Scene {
        job,
        plan,
        ranks,
        zero,
        elastic: is_elastic(job, ranks),
        shards: shards_of(job, &table, group),
        units: table.units().collect(),
        len: table.len(),
        groups: groups(job, plan, step)?,
    };
    let all: Vec<Simulated> = (0..ranks).map(|rank| Talk::new(&scene, rank).step()).collect();
    let order = |rank: &Simulated| rank.calls.iter().map(|(what, _)| *what).collect::<Vec<_>>();
    let first = order(&all[0]);
    match all.iter().position(|rank| order(rank) != first) {
        None => Ok(all),
        Some(other) => Err(Error::Mismatch {
            what: format!(
                "ranks 0 and {other} of {ranks} would not make the same exchanges at stage {zero}; please report this"
            ),
        }),
    }
}

/// What all ranks know.
struct Scene<'a> {
    job: &'a Job,
    plan: &'a Plan,
    ranks: usize,
    zero: u8,
    elastic: bool,
    shards: Shards,
    units: Vec<Range<usize>>,
    len: usize,
    groups: Vec<Vec<Pack>>,
}

/// The packs of a step, in groups that are dealt apart.
fn groups(job: &Job, plan: &Plan, step: usize) -> Result<Vec<Vec<Pack>>, Error> {
    let last = if job.balance.is_some_and(|c| c > 0.0) { Last::Kept } else { Last::Left };
    let e = plan.execution;
    let cut = Cut { budget_rows: e.budget_rows, share_prompts: e.share_prompts, last };
    let (epoch, within) = job.order.locate(step);
    let epoch = job.order.epoch(epoch);
    let step = epoch.step(within);
    let data = &job.train.data;
    let Some(preference) = preference(job, &job.train) else {
        if !TextLoss::of(job, 0).is_plain() {
            let what = "--ranks: expected the plain loss of SFT or KTO, found another loss or noise of SFT";
            return Err(Error::Mismatch { what: what.to_owned() });
        }
        let units: Vec<Vec<TextRow>> = step.rows().iter().map(|&u| job.train.texts(u)).collect();
        let sizes =
            if job.config.compat_trl && job.balance.is_some() { job.config.batch.train_rows } else { units.len() };
        return Ok(units.chunks(sizes.max(1)).map(|window| cut.text(&window.concat())).collect());
    };
    Ok(match job.kto().map(|kto| kto.z0_scope) {
        Some(Z0Scope::MicroBatch) => step.micro_batches().map(|rows| cut.preference(data, rows, &preference)).collect(),
        _ => vec![cut.preference(data, step.rows(), &preference)],
    })
}

/// What one rank says in a step.
struct Talk<'a> {
    scene: &'a Scene<'a>,
    rank: usize,
    /// Its elements of each unit.
    own: Vec<usize>,
    found: Simulated,
    /// Sums of gradients that wait for one another, at most.
    waiting: usize,
}

impl<'a> Talk<'a> {
    fn new(scene: &'a Scene<'a>, rank: usize) -> Talk<'a> {
        let member = rank % scene.shards.ranks();
        let own = scene.units.iter().map(|unit| scene.shards.count(member, unit.clone())).collect();
        Talk { scene, rank, own, found: Simulated::default(), waiting: 0 }
    }

    fn step(mut self) -> Simulated {
        let scene = self.scene;
        // Whether anyone stops.
        self.numbers(1);
        let mut trees: Vec<Tree> = vec![Tree::default(); scene.ranks];
        let mut before = 0;
        for packs in &scene.groups {
            let dealt = dealt(&scene.job.blueprint, packs, scene.ranks, scene.zero >= 2);
            self.group(packs, &dealt);
            self.leaves(&mut trees, &dealt, before);
            before += packs.len() as u64;
        }
        self.update(&trees);
        // Whether anyone is to save.
        self.numbers(1);
        self.found.memory = self.memory();
        self.found
    }

    fn call(&mut self, what: Collective, floats: usize) {
        self.found.calls.push((what, 4 * floats as u64));
    }

    /// Numbers of this rank's, to all others: how many, then they.
    fn numbers(&mut self, count: usize) {
        let others = self.scene.ranks - 1;
        self.call(Collective::AllGather, 2 * others);
        self.call(Collective::AllGather, 2 * count * others);
    }

    /// The values of a unit from those of the group.
    fn gather(&mut self, unit: usize) {
        self.call(Collective::AllGather, self.own[unit] * (self.scene.shards.ranks() - 1));
    }

    /// Parts of `len` elements, of which `own` are this rank's, to those who answer for them, in every group of ranks.
    fn scatter(&mut self, len: usize, own: usize, has: bool) {
        let groups = self.scene.ranks / self.scene.shards.ranks();
        self.call(Collective::ReduceScatter, if has { groups * len - own } else { 0 });
    }

    /// Units as a forward pass needs them, where their values lie with others.
    fn forward(&mut self) {
        if self.scene.zero == 3 {
            // The head is the embedding where it has no unit of its own.
            let units = 0..self.scene.units.len();
            let tied = self.scene.units.last().is_some_and(Range::is_empty).then_some(0);
            units.chain(tied).filter(|u| !self.scene.units[*u].is_empty()).for_each(|unit| self.gather(unit));
        }
    }

    /// Units as backward is done with them.
    fn backward(&mut self, has: bool, head: bool) {
        let (scene, last) = (self.scene, self.scene.units.len() - 1);
        if scene.zero < 2 {
            return;
        }
        let head_unit = if scene.units[last].is_empty() { 0 } else { last };
        let there = |unit: usize| !scene.units[unit].is_empty();
        if head && scene.zero == 3 && there(head_unit) {
            self.gather(head_unit);
        }
        for unit in (0..=last).rev().filter(|unit| there(*unit)) {
            if scene.zero == 3 && (1..last).contains(&unit) {
                self.gather(unit);
            }
            self.scatter(scene.units[unit].len(), self.own[unit], has);
        }
    }

    /// A group forward, its sums shared, and backward.
    fn group(&mut self, packs: &[Pack], dealt: &[Vec<usize>]) {
        let scene = self.scene;
        let own = &dealt[self.rank];
        self.found.packs += own.len();
        self.found.rows += own.iter().map(|&i| packs[i].num_rows()).sum::<usize>();
        let turns = dealt.iter().map(Vec::len).max().unwrap_or(0);
        let scored: usize = own.iter().map(|&i| NUMBERS * sequences_of(&packs[i]).len() + 1).sum();
        let experts = scene.job.blueprint.experts.as_ref().filter(|_| scene.job.balance.is_some());
        let loads = own.len() * experts.map_or(1, |e| 2 * e.route.experts + 1);
        let preferring = scene.job.kto();
        let in_step = scene.job.adapter.is_some() && preferring.is_some_and(|kto| !kto.precompute_ref_log_probs);
        if in_step {
            (0..turns).for_each(|_| self.forward());
            self.numbers(1 + scored + own.len());
        }
        if preferring.is_none() && scene.job.balance.is_none() {
            for turn in 0..turns {
                self.forward();
                self.backward(turn < own.len(), false);
            }
            return self.numbers(1 + scored);
        }
        (0..turns).for_each(|_| self.forward());
        self.numbers(1 + scored + loads);
        for turn in 0..turns {
            if preferring.is_some() && scene.plan.execution.z0_first {
                self.forward();
            }
            self.backward(turn < own.len(), true);
        }
    }

    /// What the packs of a group leave to be added up.
    fn leaves(&mut self, trees: &mut [Tree], dealt: &[Vec<usize>], before: u64) {
        if self.scene.zero >= 2 {
            // Everyone's, turn by turn, of what this rank answers for.
            let tree = &mut trees[self.rank];
            for turn in 0..dealt.iter().map(Vec::len).max().unwrap_or(0) {
                let mut found: Vec<usize> = dealt.iter().filter_map(|own| own.get(turn).copied()).collect();
                found.sort_unstable();
                for pack in found {
                    tree.push(Node { level: 0, index: before + pack as u64 }, Vec::new());
                    self.waiting = self.waiting.max(tree.nodes().len());
                }
            }
            return;
        }
        for (rank, own) in dealt.iter().enumerate() {
            for &pack in own {
                trees[rank].push(Node { level: 0, index: before + pack as u64 }, Vec::new());
                if rank == self.rank {
                    self.waiting = self.waiting.max(trees[rank].nodes().len());
                }
            }
        }
    }

    /// From the gradient to new values.
    fn update(&mut self, trees: &[Tree]) {
        let scene = self.scene;
        let member = self.rank % scene.shards.ranks();
        if scene.zero < 2 {
            let nodes = |tree: &Tree| if scene.elastic { tree.nodes().len() } else { 1 };
            let (own, rounds) = (nodes(&trees[self.rank]), trees.iter().map(nodes).max().unwrap_or(0));
            self.numbers(2 * own);
            let mine = self.own.iter().sum();
            (0..rounds).for_each(|round| self.scatter(scene.len, mine, round < own));
        }
        self.numbers(scene.shards.parts(member, 0..scene.len).count());
        if scene.zero < 3 {
            (0..scene.units.len()).for_each(|unit| self.gather(unit));
        }
    }

    /// What this rank holds: of what one process would, its part.
    fn memory(&self) -> Vec<(&'static str, u64)> {
        let scene = self.scene;
        let all: usize = scene.groups.iter().flatten().map(Pack::num_rows).sum();
        let (own, len) = (self.own.iter().sum::<usize>() as u64, scene.len as u64);
        let largest = scene.units.iter().map(ExactSizeIterator::len).max().unwrap_or(0) as u64;
        let part =
            |bytes: u64, of: u64, whole: u64| (u128::from(bytes) * u128::from(of) / u128::from(whole.max(1))) as u64;
        let rows = |bytes: u64| match scene.plan.execution.z0_first {
            true => bytes,
            false => part(bytes, self.found.rows as u64, all as u64),
        };
        let parts = scene.plan.memory.iter().map(|(name, bytes)| {
            let held = match *name {
                "trained weights" if scene.zero == 3 => part(*bytes, own, len) + 4 * largest,
                "gradients" => match scene.zero {
                    0 | 1 => 4 * len * (1 + self.waiting as u64),
                    _ => 4 * largest + 4 * own * self.waiting as u64,
                },
                "optimiser state" if scene.zero > 0 => part(*bytes, own, len),
                "saved activations" | "head" => rows(*bytes),
                _ => *bytes,
            };
            (*name, held)
        });
        // What is sent and what comes in, of the whole arena or of a unit.
        let exchanged = 8 * if scene.zero < 2 { len } else { largest };
        parts.chain([("exchange", if scene.ranks > 1 { exchanged } else { 0 })]).collect()
    }
}
