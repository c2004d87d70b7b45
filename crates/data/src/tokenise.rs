//! From rows to tokens: where the completion begins, what is cut, what is predicted.

use std::ops::Range;
use std::path::PathBuf;

use rayon::prelude::*;
use serde_json::Value as Json;

use crate::dataset::{Builder, Dataset, NewRow};
use crate::error::{Error, Place, Result};
use crate::format::{BadField, Body, Example, Ignored, Task, read_row};
use crate::locate::{FieldPath, locate, position};
use crate::source::{RawRow, Rows};
use crate::template::RenderInput;
use crate::tokenizer::Tokenizer;

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
        }
    }
}

/// Rows tokenised between two calls of the progress callback.
const CHUNK_ROWS: usize = 512;
/// Bad rows whose messages are kept.
const BAD_EXAMPLES: usize = 5;

/// Reads and tokenises `files` in order; the result does not depend on the number of threads.
///
/// Rows are tokenised in parallel on the current rayon pool. `progress` is told bytes read and bytes in all.
///
/// # Errors
/// `Row` for the first bad row (unless they are skipped), `NothingToTrain` when no row is left, `Io`, `Tokenizer`,
/// `Template` and `Setting` as their descriptions say.
pub fn load(
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Dataset> {
    assert!(options.task != Task::Prompt, "prompts are read with `read_examples`");
    check(tokenizer, options)?;
    let size =
        |f: &PathBuf| std::fs::metadata(f).map(|m| m.len()).map_err(|source| Error::Io { path: f.clone(), source });
    let total = files.iter().map(size).sum::<Result<u64>>()?;
    let mut rows = Rows::open(files);
    let mut builder = Builder::new();
    let mut first_dropped = None;
    loop {
        let mut chunk = Vec::with_capacity(CHUNK_ROWS);
        while chunk.len() < CHUNK_ROWS
            && let Some(raw) = rows.next_row()?
        {
            chunk.push(raw);
        }
        if chunk.is_empty() {
            break;
        }
        let encoded: Vec<_> =
            chunk.par_iter().map(|raw| encode_example(&parse(raw, options)?, tokenizer, options)).collect();
        for (raw, encoded) in chunk.iter().zip(encoded) {
            let index = builder.report.rows_read as u32;
            builder.report.rows_read += 1;
            match encoded {
                Ok(row) => {
                    if let Some(reason) = append(&mut builder, raw, index, row, tokenizer, options)? {
                        first_dropped.get_or_insert_with(|| (place_of(files, raw, 0), reason));
                    }
                }
                Err(failure) => {
                    let skipped = skip_bad(files, raw, failure, options)?;
                    builder.report.bad += 1;
                    if builder.report.bad_examples.len() < BAD_EXAMPLES {
                        builder.report.bad_examples.push(skipped.to_string());
                    }
                }
            }
        }
        progress(rows.bytes_read(), total);
    }
    if builder.report.rows == 0 {
        return Err(nothing_to_train(files, &builder, first_dropped));
    }
    Ok(builder.finish(files.to_vec(), options.max_length))
}

/// Reads `files` without tokenising them, for generation and inspection: the examples, each with its index among all rows.
///
/// # Errors
/// `Row` for the first bad row (unless they are skipped), `Io`.
pub fn read_examples(files: &[PathBuf], options: &Options) -> Result<Vec<(u32, Example)>> {
    let (mut rows, mut examples, mut index) = (Rows::open(files), Vec::new(), 0);
    while let Some(raw) = rows.next_row()? {
        match parse(&raw, options) {
            Ok(example) => examples.push((index, example)),
            Err(failure) => _ = skip_bad(files, &raw, failure, options)?,
        }
        index += 1;
    }
    Ok(examples)
}

/// Token ids of the prompt of one example, as generation starts from it.
///
/// # Errors
/// `Tokenizer` or `Template`.
pub fn encode_prompt(tokenizer: &Tokenizer, example: &Example) -> Result<Vec<u32>> {
    match &example.body {
        Body::Plain { prompt, .. } | Body::Text(prompt) => tokenizer.encode(prompt, true),
        Body::Chat { prompt, .. } | Body::Messages(prompt) => {
            tokenizer.encode(&tokenizer.render(input(example, prompt, true))?, false)
        }
    }
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

/// Ranges of token positions.
type Spans = Vec<Range<u32>>;

/// A tokenised row before truncation.
struct Encoded {
    prompt: Vec<u32>,
    completion: Vec<u32>,
    spans: Spans,
    /// The end of the prompt that is no prefix of the whole, when there is one.
    unstable_tail: Option<Vec<u32>>,
    label: Option<bool>,
    hashes: (u64, u64),
    ignored: Ignored,
}

enum Failure {
    Bad(BadField),
    Fatal(Error),
}

impl From<BadField> for Failure {
    fn from(bad: BadField) -> Self {
        Failure::Bad(bad)
    }
}

impl From<Error> for Failure {
    /// A template that refuses a conversation is the row's fault; everything else stops the loading.
    fn from(error: Error) -> Self {
        match error {
            Error::Template(e) if e.kind != crate::error::TemplateErrorKind::Syntax => {
                Failure::Bad(BadField::new(FieldPath::default(), e.to_string()))
            }
            other => Failure::Fatal(other),
        }
    }
}

/// What a data file looks like.
const SHAPE: &str = "a data file is one JSON object per line, or one array of objects";

fn parse(raw: &RawRow, options: &Options) -> std::result::Result<Example, Failure> {
    let json: Json = serde_json::from_slice(&raw.text)
        .map_err(|e| BadField::new(FieldPath::default(), format!("not valid JSON: {e}; {SHAPE}")))?;
    Ok(read_row(&json, options.task, &options.text_field)?)
}

fn encode_example(
    example: &Example,
    tokenizer: &Tokenizer,
    options: &Options,
) -> std::result::Result<Encoded, Failure> {
    let assistant_only = options.assistant_only_loss && options.task == Task::Sft;
    let (prompt_ids, full_ids, written) = match &example.body {
        Body::Plain { .. } | Body::Text(_) if assistant_only => {
            let reason = "`assistant_only_loss` needs conversations, found plain text";
            return Err(BadField::new(FieldPath::default(), reason).into());
        }
        Body::Plain { prompt, completion } => {
            let full = with_eos(format!("{prompt}{completion}"), completion, tokenizer)?;
            (tokenizer.encode(prompt, true)?, tokenizer.encode(&full, true)?, None)
        }
        Body::Text(text) => (Vec::new(), tokenizer.encode(&with_eos(text.clone(), text, tokenizer)?, true)?, None),
        Body::Chat { prompt, completion } => {
            let turns: Vec<Json> = prompt.iter().chain(completion).cloned().collect();
            let prompt = tokenizer.encode(&tokenizer.render(input(example, prompt, true))?, false)?;
            let (full, written) = encode_turns(example, &turns, tokenizer, assistant_only)?;
            (prompt, full, written)
        }
        Body::Messages(turns) => {
            let (full, written) = encode_turns(example, turns, tokenizer, assistant_only)?;
            (Vec::new(), full, written)
        }
    };
    let prompt_len = prompt_ids.iter().zip(&full_ids).take_while(|(a, b)| a == b).count();
    let split_row = matches!(example.body, Body::Plain { .. } | Body::Chat { .. });
    let completion_only = options.task == Task::Kto || options.completion_only_loss.unwrap_or(split_row);
    let from = if completion_only { prompt_len as u32 } else { 0 };
    let spans = match written {
        None => std::iter::once(from..full_ids.len() as u32).collect(),
        Some(spans) if spans.is_empty() => {
            let reason = "`assistant_only_loss`: the template marks no text of this row as the assistant's";
            return Err(BadField::new(FieldPath::default(), reason).into());
        }
        Some(spans) => spans.into_iter().map(|s| s.start.max(from)..s.end).filter(|s| s.start < s.end).collect(),
    };
    let mut prompt = full_ids;
    let completion = prompt.split_off(prompt_len);
    let unstable_tail = (prompt_len < prompt_ids.len()).then(|| prompt_ids[prompt_len..].to_vec());
    let (label, hashes, ignored) = (example.label, example.hashes(), example.ignored);
    Ok(Encoded { prompt, completion, spans, unstable_tail, label, hashes, ignored })
}

fn input<'a>(example: &'a Example, messages: &'a [Json], add_generation_prompt: bool) -> RenderInput<'a> {
    RenderInput {
        messages,
        tools: example.tools.as_ref(),
        documents: None,
        add_generation_prompt,
        extra: example.template_kwargs.as_ref(),
    }
}

/// `text` with the end-of-sequence token's text, unless `completion` ends with it already.
fn with_eos(mut text: String, completion: &str, tokenizer: &Tokenizer) -> Result<String> {
    let Some(eos) = tokenizer.special("eos_token") else {
        let reason = "plain text needs an end of sequence: expected `eos_token` in tokenizer_config.json, found none";
        return Err(Error::Setting { key: "model_name_or_path", reason: reason.into() });
    };
    if !completion.ends_with(eos) {
        text.push_str(eos);
    }
    Ok(text)
}

/// Ids of a conversation; with `marked`, also the token ranges of what the assistant wrote.
fn encode_turns(
    example: &Example,
    turns: &[Json],
    tokenizer: &Tokenizer,
    marked: bool,
) -> Result<(Vec<u32>, Option<Spans>)> {
    let input = input(example, turns, false);
    if !marked {
        return Ok((tokenizer.encode(&tokenizer.render(input)?, false)?, None));
    }
    let (text, written) = tokenizer.template()?.render_with_ranges(input)?;
    let (ids, offsets) = tokenizer.encode_with_offsets(&text)?;
    // A token is the assistant's if any byte of it is.
    let spans = written.iter().map(|bytes| {
        let first = offsets.partition_point(|token| token.end <= bytes.start);
        let past = offsets.partition_point(|token| token.start < bytes.end);
        first as u32..past as u32
    });
    let mut merged = Spans::new();
    for span in spans.filter(|s| s.start < s.end) {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    Ok((ids, Some(merged)))
}

/// Truncates a row and adds it; tells why if nothing of it is left.
fn append(
    builder: &mut Builder,
    raw: &RawRow,
    index: u32,
    row: Encoded,
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<Option<String>> {
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
        let prompt = row.prompt.len();
        return Ok(Some(format!(
            "the row has {total} tokens, {prompt} of them prompt; cut to `max_length` ({limit}) nothing to predict is left"
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

fn place_of(files: &[PathBuf], raw: &RawRow, at: usize) -> Place {
    let text = String::from_utf8_lossy(&raw.text);
    shifted(files, raw, position(&text, at))
}

/// A position in a row as a position in its file.
fn shifted(files: &[PathBuf], raw: &RawRow, (line, column): (u64, u64)) -> Place {
    let column = if line == 1 { raw.column + column - 1 } else { column };
    Place { file: files[raw.file as usize].clone(), line: raw.line + line - 1, column }
}

fn row_error(files: &[PathBuf], raw: &RawRow, bad: BadField) -> Error {
    let text = String::from_utf8_lossy(&raw.text);
    let at = match serde_json::from_slice::<serde::de::IgnoredAny>(&raw.text) {
        Ok(_) => locate(&text, &bad.path),
        Err(e) => {
            // The parser counts columns in bytes.
            let before: usize = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
            position(&text, before + e.column().saturating_sub(1))
        }
    };
    Error::Row { place: shifted(files, raw, at), field: bad.path.to_string(), reason: bad.reason }
}

fn nothing_to_train(files: &[PathBuf], builder: &Builder, first: Option<(Place, String)>) -> Error {
    let report = &builder.report;
    let names: Vec<String> = files.iter().map(|f| f.display().to_string()).collect();
    let names = names.join(", ");
    let reason = match (report.rows_read, first, report.bad_examples.first()) {
        (0, ..) => format!("{names}: expected at least one row, found none"),
        (n, Some((place, reason)), _) => format!(
            "none of the {n} rows can be trained on. The first: {place}: {reason}. \
             Raise `max_length`, shorten the prompts, or check that the completions are where they are expected"
        ),
        (n, None, Some(bad)) => format!("all {n} rows are bad. The first: {bad}"),
        (n, None, None) => format!("{names}: none of the {n} rows can be trained on"),
    };
    Error::NothingToTrain { reason }
}
