//! The load-balancing loss of routers: taken over all packs of a group, then handed to their backward passes.

use super::{Interrupted, Sequence};
use super::{Pass, StepContext, StepReport, TextRow, accumulate, text_packs};
use kernels::Backend;
use nn::RouterLoad;
use objective::metrics::Metric;
use pack::{Last, Pack};

/// What a group's routers did, and what that costs.
pub(super) struct Balanced {
    /// The group's part of the step's loss.
    pub(super) loss: f64,
    /// For backward: the derivative by each expert's summed probability.
    push: Option<Vec<f64>>,
    /// Values for the log.
    pub(super) values: Vec<(Metric, f64)>,
}

impl Balanced {
    /// Of a group's load. Its loss is multiplied by the group's `share` of the step.
    pub(super) fn new(coefficient: Option<f64>, load: &RouterLoad, share: f64) -> Balanced {
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
    pub(super) fn prepare<B: Backend>(&self, pass: &mut Pass<B>) {
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
    grads: &mut kernels::Mat<B, B::Real>,
    report: &mut StepReport,
) -> Result<Vec<Sequence>, Interrupted> {
    let mut sums = vec![Sequence::default(); rows.len()];
    let (mut first, mut number) = (0, 0);
    for &n in micro_batches {
        let mut load = RouterLoad::default();
        let mut passes: Vec<(usize, Pack, Pass<B>)> = Vec::new();
        let packs = text_packs(cx, &rows[first..first + n]);
        let count = packs.len();
        for pack in packs {
            if (cx.interrupted)() {
                return Err(Interrupted);
            }
            let pass = cx.kept(number, &pack, count);
            accumulate(&pack, &pass.2, &mut sums[first..first + n]);
            load.add(&pass.1.load);
            passes.push((number, pack, pass));
            number += 1;
        }
        let balanced = Balanced::new(cx.balance, &load, 1.0 / micro_batches.len() as f64);
        for (i, pack, mut pass) in passes {
            balanced.prepare(&mut pass);
            cx.backward(i, &pack, pass, |_| coefficient, grads);
        }
        report.loss += balanced.loss;
        report.groups.push(balanced.values);
        first += n;
    }
    Ok(sums)
}
