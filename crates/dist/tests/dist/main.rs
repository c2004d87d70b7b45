//! Every engine against the same conformance suite, the fixed tree, shards, dealing, launchers.

mod conformance;
mod estimates;
mod launchers;
mod sums;
