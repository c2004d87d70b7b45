//! Runs through the command line: planned, trained, stopped, resumed, listed.

use crate::{Scratch, golden, objects, stderr, text};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

#[test]
fn a_plan_says_what_would_happen_and_writes_nothing() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("max_steps: 8\nsave_steps: 3\nwarmup_steps: 2\nval_size: 8");
    let plan = objects(&scratch.succeeds(&["plan", text(&run), "--json", "learning_rate=2e-3"])).remove(0);
    assert_eq!(plan["rows"]["train"].as_u64().unwrap() + plan["rows"]["eval"].as_u64().unwrap(), 48);
    assert_eq!((&plan["steps"], &plan["checkpoints"]), (&json!(8), &json!([3, 6, 8])));
    let rates: Vec<f64> = plan["learning_rate"].as_array().unwrap().iter().map(|r| r.as_f64().unwrap()).collect();
    assert_eq!((rates.len(), rates[0], rates[2]), (8, 0.0, 2e-3));
    let parts: u64 = plan["memory_bytes"].as_object().unwrap().values().map(|b| b.as_u64().unwrap()).sum();
    assert_eq!(plan["memory_total_bytes"], json!(parts));
    let shown = scratch.succeeds(&["plan", text(&run)]);
    for part in
        ["trainable", "desirable", "learning rate", "expected peak", "checkpoint-3/ ... checkpoint-8/", "final/"]
    {
        assert!(shown.contains(part), "{part} in {shown}");
    }
    assert!(!scratch.join("run").exists());
}

#[test]
fn runs_are_trained_listed_shown_and_compared() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("max_steps: 3\nbf16: true\ntf32: true");
    let output = scratch.prospect(&["train", text(&run), "--json"]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in [
        "run folder     run",
        "note: `tf32` has no effect on the CPU",
        ", products in ",
        "step 3/3  loss ",
        "saved run/checkpoint-3",
        "prospect resume run",
        "prospect merge ",
        "prospect generate ",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let ended = objects(&String::from_utf8(output.stdout).unwrap()).remove(0);
    assert_eq!((&ended["step"], &ended["stopped"]), (&json!(3), &json!(false)));
    assert!(scratch.join("run/final/adapter_model.safetensors").exists());

    let again = scratch.prospect(&["train", text(&run)]);
    assert_eq!(again.status.code(), Some(2), "{}", stderr(&again));
    let quiet = scratch.prospect(&["--quiet", "train", text(&run), "output_dir=other", "beta=0.5"]);
    assert_eq!((quiet.status.code(), stderr(&quiet), quiet.stdout), (Some(0), String::new(), Vec::new()));

    let listed = objects(&scratch.succeeds(&["runs", "ls", "--json"]));
    assert_eq!(listed.iter().map(|run| run["state"].as_str().unwrap()).collect::<Vec<_>>(), ["finished"; 2]);
    let table = scratch.succeeds(&["runs", "ls", text(&scratch.0)]);
    assert!(table.lines().count() == 3 && table.contains("3/3"), "{table}");
    let shown = scratch.succeeds(&["runs", "show", "run"]);
    assert!(shown.contains("learning_rate") && shown.contains("rewards/margins"), "{shown}");
    let diff = scratch.succeeds(&["runs", "diff", "run", "other"]);
    assert!(diff.lines().any(|line| line.split_whitespace().collect::<Vec<_>>() == ["beta", "0.1", "0.5"]), "{diff}");
}

#[test]
fn a_run_is_replaced_only_by_one_that_has_begun() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("max_steps: 3\nsave_steps: 1");
    scratch.succeeds(&["train", text(&run)]);
    let before = adapter_of(&scratch.join("run"));
    let again = ["train", text(&run), "overwrite_output_dir=true"];
    let misspelt = scratch.prospect(&[&again[..], &["model_name_or_path=./qwem"]].concat());
    let alone = scratch.prospect(&["train", text(&run), "output_dir=alone", "model_name_or_path=./qwem"]);
    assert!(stderr(&misspelt).contains("qwem"), "{}", stderr(&misspelt));
    assert_eq!(misspelt.status.code(), alone.status.code());
    let shown = objects(&scratch.succeeds(&["runs", "show", "run", "--json"])).remove(0);
    assert_eq!((&shown["state"], &shown["checkpoints"]), (&json!("finished"), &json!([1, 2, 3])));
    assert_eq!(adapter_of(&scratch.join("run")), before);
    scratch.succeeds(&[&again[..], &["max_steps=2", "save_steps=2", "seed=7"]].concat());
    assert_ne!(adapter_of(&scratch.join("run")), before);

    // As if it had been killed while its first files moved in.
    std::fs::create_dir(scratch.join("run/.begun")).unwrap();
    for name in ["config.yaml", "lock.json", "status.json"] {
        std::fs::copy(scratch.join("run").join(name), scratch.join("run/.begun").join(name)).unwrap();
    }
    std::fs::remove_file(scratch.join("run/config.yaml")).unwrap();
    assert!(scratch.succeeds(&["runs", "ls"]).contains("killed"));
    scratch.succeeds(&["resume", "run"]);
    assert!(scratch.join("run/config.yaml").exists() && !scratch.join("run/.begun").exists());
}

/// The result of a run.
pub(crate) fn adapter_of(run: &Path) -> Vec<u8> {
    std::fs::read(run.join("final/adapter_model.safetensors")).unwrap()
}

/// Sums with right and wrong answers, half of each.
fn rows(path: &Path) {
    let row = |i: u32| {
        let (a, b) = (10 + 7 * i % 83, 11 + 5 * i % 71);
        let answer = if i.is_multiple_of(2) { a + b } else { a + b + 1 + i % 9 };
        json!({"prompt": format!("What is {a} + {b}?"), "completion": format!(" {a} + {b} = {answer}."), "label": i.is_multiple_of(2)})
    };
    let lines: Vec<String> = (0..100).map(|i| row(i).to_string()).collect();
    std::fs::write(path, lines.join("\n")).unwrap();
}

#[test]
fn the_test_configuration_runs_to_its_end() {
    let scratch = Scratch::new();
    rows(&scratch.join("rows.jsonl"));
    let configuration = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../configs/kto-test.yaml");
    let model = format!("model_name_or_path={}", golden("models/qwen2").display());
    scratch.succeeds(&["train", text(&configuration), &model, "dataset_name=rows.jsonl", "output_dir=run"]);
    let run = scratch.join("run");
    for step in [20, 40] {
        assert!(run.join(format!("checkpoint-{step}/MANIFEST.json")).exists(), "checkpoint {step}");
    }
    let log = objects(&std::fs::read_to_string(run.join("log.jsonl")).unwrap());
    let evaluations = log.iter().filter_map(|record| Some((record.get("eval_loss")?.as_f64()?, &record["step"])));
    let (_, best) = evaluations.min_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    assert!(run.join(format!("checkpoint-{best}/MANIFEST.json")).exists(), "the best, of step {best}");
    let best = run.join(format!("checkpoint-{best}/adapter_model.safetensors"));
    assert_eq!(std::fs::read(best).unwrap(), adapter_of(&run), "final/ is the best");
    let opening = std::fs::read_to_string(run.join("train.log")).unwrap();
    assert!(opening.contains("desirable") && opening.contains("Training complete"), "{opening}");
    assert_eq!(log.iter().filter(|record| record.get("loss").is_some()).count(), 50);
    let config: Value = objects(&scratch.succeeds(&["runs", "show", "run", "--json"])).remove(0)["config"].clone();
    assert!(config.as_array().unwrap().iter().any(|pair| *pair == json!(["lora_r", "8"])), "{config}");
}
