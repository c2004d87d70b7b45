//! Rows of a CSV file with a header.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};

use super::RawRow;
use super::packed::{Progress, Text};
use crate::error::{Error, Place, Result};

/// Cells of these columns are booleans.
const BOOLEAN: [&str; 2] = ["label", "kto_tag"];

/// One open file.
pub(super) struct Csv {
    path: PathBuf,
    file: u32,
    reader: ::csv::Reader<Text>,
    record: ::csv::StringRecord,
    row: u64,
    pub(super) read: Progress,
}

impl Csv {
    pub(super) fn open(path: &Path, file: u32, text: Text, read: Progress, delimiter: u8) -> Self {
        let reader = ::csv::ReaderBuilder::new().delimiter(delimiter).from_reader(text);
        Csv { path: path.to_owned(), file, reader, record: ::csv::StringRecord::new(), row: 0, read }
    }

    /// The next row as an object of strings; labels are booleans, lists of objects are what they say.
    pub(super) fn next_row(&mut self) -> Result<Option<RawRow>> {
        let more = self.reader.read_record(&mut self.record).map_err(|e| self.failed(e))?;
        if !more {
            return Ok(None);
        }
        self.row += 1;
        let headers = self.reader.headers().map_err(|e| failed(&self.path, e))?;
        let cells = headers.iter().map(|name| name.trim_start_matches('\u{feff}')).zip(&self.record);
        let cells: Vec<(&str, &str)> = cells.collect();
        if let Some((name, _)) = cells.iter().find(|(_, cell)| is_python(cell)) {
            let reason = "the cell is a list in Python's notation, as `to_csv` writes it; expected text or JSON. Write the data as JSON lines or Parquet".to_owned();
            let line = self.record.position().map_or(1, ::csv::Position::line);
            let place = Place { file: self.path.clone(), line, column: 1 };
            return Err(Error::Row { place, field: (*name).to_owned(), reason });
        }
        let row: Map<String, Json> =
            cells.into_iter().map(|(name, cell)| (name.to_owned(), value(name, cell))).collect();
        let text = serde_json::to_vec(&row).expect("JSON values serialise");
        Ok(Some(RawRow { file: self.file, line: self.row, column: 0, text }))
    }

    fn failed(&self, e: ::csv::Error) -> Error {
        failed(&self.path, e)
    }
}

fn failed(path: &Path, e: ::csv::Error) -> Error {
    let (line, said) = (e.position().map_or(1, ::csv::Position::line), e.to_string());
    let reason = match e.into_kind() {
        ::csv::ErrorKind::Io(source) => return Error::Io { path: path.to_owned(), source },
        ::csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            format!("expected {expected_len} cells, as many as in the header; found {len}")
        }
        ::csv::ErrorKind::Utf8 { .. } => "a byte that is not UTF-8; save the file as UTF-8".to_owned(),
        _ => format!("not valid CSV: {said}"),
    };
    let place = Place { file: path.to_owned(), line, column: 1 };
    Error::Row { place, field: String::new(), reason }
}

/// Whether a cell is a list of turns as Python prints it.
fn is_python(cell: &str) -> bool {
    let cell = cell.trim();
    cell.starts_with("[{'") && cell.ends_with("}]")
}

fn value(name: &str, cell: &str) -> Json {
    if BOOLEAN.contains(&name) {
        match cell.trim().to_ascii_lowercase().as_str() {
            "true" | "1" => return true.into(),
            "false" | "0" => return false.into(),
            _ => {}
        }
    }
    if cell.trim_start().starts_with('[')
        && let Ok(Json::Array(items)) = serde_json::from_str(cell)
        && !items.is_empty()
        && (items.iter().all(Json::is_object) || matches!(name, "history" | "completions" | "labels"))
    {
        return Json::Array(items);
    }
    cell.into()
}
