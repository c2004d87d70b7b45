//! Whole runs: against TRL's numbers, against themselves, against faults.

mod golden;

use serde_json::Value;
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
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Trains with a configuration given as JSON, which is YAML.
fn train(config: &Value, control: &Control, events: &mut Vec<Event>) -> Result<Ended, Error> {
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
    train::run(&loaded, &[], control, &mut |e| events.push(e))
}

/// Records of a run's log.
fn log_of(folder: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(folder.join("log.jsonl")).unwrap();
    text.lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}
