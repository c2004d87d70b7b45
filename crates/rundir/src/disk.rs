//! Every call that changes the disk on the way to a commit, so that a test can observe or fail any one of them.
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// A change about to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Op {
    CreateDir,
    CreateFile,
    Write,
    SyncFile,
    SyncDir,
    Rename,
    Remove,
}

/// Sees each change first; an error it returns takes the place of the change.
pub(crate) type Probe = dyn Fn(Op, &Path) -> io::Result<()> + Send + Sync;

/// The disk; `Disk::default()` is the real one with nobody watching.
#[derive(Clone, Default)]
pub(crate) struct Disk(Option<Arc<Probe>>);

impl Disk {
    #[cfg(test)]
    pub(crate) fn probed(probe: Arc<Probe>) -> Disk {
        Disk(Some(probe))
    }

    fn ask(&self, op: Op, path: &Path) -> io::Result<()> {
        self.0.as_ref().map_or(Ok(()), |probe| probe(op, path))
    }

    pub(crate) fn create_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Op::CreateDir, path)?;
        fs::create_dir(path)
    }

    pub(crate) fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.ask(Op::CreateDir, path)?;
        fs::create_dir_all(path)
    }

    /// Creates a file that must not exist yet.
    pub(crate) fn create_new(&self, path: &Path) -> io::Result<File> {
        self.ask(Op::CreateFile, path)?;
        File::create_new(path)
    }

    pub(crate) fn write_all(&self, file: &mut File, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.ask(Op::Write, path)?;
        file.write_all(bytes)
    }

    pub(crate) fn sync_file(&self, file: &File, path: &Path) -> io::Result<()> {
        self.ask(Op::SyncFile, path)?;
        file.sync_all()
    }

    /// Makes the names in a folder durable. Windows has no such call: there a rename is durable by its journal.
    pub(crate) fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.ask(Op::SyncDir, path)?;
        if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
    }

    pub(crate) fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.ask(Op::Rename, from)?;
        fs::rename(from, to)
    }

    /// Removes a file, or a folder with all it holds; links are removed, not followed.
    pub(crate) fn remove(&self, path: &Path) -> io::Result<()> {
        self.ask(Op::Remove, path)?;
        if fs::symlink_metadata(path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    /// Replaces a small file in one step: readers see the old bytes or the new ones, never a mixture.
    pub(crate) fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().expect("a file in a folder");
        let temporary = fresh(folder, &path.file_name().expect("a file name").to_string_lossy());
        let write = || -> io::Result<()> {
            let mut file = self.create_new(&temporary)?;
            self.write_all(&mut file, &temporary, bytes)?;
            self.sync_file(&file, &temporary)?;
            self.rename(&temporary, path)
        };
        write().inspect_err(|_| {
            let _ = self.remove(&temporary);
        })
    }
}

/// A name in `folder` that begins `.tmp-` and that nothing there has: what a killed process leaves is cleared by it.
pub(crate) fn fresh(folder: &Path, name: &str) -> PathBuf {
    folder.join(format!(".tmp-{name}-{}", nonce()))
}

/// Distinct among processes and within one.
pub(crate) fn nonce() -> String {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let nanoseconds = std::time::UNIX_EPOCH.elapsed().map_or(0, |d| d.as_nanos() as u64);
    format!("{:x}{:x}{:x}", std::process::id(), nanoseconds, COUNT.fetch_add(1, Ordering::Relaxed))
}
