//! Several ranks, as threads of this process: the same bits as one, whatever is sharded; kill, resume and failures among them.

use crate::{Scratch, log_of, lora, model, notes, over, rows, small, train};
use ::train::{Control, Ended, Error, Event};
use dist::World;
use dist::threads::threads;
use serde_json::{Value, json};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;
use weights::SafeTensors;

/// Seconds that ranks wait for one another; a machine may be busy, and nobody waits unless a rank is missing.
const PATIENCE: f64 = 300.0;

/// Every rank of a run, in a thread of its own; `watch` sees every event of rank 0.
fn run_ranks(
    ranks: usize,
    config: &Value,
    controls: &[Control],
    watch: &(dyn Fn(&Event) + Sync),
) -> Vec<Result<Ended, Error>> {
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
    let loaded = &loaded;
    std::thread::scope(|scope| {
        let start = |(comm, control): (dist::threads::Threads, _)| {
            scope.spawn(move || {
                let world = World::new(Box::new(comm), Duration::from_secs_f64(PATIENCE)).unwrap();
                let leads = world.leads();
                ::train::run_on(&world, loaded, &[], control, &mut |e| {
                    if leads {
                        watch(&e);
                    }
                })
            })
        };
        let all: Vec<_> = threads(ranks).into_iter().zip(controls).map(start).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

fn controls(ranks: usize) -> Vec<Control> {
    (0..ranks).map(|_| Control::default()).collect()
}

/// Trains to the end on so many ranks.
fn finish_on(ranks: usize, config: &Value) {
    for ended in run_ranks(ranks, config, &controls(ranks), &|_| {}) {
        let ended = ended.unwrap_or_else(|e| panic!("{e}"));
        assert!(!ended.stopped);
    }
}

/// Trains on so many ranks until `step` steps are made, then asks rank `asked` to stop.
fn stop_on(ranks: usize, config: &Value, step: u64, asked: usize) {
    let controls = controls(ranks);
    let watch = |e: &Event| {
        if matches!(e, Event::Step { step: made, .. } if *made == step) {
            controls[asked].stop.store(true, Ordering::SeqCst);
        }
    };
    for ended in run_ranks(ranks, config, &controls, &watch) {
        let ended = ended.unwrap_or_else(|e| panic!("{e}"));
        assert!(ended.stopped && ended.exit_code() == 75 && ended.step >= step, "{ended:?}");
    }
}

/// A run of twelve rows a step, in micro-batches of two.
fn job(trainer: &str, output: &Path, with: Value) -> Value {
    let keys = json!({"elastic": true, "train_batch_size": 12, "max_steps": 4, "dist_timeout": PATIENCE});
    over(&over(&small(trainer, output, keys), with), json!({"gradient_accumulation_steps": null}))
}

/// What has to repeat bit for bit however many ranks there are: weights, the whole of both moments, the log.
#[derive(PartialEq)]
struct State {
    weights: Vec<u8>,
    moments: Vec<u32>,
    log: Vec<Value>,
}

impl State {
    fn of(folder: &Path, step: u64) -> State {
        let last = folder.join("final");
        let weights = [weights::ADAPTER_WEIGHTS_FILE, "model.safetensors"].map(|f| last.join(f));
        let file = weights.iter().find(|f| f.exists()).unwrap_or_else(|| panic!("no weights in {}", last.display()));
        let log = log_of(folder).into_iter().map(|r| over(&r, json!({"tokens_per_second": null}))).collect();
        let dir = folder.join(format!("checkpoint-{step}"));
        State { weights: std::fs::read(file).unwrap(), moments: moments(&dir), log }
    }

    fn assert_same(&self, other: &State, what: &str) {
        for (i, (a, b)) in self.log.iter().zip(&other.log).enumerate() {
            assert_eq!(a, b, "{what}: line {} of the log", i + 1);
        }
        assert_eq!(self.log.len(), other.log.len(), "{what}: lines of the log");
        assert!(self.weights == other.weights, "{what}: the weights differ");
        assert!(self.moments == other.moments, "{what}: the optimiser's state differs");
    }
}

/// First moments of a checkpoint and then second ones, whoever wrote them, each sorted: one file has them by name, the files of ranks by
/// place in the arena.
fn moments(dir: &Path) -> Vec<u32> {
    let mut files: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.file_name().is_some_and(|n| n.to_string_lossy().starts_with("optimizer")));
    let mut moments = [Vec::new(), Vec::new()];
    for file in files {
        let file = SafeTensors::open(&file).unwrap();
        for info in file.infos().filter(|i| !i.name.starts_with("values")) {
            let tensor = file.get(&info.name).unwrap();
            let bits: Vec<u32> = match tensor.dtype() {
                weights::DType::U8 => tensor.bytes().iter().map(|code| u32::from(*code)).collect(),
                _ => tensor.to_f32().unwrap().iter().map(|x| x.to_bits()).collect(),
            };
            moments[usize::from(info.name.starts_with('v'))].extend(bits);
        }
    }
    moments.iter_mut().for_each(|part| part.sort_unstable());
    moments.concat()
}

/// Trains the same on one to four ranks and on every stage, and compares everything.
fn assert_same_on_any_number_of_ranks(name: &str, config: &dyn Fn(&Path) -> Value) {
    assert_same_on(name, config, &[(2, json!(0)), (3, json!(1)), (4, json!(2)), (3, json!(3))]);
}

/// Trains the same on one rank, and on so many and such stages, and compares everything.
fn assert_same_on(name: &str, config: &dyn Fn(&Path) -> Value, spreads: &[(usize, Value)]) {
    let scratch = Scratch::new(name);
    let alone = scratch.join("alone");
    finish_on(1, &config(&alone));
    let alone = State::of(&alone, 4);
    for (ranks, zero) in spreads {
        let output = scratch.join(&format!("{ranks}-{}", zero.to_string().replace(['"', '{', '}', ':', ','], "-")));
        let keys = if zero.is_object() { zero.clone() } else { json!({"zero_stage": zero}) };
        finish_on(*ranks, &over(&config(&output), keys));
        State::of(&output, 4).assert_same(&alone, &format!("{ranks} ranks, stage {zero}"));
    }
}

#[test]
fn kto_with_an_adapter_has_the_same_bits_on_any_number_of_ranks() {
    let keys = json!({"lora_dropout": 0.1, "disable_dropout": false, "val_size": 8, "eval_strategy": "steps", "eval_steps": 2});
    assert_same_on_any_number_of_ranks("ranks-kto-lora", &|out| job("kto", out, over(&lora(), keys.clone())));
}

#[test]
fn kto_on_all_weights_has_the_same_bits_on_any_number_of_ranks() {
    assert_same_on_any_number_of_ranks("ranks-kto-full", &|out| job("kto", out, json!({})));
}

#[test]
fn kto_as_trl_groups_it_has_the_same_bits_on_any_number_of_ranks() {
    assert_same_on_any_number_of_ranks("ranks-kto-trl", &|out| {
        job("kto", out, over(&lora(), json!({"compat": "trl"})))
    });
}

#[test]
fn sft_has_the_same_bits_on_any_number_of_ranks() {
    assert_same_on_any_number_of_ranks("ranks-sft-full", &|out| job("sft", out, json!({"neftune_noise_alpha": 5.0})));
    assert_same_on_any_number_of_ranks("ranks-sft-lora", &|out| {
        job("sft", out, over(&lora(), json!({"loss_type": "dft"})))
    });
}

#[test]
fn experts_have_the_same_bits_on_any_number_of_ranks() {
    let keys = json!({"model_name_or_path": model("qwen2_moe"), "router_aux_loss_coef": 0.02});
    assert_same_on_any_number_of_ranks("ranks-kto-moe", &|out| job("kto", out, keys.clone()));
    assert_same_on_any_number_of_ranks("ranks-sft-moe", &|out| job("sft", out, over(&lora(), keys.clone())));
}

#[test]
fn a_base_in_codes_has_the_same_bits_on_any_number_of_ranks() {
    let keys = json!({"load_in_4bit": true, "bnb_4bit_quant_type": "nf4", "use_bnb_nested_quant": true, "lora_target_modules": ["v_proj"],
        "layers_to_transform": [1], "generate_prompts": ["a"], "generate_steps": 4, "generate_max_new_tokens": 2});
    let spreads = [(2, json!(0)), (3, json!(3)), (4, json!({"zero_stage": 3, "shard_ranks": 2}))];
    assert_same_on("ranks-qlora", &|out| job("kto", out, over(&lora(), keys.clone())), &spreads);
}

#[test]
fn a_rounded_base_in_shards_has_the_same_bits() {
    let keys = json!({"dtype": "bfloat16", "val_size": 6, "eval_strategy": "steps", "eval_steps": 2, "z0_scope": "micro_batch"});
    assert_same_on("ranks-rounded", &|out| job("kto", out, over(&lora(), keys.clone())), &[(3, json!(3))]);
    let keys = json!({"dtype": "bfloat16", "freeze_trainable_layers": 1});
    assert_same_on("ranks-frozen-blocks", &|out| job("sft", out, keys.clone()), &[(2, json!(3))]);
}

#[test]
fn moments_in_eight_bits_have_the_same_bits_on_any_number_of_ranks() {
    let spreads = [(2, json!(1)), (3, json!(3))];
    assert_same_on("ranks-eight", &|out| job("sft", out, json!({"optim": "adamw_8bit"})), &spreads);
}

#[test]
fn values_in_bfloat16_alone_have_the_same_bits_on_any_number_of_ranks() {
    let keys = json!({"optim_master": "none", "dtype": "bfloat16", "optim": "adamw_8bit"});
    let spreads = [(3, json!(1)), (2, json!(2)), (3, json!(3))];
    assert_same_on("ranks-halves", &|out| job("kto", out, keys.clone()), &spreads);
}

#[test]
fn groups_of_ranks_that_have_the_same_shards_train_the_same() {
    let spread = |zero: u8, group: usize| json!({"zero_stage": zero, "shard_ranks": group});
    let spreads = [(4, spread(3, 2)), (4, spread(2, 2))];
    assert_same_on("ranks-groups", &|out| job("kto", out, json!({})), &spreads);
}

#[test]
fn one_process_says_that_groups_of_ranks_mean_nothing_to_it() {
    let scratch = Scratch::new("ranks-alone");
    let said = |keys: Value| {
        let mut events = Vec::new();
        train(
            &job("sft", &scratch.join("run"), over(&keys, json!({"max_steps": 1, "overwrite_output_dir": true}))),
            &Control::default(),
            &mut events,
        )
        .unwrap();
        notes(&events)
    };
    assert!(said(json!({"shard_ranks": 2})).contains("shard_ranks: 2 changes nothing here"));
    assert!(!said(json!({})).contains("shard_ranks"));
}

#[test]
fn a_run_goes_on_over_other_ranks_and_stages_with_the_same_bits() {
    let scratch = Scratch::new("ranks-chain");
    let eight = json!({"optim": "adamw_8bit"});
    let kinds = [("lora", lora()), ("full", json!({})), ("rounded", json!({"dtype": "bfloat16"})), ("eight", eight)];
    for (name, with) in kinds {
        let (whole, chain) = (scratch.join(&format!("whole-{name}")), scratch.join(&format!("chain-{name}")));
        let config = |out: &Path| job("kto", out, over(&with, json!({"max_steps": 5})));
        finish_on(1, &config(&whole));
        for (i, (ranks, zero)) in [(4, 3), (2, 1), (3, 2), (1, 0)].into_iter().enumerate() {
            let keys = json!({"zero_stage": zero, "resume_from_checkpoint": true});
            let config = over(&config(&chain), keys);
            if i < 3 { stop_on(ranks, &config, i as u64 + 1, ranks - 1) } else { finish_on(ranks, &config) }
        }
        State::of(&chain, 5).assert_same(&State::of(&whole, 5), name);
    }
}

#[test]
fn without_a_global_batch_each_rank_brings_its_own_and_a_resumed_run_keeps_it() {
    let scratch = Scratch::new("ranks-batch");
    let (whole, chain) = (scratch.join("whole"), scratch.join("chain"));
    let keys = json!({"elastic": true, "max_steps": 4, "per_device_train_batch_size": 2});
    let of = |out: &Path, accumulation: usize| {
        small("kto", out, over(&over(&lora(), keys.clone()), json!({"gradient_accumulation_steps": accumulation})))
    };
    finish_on(1, &of(&whole, 6));
    stop_on(3, &of(&chain, 2), 2, 1);
    finish_on(2, &over(&of(&chain, 2), json!({"resume_from_checkpoint": true})));
    State::of(&chain, 4).assert_same(&State::of(&whole, 4), "begun on three ranks, ended on two");
}

#[test]
fn a_rank_that_ends_ends_the_others_with_its_reason_and_nothing_is_lost() {
    let scratch = Scratch::new("ranks-left");
    let output = scratch.join("run");
    let config = job("kto", &output, over(&lora(), json!({"save_steps": 1})));
    // A rank whose rows are other than everybody's: the run folder is refused to it, and it says so.
    let held = rundir::RunFolder::open(&output, rundir::Opening::Create).unwrap();
    let errors = run_ranks(3, &config, &controls(3), &|_| {});
    let codes: Vec<u8> = errors.iter().map(|e| e.as_ref().unwrap_err().exit_code()).collect();
    assert_eq!(codes, [6, 7, 7]);
    let said = errors[2].as_ref().unwrap_err().to_string();
    assert!(said.contains("rank 0 on thread-0 has ended") && said.contains("is in use"), "{said}");
    drop(held);
}

#[test]
fn ranks_take_the_place_of_an_earlier_run_with_their_first_step() {
    let scratch = Scratch::new("ranks-in-place");
    let (run, fresh) = (scratch.join("run"), scratch.join("fresh"));
    let config = |out: &Path, with: Value| job("kto", out, over(&lora(), with));
    finish_on(2, &config(&run, json!({"max_steps": 3, "save_steps": 1})));
    let result = |run: &Path| std::fs::read(run.join("final").join(weights::ADAPTER_WEIGHTS_FILE)).unwrap();
    let (before, over_old) = (result(&run), json!({"overwrite_output_dir": true}));
    // One rank cannot read its model, and one is asked to stop in the first step.
    let broken = config(&run, over(&over_old, json!({"model_name_or_path": scratch.join("nowhere")})));
    let codes: Vec<u8> =
        run_ranks(3, &broken, &controls(3), &|_| {}).iter().map(|e| e.as_ref().unwrap_err().exit_code()).collect();
    assert!(codes.contains(&6), "{codes:?}");
    let controls = controls(3);
    let watch = |e: &Event| {
        if matches!(e, Event::Opening(_)) {
            controls[2].stop.store(true, Ordering::SeqCst);
        }
    };
    for ended in run_ranks(3, &config(&run, over_old.clone()), &controls, &watch) {
        let ended = ended.unwrap_or_else(|e| panic!("{e}"));
        assert!(ended.stopped && ended.exit_code() == 130, "{ended:?}");
    }
    assert!(result(&run) == before && run.join("checkpoint-1").is_dir());
    finish_on(3, &config(&run, over_old));
    finish_on(3, &config(&fresh, json!({})));
    State::of(&run, 4).assert_same(&State::of(&fresh, 4), "in place of another run");
    assert!(!run.join("checkpoint-1").exists());
}

#[test]
fn a_run_on_all_ranks_packs_rows() {
    let keys = json!({"dataset_name": rows("sft_text46.jsonl"), "max_length": 64, "packing": true, "per_device_train_batch_size": 1,
        "train_batch_size": 5});
    assert_same_on_any_number_of_ranks("ranks-packed", &|out| job("sft", out, over(&lora(), keys.clone())));
}

/// Under `mpirun`, each process is one rank of the run that this variable describes (`.ci/mpi`); alone there is nothing to do.
#[cfg(feature = "mpi")]
#[test]
fn ranks_of_mpi_train() {
    let Ok(config) = std::env::var("PROSPECT_TEST_RANKS") else { return };
    let world = World::new(Box::new(dist::Mpi::start().unwrap()), Duration::from_secs(60)).unwrap();
    let loaded = config::load("ranks.yaml", &config, &[]).unwrap_or_else(|e| panic!("{e:?}"));
    ::train::run_on(&world, &loaded, &[], &Control::default(), &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
}
