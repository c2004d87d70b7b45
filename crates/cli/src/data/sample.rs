//! `data sample`: rows drawn or divided by their hash.

use super::convert::{print, written, wrote};
use super::source::{self, ReadingArgs};
use crate::failure::Failure;
use crate::meter::{Meter, Unit};
use crate::output;
use crate::screen::Screen;
use clap::Args;
use data::split::ValSize;
use data::{Options, Task};
use serde_json::json;
use std::path::PathBuf;

/// `prospect data sample`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect data sample rows.jsonl some.jsonl --rows 1000
  prospect data sample rows.parquet tenth.parquet --share 0.1 --seed 7
  prospect data sample rows.jsonl parts.jsonl --split 0.9 --by prompt

Rows are written as they are and in their order. A row is drawn by what is in it: the sample does not change when rows
are reordered or added elsewhere, and a smaller sample is part of a larger one.")]
pub(crate) struct SampleArgs {
    /// Files, patterns, folders, registered names, or org/name on the Hub.
    #[arg(value_name = "IN", required = true)]
    inputs: Vec<PathBuf>,
    /// What is written; must not exist.
    #[arg(value_name = "OUT")]
    output: PathBuf,
    #[command(flatten)]
    size: SizeArgs,
    /// With --split: rows with the same value in this field stay together.
    #[arg(long, value_name = "FIELD", requires = "split")]
    by: Option<String>,
    /// Which rows are drawn.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Print what was done as a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct SizeArgs {
    /// Draw so many rows.
    #[arg(long, value_name = "N")]
    rows: Option<usize>,
    /// Draw this share of the rows.
    #[arg(long, value_name = "SHARE")]
    share: Option<f64>,
    /// Divide: this share into NAME-train, the rest into NAME-test.
    #[arg(long, value_name = "SHARE")]
    split: Option<f64>,
}

/// `prospect data sample`
pub(crate) fn sample(args: &SampleArgs, screen: &Screen) -> Result<u8, Failure> {
    let files = source::find(&args.inputs, &args.reading, &mut Options::new(Task::Sft), screen)?;
    let mut meter = Meter::new(screen, "sampling", Unit::Bytes)?;
    let mut tell = |done, total| meter.tell(done, total);
    let (read, outputs) = match (&args.size, args.size.split) {
        (_, Some(share)) => {
            let by = args.by.as_deref();
            let outputs = data::tools::sample::split(&files, &args.output, (share, args.seed), by, &mut tell)?;
            (outputs.iter().map(|written| written.rows).sum(), outputs)
        }
        (size, None) => {
            let size = size.rows.map_or_else(|| ValSize::Fraction(size.share.unwrap_or(0.0)), ValSize::Rows);
            let done = data::tools::sample::sample(&files, &args.output, size, args.seed, &mut tell)?;
            (done.rows_read, vec![done.written])
        }
    };
    drop(meter);
    if args.json {
        output::json(&json!({"rows_read": read, "written": written(&outputs)}))?;
        return Ok(0);
    }
    let mut facts = vec![("rows read".to_owned(), read.to_string())];
    facts.extend(outputs.iter().map(wrote));
    print(facts)?;
    Ok(0)
}
