//! Checkpoints: committed atomically, verified by hash, rotated without ever losing the last good one.
//!
//! A commit writes aside, syncs every file, seals the folder with `MANIFEST.json`, renames it into place and syncs the
//! parent. Killed at any instant, the run folder holds every earlier checkpoint whole, and the new one whole or not at
//! all. Restored by [`newest_verified`], which trusts nothing but lengths and hashes.
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::disk::{self, Disk};
use crate::error::{At, Error};
use crate::folder::{RunFolder, names, set_aside_name};
use crate::hash::{CHUNK, FileHash, hash_content};

/// Name of the file that seals a committed folder.
pub const MANIFEST: &str = "MANIFEST.json";
const FORMAT: u32 = 1;

/// What `MANIFEST.json` says; the file ends with the BLAKE3 of all that stands before it, so that it vouches for itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this layout.
    pub format: u32,
    /// Optimiser steps taken.
    pub step: u64,
    /// Every file of the folder but the manifest, sorted by path.
    pub files: Vec<FileHash>,
    /// Whatever the writer wants to find again: log positions, metrics, counters.
    pub meta: Value,
}

/// A committed folder whose files were hashed when they were written or verified.
#[derive(Debug, Clone, PartialEq)]
pub struct Checkpoint {
    /// The folder.
    pub path: PathBuf,
    /// Its sealed contents.
    pub manifest: Manifest,
}

impl Checkpoint {
    /// Optimiser steps taken.
    pub fn step(&self) -> u64 {
        self.manifest.step
    }

    /// Path of one of its files.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

/// A checkpoint that was not used, and why.
#[derive(Debug)]
pub struct PassedOver {
    /// The checkpoint's folder.
    pub path: PathBuf,
    /// Why it does not verify.
    pub why: Error,
}

/// A folder being written aside; dropped without [`Staging::commit`], it is removed and nothing has happened.
pub struct Staging<'a> {
    folder: &'a RunFolder,
    dir: PathBuf,
    target: String,
    step: u64,
    files: Vec<FileHash>,
}

impl RunFolder {
    /// Begins `checkpoint-<step>`.
    ///
    /// Errors: the folder cannot be written.
    pub fn begin_checkpoint(&self, step: u64) -> Result<Staging<'_>, Error> {
        self.begin(format!("checkpoint-{step}"), step)
    }

    /// Begins `final`, the result of the run after `step` optimiser steps.
    ///
    /// Errors: the folder cannot be written.
    pub fn begin_final(&self, step: u64) -> Result<Staging<'_>, Error> {
        self.begin("final".to_owned(), step)
    }

    fn begin(&self, target: String, step: u64) -> Result<Staging<'_>, Error> {
        assert!(!self.waits(), "{target} of a run that still waits for its folder");
        let dir = disk::fresh(self.path(), &target);
        self.disk.create_dir(&dir).at("create", &dir)?;
        Ok(Staging { folder: self, dir, target, step, files: Vec::new() })
    }

    /// Removes the oldest checkpoints until `keep` are left. `newest`, just committed or verified, and the `pinned`
    /// steps always stay, even where that leaves more than `keep`. Returns the steps removed.
    ///
    /// Errors: a folder cannot be read or removed.
    pub fn rotate(&self, newest: &Checkpoint, keep: usize, pinned: &[u64]) -> Result<Vec<u64>, Error> {
        if self.follows {
            return Ok(Vec::new());
        }
        let steps = steps(self.path())?;
        let mut excess = steps.len().saturating_sub(keep);
        let mut removed = Vec::new();
        for step in steps {
            if excess > 0 && step != newest.step() && !pinned.contains(&step) {
                self.discard(&self.path().join(format!("checkpoint-{step}")))?;
                removed.push(step);
                excess -= 1;
            }
        }
        Ok(removed)
    }

    /// Removes every checkpoint beyond `step`, the newest first: a run resumed from an earlier one has another future,
    /// and a log that is shorter than they remember. Returns the steps removed.
    ///
    /// Errors: a folder cannot be read or removed.
    pub fn discard_after(&self, step: u64) -> Result<Vec<u64>, Error> {
        if self.follows {
            return Ok(Vec::new());
        }
        let later: Vec<u64> = steps(self.path())?.into_iter().rev().filter(|&other| other > step).collect();
        for step in &later {
            self.discard(&self.path().join(format!("checkpoint-{step}")))?;
        }
        Ok(later)
    }
}

impl Staging<'_> {
    /// Where the files lie until the commit, for writers that insist on a path; what they leave here is committed too.
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Streams one file: `write` is given a buffered writer that hashes and counts in chunks of at most 1 MiB; the file
    /// is synced when `write` returns. `name` is relative and may have folders (`adapter/adapter_model.safetensors`).
    ///
    /// Errors: `write` fails, or the disk does; drop the staging then.
    ///
    /// # Panics
    /// If `name` is not a plain relative path.
    pub fn file(&mut self, name: &str, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> Result<(), Error> {
        assert!(is_plain(name) && name != MANIFEST, "not a plain relative path: {name:?}");
        let path = self.dir.join(name);
        let disk = &self.folder.disk;
        if let Some(parent) = path.parent().filter(|parent| *parent != self.dir) {
            disk.create_dir_all(parent).at("create", parent)?;
        }
        let sink = Sink {
            disk,
            path: &path,
            file: disk.create_new(&path).at("create", &path)?,
            hasher: blake3::Hasher::new(),
            bytes: 0,
        };
        let mut out = BufWriter::with_capacity(CHUNK, sink);
        write(&mut out).at("write", &path)?;
        let sink = out.into_inner().map_err(io::IntoInnerError::into_error).at("write", &path)?;
        disk.sync_file(&sink.file, &path).at("write", &path)?;
        let blake3 = sink.hasher.finalize().to_hex().to_string();
        self.files.push(FileHash { path: name.to_owned(), bytes: sink.bytes, blake3 });
        Ok(())
    }

    /// Takes in a file that another rank wrote by path and vouches for: it is durable, and was hashed by [`durable`].
    ///
    /// Errors: it is not there, or has another length.
    pub fn adopt_hashed(&mut self, file: FileHash) -> Result<(), Error> {
        let path = self.dir.join(&file.path);
        let found = fs::metadata(&path).at("read", &path)?.len();
        if found != file.bytes {
            return Err(Error::damaged(&path, format!("its rank wrote {} bytes, found {found}", file.bytes)));
        }
        self.files.push(file);
        Ok(())
    }

    /// Seals the folder and moves it into place. An earlier folder of that name stays whole until the new one is
    /// durable.
    ///
    /// Errors: the disk fails; the staged folder is removed then, and all earlier ones are as they were.
    pub fn commit(mut self, meta: Value) -> Result<Checkpoint, Error> {
        self.adopt(&self.dir.clone(), "")?;
        self.files.sort_by(|a, b| a.path.cmp(&b.path));
        let files = std::mem::take(&mut self.files);
        let manifest = Manifest { format: FORMAT, step: self.step, files, meta };
        let sealed = seal(&manifest);
        let path = self.dir.join(MANIFEST);
        let disk = &self.folder.disk;
        let mut file = disk.create_new(&path).at("create", &path)?;
        disk.write_all(&mut file, &path, &sealed).at("write", &path)?;
        disk.sync_file(&file, &path).at("write", &path)?;
        self.sync_dirs(&self.dir)?;
        Ok(Checkpoint { path: self.move_into_place()?, manifest })
    }

    /// Hashes and syncs the files that were written by path.
    fn adopt(&mut self, dir: &Path, prefix: &str) -> Result<(), Error> {
        for name in names(dir)? {
            let (path, name) = (dir.join(&name), format!("{prefix}{name}"));
            if path.is_dir() {
                self.adopt(&path, &format!("{name}/"))?;
            } else if !self.files.iter().any(|file| file.path == name) {
                // Opened for writing: Windows syncs no other handle.
                let file = File::options().read(true).append(true).open(&path).at("read", &path)?;
                self.folder.disk.sync_file(&file, &path).at("write", &path)?;
                let (bytes, blake3) = hash_content(&path)?;
                self.files.push(FileHash { path: name, bytes, blake3 });
            }
        }
        Ok(())
    }

    fn sync_dirs(&self, dir: &Path) -> Result<(), Error> {
        for name in names(dir)? {
            let path = dir.join(name);
            if path.is_dir() {
                self.sync_dirs(&path)?;
            }
        }
        self.folder.disk.sync_dir(dir).at("write", dir)
    }

    fn move_into_place(&self) -> Result<PathBuf, Error> {
        let (disk, root) = (&self.folder.disk, self.folder.path());
        let target = root.join(&self.target);
        // A folder cannot be renamed onto another, so the old one steps aside for an instant; killed in that instant,
        // the next opening of the run folder puts it back.
        let aside = target.exists().then(|| root.join(set_aside_name(&self.target)));
        if let Some(aside) = &aside {
            disk.rename(&target, aside).at("set aside", &target)?;
        }
        if let Err(source) = disk.rename(&self.dir, &target) {
            if let Some(aside) = &aside {
                let _ = disk.rename(aside, &target);
            }
            return Err(source).at("commit", &target);
        }
        disk.sync_dir(root).at("commit", &target)?;
        if let Some(aside) = &aside {
            self.folder.discard(aside)?;
        }
        Ok(target)
    }
}

impl Drop for Staging<'_> {
    fn drop(&mut self) {
        if self.dir.exists() {
            let _ = self.folder.disk.remove(&self.dir);
        }
    }
}

/// Makes a file of a staged folder durable and hashes it, for [`Staging::adopt_hashed`] on another rank.
///
/// Errors: it cannot be read or synced.
pub fn durable(dir: &Path, name: &str) -> Result<FileHash, Error> {
    let path = dir.join(name);
    let file = File::options().read(true).append(true).open(&path).at("read", &path)?;
    file.sync_all().at("write", &path)?;
    let (bytes, blake3) = hash_content(&path)?;
    Ok(FileHash { path: name.to_owned(), bytes, blake3 })
}

/// A file that hashes what passes, in bounded chunks.
struct Sink<'a> {
    disk: &'a Disk,
    path: &'a Path,
    file: File,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let chunk = &bytes[..bytes.len().min(CHUNK)];
        self.disk.write_all(&mut self.file, self.path, chunk)?;
        self.hasher.update(chunk);
        self.bytes += chunk.len() as u64;
        Ok(chunk.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Checks that every file of a committed folder has the length and hash it was committed with.
///
/// Errors: [`Error::Damaged`] names the file, with expected and found.
pub fn verify(dir: &Path) -> Result<Checkpoint, Error> {
    let path = dir.join(MANIFEST);
    let manifest = unseal(&path)?;
    let expected = dir.file_name().and_then(|name| step_of(&name.to_string_lossy()));
    if expected.is_some_and(|step| step != manifest.step) {
        return Err(Error::damaged(&path, format!("it is the manifest of step {}", manifest.step)));
    }
    for file in &manifest.files {
        if !is_plain(&file.path) {
            return Err(Error::damaged(&path, format!("{:?} leads out of the folder", file.path)));
        }
        let path = dir.join(&file.path);
        let found = fs::metadata(&path).at("read", &path)?.len();
        if found != file.bytes {
            return Err(Error::damaged(&path, format!("expected {} bytes, found {found}", file.bytes)));
        }
        let (_, found) = hash_content(&path)?;
        if found != file.blake3 {
            return Err(Error::damaged(&path, format!("expected BLAKE3 {}, found {found}", file.blake3)));
        }
    }
    Ok(Checkpoint { path: dir.to_path_buf(), manifest })
}

/// The newest checkpoint of a run that verifies, and the newer ones that do not.
///
/// Errors: the run folder cannot be listed.
pub fn newest_verified(run: &Path) -> Result<(Option<Checkpoint>, Vec<PassedOver>), Error> {
    let mut passed_over = Vec::new();
    for step in steps(run)?.into_iter().rev() {
        let path = run.join(format!("checkpoint-{step}"));
        match verify(&path) {
            Ok(checkpoint) => return Ok((Some(checkpoint), passed_over)),
            Err(why) => passed_over.push(PassedOver { path, why }),
        }
    }
    Ok((None, passed_over))
}

/// The steps that have a checkpoint folder, whole or not, in ascending order.
///
/// Errors: the run folder cannot be listed.
pub fn steps(run: &Path) -> Result<Vec<u64>, Error> {
    let mut steps: Vec<u64> = names(run)?.iter().filter_map(|name| step_of(name)).collect();
    steps.sort_unstable();
    Ok(steps)
}

/// The `N` of `checkpoint-N`, written as we write it.
pub(crate) fn step_of(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("checkpoint-")?;
    let step: u64 = digits.parse().ok()?;
    (digits == step.to_string()).then_some(step)
}

/// Whether a name stays inside the folder it is joined to, on every system.
fn is_plain(name: &str) -> bool {
    !name.is_empty()
        && !name.contains(['\\', ':', '\0'])
        && Path::new(name).components().all(|part| matches!(part, Component::Normal(_)))
}

/// Closes the manifest's JSON with the hash of all that stands before it.
fn seal(manifest: &Manifest) -> Vec<u8> {
    let mut json = serde_json::to_vec_pretty(manifest).expect("strings and numbers are JSON");
    json.truncate(json.len() - 2); // the closing "\n}"
    let hash = blake3::hash(&json).to_hex();
    json.extend_from_slice(format!("{SEAL}{hash}{CLOSE}").as_bytes());
    json
}

const SEAL: &str = ",\n  \"blake3\": \"";
const CLOSE: &str = "\"\n}\n";

fn unseal(path: &Path) -> Result<Manifest, Error> {
    let bytes = fs::read(path).at("read", path)?;
    let body = bytes.len().checked_sub(SEAL.len() + 2 * blake3::OUT_LEN + CLOSE.len());
    let sealed = body.is_some_and(|body| {
        bytes[body..] == *format!("{SEAL}{}{CLOSE}", blake3::hash(&bytes[..body]).to_hex()).as_bytes()
    });
    if !sealed {
        return Err(Error::damaged(path, "its contents do not match its own BLAKE3"));
    }
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|e| Error::damaged(path, e.to_string()))?;
    if manifest.format != FORMAT {
        return Err(Error::damaged(path, format!("expected format {FORMAT}, found {}", manifest.format)));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests;
