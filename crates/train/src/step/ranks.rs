//! A step over several ranks: whose turn a pack is, and how all come to know what each has found.
//!
//! Every rank cuts the whole step into the same packs, computes those that fall to it, and hears the sums of all others. What follows
//! (z0, losses, metrics, the balancing of experts) is the same arithmetic on the same numbers on every rank.

use super::{Interrupted, Sequence, StepContext};
use dist::World;
use dist::deal::deal;
use kernels::Backend;
use nn::RouterLoad;
use objective::metrics::TokenSums;
use pack::Pack;
use std::ops::Range;

/// Numbers that say what a sequence's sums are.
const NUMBERS: usize = 5;

impl<'a, B: Backend> StepContext<'a, B> {
    /// The other ranks, if there are any.
    pub(super) fn others(&self) -> Option<&'a World> {
        self.team.filter(|world| world.size() > 1)
    }

    /// Whether to abandon the step here. Several ranks only do so together, where they share sums.
    pub(crate) fn stopping(&self) -> bool {
        self.others().is_none() && (self.interrupted)()
    }

    /// Which packs are whose: runs of about the same cost.
    fn dealt(&self, packs: &[Pack]) -> Vec<Range<usize>> {
        let ranks = self.others().map_or(1, World::size);
        let blueprint = &self.policy.decoder.blueprint;
        let weights = blueprint.num_parameters() as u64;
        let per_pair = (4 * blueprint.heads * blueprint.head_width * blueprint.layers.len()) as u64;
        let costs: Vec<u64> =
            packs.iter().map(|p| 2 * weights * p.num_rows() as u64 + per_pair * p.attention_pairs(None)).collect();
        deal(&costs, ranks)
    }

    /// This rank's packs, by number, then `None` as often as another rank has a pack more: every rank has as many turns.
    pub(crate) fn turns(&self, packs: &[Pack]) -> impl Iterator<Item = Option<usize>> + use<B> {
        let dealt = self.dealt(packs);
        let most = dealt.iter().map(ExactSizeIterator::len).max().unwrap_or(0);
        let own = dealt[self.others().map_or(0, World::rank)].clone();
        let idle = most - own.len();
        own.map(Some).chain(std::iter::repeat_n(None, idle))
    }

    /// Completes `sums` and `numbers` (some for each pack, of the own packs so far) with those of all ranks.
    pub(crate) fn share(
        &self,
        packs: &[Pack],
        sums: &mut [Sequence],
        numbers: &mut Vec<Vec<f64>>,
    ) -> Result<(), Interrupted> {
        let Some(world) = self.others() else { return Ok(()) };
        let dealt = self.dealt(packs);
        let own = dealt[world.rank()].clone();
        let mut said = vec![f64::from(u8::from((self.interrupted)()))];
        for (pack, numbers) in packs[own].iter().zip(&*numbers) {
            for s in sequences_of(pack) {
                let Sequence { logp, sums } = &sums[s];
                said.extend([*logp, sums.tokens as f64, sums.entropy, sums.mean_logit, sums.correct as f64]);
            }
            said.push(numbers.len() as f64);
            said.extend(numbers);
        }
        // What went wrong is kept by the world, and asked for where errors can be told.
        let all = world.gather_numbers(&said).map_err(|_| Interrupted)?;
        if all.iter().any(|said| said[0] != 0.0) {
            return Err(Interrupted);
        }
        numbers.clear();
        for (said, range) in all.iter().zip(dealt) {
            let mut said = &said[1..];
            for pack in &packs[range] {
                for s in sequences_of(pack) {
                    let (own, rest) = said.split_at(NUMBERS);
                    sums[s] = Sequence {
                        logp: own[0],
                        sums: TokenSums {
                            tokens: own[1] as usize,
                            entropy: own[2],
                            mean_logit: own[3],
                            correct: own[4] as usize,
                        },
                    };
                    said = rest;
                }
                let (own, rest) = said[1..].split_at(said[0] as usize);
                numbers.push(own.to_vec());
                said = rest;
            }
        }
        Ok(())
    }

    /// As [`StepContext::share`], of what routers did; returns the load of all packs.
    pub(crate) fn share_load(
        &self,
        packs: &[Pack],
        sums: &mut [Sequence],
        loads: &[RouterLoad],
    ) -> Result<RouterLoad, Interrupted> {
        let mut total = RouterLoad::default();
        let mut numbers: Vec<Vec<f64>> = if self.others().is_none() {
            loads.iter().for_each(|load| total.add(load));
            return Ok(total);
        } else {
            loads.iter().map(|l| [&l.assigned[..], &l.probability, &[l.rows]].concat()).collect()
        };
        self.share(packs, sums, &mut numbers)?;
        for numbers in numbers {
            let (rows, lists) = numbers.split_last().expect("a load has its rows");
            let (assigned, probability) = lists.split_at(lists.len() / 2);
            total.add(&RouterLoad { assigned: assigned.to_vec(), probability: probability.to_vec(), rows: *rows });
        }
        Ok(total)
    }
}

/// The sequences of a pack, ascending. No sequence has targets in two packs.
fn sequences_of(pack: &Pack) -> Vec<usize> {
    let mut all: Vec<usize> = pack.targets.iter().map(|t| t.sequence as usize).collect();
    all.sort_unstable();
    all.dedup();
    all
}
