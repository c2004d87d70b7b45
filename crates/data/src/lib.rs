//! From files to token rows: formats, chat templates, tokenising, pairing, order.
//!
//! ```text
//! source::resolve -> tokenise::load -> Dataset -> split::split -> order::Order, pairing::{group, trl} | packing::pack
//! ```
//! Nothing here knows a device, a model or an objective, and nothing read from a file is ever executed.
#![forbid(unsafe_code)]

mod added;
mod answers;
pub mod cache;
pub mod clock;
pub mod dataset;
mod encode;
pub mod error;
pub mod format;
mod frames;
mod journal;
pub mod locate;
pub mod order;
pub mod packing;
pub mod pairing;
mod read;
pub mod registry;
pub mod rng;
pub mod sink;
pub mod source;
pub mod split;
pub mod template;
mod tiktoken;
pub mod tokenise;
pub mod tokenizer;
pub mod tools;
mod words;

pub use added::{NewToken, write_tokens};
pub use answers::AnswerFile;
pub use cache::load_cached;
pub use clock::Clock;
pub use dataset::{Dataset, Report, Row};
pub use encode::encode_prompt;
pub use error::{Error, Result};
pub use format::mapping::{Mapping, Tags};
pub use format::{Body, Example, Shape, Task};
pub use order::{Order, Shuffle, Step};
pub use read::{Examples, read_examples};
pub use registry::{Registered, Registry};
pub use sink::{JsonRow, Sink, SplitSink, Written};
pub use template::{ChatTemplate, RenderInput};
pub use tokenise::{OnBadRow, Options, Truncation, TurnLoss, load};
pub use tokenizer::{Tokenizer, TokenizerFiles, tokenizer_json};
