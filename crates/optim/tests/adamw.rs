//! AdamW and clipping against torch 2.15.0, and against numbers worked out by hand.

use kernels::{Adamw as _, Cpu, Mat, Memory, Rounding, bf16};
use optim::adamw::{AdamW, Layout, Member, Place, Settings, clip};
use serde_json::Value;
use testkit::to;

const DEFAULTS: Settings =
    Settings { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.01, rounding: Rounding::Grid, seed: 7 };

/// The optimiser of tensors with moments of full precision, given by range and decay.
fn plain<R: kernels::Real>(
    cpu: &Cpu<R>,
    settings: Settings,
    tensors: impl IntoIterator<Item = (std::ops::Range<usize>, bool)>,
) -> AdamW<Cpu<R>> {
    AdamW::new(cpu, settings, Layout::new(tensors.into_iter().map(|(range, decay)| Member::plain(range, decay))))
}

/// Updates of one parameter with a constant gradient scale; returns its value after each.
fn values_after(settings: Settings, start: f64, learning_rate: f64, gradients: &[f64]) -> Vec<f64> {
    let cpu = Cpu::<f64>::new(1);
    let mut values = cpu.from_host(1, 1, &[start]);
    let mut optimiser = plain(&cpu, settings, [(0..1, true)]);
    let mut update = |g: &f64| {
        optimiser.update(&cpu, &mut values, &mut cpu.zeros(1, 0), &cpu.from_host(1, 1, &[*g]), learning_rate, 1.0);
        cpu.to_host::<f64>(values.view())[0]
    };
    gradients.iter().map(&mut update).collect()
}

#[test]
fn two_updates_equal_the_worked_example() {
    let values = values_after(DEFAULTS, 1.0, 1e-3, &[0.5, -0.25]);
    let expected = [0.998_990_000_020, 0.998_713_673_087];
    for (found, expected) in values.iter().zip(expected) {
        assert!((found - expected).abs() < 0.5e-12, "{found} for {expected}");
    }
}

#[test]
fn an_update_at_rate_zero_moves_the_state_and_not_the_parameter() {
    let cpu = Cpu::<f64>::new(1);
    let mut values = cpu.from_host(1, 1, &[0.7]);
    let mut optimiser = plain(&cpu, DEFAULTS, [(0..1, true)]);
    optimiser.update(&cpu, &mut values, &mut cpu.zeros(1, 0), &cpu.from_host(1, 1, &[2.0]), 0.0, 1.0);
    assert_eq!(cpu.to_host::<f64>(values.view()), [0.7]);
    let (m, v) = (cpu.to_host::<f64>(optimiser.m.view())[0], cpu.to_host::<f64>(optimiser.v.view())[0]);
    assert!((m - 0.2).abs() < 1e-15 && (v - 0.004).abs() < 1e-15 && optimiser.steps == 1, "{m} {v}");
}

/// Ten clipped updates of the arena `w, b` (decayed, not decayed) in single precision.
#[test]
fn ten_clipped_updates_equal_torch() {
    let tensors = testkit::tensors(include_bytes!("../../../fixtures/optim/adamw.safetensors"));
    let reference: Value = serde_json::from_str(include_str!("../../../fixtures/optim/adamw.json")).unwrap();
    let number = |value: &Value| value.as_f64().unwrap();
    let arena = |w: &str, b: &str, t: usize| -> Vec<f32> {
        to(&[&tensors[&format!("{w}.{t}")][..], &tensors[&format!("{b}.{t}")][..]].concat())
    };
    let start = arena("w", "b", 0);
    let (weights, all) = (tensors["w.0"].len(), start.len());
    let settings = Settings {
        beta1: number(&reference["betas"][0]),
        beta2: number(&reference["betas"][1]),
        epsilon: number(&reference["eps"]),
        weight_decay: number(&reference["weight_decay"]["w"]),
        ..DEFAULTS
    };
    assert_eq!(reference["weight_decay"]["b"], 0.0);
    let (rate, max_norm) = (number(&reference["lr"]), number(&reference["max_grad_norm"]));

    let cpu = Cpu::<f32>::new(2);
    let mut values: Mat<Cpu<f32>> = cpu.from_host(1, all, &start);
    let mut optimiser = plain(&cpu, settings, [(0..weights, true), (weights..all, false)]);
    let norms = reference["grad_norms"].as_array().unwrap();
    assert_eq!(norms.len(), 10);
    for (t, expected) in norms.iter().enumerate() {
        let gradient = cpu.from_host(1, all, &arena("gw", "gb", t));
        let norm = cpu.square_norm(gradient.view()).sqrt();
        assert!((norm / number(expected) - 1.0).abs() < 1e-6, "norm {norm} for {expected} at update {}", t + 1);
        optimiser.update(&cpu, &mut values, &mut cpu.zeros(1, 0), &gradient, rate, clip(norm, max_norm));
        let found = cpu.to_host::<f32>(values.view());
        for (i, expected) in arena("w", "b", t + 1).iter().enumerate() {
            assert!(
                (found[i] - expected).abs() < 1e-6,
                "entry {i} is {} for {expected} after {} updates",
                found[i],
                t + 1
            );
        }
    }
    assert_eq!(optimiser.steps, 10);
}

#[test]
fn decay_shrinks_the_groups_that_want_it_and_no_other() {
    let cpu = Cpu::<f64>::new(1);
    let mut values = cpu.from_host(1, 4, &[1.0; 4]);
    let settings = Settings { weight_decay: 0.5, ..DEFAULTS };
    let mut optimiser = plain(&cpu, settings, [(0..1, false), (1..3, true), (3..4, false)]);
    optimiser.update(&cpu, &mut values, &mut cpu.zeros(1, 0), &cpu.zeros(1, 4), 0.1, 1.0);
    assert_eq!(cpu.to_host::<f64>(values.view()), [1.0, 0.95, 0.95, 1.0]);
}

#[test]
fn small_tensors_and_those_that_may_not_keep_moments_of_full_precision() {
    let eight = |range, eight| Member { eight, ..Member::plain(range, true) };
    let layout = Layout::new([eight(0..4095, true), eight(4095..8191, true), eight(8191..12_288, false)]);
    let plain = |range| Place::Plain(range);
    let places: Vec<Place> = layout.pieces.iter().map(|piece| piece.place.clone()).collect();
    assert_eq!(places, [plain(0..4095), Place::Eight(0..4096, 0..16), plain(4095..8192)]);
    assert_eq!(layout.bytes(4), 2 * (8192 * 4 + 4096 + 16 * 4));
}

/// Stripes of 20 000 elements, of which each of two has every other one.
fn stripes(borders: &[usize], of: usize) -> Vec<std::ops::Range<usize>> {
    borders.windows(2).skip(of).step_by(2).map(|s| s[0]..s[1]).collect()
}

#[test]
fn stripes_updated_apart_are_the_whole_updated_at_once() {
    let (cpu, n) = (Cpu::<f32>::new(2), 20_000);
    // The second is in bfloat16, and the last two in blocks of eight bits.
    let eight = |range, values| Member { eight: true, values, ..Member::plain(range, true) };
    let halves = Member { values: (0, true), ..Member::plain(50..950, false) };
    let after = Member { values: (50, false), ..Member::plain(950..1000, true) };
    let members = || {
        [
            Member::plain(0..50, true),
            halves.clone(),
            after.clone(),
            eight(1000..9000, (100, false)),
            eight(9000..n, (900, true)),
        ]
    };
    let numbers = |f: fn(f32) -> f32| (0..n).map(|i| f(i as f32)).collect::<Vec<f32>>();
    let (p, g) = (numbers(f32::sin), numbers(f32::cos));
    let start = |values: usize| cpu.from_host(1, values, &p[..values]);
    let updated = |parts: &[Vec<std::ops::Range<usize>>]| {
        let mut values = start(8100);
        let mut rounded = cpu.from_host(1, n - 8100, &vec![bf16::from_f32(0.5); n - 8100]);
        for ranges in parts {
            let mut optimiser = AdamW::new(&cpu, DEFAULTS, Layout::of_ranges(ranges, members()));
            let own: Vec<f32> = ranges.iter().flat_map(|r| g[r.clone()].to_vec()).collect();
            assert_eq!(optimiser.layout.len(), own.len());
            optimiser.update(&cpu, &mut values, &mut rounded, &cpu.from_host(1, own.len(), &own), 1e-3, 1.0);
        }
        (cpu.to_host::<f32>(values.view()), cpu.to_host::<bf16>(rounded.view()))
    };
    let whole = updated(&[std::iter::once(0..n).collect()]);
    assert!(whole.0 != p[..8100]);
    let borders = [0, 7, 60, 970, 1000 + 256, 1000 + 30 * 256, 9000 + 512, 9000 + 4096, n];
    assert!(updated(&[stripes(&borders, 0), stripes(&borders, 1)]) == whole);
}

#[test]
fn values_that_lie_beside_their_gradients_are_updated_as_those_of_the_whole() {
    let cpu = Cpu::<f64>::new(2);
    let members = || [Member::plain(0..5, true), Member::plain(5..9, false), Member::plain(9..20, true)];
    let (p, g): (Vec<f64>, Vec<f64>) = (0..20).map(|i| (f64::from(i).sin(), f64::from(i).cos())).unzip();
    let updated = |ranges: &[std::ops::Range<usize>]| {
        let of = |all: &[f64]| ranges.iter().flat_map(|r| all[r.clone()].to_vec()).collect::<Vec<f64>>();
        let (own, grads) = (of(&p), of(&g));
        let mut values = cpu.from_host(1, own.len(), &own);
        let layout = Layout::of_ranges(ranges, members()).with_values_beside();
        let mut optimiser = AdamW::new(&cpu, DEFAULTS, layout);
        optimiser.update(&cpu, &mut values, &mut cpu.zeros(1, 0), &cpu.from_host(1, grads.len(), &grads), 1e-3, 1.0);
        cpu.to_host::<f64>(values.view())
    };
    let whole = updated(std::slice::from_ref(&(0..20)));
    let parts = [0..3, 6..12, 19..20];
    assert_eq!(updated(&parts), parts.iter().flat_map(|r| whole[r.clone()].to_vec()).collect::<Vec<f64>>());
}

/// More elements of each kind than are updated at a time where moments are on a disk.
#[test]
fn moments_on_a_disk_are_updated_to_the_same_bits() {
    let cpu = Cpu::<f32>::new(2);
    let n = (1 << 22) + 5000;
    let eight = Member { eight: true, ..Member::plain(n..2 * n, true) };
    let members = || {
        [Member::plain(0..n, true), eight.clone(), Member { values: (0, true), ..Member::plain(2 * n..3 * n, false) }]
    };
    let numbers = |f: fn(f32) -> f32, n: usize| (0..n).map(|i| f(i as f32)).collect::<Vec<f32>>();
    let (p, g) = (numbers(f32::sin, 2 * n), cpu.from_host(1, 3 * n, &numbers(f32::cos, 3 * n)));
    let updated = |mut optimiser: AdamW<Cpu<f32>>| {
        let mut values = cpu.from_host(1, 2 * n, &p);
        let mut rounded = cpu.from_host(1, n, &vec![bf16::from_f32(0.5); n]);
        (0..2).for_each(|_| optimiser.update(&cpu, &mut values, &mut rounded, &g, 1e-3, 1.0));
        let moments = [&optimiser.m, &optimiser.v].map(|moment| cpu.to_host::<f32>(moment.view()));
        (cpu.to_host::<f32>(values.view()), cpu.to_host::<bf16>(rounded.view()), moments)
    };
    let in_memory = updated(AdamW::new(&cpu, DEFAULTS, Layout::new(members())));
    let on_disk = AdamW::on_disk(&cpu, DEFAULTS, Layout::new(members()), &std::env::temp_dir()).unwrap();
    assert!(updated(on_disk) == in_memory);
}

/// bitsandbytes 0.50 on the CPU.
#[test]
fn updates_in_eight_bits_equal_those_of_bitsandbytes_to_the_bit() {
    let tensors = testkit::tensors(include_bytes!("../../../fixtures/optim/adamw8bit.safetensors"));
    let cpu = Cpu::<f32>::new(2);
    let at = |name: &str, t: usize| -> Vec<f32> { to(&tensors[&format!("{name}.{t}")][..]) };
    let (start, settings) = (at("p", 0), Settings { beta2: 0.995, ..DEFAULTS });
    let n = start.len();
    // A tensor of 50 elements before it, so that nothing begins where a block would.
    let members = [Member::plain(0..50, false), Member { eight: true, ..Member::plain(50..50 + n, true) }];
    let mut optimiser = AdamW::new(&cpu, settings, Layout::new(members));
    let mut values = cpu.from_host(1, 50 + n, &[vec![0.0; 50], start].concat());
    for t in 0..5 {
        let gradient = cpu.from_host(1, 50 + n, &[vec![0.0; 50], at("g", t)].concat());
        optimiser.update(&cpu, &mut values, &mut cpu.zeros(1, 0), &gradient, 1e-3, 1.0);
        assert!(cpu.to_host::<f32>(values.view())[50..] == at("p", t + 1), "update {}", t + 1);
    }
}

/// Without a memory the first moment is the gradient.
#[test]
fn codes_of_eight_bits_equal_those_of_bitsandbytes_to_the_bit() {
    let tensors = testkit::tensors(include_bytes!("../../../fixtures/optim/adamw8bit.safetensors"));
    let cpu = Cpu::<f32>::new(2);
    let x: Vec<f32> = to(&tensors["x"][..]);
    let n = x.len();
    let member = Member { eight: true, ..Member::plain(0..n, true) };
    let settings = Settings { beta1: 0.0, ..DEFAULTS };
    let mut optimiser = AdamW::new(&cpu, settings, Layout::new([member]));
    optimiser.update(&cpu, &mut cpu.zeros(1, n), &mut cpu.zeros(1, 0), &cpu.from_host(1, n, &x), 1e-3, 1.0);
    let (codes, absmax): (Vec<u8>, Vec<f32>) =
        (tensors["codes"].iter().map(|x| *x as u8).collect(), to(&tensors["absmax"][..]));
    assert!(cpu.to_host::<u8>(optimiser.eight[0].codes.view()) == codes);
    assert_eq!(cpu.to_host::<f32>(optimiser.eight[0].absmax.view()), absmax);
}

/// What rounding to the nearest loses, rounding at random keeps on average: updates far below half a step of bfloat16.
#[test]
fn small_updates_of_values_in_bfloat16_arrive_on_average() {
    let cpu = Cpu::<f32>::new(2);
    let n = 20_000;
    let settings = Settings { weight_decay: 0.0, ..DEFAULTS };
    let run = |seed: u64, eight: bool| {
        let member = Member { values: (0, true), eight, ..Member::plain(0..n, true) };
        let mut optimiser = AdamW::new(&cpu, Settings { seed, ..settings }, Layout::new([member]));
        let mut halves = cpu.from_host(1, n, &vec![bf16::from_f32(1.0); n]);
        let gradient = cpu.from_host(1, n, &vec![1.0f32; n]);
        for _ in 0..10 {
            optimiser.update(&cpu, &mut cpu.zeros(1, 0), &mut halves, &gradient, 1e-4, 1.0);
        }
        cpu.to_host::<bf16>(halves.view())
    };
    for eight in [false, true] {
        let after = run(1, eight);
        let mean = after.iter().map(|x| x.to_f64()).sum::<f64>() / n as f64;
        // Ten updates of 1e-4 each; the mean of n values that are 2^-8 apart has a deviation of about 1.4e-5.
        assert!((mean - (1.0 - 1e-3)).abs() < 6e-5, "{mean}");
        assert!(after == run(1, eight), "the same seed, the same bits");
        assert!(after != run(2, eight), "another seed, other bits");
    }
}

#[test]
fn clipping_never_enlarges_and_zero_disables_it() {
    assert_eq!(clip(0.5, 1.0), 1.0);
    assert_eq!(clip(1e9, 0.0), 1.0);
    assert_eq!(clip(0.0, 1.0), 1.0);
    assert!((clip(4.0, 1.0) - 1.0 / (4.0 + 1e-6)).abs() < 1e-15);
}
