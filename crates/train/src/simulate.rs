//! A step over any number of ranks without its arithmetic: who has which pack, every exchange that each rank makes.
//!
//! Packs, their dealing, shards, units and the tree of sums are those of a run. Of an exchange only its length is looked at, as
//! [`dist::World`] counts it; tests hold the bytes against those of real runs.

use crate::evaluate::preference;
use crate::run::load::shards_of;
use crate::spread::values_of;
use crate::step::{Cut, Execution, NUMBERS, TextRow, dealt, sequences_of};
use crate::text::TextLoss;
use crate::{Error, Job, Plan, Team};
use config::Z0Scope;
use dist::tree::{Node, Tree};
use dist::{Collective, Shards};
use kernels::Cpu;
use model::{Lending, Lent};
use nn::{Home, Places, Table};
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
}

impl Simulated {
    /// Bytes sent in all.
    pub fn sent(&self) -> u64 {
        self.calls.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Multiplies a step's micro-batches by the number of ranks, as a run does that begins with so many.
pub fn over_ranks(config: &mut config::Config, ranks: usize) {
    if config.batch.step_rows.is_none() {
        config.batch.accumulation *= ranks;
    }
}

/// Step `step` of a job over `ranks` ranks with ZeRO's stage `zero`: the plan of each, and all of them in order.
///
/// Errors: nothing fits; the model's tensors are not what its configuration says; a loss whose packs are cut in windows of its own.
pub fn simulate(job: &Job, ranks: usize, zero: u8, step: usize) -> Result<(Plan, Vec<Simulated>), Error> {
    let plan = Plan::over(job, Team::at(job, ranks, zero))?;
    let backend = Cpu::<f32>::new(1);
    let engine = &job.config.engine;
    let group = engine.shard_ranks.unwrap_or(ranks);
    let lending = (zero == 3).then_some(Lending { members: group, member: 0, mapped: false });
    let unfilled = crate::storage::unfilled(job, &backend, lending)?;
    let (tied, lent) = (!unfilled.has_head(), unfilled.lent.iter().map(Lent::byte_len).collect());
    let table = unfilled.table;
    let scene = Scene {
        job,
        execution: plan.execution,
        ranks,
        zero,
        elastic: engine.is_elastic(ranks),
        shards: shards_of(job, &table, group),
        units: table.units().collect(),
        lent,
        tied,
        groups: groups(job, plan.execution, step)?,
        table,
    };
    let all: Vec<Simulated> = (0..ranks).map(|rank| Talk::new(&scene, rank).step()).collect();
    let order = |rank: &Simulated| rank.calls.iter().map(|(what, _)| *what).collect::<Vec<_>>();
    let first = order(&all[0]);
    match all.iter().position(|rank| order(rank) != first) {
        None => Ok((plan, all)),
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
    execution: Execution,
    ranks: usize,
    zero: u8,
    elastic: bool,
    shards: Shards,
    table: Table,
    units: Vec<Range<usize>>,
    /// Bytes of frozen matrices that come with each unit.
    lent: Vec<usize>,
    /// Whether the head is the embedding.
    tied: bool,
    groups: Vec<Vec<Pack>>,
}

/// The packs of a step, in groups that are dealt apart.
pub(crate) fn groups(job: &Job, e: Execution, step: usize) -> Result<Vec<Vec<Pack>>, Error> {
    let last = if job.balance.is_some_and(|c| c > 0.0) { Last::Kept } else { Last::Left };
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
    /// Its values of each unit.
    values: Vec<Places>,
    /// What its packs leave to be added up, of each unit.
    sums: usize,
    found: Simulated,
}

impl<'a> Talk<'a> {
    fn new(scene: &'a Scene<'a>, rank: usize) -> Talk<'a> {
        let member = rank % scene.shards.ranks();
        let own = scene.units.iter().map(|unit| scene.shards.count(member, unit.clone())).collect();
        let values = |unit: &Range<usize>| values_of(&scene.table, scene.shards.parts(member, unit.clone()));
        let values = scene.units.iter().map(values).collect();
        Talk { scene, rank, own, values, sums: 0, found: Simulated::default() }
    }

    fn step(mut self) -> Simulated {
        let scene = self.scene;
        // Whether anyone stops.
        self.numbers(1);
        let mut tree = Tree::default();
        let mut before = 0;
        for (i, packs) in scene.groups.iter().enumerate() {
            let dealt = dealt(&scene.job.blueprint, packs, scene.ranks, scene.zero >= 2);
            let leaves = dealt[self.rank].iter().map(|&i| Node { level: 0, index: before + i as u64 });
            leaves.for_each(|node| tree.push(node, Vec::new()));
            self.sums = if scene.elastic { tree.nodes().len() } else { 1 };
            self.group(packs, &dealt, i + 1 == scene.groups.len());
            before += packs.len() as u64;
        }
        self.update();
        // Whether anyone is to save.
        self.numbers(1);
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

    /// The values of a unit from those of the group, each kind in its own width.
    fn gather(&mut self, unit: usize) {
        let (own, others, units) = (self.values[unit], self.scene.shards.ranks() - 1, self.scene.units[unit].clone());
        let kinds = self.scene.table.homes(units).map(|(home, _)| matches!(home, Home::Half(_)));
        let (halves, reals): (Vec<bool>, Vec<bool>) = kinds.partition(|half| *half);
        if !reals.is_empty() {
            self.call(Collective::AllGather, own.reals * others);
        }
        if !halves.is_empty() {
            self.found.calls.push((Collective::AllGather, (2 * own.halves * others) as u64));
        }
        let frozen = self.scene.lent[unit];
        if frozen > 0 {
            let own = Lending::part(others + 1, self.rank % (others + 1), frozen).len();
            self.found.calls.push((Collective::AllGather, (own * others) as u64));
        }
    }

    /// `sums` sums of a unit to those who answer for it, in every group of ranks.
    fn scatter(&mut self, unit: usize, sums: usize) {
        let groups = self.scene.ranks / self.scene.shards.ranks();
        self.call(Collective::ReduceScatter, sums * (groups * self.scene.units[unit].len() - self.own[unit]));
    }

    /// Units as a forward pass needs them, where their values lie with others.
    fn forward(&mut self) {
        if self.scene.zero == 3 {
            let units = 0..self.scene.units.len();
            units.chain(self.scene.tied.then_some(0)).for_each(|unit| self.gather(unit));
        }
    }

    /// Units as backward is done with them, in the last turn of all or another.
    fn backward(&mut self, has: bool, head: bool, last_turn: bool) {
        let (scene, last) = (self.scene, self.scene.units.len() - 1);
        let sums = match (scene.zero, last_turn) {
            (2.., _) => usize::from(has),
            (_, true) => self.sums,
            (_, false) => return,
        };
        let head_unit = if scene.tied { 0 } else { last };
        let trained = |unit: usize| !scene.units[unit].is_empty();
        if head && scene.zero == 3 && trained(head_unit) {
            self.gather(head_unit);
        }
        // Backward ends at the lowest block with something trained in it, or at the embedding.
        let lowest = if trained(0) { 1 } else { (1..last).find(|unit| trained(*unit)).unwrap_or(last) };
        let there = |unit: usize| (lowest..last).contains(&unit) && (trained(unit) || scene.lent[unit] > 0);
        let mut ahead = None;
        for unit in (0..=last).rev() {
            if scene.zero == 3 && there(unit) {
                if ahead != Some(unit) {
                    self.gather(unit);
                }
                // The one below is fetched while this one is computed.
                ahead = Some(unit - 1).filter(|below| there(*below));
                ahead.into_iter().for_each(|below| self.gather(below));
            }
            if trained(unit) {
                self.scatter(unit, sums);
            }
        }
    }

    /// A group forward, its sums shared, and backward; `last` says that it is the last one.
    fn group(&mut self, packs: &[Pack], dealt: &[Vec<usize>], last: bool) {
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
                self.backward(turn < own.len(), false, last && turn + 1 == turns);
            }
            return self.numbers(1 + scored);
        }
        (0..turns).for_each(|_| self.forward());
        self.numbers(1 + scored + loads);
        for turn in 0..turns {
            if preferring.is_some() && scene.execution.z0_first {
                self.forward();
            }
            self.backward(turn < own.len(), true, last && turn + 1 == turns);
        }
    }

    /// From the gradient to new values.
    fn update(&mut self) {
        let scene = self.scene;
        let member = self.rank % scene.shards.ranks();
        self.numbers(scene.shards.parts(member, 0..scene.table.len()).count());
        if scene.zero < 3 {
            let others = scene.shards.ranks() - 1;
            (0..scene.units.len()).for_each(|unit| self.call(Collective::AllGather, self.own[unit] * others));
        }
    }
}
