//! accelerate launch files: how processes are started, and what DeepSpeed is to shard.

use super::{Outcome, Row, To};
use crate::table::because::FLOAT32;
use To::{By, Key, NoEffect, Unless};

/// Keys of which two make a file one of accelerate's.
pub(super) const MARKS: &[&str] =
    &["compute_environment", "distributed_type", "num_processes", "num_machines", "machine_rank", "deepspeed_config"];

const LAUNCHED: &str = "ranks are started by `prospect launch`, mpirun or srun, and find one another";
const SHARDING: &str = "what is sharded over ranks is `zero_stage`";
const COMPILED: &str = "the program is compiled already";

fn processes(text: &str) -> Outcome {
    match text.parse::<u64>() {
        Ok(1) => Outcome::NoEffect("one process is what there is unless more are started".into()),
        Ok(n) => Outcome::NoEffect(format!(
            "start {n} ranks with `prospect launch -n {n}`, mpirun or srun; a step then has the rows of all of them. For the same rows per step in one process, multiply `gradient_accumulation_steps` by {n}"
        )),
        Err(_) => Outcome::Refused("expected a number of processes".into()),
    }
}

fn precision(text: &str) -> Outcome {
    match text {
        "bf16" => Outcome::Works { key: "bf16".into(), value: "true".into(), remark: "" },
        _ => Outcome::NoEffect(FLOAT32.into()),
    }
}

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("compute_environment", NoEffect(LAUNCHED)),
    ("debug", NoEffect(LAUNCHED)),
    ("distributed_type", NoEffect(LAUNCHED)),
    ("downcast_bf16", NoEffect(FLOAT32)),
    ("dynamo_backend", NoEffect(COMPILED)),
    ("dynamo_config", NoEffect(COMPILED)),
    ("enable_cpu_affinity", NoEffect(LAUNCHED)),
    ("fsdp_config", NoEffect(SHARDING)),
    ("gpu_ids", NoEffect("the CPU is what there is")),
    ("machine_rank", NoEffect(LAUNCHED)),
    ("main_process_ip", NoEffect(LAUNCHED)),
    ("main_process_port", NoEffect(LAUNCHED)),
    ("main_training_function", NoEffect("the command says what is done")),
    ("mixed_precision", By(precision)),
    ("num_machines", NoEffect(LAUNCHED)),
    ("num_processes", By(processes)),
    ("rdzv_backend", NoEffect(LAUNCHED)),
    ("same_network", NoEffect(LAUNCHED)),
    ("tpu_env", NoEffect("it names other hardware")),
    ("tpu_use_cluster", NoEffect("it names other hardware")),
    ("tpu_use_sudo", NoEffect("it names other hardware")),
    ("use_cpu", NoEffect("the CPU is what there is")),
    ("deepspeed_config.deepspeed_config_file", Unless(&["null", "none"], "what that file says is not read: write the run's settings in its YAML")),
    ("deepspeed_config.deepspeed_multinode_launcher", NoEffect(LAUNCHED)),
    ("deepspeed_config.gradient_accumulation_steps", Key("gradient_accumulation_steps")),
    ("deepspeed_config.gradient_clipping", Key("max_grad_norm")),
    ("deepspeed_config.offload_optimizer_device", By(super::deepspeed::offload)),
    ("deepspeed_config.offload_optimizer_nvme_path", Key("offload_optimizer_nvme_path")),
    ("deepspeed_config.offload_param_device", NoEffect("everything is in CPU memory")),
    ("deepspeed_config.zero3_init_flag", NoEffect(SHARDING)),
    ("deepspeed_config.zero3_save_16bit_model", NoEffect(SHARDING)),
    ("deepspeed_config.zero_stage", By(super::deepspeed::stage)),
];
