//! Down: a repository at one commit, into the cache or a folder.

use crate::Error;
use crate::download::fetch;
use crate::error::At;
use crate::http::Client;
use crate::layout::{Layout, make_parent};
use crate::listing::{Listed, RemoteFile, choose};
use crate::lockfile::{Lockfile, Pin};
use crate::offline;
use crate::path::SafeRelPath;
use crate::repo::{Commit, Repo, Revision};
use crate::watch::{Event, Watch};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Where to put the files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Destination {
    /// The cache that `huggingface_hub` and everything built on it shares.
    Cache,
    /// Plain files in this folder.
    Folder(PathBuf),
}

/// What to fetch.
#[derive(Debug, Clone)]
pub struct Pull {
    /// The repository.
    pub repo: Repo,
    /// The branch, tag or commit.
    pub revision: Revision,
    /// Shell patterns of what is wanted, all if empty; `*` crosses `/`.
    pub include: Vec<String>,
    /// Shell patterns of what is not wanted; they win.
    pub exclude: Vec<String>,
    /// Where to put the files.
    pub to: Destination,
    /// Whether to hash files of the cache again that are there already.
    pub verify: bool,
}

impl Pull {
    /// All files of the branch `main`, into the cache.
    pub fn new(repo: Repo) -> Pull {
        let revision = Revision::new("main").expect("a good name");
        Pull { repo, revision, include: Vec::new(), exclude: Vec::new(), to: Destination::Cache, verify: false }
    }
}

/// What was fetched.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The folder with the files.
    pub root: PathBuf,
    /// The repository.
    pub repo: Repo,
    /// The revision that was asked for.
    pub revision: Revision,
    /// The commit that it stood for.
    pub commit: Commit,
    /// The files, all in their places.
    pub files: Vec<RemoteFile>,
    /// How many of them had to be fetched.
    pub fetched: usize,
}

/// Fetches what is missing of a repository. With a `lock` that has the repository at this revision, the commit is taken
/// from there, and the files have to be those recorded there.
///
/// # Errors
/// Names that are refused, answers that are, a network that fails longer than the limits allow, contents that stay
/// wrong, a full disk; offline, whatever is not there. What was received is kept, and the next call goes on from it.
pub fn pull(client: &Client, request: &Pull, lock: Option<&Lockfile>, watch: &dyn Watch) -> Result<Pulled, Error> {
    let layout = match &request.to {
        Destination::Cache => Layout::cache(&client.settings.cache, &request.repo),
        Destination::Folder(folder) => Layout::folder(folder),
    };
    let pin = lock.and_then(|lock| lock.find(&request.repo, &request.revision));
    let (commit, listed) = match client.is_offline() {
        true => offline::listing(&layout, request, pin)?,
        false => online_listing(client, &layout, request, pin, watch)?,
    };
    let files = choose(&request.repo, &listed, &request.include, &request.exclude)?;
    if let Some(pin) = pin {
        pin.check(&files)?;
    }
    let mut missing = Vec::new();
    for file in &files {
        if !layout.has(&commit, file, request.verify)? {
            missing.push(file);
        }
    }
    if let (true, Some(file)) = (client.is_offline(), missing.first()) {
        let needed = format!("{} of {} at {commit} is not there", file.path, request.repo);
        return Err(Error::Offline { needed });
    }
    let fetched = missing.len();
    let (repo, verify) = (&request.repo, request.verify);
    Fetch { client, layout: &layout, repo, commit: &commit, verify, watch }.all(missing)?;
    if !client.is_offline() {
        layout.write_ref(&request.revision, &commit)?;
    }
    let root = layout.root(&commit);
    Ok(Pulled { root, repo: request.repo.clone(), revision: request.revision.clone(), commit, files, fetched })
}

fn online_listing(
    client: &Client,
    layout: &Layout,
    request: &Pull,
    pin: Option<&Pin>,
    watch: &dyn Watch,
) -> Result<(Commit, Vec<Listed>), Error> {
    let known = pin.map(|pin| pin.commit.clone()).or(request.revision.as_commit());
    let commit = match known {
        Some(commit) => commit,
        None => client.resolve(&request.repo, &request.revision, watch)?,
    };
    // A commit never changes, so a listing that was kept is as good as a new one.
    if let Some(listed) = layout.read_tree(&commit) {
        return Ok((commit, listed));
    }
    let listed = client.list(&request.repo, &commit, watch)?;
    layout.write_tree(&commit, &listed)?;
    Ok((commit, listed))
}

/// A fetch of many files of one commit.
struct Fetch<'a> {
    client: &'a Client,
    layout: &'a Layout,
    repo: &'a Repo,
    commit: &'a Commit,
    verify: bool,
    watch: &'a dyn Watch,
}

impl Fetch<'_> {
    /// Fetches files with several threads, equal contents once, the largest first so that none is left over at the end.
    fn all(&self, missing: Vec<&RemoteFile>) -> Result<(), Error> {
        let mut by_digest: BTreeMap<_, Vec<&RemoteFile>> = BTreeMap::new();
        for file in missing {
            by_digest.entry((file.digest, file.size)).or_default().push(file);
        }
        let mut jobs: Vec<_> = by_digest.into_values().collect();
        let bytes = jobs.iter().map(|job| job[0].size).sum();
        self.watch.event(Event::Begin { files: jobs.len(), bytes });
        jobs.sort_by_key(|job| job[0].size);
        in_parallel(self.client.settings.limits.parallel, jobs, self.watch, |job, watch| self.one(&job, watch))
    }

    fn one(&self, files: &[&RemoteFile], watch: &dyn Watch) -> Result<(), Error> {
        let first = files[0];
        let _lock = self.lock(first, watch)?;
        // Another process may have finished it while we waited.
        let mut missing = Vec::new();
        for file in files {
            if !self.layout.has(self.commit, file, self.verify)? {
                missing.push(*file);
            }
        }
        if !missing.is_empty() {
            let address = self.client.file_address(self.repo, self.commit, first.path.as_str());
            fetch(self.client, &address, first, &self.layout.partial(first.digest), watch)?;
            self.layout.finish(self.commit, &missing)?;
        }
        files.iter().for_each(|file| watch.event(Event::Done { path: &file.path }));
        Ok(())
    }

    /// Waits for the lock of a file's contents; `None` on a file system without locks, where the hash still guards.
    fn lock(&self, file: &RemoteFile, watch: &dyn Watch) -> Result<Option<File>, Error> {
        let path = self.layout.lock(file.digest);
        make_parent(&path)?;
        let handle = File::options().create(true).truncate(false).write(true).open(&path).at("open the lock", &path)?;
        let mut said = false;
        loop {
            match handle.try_lock() {
                Ok(()) => return Ok(Some(handle)),
                Err(TryLockError::WouldBlock) => {
                    if !said {
                        watch.event(Event::Waiting { path: &file.path });
                        said = true;
                    }
                    self.client.sleep(Duration::from_millis(200), watch)?;
                }
                Err(TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error).at("lock", &path),
            }
        }
    }
}

/// Runs jobs from the end of the list in up to `threads` threads; the first error stops the others, which keep what
/// they have.
pub(crate) fn in_parallel<J: Send>(
    threads: usize,
    jobs: Vec<J>,
    watch: &dyn Watch,
    run: impl Fn(J, &dyn Watch) -> Result<(), Error> + Sync,
) -> Result<(), Error> {
    let threads = threads.clamp(1, jobs.len().max(1));
    let failed = AtomicBool::new(false);
    let jobs = Mutex::new(jobs);
    let first_error = Mutex::new(None);
    let watch = UntilFailure { inner: watch, failed: &failed };
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let Some(job) = jobs.lock().expect("no job panics").pop() else { return };
            if let Err(error) = run(job, &watch) {
                let mut first = first_error.lock().expect("no job panics");
                // A thread that was stopped by another's failure has nothing to say.
                if first.is_none() {
                    *first = Some(error);
                }
                failed.store(true, Ordering::Relaxed);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    first_error.into_inner().expect("no job panics").map_or(Ok(()), Err)
}

struct UntilFailure<'a> {
    inner: &'a dyn Watch,
    failed: &'a AtomicBool,
}

impl Watch for UntilFailure<'_> {
    fn event(&self, event: Event<'_>) {
        self.inner.event(event);
    }

    fn stop(&self) -> bool {
        self.failed.load(Ordering::Relaxed) || self.inner.stop()
    }
}

impl Pulled {
    /// The place of a file.
    pub fn path_of(&self, path: &SafeRelPath) -> PathBuf {
        path.below(&self.root)
    }
}
