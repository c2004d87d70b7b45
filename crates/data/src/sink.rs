//! Rows out: JSON lines, a JSON array, Parquet or a `save_to_disk` folder, by the name; whole or not at all.

use std::fs::{File, TryLockError};
use std::io::{BufRead, BufReader, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value as Json};
use tables::Kind;

use crate::error::{Error, Result};
use crate::frames::Frames;
use crate::journal::Position;

/// A row to write.
pub type JsonRow = Map<String, Json>;

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// One object per line (`.jsonl`).
    Lines,
    /// The same, packed by gzip (`.jsonl.gz`).
    GzipLines,
    /// The same, packed by zstd (`.jsonl.zst`).
    ZstdLines,
    /// One array of objects (`.json`).
    Array,
    /// Parquet (`.parquet`).
    Parquet,
    /// A folder as `save_to_disk` writes it (a name without an ending).
    Folder,
}

impl Target {
    /// What a file name asks for.
    ///
    /// # Errors
    /// `Setting` for an ending that is not written.
    pub fn of(path: &Path) -> Result<Target> {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let endings = [
            (".jsonl.gz", Target::GzipLines),
            (".jsonl.zst", Target::ZstdLines),
            (".jsonl", Target::Lines),
            (".ndjson", Target::Lines),
            (".json", Target::Array),
            (".parquet", Target::Parquet),
        ];
        match endings.iter().find(|(ending, _)| name.ends_with(ending)) {
            Some((_, target)) => Ok(*target),
            None if !name.contains('.') && !name.is_empty() => Ok(Target::Folder),
            None => {
                let expected = "expected a name ending in .jsonl, .jsonl.gz, .jsonl.zst, .json or .parquet, or the name of a folder";
                Err(Error::Setting { key: "output", reason: format!("{expected}; found {name:?}") })
            }
        }
    }

    fn is_table(self) -> bool {
        matches!(self, Target::Parquet | Target::Folder)
    }
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The file or folder.
    pub path: PathBuf,
    /// Its rows.
    pub rows: u64,
}

enum Out {
    Plain(BufWriter<File>),
    Gzip(GzEncoder<BufWriter<File>>),
    Zstd(Frames<BufWriter<File>>),
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Out::Plain(out) => out.write(bytes),
            Out::Gzip(out) => out.write(bytes),
            Out::Zstd(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Out::Plain(out) => out.flush(),
            Out::Gzip(out) => out.flush(),
            Out::Zstd(out) => out.flush(),
        }
    }
}

impl Out {
    fn new(target: Target, file: File) -> Out {
        let file = BufWriter::with_capacity(1 << 20, file);
        match target {
            Target::GzipLines => Out::Gzip(GzEncoder::new(file, Compression::default())),
            Target::ZstdLines => Out::Zstd(Frames::new(file)),
            _ => Out::Plain(file),
        }
    }

    /// Brings everything to the disk; a packed file gets a new member or frame. Returns the bytes so far and the way on.
    fn settle(self) -> std::io::Result<(u64, Out)> {
        let target = match &self {
            Out::Plain(_) => Target::Lines,
            Out::Gzip(_) => Target::GzipLines,
            Out::Zstd(_) => Target::ZstdLines,
        };
        let mut file = self.into_file()?;
        file.sync_data()?;
        let bytes = file.stream_position()?;
        Ok((bytes, Out::new(target, file)))
    }

    fn finish(self) -> std::io::Result<()> {
        self.into_file()?.sync_all()
    }

    fn into_file(self) -> std::io::Result<File> {
        let out = match self {
            Out::Plain(out) => out,
            Out::Gzip(out) => out.finish()?,
            Out::Zstd(out) => out.finish()?,
        };
        out.into_inner().map_err(|e| e.into_error())
    }
}

/// Rows of a shard of a folder take about this many bytes as JSON (`datasets` cuts at 500 MB).
const SHARD_BYTES: u64 = 500_000_000;

/// Is told how much of how much is done; an error stops the work.
type GoOn<'a> = &'a mut dyn FnMut(u64, u64) -> Result<()>;

/// Rows of a table between two words of how far it is.
const TELLING_ROWS: u64 = 64;

/// A file or folder that is being written. Until [`finish`](Sink::finish) nothing stands under its name; a sink that is
/// dropped leaves nothing behind.
///
/// The columns of a table are known only when the last row is: such rows wait in a temporary file of JSON lines beside the output.
pub struct Sink {
    path: PathBuf,
    target: Target,
    /// The temporary file or folder that becomes the output.
    part: PathBuf,
    /// The file that rows go to.
    spool: PathBuf,
    out: Option<Out>,
    kind: Kind,
    rows: u64,
    bytes: u64,
    line: Vec<u8>,
    /// Whether someone knows where [`Sink::settle`] left it.
    settled: bool,
    /// Whether the rows stay when the sink is dropped before its end.
    kept: bool,
}

impl Sink {
    /// Starts `path`, whose ending says how rows are written. Missing folders above it are made.
    ///
    /// # Errors
    /// `Setting` for an ending that is not written; `Io` when something stands there already or cannot be made.
    pub fn create(path: &Path) -> Result<Sink> {
        let target = Target::of(path)?;
        let (part, spool) = temporaries(path, target, &std::process::id().to_string())?;
        let file = File::options().write(true).create_new(true).open(&spool);
        let file = file.map_err(|source| Error::Write { path: path.to_owned(), source })?;
        Ok(Sink::over(path, target, part, spool, file))
    }

    /// Starts `path`, or goes on at `from` in what an unfinished sink of the same `key` left behind. Says whether it goes on.
    ///
    /// # Errors
    /// As [`Sink::create`]; `Write` when another process is writing it.
    pub(crate) fn going_on(path: &Path, key: &str, from: Option<Position>) -> Result<(Sink, bool)> {
        let io = |source| Error::Write { path: path.to_owned(), source };
        let target = Target::of(path)?;
        let (part, spool) = temporaries(path, target, key)?;
        let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&spool).map_err(io)?;
        if matches!(file.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(io(std::io::Error::other("another process is writing it; wait for it or stop it")));
        }
        let length = file.metadata().map_err(io)?.len();
        let from = from.filter(|from| from.bytes <= length);
        let Position { rows, bytes } = from.unwrap_or_default();
        file.set_len(bytes).and_then(|()| file.seek(SeekFrom::Start(bytes))).map_err(io)?;
        let mut sink = Sink::over(path, target, part, spool, file);
        (sink.rows, sink.settled) = (rows, from.is_some());
        if target.is_table() && rows > 0 {
            let mut kind = Kind::Null;
            sink.replay(&mut |row, _| {
                kind.widen(Kind::of(&Json::Object(row)));
                Ok(())
            })?;
            (sink.kind, sink.bytes) = (kind, bytes);
        }
        Ok((sink, from.is_some()))
    }

    /// Brings the rows so far to the disk, to stay there if the sink is dropped.
    ///
    /// # Errors
    /// `Write`.
    pub(crate) fn settle(&mut self) -> Result<Position> {
        let out = self.out.take().expect("rows are settled before the end");
        let (bytes, out) = out.settle().map_err(|source| Error::Write { path: self.path.clone(), source })?;
        self.out = Some(out);
        self.settled = true;
        Ok(Position { rows: self.rows, bytes })
    }

    /// What was settled stays when the sink is dropped, for [`Sink::going_on`]. Says whether anything was.
    pub(crate) fn keep(&mut self) -> bool {
        self.kept = self.settled;
        self.kept
    }

    fn over(path: &Path, target: Target, part: PathBuf, spool: PathBuf, file: File) -> Sink {
        let out = Some(Out::new(target, file));
        let (path, kind, line) = (path.to_owned(), Kind::Null, Vec::new());
        Sink { path, target, part, spool, out, kind, rows: 0, bytes: 0, line, settled: false, kept: false }
    }

    /// Adds a row.
    ///
    /// # Errors
    /// `Write` when the disk refuses it.
    pub fn write(&mut self, row: &JsonRow) -> Result<()> {
        self.line.clear();
        if self.target == Target::Array {
            self.line.extend_from_slice(if self.rows == 0 { b"[\n" } else { b",\n" });
        }
        serde_json::to_writer(&mut self.line, row).expect("JSON values serialise");
        if self.target != Target::Array {
            self.line.push(b'\n');
        }
        if self.target.is_table() {
            self.kind.widen(Kind::Struct(row.iter().map(|(name, value)| (name.clone(), Kind::of(value))).collect()));
        }
        self.rows += 1;
        self.bytes += self.line.len() as u64;
        let out = self.out.as_mut().expect("rows are written before the end");
        out.write_all(&self.line).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Whether the rows wait beside the output until the last is known.
    pub(crate) fn waits(&self) -> bool {
        self.target.is_table()
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Puts the output in its place.
    ///
    /// # Errors
    /// `Write` when the disk refuses it, `Table` when rows make no table.
    pub fn finish(self) -> Result<Written> {
        self.finish_telling(&mut |_, _| Ok(()))
    }

    /// As [`Sink::finish`]; of a table, `go_on` is told how many of the waiting bytes are written. Where it says `Stopped`, and where the
    /// disk refuses the table, the rows stay for [`Sink::going_on`].
    pub(crate) fn finish_telling(mut self, go_on: GoOn<'_>) -> Result<Written> {
        let mut rows = 0_u64;
        let mut now_and_then = |done, total| {
            rows += 1;
            if rows.is_multiple_of(TELLING_ROWS) { go_on(done, total) } else { Ok(()) }
        };
        let written = self.put_in_place(&mut now_and_then);
        self.kept = self.settled && written.as_ref().is_err_and(Error::may_go_on);
        written
    }

    fn put_in_place(&mut self, go_on: GoOn<'_>) -> Result<Written> {
        let path = self.path.clone();
        let io = |source| Error::Write { path: path.clone(), source };
        let mut out = self.out.take().expect("a sink is finished once");
        if self.target == Target::Array {
            out.write_all(if self.rows == 0 { b"[]\n" } else { b"\n]\n" }).map_err(io)?;
        }
        out.finish().map_err(io)?;
        match self.target {
            Target::Parquet => {
                let mut table = tables::Parquet::create(&self.part, &self.kind)?;
                self.replay(&mut |row, before| {
                    go_on(before, self.bytes)?;
                    Ok(table.write(row)?)
                })?;
                table.finish()?;
            }
            Target::Folder => self.write_folder(go_on)?,
            _ => {}
        }
        std::fs::rename(&self.part, &self.path).map_err(io)?;
        sync_folder(&self.path);
        Ok(Written { path: self.path.clone(), rows: self.rows })
    }

    /// Reads the waiting rows again; `each` is told how many bytes were before the row.
    fn replay(&self, each: &mut dyn FnMut(JsonRow, u64) -> Result<()>) -> Result<()> {
        let io = |source| Error::Io { path: self.spool.clone(), source };
        let mut reader = BufReader::with_capacity(1 << 20, File::open(&self.spool).map_err(io)?);
        let (mut line, mut before) = (Vec::new(), 0);
        while reader.read_until(b'\n', &mut line).map_err(io)? > 0 {
            let row = serde_json::from_slice(&line).map_err(|e| io(std::io::Error::other(e)))?;
            each(row, before)?;
            before += line.len() as u64;
            line.clear();
        }
        Ok(())
    }

    fn write_folder(&self, go_on: GoOn<'_>) -> Result<()> {
        let io = |source| Error::Write { path: self.path.clone(), source };
        // One that was killed while it wrote this may have left a part.
        let _ = std::fs::remove_dir_all(&self.part);
        std::fs::create_dir(&self.part).map_err(io)?;
        let count = self.bytes.div_ceil(SHARD_BYTES).max(1);
        let names: Vec<String> = (0..count).map(|n| format!("data-{n:05}-of-{count:05}.arrow")).collect();
        let open = |n: u64| tables::ArrowStream::create(&self.part.join(&names[n as usize]), &self.kind);
        let (mut shard, mut stream, mut hash) = (0, open(0)?, blake3::Hasher::new());
        self.replay(&mut |row, before| {
            go_on(before, self.bytes)?;
            // A row may be longer than a shard: some shards are then empty, and still there.
            while shard < before / SHARD_BYTES {
                shard += 1;
                std::mem::replace(&mut stream, open(shard)?).finish()?;
            }
            hash.update(&serde_json::to_vec(&row).expect("JSON values serialise"));
            Ok(stream.write(row)?)
        })?;
        stream.finish()?;
        while shard + 1 < count {
            shard += 1;
            open(shard)?.finish()?;
        }
        let fingerprint = &hash.finalize().to_hex()[..16];
        let info = tables::dataset_info(&self.path, &self.kind)?;
        let state = tables::dataset_state(&names, fingerprint, None);
        for (name, json) in [("dataset_info.json", info), ("state.json", state)] {
            std::fs::write(self.part.join(name), format!("{json:#}\n")).map_err(io)?;
        }
        Ok(())
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.out = None;
        // Nothing to do about temporary files that cannot be removed.
        if !self.kept {
            let _ = std::fs::remove_file(&self.spool);
        }
        if self.kept && self.part == self.spool {
            return;
        }
        let _ = std::fs::remove_file(&self.part);
        let _ = std::fs::remove_dir_all(&self.part);
    }
}

/// The file or folder that becomes `path`, and the file that rows go to, both named by `tag`. Missing folders above are made.
fn temporaries(path: &Path, target: Target, tag: &str) -> Result<(PathBuf, PathBuf)> {
    let io = |source| Error::Write { path: path.to_owned(), source };
    if path.symlink_metadata().is_ok() {
        let reason = "it exists already; remove it or give another name";
        return Err(io(std::io::Error::new(std::io::ErrorKind::AlreadyExists, reason)));
    }
    let folder = path.parent().unwrap_or(Path::new(""));
    if folder != Path::new("") {
        std::fs::create_dir_all(folder).map_err(io)?;
    }
    let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    let temporary = |what: &str| folder.join(format!(".{name}.{tag}.{what}"));
    let part = temporary("part");
    Ok(if target.is_table() { (part, temporary("rows")) } else { (part.clone(), part) })
}

/// Makes a rename in the folder of `path` last; where folders cannot be opened, the system does so in its own time.
fn sync_folder(path: &Path) {
    let folder = path.parent().filter(|p| *p != Path::new("")).unwrap_or(Path::new("."));
    let _ = File::open(folder).and_then(|folder| folder.sync_all());
}

/// Two outputs that rows are divided between, under names that tell them apart.
pub struct SplitSink {
    /// Rows to train on.
    pub train: Sink,
    /// Rows set aside.
    pub test: Sink,
    dict: Option<PathBuf>,
}

impl SplitSink {
    /// Starts `NAME-train.ENDING` and `NAME-test.ENDING`, or the two splits of a folder.
    ///
    /// # Errors
    /// As [`Sink::create`].
    pub fn create(path: &Path) -> Result<SplitSink> {
        let ([train, test], dict) = SplitSink::paths(path)?;
        Ok(SplitSink { train: Sink::create(&train)?, test: Sink::create(&test)?, dict })
    }

    /// The two outputs, and what joins them if they are a folder.
    ///
    /// # Errors
    /// `Setting` for an ending that is not written; `Write` when a finished output stands there already.
    pub(crate) fn paths(path: &Path) -> Result<([PathBuf; 2], Option<PathBuf>)> {
        if Target::of(path)? == Target::Folder {
            let splits = ["train", "test"].map(|split| path.join(split));
            let dict = path.join("dataset_dict.json");
            // A folder of ours that is not finished is gone on with.
            let finished = path.is_file() || dict.exists() || splits.iter().any(|split| split.exists());
            let foreign = std::fs::read_dir(path).into_iter().flatten().flatten();
            if finished || foreign.into_iter().any(|entry| !entry.file_name().as_encoded_bytes().starts_with(b".")) {
                temporaries(path, Target::Folder, "")?;
            }
            return Ok((splits, Some(dict)));
        }
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let (stem, ending) = name.split_once('.').unwrap_or((name, "jsonl"));
        Ok((["train", "test"].map(|split| path.with_file_name(format!("{stem}-{split}.{ending}"))), None))
    }

    /// As [`Sink::going_on`], for both.
    ///
    /// # Errors
    /// As [`SplitSink::create`].
    pub(crate) fn going_on(path: &Path, key: &str, from: [Option<Position>; 2]) -> Result<(SplitSink, bool)> {
        let ([train, test], dict) = SplitSink::paths(path)?;
        let (train, first) = Sink::going_on(&train, key, from[0])?;
        let (test, second) = Sink::going_on(&test, key, from[1])?;
        Ok((SplitSink { train, test, dict }, first && second))
    }

    /// Puts both in their places.
    ///
    /// # Errors
    /// As [`Sink::finish`].
    pub fn finish(self) -> Result<Vec<Written>> {
        self.finish_telling(&mut |_, _| Ok(()))
    }

    /// As [`SplitSink::finish`], telling how far it is. It cannot be stopped: one of two outputs is none.
    pub(crate) fn finish_telling(self, tell: GoOn<'_>) -> Result<Vec<Written>> {
        let mut tell = |done, total| {
            let _ = tell(done, total);
            Ok(())
        };
        let written = vec![self.train.finish_telling(&mut tell)?, self.test.finish_telling(&mut tell)?];
        if let Some(path) = self.dict {
            std::fs::write(&path, "{\"splits\": [\"train\", \"test\"]}\n")
                .map_err(|source| Error::Write { path: path.clone(), source })?;
        }
        Ok(written)
    }
}
