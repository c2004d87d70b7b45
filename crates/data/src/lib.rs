//! From files to token rows: formats, chat templates, tokenising, pairing, order.
//!
//! ```text
//! source::resolve -> tokenise::load -> Dataset -> split::split -> order::Order, pairing::{group, trl} | packing::pack
//! ```
//! Nothing here knows a device, a model or an objective, and nothing read from a file is ever executed.
#![forbid(unsafe_code)]

pub mod clock;
pub mod dataset;
pub mod error;
pub mod format;
pub mod locate;
pub mod order;
pub mod packing;
pub mod pairing;
pub mod rng;
pub mod source;
pub mod split;
pub mod template;
pub mod tokenise;
pub mod tokenizer;

pub use clock::Clock;
pub use dataset::{Dataset, Report, Row};
pub use error::{Error, Result};
pub use format::{Body, Example, Task};
pub use order::{Order, Shuffle, Step};
pub use template::{ChatTemplate, RenderInput};
pub use tokenise::{OnBadRow, Options, Truncation, encode_prompt, load, read_examples};
pub use tokenizer::Tokenizer;
