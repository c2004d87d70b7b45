//! What a configuration can say that is not implemented, or cannot be: refused by the name of the key.

use crate::golden_dir;
use model::Tuning;
use serde_json::{Map, Value, json};

/// The configuration of a reference model with some keys changed; null takes one out.
fn changed(arch: &str, changes: Value) -> Map<String, Value> {
    let mut config = weights::read_config(&golden_dir().join("models").join(arch)).unwrap();
    for (key, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => config.remove(key),
            value => config.insert(key.clone(), value.clone()),
        };
    }
    config
}

fn refusal(arch: &str, changes: Value) -> String {
    match model::arch::blueprint(&changed(arch, changes.clone())) {
        Ok(_) => panic!("{arch} takes {changes}"),
        Err(e) => {
            assert_eq!(e.exit_code(), 2, "{e}");
            e.to_string()
        }
    }
}

#[test]
fn an_unknown_architecture_is_refused_with_the_list_of_the_known() {
    let message = refusal("qwen2", json!({"model_type": "mamba"}));
    assert!(message.contains("\"mamba\"") && message.contains("deepseek_v3, gemma2") && message.contains("qwen3_moe"));
}

#[test]
fn keys_that_change_the_mathematics_are_refused_where_they_are_not_implemented() {
    let yarn = json!({"rope_type": "su_scaled", "factor": 2.0});
    let cases = [
        ("qwen2", json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        ("qwen2", json!({"num_experts": 4}), "num_experts"),
        ("qwen2", json!({"attn_logit_softcapping": 30.0}), "attn_logit_softcapping"),
        ("qwen2", json!({"hidden_act": "gelu"}), "hidden_act"),
        ("qwen2", json!({"rope_parameters": yarn}), "rope_parameters"),
        ("qwen2_moe", json!({"num_experts_per_tok": 9}), "num_experts_per_tok"),
        ("qwen2_moe", json!({"router_jitter_noise": 0.1}), "router_jitter_noise"),
        ("qwen2_moe", json!({"num_experts": null}), "num_experts"),
        ("deepseek_v3", json!({"n_group": 3}), "n_group"),
        ("deepseek_v3", json!({"n_group": 4, "topk_group": 1}), "topk_group"),
        ("deepseek_v3", json!({"scoring_func": "softmax"}), "scoring_func"),
        ("deepseek_v3", json!({"topk_method": "greedy"}), "topk_method"),
        ("deepseek_v3", json!({"quantization_config": {"quant_method": "fp8"}}), "quantization_config"),
        ("gpt_oss", json!({"quantization_config": {"quant_method": "awq"}}), "quantization_config"),
        ("gpt_oss", json!({"layer_types": ["chunked_attention", "full_attention", "full_attention"]}), "layer_types"),
        ("gemma2", json!({"hidden_activation": "relu"}), "hidden_activation"),
        ("gemma2", json!({"query_pre_attn_scalar": 0}), "query_pre_attn_scalar"),
        ("gemma2", json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        ("phi3_long_partial", json!({"resid_pdrop": 0.1}), "resid_pdrop"),
    ];
    for (arch, changes, key) in cases {
        let message = refusal(arch, changes.clone());
        assert!(message.starts_with(&format!("config.json: {key}: ")), "{arch} {changes}: {message}");
    }
}

#[test]
fn absurd_numbers_are_refused_before_anything_is_allocated() {
    for value in [json!(0), json!(-1), json!(1u64 << 40), json!("many")] {
        for key in ["n_routed_experts", "kv_lora_rank", "num_experts_per_tok", "moe_intermediate_size", "topk_group"] {
            let message = refusal("deepseek_v3", json!({key: value}));
            assert!(message.contains(key), "{key} {value}: {message}");
        }
    }
}

#[test]
fn sizes_that_are_thinkable_alone_and_not_together_are_refused() {
    let large = 1u64 << 28;
    let message = refusal("qwen2", json!({"hidden_size": large, "intermediate_size": large}));
    assert!(message.contains("hidden_size") && message.contains("which no model has"), "{message}");
    let message = refusal("deepseek_v3", json!({"num_attention_heads": large, "kv_lora_rank": large}));
    assert!(message.contains("which no model has"), "{message}");
    let message = refusal("deepseek_v3", json!({"n_routed_experts": 65_536, "num_hidden_layers": 4096}));
    assert!(message.contains("65536 experts"), "{message}");
}

#[test]
fn yarn_reaches_its_factor_of_the_original_positions() {
    let reach = |factor: f64, own: usize| {
        let rope = json!({"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": 100});
        let changes = json!({"rope_parameters": null, "rope_scaling": rope, "max_position_embeddings": own});
        model::arch::blueprint(&changed("qwen2", changes)).unwrap().max_positions
    };
    // As Qwen2.5's documentation has it, as DeepSeek's configurations have it, and a factor that nobody means.
    assert_eq!([reach(4.0, 100), reach(4.0, 400), reach(1e30, 100)], [400, 400, 1 << 28]);
}

#[test]
fn an_expert_that_is_missing_is_named() {
    let dir = golden_dir().join("models/deepseek_v3");
    let checkpoint = weights::Checkpoint::open(&dir).unwrap();
    let blueprint = model::arch::blueprint(&changed("deepseek_v3", json!({"n_routed_experts": 9}))).unwrap();
    let built = model::Built::new(&kernels::Cpu::<f32>::new(1), &checkpoint, blueprint, Tuning::Frozen, 8);
    let message = built.err().expect("eight experts are there").to_string();
    assert!(message.contains("gate"), "{message}");
}

#[test]
fn four_bit_experts_take_adapters_but_are_not_trained() {
    let dir = golden_dir().join("models/oss_mxfp4");
    let checkpoint = weights::Checkpoint::open(&dir).unwrap();
    let blueprint = model::arch::blueprint(&weights::read_config(&dir).unwrap()).unwrap();
    let built = model::Built::new(&kernels::Cpu::<f32>::new(1), &checkpoint, blueprint, Tuning::Full, 8);
    let message = built.err().expect("four bits cannot be trained").to_string();
    assert!(message.contains("quantization_config") && message.contains("use_peft"), "{message}");
}
