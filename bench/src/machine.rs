//! What the figures were measured on, and the two rates that everything is compared with.

use kernels::{Backend, Cpu, Mat, Weight};
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
}

impl Machine {
    /// Looks at this machine.
    pub(crate) fn look() -> Machine {
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
        }
    }

    /// The processor's name as part of a folder's.
    pub(crate) fn slug(&self) -> String {
        slug(&self.cpu)
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
    /// Measures both on all threads; of earlier rates the better is kept.
    pub(crate) fn measure(self, cpu: &Cpu<f32>) -> Rates {
        Rates { flops: self.flops.max(product_rate(cpu)), bytes: self.bytes.max(copy_rate(threads())) }
    }
}

/// Seconds of the fastest of `times` calls.
fn fastest(times: usize, mut work: impl FnMut()) -> f64 {
    let mut once = || {
        let begin = Instant::now();
        work();
        begin.elapsed().as_secs_f64()
    };
    (0..times).map(|_| once()).fold(f64::INFINITY, f64::min)
}

/// Rows, outputs and inputs of the products whose best rate counts.
const PRODUCTS: [[usize; 3]; 4] = [[1024, 2048, 2048], [2048, 2048, 2048], [1024, 4864, 896], [2048, 1024, 4096]];

fn product_rate<B: Backend<Act = f32, Real = f32>>(backend: &B) -> f64 {
    let rate = |[t, o, i]: [usize; 3]| {
        let noise = |n: usize, seed| crate::noise::floats(n, seed);
        let (x, w) = (backend.from_host(t, i, &noise(t * i, 1)), backend.from_host(o, i, &noise(o * i, 2)));
        let (mut y, mut dx) = (backend.from_host(t, o, &noise(t * o, 3)), backend.mat::<f32>(t, i));
        let mut dw = backend.zeros::<f32>(o, i);
        let best = [
            fastest(4, || backend.linear(1.0, x.view(), Weight::Param(w.view()), y.out())),
            fastest(4, || backend.linear_dx(1.0, y.view(), Weight::Param(w.view()), dx.out())),
            fastest(4, || backend.linear_dw(1.0, y.view(), x.view(), dw.acc())),
        ];
        2.0 * (t * o * i) as f64 / best.into_iter().fold(f64::INFINITY, f64::min)
    };
    PRODUCTS.into_iter().map(rate).fold(0.0, f64::max)
}

/// One large product, to be timed between other work: what the machine does at that moment, whatever its neighbours do.
pub(crate) struct Yardstick<'b, B: Backend> {
    backend: &'b B,
    x: Mat<B, f32>,
    w: Mat<B, f32>,
    y: Mat<B, f32>,
}

impl<'b, B: Backend<Act = f32, Real = f32>> Yardstick<'b, B> {
    pub(crate) fn new(backend: &'b B) -> Yardstick<'b, B> {
        let [t, o, i] = PRODUCTS[0];
        let noise =
            |rows: usize, cols: usize, seed| backend.from_host(rows, cols, &crate::noise::floats(rows * cols, seed));
        Yardstick { backend, x: noise(t, i, 1), w: noise(o, i, 2), y: backend.mat(t, o) }
    }

    /// Operations per second of the fastest of three.
    pub(crate) fn rate(&mut self) -> f64 {
        let [t, o, i] = PRODUCTS[0];
        let Yardstick { backend, x, w, y } = self;
        let seconds = fastest(3, || backend.linear(1.0, x.view(), Weight::Param(w.view()), y.out()));
        2.0 * (t * o * i) as f64 / seconds
    }
}

/// Floats that are copied: far beyond any cache.
const COPIED: usize = 48 << 20;

fn copy_rate(threads: usize) -> f64 {
    let from = vec![1.0f32; COPIED];
    let mut to = vec![0.0f32; from.len()];
    let share = from.len().div_ceil(threads.max(1));
    let seconds = fastest(6, || {
        std::thread::scope(|scope| {
            from.chunks(share).zip(to.chunks_mut(share)).for_each(|(from, to)| {
                scope.spawn(|| to.copy_from_slice(from));
            });
        });
    });
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
