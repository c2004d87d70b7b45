//! Rows of a Parquet or Arrow file.

use std::path::Path;

use super::RawRow;
use crate::error::{Error, Result};

/// One open file.
pub(super) struct Table {
    rows: tables::Rows,
    file: u32,
    row: u64,
    bytes: u64,
    done: bool,
}

impl Table {
    pub(super) fn open(path: &Path, file: u32) -> Result<Self> {
        let bytes = std::fs::metadata(path).map_err(|source| Error::Io { path: path.to_owned(), source })?.len();
        Ok(Table { rows: tables::Rows::open(path)?, file, row: 0, bytes, done: false })
    }

    pub(super) fn next_row(&mut self) -> Result<Option<RawRow>> {
        let Some(row) = self.rows.next_row()? else {
            self.done = true;
            return Ok(None);
        };
        self.row += 1;
        let text = serde_json::to_vec(&row).expect("JSON values serialise");
        Ok(Some(RawRow { file: self.file, line: self.row, column: 0, text }))
    }

    /// The share of the file that its rows so far are, where the number of rows is known.
    pub(super) fn bytes_read(&self) -> u64 {
        match (self.done, self.rows.total()) {
            (true, _) => self.bytes,
            (false, Some(total)) => (u128::from(self.bytes) * u128::from(self.row) / u128::from(total.max(1))) as u64,
            (false, None) => 0,
        }
    }
}
