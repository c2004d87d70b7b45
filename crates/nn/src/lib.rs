//! Layers of a decoder with forward and backward by hand, generic over the [`kernels::Backend`].
//!
//! A layer is plain data. `forward` returns what its `backward` needs; nothing is recorded anywhere else. Frozen or trained,
//! with or without an adapter, is a value inside [`Linear`]: backward does only the work that some trained parameter needs.
#![forbid(unsafe_code)]

mod arena;
mod attention;
mod block;
mod cache;
mod context;
mod experts;
mod feed_forward;
mod latent;
mod linear;
mod mlp;
mod norm;
mod router;
mod shared;

pub use arena::{Away, Gathered, Grads, Held, Home, Leave, Param, ParamId, Params, Places, Table};
pub use attention::{Attention, AttentionKept, SelfAttention, SelfAttentionSaved};
pub use block::{Ask, Block, BlockSaved, Kept};
pub use cache::LayerCache;
pub use context::{Context, Dropout, Part, Rotary, Step};
pub use experts::{Activation, Experts, ExpertsSaved};
pub use feed_forward::{FeedForward, FeedForwardSaved};
pub use latent::{LatentAttention, LatentQuery, LatentSaved};
pub use linear::{Linear, LinearSaved, Lora};
pub use mlp::{Mlp, MlpSaved};
pub use norm::{Norm, NormSaved};
pub use router::{Balancing, Router, RouterLoad, RouterSaved};
pub use shared::{SharedExpert, SharedSaved};

use kernels::{Acc, Backend, Mat, Weight};
use std::ops::Range;

/// A matrix of weights `[rows, cols]`: frozen in its storage dtype, or trained in the arena.
pub enum Tensor<B: Backend> {
    /// Never changes, has no gradient.
    Frozen(B::Stored),
    /// The same, of which ranks have parts: by its number among those that come with its unit.
    Lent(usize),
    /// A parameter of the arena.
    Trained(ParamId),
    /// Some rows of a parameter: checkpoints may hold several layers' weights as one tensor.
    Part {
        /// The parameter.
        id: ParamId,
        /// Its rows that are this weight.
        rows: Range<usize>,
    },
}

impl<B: Backend> Tensor<B> {
    /// As an operand of a product.
    pub fn weight<'a>(&'a self, params: &Params<'a, B>) -> Weight<'a, B> {
        match self {
            Tensor::Frozen(stored) => Weight::Stored(stored),
            Tensor::Lent(number) => Weight::Stored(&params.lent[*number]),
            Tensor::Trained(id) => params.weight(*id, None),
            Tensor::Part { id, rows } => params.weight(*id, Some(rows.clone())),
        }
    }

    /// Where its gradient is added, when it is trained.
    pub fn grad<'g>(&self, grads: &'g mut Grads<B>) -> Option<Acc<'g, B, B::Real>> {
        match self {
            Tensor::Frozen(_) | Tensor::Lent(_) => None,
            Tensor::Trained(id) => Some(grads.acc(*id)),
            Tensor::Part { id, rows } => Some(grads.acc(*id).rows(rows.clone())),
        }
    }

    /// Whether it is, or is in, a parameter.
    pub fn is_trained(&self) -> bool {
        !matches!(self, Tensor::Frozen(_) | Tensor::Lent(_))
    }
}

/// A vector of weights (norms, biases), always in `Real`.
pub enum Vector<B: Backend> {
    /// Never changes; `[1, n]`.
    Frozen(Mat<B, B::Real>),
    /// A parameter of the arena.
    Trained(ParamId),
}

impl<B: Backend> Vector<B> {
    /// The values, `[1, n]`.
    pub fn view<'a>(&'a self, params: &Params<'a, B>) -> kernels::View<'a, B, B::Real> {
        match self {
            Vector::Frozen(mat) => mat.view(),
            Vector::Trained(id) => params.view(*id),
        }
    }

    /// The parameter, when trained.
    pub fn trained(&self) -> Option<ParamId> {
        match self {
            Vector::Frozen(_) => None,
            Vector::Trained(id) => Some(*id),
        }
    }
}
