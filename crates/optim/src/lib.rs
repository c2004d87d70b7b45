//! Optimisers over ranges of a flat arena, learning-rate schedules, clipping.
#![forbid(unsafe_code)]

pub mod adamw;
pub mod schedule;
