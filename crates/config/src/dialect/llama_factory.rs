//! LLaMA-Factory's training YAML; keys it shares with transformers are in our own table.

use super::{Line, Row, To};
use Line::{Anyway, Is};
use To::{Key, KeyBut, NoEffect, Respelled, Secret, Unless, Values};

/// Keys of which two make a file one of LLaMA-Factory's.
pub(super) const MARKS: &[&str] =
    &["stage", "finetuning_type", "cutoff_len", "template", "dataset", "dataset_dir", "tokenized_path", "neat_packing"];

/// Those of them that are no keys of ours.
pub(super) const OWN: &[&str] = &["stage", "finetuning_type", "cutoff_len", "neat_packing"];

const STAGES: &[(&str, Line)] = &[("sft", Is("trainer", "sft")), ("kto", Is("trainer", "kto"))];
const TUNINGS: &[(&str, Line)] =
    &[("full", Is("use_peft", "false")), ("lora", Is("use_peft", "true")), ("freeze", Anyway)];
const NEAT: &[(&str, Line)] = &[("true", Is("packing", "true")), ("false", Anyway)];
const MIXES: &[(&str, Line)] = &[
    ("concat", Anyway),
    ("interleave_under", Is("mix_until", "first_exhausted")),
    ("interleave_over", Is("mix_until", "all_exhausted")),
];
const DFT: &[(&str, Line)] = &[("true", Is("loss_type", "dft")), ("false", Anyway)];
const NO_RECOMPUTE: &[(&str, Line)] = &[("true", Is("gradient_checkpointing", "false")), ("false", Anyway)];
const PURE_BF16: &[(&str, Line)] = &[("true", Is("dtype", "bfloat16")), ("false", Anyway)];

const BITS: &[(&str, Line)] = &[("4", Is("load_in_4bit", "true")), ("8", Is("load_in_8bit", "true")), ("null", Anyway)];

const TURNS: &str = "a row's end is cut; LLaMA-Factory cuts each turn in proportion";
const TOKENISED: &str = "entries are found by what made them: none is ever stale";
const KERNELS: &str = "it chooses among torch's kernels; the engine here has its own";
const OTHER: &str = "this way of training is not offered";
const LATER: &str = "it concerns another command than training";

#[rustfmt::skip] // a table: one row, one line
pub(super) const ROWS: &[Row] = &[
    ("stage", Values(STAGES, "sft and kto are trained")),
    ("finetuning_type", Values(TUNINGS, "full weights and LoRA are trained")),
    ("enable_liger_kernel", Key("use_liger_kernel")),
    ("packing", KeyBut("packing", "best fit instead of a greedy knapsack; over-long rows are cut instead of dropped")),
    ("neat_packing", Values(NEAT, "expected true or false")),
    ("dataset", Key("dataset")),
    ("eval_dataset", Key("eval_dataset")),
    ("dataset_dir", Key("dataset_dir")),
    ("media_dir", NoEffect("rows are text")),
    ("tokenized_path", KeyBut("tokenized_path", "the folder of a cache: rows tokenised otherwise are never taken for these")),
    ("template", Key("template")),
    ("cutoff_len", KeyBut("max_length", TURNS)),
    ("overwrite_cache", NoEffect(TOKENISED)),
    ("preprocessing_num_workers", NoEffect("tokenising uses `threads`")),
    ("preprocessing_batch_size", NoEffect("rows are tokenised one by one")),
    ("plot_loss", NoEffect("plots are always drawn")),
    ("max_samples", Key("max_samples")),
    ("mix_strategy", Values(MIXES, "concat, interleave_under and interleave_over are offered")),
    ("interleave_probs", KeyBut("mix_weights", "met exactly in every thousand rows instead of drawn")),
    ("buffer_size", NoEffect("whole files are shuffled")),
    ("train_on_prompt", Key("train_on_prompt")),
    ("mask_history", Key("mask_history")),
    ("ignore_pad_token_for_loss", NoEffect("rows are packed: there is no padding anywhere")),
    ("eval_on_each_dataset", Unless(&["false"], "evaluation rows are one set")),
    ("default_system", Unless(&[], "write the system message in the rows or in the chat template")),
    ("enable_thinking", Unless(&[], "reasoning text is trained on as it stands in the rows")),
    ("tool_format", Unless(&[], "tools are rendered by the chat template")),
    ("lora_rank", Key("lora_r")),
    ("lora_target", Respelled("lora_target_modules", &[("all", "all-linear")])),
    ("additional_target", Key("modules_to_save")),
    ("create_new_adapter", Unless(&["false"], "an adapter that is given is trained on")),
    ("loraplus_lr_ratio", Unless(&[], "one learning rate for A and B")),
    ("pissa_init", Unless(&["false"], "A is Kaiming-uniform and B zero")),
    ("freeze_trainable_layers", Key("freeze_trainable_layers")),
    ("freeze_trainable_modules", Unless(&["all"], OTHER)),
    ("freeze_extra_modules", Unless(&["null"], OTHER)),
    ("use_galore", Unless(&["false"], OTHER)),
    ("use_apollo", Unless(&["false"], OTHER)),
    ("use_badam", Unless(&["false"], OTHER)),
    ("use_adam_mini", Unless(&["false"], OTHER)),
    ("use_muon", Unless(&["false"], OTHER)),
    ("use_llama_pro", Unless(&["false"], OTHER)),
    ("use_dft_loss", Values(DFT, "expected true or false")),
    ("pref_beta", Key("beta")),
    ("pref_ftx", Key("pref_ftx")),
    ("kto_chosen_weight", Key("desirable_weight")),
    ("kto_rejected_weight", Key("undesirable_weight")),
    ("ref_model", Unless(&[], "the reference is the model before training, without a second copy")),
    ("ref_model_adapters", Unless(&[], "the reference is the adapter's initial state")),
    ("pure_bf16", Values(PURE_BF16, "expected true or false")),
    ("disable_gradient_checkpointing", Values(NO_RECOMPUTE, "expected true or false")),
    ("flash_attn", NoEffect(KERNELS)),
    ("shift_attn", Unless(&["false"], "shifted sparse attention is not offered")),
    ("rope_scaling", Unless(&[], "write it with its factor: `rope_scaling: {rope_type: yarn, factor: 4}`")),
    ("use_unsloth", NoEffect(KERNELS)),
    ("use_unsloth_gc", NoEffect(KERNELS)),
    ("use_reentrant_gc", NoEffect("recomputation here is exact and needs no options")),
    ("upcast_layernorm", NoEffect("arithmetic is float32 on the CPU")),
    ("upcast_lmhead_output", NoEffect("arithmetic is float32 on the CPU")),
    ("quantization_bit", Values(BITS, "4 and 8 are offered")),
    ("quantization_method", Unless(&["bnb", "bitsandbytes", "BNB"], "bitsandbytes' codes are offered")),
    ("quantization_type", Key("bnb_4bit_quant_type")),
    ("double_quantization", Key("use_bnb_nested_quant")),
    ("resize_vocab", Key("resize_vocab")),
    ("add_tokens", Unless(&[], "tokens are added as special ones: `new_special_tokens`")),
    ("new_special_tokens", Key("new_special_tokens")),
    ("cache_dir", NoEffect("what is pulled lies in the Hub's own cache: HF_HOME")),
    ("use_fast_tokenizer", NoEffect("tokenizer.json is the tokenizer")),
    ("print_param_status", NoEffect("`prospect plan` shows what is trained")),
    ("compute_accuracy", NoEffect("the log has its metrics always")),
    ("include_num_input_tokens_seen", NoEffect("num_tokens is always logged")),
    ("use_swanlab", Unless(&["false"], "nothing is sent to trackers yet")),
    ("predict_with_generate", Unless(&["false"], LATER)),
    ("export_dir", NoEffect(LATER)),
    ("export_size", NoEffect(LATER)),
    ("infer_backend", NoEffect(LATER)),
    ("infer_dtype", NoEffect(LATER)),
    ("hf_hub_token", Secret),
    ("ms_hub_token", Secret),
    ("om_hub_token", Secret),
    ("swanlab_api_key", Secret),
];
