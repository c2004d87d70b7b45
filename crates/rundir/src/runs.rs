//! What `runs ls`, `runs show`, `runs diff` and `runs plot` say, as plain data.
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::begin::is_unsettled;
use crate::checkpoint;
use crate::error::{At, Error};
use crate::folder::{is_held, names};
use crate::log::{self, Record};
use crate::plot::{self, Panel, Series};
use crate::status::{self, Status};

/// How deep below the folder given runs are looked for.
const DEPTH: usize = 3;

/// How a run stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// A process holds the folder.
    Running,
    /// It ended with exit code 0.
    #[default]
    Finished,
    /// It saved on a signal and waits to be resumed (exit code 75).
    Stopped,
    /// It ended with another exit code.
    Failed,
    /// Its process is gone and left no word.
    Killed,
}

/// One run in a list.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Summary {
    /// The run folder.
    pub path: PathBuf,
    /// How it stands.
    pub state: State,
    /// Start, end, exit code, steps.
    #[serde(flatten)]
    pub status: Status,
    /// `model_name_or_path` of its configuration.
    pub model: Option<String>,
    /// `trainer` of its configuration.
    pub trainer: Option<String>,
    /// The last value of every metric in the last stretch of its log.
    pub metrics: Record,
}

/// One run in full.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Details {
    /// What the list says.
    #[serde(flatten)]
    pub summary: Summary,
    /// The resolved configuration, key by key, as text.
    pub config: Vec<(String, String)>,
    /// Steps that have a checkpoint folder.
    pub checkpoints: Vec<u64>,
    /// Whether the result was committed to `final/`.
    pub has_final: bool,
    /// Names of the plots.
    pub plots: Vec<String>,
}

/// A key whose values differ between two runs; `None` where a run lacks it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Differing<T> {
    /// Configuration key or metric.
    pub key: String,
    /// Value in the first run.
    pub left: Option<T>,
    /// Value in the second run.
    pub right: Option<T>,
}

/// How two runs differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Diff {
    /// Configuration keys whose values differ, in the order of the first run.
    pub config: Vec<Differing<String>>,
    /// Final values of the metrics that either run has, equal ones too.
    pub metrics: Vec<Differing<f64>>,
}

/// The runs at or up to three folders below `root`, sorted by their start. Hidden folders and links are not entered.
///
/// Errors: `root` cannot be listed. A run whose files cannot be read is listed with what can be.
pub fn list(root: &Path) -> Result<Vec<Summary>, Error> {
    let mut found = Vec::new();
    names(root)?;
    collect(root, DEPTH, &mut found);
    found.sort_by(|a: &Summary, b| (&a.status.started, &a.path).cmp(&(&b.status.started, &b.path)));
    Ok(found)
}

fn collect(folder: &Path, depth: usize, found: &mut Vec<Summary>) {
    if folder.join(status::FILE).exists() {
        return found.push(summary(folder));
    }
    for name in names(folder).unwrap_or_default() {
        let path = folder.join(&name);
        let is_folder = fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
        if depth > 0 && is_folder && !name.starts_with('.') {
            collect(&path, depth - 1, found);
        }
    }
}

/// Everything about one run.
///
/// Errors: `root` is no run folder, or cannot be listed.
pub fn show(root: &Path) -> Result<Details, Error> {
    if !root.join(status::FILE).exists() {
        return Err(if root.exists() { Error::NotARun(root.to_path_buf()) } else { Error::NoRun(root.to_path_buf()) });
    }
    Ok(Details {
        summary: summary(root),
        config: config(root).unwrap_or_default(),
        checkpoints: checkpoint::steps(root)?,
        has_final: root.join("final").join(checkpoint::MANIFEST).exists(),
        plots: names(&root.join("plots")).unwrap_or_default(),
    })
}

/// Compares the resolved configurations and final metrics of two runs.
///
/// Errors: either is no run folder, or its configuration cannot be read.
pub fn diff(left: &Path, right: &Path) -> Result<Diff, Error> {
    let configs = (config(left)?, config(right)?);
    let numbers = |root: &Path| -> Vec<(String, f64)> {
        summary(root).metrics.into_iter().filter_map(|(key, value)| Some((key, value.as_f64()?))).collect()
    };
    let mut config = pair(configs.0, configs.1);
    config.retain(|entry| entry.left != entry.right);
    Ok(Diff { config, metrics: pair(numbers(left), numbers(right)) })
}

/// The keys whose values in a resolved configuration differ from those of the run at `root`, with theirs on the left.
///
/// Errors: the run's configuration cannot be read.
pub fn changed(root: &Path, resolved: &str) -> Result<Vec<Differing<String>>, Error> {
    let mut config = pair(config(root)?, entries(resolved));
    config.retain(|entry| entry.left != entry.right);
    Ok(config)
}

/// A panel for each metric, with a line for each run: its values in `log.jsonl` over its steps.
///
/// Errors: a folder is no run folder, or no run has logged a metric.
pub fn compare(roots: &[PathBuf], metrics: &[String]) -> Result<Vec<Panel>, Error> {
    let mut logs = Vec::with_capacity(roots.len());
    for root in roots {
        if !root.join(status::FILE).exists() {
            return Err(if root.exists() { Error::NotARun(root.clone()) } else { Error::NoRun(root.clone()) });
        }
        logs.push((root.display().to_string(), log::read(&root.join("log.jsonl"))?));
    }
    let panel = |metric: &String| {
        let line = |(name, records): &(String, Vec<Record>)| Series {
            name: name.trim_end_matches('/').rsplit('/').next().unwrap_or(name).to_owned(),
            points: plot::points(records, metric),
        };
        let drawn = |series: &Series| series.points.iter().any(|(_, y)| y.is_finite());
        let series: Vec<Series> = logs.iter().map(line).filter(drawn).collect();
        if series.is_empty() {
            let known: BTreeSet<&String> =
                logs.iter().flat_map(|(_, records)| records.iter().flat_map(Record::keys)).collect();
            return Err(Error::NoMetric { metric: metric.clone(), known: known.into_iter().cloned().collect() });
        }
        let (title, y_label) = (metric.clone(), metric.clone());
        Ok(Panel { title, x_label: "step".into(), y_label, log_y: false, series })
    };
    metrics.iter().map(panel).collect()
}

/// Puts the values of equal keys side by side: keys in the order of `left`, then those only `right` has.
fn pair<T: Clone>(left: Vec<(String, T)>, right: Vec<(String, T)>) -> Vec<Differing<T>> {
    let value = |entries: &[(String, T)], key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, v)| v.clone());
    let known: BTreeSet<&str> = left.iter().map(|(key, _)| key.as_str()).collect();
    let added = right.iter().filter(|(key, _)| !known.contains(key.as_str()));
    let keys = left.iter().chain(added).map(|(key, _)| key.clone());
    keys.map(|key| Differing { left: value(&left, &key), right: value(&right, &key), key }).collect()
}

fn summary(root: &Path) -> Summary {
    let mut status = Status::read(root).unwrap_or_default();
    let state = match status.exit_code {
        _ if is_held(root) => State::Running,
        // Its status may still be the earlier run's.
        _ if is_unsettled(root) => State::Killed,
        Some(0) => State::Finished,
        Some(75) => State::Stopped,
        Some(_) => State::Failed,
        None => State::Killed,
    };
    let metrics = last_values(log::read_tail(&root.join("log.jsonl")).unwrap_or_default());
    if status.ended.is_none() {
        status.step = metrics.get("step").and_then(serde_json::Value::as_u64).unwrap_or(status.step);
    }
    let config = config(root).unwrap_or_default();
    let setting = |key: &str| config.iter().find(|(k, _)| k == key).map(|(_, value)| unquoted(value).to_owned());
    let (model, trainer) = (setting("model_name_or_path"), setting("trainer"));
    Summary { path: root.to_path_buf(), state, status, model, trainer, metrics }
}

fn last_values(records: Vec<Record>) -> Record {
    records.into_iter().fold(Record::new(), |mut all, record| {
        all.extend(record);
        all
    })
}

fn config(root: &Path) -> Result<Vec<(String, String)>, Error> {
    let path = root.join("config.yaml");
    Ok(entries(&fs::read_to_string(&path).at("read", &path)?))
}

/// The top-level keys of our own flat YAML with their values as text; a value on the lines below its key is joined.
fn entries(yaml: &str) -> Vec<(String, String)> {
    let mut entries: Vec<(String, String)> = Vec::new();
    for line in yaml.lines() {
        let is_key = line.starts_with(|c: char| c.is_alphanumeric() || c == '_');
        let (text, is_blank) = (line.trim(), line.trim().is_empty() || line.trim_start().starts_with('#'));
        if let Some((key, value)) = text.split_once(':').filter(|_| is_key) {
            entries.push((key.trim_end().to_owned(), value.trim().to_owned()));
        } else if let Some((_, value)) = entries.last_mut().filter(|_| !is_blank) {
            value.push_str(if value.is_empty() { "" } else { " " });
            value.push_str(text);
        }
    }
    entries
}

fn unquoted(value: &str) -> &str {
    let inner = |quote| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::folder::{Opening, RunFolder};
    use crate::scratch::Scratch;
    use serde_json::{Value, json};

    fn make(path: &Path, learning_rate: &str, loss: f64) -> RunFolder {
        let folder = RunFolder::open(path, Opening::Create).unwrap();
        let config = format!(
            "# resolved\ntrainer: kto\nmodel_name_or_path: \"org/model\"\nlora_target_modules:\n- q_proj\n- v_proj\nlearning_rate: {learning_rate}\n"
        );
        folder.write("config.yaml", config.as_bytes()).unwrap();
        let mut log = folder.open_log("log.jsonl", None).unwrap();
        log.record(&json!({"step": 1, "loss": 0.5})).unwrap();
        log.record(&json!({"step": 2, "loss": loss})).unwrap();
        log.record(&json!({"step": 2, "eval_loss": 0.75})).unwrap();
        folder.set_total_steps(8).unwrap();
        folder
    }

    #[test]
    fn the_state_of_a_run_follows_from_its_lock_and_its_exit_code() {
        let scratch = Scratch::new();
        let run = scratch.join("sets/run");
        let state = || list(scratch.path()).unwrap()[0].state;
        let folder = make(&run, "5e-6", 0.25);
        assert_eq!(state(), State::Running);
        drop(folder);
        assert_eq!(state(), State::Killed);
        for (code, expected) in [(0, State::Finished), (75, State::Stopped), (5, State::Failed)] {
            let folder = RunFolder::open(&run, Opening::Resume).unwrap();
            folder.end(code, 3, (code == 5).then_some("loss is NaN")).unwrap();
            assert_eq!(state(), State::Running, "still held");
            drop(folder);
            assert_eq!(state(), expected);
        }
        assert_eq!(show(&run).unwrap().summary.status.error.as_deref(), Some("loss is NaN"));
    }

    #[test]
    fn a_list_has_every_run_with_model_trainer_steps_and_last_metrics() {
        let scratch = Scratch::new();
        let folder = make(&scratch.join("b/run"), "5e-6", 0.25);
        folder.begin_checkpoint(2).unwrap().commit(json!(null)).unwrap();
        drop(folder);
        drop(make(&scratch.join("a"), "1e-6", 0.125));
        std::fs::create_dir_all(scratch.join(".hidden/not")).unwrap();
        let runs = list(scratch.path()).unwrap();
        assert_eq!(runs.len(), 2);
        let run = runs.iter().find(|run| run.path.ends_with("b/run")).unwrap();
        assert_eq!((run.model.as_deref(), run.trainer.as_deref()), (Some("org/model"), Some("kto")));
        assert_eq!((run.status.step, run.status.total_steps), (2, 8));
        assert_eq!(Value::from(run.metrics.clone()), json!({"step": 2, "loss": 0.25, "eval_loss": 0.75}));
        let details = show(&run.path).unwrap();
        assert_eq!((details.checkpoints, details.has_final), (vec![2], false));
        let json = serde_json::to_value(&details.summary).unwrap();
        assert_eq!((&json["state"], &json["total_steps"]), (&json!("killed"), &json!(8)));
        assert_eq!(show(&scratch.join("none")).unwrap_err().exit_code(), 2);
    }

    #[test]
    fn two_runs_differ_in_the_keys_that_differ() {
        let scratch = Scratch::new();
        let [left, right] = ["left", "right"].map(|name| scratch.join(name));
        drop(make(&left, "5e-6", 0.25));
        drop(make(&right, "1e-6", 0.125));
        let more = "beta: 0.1\n\n# a comment\n";
        let config = std::fs::read_to_string(right.join("config.yaml")).unwrap();
        std::fs::write(right.join("config.yaml"), config + more).unwrap();
        let diff = diff(&left, &right).unwrap();
        let keys: Vec<_> =
            diff.config.iter().map(|d| (d.key.as_str(), d.left.as_deref(), d.right.as_deref())).collect();
        assert_eq!(keys, [("learning_rate", Some("5e-6"), Some("1e-6")), ("beta", None, Some("0.1"))]);
        let loss = diff.metrics.iter().find(|d| d.key == "loss").unwrap();
        assert_eq!((loss.left, loss.right), (Some(0.25), Some(0.125)));
        assert_eq!(
            entries(&config_of("lora_target_modules")),
            [("lora_target_modules".into(), "- q_proj - v_proj".into())]
        );
    }

    #[test]
    fn runs_are_drawn_side_by_side_and_an_unknown_metric_is_named() {
        let scratch = Scratch::new();
        let roots = ["left", "right"].map(|name| scratch.join(name));
        drop(make(&roots[0], "5e-6", 0.25));
        drop(make(&roots[1], "1e-6", 0.125));
        let panels = compare(&roots, &["loss".to_owned()]).unwrap();
        let lines: Vec<_> = panels[0].series.iter().map(|s| (s.name.as_str(), s.points.last().unwrap().1)).collect();
        assert_eq!(lines, [("left", 0.25), ("right", 0.125)]);
        let error = compare(&roots, &["los".to_owned()]).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("los") && error.to_string().contains("eval_loss"), "{error}");
        assert_eq!(compare(&[scratch.join("none")], &["loss".to_owned()]).unwrap_err().exit_code(), 2);
    }

    fn config_of(key: &str) -> String {
        format!("{key}:\n  - q_proj\n\n  # why not\n  - v_proj\n")
    }
}
