//! The library's front door: plan, step, run.
//!
//! A run is a function: [`run`] takes a configuration and returns how it ended; what happens on the way is told to an observer
//! as [`Event`]s. A step is a function: [`step::preference_step`] and [`step::text_step`] take rows and return a report.
//!
//! From a program, as in `examples/train_from_preset.rs`:
//!
//! ```text
#![doc = include_str!("../../../examples/train_from_preset.rs")]
//! ```
#![forbid(unsafe_code)]

mod companions;
mod context;
mod error;
mod evaluate;
pub mod gradient;
mod merge;
mod optimizer;
mod pace;
mod plan;
pub mod policy;
mod prepare;
mod quantise;
mod rehearse;
mod report;
mod run;
mod score;
mod sets;
mod simulate;
mod spread;
mod stages;
mod state;
pub mod step;
mod storage;
pub mod text;
mod validate;
mod vocabulary;
pub mod work;

pub use error::Error;
pub use kernels::cuda::{Error as GpuError, Measured, Options as GpuOptions, Played, examine as examine_gpu};
pub use kernels::{Heap, OutOfMemory};
pub use merge::{Merged, merge, probe_logits};
pub use optimizer::optimizer_of;
pub use pace::{Pace, Rates};
pub use plan::{Plan, Team, ask_gpu, learning_rates};
pub use prepare::{Job, Rows, loss_of};
pub use quantise::{QuantiseRequest, Quantised, quantise};
pub use rehearse::rehearse;
pub use report::{kept_words, opening};
pub use run::{Control, Ended, Event, run, run_on};
pub use score::{ScoreRow, rows_to_score, score};
pub use simulate::{Simulated, over_ranks, simulate};
pub use validate::{Finding, validate};
