//! The process's heap, which ends it as the program says where the system has no more memory; by itself it would be aborted.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator; `exhausted` is told what could not be had, and must not allocate.
pub struct Heap {
    /// Says so and ends the process.
    pub exhausted: fn(Layout) -> !,
}

impl Heap {
    fn checked(&self, memory: *mut u8, layout: Layout) -> *mut u8 {
        if !memory.is_null() {
            return memory;
        }
        (self.exhausted)(layout)
    }
}

// SAFETY: every call is passed on to the system's allocator as it is.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        self.checked(unsafe { System.alloc(layout) }, layout)
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        self.checked(unsafe { System.alloc_zeroed(layout) }, layout)
    }
    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above.
        self.checked(unsafe { System.realloc(memory, layout, size) }, layout)
    }
    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(memory, layout) }
    }
}
