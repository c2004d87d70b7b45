//! The second half of a block: a gated layer, or a mixture of experts.

use crate::{Context, Experts, ExpertsSaved, Grads, Mlp, MlpSaved, Part, RouterLoad};
use kernels::{Backend, Out, View};

/// What every row goes through after attention.
#[allow(clippy::large_enum_variant)] // one per block; never moved in a loop
pub enum FeedForward<B: Backend> {
    /// One layer for all rows.
    Dense(Mlp<B>),
    /// Experts.
    Experts(Experts<B>),
}

/// What backward needs beside the input.
pub enum FeedForwardSaved<B: Backend> {
    /// Of a dense layer.
    Dense(MlpSaved<B>),
    /// Of experts.
    Experts(Box<ExpertsSaved<B>>),
}

impl<B: Backend> FeedForwardSaved<B> {
    /// How rows were routed, where there are experts and it was to be measured.
    pub fn load(&self) -> Option<&RouterLoad> {
        match self {
            FeedForwardSaved::Dense(_) => None,
            FeedForwardSaved::Experts(saved) => saved.load(),
        }
    }
}

impl<B: Backend> FeedForward<B> {
    /// Whether some parameter of it is trained.
    pub fn is_trained(&self) -> bool {
        match self {
            FeedForward::Dense(mlp) => mlp.is_trained(),
            FeedForward::Experts(experts) => experts.is_trained(),
        }
    }

    /// `x [t, d]` to `y [t, d]`.
    pub fn forward(
        &self,
        ctx: &Context<B>,
        part: &Part<B>,
        x: View<B, B::Act>,
        y: Out<B, B::Act>,
    ) -> FeedForwardSaved<B> {
        match self {
            FeedForward::Dense(mlp) => FeedForwardSaved::Dense(mlp.forward(ctx, x, y)),
            FeedForward::Experts(experts) => FeedForwardSaved::Experts(Box::new(experts.forward(ctx, part, x, y))),
        }
    }

    /// As [`FeedForward::forward`], of rows that no backward will come to. Returns how they were routed, as
    /// [`FeedForwardSaved::load`].
    pub fn apply(&self, ctx: &Context<B>, part: &Part<B>, x: View<B, B::Act>, y: Out<B, B::Act>) -> Option<RouterLoad> {
        match self {
            FeedForward::Dense(mlp) => {
                mlp.apply(ctx, x, y);
                None
            }
            FeedForward::Experts(experts) => experts.forward(ctx, part, x, y).load().cloned(),
        }
    }

    /// What [`FeedForward::forward`] saved of `x`.
    pub fn again(&self, ctx: &Context<B>, part: &Part<B>, x: View<B, B::Act>) -> FeedForwardSaved<B> {
        match self {
            FeedForward::Dense(mlp) => FeedForwardSaved::Dense(mlp.again(ctx, x)),
            FeedForward::Experts(_) => self.forward(ctx, part, x, ctx.backend.mat(x.rows, x.cols).out()),
        }
    }

    /// Adds the parameters' gradients and writes `dx`.
    pub fn backward(
        &self,
        ctx: &Context<B>,
        grads: &mut Grads<B>,
        (part, x): (&Part<B>, View<B, B::Act>),
        saved: &FeedForwardSaved<B>,
        dy: View<B, B::Act>,
        dx: Out<B, B::Act>,
    ) {
        match (self, saved) {
            (FeedForward::Dense(mlp), FeedForwardSaved::Dense(saved)) => mlp.backward(ctx, grads, x, saved, dy, dx),
            (FeedForward::Experts(experts), FeedForwardSaved::Experts(saved)) => {
                experts.backward(ctx, grads, (part, x), saved, dy, dx);
            }
            _ => panic!("a layer was given what another kind of layer saved"),
        }
    }
}
