//! Data files: which ones a name stands for, and their rows one at a time, of a JSONL or a JSON array of any size.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use crate::error::{Error, Place, Result};

/// The text of one row and where it starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawRow {
    /// Index of the file in the list given to [`open`](Rows::open).
    pub file: u32,
    /// Line of the row's first character, from 1.
    pub line: u64,
    /// Column of the row's first character, from 1.
    pub column: u64,
    /// The row as written.
    pub text: Vec<u8>,
}

/// Splits of a data set that a file name can announce.
const OTHER_SPLITS: [&str; 6] = ["test", "validation", "valid", "val", "eval", "dev"];
/// JSON files that stand beside data sets and are none.
const NOT_DATA: [&str; 3] = ["dataset_info", "dataset_infos", "state"];

/// The data files that `name` stands for, in a fixed order.
///
/// A file stands for itself. A folder (or its `data/`) stands for the files of `split`: `train.jsonl`,
/// `train-00000-of-00002.json`, everything in `train/`; a folder in which no file names a split is all `train`.
///
/// # Errors
/// `NoFiles` when nothing fits or the kind of file is not read; `Io` when the folder cannot be listed.
pub fn resolve(name: &Path, split: &str) -> Result<Vec<PathBuf>> {
    if name.is_file() {
        readable_kind(name)?;
        return Ok(vec![name.to_owned()]);
    }
    if !name.is_dir() {
        let reason = "no such file or folder; `dataset_name` is a .jsonl or .json file, a folder of them, or a list";
        return Err(Error::NoFiles { path: name.to_owned(), reason: reason.into() });
    }
    let mut files = json_files(name)?;
    files.extend(json_files(&name.join("data"))?);
    let named: Vec<PathBuf> = files.iter().filter(|f| names_split(f, split)).cloned().collect();
    let whole_folder = json_files(&name.join(split))?;
    let chosen = match (named.is_empty(), whole_folder.is_empty()) {
        (false, _) => named,
        (true, false) => whole_folder,
        (true, true) if split == "train" => {
            files.into_iter().filter(|f| !OTHER_SPLITS.iter().any(|s| names_split(f, s))).collect()
        }
        (true, true) => Vec::new(),
    };
    if chosen.is_empty() {
        let reason = format!(
            "no .jsonl or .json file for the split `{split}`; expected {split}.jsonl, {split}-*.jsonl or {split}/ in it"
        );
        return Err(Error::NoFiles { path: name.to_owned(), reason });
    }
    Ok(chosen)
}

fn readable_kind(file: &Path) -> Result<()> {
    match file.extension().and_then(|e| e.to_str()) {
        Some("jsonl" | "json" | "ndjson") => Ok(()),
        found => {
            let found = found.map_or("no extension".to_owned(), |e| format!(".{e}"));
            let reason = format!("expected a .jsonl or .json file, found {found}; convert it to JSON lines first");
            Err(Error::NoFiles { path: file.to_owned(), reason })
        }
    }
}

/// The JSON files directly in `folder`, sorted by name; none if there is no such folder.
fn json_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if path.is_file() && readable_kind(&path).is_ok() && !NOT_DATA.contains(&stem) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn names_split(file: &Path, split: &str) -> bool {
    let stem = file.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
    stem.strip_prefix(split).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '_', '.']))
}

/// The rows of several files, streamed: memory is one row, whatever the files' size.
pub struct Rows<'a> {
    files: &'a [PathBuf],
    next_file: usize,
    current: Option<Splitter>,
    bytes_before: u64,
}

impl<'a> Rows<'a> {
    /// Starts at the first row of the first file.
    pub fn open(files: &'a [PathBuf]) -> Self {
        Rows { files, next_file: 0, current: None, bytes_before: 0 }
    }

    /// Bytes read so far, over all files.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_before + self.current.as_ref().map_or(0, |s| s.offset)
    }

    /// The next row, or `None` after the last.
    ///
    /// # Errors
    /// `Io` when a file cannot be read, `Row` when an array is not closed or holds something between its rows.
    pub fn next_row(&mut self) -> Result<Option<RawRow>> {
        loop {
            if self.current.is_none() {
                let Some(path) = self.files.get(self.next_file) else { return Ok(None) };
                self.current = Some(Splitter::open(path, self.next_file as u32)?);
                self.next_file += 1;
            }
            let splitter = self.current.as_mut().expect("just opened");
            if let Some(row) = splitter.next_row()? {
                return Ok(Some(row));
            }
            self.bytes_before += splitter.offset;
            self.current = None;
        }
    }
}

/// Cuts one file into rows: the lines of a JSONL, or the elements of a JSON array.
struct Splitter {
    path: PathBuf,
    file: u32,
    reader: BufReader<File>,
    array: bool,
    offset: u64,
    line: u64,
    column: u64,
}

impl Splitter {
    fn open(path: &Path, file: u32) -> Result<Self> {
        let reader = File::open(path).map_err(|source| Error::Io { path: path.to_owned(), source })?;
        let reader = BufReader::with_capacity(1 << 20, reader);
        let mut s = Splitter { path: path.to_owned(), file, reader, array: false, offset: 0, line: 1, column: 1 };
        if s.fill()?.starts_with(b"\xef\xbb\xbf") {
            s.reader.consume(3);
            s.offset += 3;
        }
        if s.peek_token()? == Some(b'[') {
            s.bump()?;
            s.array = true;
        }
        Ok(s)
    }

    fn next_row(&mut self) -> Result<Option<RawRow>> {
        if self.array { self.next_element() } else { self.next_line() }
    }

    fn next_line(&mut self) -> Result<Option<RawRow>> {
        loop {
            let (line, column, mut text) = (self.line, self.column, Vec::new());
            let io = |source| Error::Io { path: self.path.clone(), source };
            let n = self.reader.read_until(b'\n', &mut text).map_err(io)?;
            if n == 0 {
                return Ok(None);
            }
            self.offset += n as u64;
            self.line += 1;
            self.column = 1;
            while text.last().is_some_and(u8::is_ascii_whitespace) {
                text.pop();
            }
            if !text.is_empty() {
                return Ok(Some(RawRow { file: self.file, line, column, text }));
            }
        }
    }

    /// The next element of the array, up to the `,` or `]` that ends it.
    fn next_element(&mut self) -> Result<Option<RawRow>> {
        match self.peek_token()? {
            None => return Err(self.malformed("the array is not closed; expected `]`, found the end of the file")),
            Some(b']') => {
                self.bump()?;
                return match self.peek_token()? {
                    None => Ok(None),
                    Some(_) => Err(self.malformed("expected nothing after the array's `]`")),
                };
            }
            Some(_) => {}
        }
        let (line, column) = (self.line, self.column);
        let (mut text, mut depth, mut in_string, mut escaped) = (Vec::new(), 0_usize, false, false);
        loop {
            let Some(c) = self.peek()? else {
                return Err(Error::Row {
                    place: Place { file: self.path.clone(), line, column },
                    field: String::new(),
                    reason: "the row that starts here is not closed before the end of the file".into(),
                });
            };
            match c {
                _ if in_string => {
                    in_string = escaped || c != b'"';
                    escaped = !escaped && c == b'\\';
                }
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b',' | b']' if depth == 0 => break,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            text.push(c);
            self.bump()?;
        }
        if self.peek()? == Some(b',') {
            self.bump()?;
        }
        while text.last().is_some_and(u8::is_ascii_whitespace) {
            text.pop();
        }
        Ok(Some(RawRow { file: self.file, line, column, text }))
    }

    fn malformed(&self, reason: &str) -> Error {
        let place = Place { file: self.path.clone(), line: self.line, column: self.column };
        Error::Row { place, field: String::new(), reason: reason.into() }
    }

    fn fill(&mut self) -> Result<&[u8]> {
        self.reader.fill_buf().map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.fill()?.first().copied())
    }

    /// The next byte that is not white space, which stays unread.
    fn peek_token(&mut self) -> Result<Option<u8>> {
        while let Some(c) = self.peek()? {
            if !c.is_ascii_whitespace() {
                return Ok(Some(c));
            }
            self.bump()?;
        }
        Ok(None)
    }

    /// Steps over one byte. Continuation bytes of UTF-8 are no columns of their own.
    fn bump(&mut self) -> Result<()> {
        let Some(c) = self.peek()? else { return Ok(()) };
        self.reader.consume(1);
        self.offset += 1;
        match c {
            b'\n' => (self.line, self.column) = (self.line + 1, 1),
            0x80..=0xbf => {}
            _ => self.column += 1,
        }
        Ok(())
    }
}
