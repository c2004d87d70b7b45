//! Configurations of all kinds: what the plan expects of a run, and what the run takes.

use crate::child;
use crate::device::Named;
use crate::error::Error;
use crate::runs::{Setup, number};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A configuration, planned and run.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Planned {
    pub(crate) name: String,
    /// Peak as planned, and as measured, bytes.
    pub(crate) planned_bytes: f64,
    pub(crate) peak_bytes: f64,
    /// By part, as planned.
    pub(crate) parts: Value,
    /// A step as planned before the run and after it, seconds: a machine that others use is another one a minute later.
    pub(crate) planned_seconds: [f64; 2],
    /// The mean of all steps, as the plan's is: the first one's rows may be longer than the others'.
    pub(crate) seconds: f64,
}

impl Planned {
    /// By how much the planned peak is off, as a share of the measured one.
    pub(crate) fn memory_error(&self) -> f64 {
        self.planned_bytes / self.peak_bytes - 1.0
    }

    /// Likewise of a step's time, of the mean of both plans.
    pub(crate) fn time_error(&self) -> f64 {
        self.planned_seconds.iter().sum::<f64>() / 2.0 / self.seconds - 1.0
    }
}

/// Plans and runs a configuration as it is, but for its length and what it writes.
pub(crate) fn measure(name: &str, file: &Path, setup: &Setup) -> Result<Planned, Error> {
    let output = setup.scratch.join("run");
    let settings = [
        // A JSON string is a YAML string.
        format!("output_dir={}", Value::from(output.display().to_string())),
        format!("max_steps={}", setup.steps.0),
        "overwrite_output_dir=true".to_owned(),
        "save_strategy=no".to_owned(),
        "logging_steps=1".to_owned(),
        format!("device={}", setup.device.text()),
    ];
    let plan = || {
        let mut command = Command::new(setup.prospect);
        command.args(["--quiet", "plan", "--json"]).arg(file).args(&settings);
        // This processor's speed is measured; of a GPU's the plan knows models only.
        if setup.device == Named::Cpu {
            command.args(["--device", "cpu"]);
        }
        child::run(&mut command, setup.meter)?.json("prospect plan")
    };
    let before = plan()?;
    let mut command = Command::new(setup.prospect);
    let finished = child::run(command.args(["--quiet", "train"]).arg(file).args(&settings), setup.meter)?;
    let after = plan()?;
    let log = output.join("log.jsonl");
    let text = std::fs::read_to_string(&log).map_err(Error::io("read", &log))?;
    Ok(Planned {
        name: name.to_owned(),
        planned_bytes: number(&before, "memory_total_bytes", "prospect plan")?,
        peak_bytes: finished.peak,
        parts: before["memory_bytes"].clone(),
        planned_seconds: [before, after].map(|plan| plan["pace"]["seconds_per_step"].as_f64().unwrap_or(f64::NAN)),
        seconds: step_seconds(&text),
    })
}

/// Mean seconds of the steps, from a log with a line for every step.
fn step_seconds(log: &str) -> f64 {
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let (mut before, mut seconds, mut steps) = (0.0, 0.0, 0u32);
    for line in lines.filter(|line| line.get("tokens_per_second").is_some()) {
        let at = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        seconds += (at("num_tokens") - before) / at("tokens_per_second");
        before = at("num_tokens");
        steps += 1;
    }
    seconds / f64::from(steps)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_counts_as_often_as_in_the_plan() {
        let log = r#"{"num_tokens":100,"tokens_per_second":1}
{"eval_loss":0.5}
{"num_tokens":300,"tokens_per_second":100}
{"num_tokens":500,"tokens_per_second":50}
{"num_tokens":650,"tokens_per_second":50}
"#;
        assert_eq!(step_seconds(log), (100.0 + 2.0 + 4.0 + 3.0) / 4.0);
    }
}
