//! Root-mean-square normalisation (Zhang and Sennrich 2019, arXiv 1910.07467), over whole rows or over each head.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Acc, Dst, Memory, Out, View};

/// `y = x * rstd * w` with `rstd = (mean(x²) + eps)^(-1/2)`, applied to each of `g = x.cols / w.cols` groups of a row.
pub trait RmsNorm: Memory {
    /// `x [t, g*h]`, `w [1, h]`, `y [t, g*h]`, `rstd [t, g]` (saved for backward).
    fn rmsnorm(
        &self,
        x: View<Self, Self::Act>,
        w: View<Self, Self::Real>,
        eps: f64,
        y: Out<Self, Self::Act>,
        rstd: Out<Self, Self::Real>,
    );
    /// `y` again from a saved `rstd`.
    fn rmsnorm_again(
        &self,
        x: View<Self, Self::Act>,
        w: View<Self, Self::Real>,
        rstd: View<Self, Self::Real>,
        y: Out<Self, Self::Act>,
    );
    /// With `g = dy * w` and `xhat = x * rstd`: `dx (+)= rstd * (g - xhat * mean(g * xhat))`, `dw += sum_t dy * xhat`.
    fn rmsnorm_back<'a>(
        &self,
        saved: RmsNormSaved<'_, Self>,
        dy: View<Self, Self::Act>,
        dx: impl Into<Dst<'a, Self, Self::Act>>,
        dw: Option<Acc<Self, Self::Real>>,
    );
}

/// What the forward pass keeps.
pub struct RmsNormSaved<'a, B: Memory> {
    /// Input, `[t, g*h]`.
    pub x: View<'a, B, B::Act>,
    /// Weight, `[1, h]`.
    pub w: View<'a, B, B::Real>,
    /// Reciprocal root mean square, `[t, g]`.
    pub rstd: View<'a, B, B::Real>,
}

/// Groups in a row of `x`.
fn groups<B: Memory>(x: &View<B, B::Act>, w: &View<B, B::Real>) -> usize {
    assert!(
        w.rows == 1 && w.cols > 0 && x.cols.is_multiple_of(w.cols),
        "norm over {} columns with a weight of {}",
        x.cols,
        w.cols
    );
    x.cols / w.cols
}

/// Groups in a row, once all shapes of a forward pass agree.
pub(crate) fn forward_groups<B: Memory>(
    x: &View<B, B::Act>,
    w: &View<B, B::Real>,
    y: &Out<B, B::Act>,
    rstd: (usize, usize),
) -> usize {
    let g = groups(x, w);
    assert!(y.shape() == x.shape() && rstd == (x.rows, g));
    g
}

impl<B: Memory> RmsNormSaved<'_, B> {
    /// Groups in a row, once the shapes of the gradients agree with it.
    pub(crate) fn groups(&self, dy: &View<B, B::Act>, dx: &Out<B, B::Act>, dw: Option<&Acc<B, B::Real>>) -> usize {
        let g = groups(&self.x, &self.w);
        let shape = self.x.shape();
        assert!(dy.shape() == shape && dx.shape() == shape && self.rstd.shape() == (shape.0, g));
        assert!(dw.is_none_or(|dw| dw.shape() == (1, self.w.cols)));
        g
    }
}
