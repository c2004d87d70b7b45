//! Decoders: one file per architecture, named as in the checkpoint's `config.json`.
//!
//! An architecture is a function from `config.json` to a [`Blueprint`]; building, running and differentiating a blueprint is
//! the same for all. A decoder does not know which objective trains it.
#![forbid(unsafe_code)]

pub mod arch;
mod blueprint;
mod build;
mod config;
mod decoder;
mod error;
mod rope;

pub use blueprint::{Blueprint, ExpertLayout, ExpertSpec, LatentSpec, LayerSpec, Projection, SharedSpec};
pub use build::{
    Adapters, Biases, Built, Factors, Lending, Lent, LoraInit, Start, Storage, Tuning, Unfilled, initialise_lora, land,
};
pub use decoder::{Cache, Coefficients, Decoder, Forward, HeadPlan, Keep, Parts, Scores, Trace};
pub use error::Error;
pub use rope::{RopeScaling, RopeSpec};
