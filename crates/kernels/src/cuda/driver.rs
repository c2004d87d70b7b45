//! What the backend asks of a GPU: memory, copies, kernels, one kind of matrix product. All is queued in order on one
//! stream, but copies to and from pinned memory, which have their own.

use super::{Call, Error, Graph};

/// A kernel source with what is defined before it is compiled.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// Name in messages and of the files that compiled code is kept in.
    pub name: &'static str,
    /// CUDA C++ without includes.
    pub text: &'static str,
    /// Names and what they stand for.
    pub defines: Vec<(&'static str, String)>,
}

impl Program {
    /// The whole text for a compiler: definitions, what all kernels begin with, and the source.
    pub fn whole(&self) -> String {
        let defines: String = self.defines.iter().map(|(name, value)| format!("#define {name} {value}\n")).collect();
        format!("{defines}{}{}", include_str!("prelude.cuh"), self.text)
    }

    /// Kernels of the source, in order.
    pub fn kernels(&self) -> Vec<&'static str> {
        let after = self.text.split("extern \"C\" __global__ void").skip(1);
        let name = |rest: &'static str| {
            // Launch bounds may stand before the name.
            let rest = rest.trim_start();
            let rest = match rest.strip_prefix("__launch_bounds__(") {
                Some(bounds) => bounds.split_once(')').map_or("", |(_, rest)| rest.trim_start()),
                None => rest,
            };
            rest.split_once('(').map_or("", |(name, _)| name.trim_end())
        };
        after.map(name).collect()
    }
}

/// A kernel of a loaded program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel(pub usize);

/// A parameter of a kernel, as its bytes: a number, or an address and a row length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C, align(8))]
pub struct Arg(pub(crate) [u64; 2]);

impl From<u32> for Arg {
    fn from(x: u32) -> Arg {
        Arg([u64::from(x), 0])
    }
}
impl From<u64> for Arg {
    fn from(x: u64) -> Arg {
        Arg([x, 0])
    }
}
impl From<f32> for Arg {
    fn from(x: f32) -> Arg {
        Arg([u64::from(x.to_bits()), 0])
    }
}
impl From<f64> for Arg {
    fn from(x: f64) -> Arg {
        Arg([x.to_bits(), 0])
    }
}

/// Blocks and threads of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grid {
    /// Blocks.
    pub blocks: [u32; 3],
    /// Threads of a block.
    pub threads: u32,
    /// Bytes of shared memory that are asked for at launch.
    pub shared: u32,
}

/// Rows of bytes in device memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plane {
    /// Of the first byte.
    pub address: u64,
    /// Rows.
    pub rows: usize,
    /// Bytes of a row.
    pub width: usize,
    /// Bytes from one row to the next.
    pub pitch: usize,
}

/// Elements of a product's matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE single.
    F32,
    /// bfloat16.
    Bf16,
}

impl Dtype {
    /// Bytes.
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 => 2,
        }
    }
}

/// A row-major matrix of a product; `turned` ones are used as their transpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    /// Of the first element.
    pub address: u64,
    /// Elements from one row to the next.
    pub ld: usize,
    /// Whether the transpose is meant.
    pub turned: bool,
}

/// `out [m, n] = alpha * left [m, k] right [k, n] + (add ? out : 0)`, sums in f32. No dimension is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Product {
    /// Rows, columns, inner length.
    pub shape: [usize; 3],
    /// `[m, k]`.
    pub left: Factor,
    /// `[k, n]`.
    pub right: Factor,
    /// Elements of both.
    pub dtype: Dtype,
    /// Where it goes.
    pub out: Factor,
    /// Its elements.
    pub out_dtype: Dtype,
    /// Factor.
    pub alpha: f32,
    /// Whether what is there stays.
    pub add: bool,
}

/// What is queued in order. The two go side by side but where one is told to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Kernels, products, and copies of what they read and write.
    Compute,
    /// Copies between device memory and pinned memory of the host.
    Transfers,
}

/// Bytes without gaps that go to pinned memory, or come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// Of the first one on the device.
    pub device: u64,
    /// Of the first one in pinned memory.
    pub pinned: u64,
    /// How many.
    pub bytes: usize,
    /// Whether they go to the host.
    pub out: bool,
}

/// What a device says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct About {
    /// Its name.
    pub name: String,
    /// Bytes of its memory.
    pub memory: usize,
    /// Compute capability, as 90 for 9.0.
    pub capability: u32,
    /// Libraries and their versions.
    pub libraries: Vec<(String, String)>,
}

/// A GPU, or something that stands for one.
pub trait Driver: Send + Sync {
    /// What it is.
    fn about(&self) -> About;
    /// Device memory, at least 256 bytes aligned.
    fn alloc(&self, bytes: usize) -> Result<u64, Error>;
    /// Gives memory back.
    fn free(&self, address: u64);
    /// Bytes of device memory that nobody has.
    fn free_memory(&self) -> Result<usize, Error>;
    /// Host to device; `from` is without gaps and may be used again when this returns.
    fn copy_in(&self, from: &[u8], to: Plane) -> Result<(), Error>;
    /// Device to host, after all that was queued before.
    fn copy_out(&self, from: Plane, to: &mut [u8]) -> Result<(), Error>;
    /// Device to device, without gaps.
    fn copy_along(&self, from: u64, to: u64, bytes: usize) -> Result<(), Error>;
    /// All bytes zero.
    fn zero(&self, at: Plane) -> Result<(), Error>;
    /// Compiles and loads a program at its first use.
    fn kernel(&self, program: &Program, name: &str) -> Result<Kernel, Error>;
    /// Queues a kernel.
    ///
    /// # Safety
    /// `args` are the kernel's parameters in number and size, and what they point to is alive until the stream is through.
    unsafe fn launch(&self, kernel: Kernel, grid: Grid, args: &[Arg]) -> Result<(), Error>;
    /// Queues a product.
    ///
    /// # Safety
    /// The matrices lie in device memory, `out` apart from the factors.
    unsafe fn product(&self, product: &Product) -> Result<(), Error>;
    /// Pinned memory of the host, which a GPU reads and writes by itself.
    fn pin(&self, bytes: usize) -> Result<u64, Error>;
    /// Gives pinned memory back.
    fn unpin(&self, address: u64);
    /// Queues a copy on [`Stream::Transfers`].
    ///
    /// # Safety
    /// Both places have the bytes, and are alive until the copy was made.
    unsafe fn transfer(&self, transfer: &Transfer) -> Result<(), Error>;
    /// What is queued on `stream` from here on waits for all that is queued on the other one.
    fn follow(&self, stream: Stream) -> Result<(), Error>;
    /// Waits for all that is queued on [`Stream::Compute`].
    fn wait(&self) -> Result<(), Error>;
    /// Queues a mark, and says what it is called.
    fn mark(&self) -> Result<u64, Error>;
    /// Seconds between two marks on the device's own clock; waits for the later one.
    fn between(&self, from: u64, to: u64) -> Result<f64, Error>;
    /// Nobody asks about this mark any more.
    fn forget(&self, mark: u64);
    /// Makes a graph of calls, none of which is done yet. An error leaves things as they were.
    ///
    /// # Safety
    /// As [`Driver::launch`] and [`Driver::product`], whenever it is replayed.
    unsafe fn capture(&self, calls: &[Call]) -> Result<Graph, Error>;
    /// Queues a graph; `given` are the bytes of its [`Call::Given`], in their order.
    ///
    /// # Safety
    /// As [`Driver::capture`].
    unsafe fn replay(&self, graph: Graph, given: &[Vec<u8>]) -> Result<(), Error>;
    /// Gives a graph back.
    fn release(&self, graph: Graph);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_found_in_their_source() {
        let text = "extern \"C\" __global__ void one(In<act> x) {}\nextern \"C\" __global__ void __launch_bounds__(128, 2) two (u32 n) {}";
        let program = Program { name: "test", text, defines: vec![("ACT", "float".into())] };
        assert_eq!(program.kernels(), ["one", "two"]);
        assert!(program.whole().starts_with("#define ACT float\n//"));
    }
}
