//! Everything that can go wrong between a model folder and memory.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use crate::dtype::DType;
use crate::header::Fault;

/// A model file that cannot be read, written or used; the message says which, why, and what to do.
#[derive(Debug)]
pub enum Error {
    /// The operating system refused.
    Io {
        /// What was being done, as in "cannot {action} {path}".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A safetensors file that breaks its format.
    Safetensors {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: Fault,
    },
    /// A JSON file that does not parse or does not hold what it should.
    Json {
        /// The file.
        path: PathBuf,
        /// Line, from 1; 0 when there is none.
        line: usize,
        /// Column, from 1; 0 when there is none.
        column: usize,
        /// What was found and expected.
        what: String,
    },
    /// A folder that holds no weights that can be read.
    NoWeights {
        /// The folder.
        dir: PathBuf,
        /// What it holds instead and what to do.
        what: String,
    },
    /// A shard name that is not a plain file name.
    ShardName {
        /// The index file that holds it.
        index: PathBuf,
        /// The name as it stands there.
        name: String,
        /// Which rule it breaks.
        why: &'static str,
    },
    /// A shard that the index names and the folder lacks.
    MissingShard {
        /// The shard.
        path: PathBuf,
        /// A tensor that should be in it.
        tensor: String,
    },
    /// A tensor that is asked for and not there.
    MissingTensor {
        /// The file or folder.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The most similar name that is there.
        nearest: Option<String>,
    },
    /// Two files of one checkpoint hold a tensor of the same name.
    DuplicateTensor {
        /// The tensor.
        name: String,
        /// The first file.
        first: PathBuf,
        /// The second file.
        second: PathBuf,
    },
    /// A tensor of another shape than the model needs.
    Shape {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The model's shape.
        expected: Vec<usize>,
        /// The file's shape.
        found: Vec<usize>,
    },
    /// A tensor of another element type than is needed.
    Type {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// What would do.
        expected: &'static str,
        /// The file's type.
        found: DType,
    },
    /// A tensor that cannot be used in place because it starts at an odd byte.
    Misaligned {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// Its element type.
        dtype: DType,
    },
    /// A setting of an adapter or model that this program does not do.
    Unsupported {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Its value there.
        value: String,
        /// Why it matters and what to do.
        why: &'static str,
    },
    /// A quantised weight whose parts disagree or are not understood, or that cannot be made.
    Quantised {
        /// The folder or file.
        path: PathBuf,
        /// The tensor, and what is wrong.
        what: String,
    },
    /// An adapter whose files disagree with each other or with the base model.
    Adapter {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// A target that names no module of the model.
    NoTarget {
        /// The name or pattern.
        target: String,
        /// The distinct last parts of the model's module paths.
        modules: Vec<String>,
    },
    /// A target that is no regular expression.
    Pattern {
        /// The expression.
        pattern: String,
        /// Why it does not compile.
        why: String,
    },
    /// A merged weight that is no finite number in the stored type.
    NonFinite {
        /// The tensor.
        name: String,
        /// Its stored type.
        dtype: DType,
    },
    /// An output folder that is also an input.
    SameFolder {
        /// The folder.
        path: PathBuf,
    },
}

impl Error {
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { action, path: path.to_owned(), source }
    }

    pub(crate) fn json(path: &Path, what: impl Into<String>) -> Error {
        Error::Json { path: path.to_owned(), line: 0, column: 0, what: what.into() }
    }

    pub(crate) fn quantised(path: &Path, name: &str, what: impl Into<String>) -> Error {
        Error::Quantised { path: path.to_owned(), what: format!("{name}: {}", what.into()) }
    }

    pub(crate) fn adapter(path: &Path, what: impl Into<String>) -> Error {
        Error::Adapter { path: path.to_owned(), what: what.into() }
    }

    /// The exit status of a command that ends with this error: 2 configuration, 5 numerics, 6 files and disk.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Unsupported { .. } | Error::NoTarget { .. } | Error::Pattern { .. } | Error::SameFolder { .. } => 2,
            Error::NonFinite { .. } => 5,
            Error::Io { source, .. } if source.kind() == io::ErrorKind::OutOfMemory => 4,
            _ => 6,
        }
    }

    /// Whether the disk (or the quota on it) is full: space can be made and the write tried again.
    pub fn is_disk_full(&self) -> bool {
        matches!(self, Error::Io { source, .. }
            if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded))
    }
}

/// What a user can do about a refusal of the operating system, where that is not plain.
fn advice(kind: io::ErrorKind) -> &'static str {
    match kind {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space or choose another output folder"
        }
        io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
            "; check the folder's permissions or choose another one"
        }
        io::ErrorKind::NotFound => "; check the path",
        _ => "",
    }
}

/// What is there in a missing tensor's place.
fn similar(nearest: Option<&str>) -> String {
    nearest.map_or("it holds no tensor at all".to_owned(), |name| format!("the most similar name there is {name:?}"))
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Io { action, path, source } => {
                write!(f, "cannot {action} {}: {source}{}", path.display(), advice(source.kind()))
            }
            Error::Safetensors { path, fault } => {
                write!(f, "{}: not a valid safetensors file: {fault}", path.display())
            }
            Error::Json { path, line: 0, what, .. }
            | Error::Adapter { path, what }
            | Error::Quantised { path, what } => {
                write!(f, "{}: {what}", path.display())
            }
            Error::Json { path, line, column, what } => write!(f, "{}:{line}:{column}: {what}", path.display()),
            Error::NoWeights { dir, what } => write!(f, "{}: no weights to read: {what}", dir.display()),
            Error::ShardName { index, name, why } => write!(
                f,
                "{}: shard name {name:?} {why}; expected a plain file name such as \
                 \"model-00001-of-00002.safetensors\"; the index is damaged or not to be trusted",
                index.display()
            ),
            Error::MissingShard { path, tensor } => write!(
                f,
                "{}: shard is missing; the index says that {tensor:?} is in it; download the model again",
                path.display()
            ),
            Error::MissingTensor { path, name, nearest } => {
                write!(f, "{}: no tensor {name:?}; {}", path.display(), similar(nearest.as_deref()))
            }
            Error::DuplicateTensor { name, first, second } => write!(
                f,
                "tensor {name:?} is both in {} and in {}; remove the shard that is left from another save",
                first.display(),
                second.display()
            ),
            Error::Shape { path, name, expected, found } => write!(
                f,
                "{}: tensor {name:?} has shape {found:?}, expected {expected:?}; config.json and weights disagree",
                path.display()
            ),
            Error::Type { path, name, expected, found } => {
                write!(f, "{}: tensor {name:?} has type {found}, expected {expected}", path.display())
            }
            Error::Misaligned { path, name, dtype } => write!(
                f,
                "{}: tensor {name:?} of type {dtype} does not start at a multiple of its element size and cannot be \
                 used in place; save the file again",
                path.display()
            ),
            Error::Unsupported { path, key, value, why } => {
                write!(f, "{}: {key}: {value} is not supported: {why}", path.display())
            }
            Error::NoTarget { target, modules } => write!(
                f,
                "target module {target:?} matches no linear layer of this model, which has: {}",
                modules.join(", ")
            ),
            Error::Pattern { pattern, why } => {
                write!(f, "target modules {pattern:?} cannot be used as a regular expression: {why}")
            }
            Error::NonFinite { name, dtype } => write!(
                f,
                "merging {name:?} gives a value that is not finite in {dtype}; check the adapter, or store the result \
                 in BF16 or F32"
            ),
            Error::SameFolder { path } => {
                write!(f, "the output folder {} is also an input; choose another one", path.display())
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
