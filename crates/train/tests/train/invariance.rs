//! What must not change a result: packing, prompt sharing, recomputation, the schedule of a step, the cut into micro-batches,
//! the number of threads, merging.

use crate::lab::{Lab, PLAIN, Stepped};
use crate::{Bits, Scratch, finish, lora, model, over, small};
use kernels::{Backend, Cpu, Real};
use model::{Built, Keep, LoraInit, Parts, Tuning, initialise_lora};
use nn::{Context, Dropout, Params};
use objective::metrics::Metric;
use pack::{Answer, Family, plan_packs};
use serde_json::{Value, json};
use testkit::Dtype;
use train::step::{Execution, TextRow};
use weights::Checkpoint;

type C = Cpu<f32>;

/// Full and adapter, on every kind of architecture there is: windows, biases, head norms, tied and untied.
fn cases(trainer: &str) -> Vec<(String, Value)> {
    let scratch = std::env::temp_dir();
    let mut cases = Vec::new();
    for name in ["llama31", "mistral", "qwen2", "qwen3"] {
        for (tuning, keys) in [("full", json!({})), ("lora", lora())] {
            let config = over(&small(trainer, &scratch, keys), json!({"model_name_or_path": model(name)}));
            cases.push((format!("{trainer} {tuning} {name}"), config));
        }
    }
    cases
}

/// A step of a KTO job.
fn step<R: Real>(lab: &Lab<Cpu<R>>, execution: Execution) -> Stepped
where
    Cpu<R>: Backend<Real = R>,
{
    lab.preference_step(execution, 0..8)
}

/// A KTO job away from its reference.
fn kto_lab<R: Real>(config: &Value) -> Lab<Cpu<R>>
where
    Cpu<R>: Backend<Real = R>,
{
    let lab = Lab::new(Cpu::new(2), config, 0.02);
    let plain = step(&lab, PLAIN);
    assert!(plain.metric(Metric::KlRaw).abs() > 1e-3, "policy and reference are still one model");
    lab
}

/// Tolerance of values and of gradients. The latter are sums over about a thousand rows in another order.
fn near<R: testkit::Float>() -> (f64, f64) {
    if R::DTYPE == Dtype::F64 { (1e-12, 1e-12) } else { (1e-6, testkit::tolerance(Dtype::F32, 1000)) }
}

fn assert_packing_changes_nothing<R: Real + testkit::Float>()
where
    Cpu<R>: Backend<Real = R>,
{
    for (name, config) in cases("kto") {
        let lab = kto_lab::<R>(&config);
        let all = step(&lab, PLAIN);
        for budget_rows in [1, 100] {
            let cut = step(&lab, Execution { budget_rows, ..PLAIN });
            cut.assert_near(&all, near::<R>(), &format!("{name}, packs of {budget_rows}"));
        }
    }
    for (name, config) in cases("sft") {
        let lab = Lab::new(Cpu::<R>::new(2), &config, 0.02);
        let texts = lab.texts(8);
        let all = lab.text_step(PLAIN, &texts);
        for budget_rows in [1, 100] {
            let cut = lab.text_step(Execution { budget_rows, ..PLAIN }, &texts);
            cut.assert_near(&all, near::<R>(), &format!("{name}, packs of {budget_rows}"));
        }
    }
}

#[test]
fn packed_equals_one_sequence_at_a_time() {
    assert_packing_changes_nothing::<f32>();
    assert_packing_changes_nothing::<f64>();
}

fn assert_sharing_changes_nothing<R: Real + testkit::Float>()
where
    Cpu<R>: Backend<Real = R>,
{
    let apart = Execution { share_prompts: false, ..PLAIN };
    for (name, config) in cases("kto") {
        let lab = kto_lab::<R>(&config);
        step(&lab, apart).assert_near(&step(&lab, PLAIN), near::<R>(), &name);
    }
    for (name, config) in cases("sft") {
        let lab = Lab::new(Cpu::<R>::new(2), &config, 0.02);
        // Every prompt twice: with its own answer and with another's.
        let texts = lab.texts(6);
        assert!(texts.iter().all(|t| !t.prompt.is_empty()), "{name}: these rows have prompts");
        let others = texts.iter().zip(texts.iter().rev());
        let swapped = others.map(|(t, o)| TextRow { prompt: t.prompt.clone(), ..o.clone() });
        let both: Vec<TextRow> = texts.iter().cloned().chain(swapped).collect();
        lab.text_step(apart, &both).assert_near(&lab.text_step(PLAIN, &both), near::<R>(), &name);
    }
}

#[test]
fn a_shared_prompt_equals_a_repeated_one() {
    assert_sharing_changes_nothing::<f32>();
    assert_sharing_changes_nothing::<f64>();
}

#[test]
fn every_schedule_of_a_step_gives_the_same_bits() {
    for (name, config) in cases("kto") {
        let mut lab = kto_lab::<f32>(&config);
        let adapted = lab.job.adapter.is_some();
        for dropout in [None].into_iter().chain(adapted.then_some(Some(Dropout { p: 0.1, key: 7 }))) {
            lab.dropout = dropout;
            for budget_rows in [1 << 20, 150] {
                let plain = step(&lab, Execution { budget_rows, ..PLAIN });
                for (keep, z0_first, kept_logits) in [
                    (Keep::Inputs, false, 0),
                    (Keep::All, true, 1 << 20),
                    (Keep::Mixed { whole: 1, lean: 1 }, true, 0),
                    (Keep::All, false, 20_000),
                ] {
                    let execution = Execution { budget_rows, keep, z0_first, kept_logits, ..PLAIN };
                    step(&lab, execution).assert_same(&plain, &format!("{name}, {execution:?}"));
                }
            }
        }
    }
    for (name, config) in cases("sft") {
        let lab = Lab::new(C::new(2), &config, 0.02);
        let texts = lab.texts(8);
        for (keep, kept_logits) in [(Keep::Inputs, 0), (Keep::All, 20_000), (Keep::All, 1 << 20)] {
            let again = lab.text_step(Execution { keep, kept_logits, ..PLAIN }, &texts);
            again.assert_same(&lab.text_step(PLAIN, &texts), &format!("{name}, {kept_logits} logits kept"));
        }
    }
}

/// Runs `config` in each of the `ways`, which must leave the same bits.
fn assert_same_runs(name: &str, config: &Value, ways: &[Value]) {
    let scratch = Scratch::new("same");
    let bits = |i: usize, way: &Value| {
        let output = scratch.join(&i.to_string());
        let ended = finish(&over(&over(config, way.clone()), json!({"output_dir": output})));
        Bits::of(&output, ended.step)
    };
    let first = bits(0, &ways[0]);
    for (i, way) in ways.iter().enumerate().skip(1) {
        bits(i, way).assert_same(&first, &format!("{name} with {way}"));
    }
}

/// Short runs of both trainers, full and with an adapter whose dropout acts.
fn short_runs() -> Vec<(&'static str, Value)> {
    let adapter = over(&lora(), json!({"lora_dropout": 0.1, "disable_dropout": false}));
    let output = std::env::temp_dir();
    let short = json!({"max_steps": 3});
    vec![
        ("full KTO", over(&small("kto", &output, json!({})), short.clone())),
        ("LoRA KTO", over(&small("kto", &output, adapter), short.clone())),
        ("full SFT", over(&small("sft", &output, json!({})), short.clone())),
        ("LoRA SFT", over(&small("sft", &output, over(&lora(), json!({"lora_dropout": 0.1}))), short)),
    ]
}

#[test]
fn the_cut_into_micro_batches_changes_no_bit() {
    let cut = |rows, windows| json!({"per_device_train_batch_size": rows, "gradient_accumulation_steps": windows});
    for (name, config) in short_runs() {
        assert_same_runs(name, &config, &[cut(1, 8), cut(2, 4), cut(8, 1)]);
    }
}

#[test]
fn the_number_of_threads_changes_no_bit() {
    for (name, config) in short_runs() {
        assert_same_runs(name, &config, &[1, 2, 3].map(|n| json!({"threads": n})));
    }
}

/// Logits of a fixed sequence: base alone, base with adapter, merged.
fn three_ways<R: Real>(base: &Checkpoint, adapter: &weights::Adapter, merged: &Checkpoint) -> [Vec<f64>; 3]
where
    Cpu<R>: Backend<Real = R>,
{
    let cpu = Cpu::<R>::new(1);
    let blueprint = model::arch::blueprint(&weights::read_config(merged.dir()).unwrap()).unwrap();
    let spec = model::Adapters::of(adapter);
    let mut adapted = Built::new(&cpu, base, blueprint.clone(), Tuning::Lora(&spec), 64).unwrap();
    initialise_lora(&cpu, &adapted.table, &mut adapted.values, &LoraInit::From(adapter)).unwrap();
    let merged = Built::new(&cpu, merged, blueprint, Tuning::Frozen, 64).unwrap();
    [logits(&cpu, &adapted, false), logits(&cpu, &adapted, true), logits(&cpu, &merged, true)]
}

/// Logits of every position of a fixed sequence.
fn logits<R: Real>(cpu: &Cpu<R>, built: &Built<Cpu<R>>, adapters: bool) -> Vec<f64>
where
    Cpu<R>: Backend<Real = R>,
{
    let tokens: Vec<u32> = (0..40).map(|i| (i * 37 + 11) % 380).collect();
    let answer = Answer { tokens: &tokens, scored: None, sequence: 0, grad: true };
    let pack = plan_packs(&[Family { prompt: &[], answers: vec![answer] }], 1 << 20).remove(0);
    let params = Params { table: &built.table, values: &built.values, halves: None, lent: &[], away: None };
    let ctx = Context { backend: cpu, params, adapters, dropout: None };
    let forward = built.decoder.forward(&ctx, &pack, &Parts::new(cpu, &pack), Keep::Nothing);
    built.decoder.logits(&ctx, &forward).iter().map(|x| x.f64()).collect()
}

#[test]
fn merged_adapters_equal_adapters_that_are_on() {
    for name in ["llama", "llama31", "mistral", "qwen2", "qwen3"] {
        let scratch = Scratch::new("merge");
        let keys = over(&lora(), json!({"model_name_or_path": model(name), "max_steps": 4}));
        finish(&small("kto", &scratch.join("run"), keys));
        let adapter = weights::Adapter::load(&scratch.join("run/final")).unwrap();
        let (base, out) = (Checkpoint::open(&model(name)).unwrap(), scratch.join("merged"));
        weights::merge(&base, &adapter, &out, &weights::MergeOptions::default()).unwrap();
        let merged = Checkpoint::open(&out).unwrap();
        // In double precision what is left is the one rounding of the merged weights.
        for (what, [off, on, merged], allowed) in [
            ("f64", three_ways::<f64>(&base, &adapter, &merged), 1e-6),
            ("f32", three_ways::<f32>(&base, &adapter, &merged), testkit::tolerance(Dtype::F32, 1000)),
        ] {
            let (effect, gap) = (testkit::largest_gap(&off, &on), testkit::largest_gap(&merged, &on));
            assert!(effect > 1e-3, "{name}: the adapter does nothing: {effect:e}");
            assert!(gap < allowed, "{name}: logits in {what} differ by {gap:e} of the largest");
        }
    }
}
