//! The prospect command line.
#![forbid(unsafe_code)]
fn main() {}
