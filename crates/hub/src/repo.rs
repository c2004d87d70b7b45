//! Names of repositories, revisions and commits, checked before they enter an address or a path.

use crate::Error;
use crate::path::SafeRelPath;
use std::fmt;

/// What a repository holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RepoKind {
    /// A model.
    Model,
    /// A data set.
    Dataset,
}

impl RepoKind {
    /// `model` or `dataset`.
    pub fn as_str(self) -> &'static str {
        match self {
            RepoKind::Model => "model",
            RepoKind::Dataset => "dataset",
        }
    }
}

/// A repository: its kind and `org/name` (or `name` alone, for the oldest ones).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Repo {
    kind: RepoKind,
    id: String,
}

impl Repo {
    /// Checks a name by the Hub's own rules.
    ///
    /// # Errors
    /// [`Error::Invalid`] with the rule that it breaks.
    pub fn new(kind: RepoKind, id: &str) -> Result<Repo, Error> {
        let parts: Vec<&str> = id.split('/').collect();
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let edge = |part: &str| part.starts_with(['-', '.']) || part.ends_with(['-', '.']) || part.ends_with(".git");
        let why = if parts.len() > 2 || parts.iter().any(|part| part.is_empty()) {
            "expected `org/name`"
        } else if !id.replace('/', "").chars().all(allowed) {
            "expected letters, digits, `-`, `_` and `.` only"
        } else if id.contains("--") || id.contains("..") {
            "`--` and `..` are not allowed"
        } else if parts.iter().any(|part| edge(part)) {
            "a part may not begin or end with `-` or `.`, nor end in `.git`"
        } else if id.len() > 96 {
            "expected at most 96 characters"
        } else {
            return Ok(Repo { kind, id: id.to_owned() });
        };
        Err(Error::invalid("repository name", id.chars().take(200).collect::<String>(), why))
    }

    /// What it holds.
    pub fn kind(&self) -> RepoKind {
        self.kind
    }

    /// `org/name`.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The organisation or user, if the name has one, and the name.
    pub(crate) fn split(&self) -> (Option<&str>, &str) {
        match self.id.split_once('/') {
            Some((owner, name)) => (Some(owner), name),
            None => (None, &self.id),
        }
    }

    /// Its folder in the cache: `models--org--name`.
    pub(crate) fn folder(&self) -> String {
        format!("{}s--{}", self.kind.as_str(), self.id.replace('/', "--"))
    }

    /// The path of its API below the endpoint.
    pub(crate) fn api(&self) -> String {
        format!("/api/{}s/{}", self.kind.as_str(), self.id)
    }

    /// The path of its pages and files below the endpoint.
    pub(crate) fn page(&self) -> String {
        match self.kind {
            RepoKind::Model => format!("/{}", self.id),
            RepoKind::Dataset => format!("/datasets/{}", self.id),
        }
    }
}

impl fmt::Display for Repo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.id)
    }
}

/// A branch, tag, `refs/pr/1` or commit, safe as a path below `refs/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revision(SafeRelPath);

impl Revision {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what git or a file system would not take.
    pub fn new(name: &str) -> Result<Revision, Error> {
        let refused = name.contains([' ', '~', '^', '[', '@']) || name.contains("..") || name.starts_with('-');
        match SafeRelPath::new(name) {
            Ok(path) if !refused && name.len() <= 255 => Ok(Revision(path)),
            _ => {
                let shown: String = name.chars().take(200).collect();
                Err(Error::invalid("revision", shown, "expected a branch, a tag or a commit"))
            }
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub(crate) fn path(&self) -> &SafeRelPath {
        &self.0
    }

    /// The commit, if the revision is a full commit id already.
    pub(crate) fn as_commit(&self) -> Option<Commit> {
        Commit::parse(self.as_str())
    }
}

/// A full commit id: forty lower-case hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Commit(String);

impl Commit {
    /// Reads forty lower-case hexadecimal digits; `None` for anything else.
    pub fn parse(text: &str) -> Option<Commit> {
        let hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (text.len() == 40 && text.bytes().all(hex)).then(|| Commit(text.to_owned()))
    }

    /// The id.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Commit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_change_an_address_or_a_path_are_refused() {
        for id in [
            "", "/", "a/", "/a", "a/b/c", "../a", "a/..", "a/.b", "a b", "a?b", "a#b", "a%2fb", "a--b", "a/b.git", "-a",
        ] {
            assert!(Repo::new(RepoKind::Model, id).is_err(), "{id:?}");
        }
        assert!(Repo::new(RepoKind::Model, &"a".repeat(97)).is_err());
        for name in ["", "..", "a/../b", "/a", "a b", "a..b", "-x", "a\\b", "x@{1}"] {
            assert!(Revision::new(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn a_repository_has_the_folder_and_addresses_of_its_kind() {
        let model = Repo::new(RepoKind::Model, "org/name-1.5B_x").unwrap();
        assert_eq!(model.folder(), "models--org--name-1.5B_x");
        assert_eq!((model.api().as_str(), model.page().as_str()), ("/api/models/org/name-1.5B_x", "/org/name-1.5B_x"));
        let data = Repo::new(RepoKind::Dataset, "gpt2").unwrap();
        assert_eq!(data.folder(), "datasets--gpt2");
        assert_eq!((data.api().as_str(), data.page().as_str()), ("/api/datasets/gpt2", "/datasets/gpt2"));
        assert!(Revision::new("refs/pr/1").unwrap().as_commit().is_none());
        assert!(Revision::new(&"0a".repeat(20)).unwrap().as_commit().is_some());
    }
}
