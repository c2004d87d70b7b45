//! What a device must do: the [`Backend`] trait, one folder per operator, and the CPU that does it.
//!
//! Values are packed row-major matrices. A kernel reads a [`View`], overwrites an [`Out`] and adds into an [`Acc`]; that is
//! the whole contract about `=` and `+=`. Two element types exist: `Act` for activations, `Real` for statistics, trainable
//! parameters, gradients and log-probabilities. Shapes are checked by assertion: a wrong one is a bug of ours.
//!
//! Shape letters used in names: `t` tokens, `d` model width, `f` feed-forward width, `n` query heads, `k` key/value heads,
//! `h` head width, `r` adapter rank, `v` vocabulary, `s` scored tokens, `i`/`o` inputs and outputs of a linear layer.

pub mod adamw;
pub mod adamw8;
mod apart;
pub mod attention;
pub mod capped;
pub mod clamped;
pub mod codes;
pub mod cpu;
pub mod cuda;
pub mod dora;
pub mod embed;
pub mod gemm;
pub mod glu;
pub mod grouped;
pub mod head;
mod heap;
pub mod latent;
mod memory;
pub mod paged;
mod real;
pub mod rmsnorm;
pub mod rope;
pub mod route;
pub mod rows;
pub mod scale;
pub mod sink;
pub mod tampered;
pub mod timed;

pub use adamw::{Adamw, AdamwStep};
pub use adamw8::{Adamw8, MomentCodes, Moments, Rounding, Values};
pub use attention::{Attention, AttentionGrads, AttentionSaved, AttentionShape, KeyValue, Span};
pub use capped::CappedHead;
pub use clamped::{Clamp, ClampedGlu};
pub use codes::{Codes, Scales};
pub use cpu::{Cpu, OutOfMemory};
pub use dora::{Dora, LowRank};
pub use embed::Embed;
pub use gemm::{Gemm, Weight};
pub use glu::{Gate, Glu};
pub use grouped::{Grouped, Groups};
pub use half::bf16;
pub use head::{ForBackward, HEAD_ROWS, Head, HeadExtra, HeadSaved, HeadScores};
pub use heap::Heap;
pub use latent::Latent;
pub use memory::{Acc, Coded, Dst, HostBytes, HostTensor, Mark, Mat, Memory, Offloaded, Out, StoredDtype, View};
pub use paged::{PAGE, Paged, PagedSpan};
pub use real::{Elem, Real};
pub use rmsnorm::{RmsNorm, RmsNormSaved};
pub use rope::{Rope, RopeLayout, RopeTable};
pub use route::{Balance, Gating, Route, RouteShape, Routed};
pub use rows::RowOps;
pub use scale::Scale;
pub use sink::Sink;

/// What mixtures of experts need beyond the layers that all decoders have.
pub trait ExpertOps: Grouped + Route + Scale + ClampedGlu {}

impl<B: Grouped + Route + Scale + ClampedGlu> ExpertOps for B {}

/// A device: everything a decoder's forward and backward need of it.
pub trait Backend:
    Memory
    + Gemm
    + RmsNorm
    + Rope
    + Attention
    + Paged
    + Sink
    + Latent
    + Glu
    + Embed
    + Head
    + CappedHead
    + RowOps
    + ExpertOps
    + Adamw
    + Adamw8
    + Dora
{
}

impl<B> Backend for B where
    B: Memory
        + Gemm
        + RmsNorm
        + Rope
        + Attention
        + Paged
        + Sink
        + Latent
        + Glu
        + Embed
        + Head
        + CappedHead
        + RowOps
        + ExpertOps
        + Adamw
        + Adamw8
        + Dora
{
}
