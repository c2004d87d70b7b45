//! What tests share: noise, tolerances, slopes by differences, reference tensors.
#![forbid(unsafe_code)]

mod close;
mod experts;
mod float;
mod noise;
mod slope;
mod tensors;

pub use close::{assert_close, largest_gap, tolerance};
pub use experts::stacked;
pub use float::{Dtype, Float, to};
pub use noise::noise;
pub use slope::{gradient_gap, slope};
pub use tensors::tensors;
