//! What every layer is told: the device, the parameters, whether adapters count, and the rows it works on.

use crate::{Balancing, Params};
use kernels::{Backend, Mat, PagedSpan, RopeLayout, RopeTable, Span};

/// Random omission of adapter inputs.
#[derive(Clone, Copy, Debug)]
pub struct Dropout {
    /// Probability that an entry is dropped.
    pub p: f64,
    /// Key of this pack in this step; a layer adds its own site.
    pub key: u64,
}

/// What a forward or backward pass is given.
pub struct Context<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// Trainable values.
    pub params: Params<'a, B>,
    /// Whether adapters are applied; off gives the base model, the reference of a fresh adapter.
    pub adapters: bool,
    /// Dropout on adapter inputs, in training only.
    pub dropout: Option<Dropout>,
}

/// One part of a pack on the device.
pub struct Part<B: Backend> {
    /// Token ids, `[t, 1]`.
    pub tokens: Mat<B, u32>,
    /// Positions, `[t, 1]`.
    pub positions: Mat<B, u32>,
    /// Segments.
    pub spans: Vec<Span>,
    /// What a load-balancing loss needs of these rows; `None`: there is none.
    pub balancing: Option<Balancing<B::Real>>,
}

impl<B: Backend> Part<B> {
    /// Copies the rows to the device.
    pub fn new(backend: &B, rows: &pack::Rows) -> Part<B> {
        let spans = rows.segments.iter().map(|s| Span { rows: s.rows.clone(), context: s.context.clone() });
        Part {
            tokens: backend.from_host(rows.len(), 1, &rows.tokens),
            positions: backend.from_host(rows.len(), 1, &rows.positions),
            spans: spans.collect(),
            balancing: None,
        }
    }
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.rows()
    }
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// New rows of sequences whose earlier keys and values lie in a cache.
pub struct Step<B: Backend> {
    /// The rows; their spans are `spans`.
    pub part: Part<B>,
    /// Which rows belong to which sequence, and where its pages are.
    pub spans: Vec<PagedSpan>,
    /// The cache row of each row.
    pub slots: Vec<u32>,
}

/// Cosines and sines of every position in use.
pub struct Rotary<B: Backend> {
    /// `[positions, width/2]`.
    pub cos: Mat<B, B::Real>,
    /// `[positions, width/2]`.
    pub sin: Mat<B, B::Real>,
    /// Which entries form a pair.
    pub layout: RopeLayout,
}

impl<B: Backend> Rotary<B> {
    /// For the rope kernel.
    pub fn table(&self) -> RopeTable<'_, B> {
        self.table_at(0)
    }
    /// For the rope kernel, with `offset` columns of each head left as they are.
    pub fn table_at(&self, offset: usize) -> RopeTable<'_, B> {
        RopeTable { cos: self.cos.view(), sin: self.sin.view(), layout: self.layout, offset }
    }
}
