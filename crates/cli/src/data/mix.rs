//! `data mix`: data sets into one, by weight.

use super::convert::{print, written, wrote};
use super::source::{self, ReadingArgs};
use crate::failure::Failure;
use crate::meter::{Meter, Unit};
use crate::output;
use crate::screen::Screen;
use clap::{Args, ValueEnum};
use data::tools::detect::detect;
use data::tools::mix::End;
use data::{Options, Task};
use serde_json::{Value, json};
use std::path::PathBuf;

/// `prospect data mix`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect data mix math.jsonl=3 chat.jsonl=1 --output mixed.jsonl
  prospect data mix a.parquet b.parquet --output both.parquet --stop first-exhausted --seed 7

Rows are written as they are; convert them first if their formats differ. Every thousand rows hold the sources exactly
in proportion, and each source's rows stay in order; the same seed gives the same file.")]
pub(crate) struct MixArgs {
    /// Files, patterns or folders, each with its weight behind `=` [default: 1].
    #[arg(value_name = "IN=WEIGHT", required = true, num_args = 1..)]
    inputs: Vec<String>,
    /// What is written; must not exist.
    #[arg(long, short, value_name = "OUT")]
    output: PathBuf,
    /// Of the order in which sources take turns.
    #[arg(long, value_name = "S", default_value_t = 0)]
    seed: u64,
    /// When to stop.
    #[arg(long, value_name = "WHEN", default_value = "all-exhausted")]
    stop: Stop,
    /// Stop after so many rows.
    #[arg(long, value_name = "N", conflicts_with = "stop")]
    rows: Option<u64>,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Print what was done as a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Stop {
    /// Before the first source would repeat a row.
    FirstExhausted,
    /// When every source was read at least once; shorter ones repeat.
    AllExhausted,
}

/// `prospect data mix`
pub(crate) fn mix(args: &MixArgs, screen: &Screen) -> Result<u8, Failure> {
    let (mut names, mut weights) = (Vec::new(), Vec::new());
    for input in &args.inputs {
        let (name, weight) = split_weight(input)?;
        names.push(name);
        weights.push(weight);
    }
    let mut sources = Vec::new();
    let mut shapes = Vec::new();
    let mut options = Options::new(Task::Sft);
    for name in &names {
        let files = source::find(std::slice::from_ref(name), &args.reading, &mut options, screen)?;
        shapes.extend(detect(&files, &options)?.and_then(|detected| detected.shape));
        sources.push(files);
    }
    if shapes.windows(2).any(|pair| pair[0] != pair[1]) {
        let shapes: Vec<&str> = shapes.iter().map(|shape| shape.name()).collect();
        let listed = shapes.join(", ");
        screen.note(format_args!("the sources' formats differ ({listed}); `prospect data convert` makes them alike"));
    }
    let end = match (args.rows, args.stop) {
        (Some(rows), _) => End::Rows(rows),
        (None, Stop::FirstExhausted) => End::FirstExhausted,
        (None, Stop::AllExhausted) => End::AllExhausted,
    };
    let mut meter = Meter::new(screen, "mixing", Unit::Rows)?;
    let mut tell = |done, total| meter.tell(done, total);
    let done = data::tools::mix::mix(&sources, &weights, &args.output, (args.seed, end), &mut tell)?;
    drop(meter);
    let numbers = || names.iter().zip(&weights).zip(done.sizes.iter().zip(&done.taken));
    if args.json {
        let each: Vec<Value> = numbers()
            .map(|((name, weight), (size, taken))| json!({"source": name, "weight": weight, "rows": size, "taken": taken}))
            .collect();
        output::json(&json!({"sources": each, "written": written(&[done.written])}))?;
        return Ok(0);
    }
    let mut facts: Vec<(String, String)> = numbers()
        .map(|((name, weight), (size, taken))| {
            let times = *taken as f64 / *size as f64;
            (name.display().to_string(), format!("weight {weight}: {taken} rows, its {size} rows {times:.2} times"))
        })
        .collect();
    facts.push(wrote(&done.written));
    print(facts)?;
    Ok(0)
}

/// `a.jsonl=3` as a name and a weight; a file whose name holds `=` is believed.
fn split_weight(input: &str) -> Result<(PathBuf, f64), Failure> {
    match input.rsplit_once('=') {
        Some((name, weight)) if !std::path::Path::new(input).exists() => match weight.parse() {
            Ok(weight) => Ok((PathBuf::from(name), weight)),
            Err(_) => Err(Failure::usage(format!("expected a number behind `=`, found {weight:?} in {input:?}"))),
        },
        _ => Ok((PathBuf::from(input), 1.0)),
    }
}
