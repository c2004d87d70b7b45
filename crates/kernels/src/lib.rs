//! What a device must do: the [`Backend`] trait, one folder per operator, and the CPU that does it.
//!
//! Values are packed row-major matrices. A kernel reads a [`View`], overwrites an [`Out`] and adds into an [`Acc`]; that is
//! the whole contract about `=` and `+=`. Two element types exist: `Act` for activations, `Real` for statistics, trainable
//! parameters, gradients and log-probabilities. Shapes are checked by assertion: a wrong one is a bug of ours.
//!
//! Shape letters used in names: `t` tokens, `d` model width, `f` feed-forward width, `n` query heads, `k` key/value heads,
//! `h` head width, `r` adapter rank, `v` vocabulary, `s` scored tokens, `i`/`o` inputs and outputs of a linear layer.

pub mod adamw;
pub mod attention;
pub mod cpu;
pub mod embed;
pub mod gemm;
pub mod head;
mod memory;
mod real;
pub mod rmsnorm;
pub mod rope;
pub mod rows;
pub mod swiglu;
pub mod tampered;
pub mod timed;

pub use adamw::{Adamw, AdamwStep};
pub use attention::{Attention, AttentionGrads, AttentionSaved, AttentionShape, KeyValue, Span};
pub use cpu::Cpu;
pub use embed::Embed;
pub use gemm::{Gemm, Weight};
pub use head::{Head, HeadExtra, HeadSaved, HeadScores};
pub use memory::{Acc, Dst, HostBytes, HostTensor, Mat, Memory, Out, StoredDtype, View};
pub use real::{Elem, Real};
pub use rmsnorm::{RmsNorm, RmsNormSaved};
pub use rope::{Rope, RopeLayout, RopeTable};
pub use rows::RowOps;
pub use swiglu::SwiGlu;

/// A device: everything a decoder's forward and backward need of it.
pub trait Backend: Memory + Gemm + RmsNorm + Rope + Attention + SwiGlu + Embed + Head + RowOps + Adamw {}

impl<B: Memory + Gemm + RmsNorm + Rope + Attention + SwiGlu + Embed + Head + RowOps + Adamw> Backend for B {}
