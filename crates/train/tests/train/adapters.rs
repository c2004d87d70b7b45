//! Adapters with PEFT's options: trained, stopped and resumed, continued, refused.

use crate::{Bits, Scratch, finish, log_of, over, resume, small, stop_after, train};
use serde_json::{Value, json};
use std::path::Path;
use train::Control;
use weights::Adapter;

/// Lengths, ranks and alphas by layer, biases, and the embedding of a model whose head it is.
fn everything(output: &Path) -> Value {
    let keys = json!({
        "use_peft": true,
        "lora_r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.0,
        "lora_target_modules": ["q_proj", "v_proj", "down_proj"],
        "exclude_modules": ["model.layers.0.mlp.down_proj"],
        "use_rslora": true,
        "use_dora": true,
        "rank_pattern": {"v_proj": 2},
        "alpha_pattern": {"down_proj": 3.5},
        "layers_to_transform": [0, 2],
        "bias": "all",
        "modules_to_save": ["embed_tokens"],
        "init_lora_weights": "gaussian",
        "max_steps": 3,
    });
    small("kto", output, keys)
}

#[test]
fn an_adapter_with_every_option_trains_resumes_and_is_continued() {
    let scratch = Scratch::new("adapters");
    let whole = scratch.join("whole");
    assert_eq!(finish(&everything(&whole)).step, 3);
    let bits = Bits::of(&whole, 3);
    let stopped = scratch.join("stopped");
    stop_after(&everything(&stopped), 2);
    resume(&everything(&stopped));
    Bits::of(&stopped, 3).assert_same(&bits, "stopped after step 2");

    let adapter = Adapter::load(&whole.join("final")).unwrap();
    let of = |module: &str| adapter.get(module).map(|p| (p.rank, p.scale));
    assert_eq!(of("model.layers.0.self_attn.q_proj"), Some((4, 4.0)));
    assert_eq!(of("model.layers.2.self_attn.v_proj"), Some((2, 8.0 / 2f64.sqrt())));
    assert_eq!(of("model.layers.2.mlp.down_proj"), Some((4, 1.75)));
    assert_eq!((of("model.layers.0.mlp.down_proj"), of("model.layers.1.self_attn.q_proj")), (None, None));
    assert!(adapter.pairs.iter().all(|p| p.magnitude.is_some()));
    let whole_names: Vec<&str> = adapter.whole.iter().map(|t| t.name.as_str()).collect();
    assert_eq!(whole_names.len(), 1 + 9, "{whole_names:?}");
    assert!(whole_names.contains(&"model.embed_tokens.weight"));

    let keys = json!({"adapter_name_or_path": whole.join("final"), "max_steps": 1});
    let on = scratch.join("on");
    assert_eq!(finish(&small("kto", &on, keys)).step, 1);
    let continued = Adapter::load(&on.join("final")).unwrap();
    assert_eq!((continued.pairs.len(), continued.whole.len()), (adapter.pairs.len(), 10));
    assert!(continued.whole != adapter.whole, "what was trained beside the factors goes on being trained");
}

#[test]
fn new_tokens_get_rows_begun_as_the_mean_that_go_with_what_is_trained() {
    let scratch = Scratch::new("tokens");
    let new = json!({"new_special_tokens": ["<think>", "</think>"], "max_steps": 1, "weight_decay": 0.0});
    let adapted = scratch.join("adapted");
    finish(&small("kto", &adapted, over(&crate::lora(), new.clone())));
    let adapter = Adapter::load(&adapted.join("final")).unwrap();
    let base = weights::Checkpoint::open(&crate::model("qwen2")).unwrap();
    let stored = base.get("model.embed_tokens.weight").unwrap();
    let (rows, d) = (stored.shape()[0], stored.shape()[1]);
    let values = stored.to_f32().unwrap();
    assert_eq!(adapter.config.modules_to_save, ["embed_tokens", "lm_head"]);
    for name in ["model.embed_tokens.weight", "lm_head.weight"] {
        let whole = adapter.whole.iter().find(|t| t.name == name).unwrap();
        assert_eq!(whole.shape, [rows + 2, d], "{name}");
    }
    // No row of the data has them, so nothing moved the new rows of the embedding.
    let grown = adapter.whole.iter().find(|t| t.name == "model.embed_tokens.weight").unwrap();
    for (i, x) in grown.values[rows * d..].iter().enumerate() {
        let mean = values.iter().skip(i % d).step_by(d).map(|x| f64::from(*x)).sum::<f64>() / rows as f64;
        assert!((f64::from(*x) - mean).abs() < 1e-6, "{x} for {mean}");
    }
    let folder = infer::ModelFolder::open(&crate::model("qwen2"), Some(&adapted.join("final"))).unwrap();
    assert_eq!(folder.tokenizer.encode("<think></think>", false).unwrap(), [rows as u32, rows as u32 + 1]);
    assert_eq!(folder.tokenizer.decode(&[rows as u32], true).unwrap(), "");
    train::merge(&crate::model("qwen2"), &adapted.join("final"), &scratch.join("merged"), None, 1).unwrap();
    let merged = infer::ModelFolder::open(&scratch.join("merged"), None).unwrap();
    assert_eq!((merged.blueprint.vocab, merged.tokenizer.vocab_size()), (rows + 2, rows + 2));

    let on = json!({"adapter_name_or_path": adapted.join("final"), "max_steps": 1});
    let continued = scratch.join("continued");
    finish(&small("kto", &continued, on));
    let again = Adapter::load(&continued.join("final")).unwrap();
    assert_eq!(again.vocabulary(), Some(rows + 2));
    assert!(continued.join("final/tokenizer.json").exists());
    let whole = scratch.join("whole");
    finish(&small("sft", &whole, new));
    assert_eq!(infer::ModelFolder::open(&whole.join("final"), None).unwrap().blueprint.vocab, rows + 2);
    let frozen = json!({"resize_vocab": true, "new_special_tokens": "<x>", "freeze_trainable_layers": 1});
    let error = train(&small("sft", &scratch.join("no"), frozen), &Control::default(), &mut Vec::new()).unwrap_err();
    assert_eq!(error.exit_code(), 2, "{error}");
}

#[test]
fn what_is_not_done_is_refused_by_name() {
    let scratch = Scratch::new("refused");
    let cases = [
        (json!({"init_lora_weights": "pissa"}), "pissa"),
        (json!({"init_lora_weights": "loftq"}), "loftq"),
        (json!({"target_parameters": ["mlp.experts.gate_up_proj"]}), "target_parameters"),
        (json!({"bias": "some"}), "bias"),
        (json!({"rank_pattern": {"q_proj": 0}}), "rank_pattern"),
    ];
    for (keys, name) in cases {
        let config = small("kto", &scratch.join("run"), over(&crate::lora(), keys));
        let problems = config::load("test.yaml", &config.to_string(), &[]).unwrap_err().to_string();
        assert!(problems.contains(name), "{problems}");
    }
    let cases = [
        (json!({"modules_to_save": ["pooler"]}), "modules_to_save: \"pooler\""),
        (json!({"layers_to_transform": [9], "lora_target_modules": ["q_proj"]}), "layers_to_transform"),
        (json!({"layers_to_transform": [0], "lora_target_modules": ".*q_proj"}), "layers_to_transform"),
        (json!({"rank_pattern": {"(": 2}}), "("),
    ];
    for (i, (keys, name)) in cases.into_iter().enumerate() {
        let config = small("kto", &scratch.join(&format!("run-{i}")), over(&crate::lora(), keys));
        let error = train(&config, &Control::default(), &mut Vec::new()).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
}

/// PEFT 0.21 loads nothing into layers beside routed experts that are named as these are; by their weights it finds them.
#[test]
fn layers_beside_routed_experts_are_named_by_their_weights() {
    let scratch = Scratch::new("beside");
    let written_of = |model: &str, name: &str, keys: Value| {
        let base = json!({"model_name_or_path": crate::model(model), "use_peft": true, "lora_r": 2, "max_steps": 1});
        let output = scratch.join(name);
        finish(&small("kto", &output, over(&base, keys)));
        let text = std::fs::read_to_string(output.join("final/adapter_config.json")).unwrap();
        let config: Value = serde_json::from_str(&text).unwrap();
        (Adapter::load(&output.join("final")).unwrap(), config)
    };
    let written = |name: &str, keys: Value| written_of("deepseek_v3", name, keys);
    // Attention, the dense layer and shared experts, unless told otherwise.
    let (adapter, config) = written("usual", json!({"lora_dropout": 0.1}));
    assert_eq!(config["target_modules"], json!(["kv_a_proj_with_mqa", "kv_b_proj", "o_proj", "q_proj"]));
    let parameters = config["target_parameters"].as_array().unwrap();
    assert!(parameters.contains(&json!("model.layers.0.mlp.down_proj.weight")), "{parameters:?}");
    assert!(parameters.contains(&json!("model.layers.1.mlp.shared_experts.up_proj.weight")), "{parameters:?}");
    assert_eq!((adapter.pairs.len(), parameters.len()), (3 * 7, 3 * 3));
    assert_eq!(config["lora_dropout"], json!(0.0));
    // As they were with DoRA, which PEFT does not put on a weight; and without layers of these names.
    for (name, keys) in
        [("lengths", json!({"use_dora": true})), ("attention", json!({"lora_target_modules": ["q_proj"]}))]
    {
        let (_, config) = written(name, keys);
        assert_eq!((&config["target_parameters"], &config["lora_dropout"]), (&Value::Null, &json!(0.05)), "{name}");
    }
    // Patterns fit these names as well; experts are named by what they share.
    let pattern = r".*(experts\.3|shared_experts|layers\.0\.mlp|layers\.0\.self_attn)\.(up_proj|o_proj)";
    let keys = json!({"lora_target_modules": pattern, "rank_pattern": {"shared_experts.up_proj": 3}});
    let (adapter, config) = written("some", keys);
    let rank = |module: &str| adapter.get(module).map(|pair| pair.rank);
    assert_eq!(rank("model.layers.1.mlp.shared_experts.up_proj"), Some(3));
    assert_eq!((rank("model.layers.0.mlp.up_proj"), rank("model.layers.1.mlp.experts.3.up_proj")), (Some(2), Some(2)));
    assert_eq!(config["target_modules"], json!(["model.layers.0.self_attn.o_proj", "up_proj"]));
    assert_eq!(config["rank_pattern"], json!({r"(shared_experts.up_proj)(\.weight)?": 3}));
    let keys = json!({"lora_target_modules": r".*experts\.gate_up_projs\.\d+"});
    let (_, config) = written_of("gpt_oss", "turned", keys);
    assert_eq!(config["target_modules"], json!(["gate_up_projs"]));
    let (adapter, config) = written("all", json!({"lora_target_modules": "all-linear", "layers_to_transform": [1]}));
    assert_eq!(config["target_parameters"].as_array().unwrap().len(), 3);
    assert!(adapter.pairs.iter().all(|pair| pair.module.starts_with("model.layers.1.")), "all-linear is limited, too");
    let on = json!({"adapter_name_or_path": scratch.join("usual/final"), "model_name_or_path": crate::model("deepseek_v3"), "max_steps": 1});
    assert_eq!(finish(&small("kto", &scratch.join("on"), on)).step, 1);
}

/// What PEFT put on stacks goes on on their layers, and is written so.
#[test]
fn an_adapter_on_stacked_experts_is_continued_on_their_layers() {
    let scratch = Scratch::new("stacked");
    let given = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/adapters/experts_turned");
    let keys = json!({"model_name_or_path": crate::model("gpt_oss"), "adapter_name_or_path": given, "max_steps": 1});
    let output = scratch.join("run");
    assert_eq!(finish(&small("kto", &output, keys)).step, 1);
    let adapter = Adapter::load(&output.join("final")).unwrap();
    let of = |module: &str| adapter.get(module).map(|pair| (pair.rank, pair.scale));
    assert_eq!(of("model.layers.1.mlp.experts.gate_up_projs.3"), Some((2, 4.0)));
    assert_eq!((of("model.layers.2.mlp.experts.down_projs.0"), adapter.pairs.len()), (Some((2, 4.0)), 3 + 3 * 4));
    let text = std::fs::read_to_string(output.join("final/adapter_config.json")).unwrap();
    let config: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(config["target_modules"], json!(["down_projs", "gate_up_projs", "q_proj"]));
    assert_eq!(config["target_parameters"], Value::Null);
}

/// With next to no noise a step with noise is a step without, its load-balancing loss included.
#[test]
fn noise_leaves_the_load_balancing_loss_in() {
    let scratch = Scratch::new("noise");
    let run = |name: &str, keys: Value| {
        let base =
            json!({"model_name_or_path": crate::model("qwen2_moe"), "router_aux_loss_coef": 0.5, "max_steps": 2});
        let output = scratch.join(name);
        finish(&small("sft", &output, over(&base, keys)));
        log_of(&output).into_iter().filter(|line| line.get("loss").is_some()).collect::<Vec<_>>()
    };
    let (plain, noisy) = (run("plain", json!({})), run("noisy", json!({"neftune_noise_alpha": 1e-6})));
    for (a, b) in plain.iter().zip(&noisy) {
        for key in ["loss", "aux_loss", "grad_norm"] {
            let [a, b] = [a, b].map(|line| line[key].as_f64().unwrap_or_else(|| panic!("{key} in {line}")));
            assert!((a - b).abs() < 1e-4 * a.abs(), "{key}: {a} and {b}");
        }
    }
    let dft = run("dft", json!({"loss_type": "dft"}));
    assert!(dft[0]["aux_loss"].as_f64().is_some_and(|aux| aux > 0.0), "{}", dft[0]);
}
