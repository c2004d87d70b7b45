//! What can be wrong with a setting or with the first step.

use std::fmt;

/// An error a user can act on.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// A setting outside its domain.
    Setting {
        /// The configuration key.
        key: &'static str,
        /// What was given.
        value: f64,
        /// What is accepted.
        expected: &'static str,
    },
    /// The step-0 self-test failed.
    SelfTest {
        /// Index of the row within the step; `None` for the KL estimate.
        row: Option<usize>,
        /// The quantity that was compared.
        what: &'static str,
        /// Its value by definition.
        expected: f64,
        /// What was computed.
        found: f64,
    },
    /// A saved logging window names a metric this version does not have.
    UnknownMetric {
        /// The name as it was read.
        name: String,
    },
}

impl Error {
    /// The process's exit code: 2 configuration, 5 numerics, 6 files.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Setting { .. } => 2,
            Error::SelfTest { .. } => 5,
            Error::UnknownMetric { .. } => 6,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Setting { key, value, expected } => write!(f, "{key}: expected {expected}, found {value}"),
            Error::SelfTest { row, what, expected, found } => {
                write!(f, "step-0 self-test: {what}")?;
                if let Some(row) = row {
                    write!(f, " of row {row} of the first step")?;
                }
                write!(
                    f,
                    ": expected exactly {expected}, found {found}; policy and reference are the same model before the \
                     first update, so cached reference log-probabilities or the adapter do not belong to this model"
                )
            }
            Error::UnknownMetric { name } => write!(
                f,
                "saved logging window: expected one of this version's metrics, found `{name}`; resume with the \
                 version that wrote the checkpoint"
            ),
        }
    }
}

impl std::error::Error for Error {}
