//! The CUDA backend: on the CPU through a stand-in for a GPU, on a GPU where `PROSPECT_GPU` names one, and its kernels through
//! NVIDIA's compiler where that is.

use crate::{check, conformance, operators};
use kernels::adamw8::{Arrays, Part};
use kernels::cuda::{Cuda, Emulated, Error, Nvrtc, Options, Order, Played, Program, Real, Usage, examine, programs};
use kernels::{Adamw8, AdamwStep, Cpu, Dora, LowRank, Memory, MomentCodes, Moments, Rounding, Values, Weight, bf16};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Architectures that kernels are compiled for: A100, RTX 3090, RTX 4090, H100, B200.
const ARCHITECTURES: [&str; 5] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100"];

fn bits(computed: Vec<(&'static str, Vec<f64>)>) -> Vec<(&'static str, Vec<u64>)> {
    computed.into_iter().map(|(name, all)| (name, all.iter().map(|x| x.to_bits()).collect())).collect()
}

/// What a device computes; panics where that is not what the definitions say.
fn computed(cuda: &Cuda<f32>) -> Vec<(&'static str, Vec<u64>)> {
    let computed = conformance(cuda);
    assert_eq!(cuda.trouble(), None);
    bits(computed)
}

#[test]
fn gpu_kernels_on_the_cpu_equal_the_definitions_in_either_order_of_their_threads() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    let run = |order| Some(computed(&Cuda::new(Emulated::found(&folder, order)?)));
    let Some(ascending) = run(Order::Ascending) else {
        return println!("emulation: skipped, there is no c++ (apt-get install g++)");
    };
    let descending = run(Order::Descending).expect("there was a compiler");
    for ((name, one), (_, other)) in ascending.iter().zip(descending) {
        assert!(one.len() > 100 && *one == other, "{name}: the order of threads changes bits");
    }
    println!("emulation: {} operators equal their definitions", ascending.len());
}

#[test]
fn gpu_kernels_with_activations_in_bfloat16_equal_the_definitions_within_its_rounding() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    let Some(emulated) = Emulated::found(&folder, Order::Descending) else { return };
    half_computed(&Cuda::new(emulated));
}

/// What a device computes in bfloat16; panics where that is not what the definitions say.
fn half_computed(cuda: &Cuda<bf16>) -> Vec<(&'static str, Vec<u64>)> {
    // These ask for the bits of float32, or compare sums in it with those of weights that products round; steps in bfloat16 do these.
    let of_single = ["head", "scale", "sink", "capped head"];
    let checked = operators().into_iter().filter(|(name, _)| !of_single.contains(name));
    let computed: Vec<_> = checked.map(|operator| (operator.0, check(cuda, operator))).collect();
    assert!(computed.iter().all(|(_, values)| values.len() > 100));
    assert_eq!(cuda.trouble(), None);
    bits(computed)
}

/// Operators without a definition of their own here, against the CPU.
fn small_memory<B: Memory<Real = f32> + Adamw8 + Dora>(b: &B, rounding: Rounding) -> [Vec<f32>; 4] {
    let n = 700;
    let of = |seed: u64| testkit::to::<f32, f64>(&testkit::noise(n, seed));
    let (mut p, mut halves) =
        (b.from_host(1, n, &of(1)), b.from_host(1, n, &of(2).iter().map(|x| bf16::from_f32(*x)).collect::<Vec<_>>()));
    let mut codes = [0, 1].map(|_| b.from_host(1, n, &vec![127u8; n]));
    let mut largest = [0, 1].map(|_| b.zeros::<f32>(1, n.div_ceil(256)));
    let mut plain = [0, 1].map(|_| b.zeros::<f32>(1, n));
    for step in 1..=3 {
        let g = b.from_host(1, n, &of(2 + step));
        let (learning_rate, grad_scale, weight_decay) = (0.01, 0.7, 0.3);
        let s = AdamwStep { learning_rate, beta1: 0.9, beta2: 0.95, epsilon: 1e-3, weight_decay, step, grad_scale };
        let [m, v] = &mut codes;
        let [ml, vl] = &mut largest;
        let m = MomentCodes { codes: m.acc(), absmax: ml.acc() };
        let v = MomentCodes { codes: v.acc(), absmax: vl.acc() };
        b.adamw8(&s, Values::Real(p.acc()), g.view(), Moments::Codes { m, v, rounding });
        let [m, v] = &mut plain;
        let moments = Moments::Real { m: m.acc(), v: v.acc() };
        b.adamw8(&s, Values::Half { values: halves.acc(), key: step }, g.view(), moments);
        // Two parts at once, of other places and another weight decay.
        let one = Part { step: s, grads: 0..300, values: 100, half: None, moments: 256, amounts: Some(1) };
        let s = AdamwStep { weight_decay: 0.0, ..s };
        let other = Part { step: s, grads: 300..690, values: 50, half: Some(9), moments: 20, amounts: None };
        let [m, v] = &mut codes;
        let [ml, vl] = &mut largest;
        let arrays = Arrays {
            values: p.acc(),
            halves: halves.acc(),
            grads: g.view(),
            moments: plain.each_mut().map(|x| x.acc()),
            codes: [(m, ml), (v, vl)].map(|(m, l)| MomentCodes { codes: m.acc(), absmax: l.acc() }),
            rounding,
        };
        b.adamw8_parts(arrays, &[one, other]);
    }
    let codes = codes.iter().flat_map(|c| b.to_host(c.view())).map(f32::from).collect();
    let (w, a, c) = (b.from_host(20, 35, &of(7)), b.from_host(3, 35, &of(8)[..105]), b.from_host(20, 3, &of(9)[..60]));
    let mut norms = b.mat::<f32>(1, 20);
    let update = Some(LowRank { a: a.view(), b: c.view(), scale: 0.5 });
    b.row_norms(Weight::Param(w.view()), update, norms.out());
    let halves = b.to_host(halves.view()).iter().map(|x| x.to_f32()).collect();
    [b.to_host(p.view()), halves, codes, b.to_host(norms.view())]
}

#[test]
fn operators_of_small_memory_give_the_cpus_numbers() {
    for rounding in [Rounding::Nearest, Rounding::Grid] {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
        let Some(emulated) = Emulated::found(&folder, Order::Descending) else { return };
        let found = small_memory(&Cuda::<f32>::new(emulated), rounding);
        let want = small_memory(&Cpu::<f32>::new(2), rounding);
        // A sum that is rounded otherwise may move a code or a rounding by one.
        for ((found, want), allowed) in found.iter().zip(&want).zip([1e-3, 8e-3, 1.0, 1e-5]) {
            let gap = found.iter().zip(want).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            let moved = found.iter().zip(want).filter(|(a, b)| a != b).count();
            assert!(found.len() == want.len() && gap <= allowed, "{rounding:?}: {gap}, {moved} of {}", want.len());
        }
    }
}

fn folders() -> Vec<PathBuf> {
    std::env::var_os("PROSPECT_CUDA_LIBRARIES").map_or(Vec::new(), |all| std::env::split_paths(&all).collect())
}

#[test]
fn a_gpu_equals_the_definitions_and_itself() {
    let Some(number) = std::env::var("PROSPECT_GPU").ok().and_then(|n| n.parse().ok()) else {
        return println!("GPU: skipped, PROSPECT_GPU names none");
    };
    let cuda = Cuda::new(Real::open(&Options { number, folders: folders(), ..Options::default() }).unwrap());
    println!("GPU: {:?}", cuda.about());
    let half = cuda.with_activations::<bf16>();
    let first = (computed(&cuda), half_computed(&half));
    for _ in 0..9 {
        assert!((computed(&cuda), half_computed(&half)) == first, "ten runs, other bits");
    }
}

#[test]
fn an_examination_finds_a_product_and_attention_on_tensor_cores_right() {
    let number = std::env::var("PROSPECT_GPU").ok().and_then(|n| n.parse().ok());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cuda");
    if number.is_none() && Emulated::found(&folder, Order::Ascending).is_none() {
        return println!("emulation: skipped, there is no c++ (apt-get install g++)");
    }
    let played = number.is_none().then_some(Played { folder, memory: 1 << 26 });
    let options = Options { number: number.unwrap_or(0), folders: folders(), played, ..Options::default() };
    let found = examine(&options).unwrap_or_else(|e| panic!("{e}"));
    println!("{found:?}");
    assert!(found.product.is_right() && found.attention.is_right() && found.attention.gap > 0.0, "{found:?}");
}

#[test]
fn kernels_compile_for_every_architecture_with_hardly_a_spill() {
    let nvrtc = match Nvrtc::open(99, &folders()) {
        Ok(nvrtc) => nvrtc,
        Err(error) => return println!("NVRTC: skipped, {error}"),
    };
    println!("NVRTC {}.{} at {}", nvrtc.version().0, nvrtc.version().1, nvrtc.file().display());
    println!(
        "{:<28} {:<22} {:>7} {:>9} {:>7} {:>6} {:>6}",
        "program", "kernel", "", "registers", "shared", "stack", "spills"
    );
    let all: Vec<(Program, &str)> = programs()
        .into_iter()
        .flat_map(|program| ARCHITECTURES.map(|architecture| (program.clone(), architecture)))
        .collect();
    let mut spilled = Vec::new();
    for ((program, architecture), usage) in all.iter().zip(usages(&nvrtc, &all)) {
        let of: Vec<&str> = program.defines.iter().map(|(_, value)| value.as_str()).collect();
        let name = format!("{} {}", program.name, of.join(" "));
        for u in usage.unwrap_or_else(|e| panic!("{name} for {architecture}: {e}")) {
            println!(
                "{name:<28} {:<22} {architecture:>7} {:>9} {:>7} {:>6} {:>6}",
                u.kernel, u.registers, u.shared, u.stack, u.spills
            );
            // A few registers more than 168, which ptxas aims at for two blocks on a multiprocessor, cost nothing.
            if u.spills > 64 {
                spilled.push(format!("{name} {} {architecture}: {} bytes", u.kernel, u.spills));
            }
        }
    }
    assert!(spilled.is_empty(), "registers do not suffice: {spilled:#?}");
}

/// What kernels need, of each program for its architecture; compiled on all processors.
fn usages(nvrtc: &Nvrtc, all: &[(Program, &str)]) -> Vec<Result<Vec<Usage>, Error>> {
    let next = AtomicUsize::new(0);
    let found: Vec<OnceLock<_>> = all.iter().map(|_| OnceLock::new()).collect();
    let work = || {
        while let Some(i) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|i| *i < all.len()) {
            let _ = found[i].set(usage(nvrtc, &all[i]));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    found.into_iter().map(|one| one.into_inner().expect("each is compiled")).collect()
}

/// What the kernels of a program need; compiled unless the same text was, by the same compiler, called in the same way.
fn usage(nvrtc: &Nvrtc, (program, architecture): &(Program, &str)) -> Result<Vec<Usage>, Error> {
    let call = include_str!("../../src/cuda/real/nvrtc.rs");
    let mut hasher = DefaultHasher::new();
    (program.whole(), architecture, nvrtc.version(), call).hash(&mut hasher);
    let name = format!("{}-{architecture}-{:016x}", program.name, hasher.finish());
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("nvrtc");
    let file = folder.join(&name);
    if let Some(known) = std::fs::read_to_string(&file).ok().and_then(|text| text.lines().map(line).collect()) {
        return Ok(known);
    }
    let all = nvrtc.usage(program, architecture)?;
    let lines = all.iter().map(|u| format!("{} {} {} {} {}\n", u.kernel, u.registers, u.shared, u.stack, u.spills));
    let fresh = folder.join(format!("{name}.{}", std::process::id()));
    // Whoever cannot keep it compiles again.
    let _ = std::fs::create_dir_all(&folder)
        .and_then(|()| std::fs::write(&fresh, lines.collect::<String>()))
        .and_then(|()| std::fs::rename(&fresh, &file));
    Ok(all)
}

/// A line of what is kept of a program.
fn line(text: &str) -> Option<Usage> {
    let mut words = text.split(' ');
    let kernel = words.next()?.to_owned();
    let numbers: Vec<u32> = words.map(|word| word.parse().ok()).collect::<Option<_>>()?;
    let &[registers, shared, stack, spills] = numbers.as_slice() else { return None };
    Some(Usage { kernel, registers, shared, stack, spills })
}
