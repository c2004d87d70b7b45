//! The pieces that layers are made of: parameters, frozen weights, rotary tables, packed rows.

use crate::Double;
use kernels::{AttentionShape, Gate, HostTensor, RopeLayout, StoredDtype};
use nn::{
    Attention, Block, FeedForward, Linear, Lora, Mlp, Norm, ParamId, Part, Rotary, SelfAttention, Table, Tensor, Vector,
};
use pack::{Rows, Segment};
use std::sync::Arc;
use testkit::noise;

/// How the linear layers are.
#[derive(Clone, Copy)]
pub(crate) enum Tuning {
    Frozen,
    Full { bias: bool },
    Adapter { rank: usize },
}

/// Grows the table of parameters and their values.
#[derive(Default)]
pub(crate) struct Shelf {
    pub(crate) table: Table,
    pub(crate) values: Vec<f64>,
    made: u64,
}

/// Width of the model, of a head, of the feed-forward layer.
pub(crate) const D: usize = 6;
pub(crate) const H: usize = 4;
pub(crate) const F: usize = 7;

impl Shelf {
    pub(crate) fn noise(&mut self, n: usize) -> Vec<f64> {
        self.made += 1;
        noise(n, self.made)
    }

    pub(crate) fn param(&mut self, rows: usize, cols: usize) -> ParamId {
        let values = self.noise(rows * cols);
        self.values.extend(values);
        self.table.push(&format!("p{}", self.made), rows, cols, true)
    }

    /// `[o, i]` in every way that [`Tuning`] knows; a frozen one is stored in float32.
    pub(crate) fn linear<B: Double>(&mut self, backend: &B, (i, o): (usize, usize), tuning: Tuning) -> Linear<B> {
        let (full, bias) = match tuning {
            Tuning::Full { bias } => (true, bias),
            Tuning::Frozen | Tuning::Adapter { .. } => (false, false),
        };
        let weight = if full {
            Tensor::Trained(self.param(o, i))
        } else {
            let bytes: Vec<u8> = self.noise(o * i).iter().flat_map(|v| (*v as f32).to_le_bytes()).collect();
            Tensor::Frozen(backend.store(HostTensor::new(Arc::new(bytes), StoredDtype::F32), o, i))
        };
        let lora = match tuning {
            Tuning::Adapter { rank } => Some(Lora {
                a: self.param(rank, i),
                b: self.param(o, rank),
                first: 0,
                scale: 0.7,
                magnitude: None,
                site: 5 * self.made,
            }),
            Tuning::Frozen | Tuning::Full { .. } => None,
        };
        let bias = bias.then(|| Vector::Trained(self.param(1, o)));
        Linear { weight, bias, lora, inputs: i, outputs: o }
    }

    pub(crate) fn norm<B: Double>(&mut self, backend: &B, h: usize, trained: bool) -> Norm<B> {
        let weight = match trained {
            true => Vector::Trained(self.param(1, h)),
            false => Vector::Frozen(backend.from_host(1, h, &self.noise(h))),
        };
        Norm { weight, eps: 0.01, one_plus: false }
    }

    /// Four query heads on two key and value heads.
    pub(crate) fn attention<B: Double>(
        &mut self,
        backend: &B,
        tuning: Tuning,
        qk_norm: bool,
        window: Option<usize>,
    ) -> SelfAttention<B> {
        let shape =
            AttentionShape { query_heads: 4, kv_heads: 2, qk_width: H, v_width: H, scale: 0.5, window, cap: None };
        let trained = matches!(tuning, Tuning::Full { .. });
        SelfAttention {
            q: self.linear(backend, (D, 4 * H), tuning),
            k: self.linear(backend, (D, 2 * H), tuning),
            v: self.linear(backend, (D, 2 * H), tuning),
            o: self.linear(backend, (4 * H, D), tuning),
            qk_norm: qk_norm.then(|| (self.norm(backend, H, trained), self.norm(backend, H, trained))),
            sinks: None,
            shape,
        }
    }

    pub(crate) fn mlp<B: Double>(&mut self, backend: &B, tuning: Tuning) -> Mlp<B> {
        Mlp {
            gate: self.linear(backend, (D, F), tuning),
            up: self.linear(backend, (D, F), tuning),
            down: self.linear(backend, (F, D), tuning),
            activation: Gate::Silu,
        }
    }

    pub(crate) fn block<B: Double>(&mut self, backend: &B, tuning: Tuning) -> Block<B> {
        let trained = matches!(tuning, Tuning::Full { .. });
        Block {
            attention_norm: self.norm(backend, D, trained),
            attention: Attention::Grouped(self.attention(backend, tuning, false, None)),
            attention_out: None,
            mlp_norm: self.norm(backend, D, trained),
            mlp: FeedForward::Dense(self.mlp(backend, tuning)),
            mlp_out: None,
        }
    }
}

/// Rows of the packed input.
pub(crate) const T: usize = 11;

/// A prompt of three with two answers, the second of which shares it, and a text by itself.
pub(crate) fn part<B: Double>(backend: &B) -> Part<B> {
    let segment = |rows, context| Segment { rows, context };
    Part::new(
        backend,
        &Rows {
            tokens: vec![0; T],
            positions: vec![0, 1, 2, 3, 4, 3, 4, 5, 0, 1, 2],
            segments: vec![segment(0..5, 0..0), segment(5..8, 0..3), segment(8..11, 0..0)],
        },
    )
}

/// Angles that differ between pairs, and an attention factor.
pub(crate) fn rotary<B: Double>(backend: &B) -> Rotary<B> {
    let angles: Vec<f64> = (0..6 * H / 2).map(|e| (e / (H / 2)) as f64 * [1.0, 0.2][e % 2]).collect();
    let of = |f: fn(f64) -> f64| {
        let values: Vec<f64> = angles.iter().map(|a| 1.1 * f(*a)).collect();
        backend.from_host(6, H / 2, &values)
    };
    Rotary { cos: of(f64::cos), sin: of(f64::sin), layout: RopeLayout::HalfSplit }
}
