//! The whole story in three minutes, nothing faked.
#![forbid(unsafe_code)]

mod error;
mod exam;
pub mod grade;
pub mod init;
pub mod problems;
mod recipe;
pub mod report;
#[cfg(test)]
mod scratch;
mod story;
pub mod tokenizer;
mod trial;

pub use error::Error;
pub use recipe::{Recipe, Training};
pub use report::Report;
pub use story::{Event, Settings, run};
pub use trial::{Trial, trial};
