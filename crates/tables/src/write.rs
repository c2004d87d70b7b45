//! Rows into a Parquet file or an Arrow stream, with the metadata by which `datasets` restores its own types.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow_array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow_ipc::writer::StreamWriter;
use arrow_schema::{Schema, SchemaRef};
use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::{Map, Value as Json, json};

use crate::column::column;
use crate::error::{Error, Result};
use crate::features;
use crate::kind::Kind;

/// Rows of a Parquet row group and of a record batch: what the Hub writes, and what its viewer expects.
const GROUP_ROWS: usize = 1000;

type Row = Map<String, Json>;

/// Names and kinds of the columns of a table of such rows.
fn columns(path: &Path, kind: &Kind) -> Result<Vec<(String, Kind)>> {
    match kind.clone().settled() {
        Kind::Struct(fields) => Ok(fields),
        // No row at all, or only empty ones.
        Kind::Text | Kind::Mixed if matches!(kind, Kind::Null | Kind::Struct(_)) => Ok(Vec::new()),
        other => {
            Err(Error::malformed(path, format!("rows of a table are objects with at most 256 fields, found {other:?}")))
        }
    }
}

fn schema(columns: &[(String, Kind)]) -> SchemaRef {
    let metadata = HashMap::from([("huggingface".to_owned(), features::schema_metadata(columns))]);
    Arc::new(Schema::new_with_metadata(Kind::fields(columns), metadata))
}

fn batch(path: &Path, columns: &[(String, Kind)], schema: &SchemaRef, rows: &[Row]) -> Result<RecordBatch> {
    let arrays = columns.iter().map(|(name, kind)| {
        let values: Vec<Option<&Json>> = rows.iter().map(|row| row.get(name)).collect();
        column(kind, &values)
    });
    let arrays: Vec<ArrayRef> = arrays.collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options).map_err(|e| Error::malformed(path, e))
}

/// A Parquet file that grows.
pub struct Parquet {
    path: PathBuf,
    columns: Vec<(String, Kind)>,
    schema: SchemaRef,
    writer: ArrowWriter<BufWriter<File>>,
    rows: Vec<Row>,
}

impl Parquet {
    /// Starts a file of rows of `kind`, packed by snappy.
    ///
    /// # Errors
    /// `Io`; `Malformed` if `kind` is no object.
    pub fn create(path: &Path, kind: &Kind) -> Result<Self> {
        let columns = columns(path, kind)?;
        let schema = schema(&columns);
        let file = BufWriter::new(File::create(path).map_err(Error::io(path))?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_key_value_metadata(Some(vec![parquet::file::metadata::KeyValue::new(
                "huggingface".to_owned(),
                features::schema_metadata(&columns),
            )]))
            .build();
        let writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties));
        let writer = writer.map_err(|e| Error::malformed(path, e))?;
        Ok(Parquet { path: path.to_owned(), columns, schema, writer, rows: Vec::new() })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&mut self, row: Row) -> Result<()> {
        self.rows.push(row);
        if self.rows.len() == GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = batch(&self.path, &self.columns, &self.schema, &self.rows)?;
        self.rows.clear();
        let fail = |e: parquet::errors::ParquetError| Error::io(&self.path)(std::io::Error::other(e));
        self.writer.write(&batch).map_err(fail)?;
        self.writer.flush().map_err(fail)
    }

    /// Writes what is left and the footer; the file is on disk when this returns.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<()> {
        if !self.rows.is_empty() {
            self.flush()?;
        }
        let path = &self.path;
        let file = self.writer.into_inner().map_err(|e| Error::io(path)(std::io::Error::other(e)))?;
        synced(path, file)
    }
}

/// An Arrow IPC stream that grows: one shard of a `save_to_disk` folder.
pub struct ArrowStream {
    path: PathBuf,
    columns: Vec<(String, Kind)>,
    schema: SchemaRef,
    writer: StreamWriter<BufWriter<File>>,
    rows: Vec<Row>,
}

impl ArrowStream {
    /// Starts a stream of rows of `kind`.
    ///
    /// # Errors
    /// `Io`; `Malformed` if `kind` is no object.
    pub fn create(path: &Path, kind: &Kind) -> Result<Self> {
        let columns = columns(path, kind)?;
        let schema = schema(&columns);
        let file = BufWriter::new(File::create(path).map_err(Error::io(path))?);
        let writer = StreamWriter::try_new(file, &schema).map_err(|e| Error::io(path)(std::io::Error::other(e)))?;
        Ok(ArrowStream { path: path.to_owned(), columns, schema, writer, rows: Vec::new() })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// `Io`.
    pub fn write(&mut self, row: Row) -> Result<()> {
        self.rows.push(row);
        if self.rows.len() == GROUP_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let batch = batch(&self.path, &self.columns, &self.schema, &self.rows)?;
        self.rows.clear();
        self.writer.write(&batch).map_err(|e| Error::io(&self.path)(std::io::Error::other(e)))
    }

    /// Writes what is left; the file is on disk when this returns.
    ///
    /// # Errors
    /// `Io`.
    pub fn finish(mut self) -> Result<()> {
        if !self.rows.is_empty() {
            self.flush()?;
        }
        let path = &self.path;
        let file = self.writer.into_inner().map_err(|e| Error::io(path)(std::io::Error::other(e)))?;
        synced(path, file)
    }
}

fn synced(path: &Path, file: BufWriter<File>) -> Result<()> {
    let mut file = file.into_inner().map_err(|e| Error::io(path)(e.into_error()))?;
    file.flush().and_then(|()| file.sync_all()).map_err(Error::io(path))
}

/// `dataset_info.json` of a `save_to_disk` folder.
///
/// # Errors
/// `Malformed` if `kind` is no object.
pub fn dataset_info(path: &Path, kind: &Kind) -> Result<Json> {
    Ok(
        json!({"citation": "", "description": "", "features": features::features(&columns(path, kind)?), "homepage": "", "license": ""}),
    )
}

/// `state.json` of a `save_to_disk` folder: its shards, in order, and a fingerprint of its content.
pub fn dataset_state(shards: &[String], fingerprint: &str, split: Option<&str>) -> Json {
    let shards: Vec<Json> = shards.iter().map(|name| json!({"filename": name})).collect();
    json!({
        "_data_files": shards, "_fingerprint": fingerprint, "_format_columns": null, "_format_kwargs": {},
        "_format_type": null, "_output_all_columns": false, "_split": split
    })
}
