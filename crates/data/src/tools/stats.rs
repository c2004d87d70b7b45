//! What is in data: rows, labels, lengths, what truncation will do, what repeats.

use std::path::PathBuf;

use super::lengths::Lengths;
use super::{PROGRESS_ROWS, Progress, hash, tell};
use crate::dataset::{Builder, Report};
use crate::error::{Error, Result};
use crate::format::{Body, Example, Task};
use crate::read::Examples;
use crate::rng::mix;
use crate::source::total_bytes;
use crate::tokenise::{OnBadRow, Options, run};
use crate::tokenizer::Tokenizer;

/// The unit of [`Stats`]'s lengths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unit {
    /// Tokens of the tokenizer.
    Tokens,
    /// Characters: no tokenizer was given.
    #[default]
    Characters,
}

/// What is in data. Bad rows are counted and left out, whatever the policy.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stats {
    /// Rows read, shapes, unused fields, labels, bad rows, prompts that are no prefix, ignored labels and weights.
    pub report: Report,
    /// The unit of the lengths.
    pub unit: Unit,
    /// Lengths of prompts; of conversations trained as a whole, and of texts, 0.
    pub prompts: Lengths,
    /// Lengths of completions.
    pub completions: Lengths,
    /// Lengths of whole rows.
    pub totals: Lengths,
    /// Rows longer than `max_length` (with a tokenizer).
    pub too_long: u64,
    /// Rows whose prompt alone reaches `max_length` (with a tokenizer).
    pub prompt_only: u64,
    /// Rows that equal an earlier one, label included.
    pub duplicates: u64,
    /// Rows whose prompt and completion stand in another row under the other label.
    pub contradictions: u64,
    /// Different prompts.
    pub distinct_prompts: u64,
    /// Prompts with more than one row.
    pub shared_prompts: u64,
    /// Rows of the prompt with most of them.
    pub largest_group: u64,
    /// Prompts that have rows of both labels.
    pub contrasted_prompts: u64,
    /// Rows left out because their completion is empty.
    pub empty_completions: u64,
    /// For KTO data of both labels: weights of desirable and undesirable rows by the paper's rule, see [`suggested_weights`].
    pub weights: Option<(f64, f64)>,
}

/// Weights that make both classes count alike: the larger class 1, the smaller the ratio of the counts (the middle of the
/// interval 1 to 4/3 in which the paper keeps `w_D n_D / (w_U n_U)`, its lower end). `None` when a class is empty.
pub fn suggested_weights(desirable: usize, undesirable: usize) -> Option<(f64, f64)> {
    let (d, u) = (desirable as f64, undesirable as f64);
    match (desirable, undesirable) {
        (0, _) | (_, 0) => None,
        _ if d >= u => Some((1.0, d / u)),
        _ => Some((u / d, 1.0)),
    }
}

/// What all rows are compared by: sixteen bytes for each row. The last bit of a hash is the label.
#[derive(Default)]
struct Seen {
    /// By prompt and completion.
    rows: Vec<u64>,
    /// By prompt.
    prompts: Vec<u64>,
}

/// How often one thing was seen with the label false or without one, and with the label true.
type Seenings = [u64; 2];

impl Seen {
    fn add(&mut self, prompt: u64, completion: u64, label: Option<bool>) {
        let class = u64::from(label == Some(true));
        self.rows.push(mix(prompt ^ mix(completion)) & !1 | class);
        self.prompts.push(prompt & !1 | class);
    }

    fn finish(mut self, stats: &mut Stats) {
        each_thing(&mut self.rows, |count| {
            stats.duplicates += count.iter().map(|&n| n.saturating_sub(1)).sum::<u64>();
            stats.contradictions += if count.contains(&0) { 0 } else { count.iter().sum() };
        });
        each_thing(&mut self.prompts, |count| {
            let sum = count.iter().sum();
            stats.distinct_prompts += 1;
            stats.shared_prompts += u64::from(sum > 1);
            stats.contrasted_prompts += u64::from(!count.contains(&0));
            stats.largest_group = stats.largest_group.max(sum);
        });
    }
}

fn each_thing(hashes: &mut [u64], mut tell: impl FnMut(Seenings)) {
    hashes.sort_unstable();
    for same in hashes.chunk_by(|a, b| a & !1 == b & !1) {
        let desirable = same.iter().filter(|hash| *hash & 1 == 1).count() as u64;
        tell([same.len() as u64 - desirable, desirable]);
    }
}

/// Counts `files`, in tokens with a tokenizer and in characters without. `progress` is told bytes read and bytes in all.
///
/// # Errors
/// `Io`, `Table`, `NothingToTrain` when no row is good, `Tokenizer`, `Template` when the template is not valid.
pub fn stats(
    files: &[PathBuf],
    tokenizer: Option<&Tokenizer>,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Stats> {
    let options = Options { on_bad_row: OnBadRow::Skip, ..options.clone() };
    let (mut stats, mut seen) = (Stats::default(), Seen::default());
    match tokenizer {
        Some(tokenizer) => {
            stats.unit = Unit::Tokens;
            let limit = options.max_length;
            let whole = Options { max_length: None, ..options };
            let mut drain = |builder: &mut Builder| {
                for row in builder.take() {
                    seen.add(row.prompt_hash, hash(&row.completion_bytes), row.label);
                    stats.add(row.prompt, row.completion);
                    let limit = limit.unwrap_or(usize::MAX);
                    stats.too_long += u64::from(row.prompt + row.completion > limit);
                    stats.prompt_only += u64::from(row.prompt >= limit);
                }
                Ok(())
            };
            stats.report = run(files, tokenizer, &whole, Builder::new(), progress, &mut drain)?.report;
        }
        None => count_characters(files, &options, &mut stats, &mut seen, progress)?,
    }
    seen.finish(&mut stats);
    stats.empty_completions = stats.report.empty_completions as u64;
    stats.weights = suggested_weights(stats.report.desirable, stats.report.undesirable);
    Ok(stats)
}

impl Stats {
    fn add(&mut self, prompt: usize, completion: usize) {
        self.prompts.add(prompt);
        self.completions.add(completion);
        self.totals.add(prompt + completion);
    }
}

fn count_characters(
    files: &[PathBuf],
    options: &Options,
    stats: &mut Stats,
    seen: &mut Seen,
    progress: Progress<'_>,
) -> Result<()> {
    let total = total_bytes(files)?;
    let mut rows = Examples::open(files, options);
    while let Some((_, row)) = rows.next_row()? {
        stats.report.see(row.shape, &row.unused);
        for example in &row.examples {
            let (prompt, completion, bytes) = measure(example);
            stats.add(prompt, completion);
            seen.add(example.hashes().0, hash(&bytes), example.label);
            stats.report.rows += 1;
            stats.report.desirable += usize::from(example.label == Some(true));
            stats.report.undesirable += usize::from(example.label == Some(false));
            stats.report.ignored_labels += usize::from(example.ignored.label && options.task == Task::Sft);
            stats.report.ignored_loss_weights += usize::from(example.ignored.loss_weight);
        }
        if rows.rows_read.is_multiple_of(PROGRESS_ROWS) {
            tell(progress, rows.bytes_read(), total)?;
        }
    }
    if rows.rows_read == 0 {
        let names: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
        let reason = format!("{}: expected at least one row, found none", names.join(", "));
        return Err(Error::NothingToTrain { reason });
    }
    stats.report.rows_read = rows.rows_read;
    stats.report.bad = rows.bad;
    stats.report.empty_completions = rows.empty_completions;
    stats.report.bad_examples.extend(rows.first_bad);
    Ok(())
}

/// Characters of prompt and completion, and the completion as bytes.
fn measure(example: &Example) -> (usize, usize, Vec<u8>) {
    let text = |turns: &[serde_json::Value]| {
        let contents = turns.iter().filter_map(|t| t["content"].as_str());
        contents.map(|c| c.chars().count()).sum::<usize>()
    };
    let json = |turns: &[serde_json::Value]| serde_json::to_vec(turns).expect("JSON values serialise");
    match &example.body {
        Body::Plain { prompt, completion } => {
            (prompt.chars().count(), completion.chars().count(), completion.clone().into_bytes())
        }
        Body::Chat { prompt, completion } => (text(prompt), text(completion), json(completion)),
        Body::Messages(turns) => (0, text(turns), json(turns)),
        Body::Text(whole) => (0, whole.chars().count(), whole.clone().into_bytes()),
    }
}
