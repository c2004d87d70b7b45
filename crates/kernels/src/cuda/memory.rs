//! Device memory: blocks that are used again, copies, frozen weights as they are stored.

use super::arena::Arena;
use super::{Activation, Call, Counts, Cuda, CudaStored, Error, Gpu, Plane, locked};
use crate::{Elem, HostTensor, Mark, Mat, Memory, Offloaded, Out, View};
use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::{Arc, Mutex};

/// What the driver gave, where it is free, and how much is alive.
#[derive(Default)]
pub(crate) struct Pool(Mutex<State>);

#[derive(Default)]
struct State {
    /// What was reserved before the first step.
    arena: Option<Arena>,
    /// Free blocks by size of what does not fit there. The first is taken: the same work finds the same memory again.
    free: BTreeMap<usize, BTreeSet<u64>>,
    live_bytes: usize,
    peak_bytes: usize,
    /// Of the driver.
    held_bytes: usize,
    /// As many as that may become.
    limit: Option<usize>,
    /// How often the driver was asked.
    asked: usize,
}

/// Rounds up to three significant bits, at least 512 bytes: packs that differ a little use the same blocks.
fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(512);
    let step = (bytes.next_power_of_two() / 8).max(512);
    bytes.div_ceil(step) * step
}

/// Device memory that goes back to its pool.
pub(crate) struct Block {
    pub(crate) address: u64,
    size: usize,
    gpu: Arc<Gpu>,
}

impl Block {
    pub(crate) fn new(gpu: &Arc<Gpu>, bytes: usize) -> Block {
        let mut state = locked(&gpu.pool.0);
        let reserved = state.arena.as_mut().and_then(|arena| arena.take(bytes));
        let size = if reserved.is_some() { bytes } else { size_class(bytes) };
        state.live_bytes += size;
        state.peak_bytes = state.peak_bytes.max(state.live_bytes);
        let known = reserved.or_else(|| state.free.get_mut(&size).and_then(BTreeSet::pop_first));
        let address = known.or_else(|| gpu.attempt(|| fresh(gpu, &mut state, size)));
        // Without memory the address is never used: nothing is queued after a failure.
        Block { address: address.unwrap_or(0), size, gpu: gpu.clone() }
    }
}

/// New memory; where there is none, after all that lies free was given back.
fn fresh(gpu: &Gpu, state: &mut State, size: usize) -> Result<u64, Error> {
    ask(gpu, state, size).or_else(|_| {
        gpu.flush()?;
        gpu.driver.wait()?;
        for (size, addresses) in std::mem::take(&mut state.free) {
            state.held_bytes -= size * addresses.len();
            addresses.into_iter().for_each(|address| gpu.driver.free(address));
        }
        ask(gpu, state, size)
    })
}

/// Memory of the driver, as long as that is allowed.
fn ask(gpu: &Gpu, state: &mut State, bytes: usize) -> Result<u64, Error> {
    let free = state.limit.map_or(usize::MAX, |limit| limit.saturating_sub(state.held_bytes));
    if bytes > free {
        return Err(Error::Memory { bytes, free });
    }
    state.asked += 1;
    let address = gpu.driver.alloc(bytes)?;
    state.held_bytes += bytes;
    Ok(address)
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut state = locked(&self.gpu.pool.0);
        state.live_bytes -= self.size;
        match &mut state.arena {
            _ if self.address == 0 => {}
            Some(arena) if arena.has(self.address) => arena.give(self.address, self.size),
            _ => _ = state.free.entry(self.size).or_default().insert(self.address),
        }
    }
}

impl Drop for Gpu {
    fn drop(&mut self) {
        locked(&self.queue).end(&*self.driver);
        let State { arena, free, .. } = std::mem::take(&mut *locked(&self.pool.0));
        let reserved = arena.map(|arena| arena.address());
        free.into_values().flatten().chain(reserved).for_each(|address| self.driver.free(address));
    }
}

/// A mark in what is queued.
pub struct Moment {
    /// As the driver calls it; none after a failure.
    mark: Option<u64>,
    gpu: Arc<Gpu>,
}

impl Drop for Moment {
    fn drop(&mut self) {
        self.mark.into_iter().for_each(|mark| self.gpu.driver.forget(mark));
    }
}

/// An owned buffer of elements on the device.
pub struct CudaBuf<T> {
    block: Block,
    element: PhantomData<fn() -> T>,
}

pub(super) fn bytes_of<T: Elem>(values: &[T]) -> &[u8] {
    // SAFETY: elements are plain numbers without padding.
    unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
}

fn bytes_of_mut<T: Elem>(values: &mut [T]) -> &mut [u8] {
    // SAFETY: as above, and any bits are a number.
    unsafe { std::slice::from_raw_parts_mut(values.as_mut_ptr().cast(), size_of_val(values)) }
}

/// The bytes of `rows` rows of `cols` elements that are `ld` apart.
fn plane<T>(address: u64, rows: usize, cols: usize, ld: usize) -> Plane {
    let size = size_of::<T>();
    Plane { address, rows, width: cols * size, pitch: ld.max(cols) * size }
}

impl<A: Activation> Cuda<A> {
    /// Most bytes of device matrices that were alive at one time since the last call.
    pub fn take_peak_bytes(&self) -> usize {
        let mut state = locked(&self.gpu.pool.0);
        let live = state.live_bytes;
        std::mem::replace(&mut state.peak_bytes, live)
    }

    /// Bytes of device memory that nobody has, or that this device may still take.
    ///
    /// # Errors
    /// The driver does not say.
    pub fn free_memory(&self) -> Result<usize, Error> {
        let free = self.gpu.driver.free_memory()?;
        let state = locked(&self.gpu.pool.0);
        Ok(state.limit.map_or(free, |limit| free.min(limit.saturating_sub(state.held_bytes))))
    }

    /// The same device, on which matrices take at most so many bytes.
    pub fn with_limit(self, limit: Option<usize>) -> Cuda<A> {
        locked(&self.gpu.pool.0).limit = limit;
        self
    }

    /// Takes memory at once for what will be needed: nothing more is asked of the driver while it suffices. Where the driver has
    /// no such piece, memory is asked for bit by bit as before.
    pub fn reserve(&self, bytes: usize) {
        let mut state = locked(&self.gpu.pool.0);
        if state.arena.is_none() && bytes > 0 {
            state.arena = ask(&self.gpu, &mut state, bytes).ok().map(|address| Arena::new(address, bytes));
        }
    }

    /// Pins memory of the host at once for all activations that will be offloaded; without it, and where it does not suffice, they
    /// stay on the device.
    ///
    /// # Errors
    /// [`Error::Pinned`].
    pub fn reserve_host(&self, bytes: usize) -> Result<(), Error> {
        self.offload.reserve(bytes)
    }

    /// Most bytes that lay in pinned memory at one time since the last call.
    pub fn take_host_peak_bytes(&self) -> usize {
        self.offload.take_peak()
    }

    /// What was counted since the last call.
    pub fn take_counts(&self) -> Counts {
        std::mem::take(&mut locked(&self.gpu.queue).counts)
    }

    /// How often the driver was asked for memory.
    pub fn times_asked(&self) -> usize {
        locked(&self.gpu.pool.0).asked
    }

    /// Copies as the driver does: what copies by others are compared with. Both are without gaps.
    pub fn copy_along<T: Elem>(&self, from: View<'_, Self, T>, to: Out<'_, Self, T>) {
        assert!(from.shape() == to.shape() && from.ld == from.cols && to.ld == to.cols, "a copy without gaps");
        let bytes = from.rows * from.cols * size_of::<T>();
        self.gpu.attempt(|| {
            self.gpu.flush()?;
            self.gpu.driver.copy_along(from.ptr as u64, to.ptr as u64, bytes)
        });
    }

    /// Bytes as they are, on the device.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Block {
        let block = Block::new(&self.gpu, bytes.len());
        if !bytes.is_empty() {
            let to = Plane { address: block.address, rows: 1, width: bytes.len(), pitch: bytes.len() };
            self.copy_in(bytes, to);
        }
        block
    }

    fn copy_in(&self, bytes: &[u8], to: Plane) {
        self.gpu.attempt(|| {
            let mut queue = locked(&self.gpu.queue);
            if queue.is_direct() {
                queue.note(bytes.len());
                return self.gpu.driver.copy_in(bytes, to);
            }
            // SAFETY: the plane lies in a block of the pool.
            unsafe { queue.add(&*self.gpu.driver, Call::Given(to, bytes.into())) }
        });
    }

    /// Numbers as they are, on the device.
    pub(crate) fn numbers<T: Elem>(&self, values: &[T]) -> Block {
        self.bytes(bytes_of(values))
    }
}

impl<A: Activation> Memory for Cuda<A> {
    type Act = A;
    type Real = f32;
    type Buf<T: Elem> = CudaBuf<T>;
    type Stored = CudaStored;

    fn alloc<T: Elem>(&self, len: usize) -> CudaBuf<T> {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer size overflows");
        CudaBuf { block: Block::new(&self.gpu, bytes), element: PhantomData }
    }
    fn address<T: Elem>(buf: &CudaBuf<T>) -> *const T {
        buf.block.address as *const T
    }
    fn address_mut<T: Elem>(buf: &mut CudaBuf<T>) -> *mut T {
        buf.block.address as *mut T
    }
    fn upload<T: Elem>(&self, src: &[T], dst: Out<'_, Self, T>) {
        assert_eq!(src.len(), dst.rows * dst.cols, "upload of {} elements into {} x {}", src.len(), dst.rows, dst.cols);
        if !src.is_empty() {
            let to = plane::<T>(dst.ptr as u64, dst.rows, dst.cols, dst.ld);
            self.copy_in(bytes_of(src), to);
        }
    }
    fn download<T: Elem>(&self, src: View<'_, Self, T>, dst: &mut [T]) {
        assert_eq!(dst.len(), src.rows * src.cols, "download of {} x {} into {}", src.rows, src.cols, dst.len());
        if !dst.is_empty() {
            let from = plane::<T>(src.ptr as u64, src.rows, src.cols, src.ld);
            self.gpu.attempt(|| {
                self.gpu.wait_counted()?;
                self.gpu.driver.copy_out(from, bytes_of_mut(dst))
            });
            self.tables.forget();
        }
    }
    fn fill_zero<T: Elem>(&self, dst: Out<'_, Self, T>) {
        if dst.rows > 0 && dst.cols > 0 {
            let at = plane::<T>(dst.ptr as u64, dst.rows, dst.cols, dst.ld);
            // SAFETY: the plane lies in a matrix that is borrowed.
            self.gpu.attempt(|| unsafe { self.gpu.queue(Call::Zero(at)) });
        }
    }
    fn trouble(&self) -> Option<Error> {
        self.gpu.attempt(|| {
            self.gpu.wait_counted()?;
            self.gpu.driver.wait()
        });
        self.tables.forget();
        locked(&self.gpu.failure).clone()
    }
    fn repeats(&self) {
        locked(&self.gpu.queue).gather();
    }
    fn mark(&self) -> Mark {
        let mark = self.gpu.attempt(|| {
            self.gpu.flush()?;
            self.gpu.driver.mark()
        });
        Mark::Gpu(Moment { mark, gpu: self.gpu.clone() })
    }
    fn seconds(&self, from: &Mark, to: &Mark) -> f64 {
        let mark = |mark: &Mark| if let Mark::Gpu(moment) = mark { moment.mark } else { None };
        let both = mark(from).zip(mark(to));
        let seconds = both.and_then(|(from, to)| self.gpu.attempt(|| self.gpu.driver.between(from, to)));
        seconds.unwrap_or(f64::NAN)
    }
    fn offload(&self, mat: Mat<Self>) -> Offloaded<Self> {
        let (rows, cols) = (mat.rows(), mat.cols());
        match self.offload.leave(mat.into_buf().block, rows * cols * size_of::<A>()) {
            Ok(held) => Offloaded::Away { held, rows, cols },
            Err(block) => Offloaded::Here(Mat::of_buf(CudaBuf { block, element: PhantomData }, rows, cols)),
        }
    }
    fn reload(&self, offloaded: Offloaded<Self>) -> Mat<Self> {
        match offloaded {
            Offloaded::Here(mat) => mat,
            Offloaded::Away { held, rows, cols } => {
                Mat::of_buf(CudaBuf { block: held.back(), element: PhantomData }, rows, cols)
            }
        }
    }
    fn store(&self, tensor: HostTensor, rows: usize, cols: usize) -> CudaStored {
        CudaStored::new(self, &tensor, rows, cols)
    }
    fn stored_to_host(&self, stored: &CudaStored, dst: &mut [f32]) {
        stored.to_host(self, dst);
    }
}
