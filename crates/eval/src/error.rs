//! What can go wrong in an evaluation.

use crate::PromptType;
use crate::benchmark::Benchmark;
use std::fmt;
use std::path::{Path, PathBuf};

/// An error of this crate.
#[derive(Debug)]
pub enum Error {
    /// A benchmark's name is not known.
    UnknownBenchmark {
        /// The name given.
        name: String,
    },
    /// A prompt type's name is not known.
    UnknownPromptType {
        /// The name given.
        name: String,
    },
    /// A row lacks a field, or has it with another type.
    Field {
        /// The field.
        name: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A row of a file cannot be used.
    Row {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong with it.
        reason: String,
    },
    /// A benchmark's file cannot be used as a whole.
    Task {
        /// The file.
        path: PathBuf,
        /// Expected, found, what to do.
        reason: String,
    },
    /// A setting is out of its range.
    Setting {
        /// Its name on the command line.
        name: &'static str,
        /// Expected and found.
        reason: String,
    },
    /// The results that are there are of another evaluation.
    OtherRun {
        /// The file with the results.
        path: PathBuf,
        /// What differs.
        reason: String,
    },
    /// A file that could not be read or written.
    Io {
        /// `read` or `write`.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// The YAML of a benchmark.
    Config(config::Errors),
    /// Data files, the tokenizer, or its chat template.
    Data(data::Error),
    /// The model.
    Infer(infer::Error),
}

impl Error {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownBenchmark { .. }
            | Self::UnknownPromptType { .. }
            | Self::Setting { .. }
            | Self::OtherRun { .. } => 2,
            Self::Field { .. } | Self::Row { .. } | Self::Task { .. } => 3,
            Self::Io { .. } => 6,
            Self::Config(e) => e.exit_code(),
            Self::Data(e) => e.exit_code(),
            Self::Infer(e) => e.exit_code(),
        }
    }

    /// For `map_err`: what failed with which file.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownBenchmark { name } => {
                let known = Benchmark::ALL.map(Benchmark::name).join(", ");
                write!(f, "benchmark `{name}` is not known; there are {known}, and any YAML file that describes one")
            }
            Self::UnknownPromptType { name } => {
                let known = PromptType::ALL.map(PromptType::name).join(", ");
                write!(f, "prompt type `{name}` is not known; there are {known}")
            }
            Self::Field { name, expected } => write!(
                f,
                "field `{name}` of a benchmark row: expected {expected}; check that the file belongs to the benchmark"
            ),
            Self::Row { path, line, reason } => write!(f, "{}:{line}: {reason}", path.display()),
            Self::Task { path, reason } => write!(f, "{}: {reason}", path.display()),
            Self::Setting { name, reason } => write!(f, "{name}: {reason}"),
            Self::OtherRun { path, reason } => write!(
                f,
                "{} holds results of another evaluation: {reason}; give another --output, or --overwrite to begin anew",
                path.display()
            ),
            Self::Io { action, path, source } => write!(f, "cannot {action} {}: {source}", path.display()),
            Self::Config(e) => e.fmt(f),
            Self::Data(e) => e.fmt(f),
            Self::Infer(e) => e.fmt(f),
        }
    }
}

impl std::error::Error for Error {}

impl From<config::Errors> for Error {
    fn from(e: config::Errors) -> Self {
        Self::Config(e)
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
