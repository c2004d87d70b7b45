//! Files of other tools: recognised, and every key accounted for.

use config::{Accounted, Dialect, Outcome, account, as_yaml, recognise};

const ACCELERATE: &str = "\
compute_environment: LOCAL_MACHINE
debug: false
deepspeed_config:
  deepspeed_multinode_launcher: standard
  offload_optimizer_device: none
  offload_param_device: none
  zero3_init_flag: false
  zero_stage: 2
distributed_type: DEEPSPEED
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 8
rdzv_backend: static
same_network: true
use_cpu: false
";

const MLX: &str = "\
model:
  name: mistralai/Mistral-7B-Instruct-v0.3
  max_seq_length: 512
lora:
  rank: 8
  alpha: 16
  dropout: 0.05
  target_modules: [q_proj, v_proj]
training:
  max_steps: 50
  num_epochs: 1
  per_device_batch_size: 2
  gradient_accumulation_steps: 2
  learning_rate: 5e-5
  save_steps: 20
kto:
  enabled: true
  beta: 0.1
  lambda_d: 1.0
  lambda_u: 1.0
data:
  max_examples: 100
logging:
  log_dir: test_logs
checkpoint:
  dir: test_checkpoints
output:
  dir: test_outputs
";

const LLAMA_FACTORY: &str = "\
model_name_or_path: Qwen/Qwen2.5-32B
stage: sft
do_train: true
finetuning_type: full
deepspeed: examples/deepspeed/ds_z3_config.json
enable_liger_kernel: true
packing: true
neat_packing: true
streaming: false
dataset: AM-Thinking
tokenized_path: data/tokenized
template: AM-thinking
cutoff_len: 32768
overwrite_cache: true
preprocessing_num_workers: 100
dataloader_num_workers: 4
output_dir: saves/out
resume_from_checkpoint: true
logging_steps: 1
save_steps: 100
plot_loss: true
per_device_train_batch_size: 2
gradient_accumulation_steps: 1
learning_rate: 1.0e-4
num_train_epochs: 2.0
lr_scheduler_type: cosine
warmup_ratio: 0.05
bf16: true
ddp_timeout: 180000000
report_to: wandb
run_name: out
";

const DATASET_INFO: &str = r#"{"AM": {"file_name": "am.parquet", "formatting": "sharegpt",
  "columns": {"messages": "conversations"},
  "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "assistant"}}}"#;

const FLAGS: &str = "\
train_kto --model-size 13b --batch-size 2 --gradient-accumulation 16 --max-seq-length 1024
train_kto --dataset-name org/data --dataset-file train.jsonl --split-dataset --output-dir out --hf-token hf_secret
train_kto --model-size 7b --wandb --wandb-project p --wandb-run-name first --dry-run
inference ./out/final_model
upload_to_hf ./out/final_model user/name --token hf_secret --create-gguf --gguf-quantizations Q4_K_M Q5_K_M
";

fn outcome<'a>(found: &'a [Accounted], key: &str) -> &'a Outcome {
    &found.iter().find(|a| a.key == key).unwrap_or_else(|| panic!("`{key}` is not accounted for")).outcome
}

/// `key: value` for what works, the kind of the outcome for the rest.
fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Works { key, value, .. } => format!("{key}: {value}"),
        Outcome::InPlace(_) => "in place".into(),
        Outcome::NoEffect(_) => "no effect".into(),
        Outcome::Refused(_) => "refused".into(),
        Outcome::Unknown(_) => "unknown".into(),
    }
}

#[test]
fn every_founding_file_is_recognised_and_no_key_is_unknown() {
    let files = [
        (ACCELERATE, Dialect::Accelerate, 16),
        (MLX, Dialect::Mlx, 20),
        (LLAMA_FACTORY, Dialect::LlamaFactory, 31),
        (DATASET_INFO, Dialect::DatasetInfo, 7),
        (FLAGS, Dialect::Flags, 20),
        ("beta: 0.1\nlr_scheduler_kwargs:\n  min_lr: 0\n", Dialect::Flat, 2),
    ];
    for (text, dialect, keys) in files {
        assert_eq!(recognise("f", text).unwrap(), dialect, "{text}");
        let found = account("f", text).unwrap();
        assert_eq!(found.len(), keys, "{dialect}: {found:#?}");
        for a in &found {
            assert!(!matches!(a.outcome, Outcome::Unknown(_)), "{a:?}");
            assert!(
                a.place.line > 0 && a.place.text.contains(a.key.rsplit(['.', ' ']).next().unwrap())
                    || a.key.ends_with("ARGUMENT"),
                "{a:?}"
            );
        }
    }
}

#[test]
fn eight_processes_are_started_and_shard_what_zero_shards() {
    let found = account("zero2.yaml", ACCELERATE).unwrap();
    let Outcome::NoEffect(reason) = outcome(&found, "num_processes") else { panic!("no effect") };
    assert!(
        reason.contains("prospect launch -n 8") && reason.contains("`gradient_accumulation_steps` by 8"),
        "{reason}"
    );
    let works: Vec<String> = found.iter().map(|a| brief(&a.outcome)).filter(|o| o != "no effect").collect();
    assert_eq!(works, ["zero_stage: 2", "bf16: true"]);
}

/// LLaMA-Factory's example for stage 3, which the founding document of the 32B run names.
const DEEPSPEED: &str = r#"{
  "train_batch_size": "auto",
  "train_micro_batch_size_per_gpu": "auto",
  "gradient_accumulation_steps": "auto",
  "gradient_clipping": 0.5,
  "zero_allow_untested_optimizer": true,
  "fp16": {"enabled": "auto", "loss_scale": 0},
  "bf16": {"enabled": "auto"},
  "zero_optimization": {
    "stage": 3,
    "overlap_comm": false,
    "contiguous_gradients": true,
    "sub_group_size": 1e9,
    "reduce_bucket_size": "auto",
    "stage3_prefetch_bucket_size": "auto",
    "stage3_param_persistence_threshold": "auto",
    "stage3_max_live_parameters": 1e9,
    "stage3_max_reuse_distance": 1e9,
    "stage3_gather_16bit_weights_on_model_save": true
  }
}"#;

#[test]
fn a_deepspeed_file_gives_its_stage_and_every_key_is_accounted_for() {
    assert_eq!(recognise("ds_z3_config.json", DEEPSPEED).unwrap(), Dialect::DeepSpeed);
    let found = account("ds_z3_config.json", DEEPSPEED).unwrap();
    assert!(found.iter().all(|a| !matches!(a.outcome, Outcome::Unknown(_) | Outcome::Refused(_))), "{found:#?}");
    let works: Vec<String> = found.iter().map(|a| brief(&a.outcome)).filter(|o| o != "no effect").collect();
    assert_eq!(works, ["max_grad_norm: 0.5", "zero_stage: 3"]);
    let run = "trainer: sft\ndeepspeed: ds_z3_config.json\n";
    assert_eq!(config::deepspeed_file("run.yaml", run).as_deref(), Some("ds_z3_config.json"));
    assert_eq!(config::deepspeed_file("run.yaml", "deepspeed: null\n"), None);
    assert!(config::has_key("run.yaml", run, "deepspeed") && !config::has_key("run.yaml", run, "zero_stage"));
}

#[test]
fn a_section_that_is_null_or_none_is_not_there() {
    let absent = r#""stage": 3, "offload_optimizer": null, "offload_param": "none","#;
    for (from, to) in [
        ("\"stage\": 3,", absent),
        ("\"stage\": 3,", r#""stage": 3, "offload_optimizer": "None","#),
        ("{\"enabled\": \"auto\"}", "null"),
        ("0.5", "null"),
        ("\"fp16\"", "\"optimizer\": null, \"scheduler\": null, \"fp16\""),
    ] {
        let found = account("ds.json", &DEEPSPEED.replacen(from, to, 1)).unwrap();
        assert!(found.iter().all(|a| !matches!(a.outcome, Outcome::Unknown(_) | Outcome::Refused(_))), "{found:#?}");
        let works: Vec<String> = found.iter().map(|a| brief(&a.outcome)).filter(|o| o != "no effect").collect();
        let clipped = if from == "0.5" { &[][..] } else { &["max_grad_norm: 0.5"][..] };
        assert_eq!(works, [clipped, &["zero_stage: 3"]].concat(), "{to}");
    }
    let whole = r#"{"train_batch_size": null, "gradient_clipping": 1, "fp16": null, "zero_optimization": null}"#;
    let found = account("ds.json", whole).unwrap();
    assert_eq!(
        found.iter().map(|a| brief(&a.outcome)).filter(|o| o != "no effect").collect::<Vec<_>>(),
        ["max_grad_norm: 1"]
    );
    // What no table knows stays unknown, and a section is more than its name.
    let wrong = |text: &str| account("ds.json", &DEEPSPEED.replacen("\"stage\": 3,", text, 1)).unwrap();
    for text in ["\"stage\": 3, \"offload_optimiser\": null,", "\"stage\": 3, \"offload_optimizer\": true,"] {
        assert!(wrong(text).iter().any(|a| matches!(a.outcome, Outcome::Unknown(_))), "{text}");
    }
}

#[test]
fn an_optimiser_on_a_disk_is_asked_for_in_the_words_of_deepspeed_and_accelerate() {
    let works = |name: &str, text: &str| {
        let found = account(name, text).unwrap();
        assert!(found.iter().all(|a| !matches!(a.outcome, Outcome::Unknown(_) | Outcome::Refused(_))), "{found:#?}");
        let works = found.iter().map(|a| brief(&a.outcome));
        works.filter(|o| o.starts_with("offload_")).collect::<Vec<String>>()
    };
    let json = |device: &str| {
        DEEPSPEED.replace(
            "\"stage\": 3,",
            &format!("\"stage\": 3, \"offload_optimizer\": {{\"device\": \"{device}\", \"nvme_path\": \"/fast\", \"pin_memory\": true}},"),
        )
    };
    let disk = ["offload_optimizer_device: nvme", "offload_optimizer_nvme_path: /fast"];
    assert_eq!(works("ds_z3_offload_config.json", &json("nvme")), disk);
    assert_eq!(works("ds_z3_offload_config.json", &json("cpu")), disk[1..]);
    let yaml = ACCELERATE.replace(
        "_device: none\n  offload_param",
        "_device: nvme\n  offload_optimizer_nvme_path: /fast\n  offload_param",
    );
    assert_eq!(works("zero2.yaml", &yaml), disk);
}

#[test]
fn the_mlx_run_becomes_a_file_of_ours_that_loads() {
    let found = account("kto.yaml", MLX).unwrap();
    assert_eq!(brief(outcome(&found, "lora.rank")), "lora_r: 8");
    assert_eq!(brief(outcome(&found, "kto.lambda_u")), "undesirable_weight: 1");
    assert_eq!(brief(outcome(&found, "data.max_examples")), "max_samples: 100");
    let yaml = as_yaml(Dialect::Mlx, &found) + "dataset_name: rows.jsonl\n";
    let config = config::load("ours.yaml", &yaml, &[]).unwrap_or_else(|e| panic!("{yaml}\n{e}")).config;
    assert_eq!((config.duration, config.data.max_length), (config::Duration::Steps(50), Some(512)));
    let config::Tuning::Lora(lora) = config.tuning else { panic!("lora") };
    assert_eq!((lora.r, lora.alpha), (8, 16.0));
}

#[test]
fn the_llama_factory_run_becomes_a_file_of_ours_that_loads() {
    let found = account("sft.yaml", LLAMA_FACTORY).unwrap();
    assert_eq!(brief(outcome(&found, "stage")), "trainer: sft");
    assert_eq!(brief(outcome(&found, "cutoff_len")), "max_length: 32768");
    assert_eq!(brief(outcome(&found, "enable_liger_kernel")), "no effect");
    assert_eq!(brief(outcome(&found, "template")), "chat_template_path: AM-thinking");
    assert_eq!(brief(outcome(&found, "warmup_ratio")), "warmup_steps: 0.05");
    let yaml = as_yaml(Dialect::LlamaFactory, &found);
    let config = config::load("ours.yaml", &yaml, &[]).unwrap_or_else(|e| panic!("{yaml}\n{e}")).config;
    assert_eq!(config.optimizer.learning_rate, 1e-4);
    assert!(yaml.contains("# template: AM-thinking -> chat_template_path: AM-thinking"), "{yaml}");
    assert!(yaml.contains("# ddp_timeout: 180000000 ("), "{yaml}");
}

#[test]
fn a_data_set_entry_is_accounted_for_under_its_name() {
    let found = account("dataset_info.json", DATASET_INFO).unwrap();
    for key in ["AM.file_name", "AM.tags.assistant_tag"] {
        let Outcome::InPlace(reason) = outcome(&found, key) else { panic!("{key}") };
        assert!(reason.contains("`dataset: NAME` with `dataset_dir: FOLDER`"), "{reason}");
    }
    let script = DATASET_INFO.replace("file_name", "script_url");
    let found = account("dataset_info.json", &script).unwrap();
    assert_eq!(brief(outcome(&found, "AM.script_url")), "refused");
}

#[test]
fn flags_become_keys_and_secrets_are_never_shown() {
    let found = account("flags.txt", FLAGS).unwrap();
    assert_eq!(brief(outcome(&found, "train_kto --gradient-accumulation")), "gradient_accumulation_steps: 16");
    assert_eq!(brief(outcome(&found, "train_kto --dataset-name")), "dataset_name: \"org/data/train.jsonl\"");
    assert_eq!(brief(outcome(&found, "train_kto --dataset-file")), "no effect");
    assert_eq!(brief(outcome(&found, "train_kto --wandb")), "report_to: wandb");
    let preset: Vec<String> =
        found.iter().filter(|a| a.key == "train_kto --model-size").map(|a| brief(&a.outcome)).collect();
    assert_eq!(preset, ["preset: \"13b\"", "preset: \"7b\""]);
    assert_eq!(brief(outcome(&found, "upload_to_hf --create-gguf")), "no effect");
    // Each command is a run of its own; flags win over a preset.
    let yaml = config::import("flags.txt", FLAGS).unwrap();
    let runs: Vec<&str> = yaml.split("---\n").collect();
    assert_eq!(runs.len(), 5, "{yaml}");
    let ours = format!("model_name_or_path: m\n{}", runs[1]);
    let config = config::load("ours.yaml", &ours, &[]).unwrap_or_else(|e| panic!("{ours}\n{e}")).config;
    assert_eq!(config.data.train, [std::path::PathBuf::from("org/data/train.jsonl")]);
    let sized = format!("model_name_or_path: m\ndataset_name: d\n{}", runs[0].replace("--- \n", ""));
    let config = config::load("sized.yaml", &sized, &[]).unwrap_or_else(|e| panic!("{sized}\n{e}")).config;
    assert_eq!((config.batch.train_rows, config.batch.accumulation, config.data.max_length), (2, 16, Some(1024)));
    assert!(!format!("{found:?}").contains("hf_secret"));
    for line in ["hub_token: hf_secret\nbeta: 0.1\n", "stage: sft\ntemplate: t\nhf_hub_token: hf_secret\n"] {
        let found = account("f.yaml", line).unwrap();
        assert!(!format!("{found:?}").contains("hf_secret"), "{found:?}");
    }
    let Outcome::NoEffect(reason) = outcome(&found, "inference ARGUMENT") else { panic!("no effect") };
    assert!(reason.contains("prospect generate"), "{reason}");
}

#[test]
fn an_unknown_key_of_another_tool_is_said_to_be_unknown() {
    let found = account("sft.yaml", &format!("{LLAMA_FACTORY}cutof_len: 3\n")).unwrap();
    assert_eq!(*outcome(&found, "cutof_len"), Outcome::Unknown(Some("cutoff_len")));
    let found = account("run.yaml", "learning_rate: fast\nbananas: 1\nlora_task_type: SEQ_CLS\n").unwrap();
    assert_eq!(found.iter().map(|a| brief(&a.outcome)).collect::<Vec<_>>(), ["refused", "unknown", "refused"]);
}
