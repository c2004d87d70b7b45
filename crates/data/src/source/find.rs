//! The data files that a name stands for: a file, a pattern, a folder of files by split, or a `save_to_disk` folder.

use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use crate::error::{Error, Result};

/// Splits of a data set that a file name can announce.
const OTHER_SPLITS: [&str; 6] = ["test", "validation", "valid", "val", "eval", "dev"];
/// JSON files that stand beside data sets and are none.
const NOT_DATA: [&str; 4] = ["dataset_info", "dataset_infos", "dataset_dict", "state"];
/// What is read, in the words of an error message.
const READ: &str = ".jsonl, .json, .csv, .tsv, .parquet or .arrow (the texts also as .gz or .zst)";

/// The data files that `name` stands for, in a fixed order.
///
/// A file stands for itself, a pattern (`data/part-*.jsonl`) for the files that fit, sorted. A folder written by `save_to_disk`
/// stands for the shards of `split`. Any other folder (or its `data/`) stands for the files of `split`: `train.jsonl`,
/// `train-00000-of-00002.parquet`, everything in `train/`; a folder in which no file names a split is all `train`.
///
/// # Errors
/// `NoFiles` when nothing fits or the kind of file is not read; `Io` when the folder cannot be listed.
pub fn resolve(name: &Path, split: &str) -> Result<Vec<PathBuf>> {
    if name.is_file() {
        if !is_readable(name) && !looks_readable(name)? {
            let found = name.extension().map_or("no extension".into(), |e| format!(".{}", e.display()));
            let reason = format!("expected {READ}, found {found}; convert it to JSON lines first");
            return Err(no_files(name, reason));
        }
        return Ok(vec![name.to_owned()]);
    }
    if !name.is_dir() {
        return matching(name);
    }
    if let Some(shards) = saved_to_disk(name, split)? {
        return Ok(shards);
    }
    let mut files = data_files(name)?;
    files.extend(data_files(&name.join("data"))?);
    let named: Vec<PathBuf> = files.iter().filter(|f| names_split(f, split)).cloned().collect();
    let whole_folder = data_files(&name.join(split))?;
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
            "no data file for the split `{split}`; expected {split}.jsonl, {split}-*.parquet or {split}/ in it ({READ})"
        );
        return Err(no_files(name, reason));
    }
    Ok(chosen)
}

fn no_files(path: &Path, reason: impl Into<String>) -> Error {
    Error::NoFiles { path: path.to_owned(), reason: reason.into() }
}

/// How a text file is cut into rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TextKind {
    /// JSON lines or an array.
    Json,
    /// Comma-separated values, or separated by another character.
    Csv(u8),
}

/// The kind of a text file by its name.
pub(super) fn text_kind(file: &Path) -> Option<TextKind> {
    let name = file.file_name()?.to_str()?.to_ascii_lowercase();
    let name = name.strip_suffix(".gz").or_else(|| name.strip_suffix(".zst")).unwrap_or(&name);
    match name.rsplit_once('.')?.1 {
        "jsonl" | "json" | "ndjson" => Some(TextKind::Json),
        "csv" => Some(TextKind::Csv(b',')),
        "tsv" => Some(TextKind::Csv(b'\t')),
        _ => None,
    }
}

/// Whether a file is data by its name.
fn is_readable(file: &Path) -> bool {
    let is_table = file.extension().is_some_and(|e| e == "parquet" || e == "arrow" || e == "feather");
    is_table || text_kind(file).is_some()
}

/// Whether a file is data by its first bytes.
fn looks_readable(file: &Path) -> Result<bool> {
    let (head, mut text, _) = super::packed::open(file)?;
    if tables::Format::of(&head).is_some() {
        return Ok(true);
    }
    let text = std::io::BufRead::fill_buf(&mut text).map_err(|source| Error::Io { path: file.to_owned(), source })?;
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    Ok(matches!(text.trim_ascii_start().first(), Some(b'{' | b'[')))
}

/// The files that a pattern fits, sorted.
fn matching(pattern: &Path) -> Result<Vec<PathBuf>> {
    let text = pattern.to_string_lossy();
    if !text.contains(['*', '?', '[']) {
        let reason =
            format!("no such file or folder; `dataset_name` is a data file ({READ}), a pattern, a folder, or a list");
        return Err(no_files(pattern, reason));
    }
    let paths = glob::glob(&text).map_err(|e| no_files(pattern, format!("not a valid pattern: {e}")))?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|e| Error::Io { path: e.path().to_owned(), source: e.into() })?;
        if path.is_file() && is_readable(&path) {
            files.push(path);
        }
    }
    match files.is_empty() {
        true => Err(no_files(pattern, format!("no data file fits the pattern ({READ})"))),
        false => Ok(files),
    }
}

/// The data files directly in `folder`, sorted by name; none if there is no such folder.
fn data_files(folder: &Path) -> Result<Vec<PathBuf>> {
    if !folder.is_dir() {
        return Ok(Vec::new());
    }
    let io = |source| Error::Io { path: folder.to_owned(), source };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let stem = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default();
        if path.is_file() && is_readable(&path) && !NOT_DATA.contains(&stem) {
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

/// The shards of a `save_to_disk` folder, in the order that its `state.json` states; `None` for any other folder.
fn saved_to_disk(folder: &Path, split: &str) -> Result<Option<Vec<PathBuf>>> {
    let mut folder = folder.to_owned();
    if let Some(dict) = read_json(&folder.join("dataset_dict.json"))? {
        let splits: Vec<&str> = dict["splits"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        if !splits.contains(&split) {
            return Err(no_files(&folder, format!("no split `{split}`; it has {}", splits.join(", "))));
        }
        folder.push(split);
    }
    let path = folder.join("state.json");
    let Some(state) = read_json(&path)? else { return Ok(None) };
    let Some(listed) = state.get("_data_files").and_then(Json::as_array) else { return Ok(None) };
    let mut shards = Vec::new();
    for entry in listed {
        let name = entry["filename"].as_str().unwrap_or_default();
        // The name comes from outside: it must be a name and no path.
        if Path::new(name).file_name().is_none_or(|file| file != name) {
            return Err(no_files(&path, format!("expected names of files beside it in `_data_files`, found {name:?}")));
        }
        shards.push(folder.join(name));
    }
    match shards.is_empty() {
        true => Err(no_files(&path, "it lists no data file")),
        false => Ok(Some(shards)),
    }
}

fn read_json(path: &Path) -> Result<Option<Json>> {
    match std::fs::read(path) {
        Ok(bytes) => match serde_json::from_slice(&bytes) {
            Ok(json) => Ok(Some(json)),
            Err(e) => Err(no_files(path, format!("not valid JSON: {e}"))),
        },
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { path: path.to_owned(), source }),
    }
}
