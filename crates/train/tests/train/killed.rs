//! A run that checkpoints every step, killed at a hundred random moments.

use crate::{Bits, Scratch, finish, lora, over, resume, small};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use testkit::noise;
use train::{Control, Event};

const NAME: &str = "killed::a_run_killed_at_a_hundred_moments_ends_with_the_same_bits";
const CONFIG: &str = "PROSPECT_TEST_KILLED";

/// An adapter with dropout and evaluation, or all weights with a cached reference; `kind` alternates.
fn config(kind: usize, output: &Path) -> Value {
    let every = json!({"save_steps": 1, "save_total_limit": 2, "max_steps": 8, "logging_steps": 3});
    if kind.is_multiple_of(2) {
        let eval = json!({"lora_dropout": 0.1, "disable_dropout": false, "val_size": 8, "eval_strategy": "steps",
            "eval_steps": 1, "load_best_model_at_end": true, "report_to": "tensorboard"});
        small("kto", output, over(&over(&lora(), eval), every))
    } else {
        small("kto", output, every)
    }
}

/// Trains on from wherever the run is; a byte on stdout marks the opening and every step.
fn train_and_mark(config: &str) {
    let loaded = config::load("child.yaml", config, &[]).unwrap_or_else(|e| panic!("{e:?}"));
    let mut observe = |event| {
        if matches!(event, Event::Opening(_) | Event::Step { .. } | Event::Saved(_)) {
            std::io::stdout().write_all(b".").and_then(|()| std::io::stdout().flush()).unwrap();
        }
    };
    train::run(&loaded, &[], &Control::default(), &mut observe).unwrap_or_else(|e| panic!("{e}"));
}

/// Starts a process that trains and kills it some way into its work; `false` if it was done before that.
fn killed(config: &Value, kill: usize) -> bool {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(CONFIG, config.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap();
    let draw: Vec<f64> = noise(3, kill as u64 + 1).iter().map(|x| (x + 1.0) / 2.0).collect();
    // Some way into the work, and then some way into what follows; now and then before any of it.
    let marks = if draw[0] < 0.2 { 0 } else { (draw[1] * 24.0) as usize };
    let until = Duration::from_micros((draw[2] * if marks == 0 { 30_000.0 } else { 12_000.0 }) as u64);
    // Held until the kill: a closed pipe would end the child in another way.
    let mut out = child.stdout.take().unwrap();
    let mut byte = [0];
    let mut seen = 0;
    while seen < marks && out.read(&mut byte).unwrap() == 1 {
        seen += usize::from(byte == *b".");
    }
    let from = Instant::now();
    while from.elapsed() < until {
        std::hint::spin_loop();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(status.success() || status.code().is_none(), "kill {kill}: the run ended with {status}");
    !status.success()
}

#[test]
fn a_run_killed_at_a_hundred_moments_ends_with_the_same_bits() {
    if let Some(config) = std::env::var_os(CONFIG) {
        return train_and_mark(&config.to_string_lossy());
    }
    let scratch = Scratch::new("killed");
    let whole = [0, 1].map(|kind| {
        let output = scratch.join(&format!("whole-{kind}"));
        finish(&config(kind, &output));
        Bits::of(&output, 8)
    });
    let (mut kills, mut runs) = (0, 0);
    while kills < 100 {
        let output = scratch.join(&runs.to_string());
        let config = over(&config(runs, &output), json!({"resume_from_checkpoint": true}));
        let mut cut = 0;
        while kills < 100 && killed(&config, kills) {
            kills += 1;
            cut += 1;
        }
        if kills == 100 {
            resume(&config);
        }
        Bits::of(&output, 8).assert_same(&whole[runs % 2], &format!("run {runs}, killed {cut} times"));
        runs += 1;
    }
    assert!(runs > 3, "only {runs} runs came to their end");
}
