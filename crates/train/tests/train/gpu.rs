//! Whole steps and runs on the GPU that `PROSPECT_GPU` names, else on one played by the CPU, against the CPU's own.

use crate::lab::{Lab, PLAIN, Stepped};
use crate::{Bits, Scratch, logged, lora, model, over, small};
use config::Loaded;
use kernels::cuda::{Activation, Cuda, Error as GpuError, Played};
use kernels::{Backend, Cpu, Memory, bf16};
use model::Keep;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use testkit::{Dtype, tolerance};
use train::step::Execution;
use train::{Control, Ended, Error, Event, GpuOptions, Plan};

/// Memory of the one that is played, bytes.
const MEMORY: usize = 1 << 28;

fn options(memory: usize) -> GpuOptions {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let number = variable("PROSPECT_GPU").map(|n| n.to_str().unwrap().parse().unwrap());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    GpuOptions {
        number: number.unwrap_or(0),
        folders: variable("PROSPECT_CUDA_LIBRARIES").map_or(Vec::new(), |all| std::env::split_paths(&all).collect()),
        cache: Some(folder.join("kernels")),
        played: number.is_none().then_some(Played { folder, memory }),
        ..GpuOptions::default()
    }
}

/// None where a GPU would have to be played and nothing compiles its kernels.
fn gpu<A: Activation>() -> Option<Cuda<A>> {
    match Cuda::open(&options(MEMORY)) {
        Err(GpuError::Missing { library, .. }) if library == "c++" => {
            println!("GPU: skipped, there is no c++ (apt-get install g++)");
            None
        }
        opened => Some(opened.unwrap_or_else(|e| panic!("{e}"))),
    }
}

/// Everything in one pack; small packs with blocks computed twice; the no-gradient sweep first.
fn executions() -> [Execution; 3] {
    let small = Execution { budget_rows: 100, keep: Keep::Inputs, ..PLAIN };
    [PLAIN, small, Execution { z0_first: true, ..PLAIN }]
}

/// A step of each execution.
fn step<B: Backend<Real = f32>>(backend: B, config: &Value, executions: &[Execution]) -> Vec<Stepped> {
    let lab = Lab::new(backend, config, 0.02);
    let texts = lab.texts(8);
    let step = |execution| match lab.job.kto() {
        Some(_) => lab.preference_step(execution, 0..8),
        None => lab.text_step(execution, &texts),
    };
    executions.iter().map(|execution| step(*execution)).collect()
}

/// Of all weights and of an adapter, by both trainers.
fn jobs(names: &[&str]) -> Vec<(String, Value)> {
    let mut jobs = Vec::new();
    for name in names {
        for (tuning, keys) in [("full", json!({})), ("lora", lora())] {
            for trainer in ["kto", "sft"] {
                let base = small(trainer, &std::env::temp_dir(), keys.clone());
                let job = over(&base, json!({"model_name_or_path": model(name)}));
                jobs.push((format!("{trainer} {tuning} {name}"), job));
            }
        }
    }
    jobs
}

#[test]
fn whole_steps_of_a_gpu_equal_the_cpus() {
    // Sums of about a thousand rows in another order.
    let near = (1e-6, 4.0 * tolerance(Dtype::F32, 1000));
    for (what, config) in jobs(&["llama31", "mistral", "qwen2", "qwen3"]) {
        let Some(cuda) = gpu::<f32>() else { return };
        let found = step(cuda.clone(), &config, &executions());
        assert_eq!(cuda.trouble(), None);
        for (found, want) in found.iter().zip(step(Cpu::new(2), &config, &executions())) {
            found.assert_near(&want, near, &what);
        }
    }
}

/// The distance of two gradients as a share of their length.
fn distance(found: &[f64], want: &[f64]) -> f64 {
    let length = |x: &mut dyn Iterator<Item = f64>| x.map(|x| x * x).sum::<f64>().sqrt();
    let gap = length(&mut found.iter().zip(want).map(|(a, b)| a - b));
    gap / length(&mut want.iter().copied())
}

#[test]
fn whole_steps_in_bfloat16_equal_those_in_float32_but_for_its_rounding() {
    // Every activation is rounded by 2^-9 of itself, some dozens of times one after the other.
    let rounding = Dtype::Bf16.unit_roundoff() / 2.0;
    for (what, config) in jobs(&["qwen2", "qwen3"]) {
        let Some(cuda) = gpu::<bf16>() else { return };
        let found = step(cuda.clone(), &config, &[PLAIN]);
        assert_eq!(cuda.trouble(), None);
        let want = step(Cpu::new(2), &config, &[PLAIN]);
        let (found, want) = (&found[0], &want[0]);
        let (loss, gradient) = (found.report.loss - want.report.loss, distance(&found.gradient, &want.gradient));
        println!("{what}: loss {loss:+.1e} of {:.4}, gradient {gradient:.1e}", want.report.loss);
        assert!(loss.abs() <= rounding * want.report.loss && loss != 0.0, "{what}: {loss}");
        assert!(gradient <= 12.0 * rounding && gradient >= rounding, "{what}: {gradient}");
    }
}

fn loaded(config: &Value) -> Loaded {
    config::load("gpu.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"))
}

/// Trains on the GPU, until `stop` steps are made if that is said. None where there is no GPU to be had.
fn trained(config: &Value, memory: usize, stop: Option<u64>, said: &mut Vec<String>) -> Option<Result<Ended, Error>> {
    gpu::<f32>()?;
    let control = Control { gpu: options(memory), ..Control::default() };
    let mut observe = |event| match event {
        Event::Step { step, .. } if Some(step) == stop => control.stop.store(true, Ordering::SeqCst),
        Event::Opening(line) => said.push(line),
        _ => {}
    };
    Some(train::run(&loaded(config), &[], &control, &mut observe))
}

/// Short runs of few rows: an adapter with dropout, and all weights with moments in eight bits.
fn run_config(kind: &str, output: PathBuf) -> Value {
    let few = json!({"device": "cuda", "max_steps": 3, "max_length": 48, "gradient_accumulation_steps": 1});
    let of = |trainer, keys| over(&small(trainer, &output, keys), few.clone());
    match kind {
        "adapter" => of("kto", over(&lora(), json!({"lora_dropout": 0.1, "disable_dropout": false, "bf16": true}))),
        _ => of("sft", json!({"optim": "adamw_8bit"})),
    }
}

#[test]
fn runs_on_a_gpu_follow_the_cpus_and_resume_to_the_same_bits() {
    for (kind, near) in [("adapter", 5e-3), ("all weights", 1e-5)] {
        let scratch = Scratch::new("gpu");
        let [whole, stopped, cpu] = ["whole", "stopped", "cpu"].map(|name| scratch.join(name));
        let mut said = Vec::new();
        let Some(ended) = trained(&run_config(kind, whole.clone()), MEMORY, None, &mut said) else { return };
        assert_eq!(ended.unwrap_or_else(|e| panic!("{e}")).step, 3);
        assert!(said.iter().any(|line| line.starts_with("device         cuda:")), "{said:?}");
        assert_eq!(said.iter().any(|line| line.contains("activations in bfloat16")), kind == "adapter", "{said:?}");

        crate::finish(&over(&run_config(kind, cpu.clone()), json!({"device": "cpu", "bf16": false})));
        for (found, want) in logged(&whole, "loss").iter().zip(logged(&cpu, "loss")) {
            assert!((found - want).abs() <= near * want, "{kind}: loss {found} and {want}");
        }

        let ended = trained(&run_config(kind, stopped.clone()), MEMORY, Some(1), &mut said).unwrap().unwrap();
        assert!(ended.stopped && ended.step == 1);
        let on = over(&run_config(kind, stopped.clone()), json!({"resume_from_checkpoint": true}));
        trained(&on, MEMORY, None, &mut said).unwrap().unwrap();
        Bits::of(&stopped, 3).assert_same(&Bits::of(&whole, 3), kind);
    }
}

#[test]
fn a_gpu_that_is_too_small_is_told_before_and_during_a_run() {
    let scratch = Scratch::new("gpu-memory");
    let run = |name: &str, memory, keys: Value| {
        let config = over(&run_config("all weights", scratch.join(name)), keys);
        Some(trained(&config, memory, None, &mut Vec::new())?.expect_err("there is not enough"))
    };
    // `max_memory` is what the plan has, on a GPU of any size.
    let Some(planned) = run("plan", MEMORY, json!({"max_memory": "26MB"})) else { return };
    assert!(matches!(planned, Error::Memory { .. }) && planned.exit_code() == 4, "{planned}");
    // Without room for itself a plan cannot be kept; it goes on as long as it can.
    if std::env::var_os("PROSPECT_GPU").is_none() {
        let tight = run("tight", 1 << 22, json!({"resume_from_checkpoint": null, "max_memory": "400MB"}));
        let tight = tight.unwrap();
        assert_eq!(tight.exit_code(), 4, "{tight}");
    }
}

#[test]
fn what_a_step_takes_is_planned_and_nothing_is_asked_for_in_the_second() {
    for (what, config) in jobs(&["qwen2"]) {
        let config = over(&config, json!({"device": "cuda", "bf16": true}));
        let Some(cuda) = gpu::<bf16>() else { return };
        let mut lab = Lab::new(Cpu::<f32>::new(1), &config, 0.0);
        lab.job.gpu_memory = Some(MEMORY as u64);
        let plan = Plan::new(&lab.job).unwrap();
        cuda.reserve(plan.total() as usize);
        let lab = Lab::new(cuda.clone(), &config, 0.02);
        let texts = lab.texts(4);
        let step = || match lab.job.kto() {
            Some(_) => drop(lab.preference_step(plan.execution, 0..4)),
            None => drop(lab.text_step(plan.execution, &texts)),
        };
        cuda.take_peak_bytes();
        step();
        let (asked, taken) = (cuda.times_asked(), cuda.take_peak_bytes() as u64);
        cuda.take_counts();
        step();
        let counts = cuda.take_counts();
        assert!(2 * counts.given[0] < counts.launches && counts.graphs == 0, "{what}: {counts:?}");
        assert_eq!((cuda.trouble(), cuda.times_asked()), (None, asked), "{what}: nothing is asked for in a step");
        // Neither is there an optimiser here, nor does what the driver has count.
        let apart = |part: &str| ["process", "optimiser state"].contains(&part);
        let planned: u64 = plan.memory.iter().filter(|(part, _)| !apart(part)).map(|(_, bytes)| bytes).sum();
        println!("{what}: {taken} bytes of {planned} planned, asked {asked} times; {counts:?}");
        assert!(
            asked == 1 && taken <= planned && taken >= planned / 3,
            "{what}: {taken} bytes of {planned}, {asked} times"
        );
    }
}

#[test]
fn steps_whose_block_inputs_wait_on_the_host_have_the_same_bits() {
    let again = Execution { keep: Keep::Inputs, ..PLAIN };
    let some = Execution { keep: Keep::Mixed { whole: 1, lean: 0 }, z0_first: true, ..PLAIN };
    let executions = [again, Execution { budget_rows: 100, ..again }, some];
    for (what, config) in jobs(&["qwen2"]) {
        let (Some(here), Some(away)) = (gpu::<bf16>(), gpu::<bf16>()) else { return };
        away.reserve_host(1 << 22).unwrap();
        let found = step(away.clone(), &config, &executions);
        assert_eq!(away.trouble(), None);
        assert!(away.take_host_peak_bytes() > 0, "{what}: nothing was offloaded");
        for (found, want) in found.iter().zip(step(here, &config, &executions)) {
            found.assert_same(&want, &what);
        }
    }
}

#[test]
fn what_waits_on_the_host_is_what_was_planned() {
    for (what, config) in jobs(&["qwen2"]) {
        let keys =
            json!({"device": "cuda", "bf16": true, "activation_offloading": true, "max_steps": 1, "shuffle": false});
        let config = over(&config, keys);
        let Some(cuda) = gpu::<bf16>() else { return };
        let mut lab = Lab::new(Cpu::<f32>::new(1), &config, 0.0);
        lab.job.gpu_memory = Some(MEMORY as u64);
        let plan = Plan::new(&lab.job).unwrap();
        cuda.reserve(plan.total() as usize);
        cuda.reserve_host(plan.host as usize).unwrap();
        let lab = Lab::new(cuda.clone(), &config, 0.02);
        let texts = lab.texts(4);
        let lengths: Vec<usize> = match lab.job.kto() {
            Some(_) => (0..4).map(|i| lab.job.train.data.tokens(i).len()).collect(),
            None => texts.iter().map(|text| text.prompt.len() + text.tokens.len()).collect(),
        };
        let step = || match lab.job.kto() {
            Some(_) => drop(lab.preference_step(plan.execution, 0..4)),
            None => drop(lab.text_step(plan.execution, &texts)),
        };
        cuda.take_peak_bytes();
        step();
        let (asked, taken, waited) = (cuda.times_asked(), cuda.take_peak_bytes() as u64, cuda.take_host_peak_bytes());
        step();
        assert_eq!((cuda.trouble(), cuda.times_asked()), (None, asked), "{what}: nothing is asked for in a step");
        assert_eq!(cuda.take_host_peak_bytes(), waited, "{what}: the same room again");
        // In one pack; a sequence's last token is counted in plans and is never a row. Parts begin at multiples of 512.
        let (blocks, row) = (lab.job.blueprint.layers.len(), 2 * lab.job.blueprint.hidden);
        let rows: usize = lengths.iter().sum();
        assert_eq!(plan.host as usize, blocks * (row * rows + 512), "{what}");
        assert_eq!(waited, blocks * (row * (rows - lengths.len())).next_multiple_of(512), "{what}");
        let apart = |part: &str| ["process", "optimiser state"].contains(&part);
        let planned: u64 = plan.memory.iter().filter(|(part, _)| !apart(part)).map(|(_, bytes)| bytes).sum();
        println!(
            "{what}: {taken} bytes of {planned} planned, {waited} of {} on the host, asked {asked} times",
            plan.host
        );
        assert!(asked == 1 && taken <= planned && taken >= planned / 3, "{what}: {taken} bytes of {planned}");
    }
}

#[test]
fn a_run_whose_block_inputs_wait_on_the_host_resumes_to_the_bits_of_one_whose_do_not() {
    let scratch = Scratch::new("gpu-offload");
    let [here, away] = ["here", "away"].map(|name| scratch.join(name));
    let of = |output: &PathBuf, keys: Value| over(&run_config("adapter", output.clone()), keys);
    let mut said = Vec::new();
    let kept = of(&here, json!({"gradient_checkpointing": true, "activation_offloading": false}));
    let Some(ended) = trained(&kept, MEMORY, None, &mut said) else { return };
    ended.unwrap_or_else(|e| panic!("{e}"));
    assert!(!said.iter().any(|line| line.starts_with("offloading")), "{said:?}");

    let asked = json!({"activation_offloading": true});
    assert!(trained(&of(&away, asked.clone()), MEMORY, Some(1), &mut said).unwrap().unwrap().stopped);
    let on = of(&away, over(&asked, json!({"resume_from_checkpoint": true})));
    trained(&on, MEMORY, None, &mut said).unwrap().unwrap();
    let lines = said.iter().filter(|line| line.starts_with("offloading     inputs of blocks"));
    assert_eq!(lines.count(), 2, "{said:?}");
    Bits::of(&away, 3).assert_same(&Bits::of(&here, 3), "offloaded");
}

#[test]
fn scores_of_a_gpu_are_the_cpus() {
    let Some(_) = gpu::<f32>() else { return };
    let folder = infer::ModelFolder::open(Path::new(&model("qwen2")), None).unwrap();
    let rows = [(vec![3, 4, 5], vec![6, 7, 8]), (Vec::new(), vec![9, 10]), (vec![3, 4, 5], vec![11])];
    let row = |(index, (prompt, completion)): (u32, &(Vec<u32>, Vec<u32>))| train::ScoreRow {
        index,
        prompt: prompt.clone(),
        completion: completion.clone(),
    };
    let rows: Vec<_> = (0..).zip(&rows).map(row).collect();
    let scored = |device: infer::Device| {
        let (placed, mut all) = (folder.place(64, &device).unwrap(), Vec::new());
        train::score(&placed, &rows, |_, logps| {
            all.extend_from_slice(logps);
            Ok::<_, Error>(())
        })
        .unwrap();
        all
    };
    let (found, want) = (scored(infer::Device::Gpu(options(MEMORY))), scored(infer::Device::Cpu(1)));
    let gap = found.iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(found.len() == 5 && gap < 1e-4, "{found:?} {want:?}");
}
