//! Other tools' files run as they stand; stages; the schema.

use config::{Dialect, Duration, NoteKind, Objective, QuantCode, Quantisation, Tuning, TurnLoss, recognise};

const SEED_004: &str = "\
model_name_or_path: Qwen/Qwen2.5-32B
stage: sft
do_train: true
finetuning_type: full
deepspeed: examples/deepspeed/ds_z3_config.json
enable_liger_kernel: true
packing: true
neat_packing: true
dataset: AM-Thinking-3697c18, other
tokenized_path: data/tokenized
template: AM-thinking
cutoff_len: 32768
overwrite_cache: true
preprocessing_num_workers: 100
output_dir: saves/out
resume_from_checkpoint: true
learning_rate: 1.0e-4
report_to: wandb
";

const AXOLOTL: &str = "\
base_model: models/base
model_type: AutoModelForCausalLM
load_in_8bit: false
load_in_4bit: false
datasets:
  - path: data/a.jsonl
    type: alpaca
  - path: data/b.jsonl
    type: chat_template
dataset_prepared_path: cache
val_set_size: 0.05
output_dir: out
adapter: lora
lora_r: 32
lora_alpha: 16
lora_dropout: 0.05
lora_target_linear: true
sequence_len: 4096
sample_packing: true
pad_to_sequence_len: true
wandb_project:
gradient_accumulation_steps: 4
micro_batch_size: 2
num_epochs: 4
optimizer: adamw_torch
lr_scheduler: cosine
learning_rate: 0.0002
train_on_inputs: false
bf16: auto
tf32: false
flash_attention: true
warmup_steps: 10
saves_per_epoch: 1
weight_decay: 0.0
special_tokens:
  pad_token: x
";

fn load(text: &str, overrides: &[(&str, &str)]) -> Result<config::Loaded, config::Errors> {
    let overrides: Vec<_> = overrides.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    config::load("run.yaml", text, &overrides)
}

#[test]
fn a_llama_factory_file_is_a_run_as_it_stands() {
    let loaded = load(SEED_004, &[]).unwrap_or_else(|e| panic!("{e}"));
    let c = &loaded.config;
    assert_eq!(c.data.train, ["AM-Thinking-3697c18", "other"].map(std::path::PathBuf::from));
    assert_eq!(c.data.registry.as_deref(), Some("data".as_ref()), "LLaMA-Factory's own folder");
    assert_eq!(c.data.token_cache.as_deref(), Some("data/tokenized".as_ref()));
    assert_eq!(c.data.chat_template.as_deref(), Some("AM-thinking".as_ref()));
    let Objective::Sft(sft) = &c.objective else { panic!("sft") };
    assert_eq!((sft.turn_loss, c.data.max_length), (TurnLoss::Assistant, Some(32768)));
    let said: Vec<&str> = loaded.notes.iter().map(|note| note.text.as_str()).collect();
    for part in [
        "read as a LLaMA-Factory configuration",
        "`overwrite_cache` has no effect",
        "`preprocessing_num_workers` has no effect",
    ] {
        assert!(said.iter().any(|text| text.contains(part)), "{part}: {said:#?}");
    }
    assert_eq!(load(&loaded.resolved_yaml, &[]).unwrap().config, loaded.config);
    // Overrides are ours, and win.
    assert_eq!(
        load(SEED_004, &[("max_length", "64"), ("dataset_name", "x")]).unwrap().config.data.max_length,
        Some(64)
    );
}

#[test]
fn a_key_that_is_not_taken_points_into_the_other_tool_s_file() {
    let errors = load(&format!("{SEED_004}cutof_len: 3\nquantization_bit: 3\n"), &[]).unwrap_err().to_string();
    assert!(errors.contains("run.yaml:19:1") && errors.contains("did you mean `cutoff_len`?"), "{errors}");
    assert!(errors.contains("run.yaml:20:1") && errors.contains("4 and 8 are offered"), "{errors}");
    let errors = load(&SEED_004.replace("1.0e-4", "fast"), &[]).unwrap_err().to_string();
    assert!(errors.contains("run.yaml:17:1") && errors.contains("learning_rate"), "{errors}");
}

#[test]
fn llama_factory_s_other_knobs_have_their_place() {
    let kto = "model_name_or_path: m\nstage: kto\nfinetuning_type: lora\nlora_target: all\ndataset: kto_en_demo\npref_beta: 0.2\npref_ftx: 0.5\nmax_samples: 7\n";
    let c = load(kto, &[]).unwrap_or_else(|e| panic!("{e}")).config;
    let Objective::Kto(k) = &c.objective else { panic!("kto") };
    assert_eq!((k.beta, k.ftx, c.data.max_samples, c.data.max_length), (0.2, 0.5, Some(7), Some(2048)));
    let Tuning::Lora(lora) = &c.tuning else { panic!("lora") };
    assert_eq!((lora.r, &lora.targets), (8, &config::Targets::AllLinear));
    let sft = "model_name_or_path: m\nstage: sft\nfinetuning_type: freeze\nfreeze_trainable_layers: 3\ndataset: a, b\ndataset_dir: d\n\
               mix_strategy: interleave_under\ninterleave_probs: 0.7, 0.3\nneftune_noise_alpha: 5\nuse_dft_loss: true\nmask_history: true\ncutoff_len: 100\n";
    let c = load(sft, &[]).unwrap_or_else(|e| panic!("{e}")).config;
    let Objective::Sft(s) = &c.objective else { panic!("sft") };
    assert_eq!((s.dft, s.neftune_alpha, s.turn_loss), (true, Some(5.0), TurnLoss::LastAssistant));
    assert_eq!(c.tuning, Tuning::Blocks(3));
    assert_eq!(c.data.mix, Some(config::Mix { weights: vec![0.7, 0.3], until_first: true }));
}

#[test]
fn an_axolotl_file_is_a_run_as_it_stands() {
    assert_eq!(recognise("a", AXOLOTL).unwrap(), Dialect::Axolotl);
    let c = load(AXOLOTL, &[]).unwrap_or_else(|e| panic!("{e}")).config;
    assert_eq!(c.data.train, ["data/a.jsonl", "data/b.jsonl"].map(std::path::PathBuf::from));
    assert_eq!((c.data.max_length, c.data.val_size), (Some(4096), Some(config::ValSize::Fraction(0.05))));
    let Objective::Sft(sft) = &c.objective else { panic!("sft") };
    assert!(sft.packing.is_some() && sft.turn_loss == TurnLoss::Assistant);
    let Tuning::Lora(lora) = &c.tuning else { panic!("lora") };
    assert_eq!((lora.r, lora.alpha, &lora.targets), (32, 16.0, &config::Targets::AllLinear));
    let kto = AXOLOTL.replace("sample_packing: true\n", "rl: kto\nrl_beta: 0.3\n");
    let c = load(&kto, &[]).unwrap_or_else(|e| panic!("{e}")).config;
    assert!(matches!(c.objective, Objective::Kto(k) if k.beta == 0.3));
    let qlora = AXOLOTL.replace("adapter: lora", "adapter: qlora").replace("load_in_4bit: false", "load_in_4bit: true");
    let c = load(&qlora, &[]).unwrap_or_else(|e| panic!("{e}")).config;
    let held = Quantisation { code: QuantCode::Nf4, nested: false, skip: Vec::new() };
    assert_eq!(c.model.quantisation, Some(held));
    let factory = load(
        &format!(
            "{}quantization_bit: 4\nquantization_type: fp4\ndouble_quantization: true\n",
            SEED_004.replace("finetuning_type: full", "finetuning_type: lora")
        ),
        &[],
    );
    let held = Quantisation { code: QuantCode::Fp4, nested: true, skip: Vec::new() };
    assert_eq!(factory.unwrap_or_else(|e| panic!("{e}")).config.model.quantisation, Some(held));
}

#[test]
fn a_quantised_base_takes_an_adapter_and_one_width() {
    let base = "model_name_or_path: m\ndataset_name: d\n";
    let asked = |text: &str| load(&format!("{base}{text}"), &[]);
    let held = |text: &str| asked(text).unwrap_or_else(|e| panic!("{e}")).config.model.quantisation;
    let peft = "use_peft: true\nbnb_4bit_use_double_quant: true\nllm_int8_skip_modules: [o_proj]\n";
    let skip = vec!["o_proj".to_owned()];
    let eight = Quantisation { code: QuantCode::Int8, nested: false, skip };
    assert_eq!(held(&format!("{peft}load_in_8bit: true\n")), Some(eight.clone()));
    let four = Quantisation { code: QuantCode::Nf4, nested: true, ..eight };
    assert_eq!(held(&format!("{peft}load_in_4bit: true\nbnb_4bit_compute_dtype: bfloat16\n")), Some(four));
    assert_eq!(held(peft), None);
    let errors = asked("load_in_4bit: true\n").unwrap_err().to_string();
    assert!(errors.contains("run.yaml:3:1") && errors.contains("cannot be trained itself"), "{errors}");
    let errors = asked("use_peft: true\nload_in_4bit: true\nload_in_8bit: true\n").unwrap_err().to_string();
    assert!(errors.contains("run.yaml:4:1") && errors.contains("in four bits or in eight"), "{errors}");
    let errors = asked("use_peft: true\nload_in_4bit: true\nbnb_4bit_quant_type: int4\n").unwrap_err().to_string();
    assert!(errors.contains("run.yaml:5:22") && errors.contains("nf4, fp4"), "{errors}");
}

#[test]
fn what_import_writes_loads_to_the_same_run() {
    for text in [SEED_004, AXOLOTL] {
        let ours = config::import("theirs.yaml", text).unwrap();
        assert_eq!(recognise("ours.yaml", &ours).unwrap(), Dialect::Flat, "{ours}");
        assert_eq!(
            load(&ours, &[]).unwrap_or_else(|e| panic!("{ours}\n{e}")).config,
            load(text, &[]).unwrap().config,
            "{ours}"
        );
        for key in
            text.lines().filter_map(|line| line.trim_start_matches([' ', '-']).split_once(':')).map(|(key, _)| key)
        {
            assert!(
                ours.contains(key) || ["datasets", "special_tokens"].contains(&key),
                "`{key}` is not accounted for in\n{ours}"
            );
        }
    }
}

#[test]
fn a_file_without_a_run_says_so() {
    let errors =
        load("compute_environment: LOCAL\nnum_processes: 8\ndistributed_type: NO\n", &[]).unwrap_err().to_string();
    assert!(errors.contains("an accelerate launch file") && errors.contains("prospect import"), "{errors}");
}

const STAGES: &str = "\
model_name_or_path: base
output_dir: run
trainer: sft
learning_rate: 1e-4
max_length: 64
stages:
  - dataset_name: easy.jsonl
    num_train_epochs: 2
  - dataset_name: [hard.jsonl, harder.jsonl]
    max_steps: 5
    learning_rate: 1e-5
  - trainer: kto
    dataset_name: pairs.jsonl
    use_peft: true
    learning_rate: null
  - trainer: kto
    dataset_name: more.jsonl
    use_peft: true
    lr_scheduler_type: cosine_with_min_lr
    lr_scheduler_kwargs:
      min_lr_rate: 0.1
";

#[test]
fn stages_begin_where_the_one_before_them_ended() {
    let loaded = load(STAGES, &[]).unwrap_or_else(|e| panic!("{e}"));
    let stages: Vec<&config::Config> = loaded.stages.iter().map(|stage| &stage.config).collect();
    assert_eq!(stages.len(), 4);
    let models: Vec<&str> = stages.iter().map(|c| c.model.path.to_str().unwrap()).collect();
    assert_eq!(models, ["base", "run/stage-1/final", "run/stage-2/final", "run/stage-2/final"]);
    let dirs: Vec<&str> = stages.iter().map(|c| c.saving.output_dir.to_str().unwrap()).collect();
    assert_eq!(dirs, ["run/stage-1", "run/stage-2", "run/stage-3", "run/stage-4"]);
    assert_eq!(stages.iter().map(|c| c.duration).collect::<Vec<_>>()[..2], [Duration::Epochs(2.0), Duration::Steps(5)]);
    assert_eq!(stages.iter().map(|c| c.optimizer.learning_rate).collect::<Vec<_>>(), [1e-4, 1e-5, 1e-6, 1e-4]);
    assert!(matches!(stages[2].tuning, Tuning::Lora(_)));
    assert!(matches!(&stages[3].tuning, Tuning::Adapter { path, .. } if path.to_str() == Some("run/stage-3/final")));
    assert!(loaded.notes.iter().all(|note| note.kind != NoteKind::NoEffect));
    let again = load(&loaded.resolved_yaml, &[]).unwrap_or_else(|e| panic!("{}\n{e}", loaded.resolved_yaml));
    assert_eq!(again.stages.iter().map(|s| &s.config).collect::<Vec<_>>(), stages, "{}", loaded.resolved_yaml);
    let moved =
        load(&loaded.resolved_yaml, &[("output_dir", "elsewhere"), ("resume_from_checkpoint", "true")]).unwrap();
    assert_eq!(moved.stages[1].config.model.path.to_str(), Some("elsewhere/stage-1/final"));
}

#[test]
fn what_is_wrong_in_a_stage_is_said_where_it_stands() {
    for (from, to, place, said) in [
        ("    max_steps: 5\n", "    max_step: 5\n", "run.yaml:10:5", "did you mean `max_steps`?"),
        ("    max_steps: 5\n", "    output_dir: x\n", "run.yaml:10:5", "is of the whole run"),
        ("    use_peft: true\n    lr_s", "    use_peft: false\n    lr_s", "run.yaml:16:5", "an adapter"),
        (
            "  - dataset_name: easy.jsonl\n    num_train_epochs: 2\n",
            "  - easy.jsonl\n",
            "run.yaml:7:5",
            "expected a mapping",
        ),
    ] {
        let errors = load(&STAGES.replace(from, to), &[]).unwrap_err().to_string();
        assert!(errors.contains(place) && errors.contains(said), "{errors}");
    }
}

#[test]
fn the_schema_knows_every_key_and_only_those() {
    let schema = config::schema();
    let properties = schema["properties"].as_object().unwrap();
    for entry in config::keys() {
        match entry.key.split_once('.') {
            None => assert!(properties.contains_key(entry.key), "{}", entry.key),
            Some((outer, inner)) => assert!(properties[outer]["properties"].get(inner).is_some(), "{}", entry.key),
        }
    }
    assert_eq!(schema["additionalProperties"], false);
    assert_eq!(properties["learning_rate"]["default"], 1e-6);
    assert!(properties["loss_type"]["enum"].as_array().unwrap().iter().any(|name| name == "kto_s"));
    assert!(properties["eval_strategy"]["enum"].as_array().unwrap().contains(&serde_json::json!(false)));
}

#[test]
fn the_schema_beside_the_examples_is_this_one() {
    let written: serde_json::Value =
        serde_json::from_str(include_str!("../../../configs/prospect.schema.json")).unwrap();
    assert!(written == config::schema(), "write it again: prospect schema --output configs/prospect.schema.json");
}
