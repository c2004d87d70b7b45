//! A step over several ranks: whose turn a pack is, and how all come to know what each has found.
//!
//! Every rank cuts the whole step into the same packs, computes those that fall to it, and hears the sums of all others. What follows
//! (z0, losses, metrics, the balancing of experts) is the same arithmetic on the same numbers on every rank.

use super::{Interrupted, Sequence, StepContext, Who};
use crate::gradient::Gradient;
use dist::World;
use dist::deal::deal;
use kernels::Backend;
use model::Blueprint;
use nn::RouterLoad;
use objective::metrics::TokenSums;
use pack::Pack;

/// Numbers that say what a sequence's sums are.
pub(crate) const NUMBERS: usize = 5;

/// One pack or none for every rank. All ranks have as many turns.
pub(crate) struct Turn {
    /// This rank's pack, by number.
    pub(crate) pack: Option<usize>,
    /// Every rank's.
    pub(crate) all: Vec<Option<usize>>,
    /// Whether it is the last.
    pub(crate) last: bool,
}

impl<'a, B: Backend> StepContext<'a, B> {
    /// The other ranks, if there are any.
    pub(super) fn others(&self) -> Option<&'a World> {
        self.team.map(|spread| spread.world).filter(|world| world.size() > 1)
    }

    /// Whether to abandon the step here. Several ranks only do so together, where they share sums, or when they lost one another.
    pub(crate) fn stopping(&self) -> bool {
        self.others().map_or_else(|| (self.interrupted)(), |world| world.failure().is_some())
    }

    /// Which packs are whose.
    fn dealt(&self, packs: &[Pack]) -> Vec<Vec<usize>> {
        let by_turn = self.team.is_some_and(|spread| spread.zero >= 2);
        dealt(&self.policy.decoder.blueprint, packs, self.others().map_or(1, World::size), by_turn)
    }

    /// Who has which pack when.
    pub(crate) fn turns(&self, packs: &[Pack]) -> impl Iterator<Item = Turn> + use<B> {
        let (dealt, rank) = (self.dealt(packs), self.others().map_or(0, World::rank));
        let most = dealt.iter().map(Vec::len).max().unwrap_or(0);
        (0..most).map(move |turn| {
            let all: Vec<Option<usize>> = dealt.iter().map(|own| own.get(turn).copied()).collect();
            Turn { pack: all[rank], all, last: turn + 1 == most }
        })
    }

    /// Stands by while other ranks go forward in a turn that has no pack for this one.
    pub(crate) fn attend_forward(&self, who: Who) {
        self.policy.decoder.attend_forward(&self.context(who, 0));
    }

    /// The same while they go backward, through the head as well unless they were there when they scored.
    pub(crate) fn attend_backward(&self, grads: &mut Gradient<B>, head: bool) {
        let ctx = self.context(Who::Policy, 0);
        grads.add(self, |grads| self.policy.decoder.attend_backward(&ctx, grads, head));
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
        let own = &dealt[world.rank()];
        let mut said = vec![f64::from(u8::from((self.interrupted)()))];
        for (&pack, numbers) in own.iter().zip(&*numbers) {
            let pack = &packs[pack];
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
        numbers.resize(packs.len(), Vec::new());
        for (said, own) in all.iter().zip(&dealt) {
            let mut said = &said[1..];
            for &pack in own {
                for s in sequences_of(&packs[pack]) {
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
                numbers[pack] = own.to_vec();
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

/// Which packs are whose, ascending: runs of about the same cost; or, where ranks exchange something at every pack, neighbours at the
/// same time, as these can be added up at once.
pub(crate) fn dealt(blueprint: &Blueprint, packs: &[Pack], ranks: usize, by_turn: bool) -> Vec<Vec<usize>> {
    if by_turn {
        return (0..ranks).map(|rank| (rank..packs.len()).step_by(ranks).collect()).collect();
    }
    let weights = blueprint.num_parameters() as u64;
    let per_pair = (4 * blueprint.heads * blueprint.head_width * blueprint.layers.len()) as u64;
    let costs: Vec<u64> =
        packs.iter().map(|p| 2 * weights * p.num_rows() as u64 + per_pair * p.attention_pairs(None)).collect();
    deal(&costs, ranks).into_iter().map(Iterator::collect).collect()
}

/// The sequences of a pack, ascending. No sequence has targets in two packs.
pub(crate) fn sequences_of(pack: &Pack) -> Vec<usize> {
    let mut all: Vec<usize> = pack.targets.iter().map(|t| t.sequence as usize).collect();
    all.sort_unstable();
    all.dedup();
    all
}
