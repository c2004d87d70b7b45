//! The grader: is the answer that a model gave the right one?
//!
//! ```text
//! generation -> extract (where the answer stands) -> normalise (one spelling) -> qwen | strict -> Verdict
//! ```
//! [`Mode::Qwen`] answers as the Qwen2.5-Math evaluation harness does, leniencies included, so that scores can be compared
//! with published ones. [`Mode::Strict`] answers what is mathematically right.

mod extract;
mod json;
mod math;
mod normalise;
mod qwen;
mod strict;
mod verdict;
mod words;

pub use extract::{Extracted, Place, boxed_answer, extract};
pub use normalise::normalise;
pub use verdict::{Answer, Mode, Row, Rule, Verdict, grade, normalise_gold};
