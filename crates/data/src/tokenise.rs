//! From files to token rows: in parallel, in order, with an account of what was cut, dropped and skipped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;

use crate::dataset::{Builder, Dataset, NewRow};
use crate::encode::{Encoded, Failure, encode_examples};
use crate::error::{Error, Place, Result};
use crate::format::mapping::Mapping;
use crate::format::{ReadRow, Shape, Task};
use crate::read::{parse, place_of, row_error};
use crate::source::{RawRow, Rows};
use crate::tokenizer::Tokenizer;
use crate::tools::{Progress, tell};

/// What becomes of a row longer than `max_length`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Truncation {
    /// Its end is cut off.
    #[default]
    KeepStart,
    /// It is left out.
    Drop,
}

/// What becomes of a row that cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnBadRow {
    /// Loading fails and names it.
    #[default]
    Error,
    /// It is left out and counted.
    Skip,
}

/// Which turns of a conversation are predicted in supervised fine-tuning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TurnLoss {
    /// All of them (TRL); of a prompt and a completion what `completion_only_loss` says.
    #[default]
    Whole,
    /// The assistant's (LLaMA-Factory).
    Assistant,
    /// The assistant's last (LLaMA-Factory's `mask_history`).
    LastAssistant,
}

/// How rows become tokens.
#[derive(Clone, Debug)]
pub struct Options {
    /// What the rows are for.
    pub task: Task,
    /// Greatest number of tokens of a row; `None` for no limit.
    pub max_length: Option<usize>,
    /// What becomes of longer rows.
    pub truncation: Truncation,
    /// SFT: whether only the completion is predicted. `None`: yes for rows that have one.
    pub completion_only_loss: Option<bool>,
    /// SFT: whether only what the template's `{% generation %}` blocks wrote is predicted.
    pub assistant_only_loss: bool,
    /// What becomes of bad rows.
    pub on_bad_row: OnBadRow,
    /// Field that holds plain text.
    pub text_field: String,
    /// SFT: which turns of a conversation are predicted, where the turns themselves do not say.
    pub turn_loss: TurnLoss,
    /// The shape of every row; `None`: told from each row's fields.
    pub shape: Option<Shape>,
    /// KTO: label of rows that have none; `None`: they are bad.
    pub default_label: Option<bool>,
    /// Whether a list in `completion` is several answers.
    pub alternatives: bool,
    /// Rows read of the files, the first ones; `None` for all.
    pub first_rows: Option<usize>,
    /// Rows read of some of the files, the first ones: ranges of the list of files, ascending.
    pub limits: Vec<(Range<u32>, usize)>,
    /// Files whose columns and roles have other names.
    pub mappings: BTreeMap<PathBuf, Mapping>,
}

impl Options {
    /// Options for `task` with TRL's defaults: rows cut to 1024 tokens, bad rows are errors.
    pub fn new(task: Task) -> Self {
        Options {
            task,
            max_length: Some(1024),
            truncation: Truncation::default(),
            completion_only_loss: None,
            assistant_only_loss: false,
            on_bad_row: OnBadRow::default(),
            text_field: "text".into(),
            turn_loss: TurnLoss::default(),
            shape: None,
            default_label: None,
            alternatives: false,
            first_rows: None,
            limits: Vec::new(),
            mappings: BTreeMap::new(),
        }
    }
}

/// Rows tokenised between two calls of the progress callback, at most.
const CHUNK_ROWS: usize = 512;
/// Bytes of rows after which a chunk is full, so that long rows do not fill the memory.
const CHUNK_BYTES: usize = 16 << 20;
/// Tokens of the first row without anything to predict that its message shows.
const SHOWN: usize = 40;
/// Bad rows whose messages are kept.
const BAD_EXAMPLES: usize = 5;

/// Reads and tokenises `files` in order; the result does not depend on the number of threads.
///
/// Rows are tokenised in parallel on the current rayon pool. `progress` is told bytes read and bytes in all, which are equal once,
/// at the end.
///
/// # Errors
/// `Row` for the first bad row (unless they are skipped), `NothingToTrain` when no row is left, `Stopped`, `Io`, `Tokenizer`,
/// `Template` and `Setting` as their descriptions say.
pub fn load(files: &[PathBuf], tokenizer: &Tokenizer, options: &Options, progress: Progress<'_>) -> Result<Dataset> {
    Ok(run(files, tokenizer, options, Builder::new(), progress, &mut |_| Ok(()))?
        .finish(files.to_vec(), options.max_length))
}

/// Reads and tokenises `files` from where `builder` stands; after every chunk `drain` may take out what it holds.
pub(crate) fn run(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &Options,
    mut builder: Builder,
    progress: Progress<'_>,
    drain: &mut dyn FnMut(&mut Builder) -> Result<()>,
) -> Result<Builder> {
    assert!(options.task != Task::Prompt, "prompts are read with `read_examples`");
    check(tokenizer, options)?;
    let total = crate::source::total_bytes(files)?;
    let mut rows = Rows::open(files).limited(&options.limits);
    for _ in 0..builder.report.rows_read {
        rows.next_row()?;
    }
    builder.report.vocab = tokenizer.vocab_size();
    let mut first_dropped = None;
    tell(progress, 0, total)?;
    loop {
        let left = options.first_rows.map_or(usize::MAX, |n| n - builder.report.rows_read);
        let chunk = next_chunk(&mut rows, left)?;
        if chunk.is_empty() {
            break;
        }
        let encoded: Vec<_> = chunk.par_iter().map(|raw| encode_row(files, raw, tokenizer, options)).collect();
        for (raw, encoded) in chunk.iter().zip(encoded) {
            builder.report.rows_read += 1;
            match encoded {
                Ok((shape, unused, examples)) => {
                    builder.report.see(shape, &unused);
                    for example in examples {
                        if let Some(reason) = append(&mut builder, raw, example, tokenizer, options)? {
                            first_dropped.get_or_insert_with(|| (place_of(files, raw, 0), reason));
                        }
                    }
                }
                Err(failure) => {
                    builder.report.empty_completions += usize::from(failure.is_empty_completion());
                    let skipped = skip_bad(files, raw, failure, options)?;
                    builder.report.bad += 1;
                    builder.index += 1;
                    if builder.report.bad_examples.len() < BAD_EXAMPLES {
                        builder.report.bad_examples.push(skipped.to_string());
                    }
                }
            }
        }
        drain(&mut builder)?;
        // The end is told once, after the last row.
        tell(progress, rows.bytes_read().min(total.saturating_sub(1)), total)?;
    }
    tell(progress, total, total)?;
    if builder.report.rows == 0 {
        return Err(nothing_to_train(files, &builder, first_dropped));
    }
    Ok(builder)
}

/// The next rows, at most `left`.
fn next_chunk(rows: &mut Rows<'_>, left: usize) -> Result<Vec<RawRow>> {
    let (mut chunk, mut bytes) = (Vec::with_capacity(CHUNK_ROWS), 0);
    while chunk.len() < CHUNK_ROWS.min(left)
        && bytes < CHUNK_BYTES
        && let Some(raw) = rows.next_row()?
    {
        bytes += raw.text.len();
        chunk.push(raw);
    }
    Ok(chunk)
}

/// A row's shape, its unused fields and its examples as tokens.
type EncodedRow = (Shape, Vec<String>, Vec<Encoded>);

fn encode_row(
    files: &[PathBuf],
    raw: &RawRow,
    tokenizer: &Tokenizer,
    options: &Options,
) -> std::result::Result<EncodedRow, Failure> {
    let ReadRow { shape, examples, unused } = parse(files, raw, options)?;
    Ok((shape, unused, encode_examples(&examples, tokenizer, options)?))
}

fn check(tokenizer: &Tokenizer, options: &Options) -> Result<()> {
    if options.max_length == Some(0) {
        return Err(Error::Setting {
            key: "max_length",
            reason: "expected a positive number of tokens, found 0".into(),
        });
    }
    if options.assistant_only_loss && options.task == Task::Sft && !tokenizer.template()?.marks_generation() {
        let reason = "the chat template does not mark the assistant's text; \
                      expected {% generation %} ... {% endgeneration %} in it. Use a training variant of the template, \
                      or give the data as `prompt` and `completion`";
        return Err(Error::Setting { key: "assistant_only_loss", reason: reason.into() });
    }
    Ok(())
}

/// Truncates a row and adds it; tells why if nothing of it is left.
fn append(
    builder: &mut Builder,
    raw: &RawRow,
    row: Encoded,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Option<String>> {
    let index = builder.index;
    builder.index += 1;
    let total = row.prompt.len() + row.completion.len();
    let limit = options.max_length.unwrap_or(usize::MAX);
    let report = &mut builder.report;
    report.ignored_labels += usize::from(row.ignored.label);
    report.ignored_loss_weights += usize::from(row.ignored.loss_weight);
    if let Some(tail) = &row.unstable_tail {
        report.unstable_prefix += 1;
        if report.unstable_example.is_none() {
            report.unstable_example = Some(tokenizer.decode(tail, false)?);
        }
    }
    if total > limit && options.truncation == Truncation::Drop {
        report.dropped_too_long += 1;
        return Ok(Some(format!("the row has {total} tokens and rows longer than `max_length` ({limit}) are dropped")));
    }
    let len = total.min(limit);
    let predicted = row.spans.iter().any(|s| s.start.max(1) < s.end.min(len as u32));
    if !predicted {
        report.dropped_prompt_only += 1;
        let (prompt, first) = (row.prompt.len(), report.dropped_prompt_only == 1);
        let start: Vec<u32> =
            row.prompt.iter().chain(&row.completion).take(if first { SHOWN } else { 0 }).copied().collect();
        let text = tokenizer.decode(&start, false)?;
        return Ok(Some(format!(
            "the row has {total} tokens, {prompt} of them prompt; cut to `max_length` ({limit}) nothing to predict is left of {text:?}"
        )));
    }
    report.truncated += usize::from(total > limit);
    // Only a KTO partner's prompt can leave more room for a completion than its own prompt does.
    let kept = if options.task == Task::Kto { limit } else { limit.saturating_sub(row.prompt.len()) };
    let (prompt, completion) = (&row.prompt[..row.prompt.len().min(limit)], &row.completion);
    builder.push(&NewRow {
        prompt,
        completion: &completion[..completion.len().min(kept)],
        len,
        spans: &row.spans,
        label: row.label,
        index,
        file: raw.file,
        line: raw.line,
        hashes: row.hashes,
    });
    Ok(None)
}

/// The error of a bad row, as a value if such rows are skipped and as a failure if not.
fn skip_bad(files: &[PathBuf], raw: &RawRow, failure: Failure, options: &Options) -> Result<Error> {
    match (failure, options.on_bad_row) {
        (Failure::Fatal(e), _) => Err(e),
        (Failure::Bad(bad), OnBadRow::Error) => Err(row_error(files, raw, bad)),
        (Failure::Bad(bad), OnBadRow::Skip) => Ok(row_error(files, raw, bad)),
    }
}

fn nothing_to_train(files: &[PathBuf], builder: &Builder, first: Option<(Place, String)>) -> Error {
    let report = &builder.report;
    let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    let names = names.join(", ");
    let bad = report.bad_examples.join("\n  ");
    let reason = match (report.rows_read, first, bad.is_empty()) {
        (0, ..) => format!("{names}: expected at least one row, found none"),
        (n, Some((place, reason)), _) => format!(
            "none of the {n} rows can be trained on. The first: {place}: {reason}. \
             Raise `max_length`, shorten the prompts, or check that the completions are where they are expected"
        ),
        (n, None, false) => format!("all {n} rows are bad. The first: {bad}"),
        (n, None, true) => format!("{names}: none of the {n} rows can be trained on"),
    };
    Error::NothingToTrain { reason }
}
