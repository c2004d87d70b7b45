//! A run that takes an earlier one's place: first it waits aside, then it is there, and at no instant is neither whole.
//!
//! Until the new run is known to be possible, its first files (configuration, inputs, lock, status) lie in a `.tmp-` folder, and
//! the earlier run is as it was: a start that fails, or is killed, leaves no more than what the next opening clears. Then one
//! rename decides, and what follows it can be done again from any point, by whoever opens the folder next:
//!
//! ```text
//! .tmp-begin-*  ->  .begins    decided: the earlier run's files go
//! .begins       ->  .begun     they are gone: the new run's files move in, one by one
//! .begun        ->             all are in
//! ```
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::{self, Disk};
use crate::error::{At, Error};
use crate::folder::{RunFolder, acquire, is_owned, names};

const BEGINS: &str = ".begins";
const BEGUN: &str = ".begun";

impl RunFolder {
    /// Whether the folder still holds an earlier run, whole, whose place this one takes with [`RunFolder::begun`].
    pub fn waits(&self) -> bool {
        self.aside.is_some() && !self.begun.load(Ordering::SeqCst)
    }

    /// Where the run's files are now.
    pub(crate) fn home(&self) -> &Path {
        match &self.aside {
            Some(aside) if self.waits() => aside,
            _ => self.path(),
        }
    }

    /// Keeps what is written from now on aside.
    pub(crate) fn wait(&mut self) -> Result<(), Error> {
        let aside = disk::fresh(self.path(), "begin");
        self.disk.create_dir(&aside).at("create folder", &aside)?;
        self.aside = Some(aside);
        Ok(())
    }

    /// The run is possible: it takes the place of the earlier one, which is removed. Killed on the way, the next opening finds
    /// the earlier run, or does the rest. Nothing happens to a run that does not [wait](RunFolder::waits).
    ///
    /// Errors: the disk fails; the earlier run is as it was, or the next opening does the rest.
    pub fn begun(&self) -> Result<(), Error> {
        let Some(aside) = self.aside.as_ref().filter(|_| self.waits()) else { return Ok(()) };
        // A power cut after the decision must find all that the decision is for.
        for name in names(aside)? {
            let path = aside.join(name);
            if path.is_dir() {
                self.disk.sync_dir(&path).at("write", &path)?;
            }
        }
        self.disk.sync_dir(aside).at("write", aside)?;
        self.disk.rename(aside, &self.path().join(BEGINS)).at("begin a run in", self.path())?;
        self.begun.store(true, Ordering::SeqCst);
        self.disk.sync_dir(self.path()).at("begin a run in", self.path())?;
        self.settle()
    }

    /// Does what is left to do once a run is decided to take the place of another.
    pub(crate) fn settle(&self) -> Result<(), Error> {
        let [begins, begun] = [BEGINS, BEGUN].map(|name| self.path().join(name));
        let mut doomed = Vec::new();
        if begins.exists() {
            doomed = self.set_off()?;
            self.disk.sync_dir(self.path()).at("remove the earlier run of", self.path())?;
            self.disk.rename(&begins, &begun).at("begin a run in", self.path())?;
        }
        if begun.exists() {
            for name in names(&begun)? {
                let path = begun.join(&name);
                self.disk.rename(&path, &self.path().join(&name)).at("move into the run folder", &path)?;
            }
            self.disk.sync_dir(self.path()).at("begin a run in", self.path())?;
            self.disk.remove(&begun).at("remove", &begun)?;
        }
        // Last, as it takes the longest: before it the new run is whole.
        doomed.iter().try_for_each(|path| self.disk.remove(path).at("remove", path))
    }

    /// Removes the files of the earlier run.
    pub(crate) fn clear(&self) -> Result<(), Error> {
        self.set_off()?.iter().try_for_each(|path| self.disk.remove(path).at("remove", path))
    }

    /// Gives the files of the earlier run names that are swept. Its status stays until the new one replaces it, so that a kill
    /// on the way leaves a run folder.
    fn set_off(&self) -> Result<Vec<PathBuf>, Error> {
        let owned = names(self.path())?.into_iter().filter(|name| is_owned(name));
        owned.map(|name| self.doom(&self.path().join(name))).collect()
    }
}

impl Drop for RunFolder {
    /// A start that came to nothing leaves nothing.
    fn drop(&mut self) {
        if let Some(aside) = self.aside.as_ref().filter(|_| self.waits()) {
            let _ = self.disk.remove(aside);
        }
    }
}

/// Finishes what a process was killed in while one run took the place of another, for whoever reads the folder before opening it.
/// A folder that a process holds is left to it.
///
/// Errors: the folder cannot be written.
pub fn settle(root: &Path) -> Result<(), Error> {
    if !is_unsettled(root) {
        return Ok(());
    }
    let lock = match acquire(root) {
        Err(Error::InUse { .. }) => return Ok(()),
        held => held?,
    };
    let (root, disk) = (root.to_path_buf(), Disk::default());
    RunFolder { root, disk, lock, follows: false, aside: None, begun: AtomicBool::new(false) }.settle()
}

/// Whether a run was decided to take another's place and is not all there.
pub(crate) fn is_unsettled(root: &Path) -> bool {
    [BEGINS, BEGUN].iter().any(|name| root.join(name).exists())
}

#[cfg(test)]
mod tests;
