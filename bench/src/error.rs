//! What can go wrong while measuring.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why nothing more is measured.
#[derive(Debug)]
pub(crate) enum Error {
    /// A configuration of ours is refused.
    Config(config::Errors),
    /// The library refuses a job.
    Train(train::Error),
    /// A model cannot be built.
    Model(model::Error),
    /// A model cannot be written or read.
    Weights(weights::Error),
    /// The GPU.
    Device(kernels::cuda::Error),
    /// A file that has to be read or written.
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
    /// A program that is measured ended badly, or said something else than was expected.
    Child { command: String, what: String },
    /// Arguments that do not fit together.
    Usage(String),
}

impl Error {
    /// For `map_err` of file operations.
    pub(crate) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Error::Io { doing, path: path.to_owned(), source }
    }

    /// Exit code of the process that ends with this error.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Error::Config(_) | Error::Usage(_) => 2,
            Error::Train(e) => e.exit_code(),
            Error::Model(e) => e.exit_code(),
            Error::Weights(e) => e.exit_code(),
            Error::Device(e) => e.exit_code(),
            Error::Io { .. } => 6,
            Error::Child { .. } => 7,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(e) => e.fmt(f),
            Error::Train(e) => e.fmt(f),
            Error::Model(e) => e.fmt(f),
            Error::Weights(e) => e.fmt(f),
            Error::Device(e) => e.fmt(f),
            Error::Io { doing, path, source } => write!(f, "cannot {doing} {}: {source}", path.display()),
            Error::Child { command, what } => write!(f, "{command}: {what}"),
            Error::Usage(what) => f.write_str(what),
        }
    }
}

impl From<config::Errors> for Error {
    fn from(e: config::Errors) -> Error {
        Error::Config(e)
    }
}
impl From<train::Error> for Error {
    fn from(e: train::Error) -> Error {
        Error::Train(e)
    }
}
impl From<model::Error> for Error {
    fn from(e: model::Error) -> Error {
        Error::Model(e)
    }
}
impl From<kernels::cuda::Error> for Error {
    fn from(e: kernels::cuda::Error) -> Error {
        Error::Device(e)
    }
}
impl From<weights::Error> for Error {
    fn from(e: weights::Error) -> Error {
        Error::Weights(e)
    }
}
