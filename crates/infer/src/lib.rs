//! Generation with a key/value cache: many sequences at a time, each independent of the others.
//!
//! ```text
//! Request -> admitted when the cache has room (slots) -> prompt in pieces, then one row per token (generate)
//!         -> logits -> next token (sample) -> Output
//! ```
//! There is no padding and no phase: a step holds whatever rows the live sequences have to compute next, pieces of prompts
//! beside single tokens, up to a number of rows.
#![forbid(unsafe_code)]

mod error;
mod folder;
mod generate;
mod sample;
mod slots;

pub use error::Error;
pub use folder::{Model, stop_tokens};
pub use generate::{FinishReason, Generator, Limits, Output, Request};
pub use sample::Sampling;
