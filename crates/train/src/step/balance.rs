//! The load-balancing loss of routers: taken over all packs of a group, then handed to their backward passes.

use super::{Interrupted, Sequence, Who};
use super::{Pass, StepContext, StepReport, TextRow, accumulate, text_packs};
use crate::gradient::Gradient;
use kernels::Backend;
use nn::RouterLoad;
use objective::metrics::Metric;
use pack::Last;

/// What a group's routers did, and what that costs.
pub(crate) struct Balanced {
    /// The group's part of the step's loss.
    pub(crate) loss: f64,
    /// For backward: the derivative by each expert's summed probability.
    push: Option<Vec<f64>>,
    /// Values for the log.
    pub(crate) values: Vec<(Metric, f64)>,
}

impl Balanced {
    /// Of a group's load. Its loss is multiplied by the group's `share` of the step.
    pub(crate) fn new(coefficient: Option<f64>, load: &RouterLoad, share: f64) -> Balanced {
        let Some(coefficient) = coefficient.filter(|_| load.rows > 0.0) else {
            return Balanced { loss: 0.0, push: None, values: Vec::new() };
        };
        let most = load.assigned.iter().fold(0.0, |m: f64, n| m.max(*n));
        let mean = load.assigned.iter().sum::<f64>() / load.assigned.len() as f64;
        let mut values = vec![(Metric::RouterMaxLoad, most / mean)];
        if coefficient == 0.0 {
            return Balanced { loss: 0.0, push: None, values };
        }
        let aux = load.loss();
        values.push((Metric::AuxLoss, aux));
        Balanced { loss: share * coefficient * aux, push: Some(load.push(share * coefficient)), values }
    }

    /// Gives a pack's backward what it needs.
    pub(crate) fn prepare<B: Backend>(&self, pass: &mut Pass<B>) {
        if let Some(push) = &self.push {
            pass.0.set_push(push);
        }
    }
}

impl<B: Backend> StepContext<'_, B> {
    /// Whether the last token of a sequence is a row: the balancing loss of transformers counts every token.
    pub(super) fn last(&self) -> Last {
        if self.balance.is_some_and(|c| c > 0.0) { Last::Kept } else { Last::Left }
    }
}

/// The gradient of SFT rows of which each micro-batch has a balancing loss of its own: forward over all its packs, then
/// backward.
pub(super) fn balanced_text<B: Backend>(
    cx: &StepContext<B>,
    rows: &[TextRow],
    micro_batches: &[usize],
    coefficient: f64,
    grads: &mut Gradient<B>,
    report: &mut StepReport,
) -> Result<Vec<Sequence>, Interrupted> {
    let mut sums = vec![Sequence::default(); rows.len()];
    let (mut first, mut number) = (0, 0);
    grads.of_groups(micro_batches.len());
    for &n in micro_batches {
        let packs = text_packs(cx, &rows[first..first + n]);
        let sums = &mut sums[first..first + n];
        let mut loads = Vec::new();
        let mut passes: Vec<Option<Pass<B>>> = packs.iter().map(|_| None).collect();
        for turn in cx.turns(&packs) {
            if cx.stopping() {
                return Err(Interrupted);
            }
            let Some(i) = turn.pack else {
                cx.attend_forward(Who::Policy);
                continue;
            };
            let mut pass = cx.kept(number + i, &packs[i], packs.len());
            accumulate(&packs[i], &pass.2, sums);
            loads.push(std::mem::take(&mut pass.1.load));
            passes[i] = Some(pass);
        }
        let load = cx.share_load(&packs, sums, &loads)?;
        let balanced = Balanced::new(cx.balance, &load, 1.0 / micro_batches.len() as f64);
        for turn in cx.turns(&packs) {
            grads.begin_turn(&turn);
            match turn.pack.and_then(|i| Some((i, passes[i].take()?))) {
                Some((i, mut pass)) => {
                    balanced.prepare(&mut pass);
                    cx.backward(number + i, &packs[i], pass, |_| coefficient, grads);
                }
                None => cx.attend_backward(grads, true),
            }
        }
        grads.next_group(packs.len());
        number += packs.len();
        report.loss += balanced.loss;
        report.groups.push(balanced.values);
        first += n;
    }
    Ok(sums)
}
