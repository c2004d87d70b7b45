//! Names that TRL and transformers had once, so that older files run.

use super::training::INTERVAL;
use super::trl::DTYPES;
use super::{Entry, Scope, Section, because, idle, refused, spelling, works};
use crate::value::{Kind, Range};

use Kind::{Anything, Bool, Int, Text};
use because::{FLOAT32, NO_PADDING, NO_UPLOAD, RANKS, SECRET, TORCH_KERNELS};

const ONE_LENGTH: &str = "TRL removed it: max_length bounds prompt and completion together, and prompts are never cut";
const HARDWARE: &str = "it names other hardware";
const TEXT_SHAPES: &str = "rows are packed by their token counts";

#[rustfmt::skip] // a table: one row, one line
pub(super) const ENTRIES: &[Entry] = &[
    works((Section::Saving, Scope::Both), "overwrite_output_dir", Bool, "false", "begin anew in a run folder that exists"),
    spelling("warmup_ratio", Kind::Float(Range::BELOW_ONE), "warmup_steps", "share of all steps that warm up"),
    spelling("torch_dtype", Kind::Choice(DTYPES), "dtype", "storage of the weights"),
    spelling("max_seq_length", Int(1), "max_length", "tokens per row"),
    spelling("evaluation_strategy", Kind::Choice(INTERVAL), "eval_strategy", "when the evaluation rows are scored"),
    spelling("per_gpu_train_batch_size", Int(1), "per_device_train_batch_size", "rows per micro-batch"),
    spelling("per_gpu_eval_batch_size", Int(1), "per_device_eval_batch_size", "rows per micro-batch of an evaluation"),
    idle("max_prompt_length", Int(1), "", "tokens of the prompt", ONE_LENGTH),
    idle("max_completion_length", Int(1), "", "tokens of the completion", ONE_LENGTH),
    idle("use_liger_loss", Bool, "false", "Liger's KTO loss", "the head never makes logits here, whatever the loss"),
    idle("use_liger", Bool, "false", "Liger's kernels", TORCH_KERNELS),
    idle("label_pad_token_id", Anything, "-100", "padding", NO_PADDING),
    idle("padding_value", Anything, "", "padding", NO_PADDING),
    refused("generate_during_eval", Bool, &["false"], "samples during evaluation", "not offered; `generate` samples from a checkpoint"),
    refused("is_encoder_decoder", Bool, &["false"], "encoder-decoder models", "only causal language models are trained"),
    idle("ref_model_init_kwargs", Anything, "", "how a second model is loaded", "there is no second model"),
    idle("base_model_attribute_name", Text, "model", "where Liger finds the body", TORCH_KERNELS),
    idle("model_adapter_name", Text, "", "name of the adapter in PEFT", "there is one adapter"),
    idle("ref_adapter_name", Text, "", "name of the reference adapter in PEFT", "the reference is the adapter's initial state"),
    idle("dataset_batch_size", Int(1), "1000", "rows per tokenising batch", "rows are tokenised one by one"),
    idle("num_of_sequences", Int(1), "1024", "buffer of constant-length packing", TEXT_SHAPES),
    idle("chars_per_token", Kind::Float(Range::POSITIVE), "3.6", "guess of constant-length packing", TEXT_SHAPES),
    idle("gradient_checkpointing_use_reentrant", Bool, "false", "torch's recomputation", "recomputation here is exact and needs no options"),
    idle("config", Text, "", "where a script finds its YAML", "this is that file"),
    idle("group_by_length", Bool, "false", "rows of like length together", NO_PADDING),
    refused("adafactor", Bool, &["false"], "another optimiser", "only AdamW is offered"),
    idle("logging_dir", Text, "", "where event files go", "they are in the run folder"),
    idle("save_safetensors", Bool, "true", "file format", "weights are always safetensors"),
    idle("no_cuda", Bool, "false", "no GPU", "the CPU is what there is"),
    idle("use_mps_device", Bool, "false", "Apple GPUs", HARDWARE),
    idle("use_ipex", Bool, "false", "Intel's kernels", HARDWARE),
    idle("tpu_num_cores", Int(1), "", "TPUs", HARDWARE),
    idle("tpu_metrics_debug", Bool, "false", "TPUs", HARDWARE),
    idle("jit_mode_eval", Bool, "false", "compile for evaluation", "the program is compiled already"),
    idle("torchdynamo", Text, "", "compile the model", "the program is compiled already"),
    idle("fp16_opt_level", Text, "O1", "apex", FLOAT32),
    idle("fp16_backend", Text, "auto", "mixed precision", FLOAT32),
    idle("half_precision_backend", Text, "auto", "mixed precision", FLOAT32),
    idle("past_index", Int(-1), "-1", "recurrent models", "no architecture here has a past"),
    idle("fsdp_min_num_params", Int(0), "0", "FSDP", RANKS),
    idle("fsdp_transformer_layer_cls_to_wrap", Text, "", "FSDP", RANKS),
    idle("sharded_ddp", Anything, "", "DDP", RANKS),
    idle("dispatch_batches", Bool, "", "how batches are spread", RANKS),
    idle("split_batches", Bool, "", "how batches are spread", RANKS),
    idle("mp_parameters", Text, "", "SageMaker", RANKS),
    idle("ray_scope", Text, "last", "hyperparameter search", "a run is one run"),
    idle("use_legacy_prediction_loop", Bool, "false", "evaluation", "there is one evaluation loop"),
    idle("include_inputs_for_metrics", Bool, "false", "evaluation", "evaluation keeps no predictions"),
    idle("include_tokens_per_second", Bool, "false", "speed", "tokens_per_second is always logged"),
    idle("push_to_hub_model_id", Text, "", "upload", NO_UPLOAD),
    idle("push_to_hub_organization", Text, "", "upload", NO_UPLOAD),
    refused("push_to_hub_token", Text, &["null"], "a token of the Hub", SECRET),
    idle("bnb_4bit_compute_dtype", Text, "", "4-bit arithmetic", FLOAT32),
    spelling("bnb_4bit_use_double_quant", Bool, "use_bnb_nested_quant", "bitsandbytes' name of it"),
    idle("llm_int8_threshold", Anything, "", "outliers of 8-bit arithmetic", "activations are not rounded to 8 bits, so none needs a way of its own"),
    idle("llm_int8_has_fp16_weight", Bool, "", "8-bit arithmetic", "the base is frozen"),
    idle("llm_int8_enable_fp32_cpu_offload", Bool, "", "8-bit layers on the CPU", RANKS),
];
