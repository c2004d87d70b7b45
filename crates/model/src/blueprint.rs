//! What a decoder consists of: shapes, biases, norms, windows; everything an architecture decides.

use crate::RopeSpec;

/// A decoder before it has weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// `model_type` of the checkpoint.
    pub model_type: String,
    /// Model width, `d`.
    pub hidden: usize,
    /// Vocabulary, `v`.
    pub vocab: usize,
    /// Query heads, `n`.
    pub heads: usize,
    /// Key/value heads, `k`.
    pub kv_heads: usize,
    /// Head width, `h`.
    pub head_width: usize,
    /// Feed-forward width, `f`.
    pub feed_forward: usize,
    /// Added to the mean square in norms.
    pub norm_eps: f64,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on o.
    pub o_bias: bool,
    /// Biases in the feed-forward layer.
    pub mlp_bias: bool,
    /// Norms over each head of q and k.
    pub qk_norm: bool,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Positions the model was made for.
    pub max_positions: usize,
    /// One entry per block.
    pub layers: Vec<LayerSpec>,
}

/// What differs from block to block.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerSpec {
    /// Positions a row sees, itself included; `None`: all.
    pub window: Option<usize>,
}

/// A linear layer of a block: its path in the checkpoint, and its shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Projection {
    /// E.g. `model.layers.0.self_attn.q_proj`.
    pub path: String,
    /// `o`.
    pub outputs: usize,
    /// `i`.
    pub inputs: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

impl Blueprint {
    /// The seven linear layers of block `i`: q, k, v, o, gate, up, down.
    pub fn projections(&self, i: usize) -> [Projection; 7] {
        let (d, f) = (self.hidden, self.feed_forward);
        let (q, kv) = (self.heads * self.head_width, self.kv_heads * self.head_width);
        let at = |leaf: &str, outputs, inputs, bias| Projection {
            path: format!("model.layers.{i}.{leaf}"),
            outputs,
            inputs,
            bias,
        };
        [
            at("self_attn.q_proj", q, d, self.qkv_bias),
            at("self_attn.k_proj", kv, d, self.qkv_bias),
            at("self_attn.v_proj", kv, d, self.qkv_bias),
            at("self_attn.o_proj", d, q, self.o_bias),
            at("mlp.gate_proj", f, d, self.mlp_bias),
            at("mlp.up_proj", f, d, self.mlp_bias),
            at("mlp.down_proj", d, f, self.mlp_bias),
        ]
    }

    /// Paths of all linear layers an adapter can go on, the head included (it is refused by name where it is targeted).
    pub fn linear_modules(&self) -> Vec<String> {
        let blocks = (0..self.layers.len()).flat_map(|i| self.projections(i)).map(|p| p.path);
        blocks.chain(["lm_head".to_owned()]).collect()
    }

    /// Number of weights.
    pub fn num_parameters(&self) -> usize {
        let (d, h) = (self.hidden, self.head_width);
        let linear = |p: Projection| p.outputs * p.inputs + if p.bias { p.outputs } else { 0 };
        let block = |i| {
            self.projections(i).into_iter().map(linear).sum::<usize>() + 2 * d + if self.qk_norm { 2 * h } else { 0 }
        };
        (0..self.layers.len()).map(block).sum::<usize>() + self.vocab * d * if self.tied { 1 } else { 2 } + d
    }
}
