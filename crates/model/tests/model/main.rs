//! Decoders against transformers' numbers, and their gradients against finite differences.

mod adapters;
mod configs;
mod golden;
#[cfg(feature = "cuda-tests")]
mod gpu;
mod gradients;
mod lent;
mod quantised;

use kernels::{Backend, Mat};
use model::{Adapters, Built, Storage, Tuning, Unfilled};
use nn::{Context, Params};
use pack::{Answer, Family, Pack, plan_packs};
use std::path::PathBuf;

/// All models that there are reference numbers for.
fn architectures() -> Vec<String> {
    let folders = std::fs::read_dir(golden_dir().join("forward")).unwrap();
    let mut all: Vec<String> = folders.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    all.sort();
    assert!(!all.is_empty(), "no reference numbers");
    all
}

/// Whether all weights can be trained: experts in four bits have no gradient of their own.
fn trainable(arch: &String) -> bool {
    golden_dir().join("forward").join(arch).join("nll_gradients.safetensors").is_file()
}

/// Reference runs: the committed ones, or all of them where `PROSPECT_GOLDEN` points.
fn golden_dir() -> PathBuf {
    match std::env::var_os("PROSPECT_GOLDEN") {
        Some(dir) => dir.into(),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden"),
    }
}

fn load<B: Backend>(backend: &B, name: &str, tuning: Tuning) -> Built<B> {
    load_held(&Storage::default(), backend, name, tuning)
}

fn load_held<B: Backend>(storage: &Storage, backend: &B, name: &str, tuning: Tuning) -> Built<B> {
    unfilled(storage, backend, name, tuning).whole(backend)
}

fn unfilled<B: Backend>(storage: &Storage, backend: &B, name: &str, tuning: Tuning) -> Unfilled<B> {
    let dir = golden_dir().join("models").join(name);
    let checkpoint = weights::Checkpoint::open(&dir).unwrap();
    let blueprint = model::arch::blueprint(&weights::read_config(&dir).unwrap()).unwrap();
    Unfilled::new(storage, backend, &checkpoint, blueprint, tuning, 256).unwrap()
}

fn context<'a, B: Backend>(backend: &'a B, built: &'a Built<B>) -> Context<'a, B> {
    context_at(backend, built, &built.values)
}

fn context_at<'a, B: Backend>(backend: &'a B, built: &'a Built<B>, values: &'a Mat<B, B::Real>) -> Context<'a, B> {
    Context {
        backend,
        params: Params { table: &built.table, values, halves: None, lent: &[], away: None },
        adapters: true,
        dropout: None,
    }
}

/// One whole sequence, every token after the first scored.
fn whole(tokens: &[u32]) -> Pack {
    let answer = Answer { tokens, scored: None, sequence: 0, grad: true };
    plan_packs(&[Family { prompt: &[], answers: vec![answer] }], 1 << 20).remove(0)
}

fn adapters(built: &model::Blueprint, rank: usize) -> Adapters {
    let modules = built.linear_modules().into_iter().filter(|m| m != "lm_head").chain(built.expert_modules());
    Adapters::uniform(rank, 2.0, modules)
}
