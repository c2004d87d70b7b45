//! A run that was stopped and resumed equals one that was not, bit for bit.

use crate::{Bits, Damage, Scratch, finish, logged, lora, notes, over, resume, rows, small, stop_after};
use rundir::{Opening, RunFolder};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};
use train::{Control, Event};

/// An adapter with dropout; evaluation, the best checkpoint at the end, a logging window that is half full, rotation.
fn busy(output: &Path) -> Value {
    let keys = json!({
        "lora_dropout": 0.1,
        "disable_dropout": false,
        "val_size": 8,
        "eval_strategy": "steps",
        "eval_steps": 3,
        "save_steps": 3,
        "save_total_limit": 2,
        "load_best_model_at_end": true,
        "logging_steps": 5,
    });
    small("kto", output, over(&lora(), keys))
}

/// All weights, with the cached reference, of rows that do not divide into steps.
fn full(output: &Path) -> Value {
    small("kto", output, json!({"dataset_name": rows("kto_chat46.jsonl"), "gradient_accumulation_steps": 3}))
}

/// All weights, stored in 16 bits.
fn rounded(output: &Path) -> Value {
    small("sft", output, json!({"dtype": "bfloat16", "eval_strategy": "epoch", "val_size": 40, "max_steps": 5}))
}

/// All weights in 16 bits and nowhere else, rounded at random; moments in eight bits.
fn light(output: &Path) -> Value {
    let keys = json!({"dtype": "bfloat16", "optim_master": "none", "optim": "paged_adamw_8bit", "max_steps": 4, "learning_rate": 1e-3});
    small("kto", output, keys)
}

/// Packed text with an adapter whose dropout acts.
fn packed(output: &Path) -> Value {
    let keys = json!({
        "dataset_name": rows("sft_text46.jsonl"),
        "max_length": 64,
        "packing": true,
        "packing_strategy": "bfd_split",
        "lora_dropout": 0.1,
        "logging_steps": 4,
    });
    small("sft", output, over(&lora(), keys))
}

/// Three evaluations, none of which counts as better than the first: stops after step 9.
fn early(output: &Path) -> Value {
    over(&busy(output), json!({"early_stopping_patience": 2, "early_stopping_threshold": 5.0}))
}

/// Stops a run after each of its steps and resumes it.
fn assert_resumes_at_every_step(config: fn(&Path) -> Value, steps: u64) {
    let scratch = Scratch::new("resume");
    let whole = scratch.join("whole");
    assert_eq!(finish(&config(&whole)).step, steps);
    let whole = Bits::of(&whole, steps);
    for stopped in 0..steps {
        let output = scratch.join(&stopped.to_string());
        stop_after(&config(&output), stopped);
        let said = notes(&resume(&config(&output)));
        // Before the first step there is nothing to go on from where the reference was still being taken.
        assert!(stopped == 0 || said.contains(&format!("checkpoint-{stopped} (step {stopped} of ")), "{said}");
        Bits::of(&output, steps).assert_same(&whole, &format!("stopped after step {stopped}"));
    }
}

#[test]
fn moments_on_a_disk_have_the_bits_of_those_in_memory() {
    let scratch = Scratch::new("offload");
    let disk = json!({"offload_optimizer_device": "nvme"});
    for (name, config) in [("full", full as fn(&Path) -> Value), ("light", light)] {
        let short = |output: &Path| over(&config(output), json!({"max_steps": 4}));
        let (whole, output) = (scratch.join(&format!("{name}-whole")), scratch.join(name));
        finish(&short(&whole));
        stop_after(&over(&short(&output), disk.clone()), 2);
        // Where they are decides nothing: the last steps are made in memory, from what the disk had.
        stop_after(&over(&short(&output), json!({"resume_from_checkpoint": true})), 3);
        resume(&over(&short(&output), disk.clone()));
        Bits::of(&output, 4).assert_same(&Bits::of(&whole, 4), name);
        let left = std::fs::read_dir(&output)
            .unwrap()
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().starts_with(".room"));
        assert_eq!(left.count(), 0);
    }
    let nowhere = over(&disk, json!({"offload_optimizer_nvme_path": scratch.join("nowhere")}));
    let refused = crate::train(&over(&light(&scratch.join("refused")), nowhere), &Control::default(), &mut Vec::new());
    let refused = refused.expect_err("no such folder");
    assert!(refused.exit_code() == 6 && refused.to_string().contains("nowhere"), "{refused}");
}

#[test]
fn a_busy_run_resumes_at_every_step() {
    assert_resumes_at_every_step(busy, 12);
}

#[test]
fn a_run_in_little_memory_resumes_at_every_step() {
    assert_resumes_at_every_step(light, 4);
}

#[test]
fn a_full_run_resumes_at_every_step() {
    assert_resumes_at_every_step(full, 12);
}

#[test]
fn a_run_of_rounded_weights_resumes_at_every_step() {
    assert_resumes_at_every_step(rounded, 5);
}

#[test]
fn a_packed_run_resumes_at_every_step() {
    assert_resumes_at_every_step(packed, 12);
}

#[test]
fn a_run_that_stops_early_resumes_at_every_step() {
    assert_resumes_at_every_step(early, 9);
}

/// Goes on from each checkpoint of a run that ended, as after a kill in the instant after it was committed.
fn assert_resumes_from_every_checkpoint(config: &Value, output: &Path, steps: u64) {
    let config = over(config, json!({"save_steps": 1, "save_total_limit": null, "load_best_model_at_end": null}));
    assert_eq!(finish(&config).step, steps);
    let whole = Bits::of(output, steps);
    for step in 1..=steps {
        let from = json!({"resume_from_checkpoint": output.join(format!("checkpoint-{step}"))});
        assert_eq!(finish(&over(&config, from)).step, steps);
        Bits::of(output, steps).assert_same(&whole, &format!("from checkpoint {step}"));
    }
}

#[test]
fn every_checkpoint_holds_all_that_its_step_did() {
    let scratch = Scratch::new("checkpoints");
    // What happens at the end of an epoch comes before the checkpoint of its last step.
    let at_epochs = json!({"eval_strategy": "epoch", "logging_strategy": "epoch", "val_size": 28, "max_steps": 6});
    let output = scratch.join("epochs");
    assert_resumes_from_every_checkpoint(&over(&packed(&output), at_epochs), &output, 6);
    assert!(logged(&output, "eval_loss").len() > 1, "only one epoch");
    // A run that has given up is not resumed into a further step.
    let output = scratch.join("early");
    assert_resumes_from_every_checkpoint(&early(&output), &output, 9);
}

/// Trains until a moment after the first step, somewhere in the next ones; whether it was over before that.
fn stop_in_the_middle(config: &Value, after: Duration) -> bool {
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
    let control = Control::default();
    let (stepped, steps) = std::sync::mpsc::channel();
    let stop = &control.stop;
    let ended = std::thread::scope(|threads| {
        threads.spawn(move || {
            let _ = steps.recv();
            let from = Instant::now();
            while from.elapsed() < after {
                std::hint::spin_loop();
            }
            stop.store(true, Ordering::SeqCst);
        });
        let mut observe = |event| {
            if matches!(event, Event::Step { .. }) {
                stepped.send(()).unwrap_or_default();
            }
        };
        let ended = train::run(&loaded, &[], &control, &mut observe);
        drop(stepped);
        ended
    });
    !ended.unwrap_or_else(|e| panic!("{e}")).stopped
}

#[test]
fn a_run_stopped_in_the_middle_of_steps_resumes() {
    for config in [busy, full] {
        let scratch = Scratch::new("middle");
        let (whole, cut) = (scratch.join("whole"), scratch.join("cut"));
        finish(&config(&whole));
        let again = over(&config(&cut), json!({"resume_from_checkpoint": true}));
        let stops = (0..).take_while(|i| !stop_in_the_middle(&again, Duration::from_micros(700 * i))).count();
        assert!(stops > 0, "the run was over before it was stopped");
        Bits::of(&cut, 12).assert_same(&Bits::of(&whole, 12), &format!("stopped {stops} times"));
    }
}

#[test]
fn a_request_to_save_saves_and_goes_on() {
    let scratch = Scratch::new("save");
    let (whole, saved) = (scratch.join("whole"), scratch.join("saved"));
    finish(&busy(&whole));
    let control = Control::default();
    let mut events = Vec::new();
    let loaded = config::load("test.yaml", &busy(&saved).to_string(), &[]).unwrap();
    let ended = train::run(&loaded, &[], &control, &mut |event| {
        if matches!(event, Event::Step { step: 4, .. }) {
            control.save.store(true, Ordering::SeqCst);
        }
        events.push(event);
    });
    assert!(!ended.unwrap().stopped);
    let saves = |e: &Event| matches!(e, Event::Saved(path) if path.ends_with("checkpoint-4"));
    assert_eq!(events.iter().filter(|e| saves(e)).count(), 1);
    Bits::of(&saved, 12).assert_same(&Bits::of(&whole, 12), "saved on request");
}

#[test]
fn what_lies_beyond_a_checkpoint_goes_only_once_the_run_goes_on_from_it() {
    let scratch = Scratch::new("beyond");
    let (whole, run) = (scratch.join("whole"), scratch.join("run"));
    let config = |out: &Path| over(&full(out), json!({"save_steps": 4, "report_to": "tensorboard"}));
    finish(&config(&whole));
    finish(&config(&run));
    let kept = |name: &str| std::fs::read(run.join(name)).unwrap();
    let names = ["log.jsonl", "train.log", "checkpoint-8/MANIFEST.json", "checkpoint-12/MANIFEST.json"];
    let before = names.map(kept);
    // It is stopped while it loads; a model that does not load, or fit, is no other case.
    let again = over(&config(&run), json!({"resume_from_checkpoint": run.join("checkpoint-4")}));
    stop_at(&again, 4, |event| matches!(event, Event::Opening(_)));
    assert!(names.map(kept) == before);
    stop_at(&again, 6, |event| matches!(event, Event::Step { step: 6, .. }));
    assert!(!run.join("checkpoint-8").exists() && !run.join("checkpoint-12").exists());
    resume(&config(&run));
    Bits::of(&run, 12).assert_same(&Bits::of(&whole, 12), "gone on from its first checkpoint");
}

/// Trains until something happens, and asks to stop then.
fn stop_at(config: &Value, step: u64, moment: impl Fn(&Event) -> bool) {
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
    let control = Control::default();
    let ended = train::run(&loaded, &[], &control, &mut |event| {
        if moment(&event) {
            control.stop.store(true, Ordering::SeqCst);
        }
    });
    let ended = ended.unwrap_or_else(|e| panic!("{e}"));
    assert!(ended.exit_code() == 75 && ended.step == step, "{ended:?}");
}

#[test]
fn a_lost_or_damaged_reference_is_taken_again() {
    let scratch = Scratch::new("reference");
    let whole = scratch.join("whole");
    finish(&full(&whole));
    let whole = Bits::of(&whole, 12);
    let damage: [(&str, Damage); 3] = [
        ("lost", |file| std::fs::remove_file(file).unwrap()),
        ("cut short", |file| std::fs::write(file, [0; 48]).unwrap()),
        ("changed", |file| {
            let mut bytes = std::fs::read(file).unwrap();
            bytes[100] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
    ];
    for (what, damage) in damage {
        let output = scratch.join(what);
        stop_after(&full(&output), 5);
        damage(&output.join("reference.bin"));
        resume(&full(&output));
        Bits::of(&output, 12).assert_same(&whole, what);
    }
}

#[test]
fn a_run_killed_before_it_had_begun_begins() {
    let scratch = Scratch::new("unbegun");
    let (whole, killed) = (scratch.join("whole"), scratch.join("killed"));
    finish(&busy(&whole));
    // The folder is there and marked as a run's, and nothing else was written.
    drop(RunFolder::open(&killed, Opening::Create).unwrap());
    resume(&busy(&killed));
    Bits::of(&killed, 12).assert_same(&Bits::of(&whole, 12), "begun on resume");
    assert!(["config.yaml", "lock.json", "inputs/inputs.json"].iter().all(|f| killed.join(f).is_file()));
}

#[test]
fn a_longer_run_takes_the_reference_of_the_rows_it_adds() {
    let scratch = Scratch::new("longer");
    let (whole, longer) = (scratch.join("whole"), scratch.join("longer"));
    let constant = json!({"lr_scheduler_type": "constant"});
    finish(&over(&full(&whole), constant.clone()));
    let config = over(&full(&longer), constant);
    finish(&over(&config, json!({"max_steps": 4})));
    resume(&config);
    Bits::of(&longer, 12).assert_same(&Bits::of(&whole, 12), "begun with four steps");
}

#[test]
fn a_run_that_is_done_is_resumed_to_the_same_end() {
    let scratch = Scratch::new("done");
    let output = scratch.join("run");
    let first = finish(&busy(&output));
    let (bits, card) = (Bits::of(&output, 12), std::fs::read_to_string(output.join("README.md")).unwrap());
    resume(&busy(&output));
    Bits::of(&output, 12).assert_same(&bits, "resumed when done");
    assert_eq!(std::fs::read_to_string(output.join("README.md")).unwrap(), card);
    let log = std::fs::read_to_string(output.join("train.log")).unwrap();
    assert_eq!(log.matches("Training complete").count(), 1, "{log}");
    assert!(first.values.iter().any(|(k, _)| k == "eval_loss"), "{first:?}");
}
