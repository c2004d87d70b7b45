//! Greedy answers as users ask for them, in a process of its own, and the same prompts through transformers right after.

use crate::arithmetic::{median, ratios, short};
use crate::child;
use crate::device::Named;
use crate::error::Error;
use crate::progress::Progress;
use crate::runs::{Setup, number, on_gpu};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// How many prompts are answered at a time.
pub(crate) const BATCHES: [usize; 2] = [1, 8];
/// Tokens of an answer; the model's own end does not end it.
const NEW_TOKENS: usize = 128;

/// So many prompts, answered together.
#[derive(Debug, Serialize)]
pub(crate) struct Generation {
    pub(crate) model: String,
    pub(crate) batch: usize,
    /// New tokens per second by round: of our whole process, of its generation alone, and of the peer's call alone.
    pub(crate) ours: Vec<f64>,
    pub(crate) ours_alone: Vec<f64>,
    pub(crate) peer: Vec<f64>,
    /// Ours over the peer's, round by round: of the whole process, and of generation alone.
    pub(crate) ratios: Vec<f64>,
    pub(crate) ratios_alone: Vec<f64>,
    /// Answers that are the same, token by token.
    pub(crate) same: usize,
    pub(crate) peer_versions: Value,
}

/// All rounds of a model and a number of prompts, which are the first rows of `data`.
pub(crate) fn compare(
    (name, folder): (&str, &Path),
    data: &Path,
    batch: usize,
    setup: &Setup,
    progress: &mut Progress,
) -> Result<Generation, Error> {
    let text = std::fs::read_to_string(data).map_err(Error::io("read", data))?;
    let prompts = setup.scratch.join("prompts.jsonl");
    let rows: Vec<&str> = text.lines().take(batch).collect();
    std::fs::write(&prompts, rows.join("\n") + "\n").map_err(Error::io("write", &prompts))?;
    let (mut ours, mut ours_alone, mut peer) = (Vec::new(), Vec::new(), Vec::new());
    let (mut same, mut peer_versions) = (0, Value::Null);
    for round in 1..=setup.rounds {
        let title = format!("{name}, {} answers, round {round} of {}", rows.len(), setup.rounds);
        progress.next(&format!("generate: {title}"));
        let (speed, alone, answers) = generated(folder, &prompts, setup)?;
        ours.push(speed);
        ours_alone.push(alone);
        if let Some((python, scripts)) = &setup.peer {
            progress.next(&format!("transformers: {title}"));
            let mut command = Command::new(python);
            command.arg(scripts.join("peer_generate.py")).arg(folder).arg(&prompts);
            command.args([
                "--new-tokens",
                &NEW_TOKENS.to_string(),
                "--threads",
                &crate::machine::threads().to_string(),
            ]);
            if let Named::Cuda(number) = setup.device {
                on_gpu(&mut command, number);
            }
            let said = child::run(&mut command, setup.meter)?.json("peer_generate.py")?;
            peer.push(number(&said, "tokens_per_second", "peer_generate.py")?);
            let theirs = said["token_ids"].as_array().into_iter().flatten();
            same = theirs.zip(&answers).filter(|(theirs, ours)| theirs == ours).count();
            peer_versions = said["versions"].clone();
        }
    }
    let (ratios, ratios_alone) = (ratios(&ours, &peer), ratios(&ours_alone, &peer));
    let (model, batch) = (name.to_owned(), rows.len());
    Ok(Generation { model, batch, ours, ours_alone, peer, ratios, ratios_alone, same, peer_versions })
}

/// New tokens per second of a whole process and of its generation alone, and the answers' tokens.
fn generated(folder: &Path, prompts: &Path, setup: &Setup) -> Result<(f64, f64, Vec<Value>), Error> {
    let mut command = Command::new(setup.prospect);
    command.arg("generate").arg(folder).arg("--data").arg(prompts);
    command.args(["--temperature", "0", "--ignore-eos", "--max-new-tokens", &NEW_TOKENS.to_string(), "--json"]);
    command.args(["--device", &setup.device.text()]);
    let finished = child::run(&mut command, setup.meter)?;
    let rows = finished.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let answers: Vec<Value> = rows.map(|mut row| row["token_ids"].take()).collect();
    let tokens: usize = answers.iter().filter_map(Value::as_array).map(Vec::len).sum();
    let alone = said_speed(&finished.stderr).ok_or_else(|| Error::Child {
        command: "prospect generate".to_owned(),
        what: "it said no tokens/s".to_owned(),
    })?;
    Ok((tokens as f64 / finished.seconds, alone, answers))
}

/// The tokens per second in the last line that says some.
fn said_speed(said: &str) -> Option<f64> {
    let line = said.lines().rfind(|line| line.starts_with("generated ") && line.ends_with(" tokens/s"))?;
    line.split_whitespace().rev().nth(1)?.parse().ok()
}

impl Generation {
    /// A row of the table.
    pub(crate) fn row(&self) -> Vec<String> {
        let of = |speeds: &[f64]| short(median(speeds.iter().copied()));
        let times = |ratios: &[f64]| format!("{} x", of(ratios));
        let mut row = vec![self.model.clone(), self.batch.to_string(), of(&self.ours), of(&self.ours_alone)];
        if self.peer.is_empty() {
            row.extend(["", "", "", "", ""].map(str::to_owned));
        } else {
            let each = self.ratios_alone.iter().map(|&x| short(x)).collect::<Vec<_>>().join(", ");
            row.extend([of(&self.peer), times(&self.ratios), times(&self.ratios_alone), each]);
            row.push(format!("{} of {}", self.same, self.batch));
        }
        row
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn speed_is_read_from_the_last_line_that_says_it() {
        let said = "sampling       greedy\ngenerated      8 tokens in 0.50 s, 16.0 tokens/s\n8 answers in generated tokens/s\n";
        assert_eq!(said_speed(said), Some(16.0));
        assert_eq!(said_speed("sampling       greedy\n"), None);
    }
}
