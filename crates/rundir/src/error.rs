//! What can go wrong with a run folder, and what to do about it.
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::lock::Change;

/// An operating error of the run folder.
#[derive(Debug)]
pub enum Error {
    /// A file operation failed; `action` completes "cannot ...".
    Io {
        /// What was attempted, as a verb phrase ("write", "read").
        action: &'static str,
        /// The file or folder it was attempted on.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// The folder holds files and neither overwriting nor resuming was asked for.
    NotEmpty(PathBuf),
    /// The folder holds files, but is not a run folder; it is never overwritten or resumed.
    NotARun(PathBuf),
    /// There is no run folder to resume.
    NoRun(PathBuf),
    /// Another process holds the folder.
    InUse {
        /// The run folder.
        path: PathBuf,
        /// The other process, when its id can be read.
        pid: Option<u32>,
    },
    /// A file is not what was committed.
    Damaged {
        /// The file or folder.
        path: PathBuf,
        /// Expected and found.
        why: String,
    },
    /// Model or data files differ from those the run began with.
    Changed(Vec<Change>),
    /// No run has logged a metric.
    NoMetric {
        /// As it was asked for.
        metric: String,
        /// Those that were logged.
        known: Vec<String>,
    },
}

impl Error {
    /// The process exit code for this error: 2 usage, 3 data, 6 files and disk.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::NotEmpty(_) | Error::NotARun(_) | Error::NoRun(_) | Error::NoMetric { .. } => 2,
            Error::Changed(_) => 3,
            Error::Io { .. } | Error::InUse { .. } | Error::Damaged { .. } => 6,
        }
    }

    pub(crate) fn damaged(path: &Path, why: impl Into<String>) -> Error {
        Error::Damaged { path: path.to_path_buf(), why: why.into() }
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
            Error::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}", path.display())?;
                match source.kind() {
                    io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => f.write_str(
                        "; committed checkpoints are intact and nothing half written is kept: free space or lower save_total_limit, then resume",
                    ),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                        f.write_str("; choose an output_dir you may write to")
                    }
                    io::ErrorKind::NotADirectory => f.write_str("; a part of the path is a file, not a folder"),
                    _ => Ok(()),
                }
            }
            Error::NotEmpty(path) => write!(
                f,
                "run folder {} already holds a run; continue it with `resume`, replace it with `overwrite_output_dir: true`, or choose another output_dir",
                path.display()
            ),
            Error::NotARun(path) => write!(
                f,
                "{} holds files but is not a run folder (it has no status.json), so it is neither resumed nor overwritten; choose another output_dir",
                path.display()
            ),
            Error::NoRun(path) => {
                write!(f, "no run folder at {}; give the output_dir of an earlier run", path.display())
            }
            Error::InUse { path, pid: Some(pid) } => write!(
                f,
                "run folder {} is in use by process {pid}; wait for it, stop it (SIGTERM saves and exits), or choose another output_dir",
                path.display()
            ),
            Error::InUse { path, pid: None } => write!(
                f,
                "run folder {} is in use by another process; wait for it, stop it, or choose another output_dir",
                path.display()
            ),
            Error::Damaged { path, why } => write!(f, "{} is damaged: {why}", path.display()),
            Error::Changed(changes) => {
                f.write_str("the files of this run have changed since it began:")?;
                for change in changes {
                    write!(f, "\n  {change}")?;
                }
                f.write_str("\nrestore them, or start a new run with another output_dir")
            }
            Error::NoMetric { metric, known } => {
                write!(f, "no run has logged a metric {metric}; there are: {}", known.join(", "))
            }
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
