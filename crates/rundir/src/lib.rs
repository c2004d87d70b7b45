//! The run folder: checkpoints, locks, logs, plots.
//!
//! A leaf of the house: it knows bytes and JSON, never a model, a tensor or a configuration key's meaning.
//!
//! ```text
//! RUN/
//!   config.yaml        the resolved configuration
//!   inputs/            the files given, verbatim (big ones as path, length and hash in inputs.json)
//!   lock.json          hashes of model and data, version, CPU features, threads, plan
//!   status.json        started, ended, exit code, step: what `runs ls` reads
//!   log.jsonl          one object per logged step
//!   train.log          the same as text
//!   plots/             SVG and PNG
//!   checkpoint-N/      committed atomically, sealed by MANIFEST.json
//!   final/             the result, committed the same way
//!   README.md          the model card
//!   .lock              held by the process that trains; free again when it dies
//!   .tmp-*, .old-*     unfinished work of a killed process, cleared when the folder is next opened
//!   .begins, .begun    a run that was killed while it took an earlier one's place; finished when the folder is next opened
//! ```
#![forbid(unsafe_code)]

mod begin;
pub mod card;
pub mod checkpoint;
mod crc;
mod disk;
mod error;
pub mod folder;
pub mod hash;
pub mod lock;
pub mod log;
pub mod plot;
pub mod published;
pub mod runs;
pub mod status;
pub mod tensorboard;
pub mod time;

pub use begin::settle;
pub use checkpoint::{Checkpoint, PassedOver, Staging, newest_verified, verify};
pub use error::Error;
pub use folder::{Opening, RunFolder};
pub use log::LineLog;
pub use status::Status;

#[cfg(test)]
pub(crate) mod scratch;
