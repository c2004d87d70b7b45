//! The gradient of whole steps, in double precision, against differences of the loss they report, `z0` held fixed.

use crate::lab::{Lab, PLAIN};
use crate::{lora, over, rows, small};
use kernels::Cpu;
use objective::evaluate;
use objective::metrics::Metric;
use serde_json::{Value, json};
use testkit::{noise, slope};
use train::policy::Reference;

type C = Cpu<f64>;

/// A job whose policy stands away from its reference on four rows from `first` on: some log-ratios are positive, some
/// negative, and `z0` is above 0.
fn moved(keys: Value, first: usize) -> Lab<C> {
    let config = small("kto", &std::env::temp_dir(), keys);
    let mut lab = Lab::new(C::new(2), &config, 0.02);
    let scored = lab.scored(first as u32..first as u32 + 4);
    lab.policy.reference = Reference::Cached;
    for (i, outcome) in scored.outcomes.iter().enumerate() {
        let cached = &mut lab.cached[first + i];
        cached[0] = outcome.policy_logp - [1.5, -1.0, 0.7, -3.0][i];
        cached[1] += scored.ratios.get(i).map_or(0.0, |found| found - [2.0, -0.5, 1.0, 3.0][i]);
    }
    lab
}

/// Compares the gradient with the slopes of the loss along a random direction of all tensors, and of some by themselves.
fn check(lab: &mut Lab<C>, gradient: &[f64], what: &str, loss: &dyn Fn(&Lab<C>) -> f64) {
    let at = lab.values();
    let some = lab.policy.table.params().iter().step_by(9);
    let mut ranges: Vec<_> = some.map(|p| (p.name.clone(), p.range())).collect();
    ranges.push(("all".to_owned(), 0..at.len()));
    let mut largest: f64 = 0.0;
    for (name, range) in ranges {
        let direction = noise(range.len(), range.start as u64 + 3);
        let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
        let claimed: f64 = gradient[range.clone()].iter().zip(&direction).map(|(g, d)| g * d / norm).sum();
        let found = slope(|h| {
            let mut values = at.clone();
            values[range.clone()].iter_mut().zip(&direction).for_each(|(v, d)| *v += h * d / norm);
            lab.set(&values);
            loss(lab)
        });
        assert!(
            (found - claimed).abs() < 1e-9 + 1e-7 * found.abs(),
            "{what} {name}: {found} by differences, {claimed}"
        );
        largest = largest.max(found.abs());
    }
    lab.set(&at);
    assert!(largest > 1e-4, "{what}: nothing has a slope");
}

fn check_preference(mut lab: Lab<C>, first: u32, what: &str) {
    let rows = first..first + 4;
    let step = lab.preference_step(PLAIN, rows.clone());
    let z0 = step.metric(Metric::Kl);
    let loss = |lab: &Lab<C>| -> f64 {
        let (p, outcomes) = (lab.preference(), lab.scored(rows.clone()).outcomes);
        evaluate(p.loss, &p.settings, &outcomes, z0, 0.25).iter().map(|l| l.loss).sum()
    };
    assert!((loss(&lab) - step.report.loss).abs() < 1e-14, "{what}: the report's loss");
    check(&mut lab, &step.gradient, what, &loss);
}

#[test]
fn kto_gradients_equal_differences_of_the_loss() {
    let weights = json!({"desirable_weight": 0.8, "undesirable_weight": 1.7});
    for (tuning, keys) in [("full", json!({})), ("lora", lora())] {
        for loss in ["kto", "kto_s", "apo_zero_unpaired"] {
            let lab = moved(over(&over(&keys, weights.clone()), json!({"loss_type": loss})), 0);
            let scored = lab.scored(0..4);
            let z0 = if loss == "apo_zero_unpaired" { 0.0 } else { 1.375 };
            assert!((scored.kl.z0 - z0).abs() < 1e-9, "{tuning} {loss}: {:?}", scored.kl);
            assert_eq!(scored.outcomes.iter().filter(|o| o.log_ratio() > 0.0).count(), 2, "{tuning} {loss}");
            check_preference(lab, 0, &format!("{tuning} {loss}"));
        }
    }
}

#[test]
fn the_gradient_of_a_step_of_one_class_equals_differences_of_its_loss() {
    for (name, first, desirable) in [("kto_all_good.jsonl", 0, true), ("kto_skewed.jsonl", 18, false)] {
        let lab = moved(over(&lora(), json!({"dataset_name": rows(name)})), first as usize);
        assert!(lab.scored(first..first + 4).outcomes.iter().all(|o| o.desirable == desirable), "{name}");
        check_preference(lab, first, name);
    }
}

#[test]
fn sft_gradients_equal_differences_of_the_loss() {
    for (tuning, keys) in [("full", json!({})), ("lora", lora())] {
        let config = small("sft", &std::env::temp_dir(), keys);
        let mut lab = Lab::new(C::new(2), &config, 0.02);
        let texts = lab.texts(4);
        let step = lab.text_step(PLAIN, &texts);
        let targets: usize = texts.iter().map(|t| t.num_targets()).sum();
        let loss = |lab: &Lab<C>| -> f64 {
            let sums = train::step::score_text(&lab.context(PLAIN), &texts).unwrap();
            -sums.iter().map(|s| s.logp).sum::<f64>() / targets as f64
        };
        assert!((loss(&lab) - step.report.loss).abs() < 1e-14, "{tuning}: the report's loss");
        check(&mut lab, &step.gradient, &format!("{tuning} sft"), &loss);
    }
}
