//! Whole decoders in f64: every trained tensor's gradient against finite differences, with a shared prompt and a tail.

use crate::{DENSE, adapters, context_at, load};
use kernels::{Cpu, Memory};
use model::{Built, Keep, LoraInit, Parts, Tuning, initialise_lora};
use nn::Grads;
use pack::{Answer, Family, Pack, plan_packs};

type C = Cpu<f64>;

fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

/// Two families: one prompt with two graded answers and an ungraded one, one plain text.
fn small_pack() -> Pack {
    let (x, y1, y2, kl) = ([3, 17, 200, 5, 9], [11, 40, 7], [390, 2], [8, 8, 1, 30]);
    let answer = |tokens, sequence, grad| Answer { tokens, scored: None, sequence, grad };
    let shared =
        Family { prompt: &x, answers: vec![answer(&y1, 0, true), answer(&y2, 1, true), answer(&kl, 2, false)] };
    let text = [4, 250, 31, 6];
    plan_packs(&[shared, Family { prompt: &[], answers: vec![answer(&text, 3, true)] }], 64).remove(0)
}

/// The pack's loss `sum c_s logp_s` over graded targets, and its gradient.
fn loss_and_grad(
    cpu: &C,
    built: &Built<C>,
    values: &kernels::Mat<C, f64>,
    pack: &Pack,
    c: &[f64],
    keep: Keep,
) -> (f64, Vec<f64>) {
    let ctx = context_at(cpu, built, values);
    let parts = Parts::new(cpu, pack);
    let forward = built.decoder.forward(&ctx, pack, &parts, keep);
    let scores = built.decoder.score(&ctx, pack, &forward, false, keep != Keep::Nothing);
    let loss = scores.logp.iter().zip(c).map(|(l, c)| l * c).sum();
    if keep == Keep::Nothing {
        return (loss, Vec::new());
    }
    let mut grads = cpu.zeros(1, built.table.len());
    built.decoder.backward(
        &ctx,
        &mut Grads { table: &built.table, values: &mut grads },
        pack,
        &parts,
        forward,
        scores,
        c,
    );
    (loss, cpu.to_host(grads.view()))
}

/// Compares the gradient with central differences at three entries of every tensor and along one random direction.
fn check(cpu: &C, built: &Built<C>, what: &str) {
    let pack = small_pack();
    let c = noise(pack.num_grad_targets, 5);
    let (_, grad) = loss_and_grad(cpu, built, &built.values, &pack, &c, Keep::All);
    let host = cpu.to_host::<f64>(built.values.view());
    let at = |shift: &dyn Fn(usize) -> f64| {
        let moved: Vec<f64> = host.iter().enumerate().map(|(i, v)| v + shift(i)).collect();
        loss_and_grad(cpu, built, &cpu.from_host(1, moved.len(), &moved), &pack, &c, Keep::Nothing).0
    };
    const STEP: f64 = 1e-5;
    for p in built.table.params() {
        let direction = noise(p.rows * p.cols, p.offset as u64 + 3);
        let along: f64 = grad[p.range()].iter().zip(&direction).map(|(g, d)| g * d).sum();
        let shift = |s: f64| {
            move |i: usize, r: &std::ops::Range<usize>, d: &[f64]| if r.contains(&i) { s * d[i - r.start] } else { 0.0 }
        };
        let range = p.range();
        let (up, down) = (shift(STEP), shift(-STEP));
        let slope = (at(&|i| up(i, &range, &direction)) - at(&|i| down(i, &range, &direction))) / (2.0 * STEP);
        assert!(
            (slope - along).abs() < 1e-6 * (1.0 + slope.abs()),
            "{what} {}: {slope} by differences, {along} by backward",
            p.name
        );
        let entry = p.offset + (p.rows * p.cols) * 2 / 3;
        let slope = (at(&|i| if i == entry { STEP } else { 0.0 }) - at(&|i| if i == entry { -STEP } else { 0.0 }))
            / (2.0 * STEP);
        assert!(
            (slope - grad[entry]).abs() < 1e-6 * (1.0 + slope.abs()),
            "{what} {} entry {entry}: {slope} {}",
            p.name,
            grad[entry]
        );
    }
}

#[test]
fn full_gradients_equal_finite_differences() {
    let cpu = C::new(2);
    for arch in DENSE {
        check(&cpu, &load(&cpu, arch, Tuning::Full), arch);
    }
}

#[test]
fn adapter_gradients_equal_finite_differences() {
    let cpu = C::new(2);
    for arch in DENSE {
        let spec = adapters(&load(&cpu, arch, Tuning::Frozen).decoder.blueprint, 3);
        let mut built = load(&cpu, arch, Tuning::Lora(&spec));
        initialise_lora(&cpu, &built.table, &mut built.values, &LoraInit::Fresh { seed: 1 }).unwrap();
        // A zero B would hide the gradient of A.
        let noisy: Vec<f64> = cpu
            .to_host::<f64>(built.values.view())
            .iter()
            .zip(noise(built.table.len(), 9))
            .map(|(v, n)| v + 0.05 * n)
            .collect();
        cpu.upload(&noisy, built.values.out());
        check(&cpu, &built, arch);
    }
}

#[test]
fn recomputed_gradients_equal_kept_ones_bit_for_bit() {
    let cpu = Cpu::<f64>::new(2);
    let pack = small_pack();
    let c = noise(pack.num_grad_targets, 5);
    for arch in DENSE {
        let built = load(&cpu, arch, Tuning::Full);
        let kept = loss_and_grad(&cpu, &built, &built.values, &pack, &c, Keep::All);
        let again = loss_and_grad(&cpu, &built, &built.values, &pack, &c, Keep::Inputs);
        assert!(kept == again, "{arch}");
        let bare = loss_and_grad(&cpu, &built, &built.values, &pack.base_only(), &c, Keep::All);
        assert!(kept == bare, "{arch}: the tail changed the gradient");
    }
}
