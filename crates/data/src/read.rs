//! From a raw row to its examples, and from a complaint about a field to a place in a file.

use std::path::PathBuf;

use serde_json::Value as Json;

use crate::error::{Error, Place, Result};
use crate::format::{BadField, EMPTY_COMPLETION, Example, ReadRow, Reading, read_row};
use crate::locate::{FieldPath, locate, position};
use crate::source::{RawRow, Rows};
use crate::tokenise::{OnBadRow, Options};

/// What a data file looks like.
const SHAPE: &str = "a data file is one JSON object per line, or one array of objects";

/// The row as JSON.
pub(crate) fn parse_json(raw: &RawRow) -> std::result::Result<Json, BadField> {
    serde_json::from_slice(&raw.text).map_err(|e| {
        let reason = match std::str::from_utf8(&raw.text) {
            Ok(_) => format!("not valid JSON: {}; {SHAPE}", without_place(&e)),
            Err(_) => "a byte that is not UTF-8; save the file as UTF-8".to_owned(),
        };
        BadField::new(FieldPath::default(), reason)
    })
}

/// What a JSON parser says without its place, which is that in the row and not that in the file.
fn without_place(e: &serde_json::Error) -> String {
    let said = e.to_string();
    said.strip_suffix(&format!(" at line {} column {}", e.line(), e.column())).unwrap_or(&said).to_owned()
}

/// The examples of a row of one of `files`.
pub(crate) fn parse(files: &[PathBuf], raw: &RawRow, options: &Options) -> std::result::Result<ReadRow, BadField> {
    let json = parse_json(raw)?;
    let mut reading = Reading {
        task: options.task,
        text_field: &options.text_field,
        shape: options.shape,
        default_label: options.default_label,
        alternatives: options.alternatives,
    };
    let Some(mapping) = options.mappings.get(&files[raw.file as usize]) else { return read_row(&json, &reading) };
    reading.shape = options.shape.or(mapping.shape);
    read_row(&mapping.apply(json), &reading).map_err(|bad| mapping.unapply(bad))
}

/// Rows of files, read one at a time.
pub struct Examples<'a> {
    files: &'a [PathBuf],
    options: &'a Options,
    rows: Rows<'a>,
    /// Rows read so far.
    pub rows_read: usize,
    /// Rows left out because they are bad (policy `skip`).
    pub bad: usize,
    /// Those of them that are bad because a completion is empty.
    pub empty_completions: usize,
    /// The message of the first of them.
    pub first_bad: Option<String>,
}

impl<'a> Examples<'a> {
    /// Starts at the first row of the first file.
    pub fn open(files: &'a [PathBuf], options: &'a Options) -> Self {
        Examples {
            files,
            options,
            rows: Rows::open(files),
            rows_read: 0,
            bad: 0,
            empty_completions: 0,
            first_bad: None,
        }
    }

    /// The next good row, and where it came from; `None` after the last.
    ///
    /// # Errors
    /// `Row` for a bad row (unless they are skipped), `Io`.
    pub fn next_row(&mut self) -> Result<Option<(RawRow, ReadRow)>> {
        while let Some(raw) = self.rows.next_row()? {
            self.rows_read += 1;
            match parse(self.files, &raw, self.options) {
                Ok(row) => return Ok(Some((raw, row))),
                Err(bad) => {
                    self.empty_completions += usize::from(bad.reason == EMPTY_COMPLETION);
                    let error = row_error(self.files, &raw, bad);
                    if self.options.on_bad_row == OnBadRow::Error {
                        return Err(error);
                    }
                    self.bad += 1;
                    self.first_bad.get_or_insert_with(|| error.to_string());
                }
            }
        }
        Ok(None)
    }

    /// Steps over the first `rows` rows without reading what is in them, if there are as many.
    ///
    /// # Errors
    /// `Io`, `Table`; `Row` where an array is not closed.
    pub(crate) fn skip(&mut self, rows: usize) -> Result<()> {
        while self.rows_read < rows && self.rows.next_row()?.is_some() {
            self.rows_read += 1;
        }
        Ok(())
    }

    /// Bytes read so far.
    pub fn bytes_read(&self) -> u64 {
        self.rows.bytes_read()
    }
}

/// Reads `files` without tokenising them, for generation and inspection: the examples, each with its index among all examples.
///
/// # Errors
/// `Row` for the first bad row (unless they are skipped), `Io`.
pub fn read_examples(files: &[PathBuf], options: &Options) -> Result<Vec<(u32, Example)>> {
    let (mut rows, mut examples, mut index) = (Examples::open(files, options), Vec::new(), 0);
    let mut bad = 0;
    while let Some((_, row)) = rows.next_row()? {
        index += (rows.bad - bad) as u32;
        bad = rows.bad;
        for example in row.examples {
            examples.push((index, example));
            index += 1;
        }
    }
    Ok(examples)
}

/// Where in its file byte `at` of a row is.
pub(crate) fn place_of(files: &[PathBuf], raw: &RawRow, at: usize) -> Place {
    shifted(files, raw, position(&String::from_utf8_lossy(&raw.text), at))
}

/// A position in a row as a position in its file.
fn shifted(files: &[PathBuf], raw: &RawRow, (line, column): (u64, u64)) -> Place {
    let file = files[raw.file as usize].clone();
    if raw.column == 0 {
        // Rows of a table are numbered; they have no lines.
        return Place { file, line: raw.line, column: 0 };
    }
    let column = if line == 1 { raw.column + column - 1 } else { column };
    Place { file, line: raw.line + line - 1, column }
}

/// The error that a complaint about a row is.
pub(crate) fn row_error(files: &[PathBuf], raw: &RawRow, bad: BadField) -> Error {
    let text = String::from_utf8_lossy(&raw.text);
    let at = match serde_json::from_slice::<serde::de::IgnoredAny>(&raw.text) {
        Ok(_) => match std::str::from_utf8(&raw.text) {
            Ok(_) => locate(&text, &bad.path),
            Err(e) => position(&text, e.valid_up_to()),
        },
        Err(e) => {
            // The parser counts columns in bytes.
            let before: usize = text.split_inclusive('\n').take(e.line().saturating_sub(1)).map(str::len).sum();
            position(&text, before + e.column().saturating_sub(1))
        }
    };
    Error::Row { place: shifted(files, raw, at), field: bad.path.to_string(), reason: bad.reason }
}
