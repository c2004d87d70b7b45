//! Buffers that are used again: a step allocates what the step before it freed.

use crate::Elem;
use mapped::Room;
use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::io;
use std::marker::PhantomData;
use std::ops::Range;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard};

/// Alignment and granularity of every buffer, bytes: a cache line, and a full AVX-512 register.
const LINE: usize = 64;

/// What a buffer on a disk lets go of at once, bytes: a page, or several where pages are small.
const PAGE: usize = 1 << 16;

/// Granularity of large buffers, bytes, and what is large: packs differ a little from step to step, and a buffer that is slightly
/// larger than the one before it would not fit where that one was.
const COARSE: usize = 1 << 20;
const LARGE: usize = 16 * COARSE;

/// Bytes of the first region that is asked of the system, and of the largest that is not for a single buffer.
const REGION: Range<usize> = 64 << 20..1 << 30;

/// What a device that has no room for a buffer panics with, as no operator could go on: whoever runs a whole job catches it
/// ([`OutOfMemory::of`]) and says what was planned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// Bytes of the buffer.
    pub wanted: usize,
    /// Bytes of buffers that were alive.
    pub alive: usize,
    /// Bytes that they may take; `None`: the system had no more.
    pub limit: Option<usize>,
}

impl OutOfMemory {
    /// What a panic was about, if it was this.
    pub fn of(payload: &(dyn std::any::Any + Send)) -> Option<OutOfMemory> {
        payload.downcast_ref().copied()
    }
}

/// Memory in a few large regions, cut into what is alive and what is free. A buffer goes to the lowest place that holds it, and
/// what becomes free joins its neighbours: so the pages that are ever touched hardly exceed the most that was alive at one
/// time, whatever sizes the packs of later steps have.
#[derive(Default)]
pub(crate) struct BufferPool(Mutex<State>);

#[derive(Default)]
struct State {
    regions: Vec<Region>,
    live_bytes: usize,
    peak_bytes: usize,
    limit: Option<usize>,
}

impl BufferPool {
    /// Buffers that are alive at one time may take so many bytes.
    pub(crate) fn limit(&self, bytes: Option<usize>) {
        self.state().limit = bytes;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // The state is plain numbers and regions, valid at every moment: a panic elsewhere does not spoil it.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    pub(crate) fn take_peak(&self) -> usize {
        let mut state = self.state();
        let peak = state.peak_bytes;
        state.peak_bytes = state.live_bytes;
        peak
    }

    /// A block of at least `bytes`.
    fn take(&self, bytes: usize) -> Block {
        let grain = if bytes < LARGE { LINE } else { COARSE };
        let size = bytes.max(1).checked_next_multiple_of(grain).expect("buffer size overflows");
        let mut state = self.state();
        let refused = OutOfMemory { wanted: size, alive: state.live_bytes, limit: state.limit };
        if state.limit.is_some_and(|limit| limit < size.saturating_add(state.live_bytes)) {
            drop(state);
            std::panic::panic_any(refused);
        }
        let held: usize = state.regions.iter().map(|region| region.size).sum();
        let found = state.regions.iter_mut().find_map(|region| region.take(size));
        let Some(block) = found.or_else(|| {
            // Where there is not enough for a generous region there may be for a small one.
            let sizes = [size.max(held.clamp(REGION.start, REGION.end)), size];
            let mut region = sizes.into_iter().find_map(Region::new)?;
            let block = region.take(size);
            state.regions.push(region);
            block
        }) else {
            drop(state);
            std::panic::panic_any(OutOfMemory { limit: None, ..refused });
        };
        state.live_bytes += size;
        state.peak_bytes = state.peak_bytes.max(state.live_bytes);
        block
    }

    fn give(&self, block: Block) {
        let mut state = self.state();
        state.live_bytes -= block.size;
        let region = state.regions.iter_mut().find(|region| region.holds(&block));
        region.expect("a block comes from a region of its pool").give(block);
    }
}

/// A piece of a region that is in use.
struct Block {
    ptr: NonNull<u8>,
    /// Bytes, whole lines.
    size: usize,
}

// SAFETY: a block is exclusively owned plain memory.
unsafe impl Send for Block {}
unsafe impl Sync for Block {}

/// Memory of the system, zeroed when made.
struct Region {
    memory: NonNull<u8>,
    /// The first line inside `memory`.
    first: NonNull<u8>,
    /// Bytes from `first`.
    size: usize,
    /// Lengths of free pieces by their offset; no two touch.
    free: BTreeMap<usize, usize>,
}

// SAFETY: a region is exclusively owned plain memory.
unsafe impl Send for Region {}

impl Region {
    /// Zeroed memory from the system is not touched until it is used, so a generous region costs nothing. That holds for what
    /// is aligned as `malloc` aligns; asked for more, the standard library writes the zeros itself. So a line more is asked
    /// for, and the region begins at the first whole one. `None`: the system does not give as much.
    fn new(size: usize) -> Option<Region> {
        // SAFETY: the size is not zero.
        let memory = NonNull::new(unsafe { System.alloc_zeroed(Region::layout(size)) })?;
        // SAFETY: at most LINE - 1 bytes on, and LINE more than `size` were asked for.
        let first = unsafe { memory.add(memory.as_ptr().align_offset(LINE)) };
        Some(Region { memory, first, size, free: BTreeMap::from([(0, size)]) })
    }

    fn layout(size: usize) -> Layout {
        let bytes = size.checked_add(LINE).expect("buffer size overflows");
        Layout::from_size_align(bytes, align_of::<u64>()).expect("buffer size overflows")
    }

    /// The lowest free place of that size.
    fn take(&mut self, size: usize) -> Option<Block> {
        let (&at, &len) = self.free.iter().find(|(_, len)| **len >= size)?;
        self.free.remove(&at);
        if len > size {
            self.free.insert(at + size, len - size);
        }
        // SAFETY: free pieces lie inside the region.
        Some(Block { ptr: unsafe { self.first.add(at) }, size })
    }

    fn holds(&self, block: &Block) -> bool {
        (self.first.as_ptr() as usize..self.first.as_ptr() as usize + self.size)
            .contains(&(block.ptr.as_ptr() as usize))
    }

    /// Takes a block back and joins it with the free pieces beside it.
    fn give(&mut self, block: Block) {
        let mut at = block.ptr.as_ptr() as usize - self.first.as_ptr() as usize;
        let mut len = block.size + self.free.remove(&(at + block.size)).unwrap_or(0);
        if let Some((&before, &size)) = self.free.range(..at).next_back()
            && before + size == at
        {
            (at, len) = (before, size + len);
        }
        self.free.insert(at, len);
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, freed once; every block holds its pool, so none is alive.
        unsafe { System.dealloc(self.memory.as_ptr(), Region::layout(self.size)) }
    }
}

/// An owned buffer of elements; dropping it returns the memory to its pool, or to the disk.
pub struct CpuBuf<T> {
    place: Place,
    element: PhantomData<T>,
}

/// Where a buffer is.
enum Place {
    /// In memory. The block is gone when the buffer is dropped.
    Pool(Option<Block>, Arc<BufferPool>),
    /// On a disk, which is no part of what a limit counts.
    Disk(Room),
}

impl<T: Elem> CpuBuf<T> {
    pub(crate) fn new(pool: &Arc<BufferPool>, len: usize) -> CpuBuf<T> {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer size overflows");
        CpuBuf { place: Place::Pool(Some(pool.take(bytes)), pool.clone()), element: PhantomData }
    }
    /// Zeros on the disk of a folder.
    pub(crate) fn on_disk(folder: &Path, len: usize) -> io::Result<CpuBuf<T>> {
        let bytes = len.checked_mul(size_of::<T>()).expect("buffer size overflows");
        Ok(CpuBuf { place: Place::Disk(Room::zeros(folder, bytes)?), element: PhantomData })
    }
    /// Lets go of the memory behind elements that lie on a disk.
    pub(crate) fn rest(&self, elements: Range<usize>) {
        if let Place::Disk(room) = &self.place {
            // Whole pages only: the rest of one may be in use.
            let inside = |at: usize| at * size_of::<T>() / PAGE * PAGE;
            room.release(inside(elements.start)..inside(elements.end));
        }
    }
    pub(crate) fn as_ptr(&self) -> *const T {
        match &self.place {
            Place::Pool(block, _) => block.as_ref().map_or(std::ptr::null(), |b| b.ptr.as_ptr().cast_const().cast()),
            Place::Disk(room) => room.as_ptr().cast(),
        }
    }
    pub(crate) fn as_mut_ptr(&mut self) -> *mut T {
        match &mut self.place {
            Place::Pool(block, _) => block.as_mut().map_or(std::ptr::null_mut(), |b| b.ptr.as_ptr().cast()),
            Place::Disk(room) => room.as_mut_ptr().cast(),
        }
    }
}

impl<T> Drop for CpuBuf<T> {
    fn drop(&mut self) {
        if let Place::Pool(block, pool) = &mut self.place
            && let Some(block) = block.take()
        {
            pool.give(block);
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
        assert_eq!(held, 4096);
        let c = CpuBuf::<f64>::new(&pool, 0);
        assert!(!c.as_ptr().is_null());
    }

    #[test]
    fn what_is_freed_joins_its_neighbours_and_the_lowest_place_is_taken() {
        let pool = Arc::new(BufferPool::default());
        let lines = |n: usize| CpuBuf::<u32>::new(&pool, n * LINE / 4);
        let [a, b, c, d] = [1, 2, 3, 1].map(lines);
        let first = a.as_ptr();
        drop(b);
        drop(a);
        drop(c);
        let whole = lines(6);
        assert_eq!(whole.as_ptr(), first);
        let next = lines(1);
        assert_eq!(next.as_ptr() as usize, d.as_ptr() as usize + LINE);
        drop((whole, next, d));
        let state = pool.state();
        assert_eq!(state.live_bytes, 0);
        assert_eq!(state.regions[0].free, BTreeMap::from([(0, REGION.start)]));
    }

    #[test]
    fn a_buffer_beyond_the_limit_is_refused_with_what_there_was() {
        let pool = Arc::new(BufferPool::default());
        pool.limit(Some(1024));
        let held = CpuBuf::<u8>::new(&pool, 512);
        let more = || CpuBuf::<u8>::new(&pool, 513);
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(more)).err().expect("no room");
        let said = OutOfMemory { wanted: 576, alive: 512, limit: Some(1024) };
        assert_eq!(OutOfMemory::of(&*refused), Some(said));
        let huge = || CpuBuf::<u8>::new(&pool, 1 << 62);
        pool.limit(None);
        let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(huge)).err().expect("no such memory");
        assert_eq!(OutOfMemory::of(&*refused).map(|o| o.limit), Some(None));
        drop(held);
        assert_eq!(pool.state().live_bytes, 0);
    }

    #[test]
    fn a_buffer_beyond_the_regions_gets_one_of_its_own() {
        let pool = Arc::new(BufferPool::default());
        let small = CpuBuf::<u32>::new(&pool, 1);
        let large = CpuBuf::<u32>::new(&pool, REGION.start / 4 + 1);
        let again = CpuBuf::<u32>::new(&pool, 1);
        assert_eq!(again.as_ptr() as usize, small.as_ptr() as usize + LINE);
        drop(large);
        assert_eq!(pool.state().regions.iter().map(|r| r.size).collect::<Vec<_>>(), [64 << 20, (64 << 20) + COARSE]);
    }
}
