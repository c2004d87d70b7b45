//! What a decoder consists of: shapes, biases, norms, windows, experts; everything an architecture decides.

use crate::RopeSpec;
use kernels::{Clamp, Gate, RouteShape};

/// A decoder before it has weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Blueprint {
    /// `model_type` of the checkpoint.
    pub model_type: String,
    /// Model width, `d`.
    pub hidden: usize,
    /// Vocabulary, `v`.
    pub vocab: usize,
    /// How many of its last rows no checkpoint has: embedding and head are trained then, and those rows begin as the mean of the
    /// others.
    pub grown: usize,
    /// Query heads, `n`.
    pub heads: usize,
    /// Key/value heads, `k`.
    pub kv_heads: usize,
    /// Head width, `h`; of latent attention, of a query.
    pub head_width: usize,
    /// Feed-forward width of dense layers, `f`.
    pub feed_forward: usize,
    /// Added to the mean square in norms.
    pub norm_eps: f64,
    /// Whether norms' weights are stored around zero.
    pub norm_one_plus: bool,
    /// Biases on q, k, v.
    pub qkv_bias: bool,
    /// Bias on o.
    pub o_bias: bool,
    /// Biases in the feed-forward layer.
    pub mlp_bias: bool,
    /// Norms over each head of q and k.
    pub qk_norm: bool,
    /// Norms over the outputs of attention and feed-forward layer, too.
    pub out_norms: bool,
    /// Whether q, k, v are one tensor, and gate and up another.
    pub fused: bool,
    /// A learned score per head that takes a share of the softmax.
    pub sinks: bool,
    /// Factor of attention scores.
    pub score_scale: f64,
    /// Cap of attention scores.
    pub score_cap: Option<f64>,
    /// Cap of the head's logits.
    pub logit_cap: Option<f64>,
    /// Factor of embeddings.
    pub embed_scale: Option<f64>,
    /// Activation of feed-forward layers.
    pub gate: Gate,
    /// Attention through a latent.
    pub latent: Option<LatentSpec>,
    /// Experts of the layers that have some.
    pub experts: Option<ExpertSpec>,
    /// Whether the head is the embedding.
    pub tied: bool,
    /// Rotary embedding.
    pub rope: RopeSpec,
    /// Rotary embedding of layers that are [`LayerSpec::local`].
    pub local_rope: Option<RopeSpec>,
    /// Positions the model was made for.
    pub max_positions: usize,
    /// One entry per block.
    pub layers: Vec<LayerSpec>,
}

/// What differs from block to block.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LayerSpec {
    /// Positions a row sees, itself included; `None`: all.
    pub window: Option<usize>,
    /// Whether the feed-forward layer is a mixture of experts.
    pub experts: bool,
    /// Whether positions are rotated by [`Blueprint::local_rope`].
    pub local: bool,
}

/// Widths of latent attention.
#[derive(Clone, Debug, PartialEq)]
pub struct LatentSpec {
    /// Width of the narrow layer before queries; `None`: there is none.
    pub query: Option<usize>,
    /// Latent of keys and values, `l`.
    pub width: usize,
    /// Columns of a head's key that are not rotated, `p`.
    pub unrotated: usize,
    /// Columns that are, shared by all heads, `r`.
    pub rotated: usize,
    /// Width of a value, `w`.
    pub value: usize,
    /// Whether pairs are neighbours.
    pub interleaved: bool,
    /// Biases on the narrow layers.
    pub bias: bool,
}

/// A mixture of experts.
#[derive(Clone, Debug, PartialEq)]
pub struct ExpertSpec {
    /// The choice.
    pub route: RouteShape,
    /// Feed-forward width of an expert.
    pub width: usize,
    /// How tensors are called and laid out.
    pub layout: ExpertLayout,
    /// A feed-forward layer beside the experts.
    pub shared: Option<SharedSpec>,
    /// Coefficient of the load-balancing loss in the model's own configuration; `None`: the model has no such loss.
    pub balance: Option<f64>,
}

/// How the tensors of experts are called and laid out.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ExpertLayout {
    /// `block_sparse_moe.experts.E.{w1,w3,w2}`.
    Mixtral,
    /// `mlp.experts.E.{gate,up,down}_proj`, or all experts' in one tensor.
    PerExpert,
    /// As before, with a correction of the scores for the choice.
    Corrected,
    /// `mlp.experts.{gate_up,down}_proj` as `[e, in, out]` with biases, gate and up in turns, clamped.
    Turned(Clamp),
}

/// A shared expert.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SharedSpec {
    /// Its path below the feed-forward layer.
    pub name: &'static str,
    /// Its width.
    pub width: usize,
    /// Whether it is weighted by a gate of its own.
    pub gated: bool,
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

impl Projection {
    fn at(layer: usize, leaf: &str, (outputs, inputs): (usize, usize), bias: bool) -> Projection {
        Projection { path: format!("model.layers.{layer}.{leaf}"), outputs, inputs, bias }
    }

    /// Weights, biases included.
    pub fn num_parameters(&self) -> usize {
        self.outputs * self.inputs + if self.bias { self.outputs } else { 0 }
    }
}

impl Blueprint {
    /// Gives the vocabulary at least so many rows.
    pub fn grow(&mut self, rows: usize) {
        self.grown += rows.saturating_sub(self.vocab);
        self.vocab = self.vocab.max(rows);
    }

    /// The linear layers of block `i`'s attention, o last.
    pub fn attention_projections(&self, i: usize) -> Vec<Projection> {
        let d = self.hidden;
        let at = |leaf: &str, shape, bias| Projection::at(i, &format!("self_attn.{leaf}"), shape, bias);
        if let Some(l) = &self.latent {
            let q = self.heads * (l.unrotated + l.rotated);
            let mut all = match l.query {
                None => vec![at("q_proj", (q, d), false)],
                Some(c) => vec![at("q_a_proj", (c, d), l.bias), at("q_b_proj", (q, c), false)],
            };
            all.push(at("kv_a_proj_with_mqa", (l.width + l.rotated, d), l.bias));
            all.push(at("kv_b_proj", (self.heads * (l.unrotated + l.value), l.width), false));
            all.push(at("o_proj", (d, self.heads * l.value), l.bias));
            return all;
        }
        let (q, kv) = (self.heads * self.head_width, self.kv_heads * self.head_width);
        let mut all = match self.fused {
            true => vec![at("qkv_proj", (q + 2 * kv, d), self.qkv_bias)],
            false => [("q_proj", q), ("k_proj", kv), ("v_proj", kv)].map(|(n, o)| at(n, (o, d), self.qkv_bias)).into(),
        };
        all.push(at("o_proj", (d, q), self.o_bias));
        all
    }

    /// Three layers of a gated feed-forward layer of width `f` at `path`, or two where gate and up are one.
    fn gated(&self, i: usize, path: &str, f: usize) -> Vec<Projection> {
        let d = self.hidden;
        let at = |leaf: &str, shape| Projection::at(i, &format!("{path}.{leaf}"), shape, self.mlp_bias);
        let mut all = match self.fused {
            true => vec![at("gate_up_proj", (2 * f, d))],
            false => vec![at("gate_proj", (f, d)), at("up_proj", (f, d))],
        };
        all.push(at("down_proj", (d, f)));
        all
    }

    /// The linear layers of block `i`'s feed-forward part that every row goes through.
    pub fn feed_forward_projections(&self, i: usize) -> Vec<Projection> {
        match self.experts_of(i) {
            None => self.gated(i, "mlp", self.feed_forward),
            Some(ExpertSpec { shared: None, .. }) => Vec::new(),
            Some(ExpertSpec { shared: Some(s), .. }) => {
                let mut all = self.gated(i, &format!("mlp.{}", s.name), s.width);
                if s.gated {
                    all.push(Projection::at(i, &format!("mlp.{}_gate", s.name), (1, self.hidden), false));
                }
                all
            }
        }
    }

    /// The experts of block `i`, if it has some.
    pub fn experts_of(&self, i: usize) -> Option<&ExpertSpec> {
        self.experts.as_ref().filter(|_| self.layers[i].experts)
    }

    /// The linear layers of block `i`'s experts, by expert: gate, up, down; or gate and up in one, down.
    pub fn expert_projections(&self, i: usize) -> Vec<Vec<Projection>> {
        let Some(spec) = self.experts_of(i) else { return Vec::new() };
        let (d, f) = (self.hidden, spec.width);
        let of = |e: usize| match spec.layout {
            ExpertLayout::Turned(_) => vec![
                Projection::at(i, &format!("mlp.experts.gate_up_projs.{e}"), (2 * f, d), true),
                Projection::at(i, &format!("mlp.experts.down_projs.{e}"), (d, f), true),
            ],
            layout => {
                let (path, names) = match layout {
                    ExpertLayout::Mixtral => ("block_sparse_moe", ["w1", "w3", "w2"]),
                    _ => ("mlp", ["gate_proj", "up_proj", "down_proj"]),
                };
                let shapes = [(f, d), (f, d), (d, f)];
                let at = |(name, shape)| Projection::at(i, &format!("{path}.experts.{e}.{name}"), shape, false);
                names.into_iter().zip(shapes).map(at).collect()
            }
        };
        (0..spec.route.experts).map(of).collect()
    }

    /// The linear layers of block `i` that every row goes through.
    pub fn projections(&self, i: usize) -> Vec<Projection> {
        let mut all = self.attention_projections(i);
        all.extend(self.feed_forward_projections(i));
        all
    }

    /// Paths of the linear layers an adapter goes on unless told otherwise, the head included (it is refused by name where it
    /// is targeted). Experts and routers are no such layers: transformers holds experts as stacked tensors.
    pub fn linear_modules(&self) -> Vec<String> {
        let blocks = (0..self.layers.len()).flat_map(|i| self.projections(i)).map(|p| p.path);
        blocks.chain(["lm_head".to_owned()]).collect()
    }

    /// Paths of the experts' linear layers, on which an adapter goes where it is asked to by name.
    pub fn expert_modules(&self) -> Vec<String> {
        (0..self.layers.len()).flat_map(|i| self.expert_projections(i)).flatten().map(|p| p.path).collect()
    }

    /// Paths and extents of the experts' layers of block `i`, for adapters on stacks of them; empty beyond the last block.
    pub fn experts_for_adapters(&self, i: usize) -> weights::Experts {
        let layers = if i < self.layers.len() { self.expert_projections(i) } else { Vec::new() };
        let of = |expert: Vec<Projection>| expert.into_iter().map(|p| (p.path, [p.outputs, p.inputs])).collect();
        layers.into_iter().map(of).collect()
    }

    /// Number of weights.
    pub fn num_parameters(&self) -> usize {
        let blocks: usize = (0..self.layers.len()).map(|i| self.block_parameters(i)).sum();
        blocks + self.vocab * self.hidden * if self.tied { 1 } else { 2 } + self.hidden
    }

    fn block_parameters(&self, i: usize) -> usize {
        let (d, h) = (self.hidden, self.head_width);
        let linear: usize = self.projections(i).iter().map(Projection::num_parameters).sum();
        let experts: usize = self.expert_projections(i).iter().flatten().map(Projection::num_parameters).sum();
        let router = self.experts_of(i).map_or(0, |s| {
            let bias = matches!(s.layout, ExpertLayout::Turned(_) | ExpertLayout::Corrected);
            s.route.experts * (d + usize::from(bias))
        });
        let inner = self.latent.as_ref().map_or(0, |l| l.width + l.query.unwrap_or(0));
        let norms = if self.out_norms { 4 * d } else { 2 * d } + if self.qk_norm { 2 * h } else { 0 } + inner;
        linear + experts + router + norms + if self.sinks { self.heads } else { 0 }
    }
}
