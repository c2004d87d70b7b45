//! Axolotl's YAML; keys it shares with transformers are in our own table.

use super::{Line, Outcome, Row, To};
use crate::table::because::FLOAT32;
use Line::{Anyway, Is};
use To::{By, Key, KeyBut, NoEffect, Respelled, Secret, Unless, Values};

/// Keys of which two make a file one of Axolotl's.
pub(super) const MARKS: &[&str] = &[
    "base_model",
    "sequence_len",
    "micro_batch_size",
    "sample_packing",
    "val_set_size",
    "num_epochs",
    "lora_target_linear",
    "dataset_prepared_path",
];

const ADAPTERS: &[(&str, Line)] =
    &[("lora", Is("use_peft", "true")), ("qlora", Is("use_peft", "true")), ("", Anyway), ("null", Anyway)];
const OBJECTIVES: &[(&str, Line)] = &[("kto", Is("trainer", "kto")), ("null", Anyway), ("", Anyway)];
const ALL_LINEAR: &[(&str, Line)] = &[("true", Is("lora_target_modules", "all-linear")), ("false", Anyway)];
const ON_INPUTS: &[(&str, Line)] = &[("true", Is("completion_only_loss", "false")), ("false", Anyway)];
const TOKENISED: &str = "entries are found by what made them";
const KERNELS: &str = "the engine here has its own kernels";
const SHARDING: &str = "a run is one process here: nothing is spread or gathered";
const MIXED: &[(&str, Line)] = &[
    ("true", Is("bf16", "true")),
    ("auto", Is("bf16", "true")),
    ("full", Is("bf16", "true")),
    ("false", Anyway),
    ("null", Anyway),
    ("", Anyway),
];
const TEXT: &str = "rows are text";
const SHAPES: &str = "the shape of a row is recognised from its fields";
const SPECIAL: &str = "the tokenizer's own special tokens are used";
const FIELDS: &str =
    "fields are found under their usual names: rename this one, or register the data set in a dataset_info.json";

fn template(text: &str) -> Outcome {
    match text {
        "" | "null" | "tokenizer_default" | "tokenizer_default_fallback_chatml" => {
            Outcome::NoEffect("the tokenizer's own template is used".into())
        }
        "jinja" => Outcome::NoEffect("`chat_template_jinja` says which".into()),
        name => Outcome::Works {
            key: "chat_template_path".into(),
            value: crate::settings::written(&crate::value::Value::Text(name.into())),
            remark: "",
        },
    }
}

fn scheduler(text: &str) -> Outcome {
    match text {
        "rex" | "one_cycle" => {
            Outcome::Refused("linear, cosine, cosine_with_min_lr, constant and others are offered".into())
        }
        name => Outcome::Works { key: "lr_scheduler_type".into(), value: name.into(), remark: "" },
    }
}

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("base_model", Key("model_name_or_path")),
    ("base_model_config", NoEffect("config.json of the model folder is read")),
    ("base_model_ignore_patterns", NoEffect("safetensors are read, nothing else")),
    ("tokenizer_config", Unless(&["null"], "the tokenizer is the model folder's")),
    ("model_type", NoEffect("config.json says which architecture it is")),
    ("tokenizer_type", NoEffect("tokenizer.json is the tokenizer")),
    ("tokenizer_use_fast", NoEffect("tokenizer.json is the tokenizer")),
    ("tokenizer_legacy", NoEffect("tokenizer.json is the tokenizer")),
    ("is_llama_derived_model", NoEffect("config.json says which architecture it is")),
    ("is_mistral_derived_model", NoEffect("config.json says which architecture it is")),
    ("resize_token_embeddings_to_32x", Unless(&["false"], "the vocabulary stays as it is")),
    ("special_tokens.bos_token", Unless(&[], SPECIAL)),
    ("special_tokens.eos_token", Unless(&[], SPECIAL)),
    ("special_tokens.unk_token", Unless(&[], SPECIAL)),
    ("special_tokens.pad_token", NoEffect("rows are packed: there is no padding anywhere")),
    ("tokens", Unless(&["null", "[]"], "the vocabulary stays as it is")),
    ("rl", Values(OBJECTIVES, "kto is trained, and without `rl` SFT")),
    ("rl_beta", Key("beta")),
    ("kto_desirable_weight", Key("desirable_weight")),
    ("kto_undesirable_weight", Key("undesirable_weight")),
    ("adapter", Values(ADAPTERS, "lora and qlora are trained, and without `adapter` all weights")),
    ("lora_model_dir", Key("adapter_name_or_path")),
    ("lora_target_linear", Values(ALL_LINEAR, "expected true or false")),
    ("peft_use_rslora", Key("use_rslora")),
    ("peft_use_dora", Key("use_dora")),
    ("lora_fan_in_fan_out", Unless(&["false", "null"], "no architecture here has them")),
    ("lora_modules_to_save", Key("modules_to_save")),
    ("lora_mlp_kernel", NoEffect(KERNELS)),
    ("lora_qkv_kernel", NoEffect(KERNELS)),
    ("lora_o_kernel", NoEffect(KERNELS)),
    ("load_in_8bit", Key("load_in_8bit")),
    ("load_in_4bit", Key("load_in_4bit")),
    ("gptq", Unless(&["false"], "bitsandbytes' codes are read and made: load_in_4bit")),
    ("strict", NoEffect("every key is accounted for always")),
    ("datasets[].path", Key("dataset_name")),
    ("datasets[].type", NoEffect(SHAPES)),
    ("datasets[].ds_type", NoEffect("the kind of a file is told from its name and first bytes")),
    ("datasets[].split", Key("dataset_train_split")),
    ("datasets[].data_files", Unless(&[], "name the files as `dataset_name`")),
    ("datasets[].name", Unless(&["null"], "name the file that is meant as `dataset_name`")),
    ("datasets[].conversation", NoEffect("the chat template says how turns are written")),
    ("datasets[].chat_template", NoEffect("one template for all sets: `template` or `chat_template_path`")),
    ("datasets[].field_messages", Unless(&["messages", "conversations"], FIELDS)),
    ("datasets[].message_property_mappings", NoEffect("`role` and `content`, `from` and `value` are both read")),
    ("datasets[].message_field_role", NoEffect("`role` and `content`, `from` and `value` are both read")),
    ("datasets[].message_field_content", NoEffect("`role` and `content`, `from` and `value` are both read")),
    ("datasets[].roles", NoEffect("the usual names of the parties are known")),
    ("datasets[].roles_to_train", Unless(&["[assistant]", "[gpt, assistant]", "[\"assistant\"]"], "the assistant's turns are trained on")),
    ("datasets[].train_on_eos", NoEffect("the token that ends an answer is always trained on")),
    ("datasets[].shards", Unless(&["null", "1"], "`max_samples` takes the first rows of each set")),
    ("test_datasets[].path", Key("eval_dataset_name")),
    ("test_datasets[].split", Key("dataset_test_split")),
    ("test_datasets[].type", NoEffect(SHAPES)),
    ("test_datasets[].ds_type", NoEffect("the kind of a file is told from its name and first bytes")),
    ("dataset_prepared_path", Key("tokenized_path")),
    ("dataset_processes", NoEffect("tokenising uses `threads`")),
    ("dataset_exact_deduplication", Unless(&["false", "null"], "`prospect data dedup` writes the rows without their copies")),
    ("shuffle_merged_datasets", NoEffect("`shuffle` gives a new order every epoch")),
    ("skip_prepare_dataset", Unless(&["false"], "rows are always prepared here")),
    ("chat_template", By(template)),
    ("chat_template_jinja", Unless(&["null"], "write the template to a file and name it as `chat_template_path`")),
    ("default_system_message", Unless(&["null"], "write the system message in the rows or in the chat template")),
    ("train_on_inputs", Values(ON_INPUTS, "expected true or false")),
    ("sequence_len", Key("max_length")),
    ("excess_length_strategy", Respelled("truncation", &[("truncate", "keep_start")])),
    ("pad_to_sequence_len", NoEffect("rows are packed: there is no padding anywhere")),
    ("sample_packing", Key("packing")),
    ("eval_sample_packing", NoEffect("the evaluation loss is a mean over tokens: packing changes nothing")),
    ("sample_packing_group_size", NoEffect("bins are filled from all rows")),
    ("sample_packing_bin_size", NoEffect("bins are filled from all rows")),
    ("sample_packing_sequentially", NoEffect("bins are filled from all rows")),
    ("multipack_real_batches", NoEffect("rows of a pack never see one another")),
    ("group_by_length", NoEffect("rows are packed by their token counts")),
    ("val_set_size", By(share)),
    ("micro_batch_size", Key("per_device_train_batch_size")),
    ("eval_batch_size", Key("per_device_eval_batch_size")),
    ("num_epochs", Key("num_train_epochs")),
    ("optimizer", Key("optim")),
    ("lr_scheduler", By(scheduler)),
    ("cosine_min_lr_ratio", KeyBut("lr_scheduler_kwargs.min_lr_rate", "with `lr_scheduler_type: cosine_with_min_lr`")),
    ("evals_per_epoch", Unless(&["null", "0"], "give `eval_strategy` and `eval_steps`")),
    ("saves_per_epoch", Values(&[("1", Is("save_strategy", "epoch")), ("null", Anyway)], "give `save_strategy` and `save_steps`")),
    ("early_stopping_patience", Key("early_stopping_patience")),
    ("eval_max_new_tokens", NoEffect("evaluation computes losses and rewards")),
    ("eval_table_size", NoEffect("evaluation computes losses and rewards")),
    ("auto_resume_from_checkpoints", Key("resume_from_checkpoint")),
    ("save_first_step", NoEffect("checkpoints fall on `save_steps`")),
    ("logging_first_step", Key("logging_first_step")),
    ("xformers_attention", NoEffect(KERNELS)),
    ("flash_attention", NoEffect(KERNELS)),
    ("flex_attention", NoEffect(KERNELS)),
    ("sdp_attention", NoEffect(KERNELS)),
    ("s2_attention", Unless(&["false", "null"], "shifted sparse attention is not offered")),
    ("plugins", NoEffect(KERNELS)),
    ("liger_rope", NoEffect(KERNELS)),
    ("liger_rms_norm", NoEffect(KERNELS)),
    ("liger_glu_activation", NoEffect(KERNELS)),
    ("liger_layer_norm", NoEffect(KERNELS)),
    ("liger_fused_linear_cross_entropy", NoEffect(KERNELS)),
    ("unsloth_cross_entropy_loss", NoEffect(KERNELS)),
    ("bf16", Values(MIXED, "expected true, false, auto or full")),
    ("fp16", NoEffect(FLOAT32)),
    ("tf32", Key("tf32")),
    ("bfloat16", Values(MIXED, "expected true, false, auto or full")),
    ("float16", NoEffect(FLOAT32)),
    ("fsdp_version", NoEffect(SHARDING)),
    ("fsdp_final_state_dict_type", NoEffect(SHARDING)),
    ("deepspeed", NoEffect(SHARDING)),
    ("ddp", NoEffect(SHARDING)),
    ("device", NoEffect("the CPU is what there is")),
    ("device_map", NoEffect(SHARDING)),
    ("world_size", NoEffect(SHARDING)),
    ("wandb_mode", NoEffect("nothing is sent to trackers yet")),
    ("wandb_project", NoEffect("nothing is sent to trackers yet; log.jsonl and TensorBoard files hold the same numbers")),
    ("wandb_entity", NoEffect("nothing is sent to trackers yet")),
    ("wandb_watch", NoEffect("nothing is sent to trackers yet")),
    ("wandb_run_id", NoEffect("nothing is sent to trackers yet")),
    ("wandb_log_model", NoEffect("nothing is sent to trackers yet")),
    ("wandb_name", Key("run_name")),
    ("mlflow_tracking_uri", NoEffect("nothing is sent to trackers yet")),
    ("mlflow_experiment_name", NoEffect("nothing is sent to trackers yet")),
    ("use_tensorboard", Values(&[("true", Is("report_to", "tensorboard")), ("false", Anyway)], "expected true or false")),
    ("hub_model_id", NoEffect("training uploads nothing; `prospect push` does afterwards")),
    ("hf_use_auth_token", NoEffect("the token comes from HF_TOKEN or a login")),
    ("hf_hub_token", Secret),
    ("images", Unless(&["null"], TEXT)),
    ("is_preprocess", NoEffect(TOKENISED)),
];

/// Axolotl writes 0 for no evaluation rows.
fn share(text: &str) -> Outcome {
    match text.parse::<f64>() {
        Ok(0.0) => Outcome::NoEffect("no rows are split off".into()),
        Ok(_) => Outcome::Works {
            key: "val_size".into(),
            value: text.into(),
            remark: "prompts stay whole: all rows of a prompt go together",
        },
        Err(_) => Outcome::Refused("expected a share or a number of rows".into()),
    }
}
