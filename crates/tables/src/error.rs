//! What can go wrong with a table file.

use std::fmt;
use std::path::{Path, PathBuf};

/// Any failure of this crate.
#[derive(Debug)]
pub enum Error {
    /// The file could not be read or written.
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The file is damaged, or uses something that is not read.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong and what to do.
        reason: String,
    },
}

/// `std::result::Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Error + '_ {
        |source| Error::Io { path: path.to_owned(), source }
    }

    pub(crate) fn malformed(path: &Path, reason: impl fmt::Display) -> Error {
        Error::Malformed { path: path.to_owned(), reason: reason.to_string() }
    }

    /// What is wrong, without the file's name.
    pub(crate) fn reason(&self) -> String {
        match self {
            Error::Io { source, .. } => source.to_string(),
            Error::Malformed { reason, .. } => reason.clone(),
        }
    }

    /// The process exit code: 3 data, 6 files.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Io { .. } => 6,
            Error::Malformed { .. } => 3,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::Malformed { path, reason } => write!(f, "{}: {reason}", path.display()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            Error::Malformed { .. } => None,
        }
    }
}
