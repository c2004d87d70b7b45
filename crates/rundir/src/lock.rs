//! `lock.json`: what a run was made from, so that a resumed run is made from the same.
use std::fmt;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{At, Error};
use crate::hash::{FileHash, hash_file};

/// Name of the file.
pub const FILE: &str = "lock.json";

/// The inputs and the machine of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Lock {
    /// Version of this program.
    pub version: String,
    /// Files of the model: weights, configuration, tokenizer, adapter.
    pub model: Vec<FileHash>,
    /// Data files.
    pub data: Vec<FileHash>,
    /// Instruction sets the processor has, of those that choose a kernel.
    pub cpu_features: Vec<String>,
    /// Threads used; resume uses as many.
    pub threads: usize,
    /// The memory plan, as its maker wrote it; resume uses it again.
    pub plan: Value,
}

/// One way in which a run's inputs differ from those it began with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// "model" or "data".
    pub role: &'static str,
    /// The file.
    pub path: String,
    /// What happened to it.
    pub what: Difference,
}

/// What happened to a file since the run began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// It has other bytes: lengths then and now.
    Content {
        /// Length in bytes when the run began.
        was: u64,
        /// Length in bytes now.
        is: u64,
    },
    /// It is no longer among the inputs.
    Missing,
    /// It was not among the inputs.
    Added,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Change { role, path, what } = self;
        match what {
            Difference::Content { was, is } if was != is => write!(f, "{role} file {path}: was {was} bytes, is {is}"),
            Difference::Content { was, .. } => {
                write!(f, "{role} file {path}: same length ({was} bytes), other content")
            }
            Difference::Missing => write!(f, "{role} file {path}: no longer there"),
            Difference::Added => write!(f, "{role} file {path}: was not there"),
        }
    }
}

impl Lock {
    /// Hashes the model and data files, in the order given; their paths are kept as given, so absolute ones can be
    /// checked again from another working folder.
    ///
    /// Errors: a file cannot be read.
    pub fn new(model: &[&Path], data: &[&Path], threads: usize, plan: Value) -> Result<Lock, Error> {
        let hashes = |paths: &[&Path]| paths.iter().map(|path| hash_file(path)).collect::<Result<Vec<_>, _>>();
        Ok(Lock {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            model: hashes(model)?,
            data: hashes(data)?,
            cpu_features: cpu_features(),
            threads,
            plan,
        })
    }

    /// Reads the lock of the run at `root`.
    ///
    /// Errors: it cannot be read, or is no lock.
    pub fn read(root: &Path) -> Result<Lock, Error> {
        let path = root.join(FILE);
        let bytes = fs::read(&path).at("read", &path)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::damaged(&path, e.to_string()))
    }

    /// The text of `lock.json`.
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = serde_json::to_vec_pretty(self).expect("strings and numbers are JSON");
        json.push(b'\n');
        json
    }

    /// Compares the files of `now` with those the run began with.
    ///
    /// Errors: [`Error::Changed`] names every file that differs.
    pub fn check(&self, now: &Lock) -> Result<(), Error> {
        let mut changes = changes("model", &self.model, &now.model);
        changes.extend(self::changes("data", &self.data, &now.data));
        if changes.is_empty() { Ok(()) } else { Err(Error::Changed(changes)) }
    }

    /// Hashes the files that the lock names again and compares: for a resume that takes the same inputs.
    ///
    /// Errors: [`Error::Changed`] names every file that differs or is gone; a file cannot be read.
    pub fn check_files(&self) -> Result<(), Error> {
        let again = |files: &[FileHash]| -> Result<Vec<FileHash>, Error> {
            let there = files.iter().map(|file| Path::new(&file.path)).filter(|path| path.exists());
            there.map(hash_file).collect()
        };
        self.check(&Lock { model: again(&self.model)?, data: again(&self.data)?, ..self.clone() })
    }

    /// What differs from `now` without being refused: the results may differ in their last bits. One sentence each.
    pub fn notes(&self, now: &Lock) -> Vec<String> {
        let mut notes = Vec::new();
        if self.version != now.version {
            notes.push(format!("begun with version {}, this is {}", self.version, now.version));
        }
        if self.cpu_features != now.cpu_features {
            let (was, is) = (self.cpu_features.join(" "), now.cpu_features.join(" "));
            notes.push(format!("begun on a processor with [{was}], this one has [{is}]"));
        }
        notes
    }
}

fn changes(role: &'static str, was: &[FileHash], is: &[FileHash]) -> Vec<Change> {
    let same_path = |files: &'_ [FileHash], path: &str| files.iter().position(|file| file.path == path);
    let change = |file: &FileHash, what| Change { role, path: file.path.clone(), what };
    let gone_or_other = was.iter().filter_map(|file| match same_path(is, &file.path).map(|i| &is[i]) {
        None => Some(change(file, Difference::Missing)),
        Some(now) if now.blake3 == file.blake3 => None,
        Some(now) => Some(change(file, Difference::Content { was: file.bytes, is: now.bytes })),
    });
    let added = is.iter().filter(|file| same_path(was, &file.path).is_none());
    gone_or_other.chain(added.map(|file| change(file, Difference::Added))).collect()
}

/// Instruction sets of this processor, of those that choose a kernel.
pub fn cpu_features() -> Vec<String> {
    let mut found: Vec<&str> = vec![std::env::consts::ARCH];
    #[cfg(target_arch = "x86_64")]
    for (name, has) in [
        ("avx", is_x86_feature_detected!("avx")),
        ("avx2", is_x86_feature_detected!("avx2")),
        ("fma", is_x86_feature_detected!("fma")),
        ("avx512f", is_x86_feature_detected!("avx512f")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vl", is_x86_feature_detected!("avx512vl")),
        ("avx512bf16", is_x86_feature_detected!("avx512bf16")),
    ] {
        found.extend(has.then_some(name));
    }
    found.into_iter().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use serde_json::json;

    #[test]
    fn changed_missing_and_added_files_are_refused_by_name() {
        let scratch = Scratch::new();
        let paths = ["weights", "config", "rows", "more"].map(|name| scratch.join(name));
        paths.iter().for_each(|path| fs::write(path, path.to_string_lossy().as_bytes()).unwrap());
        let [weights, config, rows, more] = paths.each_ref().map(|path| path.as_path());
        let lock = Lock::new(&[weights, config], &[rows], 2, json!({"rows": 4})).unwrap();
        assert_eq!(serde_json::from_slice::<Lock>(&lock.to_json()).unwrap(), lock);
        lock.check_files().unwrap();

        let mut flipped = fs::read(weights).unwrap();
        flipped[0] ^= 1;
        fs::write(weights, flipped).unwrap();
        fs::remove_file(config).unwrap();
        let error = lock.check_files().unwrap_err();
        assert_eq!(error.exit_code(), 3);
        let text = error.to_string();
        assert!(text.contains("weights: same length") && text.contains("config: no longer there"), "{text}");
        assert!(!text.contains("rows"), "{text}");

        let now = Lock::new(&[weights], &[rows, more], 2, Value::Null).unwrap();
        assert!(lock.check(&now).unwrap_err().to_string().contains("more: was not there"));
    }

    #[test]
    fn another_processor_is_noted_and_not_refused() {
        let lock = Lock::new(&[], &[], 1, Value::Null).unwrap();
        let other = Lock { cpu_features: vec!["riscv64".into()], ..lock.clone() };
        assert!(lock.notes(&lock).is_empty());
        assert_eq!(lock.notes(&other).len(), 1);
        lock.check(&other).unwrap();
    }
}
