//! NVIDIA GPUs: the same operators as kernels that are compiled when they are first used, and matrix products by cuBLASLt.
//!
//! Everything is queued on one stream in the order of the calls, so memory that was given back can be used at once; activations that
//! wait on the host go and come on another (`offload.rs`). What goes wrong on a device is noticed late; the first failure is kept, later calls do nothing, and [`crate::Memory::trouble`] tells.

mod arena;
mod driver;
mod emulated;
mod examine;
mod given;
mod memory;
mod offload;
mod queue;
mod real;
mod stored;
#[cfg(test)]
mod tests;

pub use arena::GRAIN;
pub use driver::{About, Arg, Driver, Dtype, Grid, Kernel, Plane, Product, Program, Stream, Transfer};
pub use emulated::{Emulated, Order};
pub use examine::{Examination, Measured, examine};
pub use memory::{CudaBuf, Moment};
pub use offload::Held;
pub use queue::{Call, Counts, Graph};
pub use real::{Nvml, Nvrtc, Options, Played, Real, Usage};
pub use stored::CudaStored;

use crate::{Elem, Mat, Out, View};
pub use driver::Factor;
pub(crate) use given::Given;
use given::Tables;
use half::bf16;
use memory::Pool;
use offload::Offload;
use queue::Queue;
use std::collections::HashMap;
use std::fmt;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
pub(crate) use stored::{Lying, NO_ROWS, Panel, shape};

/// What can go wrong with a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// A library that is not there.
    Missing {
        /// Its name.
        library: String,
        /// What was tried, and what to do.
        advice: String,
    },
    /// No such device.
    NoDevice {
        /// Its number.
        number: usize,
        /// How many there are.
        found: usize,
    },
    /// Too old.
    Old {
        /// What.
        what: String,
        /// Its version.
        found: String,
        /// The lowest that works.
        lowest: String,
    },
    /// Device memory is used up.
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// Bytes that are free.
        free: usize,
    },
    /// The host pins no more memory.
    Pinned {
        /// Bytes asked for.
        bytes: usize,
        /// The device's own words.
        code: String,
    },
    /// A kernel's source does not compile.
    Compile {
        /// The source's name.
        program: String,
        /// What the compiler says.
        log: String,
    },
    /// A call that failed.
    Failed {
        /// Call or kernel.
        what: String,
        /// The device's own words.
        code: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Missing { library, advice } => {
                write!(f, "device: cuda needs {library}, which is not there; {advice}")
            }
            Error::NoDevice { number, found } => write!(
                f,
                "device: cuda:{number} is not there, expected a number below {found}; set device: cpu, or install the GPU's driver"
            ),
            Error::Old { what, found, lowest } => {
                write!(f, "{what} {found} is too old for device: cuda, expected {lowest} or newer; update it")
            }
            Error::Memory { bytes, free } => write!(
                f,
                "the GPU's memory is used up: {} MB more were asked for, {} MB are free; lower max_length or the batch, or set gradient_checkpointing: true",
                bytes.div_ceil(1 << 20),
                free >> 20
            ),
            Error::Pinned { bytes, code } => write!(
                f,
                "the host pins no {} MB for activations ({code}); lower max_length or the batch, or set activation_offloading: false",
                bytes.div_ceil(1 << 20)
            ),
            Error::Compile { program, log } => write!(f, "the GPU kernels of `{program}` do not compile here: {log}"),
            Error::Failed { what, code } => write!(f, "the GPU failed in {what}: {code}"),
        }
    }
}

impl std::error::Error for Error {}

impl Error {
    /// 2: what was asked for is not there; 4: memory; 6: the device.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Missing { .. } | Error::NoDevice { .. } | Error::Old { .. } => 2,
            Error::Memory { .. } | Error::Pinned { .. } => 4,
            Error::Compile { .. } | Error::Failed { .. } => 6,
        }
    }
}

/// Elements that activations can have on a GPU.
pub trait Activation: Elem {
    /// In a kernel's source.
    const NAME: &'static str;
    /// In a product.
    const DTYPE: Dtype;
}

impl Activation for f32 {
    const NAME: &'static str = "float";
    const DTYPE: Dtype = Dtype::F32;
}

impl Activation for bf16 {
    const NAME: &'static str = "bf16";
    const DTYPE: Dtype = Dtype::Bf16;
}

/// The kernels of an operator.
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

/// Every program that the operators launch, for activations of both kinds and heads of usual widths: what can be checked without a
/// GPU.
pub fn programs() -> Vec<Program> {
    use crate::{
        adamw, adamw8, attention, clamped, dora, embed, glu, grouped, head, latent, paged, rmsnorm, rope, route, rows,
        scale, sink,
    };
    let plain = [
        adamw::cuda::SOURCE,
        adamw8::cuda::SOURCE,
        clamped::cuda::SOURCE,
        dora::cuda::SOURCE,
        embed::cuda::SOURCE,
        glu::cuda::SOURCE,
        grouped::cuda::SOURCE,
        head::cuda::SOURCE,
        latent::cuda::SOURCE,
        rmsnorm::cuda::SOURCE,
        rope::cuda::SOURCE,
        route::cuda::SOURCE,
        rows::cuda::SOURCE,
        scale::cuda::SOURCE,
        sink::cuda::SOURCE,
        stored::UNPACK,
    ];
    let mut all: Vec<(Source, Defines)> = plain.into_iter().map(|source| (source, Vec::new())).collect();
    // Registers are columns / 32: of Llama's, of Gemma's, of DeepSeek's heads.
    for (q, v) in [(2, 2), (4, 4), (8, 8), (6, 4)] {
        let registers = vec![("Q_REGISTERS", q), ("V_REGISTERS", v)];
        all.push((attention::cuda::SOURCE, registers));
        all.push((paged::cuda::SOURCE, vec![("V_REGISTERS", v)]));
    }
    all.extend(grouped::cuda::WEIGHTS.map(|kind| (grouped::cuda::PRODUCT, vec![("WEIGHT", kind)])));
    let mut tensor = Vec::new();
    for (qk, v) in [(64, 64), (128, 128), (192, 128)] {
        tensor.push(program(&attention::cuda::TENSOR, <bf16 as Activation>::NAME, &[("QK", qk), ("VW", v)]));
    }
    let both = [<f32 as Activation>::NAME, <bf16 as Activation>::NAME];
    let of = |(source, more): (Source, Defines)| both.map(|act| program(&source, act, &more));
    all.into_iter().flat_map(of).chain(tensor).collect()
}

/// A source with what is defined before it.
fn program(source: &Source, act: &'static str, more: &[(&'static str, u32)]) -> Program {
    let more = more.iter().map(|(name, value)| (*name, value.to_string()));
    let defines = [("ACT", act.to_owned())].into_iter().chain(more).collect();
    Program { name: source.name, text: source.text, defines }
}

/// Names and numbers that a program is compiled with.
type Defines = Vec<(&'static str, u32)>;

/// Bytes beside a step's matrices, at most: a panel of a weight that is unpacked, of a weight of `elements`; tiles and sums of a head
/// of `hidden` columns by `vocabulary` rows. Activations have `size` bytes.
pub fn scratch_bytes([elements, hidden, vocabulary]: [usize; 3], size: usize) -> usize {
    let panel = size * elements.min(stored::PANEL_ELEMENTS);
    panel.max(crate::head::cuda::scratch_bytes(hidden, vocabulary, size))
}

/// A kernel by its program's name, its own, the activations' element, and what else is defined.
type KernelName = (&'static str, &'static str, &'static str, Defines);

pub(crate) struct Gpu {
    driver: Box<dyn Driver>,
    pool: Pool,
    kernels: Mutex<HashMap<KernelName, Kernel>>,
    queue: Mutex<Queue>,
    failed: AtomicBool,
    failure: Mutex<Option<Error>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Plain data, valid at every moment: a panic elsewhere does not spoil it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Gpu {
    /// The result of `work`; after a failure nothing is tried any more.
    fn attempt<T>(&self, work: impl FnOnce() -> Result<T, Error>) -> Option<T> {
        if self.failed.load(Ordering::Acquire) {
            return None;
        }
        match work() {
            Ok(value) => Some(value),
            Err(error) => {
                locked(&self.failure).get_or_insert(error);
                self.failed.store(true, Ordering::Release);
                None
            }
        }
    }

    /// Queues a call after those before.
    ///
    /// # Safety
    /// As [`Driver::launch`] and [`Driver::product`].
    unsafe fn queue(&self, call: Call) -> Result<(), Error> {
        // SAFETY: as the caller says; memory that a gathered call reads goes back to the pool of this very queue.
        unsafe { locked(&self.queue).add(&*self.driver, call) }
    }

    /// As [`Gpu::flush`], before the host waits.
    fn wait_counted(&self) -> Result<(), Error> {
        let mut queue = locked(&self.queue);
        queue.counts.waits += 1;
        queue.flush(&*self.driver)
    }

    /// Has the driver do what was gathered, before something that does not go through the queue.
    fn flush(&self) -> Result<(), Error> {
        locked(&self.queue).flush(&*self.driver)
    }

    fn kernel(
        &self,
        source: &Source,
        name: &'static str,
        act: &'static str,
        more: &[(&'static str, u32)],
    ) -> Result<Kernel, Error> {
        let key = (source.name, name, act, more.to_vec());
        if let Some(kernel) = locked(&self.kernels).get(&key) {
            return Ok(*kernel);
        }
        let kernel = self.driver.kernel(&program(source, act, more), name)?;
        locked(&self.kernels).insert(key, kernel);
        Ok(kernel)
    }
}

/// A GPU with activations of `A`; statistics, parameters and gradients are f32.
pub struct Cuda<A = f32> {
    gpu: Arc<Gpu>,
    tables: Arc<Tables>,
    offload: Arc<Offload>,
    act: PhantomData<fn() -> A>,
}

impl<A> Clone for Cuda<A> {
    fn clone(&self) -> Self {
        Cuda { gpu: self.gpu.clone(), tables: self.tables.clone(), offload: self.offload.clone(), act: PhantomData }
    }
}

impl<A: Activation> Cuda<A> {
    /// Works on the device behind `driver`.
    pub fn new(driver: impl Driver + 'static) -> Cuda<A> {
        let gpu = Gpu {
            driver: Box::new(driver),
            pool: Pool::default(),
            kernels: Mutex::default(),
            queue: Mutex::default(),
            failed: AtomicBool::new(false),
            failure: Mutex::new(None),
        };
        let gpu = Arc::new(gpu);
        let offload = Arc::new(Offload::new(&gpu));
        Cuda { gpu, tables: Arc::default(), offload, act: PhantomData }
    }

    /// Opens the GPU that is asked for.
    ///
    /// # Errors
    /// A library or the GPU is not there, or too old.
    pub fn open(options: &Options) -> Result<Cuda<A>, Error> {
        let Some(played) = &options.played else { return Ok(Cuda::new(Real::open(options)?)) };
        let advice = "apt-get install g++: a GPU is to be played by the CPU";
        let emulated = Emulated::found(&played.folder, Order::Ascending)
            .ok_or_else(|| Error::Missing { library: "c++".into(), advice: advice.into() })?;
        Ok(Cuda::new(emulated.with_memory(played.memory)))
    }

    /// The same device with other activations.
    pub fn with_activations<C: Activation>(&self) -> Cuda<C> {
        Cuda { gpu: self.gpu.clone(), tables: self.tables.clone(), offload: self.offload.clone(), act: PhantomData }
    }

    /// The same device with f32 activations.
    pub(crate) fn single(&self) -> Cuda<f32> {
        self.with_activations()
    }

    /// What the device says of itself.
    pub fn about(&self) -> About {
        self.gpu.driver.about()
    }

    /// Queues a kernel of `source`. The arguments must be the kernel's parameters; conformance tests run every one.
    pub(crate) fn launch(&self, source: &Source, kernel: &'static str, grid: Grid, args: &[Arg]) {
        self.launch_with(source, kernel, &[], grid, args);
    }

    /// As [`Cuda::launch`], compiled with more numbers.
    pub(crate) fn launch_with(
        &self,
        source: &Source,
        kernel: &'static str,
        more: &[(&'static str, u32)],
        grid: Grid,
        args: &[Arg],
    ) {
        if grid.blocks.contains(&0) {
            return;
        }
        self.gpu.attempt(|| {
            let kernel = self.gpu.kernel(source, kernel, A::NAME, more)?;
            // SAFETY: addresses come from views, whose buffers go back to the pool of this very stream.
            unsafe { self.gpu.queue(Call::Launch(kernel, grid, args.to_vec())) }
        });
    }

    /// Queues a product; empty ones too.
    pub(crate) fn product(&self, product: &Product) {
        let [m, n, k] = product.shape;
        if m == 0 || n == 0 {
            return;
        }
        self.gpu.attempt(|| {
            if k == 0 {
                let size = product.out_dtype.size();
                let (width, pitch) = (n * size, product.out.ld * size);
                let plane = Plane { address: product.out.address, rows: m, width, pitch };
                // SAFETY: as below.
                return if product.add { Ok(()) } else { unsafe { self.gpu.queue(Call::Zero(plane)) } };
            }
            // SAFETY: callers have checked the shapes of the views that the addresses come from.
            unsafe { self.gpu.queue(Call::Product(*product)) }
        });
    }
}

impl<A, T> From<View<'_, Cuda<A>, T>> for Arg {
    fn from(view: View<'_, Cuda<A>, T>) -> Arg {
        Arg([view.ptr as u64, view.ld as u64])
    }
}

impl<A, T> From<&Out<'_, Cuda<A>, T>> for Arg {
    fn from(out: &Out<'_, Cuda<A>, T>) -> Arg {
        Arg([out.ptr as u64, out.ld as u64])
    }
}

impl<A: Activation, T: Elem> From<&Mat<Cuda<A>, T>> for Arg {
    fn from(mat: &Mat<Cuda<A>, T>) -> Arg {
        Arg::from(mat.view())
    }
}

/// A whole number as kernels take it.
pub(crate) fn count(n: usize) -> Arg {
    Arg::from(u32::try_from(n).expect("rows, columns and heads are below 2^32"))
}

/// Threads of a block for so many columns: whole warps, at most 256.
fn threads(cols: usize) -> u32 {
    cols.next_multiple_of(32).clamp(32, 256) as u32
}

/// A thread for every entry of `[rows, cols]`.
pub(crate) fn entries(rows: usize, cols: usize) -> Grid {
    let threads = threads(cols);
    Grid { blocks: [blocks(rows), blocks(cols.div_ceil(threads as usize)), 1], threads, shared: 0 }
}

/// A thread for every entry of a long line.
pub(crate) fn line(n: usize) -> Grid {
    Grid { blocks: [blocks(n.div_ceil(256)), 1, 1], threads: 256, shared: 0 }
}

/// A block of eight warps for every 32 columns: sums over rows, joined in a fixed order.
pub(crate) fn column_sums(cols: usize) -> Grid {
    Grid { blocks: [blocks(cols.div_ceil(32)), 1, 1], threads: 256, shared: 0 }
}

/// A block for every row, of `cols` columns.
pub(crate) fn rows(rows: usize, cols: usize) -> Grid {
    Grid { blocks: [blocks(rows), 1, 1], threads: threads(cols), shared: 0 }
}

/// A number of blocks.
pub(crate) fn blocks(n: usize) -> u32 {
    u32::try_from(n).expect("fewer than 2^32 blocks")
}

/// A matrix as a factor of a product.
pub(crate) fn factor<A, T>(view: View<'_, Cuda<A>, T>) -> Factor {
    Factor { address: view.ptr as u64, ld: view.ld, turned: false }
}

impl Factor {
    /// The transpose.
    pub(crate) fn turn(self) -> Factor {
        Factor { turned: !self.turned, ..self }
    }
}
