//! Movement and addition of rows: residuals, biases, gather and scatter, dropout.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Acc, Memory, Out, View};

/// Elementwise and row-wise operations that have no formula worth a room of their own.
pub trait RowOps: Memory {
    /// `y += x`.
    fn add(&self, x: View<Self, Self::Act>, y: Acc<Self, Self::Act>);
    /// `y = x`.
    fn copy(&self, x: View<Self, Self::Act>, y: Out<Self, Self::Act>);
    /// `y[t] += bias` for every row; `bias [1, o]`.
    fn add_bias(&self, bias: View<Self, Self::Real>, y: Acc<Self, Self::Act>);
    /// `db += sum_t dy[t]`, in row order; `db [1, o]`.
    fn bias_back(&self, dy: View<Self, Self::Act>, db: Acc<Self, Self::Real>);
    /// `y[s] = x[rows[s]]`.
    fn gather(&self, x: View<Self, Self::Act>, rows: &[u32], y: Out<Self, Self::Act>);
    /// `y[rows[s]] = x[s]`.
    fn scatter(&self, x: View<Self, Self::Act>, rows: &[u32], y: Out<Self, Self::Act>);
    /// `y[rows[s]] += scale[s] * x[s]`, in the order of `s`; `scale` empty means 1.
    fn scatter_add(&self, x: View<Self, Self::Act>, rows: &[u32], scale: &[Self::Real], y: Acc<Self, Self::Act>);
    /// `y = x * mask / (1 - p)`; entry `(t, i)` is kept when a hash of (`key`, `t`, `i`) is at least `p`, so backward and
    /// recomputation draw the same mask again.
    fn dropout(&self, x: View<Self, Self::Act>, p: f64, key: u64, y: Out<Self, Self::Act>);
    /// As [`RowOps::dropout`] of `x`, added into `y`.
    fn dropout_add(&self, x: View<Self, Self::Act>, p: f64, key: u64, y: Acc<Self, Self::Act>);
}
