//! What can end a run, and with which exit code.

use kernels::OutOfMemory;
use std::fmt;
use std::path::PathBuf;

/// A run that cannot go on.
#[derive(Debug)]
pub enum Error {
    /// The data.
    Data(data::Error),
    /// The GPU.
    Device(kernels::cuda::Error),
    /// The model.
    Model(model::Error),
    /// A model that is asked.
    Infer(infer::Error),
    /// Weight files.
    Weights(weights::Error),
    /// The run folder.
    RunDir(rundir::Error),
    /// A loss setting or the self-test.
    Objective(objective::Error),
    /// The learning-rate schedule.
    Schedule(optim::schedule::Error),
    /// Another rank.
    Dist(dist::Error),
    /// An adapter that does not fit the configuration.
    Adapter {
        /// Its folder.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Model and tokenizer, or model and settings, do not fit each other.
    Mismatch {
        /// What, expected, found, what to do.
        what: String,
    },
    /// A merged model does not compute what base and adapter compute.
    Merge {
        /// Where, by how much, and what to do.
        what: String,
    },
    /// No plan fits the memory.
    Memory {
        /// Bytes the smallest plan needs.
        needed: u64,
        /// Bytes there are.
        available: u64,
        /// The parts, and what to change.
        table: String,
    },
    /// A run's matrices took more than there was, in spite of the plan.
    OutOfMemory {
        /// Which buffer.
        found: OutOfMemory,
        /// What was planned, and what to change.
        table: String,
    },
    /// The same of a GPU's.
    GpuMemory {
        /// How much.
        found: kernels::cuda::Error,
        /// What was planned, and what to change.
        table: String,
    },
    /// A loss, log-probability or gradient is infinite or not a number.
    NotFinite {
        /// Which quantity.
        what: String,
        /// The step, from 1.
        step: u64,
        /// The samples, as `file:line`.
        samples: Vec<String>,
    },
    /// `kl_stop` was passed; the state was saved.
    KlStop {
        /// The step, from 1.
        step: u64,
        /// `z0`, nats per completion.
        kl: f64,
        /// The threshold.
        limit: f64,
    },
    /// A file that has to be read or written.
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Error {
    /// Exit code of the process that ends with this error.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Data(e) => e.exit_code(),
            Error::Device(e) => e.exit_code(),
            Error::Model(e) => e.exit_code(),
            Error::Infer(e) => e.exit_code(),
            Error::Weights(e) => e.exit_code(),
            Error::RunDir(e) => e.exit_code(),
            Error::Objective(e) => e.exit_code(),
            Error::Schedule(e) => e.exit_code(),
            Error::Dist(e) => e.exit_code(),
            Error::Adapter { .. } | Error::Mismatch { .. } => 2,
            Error::Memory { .. } | Error::OutOfMemory { .. } | Error::GpuMemory { .. } => 4,
            Error::Merge { .. } | Error::NotFinite { .. } | Error::KlStop { .. } => 5,
            Error::Io { .. } => 6,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Data(e) => e.fmt(f),
            Error::Device(e) => e.fmt(f),
            Error::Model(e) => e.fmt(f),
            Error::Infer(e) => e.fmt(f),
            Error::Weights(e) => e.fmt(f),
            Error::RunDir(e) => e.fmt(f),
            Error::Objective(e) => e.fmt(f),
            Error::Schedule(e) => e.fmt(f),
            Error::Dist(e) => e.fmt(f),
            Error::Adapter { path, what } => write!(f, "{}: {what}", path.display()),
            Error::Mismatch { what } | Error::Merge { what } => f.write_str(what),
            Error::Memory { needed, available, table } => {
                write!(
                    f,
                    "not enough memory: the smallest plan needs {} MB, {} MB may be used\n{table}",
                    needed >> 20,
                    available >> 20
                )
            }
            Error::OutOfMemory { found: OutOfMemory { wanted, alive, limit }, table } => {
                let of = limit
                    .map_or("the system has no more".to_owned(), |l| format!("{} MB may be used for them", l >> 20));
                let (wanted, alive) = (wanted.div_ceil(1 << 20), alive >> 20);
                write!(
                    f,
                    "out of memory: {wanted} MB more for matrices that take {alive} MB; {of}. This was planned:\n{table}"
                )
            }
            Error::GpuMemory { found, table } => write!(f, "{found}. This was planned:\n{table}"),
            Error::NotFinite { what, step, samples } => {
                write!(
                    f,
                    "step {step}: {what} is not finite; nothing was updated and the last checkpoint is intact\n  samples of the step: {}",
                    samples.join(", ")
                )?;
                f.write_str("\n  lower the learning rate, check these samples, or resume from an earlier checkpoint")
            }
            Error::KlStop { step, kl, limit } => {
                write!(
                    f,
                    "step {step}: kl {kl:.3} nats passed kl_stop {limit}; the state was saved\n  try loss_type: kto_s, a larger beta, or a smaller learning_rate"
                )
            }
            Error::Io { doing, path, source } => write!(f, "cannot {doing} {}: {source}", path.display()),
        }
    }
}

impl std::error::Error for Error {}

macro_rules! from {
    ($($variant:ident <- $source:ty),*) => {$(
        impl From<$source> for Error {
            fn from(e: $source) -> Error {
                Error::$variant(e)
            }
        }
    )*};
}

from!(Data <- data::Error, Device <- kernels::cuda::Error, Dist <- dist::Error, Model <- model::Error, Infer <- infer::Error, Weights <- weights::Error, RunDir <- rundir::Error, Objective <- objective::Error, Schedule <- optim::schedule::Error);
