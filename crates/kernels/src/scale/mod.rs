//! Rows times a number each, and the gradients of those numbers.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};

/// Scaling of rows, which is how a router's weights reach the experts' rows.
pub trait Scale: Memory {
    /// `y *= alpha`.
    fn scale(&self, alpha: f64, y: Out<Self, Self::Act>);
    /// `y[s] *= scale[s]`; `scale` has one entry per row.
    fn scale_rows(&self, scale: &[Self::Real], y: Out<Self, Self::Act>);
    /// `a[s] . b[s]` of every row: with `a = dy` and `b` the row before scaling, the gradient of its factor.
    fn row_dots(&self, a: View<Self, Self::Act>, b: View<Self, Self::Act>) -> Vec<Self::Real>;
    /// `sigma(x)` of a column `[t, 1]`, to the host: the weights of rows that a gate of one output gives.
    fn sigmoids(&self, x_t1: View<Self, Self::Act>) -> Vec<Self::Real>;
    /// Writes a column `[t, 1]`.
    fn column(&self, values: &[Self::Real], y_t1: Out<Self, Self::Act>);
    /// `y = 1 + w`, both `[1, n]`: the weight of a norm that is stored around zero.
    fn one_plus(&self, w: View<Self, Self::Real>, y: Out<Self, Self::Real>);
}
