//! What weight-decomposed adapters need (DoRA, Liu et al. 2024, arXiv 2402.09353): lengths of a weight's rows, outputs brought to
//! a learned length, and the gradient of that length. The length of the weight itself is a constant, as in the paper's 4.3.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Acc, Memory, Out, View, Weight};

/// A low-rank addition to a weight: `scale * B A`.
pub struct LowRank<'a, B: Memory> {
    /// `[r, i]`.
    pub a: View<'a, B, B::Real>,
    /// `[o, r]`.
    pub b: View<'a, B, B::Real>,
    /// Of the product.
    pub scale: f64,
}

/// The operators of DoRA.
pub trait Dora: Memory {
    /// `n[o] = ‖(W + scale B A)[o, :]‖`; `w [o, i]`, `n [1, o]`.
    fn row_norms(&self, w: Weight<Self>, update: Option<LowRank<Self>>, n: Out<Self, Self::Real>);
    /// `y[t, o] *= m[o] / n[o]`; `m` and `n` as `[1, o]`.
    fn scale_columns(&self, m: View<Self, Self::Real>, n: View<Self, Self::Real>, y: Out<Self, Self::Act>);
    /// `dm[o] += (sum over t of dy[t, o] z[t, o]) / n[o]`; `n` and `dm` as `[1, o]`.
    fn magnitude_back(
        &self,
        dy: View<Self, Self::Act>,
        z: View<Self, Self::Act>,
        n: View<Self, Self::Real>,
        dm: Acc<Self, Self::Real>,
    );
}
