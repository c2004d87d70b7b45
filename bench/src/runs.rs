//! Whole runs as users make them, each in a process of its own, and the same rows through TRL right after.

use crate::arithmetic::{median, ratios};
use crate::child::{self, Finished};
use crate::device::{Meter, Named};
use crate::error::Error;
use crate::job::Case;
use crate::machine::threads;
use crate::progress::Progress;
use serde::Serialize;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// How runs are made.
pub(crate) struct Setup<'a> {
    /// The binary.
    pub(crate) prospect: &'a Path,
    /// Python with TRL, and the folder of the peers' scripts.
    pub(crate) peer: Option<(&'a Path, PathBuf)>,
    /// What computes, and how its memory is looked at.
    pub(crate) device: Named,
    pub(crate) meter: &'a Meter,
    /// For configurations and run folders.
    pub(crate) scratch: &'a Path,
    pub(crate) rounds: usize,
    /// Steps of ours and of the peer's runs.
    pub(crate) steps: (usize, usize),
}

/// One process.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Once {
    /// Of the whole process, seconds.
    pub(crate) seconds: f64,
    /// Ours: of the whole process. A peer's: of its steps after the first.
    pub(crate) rows_per_second: f64,
    /// Tokens of the rows (prompt and completion, each row by itself), over the same time.
    pub(crate) tokens_per_second: f64,
    /// Of the steps after the first.
    pub(crate) step_rows_per_second: f64,
    /// Most memory, as [`Meter`] looks at it, bytes.
    pub(crate) peak_bytes: f64,
    /// Of the last step.
    pub(crate) last_loss: f64,
}

/// All rounds of a case.
#[derive(Debug, Serialize)]
pub(crate) struct Run {
    pub(crate) model: String,
    pub(crate) objective: &'static str,
    pub(crate) tuning: &'static str,
    pub(crate) batch: usize,
    /// Steps of ours.
    pub(crate) steps: usize,
    pub(crate) ours: Vec<Once>,
    /// Empty when none was asked for.
    pub(crate) peer: Vec<Once>,
    /// What the peer consists of.
    pub(crate) peer_versions: Value,
    /// What `prospect plan` expects the peak to be, bytes.
    pub(crate) planned_bytes: f64,
}

impl Run {
    /// The median over rounds of one of our figures.
    pub(crate) fn ours(&self, figure: impl Fn(&Once) -> f64) -> f64 {
        median(self.ours.iter().map(figure))
    }

    /// The same of the peer.
    pub(crate) fn peer(&self, figure: impl Fn(&Once) -> f64) -> f64 {
        median(self.peer.iter().map(figure))
    }

    /// Ours over the peer's, round by round.
    pub(crate) fn ratios(&self, figure: impl Fn(&Once) -> f64) -> Vec<f64> {
        let of = |rounds: &[Once]| rounds.iter().map(&figure).collect::<Vec<f64>>();
        ratios(&of(&self.ours), &of(&self.peer))
    }
}

/// Makes all rounds of a case, ours and the peer's in turn.
pub(crate) fn measure(case: &Case, setup: &Setup, progress: &mut Progress) -> Result<Run, Error> {
    let output = setup.scratch.join("run");
    let config = setup.scratch.join("run.yaml");
    std::fs::write(&config, case.yaml(setup.steps.0, &output)).map_err(Error::io("write", &config))?;
    let mut run = Run {
        model: case.name.to_owned(),
        objective: case.objective.name(),
        tuning: case.tuning.name(),
        batch: case.batch,
        steps: setup.steps.0,
        ours: Vec::new(),
        peer: Vec::new(),
        peer_versions: Value::Null,
        planned_bytes: planned(setup, &config)?,
    };
    for round in 1..=setup.rounds {
        let title = format!("{}, round {round} of {}", case.title(), setup.rounds);
        progress.next(&format!("run: {title}"));
        run.ours.push(ours(case, setup, &config, &output)?);
        if setup.peer.is_some() {
            progress.next(&format!("trl: {title}"));
            let (once, versions) = trl(case, setup)?;
            run.peer.push(once);
            run.peer_versions = versions;
        }
    }
    Ok(run)
}

fn planned(setup: &Setup, config: &Path) -> Result<f64, Error> {
    let mut command = Command::new(setup.prospect);
    command.args(["--quiet", "plan", "--json"]).arg(config);
    let plan = child::run(&mut command, setup.meter)?.json("prospect plan")?;
    number(&plan, "memory_total_bytes", "prospect plan")
}

fn ours(case: &Case, setup: &Setup, config: &Path, output: &Path) -> Result<Once, Error> {
    let mut command = Command::new(setup.prospect);
    let finished = child::run(command.args(["--quiet", "train"]).arg(config), setup.meter)?;
    let log = output.join("log.jsonl");
    let text = std::fs::read_to_string(&log).map_err(Error::io("read", &log))?;
    let once = from_log(&text, finished, case.batch);
    once.ok_or_else(|| Error::Child { command: "prospect train".to_owned(), what: "its log has no steps".to_owned() })
}

/// A run's figures from its log, which has a line for every step.
fn from_log(text: &str, finished: Finished, batch: usize) -> Option<Once> {
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let steps: Vec<Value> = lines.filter(|line| line.get("tokens_per_second").is_some()).collect();
    let last = steps.last()?;
    let at = |line: &Value, key: &str| line[key].as_f64().unwrap_or(f64::NAN);
    // A line's tokens are counted from the start of the run.
    let seconds =
        |pair: &[Value]| (at(&pair[1], "num_tokens") - at(&pair[0], "num_tokens")) / at(&pair[1], "tokens_per_second");
    let warm: f64 = steps.windows(2).map(seconds).sum();
    Some(Once {
        seconds: finished.seconds,
        rows_per_second: (steps.len() * batch) as f64 / finished.seconds,
        tokens_per_second: at(last, "num_tokens") / finished.seconds,
        step_rows_per_second: ((steps.len() - 1) * batch) as f64 / warm,
        peak_bytes: finished.peak,
        last_loss: at(last, "loss"),
    })
}

fn trl(case: &Case, setup: &Setup) -> Result<(Once, Value), Error> {
    let (python, scripts) = setup.peer.as_ref().expect("asked for only where there is one");
    let mut command = Command::new(python);
    command.arg(scripts.join("peer_trl.py")).arg(case.objective.name()).arg(case.model).arg(case.data);
    command.args(["--batch", &case.batch.to_string(), "--steps", &setup.steps.1.to_string()]);
    command.args(["--threads", &threads().to_string()]);
    if case.tuning == crate::args::Tuning::Lora {
        command.args(["--lora", &crate::args::RANK.to_string()]);
    }
    if case.keeps {
        command.arg("--no-checkpointing");
    }
    match setup.device {
        Named::Cpu if case.bf16 => {
            command.arg("--bf16");
        }
        Named::Cpu => {}
        Named::Cuda(number) => {
            on_gpu(&mut command, number);
        }
    }
    let finished = child::run(&mut command, setup.meter)?;
    let said = finished.json("peer_trl.py")?;
    let figure = |key: &str| number(&said, key, "peer_trl.py");
    let once = Once {
        seconds: finished.seconds,
        rows_per_second: figure("rows_per_second")?,
        tokens_per_second: figure("tokens_per_second")?,
        step_rows_per_second: figure("rows_per_second")?,
        peak_bytes: match setup.meter {
            Meter::Resident => figure("peak_bytes")?,
            Meter::Gpu { .. } => finished.peak,
        },
        last_loss: figure("last_loss")?,
    };
    Ok((once, said["versions"].clone()))
}

/// Lets a peer see one GPU, that of our number: with several, trainers take all.
pub(crate) fn on_gpu(command: &mut Command, number: usize) {
    let seen = std::env::var("CUDA_VISIBLE_DEVICES").unwrap_or_default();
    let ours = seen.split(',').nth(number).filter(|name| !name.is_empty());
    command.args(["--device", "cuda", "--dtype", "bfloat16"]);
    command.env("CUDA_VISIBLE_DEVICES", ours.map_or_else(|| number.to_string(), str::to_owned));
}

/// A number that a program printed.
pub(crate) fn number(said: &Value, key: &str, command: &str) -> Result<f64, Error> {
    said[key]
        .as_f64()
        .ok_or_else(|| Error::Child { command: command.to_owned(), what: format!("it printed no number `{key}`") })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn once(rows_per_second: f64) -> Once {
        Once {
            seconds: 1.0,
            rows_per_second,
            tokens_per_second: 1.0,
            step_rows_per_second: 1.0,
            peak_bytes: 1.0,
            last_loss: 1.0,
        }
    }

    #[test]
    fn a_log_gives_the_rows_of_the_whole_process_and_of_its_warm_steps() {
        let log = r#"{"loss":0.5,"num_tokens":100,"tokens_per_second":10,"step":1}
{"eval_loss":0.5,"step":1}
{"loss":0.4,"num_tokens":300,"tokens_per_second":100,"step":2}
{"loss":0.3,"num_tokens":500,"tokens_per_second":100,"step":3}
"#;
        let finished = Finished { seconds: 20.0, peak: 7.0, stdout: String::new(), stderr: String::new() };
        let once = from_log(log, finished, 4).unwrap();
        assert_eq!((once.rows_per_second, once.tokens_per_second), (12.0 / 20.0, 25.0));
        assert_eq!((once.step_rows_per_second, once.peak_bytes, once.last_loss), (2.0, 7.0, 0.3));
    }

    #[test]
    fn a_case_is_compared_round_by_round() {
        let run = Run {
            model: "m".into(),
            objective: "kto",
            tuning: "lora",
            batch: 4,
            steps: 2,
            ours: [2.0, 8.0, 4.0].map(once).into(),
            peer: [1.0, 2.0, 4.0].map(once).into(),
            peer_versions: Value::Null,
            planned_bytes: 1.0,
        };
        assert_eq!(run.ratios(|o| o.rows_per_second), [2.0, 4.0, 1.0]);
        assert_eq!((run.ours(|o| o.rows_per_second), run.peer(|o| o.rows_per_second)), (4.0, 2.0));
    }
}
