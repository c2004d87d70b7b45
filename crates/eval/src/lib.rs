//! Evaluation on benchmarks of mathematics: their rows and prompts, the answers' grading, the metrics, the reports.
//!
//! ```text
//! task (rows, gold) -> prompt -> candidate (generation) -> samples (journal) -> grader -> marks -> metrics, files, page
//! ```
//! A sample is written down when it is finished and graded when all are there, so a killed evaluation loses none, and
//! grading again costs no generation.
#![forbid(unsafe_code)]

pub mod benchmark;
mod candidate;
pub mod compare;
mod error;
mod files;
pub mod grader;
mod marks;
pub mod metrics;
mod page;
mod prompt;
mod run;
mod samples;
mod settings;
pub mod stats;
mod task;

pub use candidate::{Candidate, identity};
pub use error::Error;
pub use files::{RunFiles, final_result};
pub use marks::{Mark, Marked, Marks};
pub use page::overview;
pub use prompt::PromptType;
pub use run::{Event, Outcome, evaluate};
pub use samples::{Finish, Sample};
pub use settings::Settings;
pub use task::{Item, Slice, Task};
