//! The whole story in three minutes, nothing faked.
#![forbid(unsafe_code)]
