//! What computes: the processor, or a GPU; and how large the things are that are measured on it.

use crate::error::Error;
use crate::machine::{copy_rate, threads};
use crate::operators::Shape;
use kernels::cuda::{Cuda, Nvml, Options};
use kernels::{Backend, Cpu, HostTensor, Mat, Memory, StoredDtype, Weight, bf16};
use std::sync::Arc;

/// A device by its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Named {
    /// The processor.
    #[default]
    Cpu,
    /// The GPU of a number.
    Cuda(usize),
}

impl Named {
    /// As the command line has it: `cpu`, `cuda`, `cuda:1`.
    pub(crate) fn read(text: &str) -> Result<Named, String> {
        let number = |rest: &str| if rest.is_empty() { Some(0) } else { rest.strip_prefix(':')?.parse().ok() };
        match text.strip_prefix("cuda").map(number) {
            None if text == "cpu" => Ok(Named::Cpu),
            Some(Some(number)) => Ok(Named::Cuda(number)),
            _ => Err("expected cpu, cuda, or cuda with a number, as in cuda:1".to_owned()),
        }
    }

    /// As configurations have it.
    pub(crate) fn text(self) -> String {
        match self {
            Named::Cpu => "cpu".to_owned(),
            Named::Cuda(number) => format!("cuda:{number}"),
        }
    }
}

/// What is opened for every measurement anew, so that each begins with all of its memory.
#[derive(Clone)]
pub(crate) enum Device {
    /// The processor, in mixed precision or not.
    Cpu { bf16: bool },
    /// A GPU, or one that is played by the processor; activations are bfloat16.
    Gpu(Options),
}

impl Device {
    /// A GPU finds its libraries where the environment says.
    pub(crate) fn new(named: Named, bf16: bool) -> Device {
        match named {
            Named::Cpu => Device::Cpu { bf16 },
            Named::Cuda(number) => {
                Device::Gpu(Options { number, ..Options::of_variables(|name| std::env::var_os(name)) })
            }
        }
    }

    /// The same in full precision, where that is a choice.
    pub(crate) fn plainly(&self) -> Device {
        match self {
            Device::Cpu { .. } => Device::Cpu { bf16: false },
            Device::Gpu(options) => Device::Gpu(options.clone()),
        }
    }

    /// What is measured on it.
    pub(crate) fn sizes(&self) -> &'static Sizes {
        match self {
            Device::Cpu { .. } => &ON_CPU,
            Device::Gpu(options) if options.played.is_none() => &ON_GPU,
            Device::Gpu(_) => &PLAYED,
        }
    }

    /// How the memory of programs is looked at that compute on it.
    pub(crate) fn meter(&self) -> Result<Meter, Error> {
        match self {
            Device::Gpu(options) if options.played.is_none() => {
                let _open = Cuda::<bf16>::open(options)?;
                let nvml = Nvml::open(options)?;
                let by_process = nvml.held_by(std::process::id())?.is_some();
                Ok(Meter::Gpu { nvml, by_process })
            }
            _ => Ok(Meter::Resident),
        }
    }
}

/// Does something with the device, opened.
macro_rules! on {
    ($device:expr, $backend:ident => $work:expr) => {
        match $device {
            $crate::device::Device::Cpu { bf16 } => {
                let $backend = $crate::machine::cpu(*bf16);
                $work
            }
            $crate::device::Device::Gpu(options) => {
                let $backend = kernels::cuda::Cuda::<kernels::bf16>::open(options)?;
                $work
            }
        }
    };
}
pub(crate) use on;

/// What of a program's memory is looked at.
pub(crate) enum Meter {
    /// What is resident, mapped files included; the system keeps the high-water mark.
    Resident,
    /// What it has of a GPU; where the driver does not tell processes apart, what all have more than before it began.
    Gpu { nvml: Nvml, by_process: bool },
}

impl Meter {
    /// In results.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Meter::Resident => "resident",
            Meter::Gpu { by_process: true, .. } => "of the GPU, by process",
            Meter::Gpu { .. } => "of the GPU, in all",
        }
    }
}

/// How large things are that are measured.
pub(crate) struct Sizes {
    /// Whose operators.
    pub(crate) shapes: &'static [Shape],
    /// Rows.
    pub(crate) rows: usize,
    /// Scored rows.
    pub(crate) scored: usize,
    /// Elements of the optimiser's ranges.
    pub(crate) parameters: usize,
    /// Tokens of a sequence in attention.
    pub(crate) lengths: &'static [usize],
    /// Rows that sequences fill together, where one alone is shorter.
    pub(crate) attention_rows: usize,
    /// How frozen weights are stored: in how many bits, of `gate` alone or of all.
    pub(crate) stored: &'static [(StoredDtype, &'static str)],
    pub(crate) all_stored: bool,
    /// Rows, outputs and inputs of the products whose best rate counts; the first one is timed between steps.
    pub(crate) products: &'static [[usize; 3]],
    /// Bytes that are copied: far beyond any cache.
    pub(crate) copied: usize,
    /// Calls that are queued before their times are asked for.
    pub(crate) queued: usize,
}

const ON_CPU: Sizes = Sizes {
    shapes: &[
        Shape { name: "small-105m", d: 512, f: 1408, n: 8, k: 4, h: 64, v: 151_665 },
        Shape { name: "qwen2.5-0.5b", d: 896, f: 4864, n: 14, k: 2, h: 64, v: 151_936 },
    ],
    rows: 1024,
    scored: 512,
    parameters: 1 << 24,
    lengths: &[256, 1024],
    attention_rows: 1024,
    stored: &[(StoredDtype::F32, "f32"), (StoredDtype::Bf16, "bf16")],
    all_stored: false,
    products: &[[1024, 2048, 2048], [2048, 2048, 2048], [1024, 4864, 896], [2048, 1024, 4096]],
    copied: 192 << 20,
    queued: 1,
};

const ON_GPU: Sizes = Sizes {
    shapes: &[Shape { name: "qwen2.5-7b", d: 3584, f: 18_944, n: 28, k: 4, h: 128, v: 152_064 }],
    rows: 4096,
    scored: 2048,
    parameters: 1 << 28,
    lengths: &[2048, 4096, 8192, 16_384, 32_768],
    attention_rows: 0,
    stored: &[(StoredDtype::Bf16, "bf16")],
    all_stored: true,
    products: &[[4096, 4096, 4096], [8192, 8192, 8192], [4096, 18_944, 3584], [8192, 3584, 18_944]],
    copied: 1 << 30,
    queued: 16,
};

/// A played GPU takes minutes for what a real one does in a millisecond.
const PLAYED: Sizes = Sizes {
    shapes: &[Shape { name: "tiny", d: 32, f: 48, n: 2, k: 1, h: 64, v: 70 }],
    rows: 40,
    scored: 6,
    parameters: 1000,
    lengths: &[40],
    attention_rows: 0,
    products: &[[16, 24, 32]],
    copied: 1 << 12,
    queued: 2,
    ..ON_GPU
};

/// A device whose operators are measured.
pub(crate) trait Measured: Backend<Real = f32> {
    /// An activation.
    fn act(x: f32) -> Self::Act;
    /// A weight as large products have it.
    fn held(&self, rows: usize, cols: usize, values: &[f32]) -> Held<Self>;
    /// Bytes read and written per second by large copies.
    fn copy_rate(&self, bytes: usize) -> f64;
}

/// A weight, trained or frozen.
pub(crate) enum Held<B: Memory> {
    /// Trained.
    Param(Mat<B, B::Real>),
    /// Frozen.
    Stored(B::Stored),
}

impl<B: Memory> Held<B> {
    /// To be multiplied with.
    pub(crate) fn weight(&self) -> Weight<'_, B> {
        match self {
            Held::Param(w) => Weight::Param(w.view()),
            Held::Stored(w) => Weight::Stored(w),
        }
    }
}

/// A frozen weight of 16 or 32 bits: the upper half of a float is the nearest bf16 towards zero.
pub(crate) fn stored<B: Memory>(
    backend: &B,
    rows: usize,
    cols: usize,
    values: &[f32],
    dtype: StoredDtype,
) -> B::Stored {
    let first = 4 - dtype.bytes(1);
    let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes().into_iter().skip(first)).collect();
    backend.store(HostTensor::new(Arc::new(bytes), dtype), rows, cols)
}

/// Seconds of the fastest of `times` calls, on the device's own clock.
pub(crate) fn fastest<B: Memory>(backend: &B, times: usize, mut work: impl FnMut()) -> f64 {
    let mut once = || {
        let begin = backend.mark();
        work();
        backend.seconds(&begin, &backend.mark())
    };
    (0..times).map(|_| once()).fold(f64::INFINITY, f64::min)
}

impl Measured for Cpu<f32> {
    fn act(x: f32) -> f32 {
        x
    }
    fn held(&self, rows: usize, cols: usize, values: &[f32]) -> Held<Self> {
        Held::Param(self.from_host(rows, cols, values))
    }
    fn copy_rate(&self, bytes: usize) -> f64 {
        copy_rate(threads(), bytes / 4)
    }
}

impl Measured for Cuda<bf16> {
    fn act(x: f32) -> bf16 {
        bf16::from_f32(x)
    }
    fn held(&self, rows: usize, cols: usize, values: &[f32]) -> Held<Self> {
        Held::Stored(stored(self, rows, cols, values, StoredDtype::Bf16))
    }
    fn copy_rate(&self, bytes: usize) -> f64 {
        let (from, mut to) = (self.zeros::<u8>(1, bytes), self.mat::<u8>(1, bytes));
        let seconds = fastest(self, 6, || self.copy_along(from.view(), to.out()));
        2.0 * bytes as f64 / seconds
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_named_as_configurations_name_them() {
        assert_eq!(
            ["cpu", "cuda", "cuda:3"].map(|name| Named::read(name).unwrap().text()),
            ["cpu", "cuda:0", "cuda:3"]
        );
        assert!(["gpu", "cuda:", "cuda:x", ""].into_iter().all(|name| Named::read(name).is_err()));
    }
}
