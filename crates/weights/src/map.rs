//! Read-only memory maps of weight files: the only `unsafe` of this crate.
#![allow(unsafe_code)]

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};

use crate::error::Error;

/// A whole file, mapped read-only; never empty.
#[derive(Debug)]
pub(crate) struct Map {
    path: PathBuf,
    mmap: Mmap,
}

impl Map {
    /// Maps the first `len` bytes of `file`, which the caller has just found to have that length.
    pub(crate) fn new(path: &Path, file: &File, len: usize) -> Result<Map, Error> {
        // SAFETY: the mapping is read-only and `len` does not pass the end of the file, so no access through it can
        // fault as long as the file keeps its length and contents. That is the contract of a weight file in use: this
        // crate itself never writes to a file in place (`write` makes a new one and renames it over the old name,
        // which leaves mapped contents as they were), and a program that truncates a model while it is being trained
        // on is outside of what any reader by memory map can answer for.
        let mmap = unsafe { MmapOptions::new().len(len).map(file) }.map_err(Error::io("map", path))?;
        Ok(Map { path: path.to_owned(), mmap })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.mmap
    }

    /// Lets go of the physical pages behind `range`; the next read brings them back from the file.
    pub(crate) fn release(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.mmap.len(), "{range:?} of {}", self.mmap.len());
        if range.is_empty() {
            return;
        }
        #[cfg(unix)]
        {
            // SAFETY: the mapping is shared, read-only and backed by a file, so it has no dirty pages to lose: a later
            // read through any live slice faults the same bytes in again. `range` was checked to lie inside.
            let advised = unsafe {
                self.mmap.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, range.start, range.len())
            };
            // Only advice: where the system declines, the pages stay resident and nothing else changes.
            let _ = advised;
        }
    }
}
