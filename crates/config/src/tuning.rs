//! Which weights a run trains, as plain values.

use std::path::PathBuf;

/// What is trained.
#[derive(Clone, Debug, PartialEq)]
pub enum Tuning {
    /// Every weight.
    Full,
    /// All weights of the last so many blocks, or of the first when negative; never 0.
    Blocks(i64),
    /// A fresh adapter: A random, B zero.
    Lora(Lora),
    /// An adapter that exists; its initial state is the KTO reference.
    Adapter {
        /// A folder in PEFT's layout.
        path: PathBuf,
        /// What the YAML says about it; each must agree with its `adapter_config.json`.
        claims: LoraClaims,
    },
}

/// A fresh LoRA adapter: W + scale * B A.
#[derive(Clone, Debug, PartialEq)]
pub struct Lora {
    /// Rank, >= 1.
    pub r: usize,
    /// scale = alpha / r, or alpha / sqrt(r) with `rslora`.
    pub alpha: f64,
    /// As PEFT records it; whether it acts is [`crate::Config::adapter_dropout`].
    pub dropout: f64,
    /// Which linear layers.
    pub targets: Targets,
    /// Rank-stabilised scale.
    pub rslora: bool,
    /// Which linear layers not, although `targets` says so.
    pub exclude: Option<Targets>,
    /// Ranks by the end of a layer's name; the first that fits counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Alphas, likewise.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Only these blocks.
    pub layers: Option<Vec<usize>>,
    /// Names before a block's number; empty: any.
    pub layers_pattern: Vec<String>,
    /// Weight-decomposed.
    pub dora: bool,
    /// Modules trained in full beside it.
    pub modules_to_save: Vec<String>,
    /// Biases trained beside it.
    pub bias: LoraBias,
    /// How A and B begin.
    pub start: LoraStart,
}

/// Biases trained beside an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraBias {
    /// None.
    None,
    /// All of the model.
    All,
    /// Of the adapted layers.
    LoraOnly,
}

/// How A and B begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraStart {
    /// A Kaiming-uniform, B zero.
    Usual,
    /// A normal of deviation 1/r, B zero.
    Gaussian,
    /// Both random: the model is changed.
    Random,
}

/// `lora_*` keys written beside `adapter_name_or_path`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LoraClaims {
    /// `lora_r`
    pub r: Option<usize>,
    /// `lora_alpha`
    pub alpha: Option<f64>,
    /// `lora_dropout`
    pub dropout: Option<f64>,
    /// `lora_target_modules`
    pub targets: Option<Targets>,
    /// `use_rslora`
    pub rslora: Option<bool>,
}

/// Which linear layers carry an adapter (PEFT's rules).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// PEFT's own choice for the architecture.
    Default,
    /// Every linear layer but the head.
    AllLinear,
    /// Layers whose dotted name is, or ends in a dot and, one of these.
    Names(Vec<String>),
    /// Layers whose whole dotted name matches.
    Regex(String),
}
