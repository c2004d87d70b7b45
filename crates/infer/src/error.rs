//! What can be wrong with a model folder, with a request, or with what a model answers.

use std::fmt;
use std::path::PathBuf;

/// A model that cannot be opened or a request that cannot be served.
#[derive(Debug)]
pub enum Error {
    /// Weight files or an adapter.
    Weights(weights::Error),
    /// The model.
    Model(model::Error),
    /// The tokenizer.
    Data(data::Error),
    /// The GPU.
    Device(kernels::cuda::Error),
    /// A tokenizer that does not belong to the model.
    Mismatch {
        /// What does not fit what.
        what: String,
    },
    /// A configuration file of the model folder.
    Configuration {
        /// The file.
        path: PathBuf,
        /// Expected and found.
        reason: String,
    },
    /// A file that could not be read.
    Io {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A prompt without tokens: there is nothing to continue.
    EmptyPrompt {
        /// Index of the request.
        request: usize,
    },
    /// A token the model has no embedding for.
    UnknownToken {
        /// Index of the request.
        request: usize,
        /// The token.
        token: u32,
        /// Embeddings of the model.
        vocabulary: usize,
    },
    /// Prompt and answer together are longer than the model's positions or than the whole cache.
    TooLong {
        /// Index of the request.
        request: usize,
        /// Tokens of the prompt.
        prompt: usize,
        /// Tokens that were asked for.
        max_new_tokens: usize,
        /// Tokens there is room for.
        room: usize,
        /// What has no more room, as in `the cache`.
        limit: &'static str,
    },
    /// A sampling parameter out of its range.
    Sampling {
        /// Index of the request.
        request: usize,
        /// Its name.
        parameter: &'static str,
        /// The range.
        expected: &'static str,
        /// Its value.
        found: f64,
    },
    /// The model gave a logit that is not finite.
    NotFinite {
        /// Index of the request.
        request: usize,
        /// Tokens that were generated before.
        generated: usize,
    },
}

impl Error {
    /// Exit code of the process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Weights(e) => e.exit_code(),
            Error::Model(e) => e.exit_code(),
            Error::Data(e) => e.exit_code(),
            Error::Device(e) => e.exit_code(),
            Error::Sampling { .. } => 2,
            Error::Configuration { .. }
            | Error::Mismatch { .. }
            | Error::EmptyPrompt { .. }
            | Error::UnknownToken { .. }
            | Error::TooLong { .. } => 3,
            Error::NotFinite { .. } => 5,
            Error::Io { .. } => 6,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Weights(e) => e.fmt(f),
            Error::Model(e) => e.fmt(f),
            Error::Data(e) => e.fmt(f),
            Error::Device(e) => e.fmt(f),
            Error::Mismatch { what } => f.write_str(what),
            Error::Configuration { path, reason } => write!(f, "{}: {reason}", path.display()),
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
            Error::EmptyPrompt { request } => {
                write!(
                    f,
                    "prompt {request}: expected at least one token, found none; give the model a text to continue"
                )
            }
            Error::UnknownToken { request, token, vocabulary } => write!(
                f,
                "prompt {request}: expected token ids below {vocabulary}, found {token}; tokenizer and model do not belong together"
            ),
            Error::TooLong { request, prompt, max_new_tokens, room, limit } => write!(
                f,
                "prompt {request}: {prompt} tokens and up to {max_new_tokens} new ones exceed {limit} of {room}; \
                 shorten the prompt or lower max_new_tokens"
            ),
            Error::Sampling { request, parameter, expected, found } => {
                write!(f, "prompt {request}: {parameter}: expected {expected}, found {found}")
            }
            Error::NotFinite { request, generated } => write!(
                f,
                "prompt {request}: the model's logits are not finite after {generated} new tokens; \
                 its weights hold infinities or NaN, or training has diverged"
            ),
        }
    }
}

impl std::error::Error for Error {}

impl From<weights::Error> for Error {
    fn from(e: weights::Error) -> Error {
        Error::Weights(e)
    }
}

impl From<kernels::cuda::Error> for Error {
    fn from(e: kernels::cuda::Error) -> Error {
        Error::Device(e)
    }
}

impl From<data::Error> for Error {
    fn from(e: data::Error) -> Error {
        Error::Data(e)
    }
}

impl From<model::Error> for Error {
    fn from(e: model::Error) -> Error {
        Error::Model(e)
    }
}
