//! AdamW and clipping against torch 2.15.0, and against numbers worked out by hand.

use kernels::{Adamw as _, Cpu, Mat, Memory};
use optim::adamw::{AdamW, Group, Settings, clip, groups};
use serde_json::Value;
use testkit::to;

const DEFAULTS: Settings = Settings { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01 };

/// Updates of one parameter with a constant gradient scale; returns its value after each.
fn values_after(settings: Settings, start: f64, learning_rate: f64, gradients: &[f64]) -> Vec<f64> {
    let cpu = Cpu::<f64>::new(1);
    let mut values = cpu.from_host(1, 1, &[start]);
    let mut optimiser = AdamW::new(&cpu, 1, settings, groups([(0..1, true)]));
    let mut update = |g: &f64| {
        optimiser.update(&cpu, &mut values, &cpu.from_host(1, 1, &[*g]), learning_rate, 1.0);
        cpu.to_host::<f64>(values.view())[0]
    };
    gradients.iter().map(&mut update).collect()
}

#[test]
fn two_updates_equal_the_worked_example() {
    let values = values_after(DEFAULTS, 1.0, 1e-3, &[0.5, -0.25]);
    let expected = [0.998_990_000_020, 0.998_713_673_087];
    for (found, expected) in values.iter().zip(expected) {
        assert!((found - expected).abs() < 0.5e-12, "{found} for {expected}");
    }
}

#[test]
fn an_update_at_rate_zero_moves_the_state_and_not_the_parameter() {
    let cpu = Cpu::<f64>::new(1);
    let mut values = cpu.from_host(1, 1, &[0.7]);
    let mut optimiser = AdamW::new(&cpu, 1, DEFAULTS, groups([(0..1, true)]));
    optimiser.update(&cpu, &mut values, &cpu.from_host(1, 1, &[2.0]), 0.0, 1.0);
    assert_eq!(cpu.to_host::<f64>(values.view()), [0.7]);
    let (m, v) = (cpu.to_host::<f64>(optimiser.m.view())[0], cpu.to_host::<f64>(optimiser.v.view())[0]);
    assert!((m - 0.2).abs() < 1e-15 && (v - 0.004).abs() < 1e-15 && optimiser.steps == 1, "{m} {v}");
}

/// Ten clipped updates of the arena `w, b` (decayed, not decayed) in single precision.
#[test]
fn ten_clipped_updates_equal_torch() {
    let tensors = testkit::tensors(include_bytes!("../../../fixtures/optim/adamw.safetensors"));
    let reference: Value = serde_json::from_str(include_str!("../../../fixtures/optim/adamw.json")).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let arena = |w: &str, b: &str, t: usize| -> Vec<f32> {
        to(&[&tensors[&format!("{w}.{t}")][..], &tensors[&format!("{b}.{t}")][..]].concat())
    };
    let start = arena("w", "b", 0);
    let (weights, all) = (tensors["w.0"].len(), start.len());
    let settings = Settings {
        beta1: number(&reference["betas"][0]),
        beta2: number(&reference["betas"][1]),
        epsilon: number(&reference["eps"]),
        weight_decay: number(&reference["weight_decay"]["w"]),
    };
    assert_eq!(reference["weight_decay"]["b"], 0.0);
    let (rate, max_norm) = (number(&reference["lr"]), number(&reference["max_grad_norm"]));

    let cpu = Cpu::<f32>::new(2);
    let mut values: Mat<Cpu<f32>> = cpu.from_host(1, all, &start);
    let mut optimiser = AdamW::new(&cpu, all, settings, groups([(0..weights, true), (weights..all, false)]));
    let norms = reference["grad_norms"].as_array().unwrap();
    assert_eq!(norms.len(), 10);
    for (t, expected) in norms.iter().enumerate() {
        let gradient = cpu.from_host(1, all, &arena("gw", "gb", t));
        let norm = cpu.square_norm(gradient.view()).sqrt();
        assert!((norm / number(expected) - 1.0).abs() < 1e-6, "norm {norm} for {expected} at update {}", t + 1);
        optimiser.update(&cpu, &mut values, &gradient, rate, clip(norm, max_norm));
        let found = cpu.to_host::<f32>(values.view());
        for (i, expected) in arena("w", "b", t + 1).iter().enumerate() {
            assert!(
                (found[i] - expected).abs() < 1e-6,
                "entry {i} is {} for {expected} after {} updates",
                found[i],
                t + 1
            );
        }
    }
    assert_eq!(optimiser.steps, 10);
}

#[test]
fn decay_shrinks_the_groups_that_want_it_and_no_other() {
    let cpu = Cpu::<f64>::new(1);
    let mut values = cpu.from_host(1, 4, &[1.0; 4]);
    let settings = Settings { weight_decay: 0.5, ..DEFAULTS };
    let mut optimiser = AdamW::new(&cpu, 4, settings, groups([(0..1, false), (1..3, true), (3..4, false)]));
    optimiser.update(&cpu, &mut values, &cpu.zeros(1, 4), 0.1, 1.0);
    assert_eq!(cpu.to_host::<f64>(values.view()), [1.0, 0.95, 0.95, 1.0]);
}

#[test]
fn neighbours_with_the_same_decay_become_one_group() {
    let group = |range, decay| Group { range, decay };
    let joined = groups([(0..3, true), (3..5, true), (5..6, false), (6..9, true), (10..11, true), (11..11, true)]);
    assert_eq!(joined, [group(0..5, true), group(5..6, false), group(6..9, true), group(10..11, true)]);
    assert_eq!(groups([]), []);
}

#[test]
fn clipping_never_enlarges_and_zero_disables_it() {
    assert_eq!(clip(0.5, 1.0), 1.0);
    assert_eq!(clip(1e9, 0.0), 1.0);
    assert_eq!(clip(0.0, 1.0), 1.0);
    assert!((clip(4.0, 1.0) - 1.0 / (4.0 + 1e-6)).abs() < 1e-15);
}
