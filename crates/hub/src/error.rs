//! What can go wrong with the Hub, and what to do about it.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// An operating error of the Hub client. No variant ever holds a token, nor the query of a signed address.
#[derive(Debug)]
pub enum Error {
    /// A setting, name or revision that cannot be used.
    Invalid {
        /// What it is ("HF_ENDPOINT", "repository name").
        what: &'static str,
        /// The value as found; empty where it could hold a secret.
        found: String,
        /// What is wrong with it and what is expected.
        why: String,
    },
    /// A file name from outside that could escape its folder or harm the machine.
    UnsafeName {
        /// The name, escaped for the screen.
        name: String,
        /// The rule that it breaks.
        why: &'static str,
    },
    /// Something is needed from the network and the settings say offline.
    Offline {
        /// What is missing.
        needed: String,
    },
    /// The server asks for credentials, or refuses those that it got.
    Denied {
        /// What was asked for.
        what: String,
        /// The status and the server's words.
        answer: String,
        /// What to do.
        hint: &'static str,
    },
    /// The repository, revision or file is not there.
    NotFound {
        /// What was asked for.
        what: String,
        /// The server's words.
        answer: String,
    },
    /// Any other refusal by the server.
    Refused {
        /// The address without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The server's words.
        answer: String,
    },
    /// The connection failed, timed out or broke, also after every retry.
    Network {
        /// The address without its query.
        url: String,
        /// What happened.
        why: String,
    },
    /// The server asks for a pause that is longer than the limit.
    Wait {
        /// The address without its query.
        url: String,
        /// The pause it asks for.
        pause: Duration,
    },
    /// An answer that breaks the protocol.
    Protocol {
        /// The address without its query.
        url: String,
        /// Expected and found.
        why: String,
    },
    /// Bytes that are not those that were announced.
    Corrupt {
        /// The file in the repository.
        file: String,
        /// Expected and found.
        why: String,
    },
    /// The lock file pins something else than the Hub offers.
    Pinned {
        /// The file in the repository.
        file: String,
        /// Digest in the lock file.
        expected: String,
        /// Digest on the Hub.
        found: String,
    },
    /// No file of the repository is selected by the patterns.
    NothingSelected {
        /// The repository.
        repo: String,
        /// How many files it has.
        of: usize,
    },
    /// A file operation failed; `action` completes "cannot ...".
    Io {
        /// What was attempted, as a verb phrase.
        action: &'static str,
        /// The file or folder it was attempted on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The user asked to stop; everything received so far is kept.
    Stopped,
}

impl Error {
    /// The process exit code: 2 usage and configuration, 3 data, 6 files and disk, 7 a peer (the network), 130 stopped.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Invalid { .. } | Error::Offline { .. } | Error::Denied { .. } | Error::NotFound { .. } => 2,
            Error::NothingSelected { .. } | Error::Pinned { .. } => 2,
            Error::UnsafeName { .. } | Error::Corrupt { .. } => 3,
            Error::Io { .. } => 6,
            Error::Refused { .. } | Error::Network { .. } | Error::Wait { .. } | Error::Protocol { .. } => 7,
            Error::Stopped => 130,
        }
    }

    pub(crate) fn invalid(what: &'static str, found: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Invalid { what, found: found.into(), why: why.into() }
    }
}

/// Attaches the action and the path to an `io::Result`.
pub(crate) trait At<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, Error>;
}

impl<T> At<T> for io::Result<T> {
    fn at(self, action: &'static str, path: &Path) -> Result<T, Error> {
        self.map_err(|source| Error::Io { action, path: path.to_path_buf(), source })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Invalid { what, found, why } if found.is_empty() => write!(f, "{what}: {why}"),
            Error::Invalid { what, found, why } => write!(f, "{what}: found {found:?}; {why}"),
            Error::UnsafeName { name, why } => write!(
                f,
                "the file name {name:?} is refused: {why}; if you do not need this file, leave it out with --exclude"
            ),
            Error::Offline { needed } => {
                write!(f, "{needed}, and HF_HUB_OFFLINE forbids the network; unset it and pull once")
            }
            Error::Denied { what, answer, hint } => write!(f, "no access to {what} ({answer}); {hint}"),
            Error::NotFound { what, answer } => write!(
                f,
                "{what} is not there ({answer}); check the spelling and the revision, and, if it is private, the token"
            ),
            Error::Refused { url, status, answer } => write!(f, "{url} answered {status}: {answer}"),
            Error::Network { url, why } => {
                write!(f, "{url}: {why}; run the same command again, it goes on where it stopped")
            }
            Error::Wait { url, pause } => {
                write!(f, "{url} asks to wait {} s before the next request; run again later", pause.as_secs())
            }
            Error::Protocol { url, why } => {
                write!(f, "{url} gave an answer that cannot be used: {why}; check HF_ENDPOINT")
            }
            Error::Corrupt { file, why } => {
                write!(f, "{file} did not arrive intact: {why}; nothing was kept of it, run the command again")
            }
            Error::Pinned { file, expected, found } => write!(
                f,
                "{file}: the lock file pins {expected}, the Hub has {found}; remove the entry if the change is wanted"
            ),
            Error::NothingSelected { repo, of } => {
                write!(f, "none of the {of} files of {repo} is selected; look at --include and --exclude")
            }
            Error::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            Error::Stopped => write!(f, "stopped; the same command goes on where it stopped"),
        }
    }
}

impl Error {
    /// What happened, without advice: for where it is done again at once.
    pub(crate) fn what_happened(&self) -> String {
        match self {
            Error::Network { url, why } => format!("{url}: {why}"),
            other => other.to_string(),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_what_where_and_what_to_do() {
        let error = Error::Network { url: "https://h/x".into(), why: "connection refused".into() };
        assert_eq!(
            error.to_string(),
            "https://h/x: connection refused; run the same command again, it goes on where it stopped"
        );
        assert_eq!(error.exit_code(), 7);
        let error = Error::invalid("HF_ENDPOINT", "ftp://x", "expected http:// or https://");
        assert_eq!(error.to_string(), "HF_ENDPOINT: found \"ftp://x\"; expected http:// or https://");
    }
}
