//! Generation against the reference greedy tokens, and its independence of batching, cache and step size.

use infer::{Error, FinishReason, Generator, Limits, Output, Request, Sampling};
use kernels::{Backend, Cpu};
use model::{Built, Tuning};
use nn::{Context, Params};
use serde_json::Value;
use std::path::{Path, PathBuf};

const POSITIONS: usize = 256;
const ROOMY: Limits = Limits { positions: POSITIONS, cache_rows: 1 << 14, step_rows: 512 };

fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(path)
}

fn load<B: Backend>(backend: &B, arch: &str) -> Built<B> {
    let dir = golden("models").join(arch);
    let checkpoint = weights::Checkpoint::open(&dir).unwrap();
    let blueprint = model::arch::blueprint(&weights::read_config(&dir).unwrap()).unwrap();
    Built::new(backend, &checkpoint, blueprint, Tuning::Frozen, POSITIONS).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

/// Prompts of the reference and what transformers continues them with.
fn references(arch: &str) -> Vec<(Vec<u32>, Vec<u32>)> {
    let text = std::fs::read_to_string(golden("forward").join(arch).join("sequences.json")).unwrap();
    let sequences: Vec<Value> = serde_json::from_str(&text).unwrap();
    sequences.iter().map(|s| (ids(&s["prompt_ids"]), ids(&s["greedy_24"]))).collect()
}

fn generate<B: Backend>(
    backend: &B,
    built: &Built<B>,
    requests: &[Request],
    stop: &[u32],
    limits: Limits,
) -> Result<Vec<Output>, Error> {
    let params = Params { table: &built.table, values: &built.values, halves: None };
    let ctx = Context { backend, params, adapters: true, dropout: None };
    let (mut finished, generator) = (Vec::new(), Generator::new(&ctx, &built.decoder, limits));
    let outputs = generator.generate(requests, stop, &mut |i, output| finished.push((i, output.clone())))?;
    // Each request that computes anything is announced once, with what is returned.
    finished.sort_by_key(|(i, _)| *i);
    let announced: Vec<_> = outputs.iter().cloned().enumerate().filter(|(_, o)| !o.tokens.is_empty()).collect();
    assert_eq!(finished, announced);
    Ok(outputs)
}

fn greedy(prompt: &[u32], max_new_tokens: usize) -> Request {
    Request { prompt: prompt.to_vec(), max_new_tokens, sampling: Sampling::GREEDY }
}

/// Sampled requests over the reference prompts, of different lengths, some prompts several times.
fn mixed(arch: &str) -> Vec<Request> {
    let prompts: Vec<Vec<u32>> = references(arch).into_iter().map(|(p, _)| p).collect();
    let request = |i: usize| Request {
        prompt: prompts[(i / 3) % prompts.len()][..].to_vec(),
        max_new_tokens: 3 + (i * 7) % 23,
        sampling: Sampling { temperature: [1.0, 0.7, 0.0][i % 3], top_p: 0.95, top_k: 50 * (i % 2), seed: i as u64 },
    };
    (0..18).map(request).collect()
}

fn alone(cpu: &Cpu<f64>, built: &Built<Cpu<f64>>, requests: &[Request]) -> Vec<Output> {
    let one = |r: &Request| generate(cpu, built, std::slice::from_ref(r), &[], ROOMY).unwrap().remove(0);
    requests.iter().map(one).collect()
}

#[test]
fn greedy_batches_equal_transformers() {
    let cpu = Cpu::<f32>::new(2);
    for arch in ["llama", "llama31", "mistral", "qwen2", "qwen3"] {
        let (built, references) = (load(&cpu, arch), references(arch));
        let requests: Vec<Request> = references.iter().map(|(prompt, want)| greedy(prompt, want.len())).collect();
        let outputs = generate(&cpu, &built, &requests, &[], ROOMY).unwrap();
        for (output, (_, want)) in outputs.iter().zip(&references) {
            assert_eq!((&output.tokens, output.finish_reason), (want, FinishReason::Length), "{arch}");
        }
    }
}

#[test]
fn a_batch_generates_what_each_request_alone_does() {
    let cpu = Cpu::<f64>::new(2);
    for arch in ["qwen2", "mistral"] {
        let (built, requests) = (load(&cpu, arch), mixed(arch));
        assert_eq!(generate(&cpu, &built, &requests, &[], ROOMY).unwrap(), alone(&cpu, &built, &requests), "{arch}");
    }
}

#[test]
fn neither_the_cache_nor_the_step_size_changes_a_token() {
    let cpu = Cpu::<f64>::new(2);
    let (built, requests) = (load(&cpu, "qwen2"), mixed("qwen2"));
    let want = alone(&cpu, &built, &requests);
    let longest = requests.iter().map(|r| r.prompt.len() + r.max_new_tokens).max().unwrap();
    for (cache_rows, step_rows) in [(longest, 512), (longest, 1), (3 * longest, 7), (1 << 14, 5), (1 << 14, 64)] {
        let limits = Limits { positions: POSITIONS, cache_rows, step_rows };
        let got = generate(&cpu, &built, &requests, &[], limits).unwrap();
        assert_eq!(got, want, "{cache_rows} cache rows, {step_rows} rows per step");
    }
}

#[test]
fn a_stop_token_ends_its_own_sequence_only() {
    let cpu = Cpu::<f32>::new(2);
    let (built, references) = (load(&cpu, "qwen2"), references("qwen2"));
    let requests: Vec<Request> = references.iter().map(|(prompt, want)| greedy(prompt, want.len())).collect();
    let stop = references[0].1[3];
    let mut stopped = 0;
    for (output, (_, want)) in
        generate(&cpu, &built, &requests, &[stop, u32::MAX], ROOMY).unwrap().iter().zip(&references)
    {
        let end = want.iter().position(|&token| token == stop);
        stopped += usize::from(end.is_some());
        assert_eq!(output.tokens, want[..end.map_or(want.len(), |i| i + 1)]);
        assert_eq!(output.finish_reason, if end.is_some() { FinishReason::Stop } else { FinishReason::Length });
    }
    assert!((1..references.len()).contains(&stopped), "{stopped} stopped");
}

#[test]
fn samples_follow_their_seeds() {
    let cpu = Cpu::<f32>::new(2);
    let built = load(&cpu, "qwen2");
    let prompt = references("qwen2").remove(0).0;
    let sampled = |seed| Request {
        prompt: prompt.clone(),
        max_new_tokens: 20,
        sampling: Sampling { temperature: 1.0, top_p: 1.0, top_k: 0, seed },
    };
    let requests: Vec<Request> = [1, 2, 1, 3].map(sampled).into();
    let outputs = generate(&cpu, &built, &requests, &[], ROOMY).unwrap();
    assert_eq!(outputs[0], outputs[2]);
    assert!(outputs[0] != outputs[1] && outputs[1] != outputs[3] && outputs[0] != outputs[3]);
}

#[test]
fn no_new_tokens_are_an_empty_answer() {
    let cpu = Cpu::<f32>::new(1);
    let built = load(&cpu, "qwen2");
    let outputs = generate(&cpu, &built, &[greedy(&[1, 2], 0), greedy(&[1, 2], 2)], &[], ROOMY).unwrap();
    assert_eq!(outputs.iter().map(|o| o.tokens.len()).collect::<Vec<_>>(), [0, 2]);
}

#[test]
fn requests_that_cannot_be_served_are_named() {
    let cpu = Cpu::<f32>::new(1);
    let built = load(&cpu, "qwen2");
    let refused = |bad: Request| generate(&cpu, &built, &[greedy(&[1], 1), bad], &[], ROOMY).unwrap_err();
    let vocabulary = built.decoder.blueprint.vocab;
    assert!(matches!(refused(greedy(&[], 1)), Error::EmptyPrompt { request: 1 }));
    let unknown = refused(greedy(&[0, vocabulary as u32], 1)).to_string();
    assert!(unknown.contains("prompt 1: expected token ids below 391, found 391"), "{unknown}");
    let too_long = refused(greedy(&[0; 200], 57));
    assert!(too_long.to_string().contains("200 tokens and up to 57 new ones exceed the model's positions of 256"));
    let hot = Request { sampling: Sampling { temperature: f64::NAN, ..Sampling::GREEDY }, ..greedy(&[1], 1) };
    assert_eq!(refused(hot).exit_code(), 2);
    let none = Request { sampling: Sampling { top_p: 0.0, ..Sampling::GREEDY }, ..greedy(&[1], 1) };
    assert!(refused(none).to_string().contains("top_p: expected a number above 0 and at most 1, found 0"));
}

#[test]
fn a_folder_answers_as_its_parts_do() {
    let (prompt, want) = references("qwen2").remove(0);
    let model = infer::Model::open(&golden("models/qwen2"), None, 1 << 20, 2).unwrap();
    assert_eq!(model.positions(), 1024);
    let outputs = model.generate(&[greedy(&prompt, want.len())], &[], (512, 64), &mut |_, _| {}).unwrap();
    assert_eq!(outputs[0].tokens, want);
}

#[test]
fn an_adapter_answers_as_the_merged_model() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/weights");
    let merged = std::env::temp_dir().join(format!("infer-test-{}", std::process::id()));
    std::fs::create_dir_all(&merged).unwrap();
    for file in ["base/config.json", "merged/model.safetensors"] {
        std::fs::copy(fixtures.join(file), merged.join(file.rsplit('/').next().unwrap())).unwrap();
    }
    let sampled = |seed| Request {
        prompt: vec![5, 6, 7],
        max_new_tokens: 40,
        sampling: Sampling { temperature: 1.0, seed, ..Sampling::GREEDY },
    };
    let requests: Vec<Request> = (0..10).map(sampled).collect();
    let answers = |folder: &Path, adapter: Option<&Path>| {
        let model = infer::Model::open(folder, adapter, 128, 2).unwrap();
        model.generate(&requests, &[], (500, 64), &mut |_, _| {}).unwrap()
    };
    let (base, adapter) = (fixtures.join("base"), fixtures.join("adapter"));
    let adapted = answers(&base, Some(&adapter));
    let from_merged = answers(&merged, None);
    std::fs::remove_dir_all(&merged).unwrap();
    assert_eq!(adapted, from_merged);
    assert_ne!(adapted, answers(&base, None));
}
