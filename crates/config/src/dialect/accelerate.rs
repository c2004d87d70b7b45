//! accelerate launch files: how processes are started, which one process does not need.

use super::{Outcome, Row, To};
use To::{By, Key, NoEffect, Unless};

/// Keys of which two make a file one of accelerate's.
pub(super) const MARKS: &[&str] =
    &["compute_environment", "distributed_type", "num_processes", "num_machines", "machine_rank", "deepspeed_config"];

const ONE_PROCESS: &str = "a run is one process here: nothing is spread or gathered";
const FLOAT32: &str = "arithmetic is float32 on the CPU; how weights are stored is `dtype`";
const SHARDING: &str = "optimiser state and gradients are sharded over processes, and a run is one process here";
const COMPILED: &str = "the program is compiled already";

fn processes(text: &str) -> Outcome {
    match text.parse::<u64>() {
        Ok(1) => Outcome::NoEffect("one process is what there is".into()),
        Ok(n) => Outcome::Refused(format!(
            "a run is one process here: multiply `gradient_accumulation_steps` by {n} for the same rows per step"
        )),
        Err(_) => Outcome::Refused("expected a number of processes".into()),
    }
}

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("compute_environment", NoEffect(ONE_PROCESS)),
    ("debug", NoEffect(ONE_PROCESS)),
    ("distributed_type", NoEffect(ONE_PROCESS)),
    ("downcast_bf16", NoEffect(FLOAT32)),
    ("dynamo_backend", NoEffect(COMPILED)),
    ("dynamo_config", NoEffect(COMPILED)),
    ("enable_cpu_affinity", NoEffect(ONE_PROCESS)),
    ("fsdp_config", NoEffect(SHARDING)),
    ("gpu_ids", NoEffect("the CPU is what there is")),
    ("machine_rank", NoEffect(ONE_PROCESS)),
    ("main_process_ip", NoEffect(ONE_PROCESS)),
    ("main_process_port", NoEffect(ONE_PROCESS)),
    ("main_training_function", NoEffect("the command says what is done")),
    ("mixed_precision", NoEffect(FLOAT32)),
    ("num_machines", Unless(&["1"], "a run is one process on one machine here")),
    ("num_processes", By(processes)),
    ("rdzv_backend", NoEffect(ONE_PROCESS)),
    ("same_network", NoEffect(ONE_PROCESS)),
    ("tpu_env", NoEffect("it names other hardware")),
    ("tpu_use_cluster", NoEffect("it names other hardware")),
    ("tpu_use_sudo", NoEffect("it names other hardware")),
    ("use_cpu", NoEffect("the CPU is what there is")),
    ("deepspeed_config.deepspeed_config_file", Unless(&["null", "none"], "what that file says is not read: write the run's settings in its YAML")),
    ("deepspeed_config.deepspeed_multinode_launcher", NoEffect(ONE_PROCESS)),
    ("deepspeed_config.gradient_accumulation_steps", Key("gradient_accumulation_steps")),
    ("deepspeed_config.gradient_clipping", Key("max_grad_norm")),
    ("deepspeed_config.offload_optimizer_device", NoEffect("everything is in CPU memory")),
    ("deepspeed_config.offload_param_device", NoEffect("everything is in CPU memory")),
    ("deepspeed_config.zero3_init_flag", NoEffect(SHARDING)),
    ("deepspeed_config.zero3_save_16bit_model", NoEffect(SHARDING)),
    ("deepspeed_config.zero_stage", NoEffect(SHARDING)),
];
