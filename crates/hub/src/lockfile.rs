//! The lock file: which commit a revision stood for, and which contents its files had.

use crate::Error;
use crate::digest::Digest;
use crate::layout::write_whole;
use crate::listing::RemoteFile;
use crate::pull::Pulled;
use crate::repo::{Commit, Repo, RepoKind, Revision};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// What `prospect.lock` holds: one pin for each repository and revision, in order of their names.
#[derive(Debug, Clone, Default)]
pub struct Lockfile {
    pins: BTreeMap<(String, String, String), Pin>,
}

/// A revision pinned to a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pin {
    /// The commit.
    pub commit: Commit,
    /// The files that were pulled, with their hashes.
    pub files: BTreeMap<String, Digest>,
}

impl Pin {
    /// Whether files are those that were pinned; files that were not pulled before are free.
    ///
    /// # Errors
    /// [`Error::Pinned`] names the first that differs.
    pub fn check(&self, files: &[RemoteFile]) -> Result<(), Error> {
        for file in files {
            match self.files.get(file.path.as_str()) {
                Some(pinned) if *pinned != file.digest => {
                    let (expected, found) = (pinned.to_string(), file.digest.to_string());
                    return Err(Error::Pinned { file: file.path.to_string(), expected, found });
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    repos: Vec<Entry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    kind: String,
    id: String,
    revision: String,
    commit: String,
    files: BTreeMap<String, String>,
}

fn key(repo: &Repo, revision: &Revision) -> (String, String, String) {
    (repo.kind().as_str().to_owned(), repo.id().to_owned(), revision.as_str().to_owned())
}

impl Lockfile {
    /// Reads a lock file; one that is not there is empty.
    ///
    /// # Errors
    /// A file that cannot be read, or is no lock file: it says at which line and column.
    pub fn read(path: &Path) -> Result<Lockfile, Error> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                Lockfile::parse(&text).map_err(|why| Error::invalid("lock file", path.display().to_string(), why))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Lockfile::default()),
            Err(source) => Err(Error::Io { action: "read", path: path.to_path_buf(), source }),
        }
    }

    fn parse(text: &str) -> Result<Lockfile, String> {
        let text: Text = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if text.version != 1 {
            return Err(format!("expected version 1, found {}; use a newer prospect", text.version));
        }
        let mut pins = BTreeMap::new();
        for entry in text.repos {
            let kind = match entry.kind.as_str() {
                "model" => RepoKind::Model,
                "dataset" => RepoKind::Dataset,
                other => return Err(format!("expected the kind model or dataset, found {other:?}")),
            };
            let repo = Repo::new(kind, &entry.id).map_err(|error| error.to_string())?;
            let revision = Revision::new(&entry.revision).map_err(|error| error.to_string())?;
            let commit = Commit::parse(&entry.commit).ok_or("expected a commit of 40 digits")?;
            let digest = |(name, text): (String, String)| {
                let hex = text.split_once(':').map_or("", |(_, hex)| hex);
                let digest = Digest::parse(hex).filter(|digest| text.starts_with(digest.kind()));
                digest.map(|digest| (name, digest)).ok_or(format!("expected sha256:... or git:..., found {text:?}"))
            };
            let files = entry.files.into_iter().map(digest).collect::<Result<_, _>>()?;
            pins.insert(key(&repo, &revision), Pin { commit, files });
        }
        Ok(Lockfile { pins })
    }

    /// The pin of a repository at a revision.
    pub fn find(&self, repo: &Repo, revision: &Revision) -> Option<&Pin> {
        self.pins.get(&key(repo, revision))
    }

    /// Takes a pull in: its files are added to those of the same commit, and replace those of another one.
    pub fn record(&mut self, pulled: &Pulled) {
        let empty = Pin { commit: pulled.commit.clone(), files: BTreeMap::new() };
        let pin = self.pins.entry(key(&pulled.repo, &pulled.revision)).or_insert_with(|| empty.clone());
        if pin.commit != pulled.commit {
            *pin = empty;
        }
        pin.files.extend(pulled.files.iter().map(|file| (file.path.to_string(), file.digest)));
    }

    /// Writes the lock file as a whole: JSON with one line per file, made for `diff`.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let digest = |(name, digest): (&String, &Digest)| (name.clone(), format!("{}:{digest}", digest.kind()));
        let entry = |((kind, id, revision), pin): (&(String, String, String), &Pin)| Entry {
            kind: kind.clone(),
            id: id.clone(),
            revision: revision.clone(),
            commit: pin.commit.to_string(),
            files: pin.files.iter().map(digest).collect(),
        };
        let text = Text { version: 1, repos: self.pins.iter().map(entry).collect() };
        let text = serde_json::to_string_pretty(&text).expect("plain data") + "\n";
        write_whole(path, text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_broken_lock_file_is_refused_with_its_place() {
        let commit = "0".repeat(40);
        let entry = |kind: &str, digest: &str| {
            format!(
                r#"{{"version": 1, "repos": [{{"kind": "{kind}", "id": "a/b", "revision": "main", "commit": "{commit}",
                "files": {{"x": "{digest}"}}}}]}}"#
            )
        };
        let good = entry("model", &format!("git:{commit}"));
        assert_eq!(Lockfile::parse(&good).unwrap().pins.len(), 1);
        let broken = [
            ("{".into(), "line 1 column 1"),
            (good.replace("\"version\": 1", "\"version\": 2"), "expected version 1, found 2"),
            (entry("space", &format!("git:{commit}")), "expected the kind"),
            (entry("model", &format!("sha256:{commit}")), "expected sha256"),
            (entry("model", "../x"), "expected sha256"),
            (good.replace("a/b", "../b"), "repository name"),
            (good.replace("main", "../../x"), "revision"),
        ];
        for (text, expected) in broken {
            let why = Lockfile::parse(&text).unwrap_err();
            assert!(why.contains(expected), "{why}");
        }
    }
}
