//! What a rank takes on the host for what it hears and says of gradients and values, at the worst moment of a step.
//!
//! The moments are those of `gradient`, `spread` and `run::update`: a change of what is copied there changes this file too.

use super::{Load, Team, packs};
use crate::Job;
use crate::simulate::groups;
use crate::spread::ON_THE_WAY;
use crate::step::{Execution, dealt};
use dist::deal::deal;
use dist::tree::{Node, Tree};
use std::collections::VecDeque;

/// Which packs of the heaviest step are whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Dealing {
    /// Leaves of the tree, by rank.
    own: Vec<Vec<u64>>,
    /// Rows of the rank that has most, and of all.
    rows: (usize, usize),
}

impl Dealing {
    /// Of packs that are cut as a run cuts them; where that is not known here, of as many as its rows fill.
    pub(in crate::plan) fn of(job: &Job, load: Load, execution: Execution) -> Dealing {
        let Team { ranks, zero, tree, .. } = load.team;
        if ranks == 1 && !tree {
            return Dealing { own: vec![vec![0]], rows: (1, 1) };
        }
        let Ok(groups) = groups(job, execution, load.step) else {
            return Dealing::even(packs(load, execution.budget_rows), ranks, zero >= 2);
        };
        let (mut own, mut rows, mut before) = (vec![Vec::new(); ranks], vec![0; ranks], 0);
        for packs in groups {
            for (rank, dealt) in dealt(&job.blueprint, &packs, ranks, zero >= 2).into_iter().enumerate() {
                rows[rank] += dealt.iter().map(|&pack| packs[pack].num_rows()).sum::<usize>();
                own[rank].extend(dealt.into_iter().map(|pack| before + pack as u64));
            }
            before += packs.len() as u64;
        }
        Dealing { own, rows: (rows.iter().copied().max().unwrap_or(0), rows.iter().sum()) }
    }

    /// Packs that cost the same.
    fn even(packs: usize, ranks: usize, by_turn: bool) -> Dealing {
        let own: Vec<Vec<u64>> = match by_turn {
            true => (0..ranks).map(|rank| (rank as u64..packs as u64).step_by(ranks).collect()).collect(),
            false => {
                let dealt = deal(&vec![1; packs], ranks).into_iter();
                dealt.map(|own| own.map(|pack| pack as u64).collect()).collect()
            }
        };
        Dealing { own, rows: (packs.div_ceil(ranks), packs) }
    }

    /// What falls to the rank that has most, of what all rows of a step have together.
    pub(in crate::plan) fn most(&self, all: usize) -> usize {
        (all * self.rows.0).div_ceil(self.rows.1.max(1))
    }

    fn turns(&self) -> usize {
        self.own.iter().map(Vec::len).max().unwrap_or(0)
    }

    /// Sums of all ranks that cannot be added up further after so many turns.
    fn summed(&self, turns: usize) -> u64 {
        let mut leaves: Vec<u64> = self.own.iter().flat_map(|own| own.iter().take(turns).copied()).collect();
        leaves.sort_unstable();
        nodes(&leaves)
    }
}

/// How many sums there are of some leaves.
fn nodes(leaves: &[u64]) -> u64 {
    growing(leaves).last().copied().unwrap_or(0)
}

/// How many sums there are of the first leaf, of the first two, and so on.
fn growing(leaves: &[u64]) -> Vec<u64> {
    let mut tree = Tree::default();
    let push = |leaf: &u64| {
        tree.push(Node { level: 0, index: *leaf }, Vec::new());
        tree.nodes().len() as u64
    };
    leaves.iter().map(push).collect()
}

/// A turn in which units leave. Nodes are sums that cannot be added up further.
#[derive(Clone, Copy)]
struct Turn {
    /// Nodes that wait here of every unit that has not left.
    waiting: u64,
    /// Those that a rank gives of a unit that leaves.
    given: u64,
    /// Those that it hears from the others.
    heard: u64,
    /// Those of its shard before the turn, and after.
    sums: [u64; 2],
}

/// A unit that is on its way: bytes of what is given, of what is heard, and by how many the sums grow.
struct Way {
    given: u64,
    heard: u64,
    sums: i64,
}

impl Team {
    /// Bytes at the worst moment of a step, on the rank that takes most; `units` in bytes.
    pub(super) fn exchange(self, units: &[u64], dealing: &Dealing) -> u64 {
        if self.ranks == 1 && !self.tree {
            return 0;
        }
        let (all, largest) = (units.iter().sum::<u64>(), units.iter().copied().max().unwrap_or(0));
        // Sums of units become one row, one after the other and the embedding's first.
        let reduced = self.summed(dealing, dealing.turns()) * self.part(all) + self.part(units[0]);
        let updated = match self.zero {
            _ if self.ranks == 1 => 0,
            0 => self.part(all) + largest - self.part(largest),
            1 | 2 => largest,
            _ => 0,
        };
        let turns = dealing.turns();
        let of = |rank: usize| {
            let added =
                if self.tree && self.zero < 2 { self.added(all, largest, &dealing.own[rank], turns) } else { 0 };
            added.max(self.leaving(units, &self.turns(dealing, rank)))
        };
        (0..self.ranks).map(of).max().unwrap_or(0).max(reduced).max(updated)
    }

    /// A member's part.
    fn part(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.group as u64)
    }

    /// Sums of all ranks after so many turns.
    fn summed(self, dealing: &Dealing, turns: usize) -> u64 {
        if self.tree { dealing.summed(turns) } else { u64::from(self.ranks.count_ones()) }
    }

    /// While a rank adds up its packs: what waits, and a leaf's part of a unit on its way to what it is added to.
    fn added(self, all: u64, largest: u64, leaves: &[u64], turns: usize) -> u64 {
        // In the last turn of several ranks leaves go on at once.
        let stay = if self.ranks > 1 { leaves.len().min(turns.saturating_sub(1)) } else { leaves.len() };
        let after = growing(&leaves[..stay]);
        let leaf = |(before, now): (u64, &u64)| match *now {
            now if now > before => now * all,
            _ => before * all + self.part(largest),
        };
        [0].into_iter().chain(after.iter().copied()).zip(&after).map(leaf).max().unwrap_or(0)
    }

    /// The turns in which units leave.
    fn turns(self, dealing: &Dealing, rank: usize) -> Vec<Turn> {
        if self.ranks == 1 {
            return Vec::new();
        }
        let turns = dealing.turns();
        let (own, others) = (&dealing.own[rank], || (0..self.ranks).filter(move |other| *other != rank));
        if self.zero >= 2 {
            let turn = |turn: usize| Turn {
                waiting: 0,
                given: u64::from(turn < own.len()),
                heard: others().filter(|other| turn < dealing.own[*other].len()).count() as u64,
                sums: [turn, turn + 1].map(|turns| dealing.summed(turns)),
            };
            return (0..turns).map(turn).collect();
        }
        let sums = [0, self.summed(dealing, turns)];
        vec![match self.tree {
            true => {
                let waiting = nodes(&own[..own.len().min(turns.saturating_sub(1))]);
                let heard = others().map(|other| nodes(&dealing.own[other])).sum();
                Turn { waiting, given: nodes(own), heard, sums }
            }
            false => Turn { waiting: 0, given: 1, heard: self.ranks as u64 - 1, sums },
        }]
    }

    /// While units leave: head, blocks from the last, embedding.
    fn leaving(self, units: &[u64], turns: &[Turn]) -> u64 {
        let (mut most, mut sums, mut ways) = (0, 0i64, VecDeque::<Way>::new());
        let all: u64 = units.iter().sum();
        let head = units[0].max(units[units.len() - 1]);
        for turn in turns {
            if self.zero == 3 {
                // The head is asked for behind what is on its way, and comes when that is through.
                most = most.max(sums.unsigned_abs() + here(&ways) + self.part(head));
                sums += ways.drain(..).map(|way| way.sums).sum::<i64>();
                most = most.max(sums.unsigned_abs() + head);
            }
            let mut waiting = turn.waiting * all;
            for (i, &unit) in units.iter().enumerate().rev().filter(|(_, unit)| **unit > 0) {
                while ways.len() >= ON_THE_WAY {
                    sums += ways.pop_front().map_or(0, |way| way.sums);
                }
                let leaf = if turn.waiting > 0 { self.part(unit) } else { 0 };
                most = most.max(waiting + leaf + sums.unsigned_abs() + here(&ways));
                waiting -= turn.waiting * unit;
                let [before, after] = turn.sums.map(|nodes| (nodes * self.part(unit)) as i64);
                ways.push_back(Way {
                    given: turn.given * unit,
                    heard: turn.heard * self.part(unit),
                    sums: after - before,
                });
                // The block below is fetched meanwhile.
                let fetched = if self.zero == 3 && i > 1 { units[i - 1] } else { 0 };
                most = most.max(waiting + fetched + sums.unsigned_abs() + here(&ways));
            }
        }
        most
    }
}

/// What is on its way: one after the other is heard, while the others wait; what is through has become sums.
fn here(ways: &VecDeque<Way>) -> u64 {
    let (mut through, mut most) = (0, 0);
    for (i, way) in ways.iter().enumerate() {
        let given: u64 = ways.iter().skip(i).map(|way| way.given).sum();
        most = most.max(given + way.heard + through);
        through += way.sums.max(0).unsigned_abs();
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where one unit is most of the model: the embedding, two blocks, no head of its own.
    const UNITS: [u64; 4] = [100, 10, 10, 0];

    fn most(ranks: usize, zero: u8, packs: usize) -> u64 {
        let team = Team { ranks, zero, group: ranks, tree: true };
        team.exchange(&UNITS, &Dealing::even(packs, ranks, zero >= 2))
    }

    #[test]
    fn sums_that_wait_and_a_part_of_a_leaf_are_counted_once_at_stage_0() {
        // The embedding's sum of the first pack, half a leaf for it, the last block as it is given and heard, the other's shard.
        assert_eq!(most(2, 0, 4), 100 + 50 + (10 + 5) + 5);
        // Three packs each: two sums of 120 wait while the third comes, and two of the embedding are given, two parts heard.
        assert_eq!(most(2, 0, 6), (2 * 100 + 2 * 50) + 2 * 10);
        // Nothing waits of one pack each: the embedding is given and heard, a block before it on its way.
        assert_eq!(most(2, 0, 2), (100 + 50 + 5) + 5);
    }

    #[test]
    fn at_stage_2_shards_of_sums_wait_and_whole_units_go() {
        // In the third turn the sum of the first four packs waits of all units, and beside it those of the blocks that have left.
        assert_eq!(most(2, 2, 6), (100 + 50) + 60 + (5 + 5));
        // At stage 3 the embedding is asked for, too, while it leaves; its own part is there.
        assert_eq!(most(2, 3, 6), (100 + 50) + 50 + 60);
    }

    #[test]
    fn one_process_adds_up_a_tree_and_no_tree_needs_nothing() {
        assert_eq!(most(1, 0, 4), 2 * 120 + 100);
        let alone = Team { tree: false, ..Team::ALONE };
        assert_eq!(alone.exchange(&UNITS, &Dealing::even(4, 1, false)), 0);
    }

    #[test]
    fn packs_are_dealt_as_a_run_deals_them() {
        assert_eq!(Dealing::even(5, 2, true).own, [vec![0, 2, 4], vec![1, 3]]);
        assert_eq!(Dealing::even(5, 2, false).own, [vec![0, 1, 2], vec![3, 4]]);
        assert_eq!(Dealing::even(5, 2, false).most(10), 6);
        // Leaves that are no neighbours stay apart.
        assert_eq!((nodes(&[0, 1, 2, 3]), nodes(&[1, 2]), nodes(&[2, 3, 4])), (1, 2, 2));
    }
}
