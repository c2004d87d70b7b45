//! Learning rates against those of transformers 5.23.0.

use optim::schedule::{Argument, NAMES, Schedule, Shape};
use serde_json::Value;

fn arguments(kwargs: &Value) -> Vec<(String, Argument)> {
    let argument = |value: &Value| match value {
        Value::String(text) => Argument::Text(text.clone()),
        number => Argument::Number(number.as_f64().unwrap()),
    };
    kwargs.as_object().unwrap().iter().map(|(key, value)| (key.clone(), argument(value))).collect()
}

/// Compares every update of every case; returns the schedules it met.
fn check(fixture: &str) -> Vec<String> {
    let cases: Value = serde_json::from_str(fixture).unwrap();
    let mut seen = Vec::new();
    for case in cases.as_array().unwrap() {
        let name = case["scheduler"].as_str().unwrap();
        let base_lr = case["base_lr"].as_f64().unwrap();
        let shape = Shape::parse(name, &arguments(&case["kwargs"]), base_lr).unwrap();
        let [warmup, total] = ["warmup_steps", "total_steps"].map(|key| case[key].as_u64().unwrap());
        let schedule = Schedule { shape, warmup, total };
        let rates = case["lr"].as_array().unwrap();
        assert_eq!(rates.len() as u64, total);
        for (t, rate) in rates.iter().enumerate() {
            let (expected, found) = (rate.as_f64().unwrap(), base_lr * schedule.factor(t as u64));
            let error = (found - expected).abs() / base_lr;
            assert!(
                error < 1e-12,
                "{name} {} {warmup}/{total} at {t}: expected {expected}, found {found}",
                case["kwargs"]
            );
        }
        seen.push(name.to_owned());
    }
    seen
}

#[test]
fn every_schedule_has_the_rates_of_transformers() {
    let seen = check(include_str!("../../../fixtures/optim/schedules.json"));
    for (name, _) in NAMES {
        assert!(seen.iter().any(|other| other == name), "{name} has no reference rates");
    }
}

#[test]
fn arguments_away_from_their_defaults_have_the_rates_of_transformers() {
    let seen = check(include_str!("../../../fixtures/optim/schedule_arguments.json"));
    assert_eq!(seen.len(), 9);
}
