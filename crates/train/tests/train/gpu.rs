//! Whole steps through the CUDA backend, its kernels run on the CPU, against the CPU's own.

use crate::lab::{Lab, PLAIN, Stepped};
use crate::{lora, model, over, small};
use kernels::cuda::{Cuda, Emulated, Order};
use kernels::{Backend, Cpu, Memory};
use model::Keep;
use serde_json::{Value, json};
use std::path::Path;
use testkit::{Dtype, tolerance};
use train::step::Execution;

/// Everything in one pack; small packs with blocks computed twice; the no-gradient sweep first.
fn executions() -> [Execution; 3] {
    let small = Execution { budget_rows: 100, keep: Keep::Inputs, ..PLAIN };
    [PLAIN, small, Execution { z0_first: true, ..PLAIN }]
}

fn preferences<B: Backend<Real = f32>>(backend: B, config: &Value) -> Vec<Stepped> {
    let lab = Lab::new(backend, config, 0.02);
    executions().map(|execution| lab.preference_step(execution, 0..8)).into()
}

fn texts<B: Backend<Real = f32>>(backend: B, config: &Value) -> Vec<Stepped> {
    let lab = Lab::new(backend, config, 0.02);
    let texts = lab.texts(8);
    executions().map(|execution| lab.text_step(execution, &texts)).into()
}

#[test]
fn whole_steps_of_gpu_kernels_equal_the_cpus() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    // Sums of about a thousand rows in another order.
    let near = (1e-6, 4.0 * tolerance(Dtype::F32, 1000));
    for name in ["llama31", "mistral", "qwen2", "qwen3"] {
        for (tuning, keys) in [("full", json!({})), ("lora", lora())] {
            for (trainer, steps, steps_of_cpu) in [
                (
                    "kto",
                    preferences::<Cuda<f32>> as fn(Cuda<f32>, &Value) -> Vec<Stepped>,
                    preferences::<Cpu<f32>> as fn(Cpu<f32>, &Value) -> Vec<Stepped>,
                ),
                ("sft", texts::<Cuda<f32>>, texts::<Cpu<f32>>),
            ] {
                let Some(emulated) = Emulated::found(&folder, Order::Ascending) else {
                    return println!("emulation: skipped, there is no c++ (apt-get install g++)");
                };
                let base = small(trainer, &std::env::temp_dir(), keys.clone());
                let config = over(&base, json!({"model_name_or_path": model(name)}));
                let cuda = Cuda::new(emulated);
                let found = steps(cuda.clone(), &config);
                assert_eq!(cuda.trouble(), None);
                for (found, want) in found.iter().zip(steps_of_cpu(Cpu::new(2), &config)) {
                    found.assert_near(&want, near, &format!("{trainer} {tuning} {name}"));
                }
            }
        }
    }
}
