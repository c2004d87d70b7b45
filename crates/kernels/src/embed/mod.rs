//! Token embedding: rows of a table, and their gradient.

mod cpu;
pub(crate) mod cuda;

use crate::{Acc, Memory, Out, View, Weight};

/// `x[t] = w[token[t]]`.
pub trait Embed: Memory {
    /// `tokens [t, 1]`, `w [v, d]`, `x [t, d]`.
    fn embed(&self, tokens: View<Self, u32>, w_vd: Weight<Self>, x_td: Out<Self, Self::Act>);
    /// `dw[token[t]] += dx[t]`, in row order.
    fn embed_back(&self, tokens: View<Self, u32>, dx_td: View<Self, Self::Act>, dw_vd: Acc<Self, Self::Real>);
}
