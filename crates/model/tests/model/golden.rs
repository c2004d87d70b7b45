//! Logits, log-probabilities, gradients and greedy tokens of transformers 5.23 (float32, eager attention).

use crate::{architectures, context, golden_dir, load, trainable, whole};
use kernels::{Backend, Cpu, PAGE, PagedSpan};
use model::{Keep, Parts, Tuning};
use nn::{Context, Grads, Part, Step};
use serde_json::Value;
use weights::SafeTensors;

fn sequences(arch: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(golden_dir().join("forward").join(arch).join("sequences.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn ids(v: &Value) -> Vec<u32> {
    v.as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect()
}

fn largest_gap(got: &[f32], want: &[f32]) -> f32 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
}

#[test]
fn logits_and_log_probabilities_equal_transformers() {
    logits_equal(&Cpu::<f32>::new(2));
}

pub(crate) fn logits_equal<B: Backend<Act = f32, Real = f32>>(cpu: &B) {
    for arch in architectures() {
        let built = load(cpu, &arch, Tuning::Frozen);
        let ctx = context(cpu, &built);
        let expected =
            SafeTensors::open(&golden_dir().join("forward").join(&arch).join("expected.safetensors")).unwrap();
        for (i, sequence) in sequences(&arch).iter().enumerate() {
            let pack = whole(&ids(&sequence["input_ids"]));
            let forward = built.decoder.forward(&ctx, &pack, &Parts::new(cpu, &pack), Keep::Nothing);
            let logits = built.decoder.logits(&ctx, &forward);
            let want = expected.get(&format!("logits.{i}")).unwrap().to_f32().unwrap();
            // The last row predicts past the end; we do not compute it.
            let gap = largest_gap(&logits, &want[..logits.len()]);
            assert!(gap < 1e-4, "{arch} sequence {i}: logits differ by {gap}");
            let scores = built.decoder.score(&ctx, &pack, &forward, false, None);
            let gap = largest_gap(&scores.logp, &expected.get(&format!("logps.{i}")).unwrap().to_f32().unwrap());
            assert!(gap < 1e-4, "{arch} sequence {i}: log-probabilities differ by {gap}");
        }
    }
}

#[test]
fn gradients_of_the_mean_nll_equal_transformers() {
    gradients_equal(&Cpu::<f32>::new(2));
}

pub(crate) fn gradients_equal<B: Backend<Act = f32, Real = f32>>(cpu: &B) {
    for arch in architectures().into_iter().filter(trainable) {
        let built = load(cpu, &arch, Tuning::Full);
        let ctx = context(cpu, &built);
        let pack = whole(&ids(&sequences(&arch)[0]["input_ids"]));
        let parts = Parts::new(cpu, &pack);
        let forward = built.decoder.forward(&ctx, &pack, &parts, Keep::All);
        let scores = built.decoder.score(&ctx, &pack, &forward, false, Some(0));
        let n = pack.targets.len();
        let mut values = cpu.zeros(1, built.table.len());
        let mut grads = Grads { table: &built.table, values: &mut values, away: None };
        built.decoder.backward(&ctx, &mut grads, &pack, &parts, forward, scores, &vec![-1.0 / n as f32; n]);
        let expected =
            SafeTensors::open(&golden_dir().join("forward").join(&arch).join("nll_gradients.safetensors")).unwrap();
        let elements: usize = expected.infos().map(|i| i.element_count()).sum();
        assert_eq!(elements, built.table.len(), "{arch}: trained weights");
        let all = cpu.to_host::<f32>(values.view());
        let of = |name: &str| {
            let p = built.table.params().iter().find(|p| p.name == name)?;
            Some(all[p.range()].to_vec())
        };
        let experts = built.decoder.blueprint.experts.as_ref().map_or(0, |e| e.route.experts);
        for info in expected.infos() {
            let name = &info.name;
            let want = expected.get(name).unwrap().to_f32().unwrap();
            let got = testkit::stacked(name, experts, of).unwrap_or_else(|| panic!("{arch}: no gradient of {name}"));
            let largest = want.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let gap = largest_gap(&got, &want);
            // k_proj.bias: adding one vector to every key leaves the softmax as it is but for rotation, so its gradient
            // is a sum of near-cancelling terms.
            let tolerance = if name.ends_with("k_proj.bias") { 1e-3 * largest + 1e-7 } else { 1e-3 * largest };
            assert!(gap <= tolerance, "{arch} {name}: differs by {gap} of {largest}");
        }
    }
}

#[test]
fn greedy_tokens_through_the_cache_equal_transformers() {
    tokens_equal(&Cpu::<f32>::new(2));
}

pub(crate) fn tokens_equal<B: Backend<Act = f32, Real = f32>>(cpu: &B) {
    for arch in architectures() {
        let built = load(cpu, &arch, Tuning::Frozen);
        let ctx = context(cpu, &built);
        for sequence in sequences(&arch) {
            let (prompt, want) = (ids(&sequence["prompt_ids"]), ids(&sequence["greedy_24"]));
            let got = greedy(cpu, &ctx, &built.decoder, &prompt, want.len());
            assert_eq!(got, want, "{arch}");
        }
    }
}

fn greedy<B: Backend<Act = f32, Real = f32>>(
    cpu: &B,
    ctx: &Context<B>,
    decoder: &model::Decoder<B>,
    prompt: &[u32],
    n: usize,
) -> Vec<u32> {
    let pages: Vec<u32> = (0..(prompt.len() + n).div_ceil(PAGE) as u32).collect();
    let mut cache = decoder.cache(cpu, pages.len() * PAGE);
    let (mut new, mut seen, mut out) = (prompt.to_vec(), 0usize, Vec::new());
    while out.len() < n {
        let rows = pack::Rows {
            positions: (seen as u32..(seen + new.len()) as u32).collect(),
            segments: vec![pack::Segment { rows: 0..new.len(), context: 0..0 }],
            tokens: new.clone(),
        };
        let spans = vec![PagedSpan { rows: 0..new.len(), position: seen, pages: pages.clone() }];
        let step = Step { part: Part::new(cpu, &rows), spans, slots: rows.positions.clone() };
        let hidden = decoder.step(ctx, &step, &mut cache, &[new.len() as u32 - 1]);
        let logits = decoder.head_logits(ctx, &hidden);
        let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b])).unwrap() as u32;
        seen += new.len();
        new = vec![best];
        out.push(best);
    }
    out
}
