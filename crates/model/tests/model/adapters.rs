//! Adapters that PEFT 0.21 wrote: lengths (DoRA), ranks and alphas by layer, biases, embeddings and heads trained beside them.

use crate::{context, golden_dir, whole};
use kernels::{Cpu, Memory};
use model::{Adapters, Built, Keep, LoraInit, Parts, Tuning, initialise_lora};
use nn::Grads;
use std::path::{Path, PathBuf};
use weights::{Adapter, Checkpoint, DType, MergeOptions, SafeTensors};

const CASES: [&str; 3] = ["dora", "embedding", "head"];
/// On stacked experts, and of which model.
const STACKED: [(&str, &str); 3] =
    [("experts", "qwen3_moe_norm_tied"), ("experts_turned", "gpt_oss"), ("experts_renamed", "mixtral_fused")];

fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden").join(name)
}

fn tokens() -> Vec<u32> {
    tokens_of(391)
}

fn tokens_of(vocab: usize) -> Vec<u32> {
    (0..24).map(|i| (37 * i + 11) % vocab.min(391) as u32).collect()
}

/// Logits of a model folder, with an adapter or without.
fn logits(folder: &Path, adapter: Option<&Adapter>) -> Vec<f32> {
    let cpu = Cpu::<f32>::new(2);
    let blueprint = model::arch::blueprint(&weights::read_config(folder).unwrap()).unwrap();
    let adapters = adapter.map(Adapters::of);
    let tuning = adapters.as_ref().map_or(Tuning::Frozen, Tuning::Lora);
    let tokens = tokens_of(blueprint.vocab);
    let mut built = Built::new(&cpu, &Checkpoint::open(folder).unwrap(), blueprint, tuning, 64).unwrap();
    if let Some(adapter) = adapter {
        initialise_lora(&cpu, &built.table, &mut built.values, &LoraInit::From(adapter)).unwrap();
    }
    let (ctx, pack) = (context(&cpu, &built), whole(&tokens));
    let forward = built.decoder.forward(&ctx, &pack, &Parts::new(&cpu, &pack), Keep::Nothing);
    built.decoder.logits(&ctx, &forward)
}

fn assert_close(name: &str, got: &[f32], want: &[f32]) {
    let gap = got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(gap < 1e-4, "{name}: differs by {gap}");
}

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        Folder(std::env::temp_dir().join(format!("prospect-adapters-{}-{name}", std::process::id())))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn adapters_of_peft_compute_what_they_compute_there() {
    let base = fixture("models/qwen2");
    assert!(golden_dir().exists());
    for case in CASES {
        let folder = fixture("adapters").join(case);
        let adapter = Adapter::load(&folder).unwrap();
        let expected = SafeTensors::open(&folder.join("expected.safetensors")).unwrap();
        let want = expected.get("logits").unwrap().to_f32().unwrap();
        assert_close(case, &logits(&base, Some(&adapter)), &want);
        assert!(logits(&base, None).iter().zip(&want).any(|(a, b)| (a - b).abs() > 0.1), "{case} changes something");
    }
}

#[test]
fn adapters_of_peft_survive_loading_and_saving_and_merge_as_they_do_there() {
    let base = Checkpoint::open(&fixture("models/qwen2")).unwrap();
    for case in CASES {
        let folder = fixture("adapters").join(case);
        let adapter = Adapter::load(&folder).unwrap();
        let (saved, merged) = (Folder::new(&format!("{case}-saved")), Folder::new(&format!("{case}-merged")));
        weights::save_adapter(&saved.0, &adapter.config, &adapter.pairs, &adapter.whole, DType::F32).unwrap();
        let file = weights::ADAPTER_WEIGHTS_FILE;
        assert!(std::fs::read(saved.0.join(file)).unwrap() == std::fs::read(folder.join(file)).unwrap(), "{case}");
        let again = Adapter::load(&saved.0).unwrap();
        assert_eq!((&again.pairs, &again.whole), (&adapter.pairs, &adapter.whole), "{case}");
        weights::merge(&base, &adapter, &merged.0, &MergeOptions::default()).unwrap();
        let expected = SafeTensors::open(&folder.join("expected.safetensors")).unwrap();
        assert_close(case, &logits(&merged.0, None), &expected.get("logits").unwrap().to_f32().unwrap());
    }
}

#[test]
fn adapters_on_stacked_experts_become_ones_on_their_layers() {
    for (case, base) in STACKED {
        let (folder, base) = (fixture("adapters").join(case), fixture("models").join(base));
        let blueprint = model::arch::blueprint(&weights::read_config(&base).unwrap()).unwrap();
        let unknown = Adapter::load(&folder).unwrap_err().to_string();
        assert!(unknown.contains("prospect merge"), "{case}: {unknown}");
        let adapter = Adapter::load_on(&folder, |i| blueprint.experts_for_adapters(i)).unwrap();
        let expected = SafeTensors::open(&folder.join("expected.safetensors")).unwrap();
        let want = expected.get("logits").unwrap().to_f32().unwrap();
        assert_close(case, &logits(&base, Some(&adapter)), &want);
        assert!(logits(&base, None).iter().zip(&want).any(|(a, b)| (a - b).abs() > 0.01), "{case} changes something");
        // What is written has no stacks any more, and says the same.
        let (saved, merged) = (Folder::new(&format!("{case}-saved")), Folder::new(&format!("{case}-merged")));
        weights::save_adapter(&saved.0, &adapter.config, &adapter.pairs, &adapter.whole, DType::F32).unwrap();
        let again = Adapter::load(&saved.0).unwrap();
        assert_eq!(again.pairs, adapter.pairs, "{case}");
        weights::merge(&Checkpoint::open(&base).unwrap(), &adapter, &merged.0, &MergeOptions::default()).unwrap();
        assert_close(case, &logits(&merged.0, None), &want);
    }
}

#[test]
fn stacks_that_do_not_fit_the_model_are_refused() {
    let base = fixture("models/qwen3_moe_norm_tied");
    let blueprint = model::arch::blueprint(&weights::read_config(&base).unwrap()).unwrap();
    let refused = |change: &dyn Fn(&mut weights::Experts)| {
        let experts = |i: usize| {
            let mut experts = blueprint.experts_for_adapters(i);
            change(&mut experts);
            experts
        };
        Adapter::load_on(&fixture("adapters/experts"), experts).unwrap_err().to_string()
    };
    let message = refused(&|experts| experts.truncate(5));
    assert!(message.contains("no ranks of 5 experts"), "{message}");
    let message = refused(&|experts| experts.truncate(3));
    assert!(message.contains("rank 4 by its tensors, 2 by the configuration"), "{message}");
    let message = refused(&|experts| experts.iter_mut().flatten().for_each(|(_, extents)| extents[0] += 1));
    assert!(message.contains("20 inputs and 48 outputs"), "{message}");
}

/// The length of the weight is a constant to backward, in PEFT as here.
#[test]
fn gradients_of_lengths_factors_and_biases_equal_pefts() {
    let (cpu, base, folder) = (Cpu::<f32>::new(2), fixture("models/qwen2"), fixture("adapters/dora"));
    let adapter = Adapter::load(&folder).unwrap();
    let adapters = Adapters::of(&adapter);
    let blueprint = model::arch::blueprint(&weights::read_config(&base).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&base).unwrap();
    let mut built = Built::new(&cpu, &checkpoint, blueprint, Tuning::Lora(&adapters), 64).unwrap();
    initialise_lora(&cpu, &built.table, &mut built.values, &LoraInit::From(&adapter)).unwrap();
    let (ctx, pack) = (context(&cpu, &built), whole(&tokens()));
    let parts = Parts::new(&cpu, &pack);
    let expected = SafeTensors::open(&folder.join("expected.safetensors")).unwrap();
    for keep in [Keep::All, Keep::Inputs] {
        let forward = built.decoder.forward(&ctx, &pack, &parts, keep);
        let scores = built.decoder.score(&ctx, &pack, &forward, false, Some(0));
        let n = pack.targets.len();
        let mut values = cpu.zeros(1, built.table.len());
        let mut grads = Grads { table: &built.table, values: &mut values, away: None };
        built.decoder.backward(&ctx, &mut grads, &pack, &parts, forward, scores, &vec![-1.0 / n as f32; n]);
        let all = cpu.to_host::<f32>(values.view());
        let mut compared = 0;
        for p in built.table.params() {
            let (plain, moved) =
                (format!("grad.base_model.model.{}", p.name), p.name.replace(".bias", ".base_layer.bias"));
            let names = [format!("grad.{}", p.name), plain, format!("grad.base_model.model.{moved}")];
            let tensor = names.iter().find_map(|name| expected.get(name));
            let want = tensor.unwrap_or_else(|| panic!("no gradient of {}", p.name)).to_f32().unwrap();
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let tolerance = if p.name.ends_with("k_proj.bias") { 1e-3 * largest + 1e-6 } else { 1e-3 * largest };
            let gap = all[p.range()].iter().zip(&want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            assert!(gap <= tolerance, "{}: differs by {gap} of {largest}", p.name);
            compared += 1;
        }
        assert_eq!(compared, 33);
    }
}

/// What is trained below and between adapters is trained: the slope of the loss along a random direction is the gradient's.
#[test]
fn an_embedding_and_norms_below_every_adapter_get_their_whole_gradient() {
    let (cpu, base) = (Cpu::<f64>::new(1), fixture("models/qwen2"));
    let blueprint = model::arch::blueprint(&weights::read_config(&base).unwrap()).unwrap();
    let checkpoint = Checkpoint::open(&base).unwrap();
    for saved in ["model.embed_tokens", "model.layers.0.post_attention_layernorm"] {
        let mut adapters = Adapters::uniform(2, 1.0, ["model.layers.2.mlp.up_proj".to_owned()]);
        adapters.saved.insert(saved.to_owned());
        let built = Built::new(&cpu, &checkpoint, blueprint.clone(), Tuning::Lora(&adapters), 64).unwrap();
        let (pack, n) = (whole(&tokens()), built.table.len());
        let parts = Parts::new(&cpu, &pack);
        let start = cpu.to_host::<f64>(built.values.view());
        let direction: Vec<f64> = testkit::noise(n, 3).iter().map(|d| 0.05 * d).collect();
        let at =
            |h: f64| cpu.from_host(1, n, &start.iter().zip(&direction).map(|(v, d)| v + h * d).collect::<Vec<_>>());
        let loss = |h: f64| {
            let values = at(h);
            let ctx = crate::context_at(&cpu, &built, &values);
            let forward = built.decoder.forward(&ctx, &pack, &parts, Keep::Nothing);
            built.decoder.score(&ctx, &pack, &forward, false, None).logp.iter().sum::<f64>()
        };
        let ctx = context(&cpu, &built);
        let forward = built.decoder.forward(&ctx, &pack, &parts, Keep::All);
        let scores = built.decoder.score(&ctx, &pack, &forward, false, Some(0));
        let mut grads = cpu.zeros(1, n);
        let into = &mut Grads { table: &built.table, values: &mut grads, away: None };
        built.decoder.backward(&ctx, into, &pack, &parts, forward, scores, &vec![1.0; pack.targets.len()]);
        let along: f64 = cpu.to_host::<f64>(grads.view()).iter().zip(&direction).map(|(g, d)| g * d).sum();
        let slope = testkit::slope(loss);
        assert!((along - slope).abs() < 1e-6 * slope.abs().max(1e-2), "{saved}: {along} for {slope}");
    }
}
