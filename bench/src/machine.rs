//! What the figures were measured on, and the two rates that everything is compared with.

use crate::device::{Held, Measured, Sizes, fastest};
use kernels::cuda::About;
use kernels::{Cpu, Mat};
use serde::Serialize;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

/// The machine and what was built.
#[derive(Serialize)]
pub(crate) struct Machine {
    /// Name of the processor.
    pub(crate) cpu: String,
    /// Threads that are used.
    pub(crate) cores: usize,
    /// Instruction sets that matter here.
    pub(crate) instruction_sets: Vec<String>,
    /// Memory, bytes.
    pub(crate) memory_bytes: u64,
    /// Operating system.
    pub(crate) system: String,
    /// The GPU, where it is one that is measured.
    pub(crate) gpu: Option<Gpu>,
}

/// A GPU that is measured.
#[derive(Serialize)]
pub(crate) struct Gpu {
    pub(crate) name: String,
    /// Memory, bytes.
    pub(crate) memory_bytes: usize,
    /// Compute capability, as 90 for 9.0.
    pub(crate) capability: u32,
    /// Driver and libraries with their versions.
    pub(crate) libraries: Vec<(String, String)>,
}

impl From<About> for Gpu {
    fn from(About { name, memory, capability, libraries }: About) -> Gpu {
        Gpu { name, memory_bytes: memory, capability, libraries }
    }
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn look(gpu: Option<Gpu>) -> Machine {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let info = read("/proc/cpuinfo");
        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':'));
        let flags: Vec<&str> =
            field("flags").or_else(|| field("Features")).unwrap_or_default().split_whitespace().collect();
        let known = [
            "avx2",
            "fma",
            "avx512f",
            "avx512bw",
            "avx512_bf16",
            "avx512_vnni",
            "avx512_fp16",
            "amx_tile",
            "asimd",
            "sve",
        ];
        let memory = read("/proc/meminfo");
        let kilobytes = memory.lines().find_map(|line| line.strip_prefix("MemTotal:"));
        let kilobytes = kilobytes.and_then(|k| k.trim().trim_end_matches("kB").trim().parse::<u64>().ok());
        Machine {
            cpu: field("model name").map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned()),
            cores: threads(),
            instruction_sets: known.into_iter().filter(|k| flags.contains(k)).map(str::to_owned).collect(),
            memory_bytes: kilobytes.unwrap_or(0) << 10,
            system: format!("{} {}", std::env::consts::OS, read("/proc/sys/kernel/osrelease").trim()),
            gpu,
        }
    }

    /// The device's name as part of a folder's.
    pub(crate) fn slug(&self) -> String {
        slug(self.gpu.as_ref().map_or(&self.cpu, |gpu| &gpu.name))
    }
}

fn slug(name: &str) -> String {
    let words = name.split(|c: char| !c.is_ascii_alphanumeric()).filter(|w| !w.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

/// Threads that are used: all.
pub(crate) fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The processor, in mixed precision or not.
pub(crate) fn cpu(bf16: bool) -> Cpu<f32> {
    let cpu = Cpu::new(threads());
    if bf16 { cpu.mixed() } else { cpu }
}

/// What a program prints, trimmed; empty when it cannot be asked.
pub(crate) fn ask(dir: &Path, program: &str, words: &[&str]) -> String {
    let output = Command::new(program).args(words).current_dir(dir).output();
    output.map_or(String::new(), |o| String::from_utf8_lossy(&o.stdout).trim().to_owned())
}

/// The commit of the working tree, and whether it was changed since.
pub(crate) fn commit(root: &Path) -> String {
    let changed = !ask(root, "git", &["status", "--porcelain", "--untracked-files=no"]).is_empty();
    ask(root, "git", &["rev-parse", "HEAD"]) + if changed { " with changes" } else { "" }
}

/// The best that this machine was seen to do, in the process that compares with it.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Rates {
    /// Of large products, floating-point operations per second.
    pub(crate) flops: f64,
    /// Of large copies, bytes read and written per second.
    pub(crate) bytes: f64,
}

impl Rates {
    /// Measures both.
    pub(crate) fn measure<B: Measured>(backend: &B, sizes: &Sizes) -> Rates {
        let flops = sizes.products.iter().map(|shape| product_rate(backend, *shape)).fold(0.0, f64::max);
        Rates { flops, bytes: backend.copy_rate(sizes.copied) }
    }
}

fn product_rate<B: Measured>(backend: &B, [t, o, i]: [usize; 3]) -> f64 {
    let noise = |rows: usize, cols: usize, seed| noisy(backend, rows, cols, seed);
    let (x, mut y, mut dx) = (noise(t, i, 1), noise(t, o, 3), backend.mat(t, i));
    let w = backend.held(o, i, &crate::noise::cycled(o * i, 2));
    let mut dw = backend.zeros::<f32>(o, i);
    let best = [
        fastest(backend, 4, || backend.linear(1.0, x.view(), w.weight(), y.out())),
        fastest(backend, 4, || backend.linear_dx(1.0, y.view(), w.weight(), dx.out())),
        fastest(backend, 4, || backend.linear_dw(1.0, y.view(), x.view(), dw.acc())),
    ];
    2.0 * (t * o * i) as f64 / best.into_iter().fold(f64::INFINITY, f64::min)
}

/// Noise as activations.
pub(crate) fn noisy<B: Measured>(backend: &B, rows: usize, cols: usize, seed: u64) -> Mat<B> {
    let values: Vec<B::Act> = crate::noise::cycled(rows * cols, seed).into_iter().map(B::act).collect();
    backend.from_host(rows, cols, &values)
}

/// One large product, to be timed between other work: what the machine does at that moment, whatever its neighbours do.
pub(crate) struct Yardstick<'b, B: Measured> {
    backend: &'b B,
    shape: [usize; 3],
    x: Mat<B>,
    w: Held<B>,
    y: Mat<B>,
}

impl<'b, B: Measured> Yardstick<'b, B> {
    pub(crate) fn new(backend: &'b B, sizes: &Sizes) -> Yardstick<'b, B> {
        let shape @ [t, o, i] = sizes.products[0];
        let w = backend.held(o, i, &crate::noise::cycled(o * i, 2));
        Yardstick { backend, shape, x: noisy(backend, t, i, 1), w, y: backend.mat(t, o) }
    }

    /// Operations per second of the fastest of three.
    pub(crate) fn rate(&mut self) -> f64 {
        let Yardstick { backend, shape: [t, o, i], x, w, y } = self;
        let seconds = fastest(*backend, 3, || backend.linear(1.0, x.view(), w.weight(), y.out()));
        2.0 * (*t * *o * *i) as f64 / seconds
    }
}

/// Bytes per second of `copied` floats that are copied by the processor.
pub(crate) fn copy_rate(threads: usize, copied: usize) -> f64 {
    let from = vec![1.0f32; copied];
    let mut to = vec![0.0f32; from.len()];
    let share = from.len().div_ceil(threads.max(1));
    let once = |to: &mut [f32]| {
        let begin = Instant::now();
        std::thread::scope(|scope| {
            from.chunks(share).zip(to.chunks_mut(share)).for_each(|(from, to)| {
                scope.spawn(|| to.copy_from_slice(from));
            });
        });
        begin.elapsed().as_secs_f64()
    };
    let seconds = (0..6).map(|_| once(&mut to)).fold(f64::INFINITY, f64::min);
    2.0 * 4.0 * from.len() as f64 / seconds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_processor_names_a_folder() {
        assert_eq!(slug("Intel(R) Xeon(R) CPU @ 2.20GHz"), "intel-r-xeon-r-cpu-2-20ghz");
        assert_eq!(slug("AMD EPYC"), "amd-epyc");
    }
}
