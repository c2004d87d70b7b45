//! Causal attention of new rows to keys and values in pages: what generation reads.

pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{AttentionShape, KeyValue, Memory, Out, View};
use std::ops::Range;

/// Rows of a page.
pub const PAGE: usize = 16;

/// A run of new rows of one sequence. The key and value of its position `i` are row `i % PAGE` of page `pages[i / PAGE]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PagedSpan {
    /// Rows of `q`.
    pub rows: Range<usize>,
    /// Position of the first of them.
    pub position: usize,
    /// The sequence's pages.
    pub pages: Vec<u32>,
}

/// Attention over pages; forward only.
pub trait Paged: Memory {
    /// Writes `o [t, n * v_width]` and `lse [t, n]`, the log-sum-exp of each row's scores. Keys and values of the rows themselves
    /// are in the pages already. What a row gets depends on its sequence alone, to the last bit.
    fn paged(
        &self,
        shape: &AttentionShape,
        spans: &[PagedSpan],
        q: View<Self, Self::Act>,
        cache: KeyValue<Self>,
        o: Out<Self, Self::Act>,
        lse: Out<Self, Self::Real>,
    );
}

/// Holds the operands' shapes to `shape`.
pub(crate) fn check<B: Memory>(
    shape: &AttentionShape,
    q: &View<B, B::Act>,
    cache: &KeyValue<B>,
    o: &Out<B, B::Act>,
    lse: &Out<B, B::Real>,
) {
    assert!(q.cols == shape.query_heads * shape.qk_width && cache.k.cols == shape.kv_heads * shape.qk_width);
    assert!(cache.v.cols == shape.kv_heads * shape.v_width);
    assert!(o.shape() == (q.rows, shape.query_heads * shape.v_width));
    assert!(lse.shape() == (q.rows, shape.query_heads));
}
