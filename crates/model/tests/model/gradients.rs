//! Whole decoders in f64: every trained tensor's gradient against finite differences, with a shared prompt and a tail.

use crate::{adapters, architectures, context_at, load, load_held, trainable};
use kernels::tampered::{Fault, Tampered};
use kernels::{Backend, Cpu, Memory};
use model::{Built, Keep, LoraInit, Parts, Storage, Tuning, initialise_lora};
use nn::Grads;
use pack::{Answer, Family, Pack, plan_packs};
use std::collections::BTreeMap;
use testkit::{gradient_gap, noise};
use weights::{Code, Scheme};

/// Slopes agree with right gradients to about 1e-9, and with ones wrong by a hundredth to about 1e-3.
const RIGHT: f64 = 1e-7;

/// A backend in double precision.
trait Double: Backend + Memory<Act = f64, Real = f64> {}
impl<B: Backend + Memory<Act = f64, Real = f64>> Double for B {}

/// Two families: one prompt with two graded answers and an ungraded one, one plain text.
fn small_pack(vocab: usize) -> Pack {
    let within = |token: u32| token % vocab as u32;
    let (x, y1, y2) = ([3, 17, 200, 5, 9].map(within), [11, 40, 7].map(within), [390, 2].map(within));
    let kl = [8, 8, 1, 30].map(within);
    let answer = |tokens, sequence, grad| Answer { tokens, scored: None, sequence, grad };
    let shared =
        Family { prompt: &x, answers: vec![answer(&y1, 0, true), answer(&y2, 1, true), answer(&kl, 2, false)] };
    let text = [4, 250, 31, 6].map(within);
    plan_packs(&[shared, Family { prompt: &[], answers: vec![answer(&text, 3, true)] }], 64).remove(0)
}

/// The pack's loss `sum c_s logp_s` over graded targets, and its gradient.
fn loss_and_grad<B: Double>(
    backend: &B,
    built: &Built<B>,
    values: &kernels::Mat<B, f64>,
    pack: &Pack,
    c: &[f64],
    keep: Keep,
) -> (f64, Vec<f64>) {
    let ctx = context_at(backend, built, values);
    let parts = Parts::new(backend, pack);
    let forward = built.decoder.forward(&ctx, pack, &parts, keep);
    let scores = built.decoder.score(&ctx, pack, &forward, false, (keep != Keep::Nothing).then_some(0));
    let loss = scores.logp.iter().zip(c).map(|(l, c)| l * c).sum();
    if keep == Keep::Nothing {
        return (loss, Vec::new());
    }
    let mut grads = backend.zeros(1, built.table.len());
    built.decoder.backward(
        &ctx,
        &mut Grads { table: &built.table, values: &mut grads, away: None },
        pack,
        &parts,
        forward,
        scores,
        c,
    );
    (loss, backend.to_host(grads.view()))
}

/// How much of a step differences take. A router that changes its mind within a step would be seen as a slope.
fn stride<B: Double>(built: &Built<B>) -> f64 {
    if built.decoder.blueprint.experts.is_some() { 0.01 } else { 1.0 }
}

/// A tensor's name without numbers: those of one kind in all layers and experts.
fn kind(name: &str) -> String {
    name.split('.').filter(|part| part.parse::<u32>().is_err()).collect::<Vec<_>>().join(".")
}

/// The largest gap between gradient and slope over the kinds of trained tensors, and that kind. Tensors of a kind move at once,
/// each its own way.
fn gap<B: Double>(backend: &B, built: &Built<B>) -> (f64, String) {
    let pack = small_pack(built.decoder.blueprint.vocab);
    let c = noise(pack.num_grad_targets, 5);
    let (_, grad) = loss_and_grad(backend, built, &built.values, &pack, &c, Keep::All);
    let start = backend.to_host::<f64>(built.values.view());
    let (mut moved, stride) = (start.clone(), stride(built));
    let mut kinds: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for p in built.table.params() {
        kinds.entry(kind(&p.name)).or_default().extend(p.range());
    }
    let of_one = |(kind, places): (String, Vec<usize>)| {
        let loss = |part: &[f64]| {
            for (&i, x) in places.iter().zip(part) {
                moved[i] = start[i] + stride * (x - start[i]);
            }
            let values = backend.from_host(1, moved.len(), &moved);
            loss_and_grad(backend, built, &values, &pack, &c, Keep::Nothing).0
        };
        let here: Vec<f64> = places.iter().map(|&i| start[i]).collect();
        let scaled: Vec<f64> = places.iter().map(|&i| stride * grad[i]).collect();
        let gap = gradient_gap(loss, &here, &scaled) / stride;
        places.iter().for_each(|&i| moved[i] = start[i]);
        (gap, kind)
    };
    let gaps = || kinds.into_iter().map(of_one).max_by(|a, b| a.0.total_cmp(&b.0));
    backend.within(gaps).expect("something is trained")
}

/// The same over all trained tensors at once: quick, and enough for a planted error.
fn gap_at_once<B: Double>(backend: &B, built: &Built<B>) -> f64 {
    let pack = small_pack(built.decoder.blueprint.vocab);
    let c = noise(pack.num_grad_targets, 5);
    let (_, grad) = loss_and_grad(backend, built, &built.values, &pack, &c, Keep::All);
    let (start, stride) = (backend.to_host::<f64>(built.values.view()), stride(built));
    let loss = |at: &[f64]| {
        let at: Vec<f64> = start.iter().zip(at).map(|(s, x)| s + stride * (x - s)).collect();
        loss_and_grad(backend, built, &backend.from_host(1, at.len(), &at), &pack, &c, Keep::Nothing).0
    };
    let grad: Vec<f64> = grad.iter().map(|g| stride * g).collect();
    backend.within(|| gradient_gap(loss, &start, &grad)) / stride
}

/// A decoder with adapters whose `B` is not zero: that would hide the gradient of `A`.
fn adapted<B: Double>(backend: &B, arch: &str) -> Built<B> {
    adapted_on(&Storage::default(), backend, arch)
}

/// As [`adapted`], on a base that is held in some way.
fn adapted_on<B: Double>(storage: &Storage, backend: &B, arch: &str) -> Built<B> {
    let spec = adapters(&load(backend, arch, Tuning::Frozen).decoder.blueprint, 3);
    let mut built = load_held(storage, backend, arch, Tuning::Lora(&spec));
    initialise_lora(backend, &built.table, &mut built.values, &LoraInit::Fresh { seed: 1, start: model::Start::Usual })
        .unwrap();
    let values = backend.to_host::<f64>(built.values.view());
    let noisy: Vec<f64> = values.iter().zip(noise(built.table.len(), 9)).map(|(v, n)| v + 0.05 * n).collect();
    backend.upload(&noisy, built.values.out());
    built
}

#[test]
fn full_gradients_equal_finite_differences() {
    let cpu = Cpu::<f64>::new(1);
    for arch in architectures().into_iter().filter(trainable) {
        let (gap, name) = gap(&cpu, &load(&cpu, &arch, Tuning::Full));
        assert!(gap < RIGHT, "{arch} {name}: gradient and slope differ by {gap:.1e}");
    }
}

#[test]
fn adapter_gradients_equal_finite_differences() {
    let cpu = Cpu::<f64>::new(1);
    for arch in architectures() {
        let (gap, name) = gap(&cpu, &adapted(&cpu, &arch));
        assert!(gap < RIGHT, "{arch} {name}: gradient and slope differ by {gap:.1e}");
    }
}

#[test]
fn gradients_through_a_quantised_base_equal_finite_differences() {
    let cpu = Cpu::<f64>::new(1);
    let held = [(Code::Nf4, true), (Code::Fp4, false), (Code::Int8, false)];
    for (arch, (code, nested)) in ["qwen2", "deepseek_v3", "qwen2_moe"].into_iter().zip(held) {
        let storage = Storage { scheme: Some(Scheme { code, nested }), ..Storage::default() };
        let (own, quantised) = (adapted(&cpu, arch), adapted_on(&storage, &cpu, arch));
        let pack = small_pack(own.decoder.blueprint.vocab);
        let c = noise(pack.num_grad_targets, 5);
        let of = |built| loss_and_grad(&cpu, built, &built.values, &pack, &c, Keep::Nothing).0;
        assert_ne!(of(&own), of(&quantised), "{arch}: the base is not quantised");
        let (gap, name) = gap(&cpu, &quantised);
        assert!(gap < RIGHT, "{arch} {name} on {code:?}: gradient and slope differ by {gap:.1e}");
    }
}

#[test]
fn an_error_planted_in_any_backward_operator_is_noticed() {
    let cpu = Cpu::<f64>::new(2);
    let tampered = |fault| Tampered::new(cpu.clone(), fault, 1.01);
    // Dropout is off here; a trained head has no unit gradient, and a frozen one nothing else.
    let frozen_only = [Fault::HeadUnit];
    let trained_only = [Fault::HeadDh, Fault::HeadDw, Fault::EmbedBack, Fault::RmsNormDw, Fault::BiasBack];
    for fault in Fault::DENSE.into_iter().filter(|fault| *fault != Fault::DropoutAdd) {
        let backend = tampered(fault);
        if !frozen_only.contains(&fault) {
            let gap = gap_at_once(&backend, &load(&backend, "qwen2", Tuning::Full));
            assert!(gap > 100.0 * RIGHT, "full: {fault:?} goes through, gap {gap:.1e}");
        }
        if !trained_only.contains(&fault) {
            let gap = gap_at_once(&backend, &adapted(&backend, "qwen2"));
            assert!(gap > 100.0 * RIGHT, "adapters: {fault:?} goes through, gap {gap:.1e}");
        }
    }
}

#[test]
fn an_error_planted_in_a_special_backward_operator_is_noticed() {
    let cpu = Cpu::<f64>::new(2);
    let tampered = |fault| Tampered::new(cpu.clone(), fault, 1.01);
    let of = |arch: &'static str, faults: &'static [Fault]| faults.iter().map(move |fault| (arch, *fault));
    let experts = [Fault::GroupedDx, Fault::RouteBack, Fault::RowDots].into_iter();
    let full = of("deepseek_v3", &[Fault::LatentDup, Fault::LatentDrotated])
        .chain(of("gpt_oss", &[Fault::GroupedBiasBack, Fault::ClampedBack, Fault::SinkBack]))
        .chain(of("gemma2", &[Fault::GluDgate, Fault::GluDup, Fault::CappedDh, Fault::CappedDw]))
        .chain(experts.map(|fault| ("qwen2_moe", fault)));
    for (arch, fault) in full {
        let backend = tampered(fault);
        let gap = gap_at_once(&backend, &load(&backend, arch, Tuning::Full));
        assert!(gap > 100.0 * RIGHT, "{arch}: {fault:?} goes through, gap {gap:.1e}");
    }
    let backend = tampered(Fault::CappedUnit);
    let gap = gap_at_once(&backend, &adapted(&backend, "gemma2"));
    assert!(gap > 100.0 * RIGHT, "adapters: the capped unit goes through, gap {gap:.1e}");
}

#[test]
fn recomputed_gradients_equal_kept_ones_bit_for_bit() {
    let cpu = Cpu::<f64>::new(2);
    for arch in architectures().into_iter().filter(trainable) {
        let built = load(&cpu, &arch, Tuning::Full);
        let pack = small_pack(built.decoder.blueprint.vocab);
        let c = noise(pack.num_grad_targets, 5);
        let kept = loss_and_grad(&cpu, &built, &built.values, &pack, &c, Keep::All);
        let again = loss_and_grad(&cpu, &built, &built.values, &pack, &c, Keep::Inputs);
        assert!(kept == again, "{arch}");
        for keep in [Keep::Mixed { whole: 0, lean: 9 }, Keep::Mixed { whole: 1, lean: 1 }] {
            let mixed = loss_and_grad(&cpu, &built, &built.values, &pack, &c, keep);
            assert!(kept == mixed, "{arch}, {keep:?}");
        }
        let bare = loss_and_grad(&cpu, &built, &built.values, &pack.base_only(), &c, Keep::All);
        assert!(kept == bare, "{arch}: the tail changed the gradient");
    }
}
