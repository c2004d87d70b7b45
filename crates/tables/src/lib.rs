//! Parquet and Arrow files as rows of JSON, both ways.
//!
//! Reading streams row groups and record batches; rows come out as JSON objects whatever the columns' physical types are.
//! Writing takes a [`Kind`] inferred from the rows themselves and adds the schema metadata by which `datasets` knows its own.
#![forbid(unsafe_code)]

mod cell;
mod column;
mod error;
mod features;
mod kind;
mod pages;
mod read;
mod thrift;
mod write;

pub use error::{Error, Result};
pub use kind::Kind;
pub use read::{Format, Rows, is_decoding};
pub use write::{ArrowStream, Parquet, dataset_info, dataset_state};
