//! Generation against the reference greedy tokens, and its independence of batching, cache and step size.

use data::{Clock, Tokenizer};
use infer::{Drawn, Engine, Error, FinishReason, Generator, Limits, Output, Request, Sampling, StopTexts};
use kernels::{Backend, Cpu};
use model::{Built, Tuning};
use nn::{Context, Params};
use serde_json::Value;
use std::path::PathBuf;

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
    let params = Params { table: &built.table, values: &built.values, halves: None, lent: &[], away: None };
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
    Request::new(prompt.to_vec(), max_new_tokens, Sampling::GREEDY)
}

/// Sampled requests over the reference prompts, of different lengths, some prompts several times.
fn mixed(arch: &str) -> Vec<Request> {
    let prompts: Vec<Vec<u32>> = references(arch).into_iter().map(|(p, _)| p).collect();
    let request = |i: usize| Request {
        prompt: prompts[(i / 3) % prompts.len()][..].to_vec(),
        max_new_tokens: 3 + (i * 7) % 23,
        sampling: Sampling {
            temperature: [1.0, 0.7, 0.0][i % 3],
            top_p: 0.95,
            top_k: 50 * (i % 2),
            min_p: 0.01 * (i % 4) as f64,
            repetition_penalty: [1.0, 1.3][i / 2 % 2],
            seed: i as u64,
        },
        logprobs: Some(2),
    };
    (0..18).map(request).collect()
}

/// Everything drawn for each request, in its order, and how many rows that took.
fn drawn<B: Backend>(backend: &B, built: &Built<B>, requests: &[Request], limits: Limits) -> (Vec<Vec<Drawn>>, usize) {
    let params = Params { table: &built.table, values: &built.values, halves: None, lent: &[], away: None };
    let ctx = Context { backend, params, adapters: true, dropout: None };
    let mut engine = Engine::new(&ctx, &built.decoder, limits, &[]);
    let mut all = vec![Vec::new(); requests.len()];
    for (i, request) in requests.iter().enumerate() {
        engine.submit(i, request.clone()).unwrap();
    }
    while !engine.is_idle() {
        engine.step().unwrap().into_iter().for_each(|drawn| all[drawn.request].push(drawn));
    }
    (all, engine.computed_rows())
}

fn alone<B: Backend>(backend: &B, built: &Built<B>, requests: &[Request]) -> Vec<Vec<Drawn>> {
    let one = |(i, r): (usize, &Request)| {
        let mut own = drawn(backend, built, std::slice::from_ref(r), ROOMY).0.remove(0);
        own.iter_mut().for_each(|drawn| drawn.request = i);
        own
    };
    requests.iter().enumerate().map(one).collect()
}

/// All architectures there are, with their sliding windows, sinks, caps, latents and experts.
const ALL: [&str; 16] = [
    "deepseek_v3",
    "ds_half_split",
    "ds_yarn_mscale",
    "gemma2",
    "gemma3_untied",
    "gpt_oss",
    "llama",
    "llama31",
    "mistral",
    "mixtral_fused",
    "oss_mxfp4",
    "phi3_long_partial",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe_norm_tied",
];

#[test]
fn greedy_batches_of_every_architecture_equal_transformers() {
    let cpu = Cpu::<f32>::new(1).rows_apart();
    for arch in ALL {
        let (built, references) = (load(&cpu, arch), references(arch));
        let requests: Vec<Request> = references.iter().map(|(prompt, want)| greedy(prompt, want.len())).collect();
        let outputs = generate(&cpu, &built, &requests, &[], ROOMY).unwrap();
        for (output, (_, want)) in outputs.iter().zip(&references) {
            assert_eq!((&output.tokens, output.finish_reason), (want, FinishReason::Length), "{arch}");
        }
    }
}

#[test]
fn a_batch_draws_what_each_request_alone_does_to_the_last_bit() {
    let cpu = Cpu::<f32>::new(1).rows_apart();
    for arch in ["qwen2", "mistral", "deepseek_v3", "gpt_oss", "gemma2", "qwen3_moe_norm_tied"] {
        let (built, requests) = (load(&cpu, arch), mixed(arch));
        // Log-probabilities too: equal numbers, not only equal tokens.
        assert!(drawn(&cpu, &built, &requests, ROOMY).0 == alone(&cpu, &built, &requests), "{arch}");
    }
}

#[test]
fn neither_the_cache_nor_the_step_size_changes_a_bit() {
    let cpu = Cpu::<f32>::new(1).rows_apart();
    for arch in ["qwen2", "mistral", "deepseek_v3"] {
        let (built, requests) = (load(&cpu, arch), mixed(arch));
        let want = alone(&cpu, &built, &requests);
        let longest = requests.iter().map(|r| r.prompt.len() + r.max_new_tokens).max().unwrap();
        for (cache_rows, step_rows) in [(longest, 512), (longest, 1), (3 * longest, 7), (1 << 14, 5), (1 << 14, 64)] {
            let limits = Limits { positions: POSITIONS, cache_rows, step_rows };
            let got = drawn(&cpu, &built, &requests, limits).0;
            assert!(got == want, "{arch}: {cache_rows} cache rows, {step_rows} rows per step");
        }
    }
}

#[test]
fn a_prompt_that_many_ask_is_computed_once() {
    let cpu = Cpu::<f32>::new(1).rows_apart();
    let built = load(&cpu, "qwen2");
    let prompt: Vec<u32> = (0..100).map(|i| i * 3 % 380).collect();
    let request = |i: usize| {
        let mut prompt = prompt.clone();
        // Some part in the last tokens.
        prompt[99] = if i.is_multiple_of(2) { 1 } else { 2 };
        let sampling = Sampling { temperature: 1.0, seed: i as u64, ..Sampling::GREEDY };
        Request { logprobs: Some(0), ..Request::new(prompt, 8, sampling) }
    };
    let requests: Vec<Request> = (0..10).map(request).collect();
    let (got, rows) = drawn(&cpu, &built, &requests, ROOMY);
    // The first computes its prompt, the others their last token; the last token drawn is never computed.
    assert_eq!(rows, 100 + 9 + 10 * 7);
    assert!(got == alone(&cpu, &built, &requests));
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
    let sampled = |seed| Request::new(prompt.clone(), 20, Sampling { temperature: 1.0, seed, ..Sampling::GREEDY });
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
    let folder = infer::ModelFolder::open(&golden("models/qwen2"), None).unwrap();
    let model = folder.load(1 << 20, 2).unwrap();
    assert_eq!(model.positions, 1024);
    let outputs = model.generate(&[greedy(&prompt, want.len())], (&[], None), (512, 64), &mut |_, _| {}).unwrap();
    assert_eq!(outputs[0].tokens, want);
}

#[test]
fn a_stop_text_ends_an_answer_across_the_borders_of_tokens() {
    let cpu = Cpu::<f32>::new(1).rows_apart();
    let (built, references) = (load(&cpu, "qwen2"), references("qwen2"));
    let tokenizer = Tokenizer::load(&golden("models/qwen2"), Clock::at(0)).unwrap();
    let requests: Vec<Request> = references.iter().map(|(prompt, want)| greedy(prompt, want.len())).collect();
    let mut stopped = 0;
    for (_, want) in &references {
        let whole = tokenizer.decode(want, true).unwrap();
        // From the middle of a token into the next one.
        let borders: Vec<usize> = (0..want.len()).map(|n| tokenizer.decode(&want[..n], true).unwrap().len()).collect();
        let Some(&border) =
            borders.iter().find(|&&b| b > 2 && whole.is_char_boundary(b - 1) && whole.is_char_boundary(b + 1))
        else {
            continue;
        };
        let texts = [whole[border - 1..=border].to_owned()];
        let stops = StopTexts { tokenizer: &tokenizer, texts: &texts };
        let params = Params { table: &built.table, values: &built.values, halves: None, lent: &[], away: None };
        let ctx = Context { backend: &cpu, params, adapters: true, dropout: None };
        let generator = Generator::new(&ctx, &built.decoder, ROOMY);
        let outputs = generator.generate_until(&requests, &[], Some(stops), &mut |_, _| {}).unwrap();
        for (output, (_, want)) in outputs.iter().zip(&references) {
            let (text, full) = (tokenizer.decode(&output.tokens, true).unwrap(), tokenizer.decode(want, true).unwrap());
            let found = infer::cut(&full, &texts).1;
            assert_eq!(infer::cut(&text, &texts), infer::cut(&full, &texts));
            assert_eq!(output.finish_reason, if found { FinishReason::Stop } else { FinishReason::Length });
            assert!(!found || output.tokens.len() <= want.len());
            stopped += usize::from(found);
        }
    }
    assert!(stopped > 0);
}

#[test]
fn an_adapter_answers_as_the_merged_model() {
    let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/weights");
    let sampled = |seed| Request::new(vec![5, 6, 7], 40, Sampling { temperature: 1.0, seed, ..Sampling::GREEDY });
    let requests: Vec<Request> = (0..10).map(sampled).collect();
    let answers = |weights: &str, adapter: Option<&str>| {
        let checkpoint = weights::Checkpoint::open(&fixtures.join(weights)).unwrap();
        let blueprint = model::arch::blueprint(&weights::read_config(&fixtures.join("base")).unwrap()).unwrap();
        let adapter = adapter.map(|name| weights::Adapter::load(&fixtures.join(name)).unwrap());
        let model = infer::Model::new(&checkpoint, blueprint, adapter.as_ref(), 128, 2).unwrap();
        model.generate(&requests, (&[], None), (500, 64), &mut |_, _| {}).unwrap()
    };
    let adapted = answers("base", Some("adapter"));
    assert_eq!(adapted, answers("merged", None));
    assert_ne!(adapted, answers("base", None));
}

/// The GPU that `PROSPECT_GPU` names, else one played by the CPU; none where that cannot be.
#[cfg(feature = "cuda-tests")]
fn gpu() -> Option<kernels::cuda::Options> {
    use kernels::cuda::{Emulated, Options, Order, Played};
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let number = variable("PROSPECT_GPU").map(|n| n.to_str().unwrap().parse().unwrap());
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    if number.is_none() && Emulated::found(&folder, Order::Ascending).is_none() {
        println!("GPU: skipped, there is no c++ (apt-get install g++)");
        return None;
    }
    let folders = variable("PROSPECT_CUDA_LIBRARIES").map_or(Vec::new(), |all| std::env::split_paths(&all).collect());
    let played = number.is_none().then_some(Played { folder, memory: 1 << 26 });
    Some(Options { number: number.unwrap_or(0), folders, played, ..Options::default() })
}

#[test]
#[cfg(feature = "cuda-tests")]
fn gpu_answers_are_the_processors_and_too_little_memory_is_an_error() {
    use infer::{Device, Placed};
    let Some(options) = gpu() else { return };
    let folder = infer::ModelFolder::open(&golden("models/qwen2"), None).unwrap();
    let request = |tokens: &[u32]| Request::new(tokens.to_vec(), 6, Sampling::GREEDY);
    let requests = [request(&[5, 6, 7]), request(&[5, 6, 7, 8, 9, 10, 11]), request(&[40])];
    let answers = |placed: &Placed| placed.generate(&requests, (&[], None), (256, 5), &mut |_, _| {});
    let cpu = answers(&folder.place(64, &Device::Cpu(1)).unwrap()).unwrap();
    let gpu = folder.place(64, &Device::Gpu(options.clone())).unwrap();
    let Placed::Single(model) = &gpu else { panic!("the weights are float32") };
    assert_eq!(answers(&gpu).unwrap(), cpu);
    // Steps of a token a sequence are alike.
    let counts = model.context(true).backend.take_counts();
    println!("{counts:?}");
    assert!(counts.graphs > 0, "{counts:?}");
    if let Some(played) = &options.played {
        let small = kernels::cuda::Played { memory: 1 << 19, ..played.clone() };
        let gpu = folder.place(64, &Device::Gpu(kernels::cuda::Options { played: Some(small), ..options.clone() }));
        let failed = gpu.and_then(|gpu| answers(&gpu).map(drop)).expect_err("there is not enough");
        assert_eq!(failed.exit_code(), 4, "{failed}");
    }
}
