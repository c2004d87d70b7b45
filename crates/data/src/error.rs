//! What can go wrong between a file and a token row, each with the place, what was expected and what to do.

use std::fmt;
use std::path::PathBuf;

/// A position in a data file. Lines and columns count from 1; columns count characters. In a table (column 0) the line is the
/// number of the row, from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file as the user named it.
    pub file: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// Column in characters, from 1; 0 in a table.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.column {
            0 => write!(f, "{}: row {}", self.file.display(), self.line),
            column => write!(f, "{}:{}:{column}", self.file.display(), self.line),
        }
    }
}

/// Any failure of this crate.
#[derive(Debug)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    Io {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// A file or folder could not be written.
    Write {
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// No data file was found where the user pointed.
    NoFiles {
        /// The file or folder asked for.
        path: PathBuf,
        /// What was looked for, what was found, what to do.
        reason: String,
    },
    /// A row of a data file cannot be used.
    Row {
        /// Where it is.
        place: Place,
        /// The offending field (`messages[1].content`), empty when the whole row is meant.
        field: String,
        /// Expected, found, and what to do.
        reason: String,
    },
    /// A Parquet or Arrow file cannot be read or written.
    Table(tables::Error),
    /// All rows were read and none can be trained on.
    NothingToTrain {
        /// What became of the rows, the first of them, and what to do.
        reason: String,
    },
    /// A tokenizer folder cannot be used.
    Tokenizer {
        /// The offending file or folder.
        path: PathBuf,
        /// Expected, found, and what to do.
        reason: String,
    },
    /// A chat template does not compile or does not render.
    Template(TemplateError),
    /// The work was stopped by whoever asked for it; nothing stands under the output's name.
    Stopped {
        /// Whether what was done is kept, so that the same call goes on from there.
        kept: bool,
    },
    /// A setting is impossible, before any data are read.
    Setting {
        /// The configuration key.
        key: &'static str,
        /// Expected, found, and what to do.
        reason: String,
    },
}

/// Why a chat template failed, in the categories a template author knows from Jinja.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TemplateError {
    /// The category.
    pub kind: TemplateErrorKind,
    /// Line of the template, from 1; 0 when unknown.
    pub line: usize,
    /// What happened.
    pub reason: String,
}

/// The category of a [`TemplateError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TemplateErrorKind {
    /// The template is not valid Jinja.
    Syntax,
    /// The template itself refused the conversation with `raise_exception`.
    Raised,
    /// An operation on a value of the wrong type, or on one that is undefined.
    Type,
    /// The template ran too long or wrote too much.
    Limit,
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            TemplateErrorKind::Syntax => "the chat template is not valid",
            TemplateErrorKind::Raised => "the chat template refuses this conversation",
            TemplateErrorKind::Type => "the chat template cannot render this conversation",
            TemplateErrorKind::Limit => "the chat template was stopped",
        };
        match self.line {
            0 => write!(f, "{what}: {}", self.reason),
            line => write!(f, "{what} (template line {line}): {}", self.reason),
        }
    }
}

impl Error {
    /// The process exit code: 2 configuration, 3 data, 6 files, 75 stopped and kept, 130 stopped.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Setting { .. } => 2,
            Error::NoFiles { .. } | Error::Row { .. } | Error::NothingToTrain { .. } | Error::Template(_) => 3,
            Error::Io { .. } | Error::Write { .. } | Error::Tokenizer { .. } => 6,
            Error::Table(e) => e.exit_code(),
            Error::Stopped { kept: true } => 75,
            Error::Stopped { kept: false } => 130,
        }
    }
}

impl Error {
    /// Whether the same call, made again, can go on with what was done before this happened: it was stopped, or a disk was full.
    pub(crate) fn may_go_on(&self) -> bool {
        matches!(self, Error::Stopped { .. } | Error::Write { .. } | Error::Table(tables::Error::Io { .. }))
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { path, source } => write!(f, "cannot read {}: {source}", path.display()),
            Error::Write { path, source } => write!(f, "cannot write {}: {source}", path.display()),
            Error::NoFiles { path, reason } => write!(f, "{}: {reason}", path.display()),
            Error::Row { place, field, reason } if field.is_empty() => write!(f, "{place}: {reason}"),
            Error::Row { place, field, reason } => write!(f, "{place}: field `{field}`: {reason}"),
            Error::Table(e) => e.fmt(f),
            Error::NothingToTrain { reason } => f.write_str(reason),
            Error::Tokenizer { path, reason } => write!(f, "{}: {reason}", path.display()),
            Error::Template(e) => e.fmt(f),
            Error::Stopped { kept: true } => f.write_str("stopped; the same command goes on where it stopped"),
            Error::Stopped { kept: false } => f.write_str("stopped; nothing was written"),
            Error::Setting { key, reason } => write!(f, "`{key}`: {reason}"),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Error::Io { source, .. } | Error::Write { source, .. } => Some(source),
            Error::Table(e) => Some(e),
            _ => None,
        }
    }
}

impl From<tables::Error> for Error {
    fn from(e: tables::Error) -> Self {
        Error::Table(e)
    }
}

impl From<TemplateError> for Error {
    fn from(e: TemplateError) -> Self {
        Error::Template(e)
    }
}

/// `std::result::Result` with this crate's error.
pub type Result<T> = std::result::Result<T, Error>;
