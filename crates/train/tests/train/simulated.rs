//! Steps without arithmetic against real ones: every rank's calls and bytes, exactly.

use crate::{Scratch, lora, model, over, small};
use data::Clock;
use dist::threads::threads;
use dist::{Collective, Meter, World};
use serde_json::{Value, json};
use std::time::Duration;
use train::{Control, Event, Job};

/// Seconds that ranks wait for one another; a machine may be busy, and nobody waits unless a rank is missing.
const PATIENCE: f64 = 300.0;

/// The meters of every rank after each step.
fn meters(ranks: usize, config: &Value) -> Vec<Vec<Meter>> {
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
    let loaded = &loaded;
    std::thread::scope(|scope| {
        let start = |comm: dist::threads::Threads| {
            scope.spawn(move || {
                let world = World::new(Box::new(comm), Duration::from_secs_f64(PATIENCE)).unwrap();
                let mut after = Vec::new();
                let watch = &mut |e: Event| {
                    if matches!(e, Event::Step { .. }) {
                        after.push(world.meter());
                    }
                };
                train::run_on(&world, loaded, &[], &Control::default(), watch).unwrap_or_else(|e| panic!("{e}"));
                after
            })
        };
        let all: Vec<_> = threads(ranks).into_iter().map(start).collect();
        all.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

/// Compares the second step of real ranks with the simulated one.
fn assert_counted(trainer: &str, keys: Value, spreads: &[(usize, Value)]) {
    for (ranks, spread) in spreads {
        let scratch = Scratch::new("simulated");
        // Rows are tokenised once, not by every rank.
        let own = json!({"tokenized_path": scratch.join("tokens"), "elastic": true, "train_batch_size": 6, "max_steps": 2, "dist_timeout": PATIENCE,
            "gradient_accumulation_steps": null, "save_strategy": "no", "logging_strategy": "no", "max_length": 48});
        let config =
            over(&over(&over(&small(trainer, &scratch.join("run"), json!({})), own), keys.clone()), spread.clone());
        let what = format!("{trainer} {keys} {ranks} ranks {spread}");
        let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
        let zero = loaded.config.engine.zero_stage;
        let job = Job::new(loaded.config, Clock::now(), &mut |_| {}).unwrap();
        let (_, simulated) = train::simulate(&job, *ranks, zero, 1).unwrap();
        for (rank, (found, real)) in simulated.iter().zip(meters(*ranks, &config)).enumerate() {
            for collective in Collective::ALL {
                let (before, after) = (real[0].of(collective), real[1].of(collective));
                let counted: Vec<u64> = found.calls.iter().filter(|c| c.0 == collective).map(|c| c.1).collect();
                let sent = (counted.len() as u64, counted.iter().sum::<u64>());
                assert_eq!(
                    sent,
                    (after.calls - before.calls, after.sent - before.sent),
                    "{what}: {collective} of rank {rank}"
                );
            }
            let order = |calls: &[(Collective, u64)]| calls.iter().map(|c| c.0).collect::<Vec<_>>();
            assert_eq!(order(&found.calls), order(&simulated[0].calls), "{what}: rank {rank}");
        }
    }
}

fn stages(of: &[(usize, u8)]) -> Vec<(usize, Value)> {
    of.iter().map(|(ranks, zero)| (*ranks, json!({"zero_stage": zero}))).collect()
}

#[test]
fn every_byte_of_a_preference_step_is_foreseen() {
    assert_counted("kto", json!({}), &stages(&[(2, 0), (4, 2)]));
    let codes = json!({"load_in_4bit": true, "dtype": "bfloat16", "layers_to_transform": [1], "lora_target_modules": ["v_proj"]});
    assert_counted("kto", over(&lora(), codes), &[(4, json!({"zero_stage": 3, "shard_ranks": 2}))]);
    assert_counted("kto", json!({"optim_master": "none", "dtype": "bfloat16"}), &stages(&[(3, 3)]));
}

#[test]
fn every_byte_of_a_text_step_is_foreseen() {
    assert_counted("sft", json!({}), &stages(&[(2, 3)]));
    assert_counted("sft", json!({"deterministic": false, "elastic": null}), &stages(&[(3, 1)]));
    let experts = json!({"model_name_or_path": model("qwen2_moe"), "router_aux_loss_coef": 0.02});
    assert_counted("sft", experts.clone(), &stages(&[(3, 3)]));
    assert_counted("kto", experts, &stages(&[(2, 0)]));
}
