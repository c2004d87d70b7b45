//! Settings of a run's course: each does what it says.

use crate::lab::Lab;
use crate::{Scratch, finish, log_of, logged, lora, notes, over, small, train};
use kernels::Cpu;
use model::Keep;
use serde_json::{Value, json};
use std::path::Path;
use train::{Control, Error, Job, Plan};

/// Steps that have a checkpoint.
fn checkpoints(run: &Path) -> Vec<u64> {
    let names = std::fs::read_dir(run).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let mut steps: Vec<u64> = names.filter_map(|n| n.strip_prefix("checkpoint-")?.parse().ok()).collect();
    steps.sort_unstable();
    steps
}

/// Steps of the log's lines that have `key`.
fn steps_with(run: &Path, key: &str) -> Vec<u64> {
    log_of(run).iter().filter(|r| r.get(key).is_some()).map(|r| r["step"].as_u64().unwrap()).collect()
}

/// A run that evaluates every third of its 12 steps.
fn evaluated(output: &Path, with: Value) -> Value {
    let keys = json!({"val_size": 8, "eval_strategy": "steps", "eval_steps": 3});
    small("kto", output, over(&over(&lora(), keys), with))
}

fn weights_of(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join(weights::ADAPTER_WEIGHTS_FILE)).unwrap()
}

/// Evaluation losses with their steps.
fn evaluations(run: &Path) -> Vec<(u64, f64)> {
    steps_with(run, "eval_loss").into_iter().zip(logged(run, "eval_loss")).collect()
}

/// Steps whose evaluation is better than all before.
fn improvements(evaluations: &[(u64, f64)]) -> Vec<u64> {
    let before = |i: usize| evaluations[..i].iter().map(|e| e.1).fold(f64::INFINITY, f64::min);
    evaluations.iter().enumerate().filter(|(i, e)| e.1 < before(*i)).map(|(_, e)| e.0).collect()
}

#[test]
fn early_stopping_counts_evaluations_without_improvement() {
    let scratch = Scratch::new("early");
    let output = scratch.join("never-better");
    let mut events = Vec::new();
    let keys = json!({"early_stopping_patience": 2, "early_stopping_threshold": 5.0});
    let ended = train(&evaluated(&output, keys), &Control::default(), &mut events).unwrap();
    assert_eq!((ended.step, ended.stopped), (9, false));
    assert!(notes(&events).contains("early stopping at step 9"), "{}", notes(&events));
    assert_eq!(steps_with(&output, "eval_loss"), [3, 6, 9]);
    assert!(output.join("final").exists());

    let (whole, output) = (scratch.join("whole"), scratch.join("patient"));
    finish(&evaluated(&whole, json!({"eval_steps": 1})));
    let all = evaluations(&whole);
    let better = improvements(&all);
    let first_worse = all.iter().map(|e| e.0).find(|step| !better.contains(step)).unwrap_or(12);
    let ended = finish(&evaluated(&output, json!({"eval_steps": 1, "early_stopping_patience": 1})));
    assert_eq!(ended.step, first_worse, "{all:?}");
    assert_eq!(evaluations(&output)[..], all[..first_worse as usize]);
}

#[test]
fn a_metric_that_is_not_there_is_refused_with_those_that_are() {
    let scratch = Scratch::new("metric");
    let config =
        evaluated(&scratch.join("run"), json!({"metric_for_best_model": "eval_bleu", "save_strategy": "best"}));
    let error = train(&config, &Control::default(), &mut Vec::new()).unwrap_err();
    let text = error.to_string();
    assert_eq!(error.exit_code(), 2);
    assert!(
        text.contains("eval_bleu") && text.contains("eval_loss") && text.contains("eval_rewards/margins"),
        "{text}"
    );
}

#[test]
fn the_best_checkpoint_is_in_final_when_it_is_asked_for() {
    let scratch = Scratch::new("best");
    let output = scratch.join("run");
    // A metric that never changes is best at the first evaluation; its checkpoint outlives the limit.
    let best = json!({"load_best_model_at_end": true, "metric_for_best_model": "eval_n_chosen"});
    let keys = over(&best, json!({"save_steps": 3, "save_total_limit": 2}));
    let mut events = Vec::new();
    train(&evaluated(&output, keys), &Control::default(), &mut events).unwrap();
    assert_eq!(checkpoints(&output), [3, 12]);
    assert!(weights_of(&output.join("final")) == weights_of(&output.join("checkpoint-3")));
    assert!(weights_of(&output.join("final")) != weights_of(&output.join("checkpoint-12")));
    assert!(notes(&events).contains("best checkpoint, of step 3"), "{}", notes(&events));
    // A best evaluation between two saves has a checkpoint all the same.
    let output = scratch.join("between");
    finish(&evaluated(&output, over(&best, json!({"save_steps": 6}))));
    assert_eq!(checkpoints(&output), [3, 6, 12]);
    assert!(weights_of(&output.join("final")) == weights_of(&output.join("checkpoint-3")));
}

#[test]
fn saving_the_best_saves_when_an_evaluation_is_better() {
    let scratch = Scratch::new("save-best");
    let best = |metric: &str| json!({"save_strategy": "best", "eval_steps": 1, "metric_for_best_model": metric});
    let output = scratch.join("loss");
    finish(&evaluated(&output, best("eval_loss")));
    let all = evaluations(&output);
    assert_eq!((all.len(), checkpoints(&output)), (12, improvements(&all)), "{all:?}");
    let output = scratch.join("constant");
    finish(&evaluated(&output, best("eval_n_chosen")));
    assert_eq!(checkpoints(&output), [1]);
}

#[test]
fn epochs_evaluate_save_and_log_at_their_ends() {
    let scratch = Scratch::new("epochs");
    let output = scratch.join("run");
    // 48 rows less 8 for evaluation: 10 steps of 2 x 2 rows; the run ends in the second pass.
    let every = json!({"eval_strategy": "epoch", "save_strategy": "epoch", "logging_strategy": "epoch"});
    finish(&evaluated(&output, every));
    assert_eq!(steps_with(&output, "eval_loss"), [10, 12]);
    assert_eq!(steps_with(&output, "loss"), [10, 12]);
    assert_eq!(checkpoints(&output), [10, 12]);
    assert_eq!(logged(&output, "epoch"), [1.0, 1.2]);
}

#[test]
fn a_limit_keeps_the_newest_checkpoints() {
    let scratch = Scratch::new("limit");
    let output = scratch.join("run");
    finish(&small("kto", &output, over(&lora(), json!({"save_steps": 2, "save_total_limit": 3}))));
    assert_eq!(checkpoints(&output), [8, 10, 12]);
    let output = scratch.join("no-saves");
    finish(&small("kto", &output, over(&lora(), json!({"save_strategy": "no"}))));
    assert!(checkpoints(&output).is_empty() && output.join("final").exists());
}

#[test]
fn steps_go_on_through_epochs_and_a_part_of_one_is_rounded_up() {
    let scratch = Scratch::new("length");
    let steps = |name: &str, with: Value| {
        let output = scratch.join(name);
        let config = over(&small("kto", &output, lora()), json!({"gradient_accumulation_steps": 8}));
        let ended = finish(&over(&config, with));
        (ended.step, *logged(&output, "epoch").last().unwrap())
    };
    // 48 rows in steps of 16: three to an epoch.
    assert_eq!(steps("beyond", json!({"max_steps": 7})), (7, 2.0 + 1.0 / 3.0));
    assert_eq!(steps("half", json!({"max_steps": null, "num_train_epochs": 0.5})), (2, 2.0 / 3.0));
    assert_eq!(steps("unset", json!({"max_steps": -1, "num_train_epochs": 2})), (6, 2.0));
}

#[test]
fn a_validation_split_is_taken_from_the_rows() {
    let scratch = Scratch::new("split");
    for (size, fewest, most) in [(json!(0.25), 6, 18), (json!(7), 7, 7)] {
        let (parts, whole) = (scratch.join(&format!("{most} in parts")), scratch.join(&format!("{most} at once")));
        let config = evaluated(&parts, json!({"val_size": size, "max_steps": 3, "per_device_eval_batch_size": 2}));
        finish(&config);
        let counted = logged(&parts, "eval_n_chosen")[0] + logged(&parts, "eval_n_rejected")[0];
        assert!((fewest..=most).contains(&(counted as u64)), "{counted} rows");
        let log = std::fs::read_to_string(parts.join("train.log")).unwrap();
        assert!(log.contains(&format!("evaluation     {counted} rows")), "{log}");
        let trained = log.lines().find(|l| l.starts_with("rows ")).unwrap();
        let trained: u64 = trained.split_whitespace().filter_map(|w| w.parse::<u64>().ok()).sum();
        assert_eq!(trained + counted as u64, 48, "{log}");
        // One z0 for all rows: the batches they are computed in change the partners, not the rows themselves.
        finish(&over(&config, json!({"output_dir": whole, "per_device_eval_batch_size": 64})));
        for key in ["eval_logps/chosen", "eval_rewards/rejected"] {
            let (a, b) = (logged(&parts, key)[0], logged(&whole, key)[0]);
            assert!((a - b).abs() < 1e-6 * a.abs().max(1.0), "{key}: {a} {b}");
        }
    }
}

#[test]
fn tensorboard_files_are_written_where_they_are_asked_for() {
    let scratch = Scratch::new("tensorboard");
    let (with, without) = (scratch.join("with"), scratch.join("without"));
    finish(&small("kto", &with, over(&lora(), json!({"report_to": "tensorboard", "max_steps": 2}))));
    finish(&small("kto", &without, over(&lora(), json!({"report_to": "none", "max_steps": 2}))));
    let files: Vec<_> = std::fs::read_dir(with.join("tensorboard")).unwrap().map(|e| e.unwrap().path()).collect();
    assert_eq!(files.len(), 1);
    let bytes = std::fs::read(&files[0]).unwrap();
    for tag in ["train/loss", "train/grad_norm", "train/rewards/chosen"] {
        let found = bytes.windows(tag.len()).filter(|w| *w == tag.as_bytes()).count();
        assert_eq!(found, 2, "{tag}");
    }
    assert!(!without.join("tensorboard").exists());
}

#[test]
fn logging_folds_the_steps_between_its_lines() {
    let scratch = Scratch::new("logging");
    let (each, fifth) = (scratch.join("each"), scratch.join("fifth"));
    finish(&small("kto", &each, lora()));
    finish(&small("kto", &fifth, over(&lora(), json!({"logging_steps": 5, "logging_first_step": true}))));
    assert_eq!(steps_with(&fifth, "loss"), [1, 5, 10, 12]);
    let losses = logged(&each, "loss");
    let mean = |r: std::ops::Range<usize>| losses[r.clone()].iter().sum::<f64>() / r.len() as f64;
    let want = [mean(0..1), mean(1..5), mean(5..10), mean(10..12)];
    for (got, want) in logged(&fifth, "loss").into_iter().zip(want) {
        assert!((got - want).abs() < 1e-12, "{got} {want}");
    }
    assert_eq!(logged(&fifth, "num_tokens").last(), logged(&each, "num_tokens").last());
}

#[test]
fn a_run_says_what_it_may_use() {
    let scratch = Scratch::new("max-memory");
    let run = scratch.join("run");
    finish(&small("sft", &run, over(&lora(), json!({"max_memory": "123MiB", "max_steps": 1}))));
    let said = std::fs::read_to_string(run.join("train.log")).unwrap();
    assert!(said.lines().any(|line| line.ends_with("123 MB may be used")), "{said}");
}

/// A job, and what it may take on the GPU that its configuration names, bytes.
fn gpu_job(keys: Value, memory: Option<u64>) -> Job {
    let config = over(&small("sft", &std::env::temp_dir(), json!({"device": "cuda"})), keys);
    let mut job = Lab::new(Cpu::<f32>::new(1), &config, 0.0).job;
    job.config.engine.max_memory = memory;
    job
}

#[test]
fn block_inputs_wait_on_the_host_where_nothing_else_fits_or_that_is_asked_for() {
    let Err(Error::Memory { needed, table, .. }) =
        Plan::new(&gpu_job(json!({"activation_offloading": false}), Some(1)))
    else {
        panic!("a byte is not enough")
    };
    assert!(table.contains("activation_offloading: auto"), "{table}");
    let plan = Plan::new(&gpu_job(json!({}), Some(needed))).unwrap();
    assert!(plan.total() <= needed && !plan.execution.offload && plan.host == 0, "{plan:?}");
    assert!(!plan.memory_table().contains("pinned"));

    let tight = gpu_job(json!({}), Some(needed - 1));
    let plan = Plan::new(&tight).unwrap();
    assert!(plan.execution.offload && plan.host > 0 && plan.total() < needed, "{plan:?}");
    assert!(plan.memory_table().contains("pinned, on the host"), "{}", plan.memory_table());
    let said = train::opening(&tight, &plan).join("\n");
    assert!(said.contains("offloading     inputs of blocks, 0.") && said.contains("as nothing else fits"), "{said}");

    let asked = gpu_job(json!({"activation_offloading": true}), None);
    let plan = Plan::new(&asked).unwrap();
    assert!(plan.execution.offload && plan.execution.keep == Keep::Inputs && plan.host > 0, "{plan:?}");
    assert!(train::opening(&asked, &plan).join("\n").contains("as activation_offloading says"));
    for without in [json!({"gradient_checkpointing": false}), json!({"device": "cpu"})] {
        let plan = Plan::new(&gpu_job(over(&json!({"activation_offloading": true}), without), None)).unwrap();
        assert_eq!((plan.execution.offload, plan.host), (false, 0));
    }
}
