//! Causal attention over packed segments with shared prefixes, grouped heads and a sliding window; never a `T x T` matrix.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Memory, Out, View};
use std::ops::Range;

/// Heads and their widths.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads, `n`.
    pub query_heads: usize,
    /// Key and value heads, `k`; head `j` serves queries `j*n/k .. (j+1)*n/k`.
    pub kv_heads: usize,
    /// Width of a query and of a key.
    pub qk_width: usize,
    /// Width of a value.
    pub v_width: usize,
    /// Factor of the scores, usually `qk_width^(-1/2)`.
    pub scale: f64,
    /// How many positions a row sees, itself included; `None`: all.
    pub window: Option<usize>,
    /// Scores become `cap * tanh(score / cap)` before the softmax; `None`: they stay as they are.
    pub cap: Option<f64>,
}

/// A run of rows that see `context` (rows at positions `0..context.len()`) and, causally, one another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows of `q`, `k`, `v`.
    pub rows: Range<usize>,
    /// Rows of the context keys and values.
    pub context: Range<usize>,
}

/// Keys and values, of the rows themselves or of what came before them.
pub struct KeyValue<'a, B: Memory> {
    /// `[t, k * qk_width]`.
    pub k: View<'a, B, B::Act>,
    /// `[t, k * v_width]`.
    pub v: View<'a, B, B::Act>,
}

impl<B: Memory> Clone for KeyValue<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Memory> Copy for KeyValue<'_, B> {}

/// Softmax attention; `o = softmax(scale * q kᵀ + mask) v` per head, scores capped where the shape says so.
pub trait Attention: Memory {
    /// Writes `o [t, n * v_width]` and, when asked, `lse [t, n]`, the log-sum-exp of each row's scores.
    /// `own` holds the rows' own keys and values, `context` those that spans refer to (it may be the same).
    fn attention(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        q: View<Self, Self::Act>,
        own: KeyValue<Self>,
        context: KeyValue<Self>,
        o: Out<Self, Self::Act>,
        lse: Option<Out<Self, Self::Real>>,
    );
    /// Overwrites `dq`, `dk`, `dv`. Contexts lie among the rows themselves.
    ///
    /// With `p = exp(scale * q kᵀ - lse)`: `dv = pᵀ do`, `ds = p * (do vᵀ - rowsum(do * o))`, `dq = scale * ds k`, `dk = scale * dsᵀ q`
    /// (Dao et al. 2022, arXiv 2205.14135). Under a cap `p` is of the capped scores, and `ds` is multiplied by
    /// `1 - (capped / cap)²`.
    fn attention_back(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        saved: AttentionSaved<'_, Self>,
        d_o: View<Self, Self::Act>,
        grads: AttentionGrads<'_, Self>,
    );
}

/// What the forward pass keeps.
pub struct AttentionSaved<'a, B: Memory> {
    /// Queries, after rotation.
    pub q: View<'a, B, B::Act>,
    /// Keys after rotation, and values.
    pub kv: KeyValue<'a, B>,
    /// Output.
    pub o: View<'a, B, B::Act>,
    /// Log-sum-exp of the scores.
    pub lse: View<'a, B, B::Real>,
}

/// Where the gradients go.
pub struct AttentionGrads<'a, B: Memory> {
    /// As `q`.
    pub dq: Out<'a, B, B::Act>,
    /// As `k`.
    pub dk: Out<'a, B, B::Act>,
    /// As `v`.
    pub dv: Out<'a, B, B::Act>,
}
