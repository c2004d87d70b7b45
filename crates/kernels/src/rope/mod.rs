//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};

/// Which two entries of a head are rotated together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RopeLayout {
    /// Entry `i` with entry `i + width/2`: the Hugging Face layout.
    HalfSplit,
    /// Entry `2i` with entry `2i + 1`.
    Interleaved,
}

/// Cosines and sines for every position, already scaled by the attention factor.
pub struct RopeTable<'a, B: Memory> {
    /// `[positions, width/2]`.
    pub cos: View<'a, B, B::Real>,
    /// `[positions, width/2]`.
    pub sin: View<'a, B, B::Real>,
    /// Pairs.
    pub layout: RopeLayout,
    /// Columns of a head before those that are rotated.
    pub offset: usize,
}

/// Rotation by position.
pub trait Rope: Memory {
    /// In each head (`head_width` columns) rotates `2 * cos.cols` columns of `x` from `offset` on in place by the angle of
    /// the row's position: `(a, b) -> (a cos - b sin, b cos + a sin)`. The rotation is orthogonal up to the attention factor, so
    /// backward is the same with the sign of the sine flipped: `inverse`.
    fn rope(
        &self,
        x: Out<Self, Self::Act>,
        positions: View<Self, u32>,
        table: &RopeTable<Self>,
        head_width: usize,
        inverse: bool,
    );
}
