//! Room on disk that is used as memory: a file without a name, which is gone with the process.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use memmap2::{MmapRaw, UncheckedAdvice};

/// Zeros written at a time where the system cannot set a file's blocks aside.
const PIECE: usize = 1 << 20;

/// Writable bytes that lie in a file of their own. What was written stays when their physical pages are let go.
#[derive(Debug)]
pub struct Room {
    map: MmapRaw,
    /// Where the file still has a name: this system keeps it while the file is open.
    named: Option<PathBuf>,
}

impl Room {
    /// `len` zeros (at least one) on the disk of `folder`, which is asked for all of them now: a page of a file that finds no room later would end the
    /// process.
    ///
    /// Errors: the system's; a full disk among them.
    pub fn zeros(folder: &Path, len: usize) -> io::Result<Room> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(".room-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = folder.join(name);
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path)?;
        // Where an open file can lose its name it does so at once, so that no end of this process leaves it behind.
        let named = if cfg!(unix) { std::fs::remove_file(&path).map(|()| None)? } else { Some(path) };
        let room = |map| Room { map, named: named.clone() };
        let made = set_aside(&file, len.max(1)).and_then(|()| MmapRaw::map_raw(&file)).map(room);
        if let (Err(_), Some(path)) = (&made, &named) {
            // It is the first error that matters; a file that stays says by its name whose it was.
            let _ = std::fs::remove_file(path);
        }
        made
    }

    /// The first byte; all of them may be read and written as long as this lives.
    pub fn as_ptr(&self) -> *const u8 {
        self.map.as_ptr()
    }

    /// The first byte, to be written.
    pub fn as_mut_ptr(&mut self) -> *mut u8 {
        self.map.as_mut_ptr()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: the map has so many bytes for as long as this lives, its file has their blocks and no name by which
        // another would change them, and who writes to them has this exclusively.
        unsafe { std::slice::from_raw_parts(self.map.as_ptr(), self.map.len()) }
    }

    /// The bytes, to be written.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.map.as_mut_ptr(), self.map.len()) }
    }

    /// The first `n` of them as plain numbers.
    pub fn numbers<T: bytemuck::Pod>(&self, n: usize) -> &[T] {
        bytemuck::cast_slice(&self.bytes()[..n * size_of::<T>()])
    }

    /// The same, to be written.
    pub fn numbers_mut<T: bytemuck::Pod>(&mut self, n: usize) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.bytes_mut()[..n * size_of::<T>()])
    }

    /// Bytes.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.map.len() == 0
    }

    /// Lets go of the physical pages of `range`, which are written to the file in the system's own time and come back when they are used.
    pub fn release(&self, range: Range<usize>) {
        assert!(range.start <= range.end && range.end <= self.len(), "{range:?} of {}", self.len());
        #[cfg(unix)]
        if !range.is_empty() {
            // SAFETY: the map is shared and backed by a file, so what was written lives on in the system's pages of that
            // file; only this process's view of them is dropped. `range` was checked to lie inside.
            let advised =
                unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
            // Only advice: where the system declines, the pages stay resident and nothing else changes.
            let _ = advised;
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some(path) = &self.named {
            // Nothing can be done about a file that will not go, and its name says whose it was.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Gives the file its blocks.
fn set_aside(file: &File, len: usize) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::empty(), 0, len as u64) {
        // A file system that cannot is written to.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {}
        Err(e) => return Err(e.into()),
        Ok(()) => return Ok(()),
    }
    let zeros = vec![0; PIECE];
    let mut to: &File = file;
    (0..len).step_by(PIECE).try_for_each(|at| to.write_all(&zeros[..PIECE.min(len - at)]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_comes_back_after_its_pages_were_let_go_and_no_file_is_left() {
        let folder = std::env::temp_dir().join(format!("prospect-room-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let mut room = Room::zeros(&folder, 50_000).unwrap();
        assert_eq!(room.bytes(), [0; 50_000]);
        room.bytes_mut().iter_mut().enumerate().for_each(|(i, byte)| *byte = (i * 7) as u8);
        room.release(4096..40_000);
        assert!(room.bytes().iter().enumerate().all(|(i, byte)| *byte == (i * 7) as u8));
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), if cfg!(unix) { 0 } else { 1 });
        drop(room);
        std::fs::remove_dir(&folder).unwrap();
    }

    #[test]
    fn a_folder_that_is_not_there_and_a_disk_that_is_too_small_are_errors() {
        let folder = std::env::temp_dir();
        assert_eq!(Room::zeros(&folder.join("nowhere"), 1).unwrap_err().kind(), io::ErrorKind::NotFound);
        assert!(cfg!(not(target_os = "linux")) || Room::zeros(&folder, 1 << 60).is_err());
    }
}
