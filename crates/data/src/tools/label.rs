//! Marking completions as desirable or not by a rule.

use std::path::{Path, PathBuf};

use fancy_regex::Regex;
use serde_json::Value as Json;

use super::answer::{final_answer, same_answer};
use super::{PROGRESS_ROWS, Progress, tell};
use crate::error::{Error, Result};
use crate::format::{BadField, Body, Example, Shape, Task, has_label};
use crate::locate::FieldPath;
use crate::read::{Examples, parse_json, row_error};
use crate::sink::{Sink, Written};
use crate::source::{Rows, total_bytes};
use crate::tokenise::Options;

/// What makes a completion desirable.
#[derive(Clone, Debug)]
pub enum Rule {
    /// Its final answer is that of the gold in this field of the row (an answer, or a worked solution).
    Gold {
        /// The field.
        field: String,
    },
    /// It matches the regular expression somewhere.
    Matches(Regex),
    /// It has at least `min` and at most `max` characters.
    Length {
        /// Least number of characters.
        min: usize,
        /// Greatest number of characters.
        max: usize,
    },
    /// Its score is at least `threshold`. Line `n` of the file is the score of example `n`: a number, or an object with `score`.
    Scores {
        /// The file, JSON lines.
        file: PathBuf,
        /// Least score of a desirable completion.
        threshold: f64,
    },
}

impl Rule {
    /// A rule from a regular expression.
    ///
    /// # Errors
    /// `Setting` when it is not valid.
    pub fn matches(pattern: &str) -> Result<Rule> {
        let bad = |e: fancy_regex::Error| Error::Setting { key: "regex", reason: e.to_string() };
        Ok(Rule::Matches(Regex::new(pattern).map_err(bad)?))
    }
}

/// What became of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Labelled {
    /// Rows in the files.
    pub rows_read: usize,
    /// Completions labelled true.
    pub desirable: usize,
    /// Completions labelled false.
    pub undesirable: usize,
    /// Completions whose old label changed.
    pub changed: usize,
    /// Completions without a final answer where one was looked for; labelled false.
    pub without_answer: usize,
    /// The output and its rows.
    pub written: Written,
}

/// Writes `files` as `prompt`, `completion` and the `label` that `rule` gives.
///
/// # Errors
/// `Row` when a row is bad, has no gold, or when a score is missing; `Io`, `Write`, `Table`.
pub fn label(
    files: &[PathBuf],
    output: &Path,
    rule: &Rule,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Labelled> {
    let total = total_bytes(files)?;
    let options = Options { task: Task::Kto, default_label: options.default_label.or(Some(false)), ..options.clone() };
    let mut scores = match rule {
        Rule::Scores { file, .. } => Some(Scores::open(file)),
        _ => None,
    };
    let mut sink = Sink::create(output)?;
    let mut rows = Examples::open(files, &options);
    let mut counts = [0; 4];
    while let Some((raw, row)) = rows.next_row()? {
        let json = parse_json(&raw).map_err(|bad| row_error(files, &raw, bad))?;
        let told = matches!(row.shape, Shape::Pair | Shape::Graded);
        let labelled = told || json.as_object().is_some_and(has_label);
        let gold = match rule {
            Rule::Gold { field } => Some(gold(&json, field).map_err(|bad| row_error(files, &raw, bad))?),
            _ => None,
        };
        for mut example in row.examples {
            let text = completion(&example);
            let desirable = match (rule, &gold, &mut scores) {
                (Rule::Gold { .. }, Some(gold), _) => {
                    let answer = final_answer(&text);
                    counts[3] += usize::from(answer.is_none());
                    answer.is_some_and(|answer| same_answer(answer, gold))
                }
                (Rule::Matches(regex), ..) => regex.is_match(&text).unwrap_or(false),
                (Rule::Length { min, max }, ..) => (*min..=*max).contains(&text.chars().count()),
                (Rule::Scores { threshold, .. }, _, Some(scores)) => scores.next()? >= *threshold,
                _ => unreachable!("a rule has what it needs"),
            };
            counts[usize::from(!desirable)] += 1;
            counts[2] += usize::from(labelled && example.label.is_some_and(|old| old != desirable));
            example.label = Some(desirable);
            sink.write(&example.to_row())?;
        }
        if rows.rows_read.is_multiple_of(PROGRESS_ROWS) {
            tell(progress, rows.bytes_read(), total)?;
        }
    }
    let (rows_read, written) = (rows.rows_read, sink.finish()?);
    let [desirable, undesirable, changed, without_answer] = counts;
    Ok(Labelled { rows_read, desirable, undesirable, changed, without_answer, written })
}

fn gold(row: &Json, field: &str) -> std::result::Result<String, BadField> {
    match row.get(field) {
        Some(Json::String(text)) if !text.trim().is_empty() => {
            // A short text is the answer itself; a longer one works it out.
            let worked = text.contains('\n') || text.contains("####") || text.contains("\\boxed");
            Ok(if worked { final_answer(text).unwrap_or(text) } else { text.trim() }.to_owned())
        }
        Some(Json::Number(number)) => Ok(number.to_string()),
        other => {
            let reason =
                format!("expected the right answer as string or number, found {}", crate::format::found(other));
            Err(BadField::new(FieldPath::key(field), reason))
        }
    }
}

/// The text of an example's completion.
pub(super) fn completion(example: &Example) -> String {
    match &example.body {
        Body::Plain { completion, .. } => completion.clone(),
        Body::Text(text) => text.clone(),
        Body::Chat { completion: turns, .. } | Body::Messages(turns) => {
            turns.iter().filter_map(|turn| turn["content"].as_str()).collect::<Vec<_>>().join("\n")
        }
    }
}

/// A file of scores: eight bytes of memory for each.
struct Scores {
    files: [PathBuf; 1],
    /// Lines read.
    line: usize,
    pending: std::collections::VecDeque<f64>,
    done: bool,
}

impl Scores {
    fn open(file: &Path) -> Self {
        Scores { files: [file.to_owned()], line: 0, pending: std::collections::VecDeque::new(), done: false }
    }

    /// The score of the next example.
    fn next(&mut self) -> Result<f64> {
        if !self.done {
            self.done = true;
            let mut rows = Rows::open(&self.files);
            while let Some(raw) = rows.next_row()? {
                let bad = |reason: String| row_error(&self.files, &raw, BadField::new(FieldPath::default(), reason));
                let json = parse_json(&raw).map_err(|bad| row_error(&self.files, &raw, bad))?;
                let score = json.as_f64().or_else(|| json["score"].as_f64());
                let found = || crate::format::found(Some(&json));
                self.pending
                    .push_back(score.ok_or_else(|| bad(format!("expected a number or `score`, found {}", found())))?);
            }
        }
        self.line += 1;
        self.pending.pop_front().ok_or_else(|| {
            let reason = format!("expected a score for every completion, found {}", self.line - 1);
            Error::NoFiles { path: self.files[0].clone(), reason }
        })
    }
}
