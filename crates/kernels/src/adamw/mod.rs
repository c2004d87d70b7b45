//! AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101) and the squared norm that clipping needs, over ranges of an arena.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Acc, Memory, View};

/// One update; `step` counts from 1.
#[derive(Clone, Copy, Debug)]
pub struct AdamwStep {
    /// Learning rate of this update.
    pub learning_rate: f64,
    /// Decay of the first moment.
    pub beta1: f64,
    /// Decay of the second moment.
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Number of this update, from 1.
    pub step: u64,
    /// Multiplies the gradient first (clipping).
    pub grad_scale: f64,
}

/// The optimiser's arithmetic. All matrices are `[1, n]` ranges of the arena.
pub trait Adamw: Memory {
    /// `p *= 1 - lr wd; m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g²; p -= lr / (1 - b1^t) m / (sqrt(v / (1 - b2^t)) + eps)`,
    /// the order of `torch.optim.AdamW`.
    fn adamw(
        &self,
        s: &AdamwStep,
        p: Acc<Self, Self::Real>,
        g: View<Self, Self::Real>,
        m: Acc<Self, Self::Real>,
        v: Acc<Self, Self::Real>,
    );
    /// Sum of squares in double precision, in a fixed order.
    fn square_norm(&self, g: View<Self, Self::Real>) -> f64;
}
