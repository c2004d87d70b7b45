//! Matrix products of a linear layer `y = x Wᵀ`, `W` as `[o, i]`, and of its backward.

pub(crate) mod cpu;
pub(crate) mod cuda;
pub(crate) mod mixed;
pub(crate) mod turn;

use crate::{Acc, Dst, Memory, View};

/// A weight as an operand: trainable parameters, or a frozen tensor in its storage dtype.
pub enum Weight<'a, B: Memory> {
    /// A range of the trainable arena.
    Param(View<'a, B, B::Real>),
    /// A trainable parameter that is held in bfloat16, without gaps.
    Half(View<'a, B, half::bf16>),
    /// A frozen weight.
    Stored(&'a B::Stored),
}

impl<B: Memory> Clone for Weight<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Memory> Copy for Weight<'_, B> {}

/// The three products of a linear layer. `(+)=` is chosen by the destination: an `Out` or an `Acc`.
pub trait Gemm: Memory {
    /// `y (+)= alpha * x Wᵀ`; `x [t, i]`, `w [o, i]`, `y [t, o]`.
    fn linear<'a>(
        &self,
        alpha: f64,
        x_ti: View<Self, Self::Act>,
        w_oi: Weight<Self>,
        y_to: impl Into<Dst<'a, Self, Self::Act>>,
    );
    /// `dx (+)= alpha * dy W`; `dy [t, o]`, `w [o, i]`, `dx [t, i]`.
    fn linear_dx<'a>(
        &self,
        alpha: f64,
        dy_to: View<Self, Self::Act>,
        w_oi: Weight<Self>,
        dx_ti: impl Into<Dst<'a, Self, Self::Act>>,
    );
    /// `dw += alpha * dyᵀ x`; `dy [t, o]`, `x [t, i]`, `dw [o, i]`.
    fn linear_dw(
        &self,
        alpha: f64,
        dy_to: View<Self, Self::Act>,
        x_ti: View<Self, Self::Act>,
        dw_oi: Acc<Self, Self::Real>,
    );
}

/// Holds a product's shapes to each other, as its factors stand: `[m, k] x [k, n]` into `[m, n]`.
pub(crate) fn agree((m, k): (usize, usize), (inner, n): (usize, usize), out: (usize, usize)) {
    assert!(k == inner && out == (m, n), "[{m}, {k}] x [{inner}, {n}] into [{}, {}]", out.0, out.1);
}
