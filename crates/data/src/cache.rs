//! Tokenised data on disk, found by everything that made them: a change that matters is another name, so nothing is ever stale.
//!
//! An entry is a folder named by its key: `tokens.bin` (32-bit ids), `spans.bin`, `rows.bin` and `about.json` with the report and a
//! hash of each file. It is built under another name and renamed when it is whole; runs share it and none changes it. A build that
//! was stopped or killed is gone on with.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mapped::Map;
use serde::{Deserialize, Serialize};

use crate::dataset::{Builder, Dataset, ROW_BYTES, Report, Standpoint, Tokens};
use crate::error::{Error, Result};
use crate::tokenise::{Options, run};
use crate::tokenizer::Tokenizer;
use crate::tools::Progress;

/// The code that rows go through: where it changes, tokens may.
const CODE: [&str; 21] = [
    include_str!("cache.rs"),
    include_str!("dataset.rs"),
    include_str!("encode.rs"),
    include_str!("format/alpaca.rs"),
    include_str!("format/answers.rs"),
    include_str!("format/mapping.rs"),
    include_str!("format/messages.rs"),
    include_str!("format/mod.rs"),
    include_str!("format/numina.rs"),
    include_str!("format/pair.rs"),
    include_str!("format/prompt_completion.rs"),
    include_str!("format/shape.rs"),
    include_str!("format/text.rs"),
    include_str!("read.rs"),
    include_str!("template/json.rs"),
    include_str!("template/mod.rs"),
    include_str!("template/rewrite.rs"),
    include_str!("tokenise.rs"),
    include_str!("tokenizer.rs"),
    include_str!("words.rs"),
    // The versions of the tokenizer, the template engine and the readers.
    include_str!("../../../Cargo.lock"),
];

const FILES: [&str; 3] = ["tokens.bin", "spans.bin", "rows.bin"];

/// Where a data set came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// It was in the cache.
    Found(PathBuf),
    /// It was tokenised and put there.
    Built(PathBuf),
}

#[derive(Serialize, Deserialize)]
struct About {
    report: Report,
    hashes: Vec<String>,
}

/// The key of `files` under these settings: a hash of their bytes, the tokenizer with its template (a fingerprint), the options and the code.
///
/// # Errors
/// `Io` when a file cannot be read.
pub fn key(files: &[PathBuf], tokenizer: &str, options: &Options) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut add = |bytes: &[u8]| _ = hasher.update(&(bytes.len() as u64).to_le_bytes()).update(bytes);
    CODE.iter().for_each(|source| add(source.as_bytes()));
    add(tokenizer.as_bytes());
    // Every option, by name and value; mappings are of files, whose names do not matter.
    let plain = Options { mappings: Default::default(), ..options.clone() };
    add(format!("{plain:?}").as_bytes());
    for file in files {
        add(format!("{:?}", options.mappings.get(file)).as_bytes());
        // A CSV file is told by its name.
        let name = file.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        add(name.trim_end_matches(".gz").trim_end_matches(".zst").rsplit('.').next().unwrap_or_default().as_bytes());
        add(hash_file(file)?.as_bytes());
    }
    Ok(hasher.finalize().to_hex().to_string())
}

fn hash_file(file: &Path) -> Result<blake3::Hash> {
    let io = |source| Error::Io { path: file.to_owned(), source };
    let mut hasher = blake3::Hasher::new();
    let mut reader = File::open(file).map_err(io)?;
    let mut buffer = vec![0; 1 << 20];
    loop {
        match reader.read(&mut buffer).map_err(io)? {
            0 => return Ok(hasher.finalize()),
            n => _ = hasher.update(&buffer[..n]),
        }
    }
}

/// [`load`](crate::load) through the cache in `folder`, which is made when it is missing.
///
/// The tokenizer is known by its `fingerprint` and asked for only when there is something to tokenise, which takes constant memory:
/// what a chunk of rows becomes goes to disk at once. A damaged entry is built again.
///
/// # Errors
/// As [`load`](crate::load), what `tokenizer` gives, and `Write` when the disk refuses the entry.
pub fn load_cached<'t, E: From<Error>>(
    files: &[PathBuf],
    fingerprint: &str,
    tokenizer: impl FnOnce() -> std::result::Result<&'t Tokenizer, E>,
    options: &Options,
    folder: &Path,
    progress: Progress<'_>,
) -> std::result::Result<(Dataset, Origin), E> {
    let key = key(files, fingerprint, options)?;
    let entry = folder.join(&key[..32]);
    if let Some(data) = read(&entry, files, options) {
        return Ok((data, Origin::Found(entry)));
    }
    let part = folder.join(format!(".{}", &key[..32]));
    // Whoever comes second waits, and finds what the first has built; who comes after a stop goes on with what is there.
    let _turn = lock(&folder.join(format!(".{}.lock", &key[..32])))?;
    if let Some(data) = read(&entry, files, options) {
        return Ok((data, Origin::Found(entry)));
    }
    let built = build(&part, files, tokenizer()?, options, progress);
    if !matches!(built, Ok(()) | Err(Error::Stopped { kept: true })) {
        // Nothing to do about a temporary folder that cannot be removed.
        let _ = std::fs::remove_dir_all(&part);
    }
    built?;
    // Whatever stands there could not be read.
    let _ = std::fs::remove_dir_all(&entry);
    let _ = std::fs::remove_file(part.join(STANDING));
    std::fs::rename(&part, &entry).map_err(|source| Error::Write { path: entry.clone(), source })?;
    match read(&entry, files, options) {
        Some(data) => Ok((data, Origin::Built(entry))),
        None => {
            let source = std::io::Error::other("what was written cannot be read again");
            Err(Error::Write { path: entry, source }.into())
        }
    }
}

/// Waits until no other process holds `path`; it is held until the file is dropped.
fn lock(path: &Path) -> Result<File> {
    let io = |source| Error::Write { path: path.to_owned(), source };
    std::fs::create_dir_all(path.parent().unwrap_or(Path::new(""))).map_err(io)?;
    let file = File::options().create(true).truncate(false).write(true).open(path).map_err(io)?;
    match file.lock() {
        // A file system without locks: two runs may build the same, and the second finds its folder gone.
        Err(e) if e.kind() == std::io::ErrorKind::Unsupported => Ok(file),
        other => other.map(|()| file).map_err(io),
    }
}

/// How far an entry is, in its folder while it is built.
const STANDING: &str = "standing.json";
/// Time between two notes of how far it is.
const EVERY: Duration = Duration::from_secs(1);

/// How far an entry is: what comes after is cut off when the work goes on.
#[derive(Clone, Default, Serialize, Deserialize)]
struct Standing {
    progress: Standpoint,
    /// Bytes of each section and their hash.
    sections: Vec<(u64, String)>,
}

impl Standing {
    fn write(&self, part: &Path) -> Result<()> {
        let (path, new) = (part.join(STANDING), part.join("standing.new"));
        let text = serde_json::to_vec(self).expect("plain data serialises");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|source| Error::Write { path, source })
    }

    /// What is there to go on from, with the sections open at their ends.
    fn read(part: &Path) -> Option<(Standpoint, Vec<Section>)> {
        let standing: Standing = serde_json::from_slice(&std::fs::read(part.join(STANDING)).ok()?).ok()?;
        if standing.sections.len() != FILES.len() {
            return None;
        }
        let sections = FILES
            .iter()
            .zip(&standing.sections)
            .map(|(name, (bytes, hash))| Section::reopen(part.join(name), *bytes, hash));
        Some((standing.progress, sections.collect::<Option<Vec<_>>>()?))
    }
}

/// One file that grows, and the hash of what it holds.
struct Section {
    path: PathBuf,
    out: BufWriter<File>,
    hasher: blake3::Hasher,
}

impl Section {
    fn create(path: PathBuf) -> Result<Self> {
        let file = File::create(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(Section { path, out: BufWriter::with_capacity(1 << 20, file), hasher: blake3::Hasher::new() })
    }

    /// A section that is there up to `bytes`, if these have the `hash`.
    fn reopen(path: PathBuf, bytes: u64, hash: &str) -> Option<Self> {
        let mut file = File::options().read(true).write(true).open(&path).ok()?;
        let mut hasher = blake3::Hasher::new();
        let read = hasher.update_reader((&mut file).take(bytes)).ok()?.count();
        if read != bytes || hasher.finalize().to_hex().as_str() != hash {
            return None;
        }
        file.set_len(bytes).ok()?;
        Some(Section { path, out: BufWriter::with_capacity(1 << 20, file), hasher })
    }

    /// Bytes that are in the file, and their hash.
    fn standing(&mut self) -> Result<(u64, String)> {
        self.out.flush().map_err(|source| Error::Write { path: self.path.clone(), source })?;
        Ok((self.hasher.count(), self.hasher.finalize().to_hex().to_string()))
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes).map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    fn finish(self) -> Result<String> {
        let io = |source| Error::Write { path: self.path.clone(), source };
        let file = self.out.into_inner().map_err(|e| io(e.into_error()))?;
        file.sync_all().map_err(io)?;
        Ok(self.hasher.finalize().to_hex().to_string())
    }
}

/// Builds an entry, from where an earlier process left it.
fn build(
    part: &Path,
    files: &[PathBuf],
    tokenizer: &Tokenizer,
    options: &Options,
    progress: Progress<'_>,
) -> Result<()> {
    std::fs::create_dir_all(part).map_err(|source| Error::Write { path: part.to_owned(), source })?;
    let (from, mut sections) = match Standing::read(part) {
        Some(found) => found,
        None => {
            let new = FILES.iter().map(|name| Section::create(part.join(name)));
            (Standpoint::default(), new.collect::<Result<Vec<_>>>()?)
        }
    };
    let (mut now, mut said) = (from.clone(), Instant::now());
    let note = |now: &Standpoint, sections: &mut [Section]| {
        let sections = sections.iter_mut().map(Section::standing).collect::<Result<Vec<_>>>()?;
        Standing { progress: now.clone(), sections }.write(part)
    };
    let mut drain = |builder: &mut Builder| {
        let written = builder.drain();
        sections.iter_mut().zip(&written).try_for_each(|(section, bytes)| section.write(bytes))?;
        now = builder.standpoint();
        if said.elapsed() >= EVERY {
            note(&now, &mut sections)?;
            said = Instant::now();
        }
        Ok(())
    };
    let report = match run(files, tokenizer, options, Builder::at(from), progress, &mut drain) {
        Err(Error::Stopped { .. }) => {
            note(&now, &mut sections)?;
            return Err(Error::Stopped { kept: true });
        }
        other => other?.report,
    };
    let hashes = sections.into_iter().map(Section::finish).collect::<Result<Vec<_>>>()?;
    let about = serde_json::to_vec_pretty(&About { report, hashes }).expect("a report serialises");
    let mut section = Section::create(part.join("about.json"))?;
    section.write(&about)?;
    section.finish().map(|_| ())
}

/// The entry, if it is there and whole.
fn read(entry: &Path, files: &[PathBuf], options: &Options) -> Option<Dataset> {
    let about: About = serde_json::from_slice(&std::fs::read(entry.join("about.json")).ok()?).ok()?;
    let [tokens, spans, rows] = about.hashes.as_slice() else { return None };
    let section = |n: usize, hash: &str, unit: usize, each: &mut dyn FnMut(&[u8])| {
        read_section(&entry.join(FILES[n]), hash, unit, each)
    };
    let mut builder = Builder::new();
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes[..4].try_into().expect("four bytes"));
    let tokens = match mapped_tokens(&entry.join(FILES[0])) {
        Some(mapped) => {
            section(0, tokens, 4, &mut |_| {})?;
            mapped
        }
        None => {
            let mut held = Vec::new();
            section(0, tokens, 4, &mut |bytes| held.push(word(bytes)))?;
            Tokens::Held(held)
        }
    };
    section(1, spans, 8, &mut |bytes| builder.spans.push(word(bytes)..word(&bytes[4..])))?;
    section(2, rows, ROW_BYTES, &mut |bytes| builder.rows.push(crate::dataset::Row::decode(bytes)))?;
    builder.report = about.report;
    Some(builder.finish_with(tokens, files.to_vec(), options.max_length))
}

/// The tokens of an entry where they lie; `None` where there are none, or this machine has no such maps.
fn mapped_tokens(path: &Path) -> Option<Tokens> {
    let file = File::open(path).ok()?;
    let map = Map::new(path, &file, file.metadata().ok()?.len() as usize).ok()?;
    map.little_endian_words().is_some().then_some(Tokens::InFile(map))
}

/// Hands out the units of a file whose hash must be `hash`.
fn read_section(path: &Path, hash: &str, unit: usize, each: &mut dyn FnMut(&[u8])) -> Option<()> {
    let file = File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    if length % unit as u64 != 0 {
        return None;
    }
    let mut reader = BufReader::new(file);
    let (mut hasher, mut buffer) = (blake3::Hasher::new(), vec![0; unit << 14]);
    let mut left = length;
    while left > 0 {
        let part = &mut buffer[..left.min((unit << 14) as u64) as usize];
        reader.read_exact(part).ok()?;
        hasher.update(part);
        part.chunks_exact(unit).for_each(&mut *each);
        left -= part.len() as u64;
    }
    (hasher.finalize().to_hex().as_str() == hash).then_some(())
}
