//! The fields of transformers 5's TrainingArguments, with TRL's defaults.

use super::{Entry, Scope, Section, because, idle, mapping, ours, refused, spelling, works};
use crate::value::{Choice, Kind, Range};

use Choice::{Is, Means, Not};
use Kind::{Anything, Bool, BoolOrText, Int, Text, Texts};
use because::{FLOAT32, NO_LOADER, NO_TRACKER, NO_UPLOAD, RANKS, SECRET, TORCH_KERNELS};

const OTHER_OPTIMIZER: &str = "only AdamW is offered";
const SCHEDULES: &[Choice] = &[
    Is("linear"),
    Is("cosine"),
    Is("cosine_with_min_lr"),
    Is("cosine_with_restarts"),
    Is("polynomial"),
    Is("constant"),
    Is("constant_with_warmup"),
    Is("inverse_sqrt"),
    Is("warmup_stable_decay"),
    Not("cosine_warmup_with_min_lr", "it is another function than cosine_with_min_lr and is not offered"),
    Not("reduce_lr_on_plateau", "the whole schedule is fixed before training"),
    Not("greedy", "the whole schedule is fixed before training"),
];
const OPTIMIZERS: &[Choice] = &[
    Is("adamw_torch"),
    Is("adamw_8bit"),
    Means("adamw_torch_fused", "adamw_torch"),
    Means("adamw", "adamw_torch"),
    Means("adamw_anyprecision", "adamw_torch"),
    Means("paged_adamw", "adamw_torch"),
    Means("paged_adamw_32bit", "adamw_torch"),
    Means("adamw_bnb_8bit", "adamw_8bit"),
    Means("paged_adamw_8bit", "adamw_8bit"),
    Not("adamw_torch_8bit", "it is torchao's code of eight bits; adamw_8bit is bitsandbytes'"),
    Not("adamw_torch_4bit", "moments of four bits are not offered; adamw_8bit is"),
    Not("adamw_hf", "transformers removed it; adamw_torch is its successor"),
    Not("adafactor", OTHER_OPTIMIZER),
    Not("sgd", OTHER_OPTIMIZER),
    Not("adagrad", OTHER_OPTIMIZER),
    Not("rmsprop", OTHER_OPTIMIZER),
    Not("lion_32bit", OTHER_OPTIMIZER),
    Not("lion_8bit", OTHER_OPTIMIZER),
    Not("galore_adamw", OTHER_OPTIMIZER),
    Not("apollo_adamw", OTHER_OPTIMIZER),
    Not("schedule_free_adamw", OTHER_OPTIMIZER),
];
const OFFLOADS: &[Choice] = &[Is("none"), Is("nvme"), Means("cpu", "none")];
const MASTERS: &[Choice] = &[Is("f32"), Is("none"), Means("float32", "f32")];
pub(super) const INTERVAL: &[Choice] = &[Is("no"), Is("steps"), Is("epoch")];
const SAVE: &[Choice] = &[Is("no"), Is("steps"), Is("epoch"), Is("best")];
const SAMPLING: &[Choice] = &[Is("random"), Is("sequential"), Is("group_by_length"), Is("batch_rebalance")];
const TRACKERS: &[Choice] = &[
    Is("none"),
    Is("all"),
    Is("tensorboard"),
    Is("wandb"),
    Is("mlflow"),
    Is("trackio"),
    Is("azure_ml"),
    Is("clearml"),
    Is("codecarbon"),
    Is("comet_ml"),
    Is("dagshub"),
    Is("dvclive"),
    Is("flyte"),
    Is("neptune"),
    Is("swanlab"),
];
const CURVES: &[Choice] = &[Is("linear"), Is("cosine"), Is("1-sqrt")];

const OPT: (Section, Scope) = (Section::Optimisation, Scope::Both);
const EVAL: (Section, Scope) = (Section::Evaluation, Scope::Both);
const SAVING: (Section, Scope) = (Section::Saving, Scope::Both);
const LOG: (Section, Scope) = (Section::Logging, Scope::Both);
const ENGINE: (Section, Scope) = (Section::Engine, Scope::Both);
const RATE: Kind = Kind::Float(Range::NON_NEGATIVE);
const STEPS: Kind = Kind::Float(Range::STEPS);

const EVAL_LOSS: &str = "evaluation computes losses and rewards, streamed, and keeps no predictions";
const RECOMPUTED: &str = "recomputation here is exact and needs no options; the memory plan chooses the blocks";
const COMPILED: &str = "the program is compiled already";
const DEBUGGING: &str = "it is a debugging aid of torch";

/// `lr_scheduler_kwargs`; which schedule takes which is checked with the schedule.
#[rustfmt::skip] // a table: one row, one line
const SCHEDULE: &[Entry] = &[
    works(OPT, "lr_scheduler_kwargs.min_lr_rate", Kind::Float(Range::UNIT), "", "cosine_with_min_lr: the floor as a share of learning_rate"),
    works(OPT, "lr_scheduler_kwargs.min_lr", RATE, "", "cosine_with_min_lr: the floor itself"),
    works(OPT, "lr_scheduler_kwargs.num_cycles", Kind::Float(Range::POSITIVE), "", "cosines: waves (0.5 is one half-wave); restarts: a whole number"),
    works(OPT, "lr_scheduler_kwargs.lr_end", RATE, "", "polynomial: the last learning rate, 1e-7 when unset"),
    works(OPT, "lr_scheduler_kwargs.power", Kind::Float(Range::POSITIVE), "", "polynomial: its power, 1.0 when unset"),
    works(OPT, "lr_scheduler_kwargs.timescale", Int(1), "", "inverse_sqrt: steps, the warm-up's or 10000 when unset"),
    works(OPT, "lr_scheduler_kwargs.num_decay_steps", Int(0), "", "warmup_stable_decay: steps of decay, required"),
    works(OPT, "lr_scheduler_kwargs.num_stable_steps", Int(0), "", "warmup_stable_decay: steps between, the rest when unset"),
    works(OPT, "lr_scheduler_kwargs.warmup_type", Kind::Choice(CURVES), "", "warmup_stable_decay: curve of the warm-up, linear when unset"),
    works(OPT, "lr_scheduler_kwargs.decay_type", Kind::Choice(CURVES), "", "warmup_stable_decay: curve of the decay, cosine when unset"),
    works(OPT, "lr_scheduler_kwargs.min_lr_ratio", Kind::Float(Range::UNIT), "", "warmup_stable_decay: the floor as a share, 0 when unset"),
    refused("lr_scheduler_kwargs.warmup_lr_rate", RATE, &["null"], "cosine_warmup_with_min_lr", "its schedule is not offered"),
];

#[rustfmt::skip] // a table: one row, one line
pub(super) const ENTRIES: &[Entry] = &[
    works(SAVING, "output_dir", Text, "trainer_output", "the run folder"),
    works(OPT, "per_device_train_batch_size", Int(1), "8", "rows per micro-batch"),
    works(OPT, "num_train_epochs", Kind::Float(Range::POSITIVE), "3.0", "passes over the rows; ignored when max_steps is set"),
    works(OPT, "max_steps", Int(-1), "-1", "optimiser steps; -1 leaves it to num_train_epochs"),
    works(OPT, "learning_rate", RATE, "1e-6", "peak learning rate; 1e-6 for kto, 2e-5 for sft"),
    works(OPT, "lr_scheduler_type", Kind::Choice(SCHEDULES), "linear", "shape of the learning rate over the steps"),
    mapping("lr_scheduler_kwargs", SCHEDULE, "options of the schedule"),
    works(OPT, "warmup_steps", Kind::Float(Range::STEPS_OR_NONE), "0", "steps of warm-up, or below 1 their share of all steps"),
    works(OPT, "optim", Kind::Choice(OPTIMIZERS), "adamw_torch_fused", "AdamW with moments in float32 (adamw_torch), or in eight bits in blocks of 256 (adamw_8bit)"),
    works(OPT, "optim_master", Kind::Choice(MASTERS), "f32", "weights trained in full with dtype: bfloat16: f32 holds and computes with exact ones, none holds bfloat16 only and rounds stochastically"),
    works(OPT, "offload_optimizer_device", Kind::Choice(OFFLOADS), "none", "where the optimiser's moments are kept: none and cpu are memory; nvme is the disk, a few MB of them in memory at a time"),
    works(OPT, "offload_optimizer_nvme_path", Text, "", "the folder on that disk; the run folder when unset"),
    refused("optim_args", Text, &["null", "''"], "options of other optimisers", OTHER_OPTIMIZER),
    works(OPT, "weight_decay", RATE, "0.0", "decoupled weight decay; not on norms and biases"),
    works(OPT, "adam_beta1", Kind::Float(Range::BELOW_ONE), "0.9", "decay of the first moment"),
    works(OPT, "adam_beta2", Kind::Float(Range::BELOW_ONE), "0.999", "decay of the second moment"),
    works(OPT, "adam_epsilon", RATE, "1e-8", "added to the root of the second moment"),
    refused("optim_target_modules", Anything, &["null", "[]"], "layers of GaLore and APOLLO", OTHER_OPTIMIZER),
    works(OPT, "gradient_accumulation_steps", Int(1), "1", "micro-batches per optimiser step"),
    idle("average_tokens_across_devices", Bool, "true", "token mean over processes", RANKS),
    works(OPT, "max_grad_norm", RATE, "1.0", "clip the gradient to this norm; 0 for no clipping"),
    refused("label_smoothing_factor", RATE, &["0.0"], "soft targets", "the objectives here have none"),
    works(ENGINE, "bf16", Bool, "false", "mixed precision: on a GPU activations are bfloat16, on a processor with AVX-512 BF16 products round their factors; sums and all else stay float32"),
    idle("fp16", Bool, "false", "mixed precision", FLOAT32),
    idle("bf16_full_eval", Bool, "false", "precision of evaluation", FLOAT32),
    idle("fp16_full_eval", Bool, "false", "precision of evaluation", FLOAT32),
    works(ENGINE, "tf32", Bool, "false", "on a GPU without `bf16`, products round their factors to tf32"),
    spelling("activation_checkpointing", ours::PLANNED, "gradient_checkpointing", "its name in transformers 5.23"),
    idle("activation_checkpointing_kwargs", Anything, "", "options of recomputation", RECOMPUTED),
    works(ENGINE, "gradient_checkpointing", ours::PLANNED, "auto", "recompute activations: auto (as the memory plan says), true, false"),
    idle("gradient_checkpointing_kwargs", Anything, "", "options of recomputation", RECOMPUTED),
    idle("torch_compile", Bool, "false", "compile the model", COMPILED),
    idle("torch_compile_backend", Text, "", "compile the model", COMPILED),
    idle("torch_compile_mode", Text, "", "compile the model", COMPILED),
    idle("use_liger_kernel", Bool, "false", "Liger's kernels", TORCH_KERNELS),
    idle("liger_kernel_config", Anything, "", "Liger's kernels", TORCH_KERNELS),
    idle("use_cache", Bool, "false", "key/value cache while training", "training keeps no key/value cache"),
    works((Section::Objective, Scope::Sft), "neftune_noise_alpha", RATE, "", "uniform noise on the embeddings in training, within alpha / sqrt(tokens * width); 0 for none"),
    idle("torch_empty_cache_steps", Int(1), "", "empty torch's cache", "memory is planned before the first step: there is no cache to empty"),
    idle("auto_find_batch_size", Bool, "false", "smaller batches when memory runs out", "packs are cut to the memory there is; the rows of a step never change"),
    works(LOG, "logging_strategy", Kind::Choice(INTERVAL), "steps", "when a line is logged"),
    works(LOG, "logging_steps", STEPS, "10", "steps between lines, or below 1 their share of all steps"),
    works(LOG, "logging_first_step", Bool, "false", "log the first step too"),
    idle("log_on_each_node", Bool, "true", "logs of other nodes", RANKS),
    idle("logging_nan_inf_filter", Bool, "true", "hide NaN in the log", "a loss that is not finite stops the run before the update"),
    idle("include_num_input_tokens_seen", Anything, "no", "count tokens", "num_tokens and tokens_per_second are always logged"),
    idle("log_level", Text, "passive", "how much is printed", "train.log holds everything"),
    idle("log_level_replica", Text, "warning", "how much replicas print", RANKS),
    idle("disable_tqdm", Bool, "", "no progress bar", "a bar is shown on a terminal only"),
    works(LOG, "report_to", Kind::Choices(TRACKERS), "none", "tensorboard: event files in the run folder; other trackers are accepted and not sent to yet"),
    works(LOG, "run_name", Text, "", "a name for the run, shown in its card and lists"),
    idle("project", Text, "huggingface", "trackio's project", NO_TRACKER),
    idle("trackio_space_id", Text, "", "trackio", NO_TRACKER),
    idle("trackio_bucket_id", Text, "", "trackio", NO_TRACKER),
    idle("trackio_static_space_id", Anything, "", "trackio", NO_TRACKER),
    works(EVAL, "eval_strategy", Kind::Choice(INTERVAL), "no", "when the evaluation rows are scored"),
    works(EVAL, "eval_steps", STEPS, "", "steps between evaluations, or below 1 their share; logging_steps when unset"),
    refused("eval_delay", RATE, &["0"], "no evaluation before this step or epoch", "evaluations begin with the first interval"),
    works(EVAL, "per_device_eval_batch_size", Int(1), "8", "rows per micro-batch of an evaluation"),
    idle("prediction_loss_only", Bool, "false", "only the loss", EVAL_LOSS),
    refused("eval_on_start", Bool, &["false"], "evaluate before training", "not offered yet"),
    idle("eval_do_concat_batches", Bool, "true", "gather predictions", EVAL_LOSS),
    idle("eval_use_gather_object", Bool, "false", "gather predictions", EVAL_LOSS),
    idle("eval_accumulation_steps", Int(1), "", "gather predictions", EVAL_LOSS),
    idle("include_for_metrics", Texts, "", "gather predictions", EVAL_LOSS),
    idle("batch_eval_metrics", Bool, "false", "gather predictions", EVAL_LOSS),
    refused("save_only_model", Bool, &["false"], "checkpoints without optimiser state", "every checkpoint can be resumed; final/ holds the model alone"),
    works(SAVING, "save_strategy", Kind::Choice(SAVE), "steps", "when a checkpoint is written"),
    works(SAVING, "save_steps", STEPS, "500", "steps between checkpoints, or below 1 their share of all steps"),
    idle("save_on_each_node", Bool, "false", "one copy per node", RANKS),
    works(SAVING, "save_total_limit", Int(1), "", "checkpoints kept; the best one is kept besides"),
    idle("enable_jit_checkpoint", Bool, "false", "checkpoint on SIGTERM", "SIGTERM and SIGINT always finish the micro-step, save and exit"),
    refused("push_to_hub", Bool, &["false"], "upload while training", NO_UPLOAD),
    refused("hub_token", Text, &["null"], "a token of the Hub", SECRET),
    idle("hub_private_repo", Bool, "", "upload", NO_UPLOAD),
    idle("hub_model_id", Text, "", "upload", NO_UPLOAD),
    idle("hub_strategy", Text, "every_save", "upload", NO_UPLOAD),
    idle("hub_always_push", Bool, "false", "upload", NO_UPLOAD),
    idle("hub_revision", Text, "", "upload", NO_UPLOAD),
    works(EVAL, "load_best_model_at_end", Bool, "false", "final/ is the best checkpoint instead of the last"),
    works(EVAL, "metric_for_best_model", Text, "", "an evaluation metric, with or without eval_; eval_loss when one is needed"),
    works(EVAL, "greater_is_better", Bool, "", "which way is better; when unset, larger unless the name ends in loss"),
    refused("ignore_data_skip", Bool, &["false"], "resume with the first batch", "a resumed run goes on with the next batch"),
    idle("restore_callback_states_from_checkpoint", Bool, "false", "callbacks", "there are none; early stopping is always restored"),
    idle("full_determinism", Bool, "false", "torch's deterministic mode", "`deterministic` is on unless switched off"),
    works(ENGINE, "seed", Int(0), "42", "of everything random"),
    works(ENGINE, "data_seed", Int(0), "", "of the order of the rows; seed when unset"),
    idle("use_cpu", Bool, "false", "no GPU", "the CPU is what there is"),
    idle("accelerator_config", Anything, "", "how batches are spread", RANKS),
    idle("parallelism_config", Anything, "", "how the model is spread", RANKS),
    refused("dataloader_drop_last", Bool, &["false"], "drop a short last batch", "every row is trained on; a short last step is normalised by its own rows"),
    idle("dataloader_num_workers", Int(0), "0", "loader processes", NO_LOADER),
    idle("dataloader_pin_memory", Bool, "true", "loader memory", NO_LOADER),
    idle("dataloader_persistent_workers", Bool, "false", "loader processes", NO_LOADER),
    idle("dataloader_prefetch_factor", Int(1), "", "loader processes", NO_LOADER),
    idle("dataloader_multiprocessing_context", Text, "", "loader processes", NO_LOADER),
    idle("dataloader_in_order", Bool, "true", "loader processes", NO_LOADER),
    idle("remove_unused_columns", Bool, "true", "drop other columns", "only the fields of the row's shape are read"),
    idle("label_names", Texts, "", "label inputs", "the objectives know their labels"),
    spelling("train_sampling_strategy", Kind::Choice(SAMPLING), "shuffle", "random and the length groupings mean `shuffle: true`, sequential `shuffle: false`"),
    idle("length_column_name", Text, "length", "precomputed lengths", "lengths are counted"),
    idle("ddp_find_unused_parameters", Bool, "", "DDP", RANKS),
    idle("ddp_bucket_cap_mb", Int(1), "", "DDP", RANKS),
    idle("ddp_broadcast_buffers", Bool, "", "DDP", RANKS),
    idle("ddp_static_graph", Bool, "", "DDP", RANKS),
    idle("ddp_timeout", Int(1), "1800", "DDP", RANKS),
    idle("fsdp", Anything, "", "FSDP", RANKS),
    idle("fsdp_config", Anything, "", "FSDP", RANKS),
    idle("deepspeed", Anything, "", "DeepSpeed's file", "its ZeRO stage is taken from the file as `zero_stage`; the rest is how its engine goes about it"),
    idle("debug", Anything, "", "torch debugging", DEBUGGING),
    idle("skip_memory_metrics", Bool, "true", "memory profile", "the plan and the log state memory"),
    idle("do_train", Bool, "false", "a script's switch", "the command says what is done"),
    idle("do_eval", Bool, "false", "a script's switch", "`eval_strategy` says when evaluation happens"),
    idle("do_predict", Bool, "false", "a script's switch", "the command says what is done"),
    works(SAVING, "resume_from_checkpoint", BoolOrText, "false", "true: the newest checkpoint in output_dir that verifies; a path: that one"),
    idle("local_rank", Int(-1), "-1", "which process this is", RANKS),
];
