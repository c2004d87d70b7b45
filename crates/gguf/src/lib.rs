//! GGUF: model files for llama.cpp and Ollama.
//!
//! ```text
//! model folder -> plan (names, layout: tensors; types: mix) + vocab + metadata -> write -> read back -> check -> Modelfile
//! ```
//! Nothing of llama.cpp is needed: the quantisers give its bytes, and an export is believed only after the written file
//! was read back and computes what the model computes.
#![forbid(unsafe_code)]

mod check;
mod error;
mod export;
mod metadata;
mod mix;
mod modelfile;
pub mod quant;
mod read;
mod tensors;
mod value;
mod vocab;
mod write;

pub use check::Agreement;
pub use error::Error;
pub use export::{Event, Exported, export};
pub use mix::Mix;
pub use read::{Gguf, Info};
pub use value::{Metadata, Value, find};
