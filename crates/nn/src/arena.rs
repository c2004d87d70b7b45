//! Trainable state as one flat arena: a table of names, shapes and offsets, and buffers that follow it.

use kernels::{Acc, Backend, Mat, View};
use std::ops::Range;

/// Index of a parameter in its [`Table`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParamId(u32);

/// One trainable tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Param {
    /// Name as in the checkpoint, e.g. `model.layers.0.self_attn.q_proj.weight`, or PEFT's for adapters.
    pub name: String,
    /// Rows (1 for vectors).
    pub rows: usize,
    /// Columns.
    pub cols: usize,
    /// Axes in the checkpoint; stacked matrices have three.
    pub shape: Vec<usize>,
    /// Elements before it in the arena.
    pub offset: usize,
    /// Whether the optimiser applies weight decay to it.
    pub decay: bool,
}

impl Param {
    /// Its elements in the arena.
    pub fn range(&self) -> Range<usize> {
        self.offset..self.offset + self.rows * self.cols
    }
}

/// Names, shapes and places of all trainable tensors.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    params: Vec<Param>,
    len: usize,
}

impl Table {
    /// Adds a parameter at the end: a matrix, or a vector if it has one row.
    pub fn push(&mut self, name: &str, rows: usize, cols: usize, decay: bool) -> ParamId {
        let shape = if rows == 1 { vec![cols] } else { vec![rows, cols] };
        self.push_shaped(name, &shape, decay)
    }

    /// Adds a parameter with given axes; all but the last make its rows.
    pub fn push_shaped(&mut self, name: &str, shape: &[usize], decay: bool) -> ParamId {
        let id = ParamId(u32::try_from(self.params.len()).expect("more than 2^32 parameters"));
        let cols = shape.last().copied().unwrap_or(1);
        let rows = shape.iter().rev().skip(1).product();
        let (name, shape) = (name.to_owned(), shape.to_vec());
        self.params.push(Param { name, rows, cols, shape, offset: self.len, decay });
        self.len += rows * cols;
        id
    }
    /// All parameters in arena order.
    pub fn params(&self) -> &[Param] {
        &self.params
    }
    /// Elements of the arena.
    pub fn len(&self) -> usize {
        self.len
    }
    /// Whether nothing is trained.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// A parameter's entry.
    pub fn param(&self, id: ParamId) -> &Param {
        &self.params[id.0 as usize]
    }
}

/// The values of all parameters, `[1, table.len()]`.
pub struct Params<'a, B: Backend> {
    /// Where each parameter lies.
    pub table: &'a Table,
    /// The arena.
    pub values: &'a Mat<B, B::Real>,
}

impl<B: Backend> Clone for Params<'_, B> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<B: Backend> Copy for Params<'_, B> {}

impl<'a, B: Backend> Params<'a, B> {
    /// A parameter as a matrix.
    pub fn view(&self, id: ParamId) -> View<'a, B, B::Real> {
        let p = self.table.param(id);
        self.values.view().cols(p.range()).reshape(p.rows, p.cols)
    }
}

/// The gradients of all parameters, in the same places.
pub struct Grads<'a, B: Backend> {
    /// Where each parameter lies.
    pub table: &'a Table,
    /// The arena.
    pub values: &'a mut Mat<B, B::Real>,
}

impl<B: Backend> Grads<'_, B> {
    /// A parameter's gradient, to be added into.
    pub fn acc(&mut self, id: ParamId) -> Acc<'_, B, B::Real> {
        let p = self.table.param(id);
        self.values.out().cols(p.range()).reshape(p.rows, p.cols).into_acc()
    }
}
