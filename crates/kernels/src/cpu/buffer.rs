//! Buffers that are used again: a step allocates what the step before it freed.

use crate::Elem;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::collections::BTreeMap;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

/// Alignment and granularity of every buffer, bytes: a cache line, and a full AVX-512 register.
const LINE: usize = 64;

/// Free blocks by size, and how much is alive.
#[derive(Default)]
pub(crate) struct BufferPool(Mutex<State>);

#[derive(Default)]
struct State {
    free: BTreeMap<usize, Vec<Block>>,
    free_bytes: usize,
    live_bytes: usize,
    peak_bytes: usize,
}

impl BufferPool {
    fn state(&self) -> MutexGuard<'_, State> {
        // The state is plain numbers and blocks, valid at every moment: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn take_peak(&self) -> usize {
        let mut state = self.state();
        let peak = state.peak_bytes;
        state.peak_bytes = state.live_bytes;
        peak
    }

    /// A block of at least `bytes`: a free one of the same size class, else a new one. Before a new one is made, free
    /// blocks of other sizes are given back up to its size, so that live plus free never exceeds the live peak for long.
    fn take(&self, bytes: usize) -> Block {
        let size = size_class(bytes);
        let mut state = self.state();
        state.live_bytes += size;
        state.peak_bytes = state.peak_bytes.max(state.live_bytes);
        if let Some(block) = state.free.get_mut(&size).and_then(Vec::pop) {
            state.free_bytes -= size;
            return block;
        }
        let mut released = 0;
        while released < size {
            let Some(mut entry) = state.free.last_entry() else { break };
            let freed = *entry.key();
            if entry.get_mut().pop().is_none() {
                entry.remove();
                continue;
            }
            released += freed;
            state.free_bytes -= freed;
        }
        drop(state);
        Block::new(size)
    }

    fn give(&self, block: Block) {
        let mut state = self.state();
        state.live_bytes -= block.size;
        state.free_bytes += block.size;
        state.free.entry(block.size).or_default().push(block);
    }
}

/// Rounds up to three significant bits, at least a line: packs that differ a little use the same blocks.
fn size_class(bytes: usize) -> usize {
    let bytes = bytes.max(LINE);
    let step = (bytes.next_power_of_two() / 8).max(LINE);
    bytes.div_ceil(step) * step
}

/// Raw memory, zeroed when made.
struct Block {
    /// The first line inside `memory`.
    ptr: NonNull<u8>,
    memory: NonNull<u8>,
    /// Bytes from `ptr`.
    size: usize,
}

// SAFETY: a block is exclusively owned plain memory.
unsafe impl Send for Block {}
unsafe impl Sync for Block {}

impl Block {
    /// Zeroed memory from the system is not touched until it is used, so a generous block costs nothing. That holds for what
    /// is aligned as `malloc` aligns; asked for more, the standard library writes the zeros itself. So a line more is asked
    /// for, and the block begins at the first whole one.
    fn new(size: usize) -> Block {
        let layout = Block::layout(size);
        // SAFETY: the size is not zero.
        let memory = unsafe { alloc_zeroed(layout) };
        let memory = NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout));
        // SAFETY: at most LINE - 1 bytes on, and LINE more than `size` were asked for.
        let ptr = unsafe { memory.add(memory.as_ptr().align_offset(LINE)) };
        Block { ptr, memory, size }
    }

    fn layout(size: usize) -> Layout {
        let bytes = size.checked_add(LINE).expect("buffer size overflows");
        Layout::from_size_align(bytes, align_of::<u64>()).expect("buffer size overflows")
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once.
        unsafe { dealloc(self.memory.as_ptr(), Block::layout(self.size)) }
    }
}

/// An owned buffer of elements; dropping it returns the memory to its pool.
pub struct CpuBuf<T> {
    block: Option<Block>,
    pool: Arc<BufferPool>,
    element: PhantomData<T>,
}

impl<T: Elem> CpuBuf<T> {
    pub(crate) fn new(pool: &Arc<BufferPool>, len: usize) -> CpuBuf<T> {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer size overflows");
        CpuBuf { block: Some(pool.take(bytes)), pool: pool.clone(), element: PhantomData }
    }
    pub(crate) fn as_ptr(&self) -> *const T {
        self.block.as_ref().map_or(std::ptr::null(), |b| b.ptr.as_ptr().cast_const().cast())
    }
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        self.block.as_mut().map_or(std::ptr::null_mut(), |b| b.ptr.as_ptr().cast())
    }
}

impl<T> Drop for CpuBuf<T> {
    fn drop(&mut self) {
        if let Some(block) = self.block.take() {
            self.pool.give(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn freed_memory_is_used_again_and_counted() {
        let pool = Arc::new(BufferPool::default());
        let a = CpuBuf::<f32>::new(&pool, 1000);
        let first = a.as_ptr();
        drop(a);
        let b = CpuBuf::<f32>::new(&pool, 1010);
        assert_eq!(b.as_ptr(), first);
        assert_eq!(first as usize % LINE, 0);
        let held = pool.take_peak();
        assert!((4040..=4608).contains(&held), "{held}");
        let c = CpuBuf::<f64>::new(&pool, 0);
        assert!(!c.as_ptr().is_null());
    }

    #[test]
    fn size_classes_waste_at_most_an_eighth_past_a_line() {
        for bytes in (0..5000).chain([1 << 20, (1 << 20) + 1, 123_456_789]) {
            let class = size_class(bytes);
            assert!(
                class >= bytes
                    && class.is_multiple_of(LINE)
                    && (class <= LINE || class - bytes <= (bytes / 4).max(LINE)),
                "{bytes} {class}"
            );
        }
    }
}
