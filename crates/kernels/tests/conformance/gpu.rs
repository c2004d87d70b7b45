//! The CUDA backend: on the CPU through a stand-in for a GPU, on a GPU where `PROSPECT_GPU` names one, and its kernels through
//! NVIDIA's compiler where that is.

use crate::conformance;
use kernels::Memory;
use kernels::cuda::{Cuda, Emulated, Nvrtc, Options, Order, Real, programs};
use std::path::{Path, PathBuf};

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
    let first = computed(&cuda);
    for _ in 0..9 {
        assert!(computed(&cuda) == first, "ten runs, other bits");
    }
}

#[test]
fn kernels_compile_for_every_architecture_without_spills() {
    let nvrtc = match Nvrtc::open(99, &folders()) {
        Ok(nvrtc) => nvrtc,
        Err(error) => return println!("NVRTC: skipped, {error}"),
    };
    println!("NVRTC {}.{} at {}", nvrtc.version().0, nvrtc.version().1, nvrtc.file().display());
    println!(
        "{:<28} {:<22} {:>7} {:>9} {:>7} {:>6} {:>6}",
        "program", "kernel", "", "registers", "shared", "stack", "spills"
    );
    let mut spilled = Vec::new();
    for program in programs() {
        let of: Vec<&str> = program.defines.iter().map(|(_, value)| value.as_str()).collect();
        let name = format!("{} {}", program.name, of.join(" "));
        for architecture in ARCHITECTURES {
            for u in nvrtc.usage(&program, architecture).unwrap_or_else(|e| panic!("{name} for {architecture}: {e}")) {
                println!(
                    "{name:<28} {:<22} {architecture:>7} {:>9} {:>7} {:>6} {:>6}",
                    u.kernel, u.registers, u.shared, u.stack, u.spills
                );
                if u.spills > 0 {
                    spilled.push(format!("{name} {} {architecture}: {} bytes", u.kernel, u.spills));
                }
            }
        }
    }
    assert!(spilled.is_empty(), "registers do not suffice: {spilled:#?}");
}
