//! Zstandard pages of a Parquet file, unpacked on the way, so that a decoder written in Rust serves them.
//!
//! The Parquet library unpacks zstd by a C library only. Here the file is shown to it as it would be if such columns were not
//! compressed: page headers are rewritten, pages are unpacked when they are asked for, and nothing is copied to disk. (To be
//! removed when the library takes a codec from outside.)

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};

use parquet::basic::Compression;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ColumnChunkMetaData, ParquetMetaData, RowGroupMetaData};
use parquet::file::reader::{ChunkReader, Length};

use crate::error::{Error, Result};
use crate::thrift;

/// A page unpacked is at most this long; writers make them a megabyte.
const MAX_PAGE: usize = 1 << 30;
/// A page header is at most this long.
const MAX_HEADER: usize = 1 << 20;
/// Offset at which columns seem to lie that are shown unpacked: past any real one.
const SHOWN_FROM: u64 = 1 << 48;

/// A file whose zstd columns seem to lie unpacked past its end.
#[derive(Clone)]
pub(crate) struct Unpacked {
    file: Arc<Mutex<File>>,
    length: u64,
    pages: Arc<Vec<Page>>,
    last: Arc<Mutex<Option<Opened>>>,
}

/// The page that was unpacked last, and its data.
type Opened = (usize, Arc<Vec<u8>>);

/// One page: where it seems to lie, where it lies.
struct Page {
    shown: u64,
    header: Vec<u8>,
    /// Its data in the file.
    data: Range<u64>,
    /// Bytes at the start of the data that are not compressed (the levels of a page of version 2).
    levels: usize,
    size: usize,
    packed: bool,
}

impl Unpacked {
    /// The file, and what its row group `group` looks like in it; `None` if no column of the group is packed by zstd.
    pub(crate) fn group(
        path: &Path,
        file: &File,
        metadata: &ParquetMetaData,
        group: usize,
    ) -> Result<Option<(Self, RowGroupMetaData)>> {
        let row_group = metadata.row_group(group);
        let is_zstd = |c: &ColumnChunkMetaData| matches!(c.compression(), Compression::ZSTD(_));
        if !row_group.columns().iter().any(is_zstd) {
            return Ok(None);
        }
        let bad = |reason: String| Error::malformed(path, reason);
        let mut file = file.try_clone().map_err(Error::io(path))?;
        let length = file.metadata().map_err(Error::io(path))?.len();
        let (mut pages, mut columns, mut shown) = (Vec::new(), Vec::new(), SHOWN_FROM);
        for column in row_group.columns() {
            if !is_zstd(column) {
                columns.push(column.clone());
                continue;
            }
            let (start, packed) = column.byte_range();
            let end = start.checked_add(packed).filter(|&end| end <= length);
            let end = end.ok_or_else(|| bad("a column lies past the end of the file; it is damaged".into()))?;
            let (from, first) = (shown, pages.len());
            let mut at = start;
            while at < end {
                let page = Page::read(path, &mut file, at..end, shown)?;
                (at, shown) = (page.data.end, shown + (page.header.len() + page.size) as u64);
                pages.push(page);
            }
            let dictionary = column.dictionary_page_offset().is_some();
            let data = if dictionary { pages.get(first + 1).map_or(shown, |page| page.shown) } else { from };
            let builder = column.clone().into_builder();
            let column = builder
                .set_compression(Compression::UNCOMPRESSED)
                .set_dictionary_page_offset(dictionary.then_some(from as i64))
                .set_data_page_offset(data as i64)
                .set_total_compressed_size((shown - from) as i64)
                .build();
            columns.push(column.map_err(|e| bad(e.to_string()))?);
        }
        let row_group = row_group.clone().into_builder().set_column_metadata(columns).build();
        let row_group = row_group.map_err(|e| bad(e.to_string()))?;
        let file = Arc::new(Mutex::new(file));
        Ok(Some((Unpacked { file, length, pages: Arc::new(pages), last: Arc::default() }, row_group)))
    }

    /// The bytes that seem to lie at `start`: `length` of them, fewer where a header or a page ends.
    fn bytes(&self, start: u64, length: usize) -> ParquetResult<Vec<u8>> {
        let eof = || ParquetError::EOF("a page lies past the end of its column".into());
        if start < SHOWN_FROM {
            return Ok(self.real(start, length)?);
        }
        let at = self.pages.partition_point(|page| page.shown <= start).checked_sub(1).ok_or_else(eof)?;
        let page = &self.pages[at];
        let from = (start - page.shown) as usize;
        if from < page.header.len() {
            return Ok(page.header[from..page.header.len().min(from + length)].to_vec());
        }
        let data = self.data(at)?;
        let from = from - page.header.len();
        Ok(data.get(from..data.len().min(from.saturating_add(length))).unwrap_or_default().to_vec())
    }

    fn real(&self, start: u64, length: usize) -> std::io::Result<Vec<u8>> {
        let mut file = self.file.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        file.by_ref().take(length as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// The data of page `at`, unpacked.
    fn data(&self, at: usize) -> ParquetResult<Arc<Vec<u8>>> {
        let mut last = self.last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((_, data)) = last.as_ref().filter(|(n, _)| *n == at) {
            return Ok(Arc::clone(data));
        }
        let page = &self.pages[at];
        let mut data = self.real(page.data.start, (page.data.end - page.data.start) as usize)?;
        if page.packed {
            let packed = data.split_off(page.levels.min(data.len()));
            let fail = |e: String| ParquetError::General(format!("a page is no zstd data: {e}"));
            let unpack = ruzstd::decoding::StreamingDecoder::new(packed.as_slice()).map_err(|e| fail(e.to_string()))?;
            unpack.take((page.size + 1) as u64).read_to_end(&mut data).map_err(|e| fail(e.to_string()))?;
        }
        if data.len() != page.size {
            let reason = format!("a page of {} bytes unpacks to {}", page.size, data.len());
            return Err(ParquetError::General(reason));
        }
        let data = Arc::new(data);
        *last = Some((at, Arc::clone(&data)));
        Ok(data)
    }
}

impl Page {
    /// The page that starts at `place.start` of a column that ends at `place.end`, to be shown at `shown`.
    fn read(path: &Path, file: &mut File, place: Range<u64>, shown: u64) -> Result<Page> {
        let bad = |what: &str| Error::malformed(path, format!("{what}; the file is damaged"));
        let (mut fields, used) = read_header(path, file, &place)?;
        let size = thrift::read_int(&fields, 2).and_then(|n| usize::try_from(n).ok()).filter(|n| *n <= MAX_PAGE);
        let stored = thrift::read_int(&fields, 3).and_then(|n| u64::try_from(n).ok());
        let (Some(size), Some(stored)) = (size, stored) else { return Err(bad("a page header has no sizes")) };
        let data = place.start + used as u64..place.start + used as u64 + stored;
        if data.end > place.end {
            return Err(bad("a page is longer than its column"));
        }
        let (mut levels, mut packed) = (0, true);
        if let Some(header) = fields.iter_mut().find(|f| f.id == 8) {
            let (mut v2, _) = thrift::fields(&header.bytes).ok_or_else(|| bad("a page header cannot be read"))?;
            let level = |id| thrift::read_int(&v2, id).and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
            levels = level(5).saturating_add(level(6));
            packed = !v2.iter().any(|f| f.id == 7 && f.kind == thrift::FALSE);
            v2.retain(|f| f.id != 7);
            let place = v2.partition_point(|f| f.id < 7);
            v2.insert(place, thrift::Field { id: 7, kind: thrift::FALSE, bytes: Vec::new() });
            header.bytes = thrift::write(&v2);
        }
        if levels > size || levels as u64 > stored {
            return Err(bad("the levels of a page are longer than the page"));
        }
        // The checksum is of the packed bytes.
        fields.retain(|f| f.id != 4);
        fields.iter_mut().filter(|f| f.id == 3).for_each(|f| *f = thrift::int(3, size as i32));
        // A page that holds nothing but levels is not packed.
        packed &= stored as usize > levels;
        Ok(Page { shown, header: thrift::write(&fields), data, levels, size, packed })
    }
}

fn read_header(path: &Path, file: &mut File, place: &Range<u64>) -> Result<(Vec<thrift::Field>, usize)> {
    let room = (place.end - place.start).min(MAX_HEADER as u64);
    let mut want = room.min(256);
    loop {
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(place.start)).map_err(Error::io(path))?;
        file.by_ref().take(want).read_to_end(&mut bytes).map_err(Error::io(path))?;
        match thrift::fields(&bytes) {
            Some(header) => return Ok(header),
            None if want < room => want = (want * 8).min(room),
            None => return Err(Error::malformed(path, "a page header cannot be read; the file is damaged")),
        }
    }
}

impl Length for Unpacked {
    fn len(&self) -> u64 {
        self.pages.last().map_or(self.length, |page| page.shown + (page.header.len() + page.size) as u64)
    }
}

impl ChunkReader for Unpacked {
    type T = Walk;

    fn get_read(&self, start: u64) -> ParquetResult<Walk> {
        Ok(Walk { file: self.clone(), at: start })
    }

    fn get_bytes(&self, start: u64, length: usize) -> ParquetResult<bytes::Bytes> {
        let bytes = self.bytes(start, length)?;
        match bytes.len() == length {
            true => Ok(bytes.into()),
            false => Err(ParquetError::EOF(format!("expected {length} bytes, found {}", bytes.len()))),
        }
    }
}

/// Reading on from a place: page headers.
pub(crate) struct Walk {
    file: Unpacked,
    at: u64,
}

impl Read for Walk {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let bytes = self.file.bytes(self.at, out.len().min(1 << 16)).map_err(std::io::Error::other)?;
        out[..bytes.len()].copy_from_slice(&bytes);
        self.at += bytes.len() as u64;
        Ok(bytes.len())
    }
}
