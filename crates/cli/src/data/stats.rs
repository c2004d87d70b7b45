//! `data stats`: what is in data.

use super::source::{self, Goal, ReadingArgs, Source, TokenArgs, task_word};
use crate::failure::Failure;
use crate::meter::{Meter, Unit};
use crate::output::{self, Side, number, table};
use crate::screen::Screen;
use crate::watchdog::Watchdog;
use clap::Args;
use data::tools::lengths::Lengths;
use data::tools::stats::{Stats, Unit as LengthUnit};
use data::{Options, Task};
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// `prospect data stats`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect data stats rows.jsonl
  prospect data stats train.parquet --model models/base --max-length 2048 --json

Without a model lengths are characters; with one, tokens, and what max_length does is counted too.")]
pub(crate) struct StatsArgs {
    /// Files, patterns, folders, registered names, or org/name on the Hub.
    #[arg(value_name = "FILE", required = true)]
    inputs: Vec<PathBuf>,
    /// What the rows are for [default: told from the first].
    #[arg(long, value_name = "TASK")]
    task: Option<Goal>,
    #[command(flatten)]
    tokens: TokenArgs,
    #[command(flatten)]
    reading: ReadingArgs,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Bars of the histogram, and their greatest width in characters.
const BARS: usize = 12;
const WIDTH: u64 = 40;
/// What is shown of the distribution of lengths.
const PERCENTS: [f64; 7] = [0.0, 25.0, 50.0, 75.0, 90.0, 99.0, 100.0];

/// `prospect data stats`
pub(crate) fn stats(args: &StatsArgs, screen: &Screen) -> Result<u8, Failure> {
    let tokenizer = args.tokens.tokenizer(screen)?;
    let Source { files, mut options } = source::open(&args.inputs, &args.reading, args.task, screen)?;
    options.max_length = args.tokens.max_length();
    let mut meter = Meter::new(screen, "counting", Unit::Bytes)?;
    let watchdog = tokenizer.as_ref().map(|_| Watchdog::new(screen));
    let mut progress = |done, total| {
        watchdog.iter().for_each(Watchdog::word);
        meter.tell(done, total)
    };
    let stats = data::tools::stats::stats(&files, tokenizer.as_ref(), &options, &mut progress)?;
    drop((watchdog, meter));
    if args.json {
        output::json(&as_json(&stats, &options))?
    } else {
        as_text(&stats, &options)?
    }
    Ok(0)
}

fn facts(facts: &[(&str, String)]) -> Result<(), Failure> {
    let rows: Vec<Vec<String>> = facts.iter().map(|(name, fact)| vec![(*name).to_owned(), fact.clone()]).collect();
    table(&[Side::Left, Side::Left], &rows)
}

fn as_text(stats: &Stats, options: &Options) -> Result<(), Failure> {
    let report = &stats.report;
    let shapes: Vec<String> = report.shapes.iter().map(|(shape, n)| format!("{} ({n})", shape.name())).collect();
    let mut rows = vec![
        ("rows", format!("{}, {} to train on", report.rows_read, report.rows)),
        ("formats", shapes.join(", ")),
        ("task", task_word(options.task).to_owned()),
    ];
    if options.task == Task::Kto {
        rows.push(("labels", format!("{} true, {} false", report.desirable, report.undesirable)));
    }
    if !report.unused_fields.is_empty() {
        let fields: Vec<String> = report.unused_fields.iter().map(|(name, n)| format!("{name} ({n})")).collect();
        rows.push(("not used", fields.join(", ")));
    }
    rows.push(("duplicates", format!("{} rows repeat an earlier one", stats.duplicates)));
    let prompts = (stats.distinct_prompts, stats.shared_prompts, stats.largest_group);
    rows.push(("prompts", format!("{} different; {} with several rows, at most {}", prompts.0, prompts.1, prompts.2)));
    if options.task == Task::Kto {
        rows.push(("", format!("{} with rows of both labels", stats.contrasted_prompts)));
        rows.push(("contradictions", format!("{} rows stand under both labels", stats.contradictions)));
    }
    if report.tokens > 0 {
        let share = 100.0 * report.loss_tokens as f64 / report.tokens as f64;
        rows.push(("tokens", format!("{}, {} of them ({share:.1} %) trained", report.tokens, report.loss_tokens)));
    }
    facts(&rows)?;
    lengths(stats, options)?;
    let problems = problems(stats, options);
    if !problems.is_empty() {
        output::line("\nproblems")?;
        problems.iter().try_for_each(|problem| output::line(format_args!("  {problem}")))?;
    }
    let advice = advice(stats, options);
    if !advice.is_empty() {
        output::line("\nlabels")?;
        advice.iter().try_for_each(|line| output::line(format_args!("  {line}")))?;
    }
    Ok(())
}

/// Percentiles of the three lengths, and a histogram of the whole.
fn lengths(stats: &Stats, options: &Options) -> Result<(), Failure> {
    let unit = unit(stats);
    let mut rows = vec![vec![unit.to_owned()]];
    rows[0].extend(PERCENTS.map(|p| match p {
        0.0 => "least".to_owned(),
        100.0 => "most".to_owned(),
        p => format!("{p} %"),
    }));
    rows[0].push("mean".to_owned());
    for (name, lengths) in parts(stats) {
        let mut row = vec![name.to_owned()];
        row.extend(PERCENTS.map(|p| lengths.percentile(p).to_string()));
        row.push(number(lengths.mean()));
        rows.push(row);
    }
    let mut sides = vec![Side::Right; rows[0].len()];
    sides[0] = Side::Left;
    output::line("")?;
    table(&sides, &rows)?;
    output::line("")?;
    let bars = stats.totals.histogram(BARS);
    let most = bars.iter().map(|bar| bar.count).max().unwrap_or(1).max(1);
    let rows: Vec<Vec<String>> = bars
        .iter()
        .map(|bar| {
            let width = (bar.count * WIDTH).div_ceil(most) as usize;
            vec![format!("{}..{}", bar.from, bar.to), bar.count.to_string(), "█".repeat(width)]
        })
        .collect();
    table(&[Side::Right, Side::Right, Side::Left], &rows)?;
    if let (LengthUnit::Tokens, Some(limit)) = (stats.unit, options.max_length) {
        let (long, whole) = (stats.too_long, stats.totals.count());
        output::line(format_args!(
            "\nmax_length {limit}: {long} of {whole} rows ({:.1} %) are longer and lose their end; of {} nothing is left to train on",
            100.0 * long as f64 / whole.max(1) as f64,
            stats.prompt_only
        ))?;
    }
    Ok(())
}

fn unit(stats: &Stats) -> &'static str {
    match stats.unit {
        LengthUnit::Tokens => "tokens",
        LengthUnit::Characters => "characters",
    }
}

fn parts(stats: &Stats) -> Vec<(&'static str, &Lengths)> {
    let mut parts = vec![("prompt", &stats.prompts), ("completion", &stats.completions), ("row", &stats.totals)];
    // Of conversations and texts there is only the whole.
    if stats.prompts.max() == 0 {
        parts.drain(..2);
    }
    parts
}

fn problems(stats: &Stats, options: &Options) -> Vec<String> {
    let report = &stats.report;
    let mut problems = Vec::new();
    if report.bad > 0 {
        problems
            .push(format!("{} bad rows, {} of them with an empty completion:", report.bad, stats.empty_completions));
        problems.extend(report.bad_examples.iter().map(|bad| format!("  {bad}")));
    }
    if report.unstable_prefix > 0 {
        let tail = report.unstable_example.as_deref().unwrap_or_default();
        problems.push(format!(
            "the template is not prefix-stable: of {} rows the prompt ends otherwise when an answer follows; {tail:?} is left out",
            report.unstable_prefix
        ));
    }
    if report.ignored_labels > 0 {
        problems
            .push(format!("{} rows have a label, which supervised fine-tuning does not use", report.ignored_labels));
    }
    if report.ignored_loss_weights > 0 {
        problems.push(format!(
            "{} rows have a loss_weight that is neither 0 nor 1, or where turns are not trained one by one: no effect",
            report.ignored_loss_weights
        ));
    }
    if stats.contradictions > 0 && options.task == Task::Kto {
        problems.push(format!(
            "{} rows say of the same answer that it is desirable and that it is not",
            stats.contradictions
        ));
    }
    problems
}

/// What KTO makes of the labels.
fn advice(stats: &Stats, options: &Options) -> Vec<String> {
    if options.task != Task::Kto {
        return Vec::new();
    }
    let (desirable, undesirable) = (stats.report.desirable, stats.report.undesirable);
    match (stats.weights, desirable, undesirable) {
        (_, 0, 0) => Vec::new(),
        (Some((d, u)), ..) => {
            let ratio = desirable as f64 / undesirable as f64;
            let inside = (1.0..=4.0 / 3.0).contains(&ratio);
            let verdict = if inside { "within" } else { "outside" };
            vec![
                format!("{desirable} desirable to {undesirable} undesirable, {} to 1: {verdict} the paper's 1 to 4/3", number(ratio)),
                format!("suggested weights: desirable_weight {}, undesirable_weight {}", number(d), number(u)),
            ]
        }
        (None, _, 0) => vec![
            "every label is true: no term pushes anything down. KTO then raises the answers' probability until their rewards".to_owned(),
            "are far above z0 and the gradient fades; that is a weighted SFT. Add undesirable rows, or make some with".to_owned(),
            "`prospect data label IN OUT --make-negatives`, or train with SFT.".to_owned(),
        ],
        (None, ..) => vec![
            "every label is false: KTO only lowers these answers' probability and nothing says what to write instead.".to_owned(),
            "Add desirable rows.".to_owned(),
        ],
    }
}

fn as_json(stats: &Stats, options: &Options) -> Value {
    let report = &stats.report;
    let lengths = |lengths: &Lengths| {
        let percentiles: Map<String, Value> =
            PERCENTS.iter().map(|p| (format!("p{p}"), lengths.percentile(*p).into())).collect();
        let bars: Vec<Value> = lengths
            .histogram(BARS)
            .iter()
            .map(|bar| json!({"from": bar.from, "to": bar.to, "rows": bar.count}))
            .collect();
        json!({"mean": lengths.mean(), "sum": lengths.sum(), "percentiles": percentiles, "histogram": bars})
    };
    let formats: Map<String, Value> =
        report.shapes.iter().map(|(shape, n)| (shape.name().to_owned(), json!(n))).collect();
    json!({
        "task": task_word(options.task),
        "rows_read": report.rows_read, "rows": report.rows, "bad": report.bad,
        "bad_examples": report.bad_examples, "empty_completions": stats.empty_completions,
        "formats": formats, "unused_fields": report.unused_fields,
        "desirable": report.desirable, "undesirable": report.undesirable,
        "suggested_weights": stats.weights.map(|(d, u)| json!({"desirable": d, "undesirable": u})),
        "duplicates": stats.duplicates, "contradictions": stats.contradictions,
        "distinct_prompts": stats.distinct_prompts, "shared_prompts": stats.shared_prompts,
        "largest_group": stats.largest_group, "contrasted_prompts": stats.contrasted_prompts,
        "unit": unit(stats),
        "lengths": {
            "prompt": lengths(&stats.prompts), "completion": lengths(&stats.completions), "row": lengths(&stats.totals),
        },
        "max_length": options.max_length, "too_long": stats.too_long, "prompt_only": stats.prompt_only,
        "tokens": report.tokens, "trained_tokens": report.loss_tokens,
        "unstable_prefix": report.unstable_prefix, "unstable_example": report.unstable_example,
        "ignored_labels": report.ignored_labels, "ignored_loss_weights": report.ignored_loss_weights,
    })
}
