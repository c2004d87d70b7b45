//! What can go wrong in a demonstration: a stage's own error, or its files.

use std::fmt;
use std::path::PathBuf;

/// A demonstration that cannot go on.
#[derive(Debug)]
pub enum Error {
    /// Reading rows or rendering prompts.
    Data(data::Error),
    /// Training the tokenizer.
    Tokenizer(String),
    /// The model.
    Model(model::Error),
    /// Its files.
    Weights(weights::Error),
    /// Answering.
    Generate(infer::Error),
    /// A configuration of ours that is refused.
    Configuration(config::Errors),
    /// Training.
    Train(train::Error),
    /// The output folder holds something already.
    OutputExists {
        /// The folder.
        path: PathBuf,
    },
    /// It was stopped while training.
    Stopped {
        /// The run folder, which can be resumed.
        run: PathBuf,
    },
    /// All practice answers are right, or all are wrong: nothing to learn from.
    OneClass {
        /// Right answers.
        right: usize,
        /// Wrong answers.
        wrong: usize,
    },
    /// A folder or file of the demonstration.
    Io {
        /// Where.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// Exit code of the process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Data(e) => e.exit_code(),
            Error::Tokenizer(_) => 3,
            Error::Model(e) => e.exit_code(),
            Error::Weights(e) => e.exit_code(),
            Error::Generate(e) => e.exit_code(),
            Error::Train(e) => e.exit_code(),
            Error::Configuration(_) | Error::OutputExists { .. } => 2,
            Error::OneClass { .. } => 3,
            Error::Stopped { .. } => 75,
            Error::Io { .. } => 6,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Data(e) => e.fmt(f),
            Error::Tokenizer(reason) => write!(f, "the tokenizer could not be trained: {reason}"),
            Error::Model(e) => e.fmt(f),
            Error::Weights(e) => e.fmt(f),
            Error::Generate(e) => e.fmt(f),
            Error::Configuration(e) => e.fmt(f),
            Error::Train(e) => e.fmt(f),
            Error::OutputExists { path } => {
                write!(
                    f,
                    "{}: expected a folder that is not there yet, found files in it; name another one",
                    path.display()
                )
            }
            Error::Stopped { run } => write!(
                f,
                "stopped while training; `prospect resume {}` ends that run, the demonstration begins anew",
                run.display()
            ),
            Error::OneClass { right, wrong } => write!(
                f,
                "expected right and wrong answers to learn from, found {right} right and {wrong} wrong; change the recipe"
            ),
            Error::Io { path, source } => write!(f, "{}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

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

impl From<weights::Error> for Error {
    fn from(e: weights::Error) -> Error {
        Error::Weights(e)
    }
}

impl From<infer::Error> for Error {
    fn from(e: infer::Error) -> Error {
        Error::Generate(e)
    }
}

impl From<config::Errors> for Error {
    fn from(e: config::Errors) -> Error {
        Error::Configuration(e)
    }
}

impl From<train::Error> for Error {
    fn from(e: train::Error) -> Error {
        Error::Train(e)
    }
}
