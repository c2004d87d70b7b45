//! Generation with a paged key/value cache: many sequences at a time, each independent of the others to the last bit.
//!
//! ```text
//! Request -> admitted when the cache has room (pages) -> prompt in pieces, then one row per token (engine)
//!         -> logits -> next token (sample) -> text as it comes (text), or all answers together (generate)
//! ```
//! There is no padding and no phase: a step holds whatever rows the live sequences have to compute next, pieces of prompts
//! beside single tokens, up to a number of rows.
//!
//! The front door, in `examples/generate.rs`:
//! ```text
#![doc = include_str!("../../../examples/generate.rs")]
//! ```
//! and in `examples/chat.rs`:
//! ```text
#![doc = include_str!("../../../examples/chat.rs")]
//! ```
#![forbid(unsafe_code)]

mod device;
mod engine;
mod error;
mod folder;
mod generate;
mod pages;
mod sample;
mod talk;
mod text;

pub use device::{Device, Draw, Placed};
pub use engine::{Drawn, Engine, FinishReason};
pub use error::Error;
pub use folder::{Defaults, Model, ModelEngine, ModelFolder};
pub use generate::{Generator, Limits, Output, Request, StopTexts};
pub use kernels::cuda::{Options as GpuOptions, Played};
pub use sample::{Sampling, TokenLogprobs};
pub use talk::Talk;
pub use text::{Ending, Writer, cut};
