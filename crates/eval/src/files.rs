//! The files of an evaluation: names, whole or not at all, in the harness's form.

use crate::benchmark::Benchmark;
use crate::marks::{Marks, rules};
use crate::metrics::round;
use crate::samples::{Samples, difference, of_results};
use crate::{Error, Sample};
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Where the results of one task are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunFiles {
    folder: PathBuf,
    run: String,
}

/// Fields of a row that a result keeps, as in the harness.
const KEPT: [&str; 15] = [
    "level",
    "type",
    "unit",
    "solution_type",
    "choices",
    "solution",
    "ques_type",
    "ans_type",
    "answer_type",
    "dataset",
    "subfield",
    "filed",
    "theorem",
    "answer",
    "unique_id",
];

impl RunFiles {
    /// Of the task `task` below `output`.
    pub fn new(output: &Path, task: &str, run: &str) -> Self {
        Self { folder: output.join(task), run: run.to_owned() }
    }

    fn path(&self, end: &str) -> PathBuf {
        self.folder.join(format!("{}{end}", self.run))
    }

    /// The metrics.
    pub fn metrics(&self) -> PathBuf {
        self.path("_metrics.json")
    }

    /// Every row with its answers and verdicts.
    pub fn result(&self) -> PathBuf {
        self.path("_result.jsonl")
    }

    /// The page to read answers.
    pub fn page(&self) -> PathBuf {
        self.path("_answers.html")
    }

    /// Answers of an evaluation that is not finished.
    pub(crate) fn journal(&self) -> PathBuf {
        self.path("_unfinished.jsonl")
    }

    pub(crate) fn create_folder(&self) -> Result<(), Error> {
        std::fs::create_dir_all(&self.folder).map_err(Error::io("create", &self.folder))
    }

    /// Removes what an earlier evaluation left.
    pub(crate) fn remove(&self) -> Result<(), Error> {
        [self.metrics(), self.result(), self.page(), self.journal()].iter().try_for_each(|path| remove(path))
    }

    /// Adds the samples of a finished evaluation to `samples`.
    ///
    /// Results without a note of whose they are come from other programs and are taken as they are.
    pub(crate) fn finished(&self, identity: &Value, samples: &mut Samples) -> Result<(), Error> {
        let path = self.metrics();
        match std::fs::read(&path) {
            Ok(bytes) => {
                let bad =
                    |e: serde_json::Error| Error::Task { path: path.clone(), reason: format!("{e}; --overwrite") };
                let metrics: Value = serde_json::from_slice(&bytes).map_err(bad)?;
                let found = &metrics["evaluation"];
                if let Some(reason) = difference(found, identity).filter(|_| !found.is_null()) {
                    return Err(Error::OtherRun { path, reason });
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(Error::io("read", &path)(e)),
        }
        of_results(&self.result(), samples)
    }

    /// Seconds that a finished evaluation took.
    pub(crate) fn seconds(&self) -> f64 {
        let metrics = std::fs::read(self.metrics()).ok();
        let metrics: Option<Value> = metrics.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        metrics.and_then(|metrics| metrics["time_use_in_second"].as_f64()).unwrap_or(0.0)
    }

    pub(crate) fn write_result(&self, marks: &Marks) -> Result<(), Error> {
        write(&self.result(), |out| {
            marks.rows.iter().try_for_each(|row| {
                let mut line = Map::new();
                line.insert("idx".into(), json!(row.item.idx));
                line.insert("question".into(), json!(row.item.question));
                line.insert("gt_cot".into(), json!(row.item.gold.solution));
                line.insert("gt".into(), json!(row.item.gold.normalised));
                for key in KEPT {
                    if let Some(value) = row.item.row.get(key) {
                        line.insert(key.into(), value.clone());
                    }
                }
                let of = |value: &dyn Fn(&Sample) -> Value| row.samples.iter().map(value).collect::<Vec<_>>();
                line.insert("code".into(), json!(of(&|sample| json!(sample.text))));
                line.insert("pred".into(), row.marks.iter().map(|m| json!(m.qwen.normalised)).collect());
                line.insert("report".into(), json!(of(&|_| Value::Null)));
                line.insert("score".into(), row.marks.iter().map(|m| json!(m.qwen.verdict)).collect());
                line.insert("rule".into(), json!(rules(&row.marks, |m| m.qwen.rule)));
                line.insert("strict_score".into(), row.marks.iter().map(|m| json!(m.strict.verdict)).collect());
                line.insert("strict_rule".into(), json!(rules(&row.marks, |m| m.strict.rule)));
                line.insert("tokens".into(), json!(of(&|sample| json!(sample.tokens))));
                line.insert("finish_reason".into(), json!(of(&|sample| json!(sample.finish.name()))));
                writeln!(out, "{}", Value::Object(line))
            })
        })
    }

    pub(crate) fn write_metrics(&self, metrics: &Value) -> Result<(), Error> {
        write(&self.metrics(), |out| writeln!(out, "{metrics:#}"))
    }
}

pub(crate) fn remove(path: &Path) -> Result<(), Error> {
    match std::fs::remove_file(path) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", path)(e)),
        _ => Ok(()),
    }
}

/// Writes a file under another name, syncs it and gives it its own.
pub(crate) fn write(
    path: &Path,
    content: impl FnOnce(&mut BufWriter<File>) -> std::io::Result<()>,
) -> Result<(), Error> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}.partial"));
    remove(&temporary)?;
    let file = File::create_new(&temporary).map_err(Error::io("create", &temporary))?;
    let mut out = BufWriter::new(file);
    let written = content(&mut out).and_then(|()| out.flush()).and_then(|()| out.get_ref().sync_all());
    let named = written.and_then(|()| std::fs::rename(&temporary, path));
    named.map_err(|e| {
        let _ = std::fs::remove_file(&temporary);
        Error::io("write", path)(e)
    })
}

/// Writes `final_result.json`: the accuracy of every task below `output` that was finished under the run's name, and their
/// mean. Returns both.
///
/// # Errors
/// Files that cannot be read or written.
pub fn final_result(output: &Path, run: &str) -> Result<(Vec<(String, f64)>, f64), Error> {
    let mut accuracies = Vec::new();
    for entry in std::fs::read_dir(output).map_err(Error::io("read", output))?.flatten() {
        let Ok(task) = entry.file_name().into_string() else { continue };
        let path = RunFiles::new(output, &task, run).metrics();
        let Ok(bytes) = std::fs::read(&path) else { continue };
        let metrics: Option<Value> = serde_json::from_slice(&bytes).ok();
        accuracies.extend(metrics.and_then(|metrics| Some((task, metrics["acc"].as_f64()?))));
    }
    let place = |task: &str| Benchmark::ALL.iter().position(|known| known.name() == task).unwrap_or(usize::MAX);
    accuracies.sort_by(|a, b| (place(&a.0), &a.0).cmp(&(place(&b.0), &b.0)));
    let mean = accuracies.iter().map(|(_, acc)| acc).sum::<f64>() / accuracies.len().max(1) as f64;
    let mean = round(mean, 5);
    let each: Map<String, Value> = accuracies.iter().map(|(task, acc)| (task.clone(), json!(acc))).collect();
    write(&output.join("final_result.json"), |out| {
        writeln!(out, "{:#}", json!({"dataset_acc": each, "final_acc": mean}))
    })?;
    Ok((accuracies, mean))
}
