//! `data dedup`: rows that repeat others are left out.

use super::convert::{print, written, wrote};
use super::source::{self, ReadingArgs, Source};
use crate::failure::Failure;
use crate::meter::{Meter, Unit};
use crate::output;
use crate::screen::Screen;
use clap::{Args, ValueEnum};
use data::tools::dedup::Same;
use serde_json::json;
use std::path::PathBuf;

/// `prospect data dedup`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect data dedup rows.jsonl clean.jsonl
  prospect data dedup rows.jsonl clean.jsonl --by near --threshold 0.7

The first of rows that repeat one another stays, as it is.")]
pub(crate) struct DedupArgs {
    /// Files, patterns, folders, registered names, or org/name on the Hub.
    #[arg(value_name = "IN", required = true)]
    inputs: Vec<PathBuf>,
    /// What is written; must not exist.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    /// What makes two rows the same.
    #[arg(long, value_name = "WHAT", default_value = "exact")]
    by: By,
    /// With --by near: the share of five-word pieces that rows have in common.
    #[arg(long, value_name = "SHARE", default_value_t = 0.8)]
    threshold: f64,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Print what was done as a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    /// All that is trained on, label included.
    Exact,
    /// The prompt.
    Prompt,
    /// Most of the words (MinHash).
    Near,
}

/// `prospect data dedup`
pub(crate) fn dedup(args: &DedupArgs, screen: &Screen) -> Result<u8, Failure> {
    let Source { files, options } = source::open(&args.inputs, &args.reading, None, screen)?;
    let same = match args.by {
        By::Exact => Same::Exact,
        By::Prompt => Same::Prompt,
        By::Near => Same::Near { threshold: args.threshold },
    };
    let mut meter = Meter::new(screen, "comparing", Unit::Bytes)?;
    let mut tell = |done, total| meter.tell(done, total);
    let done = data::tools::dedup::dedup(&files, &args.output, same, &options, &mut tell)?;
    drop(meter);
    if args.json {
        let pairs: Vec<_> = done.examples.iter().map(|(row, first)| json!({"row": row, "repeats": first})).collect();
        output::json(&json!({
            "rows_read": done.rows_read, "removed": done.removed, "examples": pairs, "written": written(&[done.written]),
        }))?;
        return Ok(0);
    }
    let pairs: Vec<String> = done.examples.iter().map(|(row, first)| format!("{row} repeats {first}")).collect();
    let mut facts =
        vec![("rows read".to_owned(), done.rows_read.to_string()), ("left out".to_owned(), done.removed.to_string())];
    if !pairs.is_empty() {
        facts.push(("the first".to_owned(), pairs.join(", ")));
    }
    facts.push(wrote(&done.written));
    print(facts)?;
    Ok(0)
}
