//! The fields of TRL 1.16's KTOConfig, SFTConfig, ModelConfig, ScriptArguments and data mixture, and PEFT's own names.

use super::{Entry, Scope, Section, because, idle, mapping, ours, refused, spelling, works};
use crate::value::{Choice, Kind, Range};

use Choice::{Is, Means, Not};
use Kind::{Anything, Bool, Int, Text, Texts};

const LOSSES: &[Choice] = &[
    Is("kto"),
    Is("kto_s"),
    Is("apo_zero_unpaired"),
    Is("nll"),
    Means("chunked_nll", "nll"),
    Means("sft", "nll"),
    Is("dft"),
    Not("bco", "BCO's reward shift is not offered yet"),
];
pub(super) const DTYPES: &[Choice] = &[
    Is("float32"),
    Is("bfloat16"),
    Is("auto"),
    Means("fp32", "float32"),
    Means("bf16", "bfloat16"),
    Means("torch.float32", "float32"),
    Means("torch.bfloat16", "bfloat16"),
    Not("float16", "float16 weights overflow in training; float16 files are read and held as float32 or bfloat16"),
];
const BIASES: &[Choice] = &[Is("none"), Is("all"), Is("lora_only")];
const CHANGED: &str = "it changes the base model's weights, so that the adapter fits no other copy of it";
const STARTS: &[Choice] = &[
    Is("true"),
    Is("false"),
    Is("gaussian"),
    Not("pissa", CHANGED),
    Not("olora", CHANGED),
    Not("corda", CHANGED),
    Not("loftq", CHANGED),
    Not("lora_ga", CHANGED),
    Not("eva", "it is computed from the activations of a data set, which is not offered"),
    Not("orthogonal", "it is not offered; true and gaussian are"),
];
const PACKING: &[Choice] = &[Is("bfd"), Is("bfd_split"), Is("wrapped"), Means("bfd-requeue", "bfd_split")];
const TRUNCATION_MODE: &[Choice] =
    &[Is("keep_start"), Not("keep_end", "TRL deprecates it: it cuts the beginning of the prompt")];

const FOUR_BITS: &[Choice] = &[Is("nf4"), Is("fp4")];

const MODEL: (Section, Scope) = (Section::Model, Scope::Both);
const LORA: (Section, Scope) = (Section::Model, Scope::Lora);
const DATA: (Section, Scope) = (Section::Data, Scope::Both);
const SFT_DATA: (Section, Scope) = (Section::Data, Scope::Sft);
const KTO: (Section, Scope) = (Section::Objective, Scope::Kto);
const SFT: (Section, Scope) = (Section::Objective, Scope::Sft);
const POSITIVE: Kind = Kind::Float(Range::POSITIVE);

const WITH_SYNC: &str = "it only matters with `sync_ref_model`, which is not offered";
const LOADING: &str = "models are memory-mapped safetensors read by this program";

/// `model_init_kwargs`, what `from_pretrained` would be given.
#[rustfmt::skip] // a table: one row, one line
const MODEL_INIT: &[Entry] = &[
    spelling("model_init_kwargs.dtype", Kind::Choice(DTYPES), "dtype", "storage of the weights"),
    spelling("model_init_kwargs.torch_dtype", Kind::Choice(DTYPES), "dtype", "older name of dtype"),
    idle("model_init_kwargs.attn_implementation", Text, "", "attention kernel", because::TORCH_KERNELS),
    idle("model_init_kwargs.use_kernels", Anything, "", "kernels of the Hub", because::TORCH_KERNELS),
    idle("model_init_kwargs.kernel_config", Anything, "", "kernels of the Hub", because::TORCH_KERNELS),
    idle("model_init_kwargs.use_cache", Bool, "", "key/value cache while training", "training keeps no key/value cache"),
    idle("model_init_kwargs.trust_remote_code", Bool, "", "run code from the model folder", "nothing from a model folder is ever executed"),
    idle("model_init_kwargs.device_map", Anything, "", "where layers go", because::RANKS),
    idle("model_init_kwargs.low_cpu_mem_usage", Bool, "", "loading", LOADING),
    idle("model_init_kwargs.use_safetensors", Bool, "", "loading", LOADING),
    refused("model_init_kwargs.revision", Text, &["main"], "version on the Hub", "the model is a local folder: fetch the revision you mean"),
    refused("model_init_kwargs.quantization_config", Anything, &["null"], "quantised base", "write its keys beside the others: load_in_4bit, bnb_4bit_quant_type, use_bnb_nested_quant"),
];

#[rustfmt::skip] // a table: one row, one line
pub(super) const ENTRIES: &[Entry] = &[
    // ModelConfig
    works(MODEL, "model_name_or_path", Text, "", "a model folder: config.json, safetensors, tokenizer"),
    refused("model_revision", Text, &["main"], "version on the Hub", "the model is a local folder: fetch the revision you mean"),
    works(MODEL, "dtype", Kind::Choice(DTYPES), "float32", "storage of the weights: float32, bfloat16, or auto (as in the files)"),
    idle("attn_implementation", Text, "", "attention kernel", because::TORCH_KERNELS),
    works(MODEL, "use_peft", Bool, "false", "train a LoRA adapter instead of all weights"),
    works(LORA, "lora_r", Int(1), "16", "rank of the adapter"),
    works(LORA, "lora_alpha", POSITIVE, "32", "scale of the adapter: alpha / r, or alpha / sqrt(r) with use_rslora"),
    works(LORA, "lora_dropout", Kind::Float(Range::BELOW_ONE), "0.05", "dropout before A; off in KTO unless disable_dropout is false"),
    works(LORA, "lora_target_modules", Texts, "", "names, all-linear, or one regular expression; PEFT's choice for the model when unset"),
    refused("lora_target_parameters", Texts, &["null", "[]"], "adapters on expert tensors", "adapters stand on linear layers only"),
    spelling("lora_modules_to_save", Texts, "modules_to_save", "TRL's name"),
    refused("lora_task_type", Text, &["CAUSAL_LM"], "PEFT task", "only causal language models are trained"),
    works(LORA, "use_rslora", Bool, "false", "scale alpha / sqrt(r)"),
    works(LORA, "use_dora", Bool, "false", "weight-decomposed: rows of weight and update together are brought to a trained length"),
    works(MODEL, "load_in_8bit", Bool, "false", "hold the frozen linear layers as bytes, one scale per row (LLM.int8)"),
    works(MODEL, "load_in_4bit", Bool, "false", "hold the frozen linear layers in four bits (QLoRA)"),
    works(MODEL, "bnb_4bit_quant_type", Kind::Choice(FOUR_BITS), "nf4", "what the codes of load_in_4bit mean: nf4 or fp4"),
    works(MODEL, "use_bnb_nested_quant", Bool, "false", "quantise the scales of load_in_4bit too: 4.13 bits a weight, not 4.5"),
    works(MODEL, "llm_int8_skip_modules", Texts, "", "layers that load_in_4bit and load_in_8bit leave as they are; embedding, head and routers always are"),
    idle("bnb_4bit_quant_storage", Text, "", "4-bit storage", "codes are bytes; it is how other programs cut them among devices"),
    // ScriptArguments and the data mixture
    works(DATA, "dataset_name", Texts, "", "a file, a folder, or a list of them, with training rows"),
    refused("dataset_config", Text, &["null"], "configuration of a Hub data set", "data are local files: name the file you mean in dataset_name"),
    works(DATA, "dataset_train_split", Text, "train", "which split of a folder is trained on"),
    works(DATA, "dataset_test_split", Text, "test", "which split of a folder is evaluated on, when it has one"),
    idle("dataset_streaming", Bool, "false", "read while training", "files are read row by row and tokenised once"),
    idle("ignore_bias_buffers", Bool, "false", "a DDP workaround", because::RANKS),
    refused("datasets", Anything, &["null", "[]"], "a mixture", "list the files in dataset_name; fractions and columns are not offered yet"),
    idle("streaming", Bool, "false", "read while training", "files are read row by row and tokenised once"),
    spelling("test_split_size", Kind::Float(Range::ROWS), "val_size", "evaluation rows split off the training rows"),
    // KTOConfig and SFTConfig
    mapping("model_init_kwargs", MODEL_INIT, "what from_pretrained is given"),
    idle("trust_remote_code", Bool, "false", "run code from the model folder", "nothing from a model folder is ever executed"),
    works((Section::Objective, Scope::Both), "router_aux_loss_coef", Kind::Float(Range::NON_NEGATIVE), "", "weight of the load-balancing loss of experts; the model's own when unset, 0 for none"),
    works(KTO, "disable_dropout", Bool, "true", "no dropout anywhere, the adapter's included"),
    idle("dataset_num_proc", Int(1), "", "tokenising processes", "tokenising uses `threads`"),
    works(DATA, "max_length", Int(1), "1024", "tokens per row, prompt and completion; null for no limit"),
    idle("pad_to_multiple_of", Anything, "auto", "padding", because::NO_PADDING),
    works(KTO, "precompute_ref_log_probs", Bool, "false", "cache the reference's log-probabilities before training instead of computing them beside it"),
    idle("precompute_ref_batch_size", Int(1), "", "rows per reference pass", "packs are cut by the memory plan, and no number depends on the cut"),
    works((Section::Objective, Scope::Both), "loss_type", Kind::Choice(LOSSES), "kto", "kto, kto_s or apo_zero_unpaired; nll or dft for sft"),
    works(KTO, "beta", POSITIVE, "0.1", "strength of the reference: a larger beta stays nearer"),
    works(KTO, "desirable_weight", ours::WEIGHT, "1.0", "weight of desirable rows: a number, or auto from the class counts"),
    works(KTO, "undesirable_weight", ours::WEIGHT, "1.0", "weight of undesirable rows: a number, or auto from the class counts"),
    works((Section::Engine, Scope::Both), "activation_offloading", ours::PLANNED, "auto", "on a GPU, blocks are computed again from inputs that wait in pinned memory of the host: auto (only where nothing else fits), true, false"),
    refused("sync_ref_model", Bool, &["false"], "move the reference after the policy", "the reference stays the initial model"),
    idle("ref_model_mixup_alpha", Kind::Float(Range::UNIT), "0.6", "how far the reference moves", WITH_SYNC),
    idle("ref_model_sync_steps", Int(1), "512", "how often the reference moves", WITH_SYNC),
    works(DATA, "chat_template_path", Text, "", "a Jinja file, a folder with a tokenizer whose chat template is used, or a template by name"),
    works(SFT_DATA, "dataset_text_field", Text, "text", "the field of plain-text rows"),
    refused("dataset_kwargs", Anything, &["null", "{}"], "skip TRL's preparation", "rows are always prepared here"),
    refused("eos_token", Text, &["null"], "another end-of-sequence token", "the tokenizer's and the template's own are used"),
    spelling("truncation_mode", Kind::Choice(TRUNCATION_MODE), "truncation", "where rows over max_length are cut"),
    spelling("shuffle_dataset", Bool, "shuffle", "true means `shuffle: true`: a new order every epoch, the first included"),
    works(SFT, "packing", Bool, "false", "a batch row is a bin of max_length tokens filled with several rows, which never see one another"),
    works(SFT, "packing_strategy", Kind::Choice(PACKING), "bfd", "bfd cuts overlong rows, bfd_split splits them, wrapped cuts anywhere"),
    idle("padding_free", Bool, "false", "no padding", because::NO_PADDING),
    idle("eval_packing", Bool, "", "pack evaluation rows", "the evaluation loss is a mean over tokens: packing changes nothing"),
    works(SFT, "completion_only_loss", Bool, "", "loss on completions only; when unset, on for rows with prompt and completion"),
    works(SFT, "assistant_only_loss", Bool, "false", "loss on assistant turns only; the template must mark them"),
    idle("pad_token", Text, "", "padding", because::NO_PADDING),
    // PEFT's own names
    spelling("r", Int(1), "lora_r", "PEFT's name"),
    spelling("target_modules", Texts, "lora_target_modules", "PEFT's name"),
    works(LORA, "bias", Kind::Choice(BIASES), "none", "biases trained beside the adapter: none, all, or lora_only"),
    refused("lora_bias", Bool, &["false"], "a bias in B", "not offered"),
    works(LORA, "modules_to_save", Texts, "", "layers trained in full beside the adapter: embed_tokens, lm_head, norms, or any linear layer"),
    works(LORA, "exclude_modules", Texts, "", "layers without adapter although lora_target_modules names them: names, or one regular expression"),
    refused("target_parameters", Texts, &["null", "[]"], "adapters on expert tensors", "adapters stand on linear layers only"),
    works(LORA, "init_lora_weights", Kind::Choice(STARTS), "true", "true: A Kaiming-uniform, B zero; gaussian: A normal of deviation 1/r; false: both random"),
    works(LORA, "layers_to_transform", Kind::Numbers(Range::INDEX), "", "only these blocks, counted from 0"),
    works(LORA, "layers_pattern", Texts, "", "the name before a block's number, where there are several: layers"),
    works(LORA, "rank_pattern", Kind::Pairs(Range::RANK), "", "ranks that differ, by the end of a layer's name (a regular expression)"),
    works(LORA, "alpha_pattern", Kind::Pairs(Range::POSITIVE), "", "alphas that differ, by the end of a layer's name (a regular expression)"),
    idle("fan_in_fan_out", Bool, "false", "transposed weights", "no architecture here has them; PEFT sets it back for linear layers, too"),
    refused("task_type", Text, &["CAUSAL_LM"], "PEFT task", "only causal language models are trained"),
    refused("peft_type", Text, &["LORA", "lora"], "kind of adapter", "LoRA is the kind that is trained"),
];
