//! Step metrics under TRL's names, and the window that averages them into a logged line.
//!
//! A *group* is the rows one set of values is taken over: the whole step, or one micro-batch under `compat: trl`. Each
//! group yields a short list of named values; a [`Window`] takes such lists and folds each metric over all groups since
//! the last logged line. A group without rows of a class has no value for it, and such groups do not count in the mean:
//! so `rewards/margins` is averaged over the groups that had both classes, as TRL does.

use crate::{Error, Kl, Outcome};

/// How a metric's values within one logging window become one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fold {
    /// The plain mean over the values there were.
    Mean,
    /// The total.
    Sum,
    /// The newest.
    Last,
}

/// Every quantity a training log can hold, in the order of the logged line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Sum of the step's row losses; mean over steps.
    Loss,
    /// Global gradient norm before clipping, of the last step.
    GradNorm,
    /// The learning rate the last update used.
    LearningRate,
    /// `z0` in nats per sequence; 0 for a loss without one.
    Kl,
    /// The estimate before its clamp at 0, in nats per sequence.
    KlRaw,
    /// Standard error of `kl_raw`.
    KlSe,
    /// Mismatched log-ratio per mismatched completion token, in nats.
    KlPerToken,
    /// Mean of beta * log-ratio over desirable rows.
    RewardsChosen,
    /// Mean of beta * log-ratio over undesirable rows.
    RewardsRejected,
    /// `rewards/chosen` - `rewards/rejected` of groups with both classes.
    RewardsMargins,
    /// Mean policy log-probability of desirable rows, in nats per sequence.
    LogpsChosen,
    /// Mean policy log-probability of undesirable rows, in nats per sequence.
    LogpsRejected,
    /// Vocabulary-mean logit, averaged over completion tokens of desirable rows.
    LogitsChosen,
    /// Vocabulary-mean logit, averaged over completion tokens of undesirable rows.
    LogitsRejected,
    /// Mean entropy of the next-token distribution at target positions, in nats.
    Entropy,
    /// Share of target tokens that are the most likely one.
    MeanTokenAccuracy,
    /// Load-balancing loss of routers, without its coefficient.
    AuxLoss,
    /// Rows sent to the busiest expert, over an even share.
    RouterMaxLoad,
    /// Share of rows whose log-ratio is positive.
    FracRPositive,
    /// Desirable rows in the window.
    NChosen,
    /// Undesirable rows in the window.
    NRejected,
    /// Tokens trained on since the start, prompts included.
    NumTokens,
    /// Throughput in tokens per second.
    TokensPerSecond,
    /// Position in epochs.
    Epoch,
    /// Optimiser steps made.
    Step,
}

/// Name and fold of each metric, in the order of [`Metric`].
const TABLE: [(Metric, &str, Fold); 25] = [
    (Metric::Loss, "loss", Fold::Mean),
    (Metric::GradNorm, "grad_norm", Fold::Last),
    (Metric::LearningRate, "learning_rate", Fold::Last),
    (Metric::Kl, "kl", Fold::Mean),
    (Metric::KlRaw, "kl_raw", Fold::Mean),
    (Metric::KlSe, "kl_se", Fold::Mean),
    (Metric::KlPerToken, "kl_per_token", Fold::Mean),
    (Metric::RewardsChosen, "rewards/chosen", Fold::Mean),
    (Metric::RewardsRejected, "rewards/rejected", Fold::Mean),
    (Metric::RewardsMargins, "rewards/margins", Fold::Mean),
    (Metric::LogpsChosen, "logps/chosen", Fold::Mean),
    (Metric::LogpsRejected, "logps/rejected", Fold::Mean),
    (Metric::LogitsChosen, "logits/chosen", Fold::Mean),
    (Metric::LogitsRejected, "logits/rejected", Fold::Mean),
    (Metric::Entropy, "entropy", Fold::Mean),
    (Metric::MeanTokenAccuracy, "mean_token_accuracy", Fold::Mean),
    (Metric::AuxLoss, "aux_loss", Fold::Mean),
    (Metric::RouterMaxLoad, "router/max_load", Fold::Mean),
    (Metric::FracRPositive, "frac_r_positive", Fold::Mean),
    (Metric::NChosen, "n_chosen", Fold::Sum),
    (Metric::NRejected, "n_rejected", Fold::Sum),
    (Metric::NumTokens, "num_tokens", Fold::Last),
    (Metric::TokensPerSecond, "tokens_per_second", Fold::Last),
    (Metric::Epoch, "epoch", Fold::Last),
    (Metric::Step, "step", Fold::Last),
];

const _: () = {
    let mut i = 0;
    while i < TABLE.len() {
        assert!(TABLE[i].0 as usize == i, "TABLE is indexed by Metric");
        i += 1;
    }
};

impl Metric {
    /// The key in the log; TRL's spelling where TRL has the metric.
    pub fn name(self) -> &'static str {
        TABLE[self as usize].1
    }
}

/// What the head streams for one row besides its log-probability: sums over the row's target tokens.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct TokenSums {
    /// Target tokens.
    pub tokens: usize,
    /// Entropies of the next-token distributions, in nats.
    pub entropy: f64,
    /// Vocabulary-mean logits.
    pub mean_logit: f64,
    /// Targets that are the most likely token.
    pub correct: usize,
}

impl TokenSums {
    fn total<'a>(sums: impl Iterator<Item = &'a TokenSums>) -> TokenSums {
        sums.fold(TokenSums::default(), |a, b| TokenSums {
            tokens: a.tokens + b.tokens,
            entropy: a.entropy + b.entropy,
            mean_logit: a.mean_logit + b.mean_logit,
            correct: a.correct + b.correct,
        })
    }
}

/// The rows of one group of a preference step and what was estimated for them.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// Scale from log-ratio to reward, per nat.
    pub beta: f64,
    /// Matched rows.
    pub rows: &'a [Outcome],
    /// The estimate from the group's mismatched rows; of no rows for a loss without `z0`.
    pub kl: Kl,
    /// Completion tokens of the mismatched rows.
    pub kl_tokens: usize,
    /// One per matched row, or empty where extra metrics are off.
    pub tokens: &'a [TokenSums],
}

/// The values of one group of a preference step.
///
/// Panics if `tokens` is neither empty nor one per row.
pub fn preference_values(group: &Group) -> Vec<(Metric, f64)> {
    let mut values = vec![(Metric::Kl, group.kl.z0)];
    if group.kl.rows > 0 {
        values.push((Metric::KlRaw, group.kl.raw));
        values.extend(group.kl.se.map(|se| (Metric::KlSe, se)));
        let per_token = group.kl.raw * group.kl.rows as f64 / group.kl_tokens.max(1) as f64;
        values.push((Metric::KlPerToken, per_token));
    }
    let chosen = class_means(group, true);
    let rejected = class_means(group, false);
    if let Some(means) = chosen {
        values.extend([(Metric::RewardsChosen, means.reward), (Metric::LogpsChosen, means.logp)]);
    }
    if let Some(means) = rejected {
        values.extend([(Metric::RewardsRejected, means.reward), (Metric::LogpsRejected, means.logp)]);
    }
    if let (Some(chosen), Some(rejected)) = (chosen, rejected) {
        values.push((Metric::RewardsMargins, chosen.reward - rejected.reward));
    }
    if !group.rows.is_empty() {
        let positive = group.rows.iter().filter(|row| row.log_ratio() > 0.0).count();
        values.push((Metric::FracRPositive, positive as f64 / group.rows.len() as f64));
    }
    let n_chosen = group.rows.iter().filter(|row| row.desirable).count();
    values.push((Metric::NChosen, n_chosen as f64));
    values.push((Metric::NRejected, (group.rows.len() - n_chosen) as f64));
    if !group.tokens.is_empty() {
        preference_token_values(group, &mut values);
    }
    values
}

fn preference_token_values(group: &Group, values: &mut Vec<(Metric, f64)>) {
    assert_eq!(group.rows.len(), group.tokens.len(), "one set of token sums per row");
    for (metric, desirable) in [(Metric::LogitsChosen, true), (Metric::LogitsRejected, false)] {
        let of_class = group.rows.iter().zip(group.tokens).filter(|(row, _)| row.desirable == desirable);
        let total = TokenSums::total(of_class.map(|(_, sums)| sums));
        if total.tokens > 0 {
            values.push((metric, total.mean_logit / total.tokens as f64));
        }
    }
    let total = TokenSums::total(group.tokens.iter());
    if total.tokens > 0 {
        values.push((Metric::Entropy, total.entropy / total.tokens as f64));
    }
}

/// The values of one group of an SFT step, from the sums of its rows.
pub fn sft_values(tokens: &[TokenSums]) -> Vec<(Metric, f64)> {
    let total = TokenSums::total(tokens.iter());
    if total.tokens == 0 {
        return Vec::new();
    }
    let n = total.tokens as f64;
    vec![(Metric::Entropy, total.entropy / n), (Metric::MeanTokenAccuracy, total.correct as f64 / n)]
}

#[derive(Clone, Copy)]
struct ClassMeans {
    reward: f64,
    logp: f64,
}

fn class_means(group: &Group, desirable: bool) -> Option<ClassMeans> {
    let (mut n, mut r, mut logp) = (0.0, 0.0, 0.0);
    for row in group.rows.iter().filter(|row| row.desirable == desirable) {
        n += 1.0;
        r += row.log_ratio();
        logp += row.policy_logp;
    }
    (n > 0.0).then(|| ClassMeans { reward: group.beta * (r / n), logp: logp / n })
}

/// Values since the last logged line.
///
/// Steps add their own values once (`loss`, `grad_norm`, ...) and each group's values once.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Window {
    cells: [Cell; TABLE.len()],
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Cell {
    folded: f64,
    count: u64,
}

impl Window {
    /// Takes in the values of one group or one step.
    pub fn add(&mut self, values: &[(Metric, f64)]) {
        for &(metric, value) in values {
            let cell = &mut self.cells[metric as usize];
            match TABLE[metric as usize].2 {
                Fold::Mean | Fold::Sum => cell.folded += value,
                Fold::Last => cell.folded = value,
            }
            cell.count += 1;
        }
    }

    /// The logged line, in the order of [`Metric`], of the metrics that had a value; the window is empty afterwards.
    pub fn take(&mut self) -> Vec<(&'static str, f64)> {
        let cells = std::mem::take(self).cells;
        let folded = |(&(_, name, fold), cell): (&(Metric, &'static str, Fold), Cell)| {
            let value = if fold == Fold::Mean { cell.folded / cell.count as f64 } else { cell.folded };
            (cell.count > 0).then_some((name, value))
        };
        TABLE.iter().zip(cells).filter_map(folded).collect()
    }

    /// Name, folded value and count of what has been taken in: what a checkpoint keeps of a window that is still open.
    pub fn state(&self) -> impl Iterator<Item = (&'static str, f64, u64)> + '_ {
        TABLE.iter().zip(&self.cells).filter(|(_, cell)| cell.count > 0).map(|(t, c)| (t.1, c.folded, c.count))
    }

    /// The window that [`Window::state`] was read from; fails on a name that is no metric.
    pub fn restore<'a>(state: impl IntoIterator<Item = (&'a str, f64, u64)>) -> Result<Window, Error> {
        let mut window = Window::default();
        for (name, folded, count) in state {
            let row = TABLE.iter().find(|row| row.1 == name);
            let (metric, ..) = row.ok_or_else(|| Error::UnknownMetric { name: name.to_owned() })?;
            window.cells[*metric as usize] = Cell { folded, count };
        }
        Ok(window)
    }
}
