//! One optimiser step's gradient: rows in, packs, forward, objective, backward; the arena's gradient and a report out.
//!
//! The objective sees the whole step. A *group* is the set of rows that share a reference point `z0`: all rows of the step,
//! or, to compare with TRL, the rows of a micro-batch. Two schedules give the same bits, because a pack's base rows are
//! computed by the same products whether or not a tail follows:
//!
//! * *one sweep*: `[x | y | y']` of every pack of the group, kept; then `z0`; then backward.
//! * *z0 first*: the same sweep without keeping anything, then forward again over `[x | y]` and backward, pack by pack.

mod balance;
mod cut;
mod ranks;

use crate::gradient::Gradient;
use crate::policy::{Policy, Reference};
use crate::spread::Spread;
pub(crate) use balance::Balanced;
use balance::balanced_text;
pub(crate) use cut::Cut;
use data::Dataset;
use kernels::{Backend, Real};
use model::{Coefficients, Forward, HeadPlan, Keep, Parts, Scores};
use nn::{Away, Context, Dropout, Params, RouterLoad};
use objective::metrics::{Group, Metric, TokenSums, preference_values, sft_values};
use objective::{Kl, Loss, Outcome, RowLoss, Settings};
use pack::Pack;
pub(crate) use ranks::{NUMBERS, Turn, dealt, sequences_of};
use std::borrow::Cow;

/// How a step is computed; the memory plan decides. Only `budget_rows` can change a result, and only in its last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Execution {
    /// Most rows of a pack.
    pub budget_rows: usize,
    /// What forward passes keep.
    pub keep: Keep,
    /// Forward without keeping first, then once more pack by pack.
    pub z0_first: bool,
    /// Compute a prompt once for all its answers.
    pub share_prompts: bool,
    /// Logits that a trained head keeps for backward at one time; it computes the others again.
    pub kept_logits: usize,
    /// Inputs of blocks that are computed again wait on the host: room for them has been reserved there.
    pub offload: bool,
}

impl Execution {
    /// Entries of the vocabulary whose logits are kept for a pack, when `passes` packs wait for backward together.
    pub(crate) fn kept_entries(&self, pack: &Pack, passes: usize) -> usize {
        self.kept_logits / passes.max(1) / pack.num_grad_targets.max(1)
    }
}

/// What a preference step needs beside its rows.
#[derive(Clone, Copy, Debug)]
pub struct Preference<'a> {
    /// The loss.
    pub loss: Loss,
    /// Beta and class weights.
    pub settings: Settings,
    /// Whose completion scores a row's prompt for `z0`.
    pub partners: &'a [u32],
    /// Weight of the likelihood of desirable rows.
    pub ftx: f64,
}

/// Everything a step reads.
pub struct StepContext<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// Model and trainable values.
    pub policy: &'a Policy<B>,
    /// Rows.
    pub data: &'a Dataset,
    /// Reference log-probabilities by row, `[matched, mismatched]`, where the reference is [`Reference::Cached`].
    pub cached: &'a [[f64; 2]],
    /// How to compute.
    pub execution: Execution,
    /// Entropies and logits in the report.
    pub extra: bool,
    /// Weight of the routers' load-balancing loss; 0: loads are reported only; `None`: there are no routers.
    pub balance: Option<f64>,
    /// Adapter dropout, with the step's key.
    pub dropout: Option<Dropout>,
    /// Asked between packs; `true` abandons the step.
    pub interrupted: &'a (dyn Fn() -> bool + Sync),
    /// All ranks, if there are several.
    pub team: Option<&'a Spread<'a>>,
}

/// Rows that share a `z0`, with each row's factor in the step's loss.
#[derive(Clone, Debug)]
pub struct RowGroup {
    /// Row numbers of the data set.
    pub rows: Vec<u32>,
    /// What the row's loss is multiplied by in the step's loss.
    pub normaliser: Vec<f64>,
}

/// What a step was.
#[derive(Clone, Debug, Default)]
pub struct StepReport {
    /// The step's loss.
    pub loss: f64,
    /// Metric values, one list per group.
    pub groups: Vec<Vec<(Metric, f64)>>,
    /// Tokens of the matched rows.
    pub tokens: u64,
    /// What speaks against policy and reference being the same model, if anything: nothing may at step 0.
    pub off_reference: Option<objective::Error>,
    /// Rows whose log-probability is not finite.
    pub not_finite: Vec<u32>,
}

/// A step was abandoned because the run is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Interrupted;

/// A sequence's sums over its scored tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sequence {
    /// Log-probability, nats.
    pub logp: f64,
    /// The streamed statistics.
    pub sums: TokenSums,
}

/// Adds a pack's scores to its sequences.
pub(crate) fn accumulate<B: Backend>(pack: &Pack, scores: &Scores<B>, sequences: &mut [Sequence]) {
    for (i, (target, logp)) in pack.targets.iter().zip(&scores.logp).enumerate() {
        let s = &mut sequences[target.sequence as usize];
        s.logp += logp.f64();
        s.sums.tokens += 1;
        if let Some(extra) = scores.extra.as_ref().filter(|_| i < pack.num_grad_targets) {
            s.sums.entropy += extra.entropy[i].f64();
            s.sums.mean_logit += extra.mean_logit[i].f64();
            s.sums.correct += usize::from(extra.argmax[i] == target.token);
        }
    }
}

/// Which weights a sweep uses.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Who {
    Policy,
    Reference,
}

impl<'a, B: Backend> StepContext<'a, B> {
    pub(crate) fn context(&self, who: Who, pack: usize) -> Context<'a, B> {
        let policy = self.policy;
        let initial = match (&policy.reference, who) {
            (Reference::Initial(values), Who::Reference) => values,
            _ => &policy.values,
        };
        let dropout =
            self.dropout.filter(|_| who == Who::Policy).map(|d| Dropout { key: d.key ^ (pack as u64) << 40, ..d });
        let away = self.team.filter(|spread| spread.zero == 3).map(|spread| spread as &dyn Away<B>);
        Context {
            backend: self.backend,
            params: Params { table: &policy.table, values: initial, halves: Some(&policy.halves), lent: &[], away },
            adapters: who == Who::Policy || !matches!(policy.reference, Reference::AdaptersOff),
            dropout,
        }
    }

    /// Sums of every sequence of some packs, without gradient.
    fn sweep(&self, packs: &[Pack], who: Who, extra: bool, sequences: usize) -> Result<Vec<Sequence>, Interrupted> {
        Ok(self.loaded_sweep(packs, who, extra, sequences)?.0)
    }

    /// As [`StepContext::sweep`], with what the policy's routers did.
    fn loaded_sweep(
        &self,
        packs: &[Pack],
        who: Who,
        extra: bool,
        sequences: usize,
    ) -> Result<(Vec<Sequence>, RouterLoad), Interrupted> {
        let mut loads = Vec::new();
        let mut sums = vec![Sequence::default(); sequences];
        for turn in self.turns(packs) {
            if self.stopping() {
                return Err(Interrupted);
            }
            let Some(i) = turn.pack else {
                self.attend_forward(who);
                continue;
            };
            let (ctx, pack) = (self.context(who, i), &packs[i]);
            let forward = self.policy.decoder.forward(&ctx, pack, &self.parts(pack, who), Keep::Nothing);
            accumulate(pack, &self.policy.decoder.score(&ctx, pack, &forward, extra, None), &mut sums);
            loads.push(forward.load);
        }
        let load = self.share_load(packs, &mut sums, &loads)?;
        Ok((sums, load))
    }

    /// Scores pack after pack on this rank alone, nothing kept for backward.
    pub(crate) fn visit(
        &self,
        packs: &[Pack],
        who: Who,
        extra: bool,
        each: &mut dyn FnMut(&Pack, &Scores<B>),
    ) -> Result<(), Interrupted> {
        for (i, pack) in packs.iter().enumerate() {
            if self.stopping() {
                return Err(Interrupted);
            }
            let ctx = self.context(who, i);
            let forward = self.policy.decoder.forward(&ctx, pack, &self.parts(pack, who), Keep::Nothing);
            each(pack, &self.policy.decoder.score(&ctx, pack, &forward, extra, None));
        }
        Ok(())
    }

    pub(crate) fn parts(&self, pack: &Pack, who: Who) -> Parts<B> {
        match self.balance {
            Some(_) if who == Who::Policy => Parts::balanced(self.backend, pack),
            _ => Parts::new(self.backend, pack),
        }
    }

    /// Forward over one pack for backward to follow, with `passes - 1` others in memory.
    fn kept(&self, i: usize, pack: &Pack, passes: usize) -> (Parts<B>, Forward<B>, Scores<B>) {
        let ctx = self.context(Who::Policy, i);
        let parts = self.parts(pack, Who::Policy);
        let forward = self.policy.decoder.forward(&ctx, pack, &parts, self.execution.keep);
        let scores = self.policy.decoder.score(
            &ctx,
            pack,
            &forward,
            self.extra,
            Some(self.execution.kept_entries(pack, passes)),
        );
        (parts, forward, scores)
    }

    fn backward(
        &self,
        i: usize,
        pack: &Pack,
        (parts, forward, scores): (Parts<B>, Forward<B>, Scores<B>),
        dlogp: impl Fn(u32) -> f64,
        grads: &mut Gradient<B>,
    ) {
        let graded = &pack.targets[..pack.num_grad_targets];
        let coefficient: Vec<B::Real> = graded.iter().map(|t| B::Real::of(dlogp(t.sequence))).collect();
        let ctx = self.context(Who::Policy, i);
        grads.add(self, |grads| {
            self.policy.decoder.backward(&ctx, grads, pack, &parts, forward, scores, &coefficient);
        });
    }

    /// Forward and backward over one pack, where a token's log-probability alone decides its coefficient.
    pub(crate) fn whole_pass(
        &self,
        i: usize,
        pack: &Pack,
        parts: &Parts<B>,
        coefficient: &mut Coefficients<'_, B::Real>,
        grads: &mut Gradient<B>,
        sums: &mut [Sequence],
    ) {
        let (decoder, ctx) = (&self.policy.decoder, self.context(Who::Policy, i));
        let forward = decoder.forward(&ctx, pack, parts, self.execution.keep);
        let plan = HeadPlan { extra: self.extra, kept_logits: self.execution.kept_logits };
        grads.add(self, |grads| {
            let scores = decoder.score_backward(&ctx, grads, pack, &forward, plan, coefficient);
            accumulate(pack, &scores, sums);
            decoder.backward(&ctx, grads, pack, parts, forward, scores, &[]);
        });
    }

    /// Packs of a preference group.
    fn preference_packs(&self, rows: &[u32], preference: &Preference) -> Vec<Pack> {
        self.cut().preference(self.data, rows, preference)
    }

    fn cut(&self) -> Cut {
        let Execution { budget_rows, share_prompts, .. } = self.execution;
        Cut { budget_rows, share_prompts, last: self.last() }
    }

    /// Reference log-probabilities of a group's sequences, matched then mismatched.
    fn reference(&self, rows: &[u32], packs: &[Pack], loss: Loss) -> Result<Vec<f64>, Interrupted> {
        let n = 2 * rows.len();
        if matches!(self.policy.reference, Reference::Cached) {
            let at = |row: &u32| self.cached[*row as usize];
            let mismatched = rows.iter().map(|r| if loss.needs_z0() { at(r)[1] } else { 0.0 });
            return Ok(rows.iter().map(|r| at(r)[0]).chain(mismatched).collect());
        }
        Ok(self.sweep(packs, Who::Reference, false, n)?.iter().map(|s| s.logp).collect())
    }
}

/// Log-probabilities of rows under policy and reference, and the estimate of the KL divergence.
pub struct Scored {
    /// One per row.
    pub outcomes: Vec<Outcome>,
    /// Sums of the matched rows.
    pub sums: Vec<TokenSums>,
    /// Mismatched log-ratios, nats; none for a loss without `z0`.
    pub ratios: Vec<f64>,
    /// Their estimate.
    pub kl: Kl,
    /// Scored tokens of the mismatched rows.
    pub kl_tokens: usize,
}

impl Scored {
    fn new(data: &Dataset, rows: &[u32], policy: &[Sequence], reference: &[f64], loss: Loss) -> Scored {
        let m = rows.len();
        let outcome = |s: usize| Outcome {
            policy_logp: policy[s].logp,
            reference_logp: reference[s],
            desirable: data.row(rows[s] as usize).label.expect("a preference row has a label"),
        };
        let ratios: Vec<f64> =
            if loss.needs_z0() { (m..2 * m).map(|s| policy[s].logp - reference[s]).collect() } else { Vec::new() };
        Scored {
            outcomes: (0..m).map(outcome).collect(),
            sums: policy[..m].iter().map(|s| s.sums).collect(),
            kl: objective::z0_estimate(&ratios),
            ratios,
            kl_tokens: policy[m..].iter().map(|s| s.sums.tokens).sum(),
        }
    }

    /// What speaks against policy and reference being the same model.
    pub fn off_reference(&self, settings: &Settings, losses: &[RowLoss]) -> Option<objective::Error> {
        objective::self_test::check(settings, &self.outcomes, &self.kl, losses, 1.0).err()
    }

    /// Rows whose own log-ratio is not finite; when there is none, those whose mismatched one is not.
    fn not_finite(&self) -> impl Iterator<Item = usize> {
        let own: Vec<f64> = self.outcomes.iter().map(Outcome::log_ratio).collect();
        let ratios = if own.iter().all(|r| r.is_finite()) { self.ratios.clone() } else { own };
        ratios.into_iter().enumerate().filter(|(_, r)| !r.is_finite()).map(|(i, _)| i)
    }

    /// Takes in other rows that share the `z0`.
    pub fn extend(&mut self, other: Scored) {
        self.outcomes.extend(other.outcomes);
        self.sums.extend(other.sums);
        self.ratios.extend(other.ratios);
        self.kl_tokens += other.kl_tokens;
        self.kl = objective::z0_estimate(&self.ratios);
    }

    /// Values for the log.
    pub fn metrics(&self, beta: f64, extra: bool) -> Vec<(Metric, f64)> {
        let tokens: &[TokenSums] = if extra { &self.sums } else { &[] };
        preference_values(&Group { beta, rows: &self.outcomes, kl: self.kl, kl_tokens: self.kl_tokens, tokens })
    }
}

/// Scores rows without any gradient (evaluation).
pub fn score_preference<B: Backend>(
    cx: &StepContext<B>,
    preference: &Preference,
    rows: &[u32],
) -> Result<Scored, Interrupted> {
    let packs = cx.preference_packs(rows, preference);
    let reference = cx.reference(rows, &packs, preference.loss)?;
    let policy = cx.sweep(&packs, Who::Policy, cx.extra, 2 * rows.len())?;
    Ok(Scored::new(cx.data, rows, &policy, &reference, preference.loss))
}

/// Log-probabilities of rows and of their mismatched partners under the present values, `[matched, mismatched]` per row: what a
/// full run's reference is, taken before its first step with the packs that the steps will use.
pub fn reference_logps<B: Backend>(
    cx: &StepContext<B>,
    preference: &Preference,
    rows: &[u32],
) -> Result<Vec<[f64; 2]>, Interrupted> {
    let packs = cx.preference_packs(rows, preference);
    let sums = cx.sweep(&packs, Who::Policy, false, 2 * rows.len())?;
    let (matched, mismatched) = sums.split_at(rows.len());
    Ok(matched.iter().zip(mismatched).map(|(y, k)| [y.logp, k.logp]).collect())
}

/// Adds the gradient of one preference step.
pub fn preference_step<B: Backend>(
    cx: &StepContext<B>,
    preference: &Preference,
    groups: &[RowGroup],
    grads: &mut Gradient<B>,
) -> Result<StepReport, Interrupted> {
    let mut report = StepReport::default();
    grads.of_groups(groups.len());
    for RowGroup { rows, normaliser } in groups {
        let packs = cx.preference_packs(rows, preference);
        let reference = cx.reference(rows, &packs, preference.loss)?;
        let (policy, load, mut kept) = policy_sweep(cx, &packs, 2 * rows.len())?;
        let balanced = Balanced::new(cx.balance, &load, 1.0 / groups.len() as f64);
        let scored = Scored::new(cx.data, rows, &policy, &reference, preference.loss);
        let mut losses =
            objective::evaluate(preference.loss, &preference.settings, &scored.outcomes, scored.kl.z0, 1.0);
        if report.off_reference.is_none() {
            report.off_reference = scored.off_reference(&preference.settings, &losses);
        }
        objective::ftx::add(preference.ftx, &scored.outcomes, &scored.sums, &mut losses);
        report.loss += losses.iter().zip(normaliser).map(|(l, n)| l.loss * n).sum::<f64>() + balanced.loss;
        report.groups.push([scored.metrics(preference.settings.beta, cx.extra), balanced.values.clone()].concat());
        report.tokens += rows.iter().map(|&r| cx.data.tokens(r as usize).len() as u64).sum::<u64>();
        report.not_finite.extend(scored.not_finite().map(|i| rows[i]));
        if !report.not_finite.is_empty() {
            report.loss = f64::NAN;
            return Ok(report);
        }
        let dlogp = |s: u32| losses[s as usize].dlogp * normaliser[s as usize];
        for turn in cx.turns(&packs) {
            if cx.stopping() {
                return Err(Interrupted);
            }
            grads.begin_turn(&turn);
            match turn.pack {
                Some(i) => {
                    let (pack, mut pass) = match kept.get_mut(i).and_then(Option::take) {
                        Some(pass) => (Cow::Borrowed(&packs[i]), pass),
                        None => {
                            let pack = packs[i].base_only();
                            let pass = cx.kept(i, &pack, 1);
                            (Cow::Owned(pack), pass)
                        }
                    };
                    balanced.prepare(&mut pass);
                    cx.backward(i, &pack, pass, dlogp, grads);
                }
                None => {
                    if cx.execution.z0_first {
                        cx.attend_forward(Who::Policy);
                    }
                    cx.attend_backward(grads, true);
                }
            }
        }
        grads.next_group(packs.len());
    }
    Ok(report)
}

/// A pack's forward pass, as backward wants it.
pub(crate) type Pass<B> = (Parts<B>, Forward<B>, Scores<B>);

/// What backward needs of each pack, taken as it goes.
type Passes<B> = Vec<Option<Pass<B>>>;

/// The policy's sums over a group, and what backward needs unless `z0_first`.
fn policy_sweep<B: Backend>(
    cx: &StepContext<B>,
    packs: &[Pack],
    sequences: usize,
) -> Result<(Vec<Sequence>, RouterLoad, Passes<B>), Interrupted> {
    if cx.execution.z0_first {
        let (sums, load) = cx.loaded_sweep(packs, Who::Policy, cx.extra, sequences)?;
        return Ok((sums, load, Vec::new()));
    }
    let mut loads = Vec::new();
    let mut sums = vec![Sequence::default(); sequences];
    let mut kept: Passes<B> = packs.iter().map(|_| None).collect();
    for turn in cx.turns(packs) {
        if cx.stopping() {
            return Err(Interrupted);
        }
        let Some(i) = turn.pack else {
            cx.attend_forward(Who::Policy);
            continue;
        };
        let mut pass = cx.kept(i, &packs[i], packs.len());
        accumulate(&packs[i], &pass.2, &mut sums);
        loads.push(std::mem::take(&mut pass.1.load));
        kept[i] = Some(pass);
    }
    let load = cx.share_load(packs, &mut sums, &loads)?;
    Ok((sums, load, kept))
}

/// The scored rows of an SFT step: one sequence per row, or per piece of a packed bin.
#[derive(Clone, Debug)]
pub struct TextRow {
    /// Prompt, if only what follows it is scored; else empty.
    pub prompt: Vec<u32>,
    /// The rest.
    pub tokens: Vec<u32>,
    /// Which of `tokens` are scored.
    pub scored: Vec<bool>,
    /// The row of the data set.
    pub row: u32,
}

impl TextRow {
    /// Scored tokens that have a token before them.
    pub fn num_targets(&self) -> usize {
        let first = usize::from(self.prompt.is_empty());
        self.scored.iter().skip(first).filter(|s| **s).count()
    }
}

pub(crate) fn text_packs(cx: &StepContext<impl Backend>, rows: &[TextRow]) -> Vec<Pack> {
    cx.cut().text(rows)
}

/// Sums of text rows without any gradient.
pub fn score_text<B: Backend>(cx: &StepContext<B>, rows: &[TextRow]) -> Result<Vec<Sequence>, Interrupted> {
    cx.sweep(&text_packs(cx, rows), Who::Policy, cx.extra, rows.len())
}

/// The gradient of SFT rows, pack by pack.
fn plain_text<B: Backend>(
    cx: &StepContext<B>,
    rows: &[TextRow],
    coefficient: f64,
    grads: &mut Gradient<B>,
) -> Result<Vec<Sequence>, Interrupted> {
    let mut sums = vec![Sequence::default(); rows.len()];
    let packs = text_packs(cx, rows);
    let mut numbers = Vec::new();
    grads.of_groups(1);
    for turn in cx.turns(&packs) {
        if cx.stopping() {
            return Err(Interrupted);
        }
        grads.begin_turn(&turn);
        if let Some(i) = turn.pack {
            let parts = cx.parts(&packs[i], Who::Policy);
            let mut coefficients = |logp: &[B::Real]| vec![B::Real::of(coefficient); logp.len()];
            cx.whole_pass(i, &packs[i], &parts, &mut coefficients, grads, &mut sums);
            numbers.push(Vec::new());
        } else {
            cx.attend_forward(Who::Policy);
            cx.attend_backward(grads, false);
        }
    }
    cx.share(&packs, &mut sums, &mut numbers)?;
    Ok(sums)
}

/// Adds the gradient of one SFT step: the mean negative log-likelihood over all its targets. `micro_batches` are the numbers
/// of rows whose metrics are averaged apart.
pub fn text_step<B: Backend>(
    cx: &StepContext<B>,
    rows: &[TextRow],
    micro_batches: &[usize],
    grads: &mut Gradient<B>,
) -> Result<StepReport, Interrupted> {
    let targets: usize = rows.iter().map(TextRow::num_targets).sum();
    let coefficient = objective::sft::coefficient(targets);
    let mut report = StepReport::default();
    let sums = if cx.balance.is_some() {
        balanced_text(cx, rows, micro_batches, coefficient, grads, &mut report)?
    } else {
        plain_text(cx, rows, coefficient, grads)?
    };
    report.loss += objective::sft::loss(sums.iter().map(|s| s.logp).sum(), targets);
    report.tokens = rows.iter().map(|r| (r.prompt.len() + r.tokens.len()) as u64).sum();
    report.not_finite = rows.iter().zip(&sums).filter(|(_, s)| !s.logp.is_finite()).map(|(r, _)| r.row).collect();
    let mut first = 0;
    for &n in micro_batches {
        let tokens: Vec<TokenSums> = sums[first..first + n].iter().map(|s| s.sums).collect();
        report.groups.push(if cx.extra { sft_values(&tokens) } else { Vec::new() });
        first += n;
    }
    Ok(report)
}
