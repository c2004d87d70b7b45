//! Reading `config.json` strictly: every key that changes the mathematics is used, or refused by name.

use crate::Error;
use kernels::Gate;
use serde_json::{Map, Value};
use std::cell::RefCell;
use std::collections::BTreeSet;

/// Keys that say nothing about the mathematics of a forward pass in training.
const INERT: &[&str] = &[
    "_name_or_path",
    "architectures",
    "auto_map",
    "bos_token_id",
    "decoder_start_token_id",
    "dtype",
    "eos_token_id",
    "head_dim",
    "initializer_range",
    "model_type",
    "num_logits_to_keep",
    "pad_token_id",
    "pretraining_tp",
    "tie_word_embeddings",
    "torch_dtype",
    "transformers_version",
    "unk_token_id",
    "unsloth_fixed",
    "unsloth_version",
    "use_cache",
    "vocab_size",
    "id2label",
    "label2id",
    "finetuning_task",
    "max_position_embeddings",
    "hidden_act",
    "keys_to_ignore_at_inference",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
    "is_decoder",
    "attention_dropout",
    "_attn_implementation_autoset",
    "name_or_path",
    "problem_type",
    "tokenizer_class",
    "task_specific_params",
    "prefix",
    "sep_token_id",
];

/// Keys known to change the mathematics in some architecture: refused where the architecture at hand does not read them.
const MATHS: &[&str] = &[
    "alibi",
    "attention_chunk_size",
    "attention_logit_scale",
    "attention_multiplier",
    "attn_logit_softcapping",
    "attn_temperature_tuning",
    "embedding_multiplier",
    "final_logit_softcapping",
    "hidden_activation",
    "interleave_moe_layer_step",
    "kv_lora_rank",
    "logit_scale",
    "logits_scaling",
    "moe_intermediate_size",
    "n_routed_experts",
    "no_rope_layers",
    "num_experts",
    "num_local_experts",
    "parallel_residual",
    "partial_rotary_factor",
    "qk_layernorm",
    "quantization_config",
    "query_pre_attn_scalar",
    "residual_multiplier",
    "rope_interleaved",
    "scale_depth",
    "scale_emb",
    "sliding_window_pattern",
    "use_qk_norm",
    "use_sliding_window",
    "sliding_window",
    "layer_types",
    "max_window_layers",
    "attention_bias",
    "mlp_bias",
    "rope_scaling",
    "rope_parameters",
    "no_bias",
    "use_parallel_residual",
    "clip_qkv",
    "dual_chunk_attention_config",
    "decoder_sparse_step",
    "embd_pdrop",
    "experts_per_token",
    "first_k_dense_replace",
    "mlp_only_layers",
    "n_group",
    "n_shared_experts",
    "norm_topk_prob",
    "num_experts_per_tok",
    "q_lora_rank",
    "qk_nope_head_dim",
    "qk_rope_head_dim",
    "resid_pdrop",
    "rope_interleave",
    "rope_local_base_freq",
    "routed_scaling_factor",
    "router_jitter_noise",
    "scoring_func",
    "shared_expert_intermediate_size",
    "swiglu_alpha",
    "swiglu_limit",
    "topk_group",
    "topk_method",
    "use_bidirectional_attention",
    "v_head_dim",
];

/// A configuration and which of its keys have been used.
pub(crate) struct Reader<'a> {
    keys: &'a Map<String, Value>,
    used: RefCell<BTreeSet<&'static str>>,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(keys: &'a Map<String, Value>) -> Reader<'a> {
        Reader { keys, used: RefCell::default() }
    }

    /// The value of a key; absent and null are the same.
    pub(crate) fn get(&self, key: &'static str) -> Option<&'a Value> {
        self.used.borrow_mut().insert(key);
        self.keys.get(key).filter(|v| !v.is_null())
    }

    /// A count of at least 1.
    pub(crate) fn count(&self, key: &'static str) -> Result<usize, Error> {
        self.count_or(key, None)
    }

    /// A count of at least 1, or the default when absent.
    pub(crate) fn count_or(&self, key: &'static str, default: Option<usize>) -> Result<usize, Error> {
        match (self.get(key), default) {
            (None, Some(default)) => Ok(default),
            (None, None) => Err(Error::config(key, "expected a count, found nothing")),
            (Some(v), _) => match v.as_u64() {
                // Far above any model, far below any overflow of the products formed of two such counts.
                Some(n) if (1..=1 << 28).contains(&n) => Ok(n as usize),
                _ => Err(Error::config(key, format!("expected a count from 1 to {}, found {v}", 1 << 28))),
            },
        }
    }

    /// A count that may be 0, or the default when absent.
    pub(crate) fn index_or(&self, key: &'static str, default: usize) -> Result<usize, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => match v.as_u64() {
                Some(n) if n <= 1 << 28 => Ok(n as usize),
                _ => Err(Error::config(key, format!("expected a count, found {v}"))),
            },
        }
    }

    /// Whether the key is there, be it as null.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Notes that keys change nothing beyond what has been read.
    pub(crate) fn seen(&self, keys: &[&'static str]) {
        self.used.borrow_mut().extend(keys);
    }

    /// A finite number, or the default when absent.
    pub(crate) fn number_or(&self, key: &'static str, default: f64) -> Result<f64, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v
                .as_f64()
                .filter(|x| x.is_finite())
                .ok_or_else(|| Error::config(key, format!("expected a number, found {v}"))),
        }
    }

    /// A boolean, or the default when absent.
    pub(crate) fn flag_or(&self, key: &'static str, default: bool) -> Result<bool, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_bool().ok_or_else(|| Error::config(key, format!("expected true or false, found {v}"))),
        }
    }

    /// A text, or the default when absent.
    pub(crate) fn text_or(&self, key: &'static str, default: &'a str) -> Result<&'a str, Error> {
        match self.get(key) {
            None => Ok(default),
            Some(v) => v.as_str().ok_or_else(|| Error::config(key, format!("expected a text, found {v}"))),
        }
    }

    /// Refuses what would change the result and was not used; `gate` is the activation that is implemented.
    pub(crate) fn finish(self, gate: Gate) -> Result<(), Error> {
        let used = self.used.into_inner();
        let names: &[&str] = match gate {
            Gate::Silu => &["silu", "swish"],
            // Gemma 2's first files name the exact GELU and mean its approximation, which `hidden_activation` decides.
            Gate::Gelu => &["gelu_pytorch_tanh", "gelu"],
        };
        let act = self.keys.get("hidden_act").and_then(Value::as_str).unwrap_or(names[0]);
        if !names.contains(&act) {
            return Err(Error::config(
                "hidden_act",
                format!("expected {:?}, found {act:?}; other activations are not implemented", names[0]),
            ));
        }
        for (key, neutral) in [("attention_dropout", 0.0), ("pretraining_tp", 1.0)] {
            match self.keys.get(key) {
                None | Some(Value::Null) => {}
                Some(v) if v.as_f64() == Some(neutral) => {}
                Some(v) => {
                    return Err(Error::config(
                        key,
                        format!("expected {neutral}, found {v}; anything else is not implemented"),
                    ));
                }
            }
        }
        for (key, value) in self.keys {
            let neutral = matches!(value, Value::Null | Value::Bool(false)) || value.as_f64() == Some(0.0);
            if MATHS.contains(&key.as_str())
                && !used.contains(key.as_str())
                && !INERT.contains(&key.as_str())
                && !neutral
            {
                return Err(Error::config(
                    key,
                    format!(
                        "found {value}, which changes the mathematics and is not implemented for this architecture"
                    ),
                ));
            }
        }
        Ok(())
    }
}
