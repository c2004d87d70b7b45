//! Configurations that are right, and what they mean.

use config::*;
use std::path::{Path, PathBuf};

const NEEDED: &str = "model_name_or_path: m\ndataset_name: d\n";

fn load(text: &str) -> Loaded {
    config::load("run.yaml", &format!("{NEEDED}{text}"), &[]).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

fn load_with(text: &str, overrides: &[&str]) -> Loaded {
    let words: Vec<String> = overrides.iter().map(|s| s.to_string()).collect();
    let pairs = config::split_overrides(&words).unwrap();
    config::load("run.yaml", &format!("{NEEDED}{text}"), &pairs).unwrap_or_else(|e| panic!("{text}\n{e}"))
}

fn kto(config: &Config) -> &Kto {
    match &config.objective {
        Objective::Kto(kto) => kto,
        Objective::Sft(_) => panic!("kto"),
    }
}

fn sft(config: &Config) -> &Sft {
    match &config.objective {
        Objective::Sft(sft) => sft,
        Objective::Kto(_) => panic!("sft"),
    }
}

/// The OpenSeek KTO run as its report states it: a TRL file of another era.
const OPENSEEK: &str = "\
model_name_or_path: ./models/OpenSeek-Small-v1-SFT
trust_remote_code: true
torch_dtype: bfloat16
attn_implementation: flash_attention_2
dataset_name: ./datasets/AI-MO/NuminaMath-CoT-preference
max_length: 4096
output_dir: ./output/OpenSeek-Small-v1-KTO
overwrite_output_dir: true
do_eval: false
eval_strategy: \"no\"
logging_steps: 1
save_strategy: steps
save_steps: 1000
save_total_limit: 1
num_train_epochs: 4
per_device_train_batch_size: 4
gradient_accumulation_steps: 2
gradient_checkpointing: true
gradient_checkpointing_kwargs:
  use_reentrant: false
learning_rate: 2e-5
lr_scheduler_type: cosine_with_min_lr
lr_scheduler_kwargs:
  min_lr_rate: 0.1
warmup_ratio: 0.1
weight_decay: 0.01
max_grad_norm: 1.0
bf16: true
seed: 233
use_liger_kernel: true
use_liger_loss: true
report_to: none
";

#[test]
fn a_trl_file_of_another_era_runs_unchanged_with_every_key_accounted_for() {
    let loaded = config::load("config.yaml", OPENSEEK, &[]).unwrap();
    let c = &loaded.config;
    assert_eq!(
        c.model,
        Model {
            path: "./models/OpenSeek-Small-v1-SFT".into(),
            dtype: Dtype::Bfloat16,
            quantisation: None,
            router_aux_loss_coef: None,
            rope_scaling: None,
            new_tokens: Vec::new(),
            resize_vocab: false
        }
    );
    assert_eq!(c.tuning, Tuning::Full);
    assert_eq!((c.data.max_length, c.data.train.len()), (Some(4096), 1));
    assert_eq!(c.duration, Duration::Epochs(4.0));
    assert_eq!(c.batch, Batch { train_rows: 4, accumulation: 2, step_rows: None, eval_rows: 8 });
    assert_eq!((c.optimizer.learning_rate, c.optimizer.weight_decay), (2e-5, 0.01));
    let kind = ScheduleKind::CosineWithMinLr { num_cycles: 0.5, floor: Floor::Share(0.1) };
    assert_eq!(c.schedule, Schedule { kind, warmup: Warmup::Ratio(0.1) });
    assert_eq!((c.saving.every, c.saving.total_limit, c.saving.overwrite), (Interval::Steps(1000), Some(1), true));
    assert_eq!((c.evaluation.every, c.logging.every), (Interval::Never, Interval::Steps(1)));
    assert_eq!((c.engine.seed, c.engine.recompute), (233, Recompute::Always));
    assert_eq!((kto(c).loss, kto(c).beta), (KtoLoss::Kto, 0.1));
    assert!(c.engine.bf16);
    let idle: Vec<&str> =
        loaded.notes.iter().filter(|n| n.kind == NoteKind::NoEffect).map(|n| n.key.as_str()).collect();
    assert_eq!(
        idle,
        [
            "trust_remote_code",
            "attn_implementation",
            "do_eval",
            "gradient_checkpointing_kwargs",
            "use_liger_kernel",
            "use_liger_loss"
        ]
    );
    let spelled: Vec<String> =
        loaded.notes.iter().filter(|n| n.kind == NoteKind::Spelling).map(Note::to_string).collect();
    assert_eq!(
        spelled,
        [
            "`torch_dtype` is read as `dtype: bfloat16` (config.yaml:3:1)",
            "`warmup_ratio` is read as `warmup_steps: 0.1` (config.yaml:25:1)"
        ]
    );
}

#[test]
fn activations_leave_a_gpu_as_the_plan_says_or_the_file() {
    let offload = |text: &str| load(text).config.engine.offload;
    let [auto, yes, no] = ["auto", "true", "false"].map(|value| format!("activation_offloading: {value}\n"));
    assert_eq!(["", &auto, &yes, &no].map(offload), [None, None, Some(true), Some(false)]);
    let said = |text: &str| {
        let notes = load(text).notes.into_iter().filter(|note| note.key == "activation_offloading");
        notes.map(|note| note.text).collect::<Vec<_>>()
    };
    let gpu = format!("{yes}device: cuda\n");
    assert_eq!(said(&yes), ["`activation_offloading` has no effect on the CPU: its memory is where activations are"]);
    assert_eq!([&auto, &no, &gpu].map(|text| said(text).len()), [0; 3]);
    let kept = said(&format!("{gpu}gradient_checkpointing: false\n"));
    assert!(kept.len() == 1 && kept[0].contains("beside `gradient_checkpointing: false`"), "{kept:?}");
}

#[test]
fn defaults_are_trls() {
    let c = load("").config;
    assert_eq!(c.optimizer.learning_rate, 1e-6);
    assert_eq!(c.optimizer.name, OptimizerName::AdamwTorch);
    assert_eq!((c.optimizer.beta1, c.optimizer.beta2, c.optimizer.epsilon), (0.9, 0.999, 1e-8));
    assert_eq!((c.optimizer.weight_decay, c.optimizer.max_grad_norm), (0.0, Some(1.0)));
    assert_eq!(c.schedule, Schedule { kind: ScheduleKind::Linear, warmup: Warmup::Steps(0) });
    assert_eq!((c.duration, c.batch.train_rows, c.batch.accumulation), (Duration::Epochs(3.0), 8, 1));
    assert_eq!((c.logging.every, c.saving.every), (Interval::Steps(10), Interval::Steps(500)));
    assert_eq!((c.data.max_length, c.engine.seed, c.engine.data_seed), (Some(1024), 42, 42));
    assert_eq!((c.data.train_split.as_str(), c.data.test_split.as_str()), ("train", "test"));
    assert_eq!((kto(&c).desirable_weight, kto(&c).undesirable_weight), (Weight::Number(1.0), Weight::Number(1.0)));
    assert!(kto(&c).disable_dropout && !c.logging.tensorboard && c.evaluation.best.is_none());
    let c = load("trainer: sft\n").config;
    assert_eq!((c.optimizer.learning_rate, sft(&c).packing, sft(&c).completion_only_loss), (2e-5, None, None));
    let Tuning::Lora(lora) = load("use_peft: true\n").config.tuning else { panic!("lora") };
    assert_eq!((lora.r, lora.alpha, lora.dropout, lora.targets), (16, 32.0, 0.05, Targets::Default));
}

#[test]
fn ours_and_trls_conventions_differ_only_by_compat() {
    let ours = load("").config;
    assert_eq!((kto(&ours).z0_scope, kto(&ours).pairing), (Z0Scope::Step, Pairing::Group));
    assert_eq!((kto(&ours).normalisation, ours.data.shuffle), (Normalisation::Rows, true));
    let theirs = load("compat: trl\n").config;
    assert_eq!((kto(&theirs).z0_scope, kto(&theirs).pairing), (Z0Scope::MicroBatch, Pairing::Trl));
    assert_eq!((kto(&theirs).normalisation, theirs.data.shuffle), (Normalisation::MeanOfMeans, false));
    assert!(load("trainer: sft\ncompat: trl\n").config.data.shuffle);
    assert!(!load("trainer: sft\ncompat: trl\ntrain_sampling_strategy: sequential\n").config.data.shuffle);
    assert!(!load("train_sampling_strategy: sequential\n").config.data.shuffle);
}

#[test]
fn numbers_are_numbers_however_yaml_1_1_reads_them() {
    for text in ["5e-7", "5E-7", "\"5e-7\"", "0.5e-6", ".5e-6", "5.0e-07"] {
        assert_eq!(load(&format!("learning_rate: {text}\n")).config.optimizer.learning_rate, 5e-7, "{text}");
    }
    assert_eq!(load("eval_strategy: no\n").config.evaluation.every, Interval::Never);
    assert_eq!(load("eval_strategy: off\n").config.evaluation.every, Interval::Never);
    assert_eq!(load("learning_rate: ~\nbeta:\nlora_r: null\n").config, load("").config);
    assert_eq!(load("max_length: null\n").config.data.max_length, None);
    assert_eq!(load("max_steps: -1\n").config.duration, Duration::Epochs(3.0));
    assert_eq!(load("run_name: no\n").config.logging.run_name.as_deref(), Some("no"));
}

#[test]
fn warm_up_is_a_count_or_a_share_under_either_name() {
    let warmup = |text: &str| load(text).config.schedule.warmup;
    assert_eq!(warmup("warmup_steps: 10\n"), Warmup::Steps(10));
    assert_eq!(warmup("warmup_steps: 0.1\n"), Warmup::Ratio(0.1));
    assert_eq!(warmup("warmup_ratio: 0.1\n"), Warmup::Ratio(0.1));
    // A dump of transformers 4's arguments has both, one of them at its default.
    assert_eq!(warmup("warmup_ratio: 0.1\nwarmup_steps: 0\n"), Warmup::Ratio(0.1));
    assert_eq!(warmup("warmup_ratio: 0.0\nwarmup_steps: 10\n"), Warmup::Steps(10));
}

#[test]
fn an_override_wins_over_the_file_whatever_the_spelling() {
    let c = load_with("max_length: 1024\nbeta: 0.2\n", &["max_seq_length=512", "--beta=0.3"]).config;
    assert_eq!((c.data.max_length, kto(&c).beta), (Some(512), 0.3));
    assert_eq!(load_with("warmup_ratio: 0.1\n", &["warmup_steps=0"]).config.schedule.warmup, Warmup::Steps(0));
    assert_eq!(load_with("max_steps: 5\n", &["max_steps="]).config.duration, Duration::Epochs(3.0));
    let c = load_with("", &["lora_target_modules=[q_proj, v_proj]", "use_peft=true"]).config;
    let Tuning::Lora(lora) = c.tuning else { panic!("lora") };
    assert_eq!(lora.targets, Targets::Names(vec!["q_proj".into(), "v_proj".into()]));
    for floor in ["lr_scheduler_kwargs.min_lr_rate=0.2", "lr_scheduler_kwargs={min_lr_rate: 0.2}", "min_lr_rate=0.2"] {
        let c = load_with("lr_scheduler_type: cosine_with_min_lr\nmin_lr_rate: 0.1\n", &[floor]).config;
        let kind = ScheduleKind::CosineWithMinLr { num_cycles: 0.5, floor: Floor::Share(0.2) };
        assert_eq!(c.schedule.kind, kind, "{floor}");
    }
}

#[test]
fn a_mapping_may_be_json_text_as_on_trls_command_line() {
    let text = "lr_scheduler_type: cosine_with_min_lr\nlr_scheduler_kwargs: '{\"min_lr\": 1e-7}'\n";
    let kind = ScheduleKind::CosineWithMinLr { num_cycles: 0.5, floor: Floor::Rate(1e-7) };
    assert_eq!(load(text).config.schedule.kind, kind);
}

#[test]
fn every_schedule_has_transformers_defaults() {
    let kind = |text: &str| load(&format!("lr_scheduler_type: {text}\n")).config.schedule.kind;
    assert_eq!(kind("cosine"), ScheduleKind::Cosine { num_cycles: 0.5 });
    assert_eq!(kind("cosine_with_restarts"), ScheduleKind::CosineWithRestarts { num_cycles: 1 });
    assert_eq!(kind("polynomial"), ScheduleKind::Polynomial { lr_end: 1e-7, power: 1.0 });
    assert_eq!(kind("constant"), ScheduleKind::Constant);
    assert_eq!(kind("constant_with_warmup"), ScheduleKind::ConstantWithWarmup);
    assert_eq!(kind("inverse_sqrt"), ScheduleKind::InverseSqrt { timescale: None });
    let wsd = ScheduleKind::WarmupStableDecay {
        num_decay_steps: 20,
        num_stable_steps: None,
        warmup_curve: Curve::Linear,
        decay_curve: Curve::Cosine,
        min_lr_ratio: 0.1,
        num_cycles: 0.5,
    };
    assert_eq!(kind("warmup_stable_decay\nlr_scheduler_kwargs:\n  num_decay_steps: 20\n  min_lr_ratio: 0.1"), wsd);
}

#[test]
fn target_modules_are_names_or_a_pattern() {
    let targets = |text: &str| match load(&format!("use_peft: true\nlora_target_modules: {text}\n")).config.tuning {
        Tuning::Lora(lora) => lora.targets,
        _ => panic!("lora"),
    };
    let names = |names: &[&str]| Targets::Names(names.iter().map(|s| s.to_string()).collect());
    assert_eq!(targets("all-linear"), Targets::AllLinear);
    assert_eq!(targets("[q_proj, v_proj]"), names(&["q_proj", "v_proj"]));
    assert_eq!(targets("q_proj"), names(&["q_proj"]));
    assert_eq!(targets("q_proj,v_proj"), names(&["q_proj", "v_proj"]));
    assert_eq!(targets("'.*layers\\.[01]\\..*(q|v)_proj'"), Targets::Regex(".*layers\\.[01]\\..*(q|v)_proj".into()));
}

#[test]
fn an_adapter_that_is_given_is_trained_on_and_keys_beside_it_are_claims() {
    let c = load("adapter_name_or_path: a\nlora_r: 8\n").config;
    let claims = LoraClaims { r: Some(8), ..LoraClaims::default() };
    assert_eq!(c.tuning, Tuning::Adapter { path: "a".into(), claims });
    assert_eq!(c.adapter_dropout(0.05), 0.0);
    let c = load("trainer: sft\nadapter_name_or_path: a\n").config;
    assert_eq!(c.adapter_dropout(0.05), 0.05);
}

#[test]
fn dropout_acts_only_where_trl_lets_it() {
    let dropout = |text: &str| load(text).config.adapter_dropout(0.0);
    assert_eq!(dropout("use_peft: true\nlora_dropout: 0.1\n"), 0.0);
    assert_eq!(dropout("use_peft: true\nlora_dropout: 0.1\ndisable_dropout: false\n"), 0.1);
    assert_eq!(dropout("trainer: sft\nuse_peft: true\n"), 0.05);
    assert_eq!(dropout("trainer: sft\n"), 0.0);
    let note = "`lora_dropout` is recorded and off";
    assert!(load("use_peft: true\nlora_dropout: 0.1\n").notes.iter().any(|n| n.text.starts_with(note)));
}

#[test]
fn lora_keys_without_an_adapter_are_said_to_do_nothing() {
    let loaded = load("lora_r: 64\n");
    assert_eq!(loaded.config, load("").config);
    let said = |n: &Note| n.kind == NoteKind::Advice && n.key == "lora_r" && n.text.contains("use_peft: true");
    assert!(loaded.notes.iter().any(said));
}

#[test]
fn a_run_that_is_resumed_overwrites_nothing() {
    let saving = |text: &str| load(&format!("overwrite_output_dir: true\n{text}")).config.saving;
    assert_eq!((saving("").overwrite, saving("").resume), (true, Resume::No));
    assert!(saving("resume_from_checkpoint: false\n").overwrite);
    let resumed = saving("resume_from_checkpoint: true\n");
    assert_eq!((resumed.overwrite, resumed.resume), (false, Resume::Newest));
    let resumed = saving("resume_from_checkpoint: ./run/checkpoint-20\n");
    assert_eq!((resumed.overwrite, resumed.resume), (false, Resume::From("./run/checkpoint-20".into())));
}

#[test]
fn sign_correction_means_kto_s_and_is_said() {
    for key in ["use_kto_s", "use_sign_correction"] {
        let loaded = load(&format!("{key}: true\n"));
        assert_eq!(kto(&loaded.config).loss, KtoLoss::KtoS);
        assert!(loaded.notes.iter().any(|n| n.text == format!("`{key}` is read as `loss_type: kto_s`")));
        assert_eq!(kto(&load(&format!("{key}: false\n")).config).loss, KtoLoss::Kto);
    }
}

#[test]
fn the_best_checkpoint_has_transformers_defaults() {
    let best = |text: &str| load(&format!("eval_strategy: steps\nsave_steps: 10\n{text}")).config.evaluation.best;
    let of = |metric: &str, greater_is_better| Some(Best { metric: metric.into(), greater_is_better });
    assert_eq!(best(""), None);
    assert_eq!(best("load_best_model_at_end: true\n"), of("eval_loss", false));
    assert_eq!(best("metric_for_best_model: rewards/margins\n"), of("eval_rewards/margins", true));
    assert_eq!(best("metric_for_best_model: eval_loss\n"), of("eval_loss", false));
    assert_eq!(best("early_stopping_patience: 2\n"), of("eval_loss", false));
    // Without eval_steps evaluations fall on the log's steps.
    assert_eq!(load("eval_strategy: steps\nlogging_steps: 7\n").config.evaluation.every, Interval::Steps(7));
    assert_eq!(load("eval_strategy: steps\neval_steps: 0.1\n").config.evaluation.every, Interval::Share(0.1));
}

#[test]
fn the_resolved_file_loads_back_to_the_same_configuration() {
    let texts = [
        "",
        "trainer: sft\npacking: true\npacking_strategy: wrapped\ncompletion_only_loss: false\n",
        "compat: trl\nuse_peft: true\nlora_target_modules: '.*(q|v)_proj'\n",
        "adapter_name_or_path: ./a b\nuse_rslora: true\nval_size: 12\neval_strategy: epoch\n",
        "loss_type: nll\nmax_length: null\ncompat: trl\nreport_to: [tensorboard, wandb]\n",
        "undesirable_weight: auto\nkl_warn: 5\nkl_stop: 20\nmax_memory: 2GiB\nthreads: 2\nmax_steps: 7\n",
        "lr_scheduler_type: warmup_stable_decay\nlr_scheduler_kwargs: {num_decay_steps: 5, decay_type: 1-sqrt}\n",
        "lr_scheduler_type: cosine_with_min_lr\nmin_lr_rate: 0.1\nwarmup_ratio: 0.03\nlearning_rate: 5e-7\n",
        "run_name: \"no\"\noutput_dir: \"#1: a 'b' \\\"c\\\"\"\nresume_from_checkpoint: ./x/checkpoint-5\n",
        "use_kto_s: true\ntruncation: drop\nbad_rows: skip\nshuffle: false\nbf16: true\neval_strategy: no\n",
    ];
    for text in texts {
        let first = load(text);
        let again = config::load("config.yaml", &first.resolved_yaml, &[])
            .unwrap_or_else(|e| panic!("{}\n{e}", first.resolved_yaml));
        assert_eq!(again.config, first.config, "{}", first.resolved_yaml);
        let body = |yaml: &str| yaml.split("\n# Accepted").next().map(String::from);
        assert_eq!(body(&again.resolved_yaml), body(&first.resolved_yaml));
    }
    let loaded = config::load("config.yaml", OPENSEEK, &[]).unwrap();
    assert_eq!(config::load("c.yaml", &loaded.resolved_yaml, &[]).unwrap().config, loaded.config);
}

#[test]
fn the_resolved_file_writes_numbers_that_yaml_1_1_reads_as_numbers() {
    let yaml = load("learning_rate: 5e-7\n").resolved_yaml;
    assert!(yaml.contains("\nlearning_rate: 5.0e-7\n"), "{yaml}");
    assert!(yaml.contains("\neval_strategy: \"no\"\n"), "{yaml}");
}

#[test]
fn the_examples_load_without_a_surprise() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let load = |name: &str| config::load(name, &read(name), &[]).unwrap_or_else(|e| panic!("{e}"));

    let test = load("kto-test.yaml").config;
    let Tuning::Lora(lora) = &test.tuning else { panic!("lora") };
    assert_eq!((lora.r, &lora.targets), (8, &Targets::Names(vec!["q_proj".into(), "v_proj".into()])));
    assert_eq!((test.duration, test.data.max_length), (Duration::Steps(50), Some(512)));
    assert_eq!((test.batch.train_rows, test.batch.accumulation), (2, 2));
    assert_eq!((test.saving.every, test.evaluation.load_best_at_end), (Interval::Steps(20), true));
    assert_eq!(test.data.train, [PathBuf::from("target/kto-test/rows.jsonl")]);

    let lora = load("kto-lora.yaml").config;
    assert_eq!(kto(&lora).undesirable_weight, Weight::Auto);
    assert!(lora.evaluation.early_stopping.is_some() && lora.logging.tensorboard);
    let full = load("sft-full.yaml").config;
    assert_eq!((sft(&full).packing, full.schedule.warmup), (Some(Packing::Bfd), Warmup::Ratio(0.05)));

    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.retain(|name| name.ends_with(".yaml"));
    names.sort();
    assert_eq!(names, ["kto-lora.yaml", "kto-test.yaml", "sft-full.yaml"], "an example without a test");
}
