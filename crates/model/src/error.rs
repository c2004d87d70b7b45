//! What can be wrong with a model folder, beyond its files.

use std::fmt;

/// A model that cannot be built.
#[derive(Debug)]
pub enum Error {
    /// `model_type` is none of ours.
    UnknownArchitecture {
        /// What the configuration says.
        found: String,
    },
    /// A configuration key is missing, has the wrong type, or has a value that is not implemented.
    Config {
        /// The key.
        key: String,
        /// Expected, found, what to do.
        what: String,
    },
    /// The weights do not fit.
    Weights(weights::Error),
    /// A stored dtype that cannot be computed with.
    Dtype {
        /// The tensor.
        tensor: String,
        /// Its dtype.
        found: String,
    },
    /// An adapter that does not fit the model.
    Adapter {
        /// What does not fit.
        what: String,
    },
}

impl Error {
    /// Exit code of the process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Weights(e) => e.exit_code(),
            Error::UnknownArchitecture { .. } | Error::Config { .. } | Error::Adapter { .. } => 2,
            Error::Dtype { .. } => 6,
        }
    }

    pub(crate) fn config(key: &str, what: impl Into<String>) -> Error {
        Error::Config { key: key.to_owned(), what: what.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::UnknownArchitecture { found } => {
                write!(
                    f,
                    "config.json: model_type: {found:?} is not supported; supported are {}",
                    crate::arch::NAMES.join(", ")
                )
            }
            Error::Config { key, what } => write!(f, "config.json: {key}: {what}"),
            Error::Weights(e) => e.fmt(f),
            Error::Dtype { tensor, found } => {
                write!(f, "tensor {tensor:?}: expected f32, bf16 or f16, found {found}; convert the checkpoint")
            }
            Error::Adapter { what } => write!(f, "adapter: {what}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<weights::Error> for Error {
    fn from(e: weights::Error) -> Error {
        Error::Weights(e)
    }
}
