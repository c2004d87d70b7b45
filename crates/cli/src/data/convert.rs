//! `data convert` and `data unpair`: any readable data in the form that is written.

use super::source::{self, Goal, ReadingArgs, Source, task_word};
use crate::failure::Failure;
use crate::meter::{Meter, Unit};
use crate::output::{self, Side, table};
use crate::screen::Screen;
use clap::Args;
use data::tools::convert::{Converted, Split};
use data::{Task, Written};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// `prospect data convert`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect data convert alpaca.json rows.jsonl
  prospect data convert math.jsonl code.jsonl if.jsonl all.parquet --skip-bad
  prospect data convert pairs.parquet saved --to kto --split 0.95

The output's name says how it is written: .jsonl, .jsonl.gz, .jsonl.zst, .json, .parquet, or a folder as save_to_disk writes it.
It is written aside and renamed when it is whole; stopped or killed, the same command goes on where it was.")]
pub(crate) struct ConvertArgs {
    /// Files, patterns, folders, registered names, or org/name on the Hub.
    #[arg(value_name = "IN", required = true)]
    inputs: Vec<PathBuf>,
    /// What is written; must not exist.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// What the rows are for [default: told from the first].
    #[arg(long, value_name = "TASK")]
    to: Option<Goal>,
    /// Divide into NAME-train and NAME-test (of a folder: its two splits), this share of the prompts for training.
    #[arg(long, value_name = "SHARE")]
    split: Option<f64>,
    /// Of the division.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Print what was done as a JSON object.
    #[arg(long)]
    json: bool,
}

/// `prospect data unpair`
#[derive(Args)]
#[command(after_help = "\
Example:
  prospect data unpair dpo_en_demo.json kto.jsonl

The chosen answer becomes a desirable row, the rejected one an undesirable row behind it.")]
pub(crate) struct UnpairArgs {
    /// Files, patterns, folders, registered names, or org/name on the Hub.
    #[arg(value_name = "IN", required = true)]
    inputs: Vec<PathBuf>,
    /// What is written; must not exist.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Print what was done as a JSON object.
    #[arg(long)]
    json: bool,
}

/// `prospect data convert`
pub(crate) fn convert(args: &ConvertArgs, screen: &Screen) -> Result<u8, Failure> {
    let Source { files, options } = source::open(&args.inputs, &args.reading, args.to, screen)?;
    let split = args.split.map(|train_share| Split { train_share, seed: args.seed });
    let mut meter = Meter::new(screen, "converting", Unit::Bytes)?;
    let mut tell = |done, total| meter.tell(done, total);
    let done = data::tools::convert::convert(&files, &args.output, &options, split, &mut tell)?;
    drop(meter);
    report(&done, options.task, args.json, screen)
}

/// `prospect data unpair`
pub(crate) fn unpair(args: &UnpairArgs, screen: &Screen) -> Result<u8, Failure> {
    let Source { files, options } = source::open(&args.inputs, &args.reading, Some(Goal::Kto), screen)?;
    let mut meter = Meter::new(screen, "converting", Unit::Bytes)?;
    let mut tell = |done, total| meter.tell(done, total);
    let done = data::tools::convert::unpair(&files, &args.output, &options, &mut tell)?;
    drop(meter);
    report(&done, Task::Kto, args.json, screen)
}

fn report(done: &Converted, task: Task, json: bool, screen: &Screen) -> Result<u8, Failure> {
    if done.gone_on_from > 0 {
        screen.note(format_args!("went on after row {}, where an earlier call was stopped", done.gone_on_from));
    }
    if task == Task::Kto && done.desirable > 0 && done.undesirable == 0 {
        screen.note(
            "every label is true: KTO has nothing to push down; `prospect data label --make-negatives` makes some",
        );
    }
    let formats: Map<String, Value> =
        done.shapes.iter().map(|(shape, n)| (shape.name().to_owned(), json!(n))).collect();
    if json {
        output::json(&json!({
            "task": task_word(task), "rows_read": done.rows_read, "bad": done.bad, "first_bad": done.first_bad,
            "desirable": done.desirable, "undesirable": done.undesirable, "formats": formats,
            "unused_fields": done.unused_fields, "gone_on_from": done.gone_on_from, "written": written(&done.written),
        }))?;
        return Ok(0);
    }
    let mut facts = vec![("rows read".to_owned(), done.rows_read.to_string())];
    if done.bad > 0 {
        let first = done.first_bad.as_deref().unwrap_or_default();
        facts.push(("bad, left out".to_owned(), format!("{}; the first: {first}", done.bad)));
    }
    let list = |pairs: Vec<String>| pairs.join(", ");
    facts.push(("formats".to_owned(), list(formats.iter().map(|(name, n)| format!("{name} ({n})")).collect())));
    if !done.unused_fields.is_empty() {
        let fields = done.unused_fields.iter().map(|(name, n)| format!("{name} ({n})")).collect();
        facts.push(("fields dropped".to_owned(), list(fields)));
    }
    if task == Task::Kto {
        facts.push(("labels".to_owned(), format!("{} true, {} false", done.desirable, done.undesirable)));
    }
    facts.extend(done.written.iter().map(wrote));
    print(facts)?;
    Ok(0)
}

/// An output as a fact.
pub(super) fn wrote(written: &Written) -> (String, String) {
    ("written".to_owned(), format!("{}, {} rows", written.path.display(), written.rows))
}

/// Outputs as JSON.
pub(super) fn written(all: &[Written]) -> Value {
    all.iter().map(|written| json!({"path": written.path, "rows": written.rows})).collect()
}

/// Names and facts, aligned.
pub(super) fn print(facts: Vec<(String, String)>) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = facts.into_iter().map(|(name, fact)| vec![name, fact]).collect();
    table(&[Side::Left, Side::Left], &rows)
}
