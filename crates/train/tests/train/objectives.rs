//! The objectives through whole runs: references, the self-test, class weights, adapters that are given, steps of one class.

use crate::lab::{Lab, PLAIN, Stepped};
use crate::{Bits, Scratch, finish, log_of, logged, lora, notes, over, resume, rows, small, stop_after, train};
use kernels::Cpu;
use objective::metrics::Metric;
use rundir::{Opening, RunFolder, Status};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use train::step::{Execution, RowGroup, preference_step, score_preference};
use train::{Control, Error, Event};

/// Runs `config` in a folder of its own and returns what has to repeat.
fn bits_of(scratch: &Scratch, name: &str, config: &dyn Fn(&Path) -> Value) -> Bits {
    let output = scratch.join(name);
    let ended = finish(&config(&output));
    Bits::of(&output, ended.step)
}

/// A short KTO run with an adapter.
fn short(output: &Path, with: Value) -> Value {
    small("kto", output, over(&over(&lora(), json!({"max_steps": 4})), with))
}

/// An adapter that was trained for a few steps, so that its B is not zero.
fn trained_adapter(scratch: &Scratch) -> Value {
    let output = scratch.join("adapter");
    finish(&short(&output, json!({})));
    json!({
        "adapter_name_or_path": output.join("final"),
        "use_peft": null, "lora_r": null, "lora_alpha": null, "lora_dropout": null, "lora_target_modules": null,
    })
}

/// The first line of a log in which policy and reference are one model.
fn assert_starts_at_its_reference(output: &Path, mean_weight: f64) {
    let first = &log_of(output)[0];
    let at = |key: &str| first[key].as_f64().unwrap_or_else(|| panic!("no {key} in {first}"));
    assert_eq!(at("step"), 1.0);
    assert_eq!(at("loss"), 0.5 * mean_weight);
    for key in ["kl", "kl_raw", "rewards/chosen", "rewards/rejected", "rewards/margins", "frac_r_positive"] {
        assert_eq!(at(key), 0.0, "{key}");
    }
    assert!(logged(output, "rewards/margins")[1..].iter().any(|r| *r != 0.0), "nothing was learned");
}

#[test]
fn every_kind_of_reference_passes_the_self_test() {
    let scratch = Scratch::new("self-test");
    let given = trained_adapter(&scratch);
    let full = json!({"use_peft": null});
    let cases = [
        ("fresh adapter", json!({})),
        ("fresh adapter, dropout", json!({"lora_dropout": 0.2, "disable_dropout": false})),
        ("fresh adapter, cached", json!({"precompute_ref_log_probs": true})),
        ("given adapter", given.clone()),
        ("given adapter, cached", over(&given, json!({"precompute_ref_log_probs": true}))),
        ("full", full.clone()),
        ("full, micro-batches", over(&full, json!({"z0_scope": "micro_batch", "pairing": "trl"}))),
        ("full, kto_s", over(&full, json!({"loss_type": "kto_s"}))),
    ];
    for (name, keys) in cases {
        let output = scratch.join(name);
        finish(&short(&output, keys));
        assert_starts_at_its_reference(&output, 1.0);
    }
}

#[test]
fn a_cached_reference_gives_the_bits_of_a_computed_one() {
    let scratch = Scratch::new("cached");
    let given = trained_adapter(&scratch);
    for (name, keys) in [("fresh", json!({})), ("given", given)] {
        let computed = bits_of(&scratch, &format!("{name} computed"), &|o| short(o, keys.clone()));
        let cache = over(&keys, json!({"precompute_ref_log_probs": true}));
        bits_of(&scratch, &format!("{name} cached"), &|o| short(o, cache.clone())).assert_same(&computed, name);
    }
}

#[test]
fn a_given_adapter_is_trained_on_from_where_it_stands() {
    let scratch = Scratch::new("given");
    let given = trained_adapter(&scratch);
    // An update of zero leaves the adapter as it was given, and its rewards at zero.
    let output = scratch.join("still");
    finish(&short(&output, over(&given, json!({"learning_rate": 0.0}))));
    let file = |dir: &Path| std::fs::read(dir.join(weights::ADAPTER_WEIGHTS_FILE)).unwrap();
    assert!(file(&output.join("final")) == file(&scratch.join("adapter/final")));
    assert!(logged(&output, "rewards/chosen").iter().chain(&logged(&output, "kl_raw")).all(|x| *x == 0.0));
    // Its log-probabilities are not the base model's.
    let base = scratch.join("base");
    finish(&short(&base, json!({"learning_rate": 0.0})));
    let gap = logged(&output, "logps/chosen")[0] - logged(&base, "logps/chosen")[0];
    assert!(gap.abs() > 1e-3, "{gap}");
}

#[test]
fn keys_that_disagree_with_a_given_adapter_are_refused() {
    let scratch = Scratch::new("claims");
    let given = trained_adapter(&scratch);
    let agreeing = json!({"lora_r": 4, "lora_alpha": 8, "lora_target_modules": "all-linear", "use_rslora": false});
    finish(&short(&scratch.join("agrees"), over(&given, agreeing)));
    for (key, value, found) in [
        ("lora_r", json!(8), "4"),
        ("lora_alpha", json!(16), "8"),
        ("use_rslora", json!(true), "false"),
        ("lora_target_modules", json!(["q_proj", "v_proj"]), "down_proj"),
    ] {
        let config = short(&scratch.join(key), over(&given, json!({key: value})));
        let error = train(&config, &Control::default(), &mut Vec::new()).unwrap_err();
        let text = error.to_string();
        assert_eq!(error.exit_code(), 2, "{text}");
        assert!(text.contains(key) && text.contains(found) && text.contains("adapter/final"), "{text}");
    }
}

/// Commits a checkpoint of step 0 whose adapter is not the one the run began with.
fn plant_another_start(run: &Path) {
    let from = run.join("checkpoint-0");
    let manifest = rundir::verify(&from).unwrap().manifest;
    let mut adapter = weights::Adapter::load(&from).unwrap();
    adapter.pairs[0].b.to_mut()[0] = 0.5;
    let optimizer = std::fs::read(from.join("optimizer.safetensors")).unwrap();
    let folder = RunFolder::open(run, Opening::Resume).unwrap();
    let staging = folder.begin_checkpoint(0).unwrap();
    weights::save_adapter(staging.path(), &adapter.config, &adapter.pairs, &[], weights::DType::F32).unwrap();
    std::fs::write(staging.path().join("optimizer.safetensors"), optimizer).unwrap();
    staging.commit(manifest.meta).unwrap();
}

#[test]
fn a_policy_that_does_not_start_at_its_reference_is_stopped() {
    let scratch = Scratch::new("planted");
    let output = scratch.join("run");
    stop_after(&short(&output, json!({})), 0);
    plant_another_start(&output);
    let config = short(&output, json!({"resume_from_checkpoint": true}));
    let error = train(&config, &Control::default(), &mut Vec::new()).unwrap_err();
    assert!(matches!(error, Error::Objective(objective::Error::SelfTest { .. })), "{error}");
    assert_eq!(error.exit_code(), 5);
    assert!(error.to_string().contains("log-ratio"), "{error}");
    let status = Status::read(&output).unwrap();
    assert_eq!((status.exit_code, status.step), (Some(5), 0));
    assert!(!output.join("final").exists());
}

#[test]
fn one_rounding_in_the_cached_reference_fails_the_self_test() {
    let config = small("kto", &std::env::temp_dir(), json!({}));
    let mut lab = Lab::new(Cpu::<f32>::new(1), &config, 0.0);
    let off = |lab: &Lab<Cpu<f32>>| lab.preference_step(PLAIN, 0..48).report.off_reference;
    assert_eq!(off(&lab), None);
    for (row, which) in [(5, 0), (7, 1)] {
        let kept = lab.cached[row][which];
        lab.cached[row][which] = f64::from_bits(kept.to_bits() + 1);
        let error = off(&lab).expect("caught");
        assert_eq!(error.exit_code(), 5);
        if which == 0 {
            assert!(matches!(error, objective::Error::SelfTest { row: Some(5), .. }), "{error}");
        }
        lab.cached[row][which] = kept;
    }
}

/// A KTO lab whose cached log-ratios are `matched` on rows 0..4, and `1.0` on average where mismatched.
fn with_ratios(loss: &str, matched: [f64; 4]) -> Lab<Cpu<f32>> {
    let config = small("kto", &std::env::temp_dir(), json!({"loss_type": loss}));
    let mut lab = Lab::new(Cpu::<f32>::new(1), &config, 0.0);
    for (cached, r) in lab.cached.iter_mut().zip(matched) {
        *cached = [cached[0] - r, cached[1] - 1.0];
    }
    lab
}

#[test]
fn kto_s_equals_kto_where_no_likelihood_rose_and_nowhere_else() {
    let step = |loss, ratios| -> Stepped { with_ratios(loss, ratios).preference_step(PLAIN, 0..4) };
    let fell = [-0.5, -2.0, -0.1, -7.0];
    let (kto, kto_s) = (step("kto", fell), step("kto_s", fell));
    assert!((kto.metric(Metric::Kl) - 1.0).abs() < 1e-9);
    kto_s.assert_same(&kto, "all likelihoods fell");
    let mixed = [-0.5, 2.0, -0.1, -7.0];
    let (kto, kto_s) = (step("kto", mixed), step("kto_s", mixed));
    assert_eq!(kto.report.groups, kto_s.report.groups);
    assert!(kto.report.loss != kto_s.report.loss && kto.gradient != kto_s.gradient);
}

#[test]
fn both_spellings_of_kto_s_are_one_run() {
    let scratch = Scratch::new("spelling");
    let keys = json!({"max_steps": 8, "learning_rate": 2e-2});
    let run = |name: &str, with: Value| {
        bits_of(&scratch, name, &|o| small("kto", o, over(&over(&lora(), keys.clone()), with.clone())))
    };
    let named = run("named", json!({"loss_type": "kto_s"}));
    run("flag", json!({"use_kto_s": true})).assert_same(&named, "use_kto_s");
    assert!(run("kto", json!({})) != named, "kto_s is kto");
}

#[test]
fn apo_zero_reads_no_mismatched_row() {
    let config = small("kto", &std::env::temp_dir(), json!({"loss_type": "apo_zero_unpaired"}));
    let mut lab = Lab::new(Cpu::<f32>::new(1), &config, 0.02);
    let plain = lab.preference_step(PLAIN, 0..4);
    assert_eq!(plain.metric(Metric::Kl), 0.0);
    assert!(plain.report.groups.iter().flatten().all(|(m, _)| *m != Metric::KlRaw));
    assert_eq!(lab.scored(0..4).kl_tokens, 0);
    lab.cached.iter_mut().for_each(|c| c[1] = f64::NAN);
    lab.preference_step(PLAIN, 0..4).assert_same(&plain, "without mismatched references");
}

#[test]
fn automatic_weights_are_the_papers_rule() {
    let scratch = Scratch::new("weights");
    let skewed = json!({"dataset_name": rows("kto_skewed.jsonl"), "max_steps": 3});
    let run = |name: &str, with: Value| bits_of(&scratch, name, &|o| short(o, over(&skewed, with.clone())));
    let auto = run("auto", json!({"desirable_weight": "auto"}));
    // 13 desirable rows of 48: Eq. 9 asks for 13 w / 35 between 1 and 1.5; the rule takes 1.25.
    let labels = std::fs::read_to_string(rows("kto_skewed.jsonl")).unwrap();
    let good = labels.matches("\"label\": true").count() as f64;
    let weight = 1.25 * (48.0 - good) / good;
    run("given", json!({"desirable_weight": weight})).assert_same(&auto, "the number instead of auto");
    let first = &log_of(&scratch.join("auto"))[0];
    let (n, of) = (first["n_chosen"].as_f64().unwrap(), first["n_rejected"].as_f64().unwrap());
    let mean = (n * weight + of) / (n + of);
    assert!((first["loss"].as_f64().unwrap() - 0.5 * mean).abs() < 1e-12, "{first}");

    let mut events = Vec::new();
    let undesirable = short(&scratch.join("undesirable"), over(&skewed, json!({"undesirable_weight": "auto"})));
    train(&undesirable, &Control::default(), &mut events).unwrap();
    assert!(notes(&events).contains(&format!("{:.4}", good / (1.25 * (48.0 - good)))), "{}", notes(&events));
}

/// A run whose rows are all desirable.
fn all_good(output: &Path, with: Value) -> Value {
    short(output, over(&json!({"dataset_name": rows("kto_all_good.jsonl")}), with))
}

#[test]
fn steps_of_one_class_have_their_exact_loss_and_are_counted() {
    let scratch = Scratch::new("one-class");
    let output = scratch.join("exact");
    let mut events = Vec::new();
    train(&all_good(&output, json!({})), &Control::default(), &mut events).unwrap();
    assert_eq!(notes(&events).matches("all rows are desirable").count(), 1, "{}", notes(&events));
    assert!(logged(&output, "rewards/rejected").is_empty() && logged(&output, "n_rejected") == [0.0; 4]);
    let losses = logged(&output, "loss");
    assert!(losses[0] == 0.5 && losses.iter().all(|l| l.is_finite()) && losses[3] != 0.5, "{losses:?}");
    let log = std::fs::read_to_string(output.join("train.log")).unwrap();
    assert!(log.contains("4 steps had rows of one class only"), "{log}");
}

#[test]
fn a_step_of_one_class_can_be_skipped() {
    let scratch = Scratch::new("skip");
    let output = scratch.join("run");
    let config = all_good(&output, json!({"homogeneous_batch": "skip", "weight_decay": 0.5}));
    let mut events = Vec::new();
    train(&config, &Control::default(), &mut events).unwrap();
    assert!(notes(&events).contains("skipped"), "{}", notes(&events));
    let optimizer = weights::SafeTensors::open(&output.join("checkpoint-4/optimizer.safetensors")).unwrap();
    assert!(optimizer.infos().all(|i| optimizer.get(&i.name).unwrap().to_f32().unwrap().iter().all(|x| *x == 0.0)));
    let adapter = weights::Adapter::load(&output.join("final")).unwrap();
    assert!(adapter.pairs.iter().all(|p| p.b.iter().all(|x| *x == 0.0)));
    assert_eq!(logged(&output, "loss"), [0.5; 4]);
}

#[test]
fn a_watched_kl_warns_and_stops() {
    let scratch = Scratch::new("kl");
    let output = scratch.join("run");
    // Twenty times the usual rate moves the policy off its reference within a few steps.
    let hot = |with: Value| small("kto", &output, over(&over(&lora(), json!({"learning_rate": 2e-2})), with));
    finish(&hot(json!({"overwrite_output_dir": true})));
    let seen = logged(&output, "kl");
    let at = seen.iter().position(|kl| *kl > 0.0).expect("some step has a kl above zero");
    let limit = seen[at] / 2.0;

    let mut events = Vec::new();
    train(&hot(json!({"overwrite_output_dir": true, "kl_warn": limit})), &Control::default(), &mut events).unwrap();
    let said = notes(&events);
    assert!(said.contains(&format!("step {}: kl ", at + 1)) && said.contains("kl_warn"), "{said}");

    let mut events = Vec::new();
    let stop = json!({"overwrite_output_dir": true, "kl_stop": limit});
    let error = train(&hot(stop), &Control::default(), &mut events).unwrap_err();
    assert_eq!(error.exit_code(), 5);
    let text = error.to_string();
    assert!(["kl_stop", "kto_s", "beta", "learning_rate"].iter().all(|part| text.contains(part)), "{text}");
    let step = at as u64 + 1;
    assert!(matches!(error, Error::KlStop { step: s, .. } if s == step), "{error:?}");
    assert!(rundir::verify(&output.join(format!("checkpoint-{step}"))).is_ok(), "the state was not saved");
    assert_eq!(log_of(&output).len() as u64, step, "the step that was stopped at is logged");
    assert!(!output.join("final").exists());
    assert_eq!(Status::read(&output).unwrap().exit_code, Some(5));
    // Without the limit the run goes on to the end it would have had.
    resume(&hot(json!({})));
    let went_on = logged(&output, "kl");
    assert_eq!(went_on, seen);
    assert!(events.iter().any(|e| matches!(e, Event::Saved(_))));
}

#[test]
fn an_interrupted_step_is_abandoned_at_any_pack() {
    let config = small("kto", &std::env::temp_dir(), lora());
    let lab = Lab::new(Cpu::<f32>::new(1), &config, 0.02);
    for z0_first in [false, true] {
        let execution = Execution { budget_rows: 100, z0_first, ..PLAIN };
        let (asked, limit) = (AtomicU32::new(0), AtomicU32::new(u32::MAX));
        let interrupted = || asked.fetch_add(1, Ordering::SeqCst) >= limit.load(Ordering::SeqCst);
        let mut cx = lab.context(execution);
        cx.interrupted = &interrupted;
        let run = |most: u32| {
            asked.store(0, Ordering::SeqCst);
            limit.store(most, Ordering::SeqCst);
            let mut grads = train::gradient::Gradient::running(&lab.backend, lab.policy.table.len());
            let group = RowGroup { rows: (0..8).collect(), normaliser: vec![0.125; 8] };
            preference_step(&cx, &lab.preference(), &[group], &mut grads).is_ok()
        };
        // Once before each pack of the reference, of the policy, and of the backward pass.
        score_preference(&cx, &lab.preference(), &[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        let asked = || asked.load(Ordering::SeqCst);
        let packs = asked() / 2;
        assert!(packs > 2 && run(u32::MAX) && asked() == 3 * packs, "asked {} times", asked());
        assert!((0..3 * packs).all(|most| !run(most)) && run(3 * packs));
    }
}
