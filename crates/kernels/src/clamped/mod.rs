//! The gated activation of GPT-OSS' experts: gate and up interleaved, clamped, and one added to up.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};

/// The two numbers of the activation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Clamp {
    /// Gain of the sigmoid.
    pub alpha: f64,
    /// Gate is clamped above at it, up on both sides.
    pub limit: f64,
}

/// `a = (up + 1) * gate * sigma(alpha * gate)`, `gate = min(x[2j], limit)`, `up = clamp(x[2j+1], -limit, limit)`.
pub trait ClampedGlu: Memory {
    /// `x [t, 2f]`, `a [t, f]`.
    fn clamped_glu(&self, clamp: Clamp, x: View<Self, Self::Act>, a: Out<Self, Self::Act>);
    /// Writes `dx [t, 2f]`; it is zero where the clamp holds.
    fn clamped_glu_back(
        &self,
        clamp: Clamp,
        x: View<Self, Self::Act>,
        da: View<Self, Self::Act>,
        dx: Out<Self, Self::Act>,
    );
}
