//! TRL's own runs, replayed from their `run.json` with `compat: trl`.

use crate::{Scratch, golden_dir, log_of, train};
use serde_json::{Map, Value, json};
use std::path::Path;
use train::Control;
use weights::SafeTensors;

/// Architectures that can be trained.
const TRAINABLE: [&str; 9] =
    ["deepseek_v3", "gpt_oss", "llama", "llama31", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3"];

fn read_json(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// TRL's arguments as our configuration.
fn config_of(run: &Value, dir: &Path, output: &Path) -> Value {
    let at = |key: &str| golden_dir().join(run[key].as_str().unwrap()).display().to_string();
    let trainer = if run["trainer"] == "KTOTrainer" { "kto" } else { "sft" };
    let mut config: Map<String, Value> = run["args"].as_object().unwrap().clone();
    for (key, value) in [
        ("trainer", json!(trainer)),
        ("compat", json!("trl")),
        ("model_name_or_path", json!(at("model"))),
        ("dataset_name", json!(at("data"))),
        ("output_dir", json!(output)),
    ] {
        config.insert(key.to_owned(), value);
    }
    if dir.join("adapter_init").is_dir() {
        config.insert("adapter_name_or_path".to_owned(), json!(dir.join("adapter_init")));
    }
    Value::Object(config)
}

/// One logged key against the reference, within the tolerance its kind has.
fn compare_key(run: &str, step: usize, key: &str, want: f64, got: Option<f64>) {
    let got = got.unwrap_or_else(|| panic!("{run} step {step}: {key} is not logged"));
    let absolute = key == "kl" || key.starts_with("rewards/") || key.starts_with("logits/");
    let gap = if absolute { (got - want).abs() } else { (got - want).abs() / want.abs().max(1e-12) };
    let same_zero = want == 0.0 && got.abs() < 1e-12;
    assert!(gap <= 2e-5 || same_zero, "{run} step {step}: {key} is {got}, TRL has {want}");
}

fn compare_logs(run: &str, dir: &Path, output: &Path) {
    let text = std::fs::read_to_string(dir.join("steps.jsonl")).unwrap();
    let want: Vec<Value> =
        text.lines().map(|l| serde_json::from_str(l).unwrap()).filter(|v: &Value| v.get("loss").is_some()).collect();
    let got = log_of(output);
    assert_eq!(got.len(), want.len(), "{run}: logged steps");
    for (i, (want, got)) in want.iter().zip(&got).enumerate() {
        for (key, value) in want.as_object().unwrap() {
            compare_key(run, i + 1, key, value.as_f64().unwrap(), got.get(key).and_then(Value::as_f64));
        }
    }
}

fn compare_tensors(run: &str, want: &Path, got: &Path) {
    let (want, got) = (SafeTensors::open(want).unwrap(), SafeTensors::open(got).unwrap());
    for info in want.infos() {
        let experts = if info.shape.len() == 3 { info.shape[0] } else { 0 };
        let ours = |name: &str| got.get(name).map(|t| t.to_f32().unwrap());
        // A tied head is written twice by the reference and once by us.
        let Some(g) = testkit::stacked(&info.name, experts, ours) else {
            assert_eq!(info.name, "lm_head.weight", "{run}");
            continue;
        };
        let w = want.get(&info.name).unwrap().to_f32().unwrap();
        let largest = w.iter().fold(0.0f32, |m, x| m.max(x.abs()));
        let gap = w.iter().zip(&g).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // k_proj.bias: its gradients are rounding noise beside AdamW's epsilon.
        let tolerance = if info.name.ends_with("k_proj.bias") { 3e-4 } else { 3e-5 };
        assert!(gap <= tolerance * largest, "{run} {}: differs by {gap} of {largest}", info.name);
    }
}

#[test]
fn runs_equal_trl_step_by_step() {
    let mut replayed = Vec::new();
    let mut folders: Vec<_> =
        std::fs::read_dir(golden_dir().join("runs")).unwrap().map(|e| e.unwrap().path()).collect();
    folders.sort();
    for dir in folders {
        let name = dir.file_name().unwrap().to_string_lossy().into_owned();
        let run = read_json(&dir.join("run.json"));
        let model = run["model"].as_str().unwrap().trim_start_matches("models/");
        if !TRAINABLE.contains(&model) {
            continue;
        }
        let scratch = Scratch::new("golden");
        let output = scratch.path().join("run");
        let mut events = Vec::new();
        train(&config_of(&run, &dir, &output), &Control::default(), &mut events)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        compare_logs(&name, &dir, &output);
        if dir.join("final.safetensors").is_file() {
            compare_tensors(&name, &dir.join("final.safetensors"), &output.join("final/model.safetensors"));
        }
        if dir.join("adapter_final").is_dir() {
            let file = "adapter_model.safetensors";
            compare_tensors(&name, &dir.join("adapter_final").join(file), &output.join("final").join(file));
        }
        replayed.push(name);
    }
    assert!(replayed.len() >= 8, "only {replayed:?}");
}
