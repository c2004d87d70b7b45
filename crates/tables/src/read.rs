//! Rows of a Parquet or Arrow file, streamed.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde_json::{Map, Value as Json};

use crate::cell;
use crate::error::{Error, Result};
use crate::pages::Unpacked;

/// The kind of a table file, told from its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Parquet.
    Parquet,
    /// Arrow IPC file (Feather version 2).
    ArrowFile,
    /// Arrow IPC stream, as `save_to_disk` writes it.
    ArrowStream,
}

impl Format {
    /// The format of a file that begins with `head` (eight bytes are enough); `None` if it is no table.
    pub fn of(head: &[u8]) -> Option<Format> {
        if head.starts_with(b"PAR1") {
            Some(Format::Parquet)
        } else if head.starts_with(b"ARROW1") {
            Some(Format::ArrowFile)
        } else if head.starts_with(&[0xff; 4]) {
            Some(Format::ArrowStream)
        } else {
            None
        }
    }
}

/// Rows decoded at a time.
const BATCH_ROWS: usize = 256;

type Batches = Box<dyn Iterator<Item = std::result::Result<RecordBatch, String>> + Send>;

/// The rows of one file. Memory is a batch of rows, whatever the file's size.
pub struct Rows {
    path: PathBuf,
    /// Row groups still to come; none for Arrow files.
    groups: Option<Groups>,
    batches: Batches,
    batch: Option<RecordBatch>,
    next: usize,
}

/// The row groups of a Parquet file.
struct Groups {
    file: File,
    metadata: Arc<ParquetMetaData>,
    next: usize,
}

impl Rows {
    /// Opens a table file.
    ///
    /// # Errors
    /// `Io`; `Malformed` if it is no table or its header is damaged.
    pub fn open(path: &Path) -> Result<Rows> {
        let mut file = File::open(path).map_err(Error::io(path))?;
        let mut head = Vec::new();
        file.by_ref().take(8).read_to_end(&mut head).map_err(Error::io(path))?;
        file.seek(SeekFrom::Start(0)).map_err(Error::io(path))?;
        let bad = |e: &dyn std::fmt::Display| Error::malformed(path, e);
        let (mut groups, mut batches): (_, Batches) = (None, Box::new(std::iter::empty()));
        match Format::of(&head) {
            Some(Format::Parquet) => {
                let metadata =
                    guarded(|| ParquetMetaDataReader::new().parse_and_finish(&file).map_err(|e| e.to_string()));
                let metadata = metadata.map_err(|e| bad(&format!("not a readable Parquet file: {e}")))?;
                groups = Some(Groups { file, metadata: Arc::new(metadata), next: 0 });
            }
            Some(Format::ArrowFile) => {
                let reader = guarded(|| FileReader::try_new(BufReader::new(file), None).map_err(|e| e.to_string()));
                let reader = reader.map_err(|e| bad(&format!("not a readable Arrow file: {e}")))?;
                batches = Box::new(reader.map(|batch| batch.map_err(|e| e.to_string())));
            }
            Some(Format::ArrowStream) => {
                let reader = guarded(|| StreamReader::try_new(BufReader::new(file), None).map_err(|e| e.to_string()));
                let reader = reader.map_err(|e| bad(&format!("not a readable Arrow stream: {e}")))?;
                batches = Box::new(reader.map(|batch| batch.map_err(|e| e.to_string())));
            }
            None => return Err(bad(&"expected a Parquet or Arrow file; its first bytes say it is neither")),
        }
        Ok(Rows { path: path.to_owned(), groups, batches, batch: None, next: 0 })
    }

    /// Rows in the file, where its header says.
    pub fn total(&self) -> Option<u64> {
        let rows = self.groups.as_ref()?.metadata.file_metadata().num_rows();
        u64::try_from(rows).ok()
    }

    /// The next row, or `None` after the last.
    ///
    /// # Errors
    /// `Malformed` where the file is damaged or packed in a way that is not read.
    pub fn next_row(&mut self) -> Result<Option<Map<String, Json>>> {
        loop {
            if let Some(batch) = self.batch.as_ref().filter(|batch| self.next < batch.num_rows()) {
                self.next += 1;
                return Ok(Some(cell::row(batch, self.next - 1)));
            }
            let batches = &mut self.batches;
            match guarded(|| batches.next().transpose()) {
                Ok(Some(batch)) => (self.batch, self.next) = (Some(batch), 0),
                Ok(None) if !self.next_group()? => return Ok(None),
                Ok(None) => {}
                Err(e) => return Err(Error::malformed(&self.path, e)),
            }
        }
    }

    /// Goes on to the next row group, if there is one.
    fn next_group(&mut self) -> Result<bool> {
        let Some(groups) = self.groups.as_mut().filter(|g| g.next < g.metadata.num_row_groups()) else {
            return Ok(false);
        };
        let (path, n) = (self.path.as_path(), groups.next);
        groups.next += 1;
        let metadata = Arc::clone(&groups.metadata);
        let file = groups.file.try_clone().map_err(Error::io(path))?;
        let batches = guarded(|| match Unpacked::group(path, &file, &metadata, n).map_err(|e| e.reason())? {
            None => batches(file, metadata, n),
            Some((file, group)) => {
                let alone = ParquetMetaData::new(metadata.file_metadata().clone(), vec![group]);
                batches(file, Arc::new(alone), 0)
            }
        });
        self.batches = batches.map_err(|e| Error::malformed(path, e))?;
        Ok(true)
    }
}

/// The batches of one row group.
fn batches<T: parquet::file::reader::ChunkReader + 'static>(
    file: T,
    metadata: Arc<ParquetMetaData>,
    group: usize,
) -> std::result::Result<Batches, String> {
    let metadata = ArrowReaderMetadata::try_new(metadata, ArrowReaderOptions::new()).map_err(|e| e.to_string())?;
    let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(file, metadata);
    let reader = builder.with_row_groups(vec![group]).with_batch_size(BATCH_ROWS).build().map_err(|e| e.to_string())?;
    Ok(Box::new(reader.map(|batch| batch.map_err(|e| e.to_string()))))
}

thread_local! {
    /// Whether this thread is in [`guarded`]: a panic hook, which cannot be told by the caller, has to know.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
}

/// Whether this thread decodes a file, so that a panic is caught and becomes the file's error. A panic hook says nothing then.
pub fn is_decoding() -> bool {
    GUARDED.get()
}

/// What an engine says, without its own name before it.
fn said(e: &str) -> &str {
    ["Parquet error: ", "Parser error: ", "External: "].iter().fold(e, |e, name| e.strip_prefix(name).unwrap_or(e))
}

/// Runs a decoder of outside bytes: where it panics on a damaged file, that is the file's error and not ours.
fn guarded<T>(decode: impl FnOnce() -> std::result::Result<T, String>) -> std::result::Result<T, String> {
    GUARDED.set(true);
    let decoded = std::panic::catch_unwind(std::panic::AssertUnwindSafe(decode));
    GUARDED.set(false);
    decoded.unwrap_or_else(|_| Err("the file is damaged (its decoder gave up)".into())).map_err(|e| {
        match e.contains("Disabled feature") {
            true => format!("its compression is not read ({e}); write it with snappy, gzip, zstd or none"),
            false => format!("{}; the file is damaged or cut off: get it again", said(&e)),
        }
    })
}
