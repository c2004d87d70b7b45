//! The MLX trainer's nested sections.

use super::{Line, Row, To};
use To::{Key, KeyBut, NoEffect, Values};

/// Top-level mappings of which two make a file one of these.
pub(super) const SECTIONS: &[&str] = &["model", "lora", "training", "kto", "data", "logging", "checkpoint", "output"];

const MEANS: &str = "log-probabilities are summed over a completion as in the paper; that trainer took their mean, so beta meant less there";
const TRAINER: &[(&str, Line)] = &[("true", Line::Is("trainer", "kto")), ("false", Line::Is("trainer", "sft"))];

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("model.name", Key("model_name_or_path")),
    ("model.max_seq_length", Key("max_length")),
    ("lora.rank", Key("lora_r")),
    ("lora.alpha", Key("lora_alpha")),
    ("lora.dropout", Key("lora_dropout")),
    ("lora.target_modules", Key("lora_target_modules")),
    ("training.max_steps", Key("max_steps")),
    ("training.num_epochs", Key("num_train_epochs")),
    ("training.per_device_batch_size", Key("per_device_train_batch_size")),
    ("training.gradient_accumulation_steps", Key("gradient_accumulation_steps")),
    ("training.learning_rate", Key("learning_rate")),
    ("training.save_steps", Key("save_steps")),
    ("training.logging_steps", Key("logging_steps")),
    ("training.eval_steps", Key("eval_steps")),
    ("training.warmup_steps", Key("warmup_steps")),
    ("training.warmup_ratio", Key("warmup_ratio")),
    ("training.weight_decay", Key("weight_decay")),
    ("training.max_grad_norm", Key("max_grad_norm")),
    ("training.gradient_checkpointing", Key("gradient_checkpointing")),
    ("training.seed", Key("seed")),
    ("kto.enabled", Values(TRAINER, "expected true or false")),
    ("kto.beta", KeyBut("beta", MEANS)),
    ("kto.lambda_d", Key("desirable_weight")),
    ("kto.lambda_u", Key("undesirable_weight")),
    ("data.max_examples", Key("max_samples")),
    ("data.path", Key("dataset_name")),
    ("data.train_path", Key("dataset_name")),
    ("data.train_file", Key("dataset_name")),
    ("data.val_path", Key("eval_dataset_name")),
    ("data.val_file", Key("eval_dataset_name")),
    ("logging.log_dir", NoEffect("logs are in the run folder")),
    ("checkpoint.dir", NoEffect("checkpoints are in the run folder")),
    ("output.dir", Key("output_dir")),
];
