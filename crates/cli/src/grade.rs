//! `grade`: are answers right?

use crate::failure::Failure;
use crate::output;
use crate::screen::Screen;
use clap::{Args, ValueEnum};
use eval::grader::{Mode, Row, grade as verdict_on};
use serde_json::{Value, json};
use std::path::PathBuf;

/// `prospect grade`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect grade answers.jsonl --mode strict --json
  prospect grade answers.jsonl                       a table, and the accuracy

A row has `gold`, and either `pred` (a bare answer) or `generation` (a text to find the answer in); `dataset` names the
benchmark whose rules hold (none: olympiadbench).")]
pub(crate) struct GradeArgs {
    /// Rows, as JSONL or JSON.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What counts as equal.
    #[arg(long, value_name = "MODE", default_value = "qwen")]
    mode: GradeMode,
    /// Print one JSON object per row: verdict, rule, extracted, normalised.
    #[arg(long)]
    json: bool,
}

/// What counts as equal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum GradeMode {
    /// What the Qwen2.5-Math evaluation harness calls equal, leniencies included.
    Qwen,
    /// What is mathematically equal.
    Strict,
}

/// `prospect grade`
pub(crate) fn grade(args: &GradeArgs, screen: &Screen) -> Result<u8, Failure> {
    let mode = match args.mode {
        GradeMode::Qwen => Mode::Qwen,
        GradeMode::Strict => Mode::Strict,
    };
    let files = [args.file.clone()];
    let mut rows = data::source::Rows::open(&files);
    let (mut right, mut all) = (0_u64, 0_u64);
    while let Some(raw) = rows.next_row()? {
        let at = |reason: String| eval::Error::Row { path: args.file.clone(), line: raw.line, reason };
        let row: Value = serde_json::from_slice(&raw.text).map_err(|e| at(format!("not a JSON object: {e}")))?;
        let row = Row::from_json(&row).map_err(|e| at(e.to_string()))?;
        let found = verdict_on(&row, mode);
        (right, all) = (right + u64::from(found.verdict), all + 1);
        if args.json {
            output::json(&json!({
                "verdict": found.verdict,
                "rule": found.rule.name(),
                "extracted": found.extracted,
                "normalised": found.normalised,
            }))?;
        } else {
            let verdict = if found.verdict { "right" } else { "wrong" };
            output::line(format_args!("{all:>6}  {verdict}  {:<16}  {}", found.rule.name(), short(&found.normalised)))?;
        }
    }
    let share = 100.0 * right as f64 / all.max(1) as f64;
    screen.line(format_args!("{right} of {all} right ({share:.2} %)"));
    Ok(0)
}

/// The beginning of an answer, on one line.
fn short(text: &str) -> String {
    let line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(80).collect();
    if text.chars().nth(80).is_some() { format!("{line}...") } else { line }
}
