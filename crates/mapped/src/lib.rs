//! Files as memory: weights and the tokens of a data set, read in place by read-only maps; and room on disk for what a run need not hold
//! in memory.
#![allow(unsafe_code)]

mod room;

pub use room::Room;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use memmap2::{Mmap, MmapOptions};

/// The first bytes of a file, or all of it.
#[derive(Debug)]
pub struct Map {
    path: PathBuf,
    mmap: Mmap,
}

impl Map {
    /// Maps the first `len` bytes of `file`, which the caller has just found to have that length.
    ///
    /// Errors: the system's.
    pub fn new(path: &Path, file: &File, len: usize) -> io::Result<Map> {
        // SAFETY: the mapping is read-only and `len` does not pass the end of the file, so no access through it can
        // fault as long as the file keeps its length and contents. That is the contract of a file in use: nobody here
        // writes to one in place (a new one is made and renamed over the old name, which leaves mapped contents as they
        // were), and a program that truncates a model while it is being trained on is outside of what any reader by
        // memory map can answer for.
        let mmap = unsafe { MmapOptions::new().len(len).map(file) }?;
        Ok(Map { path: path.to_owned(), mmap })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What it holds.
    pub fn bytes(&self) -> &[u8] {
        &self.mmap
    }

    /// It as whole numbers; `None` where this machine keeps their bytes in another order than the file, or some are left over.
    pub fn little_endian_words(&self) -> Option<&[u32]> {
        if cfg!(target_endian = "big") { None } else { bytemuck::try_cast_slice(self.bytes()).ok() }
    }

    /// Lets go of the physical pages behind `range`; the next read brings them back from the file.
    pub fn release(&self, range: Range<usize>) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_in_place_and_come_back_after_a_release() {
        let path = std::env::temp_dir().join(format!("prospect-mapped-{}", std::process::id()));
        let words: Vec<u32> = (0..5000).map(|i| i * 77_777).collect();
        std::fs::write(&path, words.iter().flat_map(|w| w.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        let file = File::open(&path).unwrap();
        let map = Map::new(&path, &file, 20_000).unwrap();
        assert_eq!(map.little_endian_words(), Some(&words[..]));
        map.release(0..20_000);
        assert_eq!(map.little_endian_words(), Some(&words[..]));
        assert_eq!(Map::new(&path, &file, 19_999).unwrap().little_endian_words(), None, "three bytes are left over");
        std::fs::remove_file(&path).unwrap();
    }
}
