//! The CPU: plain loops over rows, generic over the float; `Cpu<f64>` is the oracle of the gradient checks.

mod buffer;
pub(crate) mod simd;
mod stored;

pub use buffer::{CpuBuf, OutOfMemory};
pub use stored::CpuStored;
pub(crate) use stored::Packed;

use crate::adamw::cpu::AdamwLoops;
use crate::adamw8::cpu::Adamw8Loops;
use crate::apart::Apart;
use crate::attention::cpu::AttentionLoops;
use crate::capped::cpu::CappedLoops;
use crate::clamped::cpu::ClampedLoops;
use crate::codes::{CodeLoops, Decode};
use crate::dora::cpu::DoraLoops;
use crate::gemm::cpu::{GemmLoops, Multiplied};
use crate::gemm::mixed::{Mix, Mixed};
use crate::gemm::turn::Turn;
use crate::glu::cpu::GluLoops;
use crate::head::cpu::HeadLoops;
use crate::rmsnorm::cpu::RmsNormLoops;
use crate::rope::cpu::RopeLoops;
use crate::rows::cpu::RowLoops;
use crate::scale::cpu::ScaleLoops;
use crate::{Acc, Elem, HostTensor, Memory, Out, Real, View};
use buffer::BufferPool;
use rayon::prelude::*;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
pub(crate) use stored::UnpackLoops;

/// The inner loops of all operators over slices of `E`.
pub trait Loops<E>:
    AdamwLoops<E>
    + Adamw8Loops<E>
    + Apart
    + AttentionLoops<E>
    + CappedLoops<E>
    + ClampedLoops<E>
    + CodeLoops<E>
    + Decode
    + GluLoops<E>
    + DoraLoops<E>
    + GemmLoops<E>
    + Multiplied
    + HeadLoops<E>
    + Mix
    + RmsNormLoops<E>
    + RopeLoops<E>
    + RowLoops<E>
    + ScaleLoops<E>
    + Turn
    + UnpackLoops<E>
{
}

impl Loops<f32> for f32 {}
impl Loops<f64> for f64 {}

/// A CPU with its own threads. Results do not depend on their number. Copies share the threads and the memory.
#[derive(Clone)]
pub struct Cpu<E> {
    threads: Arc<rayon::ThreadPool>,
    buffers: Arc<BufferPool>,
    /// Whether the rows of a product stand apart.
    pub(crate) apart: bool,
    /// Products in mixed precision, where they are asked for.
    pub(crate) mixed: Option<Mixed<E>>,
    float: PhantomData<fn() -> E>,
}

impl<E: Real> Cpu<E> {
    /// A CPU that works on `threads` threads (at least one).
    pub fn new(threads: usize) -> Cpu<E> {
        let threads = rayon::ThreadPoolBuilder::new().num_threads(threads.max(1)).thread_name(|i| format!("cpu-{i}"));
        Cpu {
            // Spawning a handful of threads fails only when the process is out of them; nothing could go on then.
            threads: Arc::new(threads.build().expect("cannot start threads")),
            buffers: Arc::default(),
            apart: false,
            mixed: None,
            float: PhantomData,
        }
    }

    /// The same threads and memory, with products (`linear`, `linear_dx`) in which a row's bits do not depend on the rows beside it:
    /// for generation. Many rows at a time take a little longer than in the products of training, a few rows less.
    pub fn rows_apart(&self) -> Cpu<E> {
        Cpu { apart: true, ..self.clone() }
    }

    /// The same CPU in mixed precision, where the processor multiplies bfloat16: linear layers and the head round their factors to it, sums
    /// stay f32. It halves the time of a large product. Attention, adapters of a small rank and all else stay as they are.
    pub fn mixed(self) -> Cpu<E> {
        Cpu { mixed: E::mixed(), ..self }
    }

    /// Whether this processor has products in mixed precision.
    pub fn has_mixed() -> bool {
        E::mixed().is_some()
    }

    /// The same CPU, whose matrices may take so many bytes at one time; beyond them it panics with [`OutOfMemory`].
    pub fn with_limit(self, bytes: Option<usize>) -> Cpu<E> {
        self.buffers.limit(bytes);
        self
    }

    /// Runs `work` on this CPU's threads, so that the operators inside start without a hand-over.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.threads.install(work)
    }

    /// Threads.
    pub fn num_threads(&self) -> usize {
        self.threads.current_num_threads()
    }

    /// Most bytes of device matrices that were alive at one time since the last call.
    pub fn take_peak_bytes(&self) -> usize {
        self.buffers.take_peak()
    }

    /// Runs `work` once for each item, in parallel.
    pub(crate) fn each<I: Send>(&self, items: Vec<I>, work: impl Fn(I) + Send + Sync) {
        if items.len() <= 1 {
            return items.into_iter().for_each(work);
        }
        self.install(|| items.into_par_iter().with_max_len(1).for_each(work));
    }
}

impl<E: Real> Memory for Cpu<E> {
    type Act = E;
    type Real = E;
    type Buf<T: Elem> = CpuBuf<T>;
    type Stored = CpuStored;

    fn alloc<T: Elem>(&self, len: usize) -> CpuBuf<T> {
        CpuBuf::new(&self.buffers, len)
    }
    fn room<T: Elem>(&self, folder: &Path, len: usize) -> io::Result<CpuBuf<T>> {
        CpuBuf::on_disk(folder, len)
    }
    fn rest<T: Elem>(buf: &CpuBuf<T>, elements: Range<usize>) {
        buf.rest(elements);
    }
    fn address<T: Elem>(buf: &CpuBuf<T>) -> *const T {
        buf.as_ptr()
    }
    fn address_mut<T: Elem>(buf: &mut CpuBuf<T>) -> *mut T {
        buf.as_mut_ptr()
    }
    fn upload<T: Elem>(&self, src: &[T], mut dst: Out<'_, Self, T>) {
        assert_eq!(src.len(), dst.rows * dst.cols, "upload of {} elements into {} x {}", src.len(), dst.rows, dst.cols);
        let cols = dst.cols;
        (0..dst.rows).for_each(|i| dst.row_mut(i).copy_from_slice(&src[i * cols..(i + 1) * cols]));
    }
    fn download<T: Elem>(&self, src: View<'_, Self, T>, dst: &mut [T]) {
        assert_eq!(
            dst.len(),
            src.rows * src.cols,
            "download of {} x {} into {} elements",
            src.rows,
            src.cols,
            dst.len()
        );
        (0..src.rows).for_each(|i| dst[i * src.cols..(i + 1) * src.cols].copy_from_slice(src.row(i)));
    }
    fn fill_zero<T: Elem>(&self, mut dst: Out<'_, Self, T>) {
        (0..dst.rows).for_each(|i| dst.row_mut(i).fill(T::default()));
    }
    fn store(&self, tensor: HostTensor, rows: usize, cols: usize) -> CpuStored {
        CpuStored::new(tensor, rows, cols)
    }
    fn stored_to_host(&self, stored: &CpuStored, dst: &mut [E]) {
        stored.unpack(0..stored.rows, dst);
    }
    /// On this CPU's threads: operators that are called there are not handed over first.
    fn within<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.install(work)
    }
}

impl<'a, E: Real, T> View<'a, Cpu<E>, T> {
    /// Row `i`.
    pub(crate) fn row(&self, i: usize) -> &'a [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: a View lies inside the buffer it borrows; rows and columns were checked when it was cut.
        unsafe { std::slice::from_raw_parts(self.ptr.add(i * self.ld), self.cols) }
    }
}

impl<'a, E: Real, T> Out<'a, Cpu<E>, T> {
    /// Row `i`, to be written.
    pub(crate) fn row_mut(&mut self, i: usize) -> &mut [T] {
        assert!(i < self.rows, "row {i} of {}", self.rows);
        // SAFETY: as for `View::row`; an Out is an exclusive borrow.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.add(i * self.ld), self.cols) }
    }
    /// All rows as one slice, whose lines are `ld` apart.
    pub(crate) fn lines(&mut self) -> &mut [T] {
        let len = if self.rows == 0 { 0 } else { (self.rows - 1) * self.ld + self.cols };
        // SAFETY: as for `row_mut`. Between the columns of two rows lie columns of the same buffer that belong to no other
        // borrow in use: pieces are cut by rows before they are handed to other threads.
        unsafe { std::slice::from_raw_parts_mut(self.ptr, len) }
    }
    /// Cuts into pieces of at most `chunk` rows, each with the number of its first row.
    pub(crate) fn row_chunks(self, chunk: usize) -> Vec<(usize, Out<'a, Cpu<E>, T>)> {
        let (rows, chunk) = (self.rows, chunk.max(1));
        let cut = |r: usize| Out { ptr: self.ptr.wrapping_add(r * self.ld), rows: chunk.min(rows - r), ..self };
        (0..rows).step_by(chunk).map(|r| (r, cut(r))).collect()
    }
    /// Cuts into pieces of at most `chunk` columns, each with the number of its first column.
    pub(crate) fn col_chunks(self, chunk: usize) -> Vec<(usize, Out<'a, Cpu<E>, T>)> {
        let (cols, chunk) = (self.cols, chunk.max(1));
        let cut = |c: usize| Out { ptr: self.ptr.wrapping_add(c), cols: chunk.min(cols - c), ..self };
        (0..cols).step_by(chunk).map(|c| (c, cut(c))).collect()
    }
}

impl<'a, E: Real, T> Acc<'a, Cpu<E>, T> {
    /// As an [`Out`], for loops that read what is there and write the sum.
    pub(crate) fn inner(self) -> Out<'a, Cpu<E>, T> {
        self.0
    }
}
