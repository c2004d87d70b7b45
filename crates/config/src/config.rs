//! The configuration as plain values: what `train` reads, resolved and complete.
//!
//! Paths are as they were written, relative to the current directory, as in TRL. Nothing here was looked up on disk.

pub use crate::curve::{Curve, Floor, Schedule, ScheduleKind, Warmup};
pub use crate::tuning::{Lora, LoraBias, LoraClaims, LoraStart, Targets, Tuning};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// `compat: trl`: TRL's conventions throughout, for comparison runs. The single settings below follow it already.
    pub compat_trl: bool,
    /// The preset that gave what was not written.
    pub preset: Option<String>,
    /// The base model.
    pub model: Model,
    /// What is trained of it.
    pub tuning: Tuning,
    /// Rows.
    pub data: Data,
    /// Loss.
    pub objective: Objective,
    /// How long.
    pub duration: Duration,
    /// Rows per step.
    pub batch: Batch,
    /// AdamW and clipping.
    pub optimizer: Optimizer,
    /// Learning rate over the steps.
    pub schedule: Schedule,
    /// Evaluation and what is best.
    pub evaluation: Evaluation,
    /// Run folder and checkpoints.
    pub saving: Saving,
    /// What is logged and where to.
    pub logging: Logging,
    /// How it is computed; no field changes what is computed, but for `seed`.
    pub engine: Engine,
}

impl Config {
    /// Whether the objective needs a reference model.
    pub fn needs_reference(&self) -> bool {
        matches!(self.objective, Objective::Kto(_))
    }

    /// Probability of dropout before A in training: 0 without an adapter and where `disable_dropout` holds.
    /// For an adapter that is continued it is what the YAML says, else `recorded`, its own configuration's.
    pub fn adapter_dropout(&self, recorded: f64) -> f64 {
        let disabled = matches!(&self.objective, Objective::Kto(kto) if kto.disable_dropout);
        match &self.tuning {
            Tuning::Full | Tuning::Blocks(_) => 0.0,
            _ if disabled => 0.0,
            Tuning::Lora(lora) => lora.dropout,
            Tuning::Adapter { claims, .. } => claims.dropout.unwrap_or(recorded),
        }
    }
}

/// The base model.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// A folder in the Hugging Face layout.
    pub path: PathBuf,
    /// How weights are stored in memory; arithmetic is float32.
    pub dtype: Dtype,
    /// How the frozen linear layers are held, when in codes.
    pub quantisation: Option<Quantisation>,
    /// Weight of the load-balancing loss of experts; `None`: the model's own.
    pub router_aux_loss_coef: Option<f64>,
    /// Scaling of rotary positions in place of the model's own; with `rope_type`.
    pub rope_scaling: Option<serde_json::Map<String, serde_json::Value>>,
    /// Special tokens that the tokenizer gets, as far as it has not got them.
    pub new_tokens: Vec<String>,
    /// Whether the embedding gets a row for every token of a tokenizer that has more.
    pub resize_vocab: bool,
}

/// A quantised base, made when the model is loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quantisation {
    /// What the codes mean.
    pub code: QuantCode,
    /// Scales of four-bit codes are quantised too.
    pub nested: bool,
    /// Layers or parts of the model that stay as they are.
    pub skip: Vec<String>,
}

/// Codes of a quantised base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantCode {
    /// Four bits, normal-float.
    Nf4,
    /// Four bits, floating point.
    Fp4,
    /// Eight bits, a scale per row.
    Int8,
}

/// Storage of weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    /// 4 bytes each.
    Float32,
    /// 2 bytes each.
    Bfloat16,
    /// As in the files; float16 is held as float32.
    Auto,
}

/// Rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Data {
    /// Files, folders or names, at least one.
    pub train: Vec<PathBuf>,
    /// Folder of a `dataset_info.json` whose names `train` and `eval` may use.
    pub registry: Option<PathBuf>,
    /// Folders of the names that a registry has on the Hub; whoever fetches them fills it in, no key does.
    pub fetched: BTreeMap<String, PathBuf>,
    /// How the sets of `train` are mixed; `None`: one after the other.
    pub mix: Option<Mix>,
    /// Rows read of each set of `train`, >= 1.
    pub max_samples: Option<usize>,
    /// A list in `completion` is several answers.
    pub alternatives: bool,
    /// Where tokenised rows are kept; `None`: nowhere.
    pub token_cache: Option<PathBuf>,
    /// Only the first rows of the files, for a look at them; no key sets it.
    pub first_rows: Option<usize>,
    /// Files or folders; empty when none were named.
    pub eval: Vec<PathBuf>,
    /// Rows split off `train` by hash; never together with `eval`.
    pub val_size: Option<ValSize>,
    /// Split of a folder that is trained on.
    pub train_split: String,
    /// Split of a folder that is evaluated on, when it has one.
    pub test_split: String,
    /// Field of plain-text rows (SFT).
    pub text_field: String,
    /// A Jinja file, a folder with a tokenizer, or a template by name, instead of the model's own.
    pub chat_template: Option<PathBuf>,
    /// Tokens per row, >= 1; `None` for no limit but the model's.
    pub max_length: Option<usize>,
    /// Whether `max_length` is the default, which gives way to a model with fewer positions.
    pub default_length: bool,
    /// What happens to longer rows.
    pub truncation: Truncation,
    /// What happens to rows that cannot be read.
    pub bad_rows: BadRows,
    /// A new order every epoch; KTO moves pairing groups as a whole.
    pub shuffle: bool,
}

/// Mixing by weight.
#[derive(Clone, Debug, PartialEq)]
pub struct Mix {
    /// One of each set, > 0; empty: all the same.
    pub weights: Vec<f64>,
    /// The mixture ends when the first set runs out.
    pub until_first: bool,
}

/// Size of the evaluation split.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValSize {
    /// In (0, 1).
    Fraction(f64),
    /// >= 1.
    Rows(usize),
}

/// Rows over `max_length`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// Their end is cut; a row whose prompt leaves no room is dropped and counted.
    KeepStart,
    /// They are dropped and counted.
    Drop,
}

/// Rows that cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRows {
    /// Stop, and say where.
    Error,
    /// Leave them out and count them.
    Skip,
}

/// Loss.
#[derive(Clone, Debug, PartialEq)]
pub enum Objective {
    /// `trainer: kto`
    Kto(Kto),
    /// `trainer: sft`
    Sft(Sft),
}

/// KTO and its variants.
#[derive(Clone, Debug, PartialEq)]
pub struct Kto {
    /// The row loss.
    pub loss: KtoLoss,
    /// Strength of the reference, > 0: reward = beta * log-ratio.
    pub beta: f64,
    /// Weight of desirable rows.
    pub desirable_weight: Weight,
    /// Weight of undesirable rows; not both weights are automatic.
    pub undesirable_weight: Weight,
    /// Which rows share a KL estimate z0.
    pub z0_scope: Z0Scope,
    /// Where mismatched completions come from.
    pub pairing: Pairing,
    /// How row losses become the step's loss.
    pub normalisation: Normalisation,
    /// A step of one class.
    pub homogeneous_batch: HomogeneousBatch,
    /// Reference log-probabilities are cached before training even where the policy can compute them.
    pub precompute_ref_log_probs: bool,
    /// Weight of the likelihood of desirable rows, >= 0.
    pub ftx: f64,
    /// No dropout anywhere.
    pub disable_dropout: bool,
    /// Warn above this z0, in nats per completion.
    pub kl_warn: Option<f64>,
    /// Save and stop above this z0, in nats per completion.
    pub kl_stop: Option<f64>,
}

/// The loss of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KtoLoss {
    /// 1 - sigma(+-beta (r - z0))
    Kto,
    /// z0 enters with the sign of r.
    KtoS,
    /// z0 = 0, no mismatched rows.
    ApoZeroUnpaired,
}

/// Weight of a class.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Weight {
    /// >= 0
    Number(f64),
    /// From the class counts, by the paper's Eq. 9.
    Auto,
}

/// Rows that share one z0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Z0Scope {
    /// All rows of an optimiser step.
    Step,
    /// The rows of a micro-batch, as in TRL.
    MicroBatch,
}

/// Mismatched completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pairing {
    /// A fixed derangement within groups; the partner's prompt differs.
    Group,
    /// TRL's rotation by one inside each batch of `per_device_train_batch_size` rows in file order.
    Trl,
}

/// From row losses to the loss of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalisation {
    /// The mean over the rows of the step.
    Rows,
    /// The mean over micro-batches of their means, as in TRL.
    MeanOfMeans,
}

/// A step whose rows are all desirable or all undesirable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HomogeneousBatch {
    /// Its exact loss.
    Exact,
    /// No update.
    Skip,
}

/// Supervised fine-tuning: the mean over target tokens of the step.
#[derive(Clone, Debug, PartialEq)]
pub struct Sft {
    /// Targets are completions only; `None`: yes for rows with prompt and completion.
    pub completion_only_loss: Option<bool>,
    /// Targets are assistant turns only; the template must mark them.
    pub assistant_only_loss: bool,
    /// Which turns of a conversation are targets.
    pub turn_loss: TurnLoss,
    /// Each token's loss is weighted by its probability.
    pub dft: bool,
    /// Noise on embeddings in training, > 0.
    pub neftune_alpha: Option<f64>,
    /// A batch row is a bin of `max_length` tokens; `None` for one row each.
    pub packing: Option<Packing>,
}

/// Which turns of a conversation are targets, where the turns themselves do not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TurnLoss {
    /// All, or what `completion_only_loss` says.
    Whole,
    /// The assistant's.
    Assistant,
    /// The assistant's last.
    LastAssistant,
}

/// How bins are filled; attention is block-diagonal always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// Best fit, longest first; overlong rows are cut.
    Bfd,
    /// Best fit, longest first; overlong rows are split.
    BfdSplit,
    /// One stream of tokens, cut anywhere.
    Wrapped,
}

/// Length of the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Duration {
    /// Optimiser steps, >= 1; the data repeat.
    Steps(usize),
    /// Passes over the rows, > 0; steps = ceil(epochs * steps per epoch).
    Epochs(f64),
}

/// Rows per step; all >= 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Rows per micro-batch in training.
    pub train_rows: usize,
    /// Micro-batches per optimiser step, of each rank unless `step_rows` are given.
    pub accumulation: usize,
    /// Rows of a step over all ranks, where they are given.
    pub step_rows: Option<usize>,
    /// Rows per micro-batch in evaluation.
    pub eval_rows: usize,
}

/// AdamW.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimizer {
    /// How moments are held.
    pub name: OptimizerName,
    /// The folder on whose disk they are kept; `None`: in memory.
    pub on_disk: Option<PathBuf>,
    /// Where the exact weights are.
    pub master: Master,
    /// Peak learning rate.
    pub learning_rate: f64,
    /// Decay of the first moment, in [0, 1).
    pub beta1: f64,
    /// Decay of the second moment, in [0, 1).
    pub beta2: f64,
    /// Added to the root of the second moment.
    pub epsilon: f64,
    /// Decoupled; not on norms and biases.
    pub weight_decay: f64,
    /// Clip to this norm; `None` for no clipping.
    pub max_grad_norm: Option<f64>,
}

/// How AdamW's moments are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptimizerName {
    /// `adamw_torch`, `adamw_torch_fused`: float32.
    AdamwTorch,
    /// `adamw_8bit`: eight bits in blocks of 256.
    Adamw8bit,
}

/// Where the exact values of weights are that are trained in full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Master {
    /// In float32; they are what is computed with.
    F32,
    /// Nowhere: matrices are bfloat16, and updates are rounded stochastically.
    None,
}

/// When something happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Interval {
    /// Never.
    Never,
    /// Every so many optimiser steps, >= 1.
    Steps(usize),
    /// Every ceil(share * all steps) steps, share in (0, 1).
    Share(f64),
    /// After each epoch.
    Epoch,
}

/// Evaluation.
#[derive(Clone, Debug, PartialEq)]
pub struct Evaluation {
    /// When.
    pub every: Interval,
    /// What decides which checkpoint is best; `None` when nothing asks for it.
    pub best: Option<Best>,
    /// `final/` is the best checkpoint instead of the last state.
    pub load_best_at_end: bool,
    /// Stop when it gets no better.
    pub early_stopping: Option<EarlyStopping>,
    /// Answers to look at while the model learns.
    pub samples: Option<Samples>,
}

/// Prompts that are answered during training.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// The prompts.
    pub prompts: Vec<String>,
    /// When.
    pub every: Interval,
    /// Tokens of an answer at most.
    pub max_new_tokens: usize,
}

/// The metric of the best checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    /// With its prefix: `eval_loss`.
    pub metric: String,
    /// Which way is better.
    pub greater_is_better: bool,
}

/// Stop when evaluation gets no better.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct EarlyStopping {
    /// Evaluations without improvement, >= 1.
    pub patience: usize,
    /// An improvement is a change by more than this.
    pub threshold: f64,
}

/// Run folder and checkpoints.
#[derive(Clone, Debug, PartialEq)]
pub struct Saving {
    /// The run folder.
    pub output_dir: PathBuf,
    /// Begin anew in a folder that exists.
    pub overwrite: bool,
    /// When a checkpoint is written.
    pub every: Interval,
    /// `save_strategy: best`: a checkpoint after each evaluation that is better.
    pub when_best: bool,
    /// Checkpoints kept, >= 1, the best besides; `None` keeps all.
    pub total_limit: Option<usize>,
    /// Where to go on from.
    pub resume: Resume,
}

/// Where to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Nowhere: a new run.
    No,
    /// The newest checkpoint of `output_dir` that verifies.
    Newest,
    /// This checkpoint.
    From(PathBuf),
}

/// What is logged.
#[derive(Clone, Debug, PartialEq)]
pub struct Logging {
    /// When a line is logged.
    pub every: Interval,
    /// The first step too.
    pub first_step: bool,
    /// TensorBoard event files in the run folder.
    pub tensorboard: bool,
    /// Trackers that were asked for and are not sent to yet.
    pub not_sent: Vec<String>,
    /// Name of the run.
    pub run_name: Option<String>,
    /// `logits/*` and `entropy`.
    pub extra_metrics: bool,
}

/// How it is computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Engine {
    /// Of everything random but the order of rows.
    pub seed: u64,
    /// Of the order of rows and the pairing.
    pub data_seed: u64,
    /// Reductions in a fixed order.
    pub deterministic: bool,
    /// Mixed precision where the processor has it.
    pub bf16: bool,
    /// Products of float32 on a GPU round their factors to tf32.
    pub tf32: bool,
    /// ZeRO's stage over several ranks.
    pub zero_stage: u8,
    /// Ranks that what is sharded is sharded over; `None`: all.
    pub shard_ranks: Option<usize>,
    /// The same bits on any number of ranks; `None`: with several ranks, where `deterministic`.
    pub elastic: Option<bool>,
    /// Over what ranks exchange; `None`: as the device suggests.
    pub backend: Option<RankBackend>,
    /// How long ranks wait for one another.
    pub dist_timeout: std::time::Duration,
    /// Recompute activations.
    pub recompute: Recompute,
    /// On a GPU, inputs of blocks that are computed again wait on the host; `None`: where nothing else fits.
    pub offload: Option<bool>,
    /// Where training computes.
    pub device: Device,
    /// CPU threads, >= 1; `None`: all physical cores.
    pub threads: Option<usize>,
    /// Bytes the memory plan may use; `None`: what is free.
    pub max_memory: Option<u64>,
}

impl Engine {
    /// Whether a run over so many ranks sums gradients in an order that does not depend on their number.
    pub fn is_elastic(&self, ranks: usize) -> bool {
        self.elastic.unwrap_or(self.deterministic && ranks > 1)
    }
}

/// Over what ranks exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RankBackend {
    /// MPI: what is exchanged lies on the host.
    Mpi,
    /// NCCL: from GPU to GPU.
    Nccl,
}

/// Where training computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    /// The CPU, until the GPU kernels have been seen on GPUs.
    Auto,
    /// The CPU.
    Cpu,
    /// The GPU of a number.
    Cuda(usize),
}

/// Recomputation of activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recompute {
    /// As the memory plan says.
    Auto,
    /// Every block.
    Always,
    /// None.
    Never,
}
