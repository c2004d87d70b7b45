//! Data files: which ones a name stands for, and their rows one at a time, whatever the file's format.

mod csv;
mod find;
mod json;
mod packed;
mod table;

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

pub use find::resolve;
pub use tables::is_decoding;

/// The text of one row and where it starts. Rows of tables are written as JSON too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRow {
    /// Index of the file in the list given to [`open`](Rows::open).
    pub file: u32,
    /// Line of the row's first character, from 1; in a table (`column` 0) the number of the row, from 1.
    pub line: u64,
    /// Column of the row's first character, from 1; 0 in a table.
    pub column: u64,
    /// The row as written.
    pub text: Vec<u8>,
}

/// Bytes of all files.
///
/// # Errors
/// `Io` for a file that is not there.
pub fn total_bytes(files: &[PathBuf]) -> Result<u64> {
    let size =
        |f: &PathBuf| std::fs::metadata(f).map(|m| m.len()).map_err(|source| Error::Io { path: f.clone(), source });
    files.iter().map(size).sum()
}

/// One open file.
enum Open {
    Json(Box<json::Splitter>),
    Csv(Box<csv::Csv>),
    Table(Box<table::Table>),
}

impl Open {
    fn new(path: &Path, file: u32) -> Result<Self> {
        let (head, reader, read) = packed::open(path)?;
        if tables::Format::of(&head).is_some() {
            return Ok(Open::Table(Box::new(table::Table::open(path, file)?)));
        }
        match find::text_kind(path) {
            Some(find::TextKind::Csv(delimiter)) => {
                Ok(Open::Csv(Box::new(csv::Csv::open(path, file, reader, read, delimiter))))
            }
            _ => Ok(Open::Json(Box::new(json::Splitter::open(path, file, reader, read)?))),
        }
    }

    fn next_row(&mut self) -> Result<Option<RawRow>> {
        match self {
            Open::Json(rows) => rows.next_row(),
            Open::Csv(rows) => rows.next_row(),
            Open::Table(rows) => rows.next_row(),
        }
    }

    fn bytes_read(&self) -> u64 {
        match self {
            Open::Json(rows) => rows.read.get(),
            Open::Csv(rows) => rows.read.get(),
            Open::Table(rows) => rows.bytes_read(),
        }
    }
}

/// The rows of several files, streamed: memory is one row (of a table one batch), whatever the files' size.
pub struct Rows<'a> {
    files: &'a [PathBuf],
    next_file: usize,
    current: Option<Open>,
    bytes_before: u64,
    /// Rows that are still read of ranges of the files.
    limits: Vec<(Range<u32>, usize)>,
}

impl<'a> Rows<'a> {
    /// Starts at the first row of the first file.
    pub fn open(files: &'a [PathBuf]) -> Self {
        Rows { files, next_file: 0, current: None, bytes_before: 0, limits: Vec::new() }
    }

    /// Of each of these ranges of files only so many rows are read, the first ones.
    #[must_use]
    pub fn limited(self, limits: &[(Range<u32>, usize)]) -> Self {
        Rows { limits: limits.to_vec(), ..self }
    }

    /// Bytes read so far, over all files, as they lie on disk.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_before + self.current.as_ref().map_or(0, Open::bytes_read)
    }

    /// The next row, or `None` after the last.
    ///
    /// # Errors
    /// `Io` when a file cannot be read, `Row` when an array is not closed or holds something between its rows, `Table` when
    /// a table is damaged.
    pub fn next_row(&mut self) -> Result<Option<RawRow>> {
        loop {
            let file = (self.next_file - usize::from(self.current.is_some())) as u32;
            let limit = self.limits.iter_mut().find(|(files, _)| files.contains(&file));
            if let Some((files, 0)) = limit {
                self.next_file = files.end as usize;
                self.bytes_before += self.current.take().map_or(0, |open| open.bytes_read());
                continue;
            }
            if self.current.is_none() {
                let Some(path) = self.files.get(self.next_file) else { return Ok(None) };
                self.current = Some(Open::new(path, self.next_file as u32)?);
                self.next_file += 1;
            }
            let open = self.current.as_mut().expect("just opened");
            if let Some(row) = open.next_row()? {
                if let Some((_, left)) = limit {
                    *left -= 1;
                }
                return Ok(Some(row));
            }
            self.bytes_before += open.bytes_read();
            self.current = None;
        }
    }
}
