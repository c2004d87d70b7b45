//! Every engine against the same conformance suite, the fixed tree, shards, dealing, launchers, what is measured.

mod conformance;
mod estimates;
mod launchers;
mod meeting;
mod probing;
mod sums;
