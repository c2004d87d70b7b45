//! Names of the Hub where a path could stand: `org/name`, of a data set also `org/name/file`. Fetched on first use, and pinned.

use crate::failure::Failure;
use crate::pull;
use crate::screen::Screen;
use hub::{Lockfile, Pull, Repo, RepoKind};
use std::path::{Path, PathBuf};

/// Where commits are pinned, in the current folder.
const LOCK: &str = "prospect.lock";
/// Endings that mean a file and not a repository.
const DATA_FILES: [&str; 9] = ["jsonl", "json", "ndjson", "csv", "tsv", "parquet", "arrow", "gz", "zst"];

/// A repository of the Hub, or a file in one.
#[derive(Debug)]
pub(crate) struct HubName {
    repo: Repo,
    file: Option<String>,
}

impl HubName {
    /// `None` for what is a path here, or looks like one.
    pub(crate) fn of(kind: RepoKind, path: &Path) -> Option<HubName> {
        let text = path.to_str().filter(|_| !path.exists() && path.is_relative() && !path.starts_with("."))?;
        if text.contains(['*', '?', '[', '\\']) {
            return None;
        }
        let mut parts = text.splitn(3, '/');
        let id = format!("{}/{}", parts.next()?, parts.next()?);
        let file = parts.next().map(str::to_owned);
        // A folder that is there says that a path was meant.
        let local = Path::new(text.split('/').next()?).exists();
        let ending = |name: &str| name.rsplit_once('.').is_some_and(|(_, ending)| DATA_FILES.contains(&ending));
        let bare_file = kind == RepoKind::Dataset && file.is_none() && ending(text);
        if local || bare_file || (kind == RepoKind::Model && file.is_some()) || id.starts_with("..") {
            return None;
        }
        Some(HubName { repo: Repo::new(kind, &id).ok()?, file })
    }

    /// A path here as it stands; of a repository that it names, where that lies once fetched.
    pub(crate) fn local(kind: RepoKind, path: &Path, include: &[&str], screen: &Screen) -> Result<PathBuf, Failure> {
        match HubName::of(kind, path) {
            Some(name) => name.fetch(include, None, screen),
            None => Ok(path.to_owned()),
        }
    }

    /// The path of the file or folder, fetched as far as it is not there yet; the commit is pinned.
    pub(crate) fn fetch(&self, include: &[&str], token: Option<&str>, screen: &Screen) -> Result<PathBuf, Failure> {
        screen.note(format_args!("{} is no path here: taken from the Hub", self.repo));
        let mut lock = Lockfile::read(Path::new(LOCK))?;
        let include = match &self.file {
            Some(file) => vec![file.clone()],
            None => include.iter().map(|pattern| (*pattern).to_owned()).collect(),
        };
        let request = Pull { include, ..Pull::new(self.repo.clone()) };
        let pulled = pull::fetch_with(&request, Some(&lock), token, screen)?;
        lock.record(&pulled);
        lock.write(Path::new(LOCK))?;
        screen.note(format_args!("{} at {}, {} files, pinned in {LOCK}", self.repo, pulled.commit, pulled.files.len()));
        Ok(self.file.as_ref().map_or(pulled.root.clone(), |file| pulled.root.join(file)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(kind: RepoKind, text: &str) -> Option<(String, Option<String>)> {
        let found = HubName::of(kind, Path::new(text))?;
        Some((found.repo.id().to_owned(), found.file))
    }

    #[test]
    fn names_of_the_hub_are_told_from_paths() {
        let some = |id: &str, file: Option<&str>| Some((id.to_owned(), file.map(str::to_owned)));
        assert_eq!(named(RepoKind::Model, "org/name"), some("org/name", None));
        assert_eq!(named(RepoKind::Dataset, "org/name"), some("org/name", None));
        assert_eq!(named(RepoKind::Dataset, "org/name/a/train.jsonl"), some("org/name", Some("a/train.jsonl")));
        for path in ["./org/name", "../org/name", "/org/name", "name", "src/name", "data/rows.jsonl", "a/*"] {
            assert_eq!(named(RepoKind::Dataset, path), None, "{path}");
        }
        assert_eq!(named(RepoKind::Model, "org/name/final"), None);
    }
}
