//! The binary as a user sees it: commands, their output, their exit codes.

mod asking;
mod broken;
mod data;
mod examining;
#[allow(dead_code)]
#[path = "../../../hub/tests/hub/fake_hub.rs"]
mod fake_hub;
mod first_use;
mod importing;
mod publishing;
mod pulling;
mod running;
#[allow(dead_code)]
#[path = "../../../hub/tests/hub/server.rs"]
mod server;
#[cfg(unix)]
mod signals;
#[cfg(unix)]
mod templates;
mod training;

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// A file or folder of the golden fixtures.
fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(path)
}

/// A folder of its own that is gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("prospect-cli-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::SeqCst));
        let dir = std::env::temp_dir().join(unique);
        std::fs::create_dir_all(&dir).unwrap();
        Scratch(dir)
    }

    fn join(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        std::fs::write(self.join(name), text).unwrap();
        self.join(name)
    }

    /// A KTO run with LoRA on the tiny model; `more` are lines of YAML.
    fn kto_run(&self, more: &str) -> PathBuf {
        let (model, rows) = (golden("models/qwen2"), golden("data/kto_chat.jsonl"));
        self.write(
            "run.yaml",
            &format!(
                "trainer: kto\nmodel_name_or_path: {}\ndataset_name: {}\noutput_dir: run\nuse_peft: true\nlora_r: 4\n\
                 lora_target_modules: all-linear\nmax_length: 128\nper_device_train_batch_size: 4\nlearning_rate: 1e-3\n\
                 logging_steps: 1\n{more}\n",
                model.display(),
                rows.display()
            ),
        )
    }

    /// Runs `prospect` in the folder.
    fn prospect(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_prospect"));
        command.current_dir(&self.0).args(args).env_remove("NO_COLOR").env("XDG_CACHE_HOME", self.join("cache"));
        command
    }

    /// Runs `prospect`, expects success, and returns stdout.
    fn succeeds(&self, args: &[&str]) -> String {
        let output = self.prospect(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// One JSON object per line.
fn objects(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
