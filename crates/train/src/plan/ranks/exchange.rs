//! What a rank takes on the host for what it hears and says of gradients and values, at the worst moment of a step.
//!
//! The moments are those of `gradient`, `spread` and `run::update`: a change of what is copied there changes this file too.

use super::Team;
use crate::spread::ON_THE_WAY;
use std::collections::VecDeque;

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
    /// Bytes at the worst moment of a step of so many packs; `units` in bytes.
    pub(super) fn exchange(self, units: &[u64], packs: usize) -> u64 {
        let (all, largest) = (units.iter().sum::<u64>(), units.iter().copied().max().unwrap_or(0));
        let own = packs.div_ceil(self.ranks);
        let added = if self.tree && self.zero < 2 { self.added(all, largest, own) } else { 0 };
        if self.ranks == 1 && !self.tree {
            return 0;
        }
        // Sums of units become one row, one after the other and the embedding's first.
        let turns = self.turns(packs);
        let sums = turns.last().map_or(own.count_ones().into(), |turn| turn.sums[1]);
        let reduced = sums * self.part(all) + self.part(units[0]);
        let updated = match self.zero {
            _ if self.ranks == 1 => 0,
            0 => self.part(all) + largest - self.part(largest),
            1 | 2 => largest,
            _ => 0,
        };
        added.max(reduced).max(updated).max(self.leaving(units, &turns))
    }

    /// A member's part.
    fn part(self, bytes: u64) -> u64 {
        bytes.div_ceil(self.group as u64)
    }

    /// While a rank adds up its packs: what waits, and a leaf's part of a unit on its way to what it is added to.
    fn added(self, all: u64, largest: u64, packs: usize) -> u64 {
        let nodes = |packs: usize| u64::from(packs.count_ones());
        // The last leaf of several ranks leaves as it comes.
        let leaves = if self.ranks == 1 { packs } else { packs.saturating_sub(1) };
        let leaf = |i: usize| match i % 2 {
            0 => nodes(i + 1) * all,
            _ => nodes(i) * all + self.part(largest),
        };
        (0..leaves).map(leaf).max().unwrap_or(0)
    }

    /// The turns in which units leave.
    fn turns(self, packs: usize) -> Vec<Turn> {
        let (nodes, ranks) = (|packs: usize| u64::from(packs.count_ones()), self.ranks as u64);
        let (own, last) = (packs.div_ceil(self.ranks), [0, u64::from(packs.count_ones())]);
        match (self.zero, self.tree) {
            _ if self.ranks == 1 => Vec::new(),
            (2.., _) => {
                let turn = |turn: usize| {
                    let [before, after] = [turn, turn + 1].map(|turn| packs.min(turn * self.ranks));
                    let heard = (after - before).saturating_sub(1) as u64;
                    Turn { waiting: 0, given: 1, heard, sums: [before, after].map(nodes) }
                };
                (0..own).map(turn).collect()
            }
            (_, true) => {
                let (waiting, given) = (nodes(own.saturating_sub(1)), nodes(own));
                vec![Turn { waiting, given, heard: (ranks - 1) * given, sums: last }]
            }
            (_, false) => {
                let sums = [0, u64::from(self.ranks.count_ones())];
                vec![Turn { waiting: 0, given: 1, heard: ranks - 1, sums }]
            }
        }
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
