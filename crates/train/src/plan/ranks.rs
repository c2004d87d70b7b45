//! What a rank of several holds, and what it takes to hear from the others.

use super::{Load, Plan, is_on_gpu};
use crate::Job;

/// Blocks of memory below this many bytes glibc does not give back one by one: where they come and go in several threads, a fifth of them was
/// found to be gaps.
const KEPT: u64 = 32 << 20;

/// What MPI takes in a rank's process (Open MPI, of 2 and of 4 ranks on a machine).
const MPI: u64 = 8 << 20;

/// Over how many ranks a run is spread, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Team {
    ranks: usize,
    /// ZeRO's stage.
    zero: u8,
    /// Ranks that have a shard each.
    group: usize,
    /// Gradients are leaves of a tree over packs.
    tree: bool,
}

impl Team {
    /// One process.
    pub(crate) const ALONE: Team = Team { ranks: 1, zero: 0, group: 1, tree: false };

    /// `ranks` ranks of a job.
    pub fn of(job: &Job, ranks: usize) -> Team {
        Team::elastic(job, ranks, job.config.engine.is_elastic(ranks))
    }

    /// The same at another stage.
    pub(crate) fn at(job: &Job, ranks: usize, zero: u8) -> Team {
        let Team { tree, group, .. } = Team::of(job, ranks);
        Team { ranks, zero, group, tree: tree || zero >= 2 }
    }

    /// The same, when it is known whether gradients are summed in a tree.
    pub(crate) fn elastic(job: &Job, ranks: usize, tree: bool) -> Team {
        let engine = &job.config.engine;
        let zero = if ranks == 1 { 0 } else { engine.zero_stage };
        Team { ranks, zero, group: engine.shard_ranks.unwrap_or(ranks).min(ranks), tree: tree || zero >= 2 }
    }

    /// Whether packs do not depend on how many ranks there are.
    pub(super) fn is_elastic(self) -> bool {
        self.tree
    }

    /// The rows of a step that fall to a rank.
    pub(super) fn share(self, load: Load, budget_rows: usize) -> Load {
        let (packs, own) = (packs(load, budget_rows), packs(load, budget_rows).div_ceil(self.ranks));
        let part = |rows: usize| (rows * own).div_ceil(packs);
        Load { base: part(load.base), tail: part(load.tail), targets: part(load.targets), ..load }
    }

    /// Bytes of frozen weights, of which `whole` are there; at stage 3 those of `lent`, unit by unit, come when they are needed, and what is
    /// kept of them is on the host.
    pub(super) fn frozen(self, whole: u64, lent: &[u64], on_gpu: bool) -> u64 {
        if self.zero < 3 {
            return whole;
        }
        let all: u64 = lent.iter().sum();
        // A unit, and the next one, which is fetched meanwhile.
        let window = lent.windows(2).map(|units| units[0] + units[1]).max().unwrap_or(all);
        let gaps = if window < 2 * KEPT { window } else { 0 };
        let here = if on_gpu { 0 } else { all.div_ceil(self.group as u64) + gaps };
        whole.saturating_sub(all) + window.min(all) + here
    }

    /// Bytes of parts of the state.
    pub(super) fn held(self, whole: &Whole, packs: usize) -> Held {
        let Whole { units, values, moments } = whole;
        let elements: usize = units.iter().sum();
        let (arena, shard) = (4 * elements as u64, |bytes: u64| bytes.div_ceil(self.group as u64));
        let largest = 4 * units.iter().copied().max().unwrap_or(0) as u64;
        // A unit comes in on the host and is copied to where it is computed with.
        let window = if self.zero == 3 { largest } else { 0 };
        let heard = if self.ranks > 1 && self.zero > 0 { largest + shard(largest) } else { 0 };
        let (most, left) = nodes(packs.div_ceil(self.ranks));
        let (gradients, exchange) = match (self.zero, self.tree) {
            // Beside the sums that wait, the one that comes of them, and what the optimiser reads of it; and units on their way.
            (2.., _) => (4 * room(units) as u64, (waiting(packs, self.ranks) + 2) * shard(arena) + 5 * largest),
            // Units on their way are there as what is sent, as what comes, and once more as it is cut.
            (_, true) if self.ranks > 1 => {
                let (sums, on_the_way) = (left.max(most - 1) as u64 * arena, 6 * left as u64 * largest);
                let gaps = if largest < KEPT { sums / 5 } else { 0 };
                (arena, (sums + gaps + on_the_way).max(2 * shard(arena)))
            }
            // Of the last sum no more than a unit is there beside the one that it is added to.
            (_, true) => (arena, arena * (most as u64 - 1) + 2 * largest),
            (_, false) if self.ranks > 1 => (arena, 2 * shard(arena) + 4 * largest),
            (_, false) => (arena, 0),
        };
        Held {
            values: if self.zero == 3 { shard(*values) + window } else { *values },
            gradients,
            moments: if self.zero == 0 { *moments } else { shard(*moments) },
            // At stage 3 units come in, and the next is fetched and copied, while gradients go out.
            exchange: if self.zero == 3 { exchange + heard + 3 * largest } else { exchange.max(heard) }
                + if self.ranks > 1 { MPI } else { 0 },
        }
    }
}

impl Plan {
    /// Where frozen weights are, of a run that has something else than the whole of them on every rank.
    pub(crate) fn frozen_words(&self, job: &Job) -> Option<String> {
        let (Team { zero, group, .. }, lent) = (self.team, crate::storage::lent_bytes(job).iter().sum::<u64>());
        if zero < 3 || matches!(job.tuning(), model::Tuning::Full) {
            return None;
        }
        Some(if is_on_gpu(job) {
            format!("copied to the GPU block by block; of what is not mapped, {group} ranks have a shard each")
        } else if lent > 0 {
            let mb = lent as f64 / f64::from(1 << 20);
            format!("{mb:.1} MB in shards over {group} ranks, gathered block by block; the others are mapped")
        } else {
            "mapped, which the ranks of a machine share".to_owned()
        })
    }
}

/// What there is of a state altogether: elements of each unit; bytes of values and of moments.
pub(super) struct Whole {
    pub(super) units: Vec<usize>,
    pub(super) values: u64,
    pub(super) moments: u64,
}

/// Bytes of a rank.
pub(super) struct Held {
    pub(super) values: u64,
    pub(super) gradients: u64,
    pub(super) moments: u64,
    /// On the host, for sums and what others say.
    pub(super) exchange: u64,
}

/// Packs of a step.
pub(super) fn packs(load: Load, budget_rows: usize) -> usize {
    (load.base + load.tail).div_ceil(budget_rows.max(1)).max(1)
}

/// Most nodes of a tree at one time while leaves `0..packs` come in, and at the end.
fn nodes(packs: usize) -> (usize, usize) {
    let most = (0..packs).map(|leaf| leaf.count_ones() + 1).max().unwrap_or(0);
    (most as usize, packs.count_ones() as usize)
}

/// Most sums that wait between turns in which every rank brings a leaf.
fn waiting(packs: usize, ranks: usize) -> u64 {
    let turns = 1..=packs.div_ceil(ranks);
    turns.map(|turn| u64::from((turn * ranks).min(packs).count_ones())).max().unwrap_or(0)
}

/// Elements that gradients need room for where they go unit by unit.
fn room(units: &[usize]) -> usize {
    let tied = units.last() == Some(&0);
    let others = units.iter().skip(1).copied().max().unwrap_or(0);
    if tied { units[0] + others } else { units[0].max(others) }
}
