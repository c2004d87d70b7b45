//! What a rank of several holds, and what it takes to hear from the others.

mod exchange;

pub(super) use exchange::Dealing;

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
    pub(super) fn held(self, whole: &Whole, dealing: &Dealing) -> Held {
        let Whole { units, values, moments } = whole;
        let elements: usize = units.iter().sum();
        let (arena, shard) = (4 * elements as u64, |bytes: u64| bytes.div_ceil(self.group as u64));
        let bytes: Vec<u64> = units.iter().map(|unit| 4 * *unit as u64).collect();
        let largest = bytes.iter().copied().max().unwrap_or(0);
        // A unit's values, where it is computed with.
        let window = if self.zero == 3 { largest } else { 0 };
        let exchange = self.exchange(&bytes, dealing);
        let gaps = if largest < KEPT { exchange / 5 } else { 0 };
        Held {
            values: if self.zero == 3 { shard(*values) + window } else { *values },
            // The optimiser reads a shard where gradients were.
            gradients: if self.zero >= 2 { (4 * room(units) as u64).max(shard(arena)) } else { arena },
            moments: if self.zero == 0 { *moments } else { shard(*moments) },
            exchange: exchange + gaps + if self.ranks > 1 { MPI } else { 0 },
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

/// Elements that gradients need room for where they go unit by unit.
fn room(units: &[usize]) -> usize {
    let tied = units.last() == Some(&0);
    let others = units.iter().skip(1).copied().max().unwrap_or(0);
    if tied { units[0] + others } else { units[0].max(others) }
}
