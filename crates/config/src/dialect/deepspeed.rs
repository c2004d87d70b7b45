//! DeepSpeed's JSON: the stage of ZeRO; the rest says how its own engine goes about it.

use super::{Outcome, Row, To, UNSET};
use crate::table::because::FLOAT32;
use To::{By, Key, NoEffect, Unless};

/// Keys of which two make a file one of DeepSpeed's.
pub(super) const MARKS: &[&str] = &[
    "zero_optimization",
    "zero_allow_untested_optimizer",
    "train_micro_batch_size_per_gpu",
    "gradient_clipping",
    "fp16",
    "bf16",
];

const ENGINE: &str = "how DeepSpeed goes about it; ranks here exchange ranges of one arena";
const IN_MEMORY: &str = "everything is in CPU memory";

/// Where the optimiser's state goes, in DeepSpeed's words and accelerate's.
pub(super) fn offload(text: &str) -> Outcome {
    match text {
        "nvme" => Outcome::Works { key: "offload_optimizer_device".into(), value: text.into(), remark: "" },
        _ => Outcome::NoEffect(IN_MEMORY.into()),
    }
}

/// ZeRO's stage as ours.
pub(super) fn stage(text: &str) -> Outcome {
    match text {
        "0" | "1" | "2" | "3" => Outcome::Works { key: "zero_stage".into(), value: text.into(), remark: "" },
        "null" => Outcome::NoEffect(UNSET.into()),
        _ => Outcome::Refused("expected a stage from 0 to 3".into()),
    }
}

/// A value that transformers fills in from the run's own settings, or that says another thing than they do.
fn key(name: &'static str, text: &str) -> Outcome {
    match text {
        "null" => Outcome::NoEffect(UNSET.into()),
        "auto" => Outcome::NoEffect("auto: as the run's own settings say".into()),
        value => Outcome::Works { key: name.into(), value: value.into(), remark: "" },
    }
}

fn micro_batch(text: &str) -> Outcome {
    key("per_device_train_batch_size", text)
}

fn batch(text: &str) -> Outcome {
    key("train_batch_size", text)
}

fn accumulation(text: &str) -> Outcome {
    key("gradient_accumulation_steps", text)
}

fn clipping(text: &str) -> Outcome {
    key("max_grad_norm", text)
}

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("train_batch_size", By(batch)),
    ("train_micro_batch_size_per_gpu", By(micro_batch)),
    ("gradient_accumulation_steps", By(accumulation)),
    ("gradient_clipping", By(clipping)),
    ("zero_allow_untested_optimizer", NoEffect("AdamW is what there is")),
    ("fp16", NoEffect(FLOAT32)),
    ("bf16", NoEffect(FLOAT32)),
    ("zero_optimization.stage", By(stage)),
    ("zero_optimization.overlap_comm", NoEffect(ENGINE)),
    ("zero_optimization.contiguous_gradients", NoEffect(ENGINE)),
    ("zero_optimization.sub_group_size", NoEffect(ENGINE)),
    ("zero_optimization.reduce_bucket_size", NoEffect(ENGINE)),
    ("zero_optimization.allgather_bucket_size", NoEffect(ENGINE)),
    ("zero_optimization.allgather_partitions", NoEffect(ENGINE)),
    ("zero_optimization.reduce_scatter", NoEffect(ENGINE)),
    ("zero_optimization.round_robin_gradients", NoEffect(ENGINE)),
    ("zero_optimization.stage3_prefetch_bucket_size", NoEffect(ENGINE)),
    ("zero_optimization.stage3_param_persistence_threshold", NoEffect(ENGINE)),
    ("zero_optimization.stage3_max_live_parameters", NoEffect(ENGINE)),
    ("zero_optimization.stage3_max_reuse_distance", NoEffect(ENGINE)),
    ("zero_optimization.stage3_gather_16bit_weights_on_model_save", NoEffect("what is saved is always the whole model")),
    ("zero_optimization.offload_optimizer.device", By(offload)),
    ("zero_optimization.offload_optimizer.nvme_path", Key("offload_optimizer_nvme_path")),
    ("zero_optimization.offload_optimizer.pin_memory", NoEffect(ENGINE)),
    ("zero_optimization.offload_optimizer.ratio", NoEffect(ENGINE)),
    ("zero_optimization.offload_optimizer.buffer_count", NoEffect(ENGINE)),
    ("zero_optimization.offload_optimizer.pipeline_read", NoEffect(ENGINE)),
    ("zero_optimization.offload_optimizer.pipeline_write", NoEffect(ENGINE)),
    ("zero_optimization.offload_optimizer.fast_init", NoEffect(ENGINE)),
    ("zero_optimization.offload_param", NoEffect(IN_MEMORY)),
    ("optimizer", Unless(&[], "write the optimiser in the run's own settings: `optim`, `learning_rate`, `weight_decay`")),
    ("scheduler", Unless(&[], "write the schedule in the run's own settings: `lr_scheduler_type`, `warmup_ratio`")),
    ("steps_per_print", NoEffect("what is logged is `logging_steps`")),
    ("wall_clock_breakdown", NoEffect("what is logged is `logging_steps`")),
];
