//! Products of mixture-of-experts layers: rows sorted by expert, each run of rows times a weight of its own.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Acc, Gemm, Out, View, Weight};
use std::ops::Range;

/// The weights of one projection of all experts, and which rows each of them takes.
pub struct Groups<'a, B: Gemm> {
    /// One weight per expert, all of one shape.
    pub weights: Vec<Weight<'a, B>>,
    /// Rows of each expert, ascending; they tile the operand. May be empty.
    pub rows: &'a [Range<usize>],
    /// Whether weights lie as `[i, o]`, not as `[o, i]`.
    pub turned: bool,
}

/// Grouped products. There is no capacity: an expert takes as many rows as were sent to it.
pub trait Grouped: Gemm {
    /// `y[s] = x[s] Wᵀ` (`x[s] W` for turned weights) with the weight of the expert that row `s` belongs to.
    fn grouped(&self, x_si: View<Self, Self::Act>, groups: &Groups<Self>, y_so: Out<Self, Self::Act>);
    /// `dx[s] = dy[s] W` (`dy[s] Wᵀ` for turned weights).
    fn grouped_dx(&self, dy_so: View<Self, Self::Act>, groups: &Groups<Self>, dx_si: Out<Self, Self::Act>);
    /// `y[s] += scale[s] * bias[expert of s]`; `bias [e, o]`; `scale` empty means 1.
    fn grouped_bias(
        &self,
        bias_eo: View<Self, Self::Real>,
        rows: &[Range<usize>],
        scale: &[Self::Real],
        y_so: Acc<Self, Self::Act>,
    );
    /// `db[e] += sum over its rows of scale[s] * dy[s]`, in row order.
    fn grouped_bias_back(
        &self,
        dy_so: View<Self, Self::Act>,
        rows: &[Range<usize>],
        scale: &[Self::Real],
        db_eo: Acc<Self, Self::Real>,
    );
}
