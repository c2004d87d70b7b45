//! Evaluation on benchmarks of mathematics: their rows and prompts, the answers' grading, the metrics.
//!
//! ```text
//! benchmark row -> prompt -> (generation) -> grader::extract -> grader::grade -> metrics
//! ```
#![forbid(unsafe_code)]

pub mod benchmark;
mod error;
pub mod grader;

pub use error::Error;
