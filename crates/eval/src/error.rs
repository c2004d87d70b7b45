//! What can go wrong in an evaluation.

use crate::benchmark::Benchmark;
use std::fmt;

/// An error of this crate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A benchmark's name is not known.
    UnknownBenchmark {
        /// The name given.
        name: String,
    },
    /// A row lacks a field, or has it with another type.
    Field {
        /// The field.
        name: &'static str,
        /// What it should be.
        expected: &'static str,
    },
}

impl Error {
    /// The process's exit code: 2 usage, 3 data.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::UnknownBenchmark { .. } => 2,
            Self::Field { .. } => 3,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownBenchmark { name } => {
                let known = Benchmark::ALL.map(Benchmark::name).join(", ");
                write!(f, "benchmark `{name}` is not known; there are {known}")
            }
            Self::Field { name, expected } => write!(
                f,
                "field `{name}` of a benchmark row: expected {expected}; check that the file belongs to the benchmark"
            ),
        }
    }
}

impl std::error::Error for Error {}
