//! Whole runs: against TRL's numbers, against themselves, against faults.

mod adapters;
mod faults;
mod golden;
#[cfg(feature = "cuda-tests")]
mod gpu;
mod gradients;
mod invariance;
mod killed;
mod knobs;
mod lab;
mod objectives;
mod ranks;
mod resume;
mod settings;
mod simulated;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use train::{Control, Ended, Error, Event};

/// Reference runs: the committed ones, or all of them where `PROSPECT_GOLDEN` points.
fn golden_dir() -> PathBuf {
    match std::env::var_os("PROSPECT_GOLDEN") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden"),
    }
}

fn model(name: &str) -> PathBuf {
    golden_dir().join("models").join(name)
}

fn rows(name: &str) -> PathBuf {
    golden_dir().join("data").join(name)
}

/// A folder of its own that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("prospect-{name}-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let dir = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }
    fn path(&self) -> &Path {
        &self.0
    }
    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// `with`'s keys over `base`'s; `null` takes a key out.
fn over(base: &Value, with: Value) -> Value {
    let (mut all, with) = (base.as_object().unwrap().clone(), with.as_object().unwrap().clone());
    for (key, value) in with {
        if value.is_null() {
            all.remove(&key)
        } else {
            all.insert(key, value)
        };
    }
    Value::Object(all)
}

/// A small run: 12 steps of 2 x 2 rows, every step logged, nothing saved before the end.
fn small(trainer: &str, output: &Path, with: Value) -> Value {
    let data = if trainer == "kto" { "kto_chat.jsonl" } else { "sft_prompt_completion.jsonl" };
    let base = json!({
        "trainer": trainer,
        "model_name_or_path": model("qwen2"),
        "dataset_name": rows(data),
        "output_dir": output,
        "max_length": 128,
        "max_steps": 12,
        "per_device_train_batch_size": 2,
        "gradient_accumulation_steps": 2,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1000,
        "threads": 1,
    });
    over(&base, with)
}

/// The keys of a small adapter on every linear layer.
fn lora() -> Value {
    json!({"use_peft": true, "lora_r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "lora_target_modules": "all-linear"})
}

/// Trains with a configuration given as JSON, which is YAML.
fn train(config: &Value, control: &Control, events: &mut Vec<Event>) -> Result<Ended, Error> {
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
    train::run(&loaded, &[], control, &mut |e| events.push(e))
}

/// Trains to the end.
fn finish(config: &Value) -> Ended {
    let ended = train(config, &Control::default(), &mut Vec::new()).unwrap_or_else(|e| panic!("{e}"));
    assert!(!ended.stopped && ended.exit_code() == 0);
    ended
}

/// Goes on with a run to its end; returns what was said.
fn resume(config: &Value) -> Vec<Event> {
    let mut events = Vec::new();
    let config = over(config, json!({"resume_from_checkpoint": true}));
    train(&config, &Control::default(), &mut events).unwrap_or_else(|e| panic!("{e}"));
    events
}

/// Trains until `step` steps are made, then asks to stop.
fn stop_after(config: &Value, step: u64) {
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
    let control = Control::default();
    let mut observe = |event| match event {
        // Everything is read by then, and no step is made.
        Event::Opening(_) if step == 0 => control.stop.store(true, Ordering::SeqCst),
        Event::Step { step: made, .. } if made == step => control.stop.store(true, Ordering::SeqCst),
        _ => {}
    };
    let ended = train::run(&loaded, &[], &control, &mut observe).unwrap_or_else(|e| panic!("{e}"));
    assert!(ended.stopped && ended.exit_code() == 75 && ended.step == step, "{ended:?}");
}

fn notes(events: &[Event]) -> String {
    let notes = events.iter().filter_map(|e| if let Event::Note(n) = e { Some(n.as_str()) } else { None });
    notes.collect::<Vec<_>>().join("\n")
}

/// Records of a run's log.
fn log_of(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

/// A metric of every record that has it.
fn logged(folder: &Path, key: &str) -> Vec<f64> {
    log_of(folder).iter().filter_map(|r| r.get(key)).map(|v| v.as_f64().unwrap()).collect()
}

/// Something done to a file or folder.
type Damage = fn(&Path);

/// What a run leaves that has to repeat bit for bit.
#[derive(PartialEq)]
struct Bits {
    weights: Vec<u8>,
    optimizer: Vec<u8>,
    log: Vec<Value>,
}

impl Bits {
    /// Of a run of `step` steps that is done.
    fn of(folder: &Path, step: u64) -> Bits {
        let read = |path: PathBuf| std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let adapter = folder.join("final").join(weights::ADAPTER_WEIGHTS_FILE);
        let model = folder.join("final/model.safetensors");
        let log = log_of(folder).into_iter().map(|r| over(&r, json!({"tokens_per_second": null}))).collect();
        Bits {
            weights: read(if adapter.exists() { adapter } else { model }),
            optimizer: read(folder.join(format!("checkpoint-{step}/optimizer.safetensors"))),
            log,
        }
    }

    /// Panics at the first thing that differs.
    fn assert_same(&self, other: &Bits, what: &str) {
        for (i, (a, b)) in self.log.iter().zip(&other.log).enumerate() {
            assert_eq!(a, b, "{what}: line {} of the log", i + 1);
        }
        assert_eq!(self.log.len(), other.log.len(), "{what}: lines of the log");
        assert!(self.weights == other.weights, "{what}: the weights differ");
        assert!(self.optimizer == other.optimizer, "{what}: the optimiser's state differs");
    }
}
