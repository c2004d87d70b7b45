//! Token rows in flat storage: one array of ids, one of loss spans, and a small record per row.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mapped::Map;
use serde::{Deserialize, Serialize};

use crate::format::Shape;

/// One row. Lengths are in tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// First token in the data set's storage: the prompt, then the completion.
    start: usize,
    /// Prompt tokens; 0 for rows that are trained on as a whole.
    prompt_len: u32,
    /// Completion tokens kept: enough for any partner's prompt, so up to `max_length`.
    completion_len: u32,
    /// Tokens of the row itself, prompt and completion, after truncation to `max_length`.
    len: u32,
    /// Its spans in the data set's `spans`.
    spans: Range<u32>,
    /// Desirable or not; `None` outside KTO.
    pub label: Option<bool>,
    /// Position among all examples read, from 0, bad rows included: its name in messages and results.
    pub index: u32,
    /// Index of the file it came from.
    pub file: u32,
    /// Line of that file, from 1.
    pub line: u64,
    /// Hash of the prompt as text.
    pub prompt_hash: u64,
    /// Hash of the row as text.
    pub row_hash: u64,
}

/// What happened to the rows on the way from file to tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Rows in the files.
    pub rows_read: usize,
    /// Rows kept; more than were read where rows hold several answers.
    pub rows: usize,
    /// Rows skipped because they were bad (policy `skip`).
    pub bad: usize,
    /// The first few of them, as messages.
    pub bad_examples: Vec<String>,
    /// Those of them that are bad because a completion is empty.
    pub empty_completions: usize,
    /// Rows cut to `max_length`.
    pub truncated: usize,
    /// Rows dropped because they were longer than `max_length` (policy `drop`).
    pub dropped_too_long: usize,
    /// Rows dropped because truncation left nothing to train on (the prompt alone fills `max_length`).
    pub dropped_prompt_only: usize,
    /// Rows whose prompt's tokens are no prefix of the whole row's.
    pub unstable_prefix: usize,
    /// The end of the first such prompt, which is left out of training.
    pub unstable_example: Option<String>,
    /// Kept rows with label true.
    pub desirable: usize,
    /// Kept rows with label false.
    pub undesirable: usize,
    /// Tokens of the kept rows.
    pub tokens: u64,
    /// Tokens that are predicted in training.
    pub loss_tokens: u64,
    /// Tokens of the longest kept row.
    pub longest: usize,
    /// Rows whose `label` has no effect because the task has no labels.
    pub ignored_labels: usize,
    /// Rows with a `loss_weight` that has no effect: neither 0 nor 1, or where turns are not trained one by one.
    pub ignored_loss_weights: usize,
    /// Ids that the tokenizer has: one past the greatest.
    pub vocab: usize,
    /// The shapes that rows were read in, each with its number of rows.
    pub shapes: BTreeMap<Shape, usize>,
    /// Fields that were not used (`source`, `conversations[].info`), each with its number of rows.
    pub unused_fields: BTreeMap<String, usize>,
}

/// Fields that are told apart in [`Report::unused_fields`]; rows of which each has names of its own would fill the memory.
const UNUSED_FIELDS: usize = 100;

impl Report {
    /// Counts what a row looked like.
    pub(crate) fn see(&mut self, shape: Shape, unused: &[String]) {
        *self.shapes.entry(shape).or_default() += 1;
        for name in unused {
            if let Some(count) = self.unused_fields.get_mut(name) {
                *count += 1;
            } else if self.unused_fields.len() < UNUSED_FIELDS {
                self.unused_fields.insert(name.clone(), 1);
            }
        }
    }
}

/// Token ids of all rows, one after the other.
#[derive(Debug)]
pub(crate) enum Tokens {
    Held(Vec<u32>),
    /// Where the token cache has them: what is not read takes no memory, and what was can be let go.
    InFile(Map),
}

impl Deref for Tokens {
    type Target = [u32];

    fn deref(&self) -> &[u32] {
        match self {
            Tokens::Held(tokens) => tokens,
            Tokens::InFile(map) => map.little_endian_words().expect("what the cache has found to be so"),
        }
    }
}

/// Token rows. Cheap to split: the tokens are shared.
#[derive(Clone, Debug)]
pub struct Dataset {
    tokens: Arc<Tokens>,
    spans: Arc<Vec<Range<u32>>>,
    rows: Vec<Row>,
    files: Arc<Vec<PathBuf>>,
    max_length: Option<usize>,
    /// What happened to the rows while they were read. A part of a split keeps the report of the whole.
    pub report: Report,
}

impl Dataset {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The record of row `i`.
    pub fn row(&self, i: usize) -> &Row {
        &self.rows[i]
    }

    /// The records of all rows.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Rows with label true and rows with label false.
    pub fn label_counts(&self) -> (usize, usize) {
        let count = |label| self.rows.iter().filter(|r| r.label == Some(label)).count();
        (count(true), count(false))
    }

    /// The prompt hash of every row, for pairing.
    pub fn prompt_hashes(&self) -> Vec<u64> {
        self.rows.iter().map(|r| r.prompt_hash).collect()
    }

    /// The limit the rows were cut to.
    pub fn max_length(&self) -> Option<usize> {
        self.max_length
    }

    /// Token ids of row `i`, prompt and completion, cut to `max_length`.
    pub fn tokens(&self, i: usize) -> &[u32] {
        let row = &self.rows[i];
        &self.tokens[row.start..row.start + row.len as usize]
    }

    /// Token ids of the prompt of row `i`.
    pub fn prompt(&self, i: usize) -> &[u32] {
        &self.tokens(i)[..self.rows[i].prompt_len as usize]
    }

    /// Token ids of the completion of row `i` as its own prompt leaves room for it.
    pub fn completion(&self, i: usize) -> &[u32] {
        &self.tokens(i)[self.rows[i].prompt_len as usize..]
    }

    /// The completion of row `j` as the prompt of row `i` leaves room for it: the mismatched row is `prompt(i)` and this.
    ///
    /// It is cut from the right to `max_length`, on its own: it may be longer or shorter than `completion(j)`.
    pub fn mismatched_completion(&self, i: usize, j: usize) -> &[u32] {
        let row = &self.rows[j];
        let start = row.start + row.prompt_len as usize;
        let room = self.max_length.map_or(usize::MAX, |m| m - self.rows[i].prompt_len as usize);
        &self.tokens[start..start + room.min(row.completion_len as usize)]
    }

    /// Ranges of positions of `tokens(i)` that are predicted in training, ascending and disjoint; never position 0.
    pub fn loss_spans(&self, i: usize) -> &[Range<u32>] {
        let Range { start, end } = self.rows[i].spans;
        &self.spans[start as usize..end as usize]
    }

    /// Where row `i` came from: file and line, from 1.
    pub fn source(&self, i: usize) -> (&Path, u64) {
        (&self.files[self.rows[i].file as usize], self.rows[i].line)
    }

    /// Bytes of memory that it takes, but for tokens that are read where the token cache has them.
    pub fn held_bytes(&self) -> usize {
        let tokens = if let Tokens::Held(tokens) = &*self.tokens { size_of_val(&tokens[..]) } else { 0 };
        tokens + size_of_val(&self.spans[..]) + size_of_val(&self.rows[..])
    }

    /// The data files.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The rows numbered `indices`, in that order, sharing the tokens.
    #[must_use]
    pub fn select(&self, indices: &[u32]) -> Dataset {
        Dataset {
            tokens: Arc::clone(&self.tokens),
            spans: Arc::clone(&self.spans),
            rows: indices.iter().map(|&i| self.rows[i as usize].clone()).collect(),
            files: Arc::clone(&self.files),
            max_length: self.max_length,
            report: self.report.clone(),
        }
    }
}

/// A row on its way into a [`Dataset`].
pub(crate) struct NewRow<'a> {
    pub prompt: &'a [u32],
    pub completion: &'a [u32],
    /// Tokens of prompt and completion that the row itself keeps.
    pub len: usize,
    /// Predicted positions; position 0 and positions past `len` are cut off here.
    pub spans: &'a [Range<u32>],
    pub label: Option<bool>,
    pub index: u32,
    pub file: u32,
    pub line: u64,
    pub hashes: (u64, u64),
}

/// What is counted of a row.
pub(crate) struct Measured {
    pub prompt: usize,
    pub completion: usize,
    pub completion_bytes: Vec<u8>,
    pub prompt_hash: u64,
    pub label: Option<bool>,
}

/// A data set that still grows.
pub(crate) struct Builder {
    pub(crate) tokens: Vec<u32>,
    pub(crate) spans: Vec<Range<u32>>,
    pub(crate) rows: Vec<Row>,
    pub(crate) report: Report,
    /// Number of the next example.
    pub(crate) index: u32,
    /// Tokens and spans that were taken out.
    gone: (usize, u32),
}

/// Where a data set that still grows stands when everything was taken out.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Standpoint {
    report: Report,
    index: u32,
    gone: (usize, u32),
}

/// Bytes of a row's record on disk.
pub(crate) const ROW_BYTES: usize = 64;

impl Row {
    fn encode(&self, out: &mut Vec<u8>) {
        let label = self.label.map_or(2, u32::from);
        let words = [self.prompt_len, self.completion_len, self.len, self.spans.start, self.spans.end, label];
        let wide = [self.start as u64, self.line, self.prompt_hash, self.row_hash];
        wide.iter().for_each(|n| out.extend(n.to_le_bytes()));
        words.iter().chain(&[self.index, self.file]).for_each(|n| out.extend(n.to_le_bytes()));
    }

    /// The record that [`ROW_BYTES`] bytes are.
    pub(crate) fn decode(bytes: &[u8]) -> Row {
        let wide = |n: usize| u64::from_le_bytes(bytes[8 * n..8 * n + 8].try_into().expect("eight bytes"));
        let word = |n: usize| u32::from_le_bytes(bytes[32 + 4 * n..36 + 4 * n].try_into().expect("four bytes"));
        Row {
            start: wide(0) as usize,
            prompt_len: word(0),
            completion_len: word(1),
            len: word(2),
            spans: word(3)..word(4),
            label: [Some(false), Some(true), None][word(5).min(2) as usize],
            index: word(6),
            file: word(7),
            line: wide(1),
            prompt_hash: wide(2),
            row_hash: wide(3),
        }
    }
}

impl Builder {
    pub(crate) fn new() -> Self {
        Builder::at(Standpoint::default())
    }

    /// One that goes on from there.
    pub(crate) fn at(Standpoint { report, index, gone }: Standpoint) -> Self {
        Builder { tokens: Vec::new(), spans: Vec::new(), rows: Vec::new(), report, index, gone }
    }

    pub(crate) fn standpoint(&self) -> Standpoint {
        Standpoint { report: self.report.clone(), index: self.index, gone: self.gone }
    }

    pub(crate) fn push(&mut self, new: &NewRow<'_>) {
        let first_span = self.spans.len() as u32;
        let clipped = new.spans.iter().map(|s| s.start.max(1)..s.end.min(new.len as u32));
        self.spans.extend(clipped.filter(|s| s.start < s.end));
        let gone = self.gone;
        let spans = gone.1 + first_span..gone.1 + self.spans.len() as u32;
        let predicted: u32 = self.spans[first_span as usize..].iter().map(|s| s.end - s.start).sum();
        self.rows.push(Row {
            start: gone.0 + self.tokens.len(),
            prompt_len: new.prompt.len() as u32,
            completion_len: new.completion.len() as u32,
            len: new.len as u32,
            spans,
            label: new.label,
            index: new.index,
            file: new.file,
            line: new.line,
            prompt_hash: new.hashes.0,
            row_hash: new.hashes.1,
        });
        self.tokens.extend_from_slice(new.prompt);
        self.tokens.extend_from_slice(new.completion);
        let report = &mut self.report;
        report.rows += 1;
        report.tokens += new.len as u64;
        report.loss_tokens += u64::from(predicted);
        report.longest = report.longest.max(new.len);
        report.desirable += usize::from(new.label == Some(true));
        report.undesirable += usize::from(new.label == Some(false));
    }

    /// Takes out what is there as bytes: tokens, spans, rows. Rows that follow count on.
    pub(crate) fn drain(&mut self) -> [Vec<u8>; 3] {
        let tokens = self.tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        let spans = self.spans.iter().flat_map(|s| [s.start, s.end]).flat_map(u32::to_le_bytes).collect();
        let mut rows = Vec::with_capacity(self.rows.len() * ROW_BYTES);
        self.rows.iter().for_each(|row| row.encode(&mut rows));
        self.gone = (self.gone.0 + self.tokens.len(), self.gone.1 + self.spans.len() as u32);
        self.tokens.clear();
        self.spans.clear();
        self.rows.clear();
        [tokens, spans, rows]
    }

    /// Takes out the lengths of the rows that are there; the report goes on.
    pub(crate) fn take(&mut self) -> Vec<Measured> {
        let tokens = std::mem::take(&mut self.tokens);
        self.spans.clear();
        let rows = std::mem::take(&mut self.rows).into_iter().map(|row| {
            let (prompt, completion) = (row.prompt_len as usize, row.completion_len as usize);
            let ids = &tokens[row.start + prompt..row.start + prompt + completion];
            let completion_bytes = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            Measured { prompt, completion, completion_bytes, prompt_hash: row.prompt_hash, label: row.label }
        });
        rows.collect()
    }

    pub(crate) fn finish(mut self, files: Vec<PathBuf>, max_length: Option<usize>) -> Dataset {
        let tokens = Tokens::Held(std::mem::take(&mut self.tokens));
        self.finish_with(tokens, files, max_length)
    }

    /// With tokens that it has not collected itself.
    pub(crate) fn finish_with(self, tokens: Tokens, files: Vec<PathBuf>, max_length: Option<usize>) -> Dataset {
        Dataset {
            tokens: Arc::new(tokens),
            spans: Arc::new(self.spans),
            rows: self.rows,
            files: Arc::new(files),
            max_length,
            report: self.report,
        }
    }
}
