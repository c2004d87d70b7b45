//! Keys that are this project's own.

use super::{Entry, Scope, Section, mapping, spelling, works};
use crate::value::{Choice, Kind, Range};

use Choice::{Is, Means, Not};
use Kind::{Bool, BoolOr, Bytes, FloatOr, Int, Names, Numbers, Text, Texts};

const TRAINERS: &[Choice] = &[
    Is("kto"),
    Is("sft"),
    Not("dpo", "paired preferences are trained as KTO rows: one desirable and one undesirable completion"),
    Not("grpo", "training from rewards of fresh samples is not offered"),
    Not("ppo", "training from rewards of fresh samples is not offered"),
];
const SIZES: &[Choice] = &[Is("3b"), Is("7b"), Is("13b"), Is("20b")];
const COMPAT: &[Choice] = &[Is("trl")];
const TRUNCATION: &[Choice] = &[
    Is("keep_start"),
    Is("drop"),
    Not("keep_end", "it would cut the beginning of the prompt and move every position"),
];
const Z0_SCOPE: &[Choice] = &[Is("step"), Is("micro_batch"), Means("micro", "micro_batch")];
const DEVICE: &[Choice] = &[
    Is("auto"),
    Is("cpu"),
    Is("cuda"),
    Means("cuda:0", "cuda"),
    Is("cuda:1"),
    Is("cuda:2"),
    Is("cuda:3"),
    Is("cuda:4"),
    Is("cuda:5"),
    Is("cuda:6"),
    Is("cuda:7"),
    Not("mps", "there are kernels for the CPU and for NVIDIA GPUs"),
    Not("xpu", "there are kernels for the CPU and for NVIDIA GPUs"),
];
const BACKENDS: &[Choice] = &[
    Is("mpi"),
    Is("nccl"),
    Means("gloo", "mpi"),
    Not("ccl", OTHER_BACKENDS),
    Not("hccl", OTHER_BACKENDS),
    Not("cncl", OTHER_BACKENDS),
    Not("mccl", OTHER_BACKENDS),
];
const OTHER_BACKENDS: &str = "ranks exchange over MPI or NCCL";
const PAIRING: &[Choice] = &[Is("group"), Is("trl")];
const HOMOGENEOUS: &[Choice] = &[
    Is("exact"),
    Is("skip"),
    Not(
        "cross_entropy",
        "it would raise the likelihood of undesirable completions; the KTO loss of a one-class batch is well defined",
    ),
];
const BAD_ROWS: &[Choice] = &[Is("error"), Is("skip")];
const TURN_LOSS: &[Choice] = &[Is("whole"), Is("assistant"), Is("last_assistant")];
const MIX_UNTIL: &[Choice] = &[Is("first_exhausted"), Is("all_exhausted")];

const RUN: (Section, Scope) = (Section::Run, Scope::Both);
const DATA: (Section, Scope) = (Section::Data, Scope::Both);
const SFT_DATA: (Section, Scope) = (Section::Data, Scope::Sft);
const KTO: (Section, Scope) = (Section::Objective, Scope::Kto);
const EVAL: (Section, Scope) = (Section::Evaluation, Scope::Both);
const ENGINE: (Section, Scope) = (Section::Engine, Scope::Both);
const POSITIVE: Kind = Kind::Float(Range::POSITIVE);

const ROPE: (Section, Scope) = (Section::Model, Scope::Both);
const ROPES: &[Choice] = &[
    Is("linear"),
    Is("dynamic"),
    Is("yarn"),
    Is("llama3"),
    Not("longrope", "its factors are found by a search for each model; take a checkpoint that has them"),
];

/// `rope_scaling`, with transformers' names; which scaling needs which is checked with the model.
#[rustfmt::skip] // a table: one row, one line
const ROPE_SCALING: &[Entry] = &[
    works(ROPE, "rope_scaling.rope_type", Kind::Choice(ROPES), "", "linear, dynamic, yarn or llama3"),
    spelling("rope_scaling.type", Kind::Choice(ROPES), "rope_scaling.rope_type", "older name of rope_type"),
    works(ROPE, "rope_scaling.factor", POSITIVE, "", "how many times longer the context gets; at least 1"),
    works(ROPE, "rope_scaling.original_max_position_embeddings", Int(1), "", "positions the model was trained for; max_position_embeddings when unset"),
    works(ROPE, "rope_scaling.attention_factor", POSITIVE, "", "yarn: factor of cosines and sines; from the factor when unset"),
    works(ROPE, "rope_scaling.beta_fast", POSITIVE, "", "yarn: turns above which a frequency is kept, 32 when unset"),
    works(ROPE, "rope_scaling.beta_slow", POSITIVE, "", "yarn: turns below which a frequency is divided, 1 when unset"),
    works(ROPE, "rope_scaling.mscale", POSITIVE, "", "yarn: DeepSeek's factor"),
    works(ROPE, "rope_scaling.mscale_all_dim", POSITIVE, "", "yarn: DeepSeek's factor of attention scores"),
    works(ROPE, "rope_scaling.truncate", Bool, "", "yarn: whether the ramp begins and ends at whole entries, true when unset"),
    works(ROPE, "rope_scaling.low_freq_factor", POSITIVE, "", "llama3: required"),
    works(ROPE, "rope_scaling.high_freq_factor", POSITIVE, "", "llama3: required"),
];

#[rustfmt::skip] // a table: one row, one line
pub(super) const ENTRIES: &[Entry] = &[
    works(RUN, "trainer", Kind::Choice(TRAINERS), "kto", "the objective: kto, or sft"),
    works(RUN, "preset", Kind::Choice(SIZES), "", "a configuration by name that gives way to every key that is written: `prospect preset ls`"),
    spelling("model_size", Kind::Choice(SIZES), "preset", "the preset of a size: 3b, 7b, 13b or 20b"),
    works(RUN, "compat", Kind::Choice(COMPAT), "", "trl: TRL's pairing, order, z0 scope and normalisation, for comparison runs"),
    works((Section::Model, Scope::Both), "adapter_name_or_path", Text, "", "a PEFT adapter folder to go on training; its initial state is the KTO reference"),
    works(ROPE, "new_special_tokens", Names, "", "tokens that the tokenizer gets and never takes apart: a list, or a text with commas; embedding and head are trained"),
    works(ROPE, "resize_vocab", Bool, "false", "give the embedding a row for every token of a tokenizer that has more; embedding and head are trained"),
    mapping("rope_scaling", ROPE_SCALING, "extends the context: scales rotary positions, and goes to the exported config.json"),
    works(DATA, "eval_dataset_name", Texts, "", "files or folders with evaluation rows"),
    works(DATA, "val_size", Kind::Float(Range::ROWS), "", "evaluation rows split off the training rows by hash: a fraction, or a number of rows"),
    works(DATA, "dataset_dir", Text, "", "the folder of LLaMA-Factory's dataset_info.json, whose names dataset_name may use"),
    spelling("dataset", Names, "dataset_name", "names or files with training rows"),
    spelling("eval_dataset", Names, "eval_dataset_name", "names or files with evaluation rows"),
    works(DATA, "mix_weights", Numbers(Range::POSITIVE), "", "mix the sets of dataset_name by these weights, one each, instead of reading them one after the other"),
    works(DATA, "mix_until", Kind::Choice(MIX_UNTIL), "", "a mixture ends when the first set runs out, or (when unset) when all were read, shorter ones repeated"),
    works(DATA, "max_samples", Int(1), "", "rows read of each set of dataset_name, the first ones"),
    works(DATA, "alternatives", Bool, "false", "a list in `completion` is several answers to one prompt, not several turns of one answer"),
    spelling("template", Text, "chat_template_path", "a chat template by name: chatml, qwen, llama3, mistral, deepseek, gpt-oss, AM-thinking"),
    works(DATA, "tokenized_path", Text, "", "the folder of tokenised rows, shared by runs and never stale; in the user's cache folder when unset"),
    works(SFT_DATA, "turn_loss", Kind::Choice(TURN_LOSS), "whole", "conversations: loss on the whole, on every assistant turn, or on the last"),
    spelling("mask_history", Bool, "turn_loss", "true means `turn_loss: last_assistant`"),
    spelling("train_on_prompt", Bool, "completion_only_loss", "true means `completion_only_loss: false`"),
    works(DATA, "truncation", Kind::Choice(TRUNCATION), "keep_start", "rows over max_length: cut their end, or drop them"),
    works(DATA, "bad_rows", Kind::Choice(BAD_ROWS), "error", "a row that cannot be read: stop and say where, or skip and count"),
    works(DATA, "shuffle", Bool, "true", "a new order every epoch; KTO shuffles whole pairing groups"),
    works(KTO, "z0_scope", Kind::Choice(Z0_SCOPE), "step", "the KL estimate is shared by all rows of the step, or of each micro-batch as in TRL"),
    works(KTO, "pairing", Kind::Choice(PAIRING), "group", "mismatched completions: a fixed derangement whose partners have other prompts, or TRL's rotation"),
    works(KTO, "homogeneous_batch", Kind::Choice(HOMOGENEOUS), "exact", "a step whose rows are all of one class: its exact KTO loss, or skip it"),
    works(KTO, "pref_ftx", Kind::Float(Range::NON_NEGATIVE), "0.0", "LLaMA-Factory's likelihood term: this times the mean token loss of desirable rows, times rows by desirable rows"),
    works(KTO, "kl_warn", POSITIVE, "", "warn when the KL estimate of a step exceeds this, in nats per completion"),
    works(KTO, "kl_stop", POSITIVE, "", "save and stop when the KL estimate of a step exceeds this, in nats per completion"),
    works((Section::Model, Scope::Both), "freeze_trainable_layers", Int(i64::MIN), "", "train only the last so many blocks in full, or the first when negative; the rest is frozen"),
    works(EVAL, "generate_prompts", Texts, "", "texts that the model answers during training, with its most likely tokens: see them in train.log"),
    works(EVAL, "generate_steps", Int(1), "", "steps between two such rounds of answers; when unset, one at the end of every epoch"),
    works(EVAL, "generate_max_new_tokens", Int(1), "64", "tokens of such an answer at most"),
    works(EVAL, "early_stopping_patience", Int(1), "", "stop after this many evaluations without improvement"),
    works(EVAL, "early_stopping_threshold", Kind::Float(Range::NON_NEGATIVE), "0.0", "an improvement is a change by more than this"),
    works(ENGINE, "deterministic", Bool, "true", "reductions in a fixed order: the same bits every time"),
    works(ENGINE, "zero_stage", Int(0), "0", "over several ranks: 0 all state on every rank, 1 the optimiser's in shards, 2 the gradient too, 3 the weights too"),
    works(ENGINE, "shard_ranks", Int(1), "", "ranks that have a shard each, as those of a machine; the next as many have the same. Unset: all ranks"),
    works(ENGINE, "elastic", Bool, "", "sum gradients in an order that does not depend on the number of ranks; on with several ranks unless `deterministic: false`"),
    works(ENGINE, "ddp_backend", Kind::Choice(BACKENDS), "", "over what ranks exchange: mpi, or nccl from GPU to GPU; unset: nccl with `device: cuda` where every rank has it, else mpi"),
    works(ENGINE, "dist_timeout", POSITIVE, "60", "seconds that ranks wait for one another before the job ends"),
    works((Section::Optimisation, Scope::Both), "train_batch_size", Int(1), "", "rows of a step over all ranks; when unset, micro-batches per step are multiplied by the number of ranks"),
    works(ENGINE, "device", Kind::Choice(DEVICE), "auto", "where training computes: cpu, cuda, or cuda:N for the GPU of that number; auto is the CPU"),
    works(ENGINE, "threads", Int(1), "", "CPU threads; all physical cores when unset"),
    works(ENGINE, "max_memory", Bytes, "", "what the memory plan may use; what is free when unset"),
    works((Section::Logging, Scope::Both), "extra_metrics", Bool, "true", "logits/* and entropy, which cost a pass over the head"),
    spelling("min_lr_rate", Kind::Float(Range::UNIT), "lr_scheduler_kwargs.min_lr_rate", "the schedule's floor as a share of learning_rate"),
    spelling("use_kto_s", Bool, "loss_type", "true means `loss_type: kto_s`"),
    spelling("use_sign_correction", Bool, "loss_type", "true means `loss_type: kto_s`"),
];

/// A number, or the paper's rule (Eq. 9) from the class counts.
pub(super) const WEIGHT: Kind = FloatOr(Range::NON_NEGATIVE, &["auto"]);
/// As the memory plan says, always, never.
pub(super) const PLANNED: Kind = BoolOr(&["auto"]);
