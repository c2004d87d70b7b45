//! Metrics: what a group yields, and how a window folds groups and steps into one line.

use objective::metrics::{Group, Metric, TokenSums, Window, preference_values, sft_values};
use objective::{Error, Kl, Outcome, z0_estimate};

fn row(policy_logp: f64, reference_logp: f64, desirable: bool) -> Outcome {
    Outcome { policy_logp, reference_logp, desirable }
}

fn group(rows: &[Outcome], kl: Kl) -> Group<'_> {
    Group { beta: 0.1, rows, kl, kl_tokens: 30, tokens: &[] }
}

fn line(window: &mut Window, name: &str) -> Option<f64> {
    window.clone().take().into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[track_caller]
fn assert_close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-12, "expected {expected}, found {found}");
}

#[test]
fn a_group_yields_class_means_and_the_kl_estimate() {
    let rows = [row(-35.0, -36.5, true), row(-42.0, -41.0, false), row(-51.0, -53.0, true), row(-28.0, -27.0, false)];
    let mut window = Window::default();
    window.add(&preference_values(&group(&rows, z0_estimate(&[1.0, -0.5, 2.0, -1.0]))));
    for (name, expected) in [
        ("kl", 0.375),
        ("kl_raw", 0.375),
        ("kl_se", (5.6875f64 / 12.0).sqrt()),
        ("kl_per_token", 1.5 / 30.0),
        ("rewards/chosen", 0.175),
        ("rewards/rejected", -0.1),
        ("rewards/margins", 0.275),
        ("logps/chosen", -43.0),
        ("logps/rejected", -35.0),
        ("frac_r_positive", 0.5),
        ("n_chosen", 2.0),
        ("n_rejected", 2.0),
    ] {
        assert_close(line(&mut window, name).unwrap_or_else(|| panic!("{name} is missing")), expected);
    }
}

#[test]
fn an_absent_class_has_no_key_and_no_margin() {
    let rows = [row(-35.0, -36.5, true)];
    let mut window = Window::default();
    window.add(&preference_values(&group(&rows, z0_estimate(&[]))));
    for absent in ["rewards/rejected", "logps/rejected", "rewards/margins", "kl_raw", "kl_se", "kl_per_token"] {
        assert_eq!(line(&mut window, absent), None, "{absent}");
    }
    assert_eq!(line(&mut window, "kl"), Some(0.0), "a loss without z0 logs 0");
    assert_eq!(line(&mut window, "n_rejected"), Some(0.0));
}

#[test]
fn an_empty_group_yields_nothing_but_counts() {
    let mut window = Window::default();
    window.add(&preference_values(&group(&[], z0_estimate(&[]))));
    assert_eq!(window.take(), [("kl", 0.0), ("n_chosen", 0.0), ("n_rejected", 0.0)]);
}

#[test]
fn micro_batches_are_averaged_plainly_over_those_that_had_the_class() {
    // Three micro-batches of unequal content: means of means, not row means; the margin only from the second.
    let first = [row(1.0, 0.0, true), row(3.0, 0.0, true)];
    let second = [row(10.0, 0.0, true), row(4.0, 0.0, false)];
    let third = [row(-6.0, 0.0, false)];
    let mut window = Window::default();
    for (rows, mismatched) in [(&first[..], 2.0), (&second, -4.0), (&third, 5.0)] {
        window.add(&preference_values(&group(rows, z0_estimate(&[mismatched]))));
    }
    assert_close(line(&mut window, "rewards/chosen").unwrap(), (0.2 + 1.0) / 2.0);
    assert_close(line(&mut window, "rewards/rejected").unwrap(), (0.4 - 0.6) / 2.0);
    assert_close(line(&mut window, "rewards/margins").unwrap(), 0.6);
    assert_close(line(&mut window, "kl").unwrap(), (2.0 + 0.0 + 5.0) / 3.0);
    assert_close(line(&mut window, "kl_raw").unwrap(), 1.0);
    assert_eq!(line(&mut window, "n_chosen"), Some(3.0));
    assert_eq!(line(&mut window, "n_rejected"), Some(2.0));
}

#[test]
fn the_same_rows_as_one_group_give_row_means() {
    let rows =
        [row(1.0, 0.0, true), row(3.0, 0.0, true), row(10.0, 0.0, true), row(4.0, 0.0, false), row(-6.0, 0.0, false)];
    let mut window = Window::default();
    window.add(&preference_values(&group(&rows, z0_estimate(&[2.0, -4.0, 5.0]))));
    assert_close(line(&mut window, "rewards/chosen").unwrap(), 1.4 / 3.0);
    assert_close(line(&mut window, "rewards/rejected").unwrap(), -0.1);
    assert_close(line(&mut window, "rewards/margins").unwrap(), 1.4 / 3.0 + 0.1);
    assert_close(line(&mut window, "kl").unwrap(), 1.0);
}

#[test]
fn token_sums_become_token_means_per_class() {
    let rows = [row(-1.0, -1.0, true), row(-1.0, -1.0, false), row(-1.0, -1.0, true)];
    let sums = |tokens, entropy, mean_logit, correct| TokenSums { tokens, entropy, mean_logit, correct };
    let tokens = [sums(4, 8.0, -2.0, 1), sums(10, 5.0, 3.0, 5), sums(1, 2.0, 7.0, 0)];
    let mut window = Window::default();
    window.add(&preference_values(&Group { tokens: &tokens, ..group(&rows, z0_estimate(&[])) }));
    assert_eq!(line(&mut window, "logits/chosen"), Some(1.0));
    assert_eq!(line(&mut window, "logits/rejected"), Some(0.3));
    assert_eq!(line(&mut window, "entropy"), Some(1.0));
    assert_eq!(line(&mut window, "mean_token_accuracy"), None);
    assert_eq!(sft_values(&tokens), [(Metric::Entropy, 1.0), (Metric::MeanTokenAccuracy, 0.4)]);
    assert!(sft_values(&[]).is_empty());
}

#[test]
#[should_panic(expected = "one set of token sums per row")]
fn token_sums_of_other_rows_are_refused() {
    let rows = [row(-1.0, -1.0, true)];
    preference_values(&Group { tokens: &[TokenSums::default(); 2], ..group(&rows, z0_estimate(&[])) });
}

#[test]
fn a_window_averages_losses_keeps_the_last_norm_and_then_is_empty() {
    let mut window = Window::default();
    for (step, loss) in [(1.0, 0.5), (2.0, 0.25), (3.0, 0.75)] {
        window.add(&[(Metric::Step, step), (Metric::GradNorm, 10.0 * step), (Metric::Loss, loss)]);
    }
    assert_eq!(window.take(), [("loss", 0.5), ("grad_norm", 30.0), ("step", 3.0)]);
    assert!(window.take().is_empty());
}

#[test]
fn the_line_has_one_order_whatever_the_order_of_arrival() {
    let values = [(Metric::Epoch, 1.0), (Metric::RewardsMargins, 2.0), (Metric::Kl, 3.0), (Metric::Loss, 4.0)];
    let mut window = Window::default();
    window.add(&values);
    let names: Vec<_> = window.take().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["loss", "kl", "rewards/margins", "epoch"]);
    for (metric, _) in values {
        window.add(&[(metric, 1.0)]);
        assert_eq!(window.take(), [(metric.name(), 1.0)], "a metric lands in its own cell");
    }
}

#[test]
fn a_window_saved_half_way_gives_the_same_line() {
    let half = [(Metric::Loss, 0.1), (Metric::Loss, 0.7), (Metric::NChosen, 3.0), (Metric::GradNorm, 2.0)];
    let rest = [(Metric::Loss, 0.3), (Metric::NChosen, 1.0)];
    let mut kept = Window::default();
    kept.add(&half);
    let mut resumed = Window::restore(kept.state()).unwrap();
    assert_eq!(resumed, kept);
    kept.add(&rest);
    resumed.add(&rest);
    assert_eq!(resumed.take(), kept.take());
    let error = Window::restore([("bits_per_byte", 1.0, 1)]).unwrap_err();
    assert_eq!(error, Error::UnknownMetric { name: "bits_per_byte".to_owned() });
}
