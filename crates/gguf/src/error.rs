//! What can go wrong with an export.

use std::fmt;
use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug)]
pub enum Error {
    /// A type's name is not known.
    UnknownType {
        /// The name given.
        name: String,
    },
    /// The model has something that llama.cpp's files cannot say.
    Unsupported {
        /// What it is, and what to do.
        reason: String,
    },
    /// The tokenizer cannot be expressed.
    Tokenizer {
        /// Its file.
        path: PathBuf,
        /// Expected, found, what to do.
        reason: String,
    },
    /// A GGUF file is damaged or of a kind that is not read.
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file was written and does not say what the model says.
    SelfTest {
        /// The file; it is removed.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// A file that could not be read or written.
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Weight files.
    Weights(weights::Error),
    /// The configuration.
    Model(model::Error),
    /// Tokenizer and template.
    Data(data::Error),
    /// The model as it computes.
    Train(train::Error),
    /// The model folder.
    Infer(infer::Error),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownType { .. } | Self::Unsupported { .. } => 2,
            Self::Tokenizer { .. } => 3,
            Self::SelfTest { .. } => 5,
            Self::Malformed { .. } | Self::Io { .. } => 6,
            Self::Weights(e) => e.exit_code(),
            Self::Model(e) => e.exit_code(),
            Self::Data(e) => e.exit_code(),
            Self::Train(e) => e.exit_code(),
            Self::Infer(e) => e.exit_code(),
        }
    }

    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownType { name } => {
                let known: Vec<&str> = crate::Mix::ALL.iter().map(|mix| mix.name()).collect();
                write!(f, "type `{name}` is not known; there are {}", known.join(", "))
            }
            Self::Unsupported { reason } => f.write_str(reason),
            Self::Tokenizer { path, reason } | Self::Malformed { path, reason } => {
                write!(f, "{}: {reason}", path.display())
            }
            Self::SelfTest { path, reason } => {
                write!(f, "{} was written, read back and removed again: {reason}", path.display())
            }
            Self::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            Self::Weights(e) => e.fmt(f),
            Self::Model(e) => e.fmt(f),
            Self::Data(e) => e.fmt(f),
            Self::Train(e) => e.fmt(f),
            Self::Infer(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<weights::Error> for Error {
    fn from(e: weights::Error) -> Self {
        Self::Weights(e)
    }
}

impl From<model::Error> for Error {
    fn from(e: model::Error) -> Self {
        Self::Model(e)
    }
}

impl From<data::Error> for Error {
    fn from(e: data::Error) -> Self {
        Self::Data(e)
    }
}

impl From<infer::Error> for Error {
    fn from(e: infer::Error) -> Self {
        Self::Infer(e)
    }
}

impl From<train::Error> for Error {
    fn from(e: train::Error) -> Self {
        Self::Train(e)
    }
}
