//! One piece of memory that is dealt out in parts: what a step frees the next one finds, without asking the driver.

use std::collections::BTreeMap;

/// Parts begin at multiples of this, bytes.
pub const GRAIN: usize = 512;

/// Where a piece of memory is free. It holds addresses only.
#[derive(Debug)]
pub(crate) struct Arena {
    first: u64,
    len: usize,
    /// Runs of free bytes by where they begin, no two of them neighbours.
    free: BTreeMap<u64, usize>,
}

impl Arena {
    /// Of `len` bytes from `first` on.
    pub(crate) fn new(first: u64, len: usize) -> Arena {
        let len = len / GRAIN * GRAIN;
        Arena { first, len, free: [(first, len)].into() }
    }

    /// Of its first byte.
    pub(crate) fn address(&self) -> u64 {
        self.first
    }

    /// Whether a part is of this arena.
    pub(crate) fn has(&self, address: u64) -> bool {
        (self.first..self.first + self.len as u64).contains(&address)
    }

    /// Bytes that a part of `bytes` takes.
    pub(super) fn rounded(bytes: usize) -> usize {
        bytes.max(1).next_multiple_of(GRAIN)
    }

    /// A part of at least `bytes` bytes: of the shortest run that has as many, the first of several.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<u64> {
        let bytes = Arena::rounded(bytes);
        let (&at, &run) = self.free.iter().filter(|(_, run)| **run >= bytes).min_by_key(|(at, run)| (**run, **at))?;
        self.free.remove(&at);
        if run > bytes {
            self.free.insert(at + bytes as u64, run - bytes);
        }
        Some(at)
    }

    /// Takes a part of `bytes` bytes back, and joins it with what is free around it.
    pub(crate) fn give(&mut self, mut at: u64, bytes: usize) {
        let mut run = Arena::rounded(bytes);
        if let Some(after) = self.free.remove(&(at + run as u64)) {
            run += after;
        }
        if let Some((&before, &length)) = self.free.range(..at).next_back()
            && before + length as u64 == at
        {
            (at, run) = (before, length + run);
        }
        self.free.insert(at, run);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_never_overlap_and_all_of_the_arena_is_free_in_the_end() {
        let mut arena = Arena::new(4096, 1 << 20);
        let (mut held, mut x): (Vec<(u64, usize)>, u64) = (Vec::new(), 7);
        let mut refused = 0;
        for _ in 0..4000 {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let draw = (x >> 33) as usize;
            if draw.is_multiple_of(3) && !held.is_empty() {
                let (at, bytes) = held.swap_remove(draw / 3 % held.len());
                arena.give(at, bytes);
                continue;
            }
            let bytes = draw % 50_000;
            let Some(at) = arena.take(bytes) else {
                refused += 1;
                continue;
            };
            let end = at + bytes as u64;
            assert!(at.is_multiple_of(512) && at >= 4096 && end <= 4096 + (1 << 20));
            assert!(held.iter().all(|&(other, len)| end <= other || other + len.max(1) as u64 <= at));
            held.push((at, bytes));
        }
        assert!(refused > 100, "the arena was full at times");
        held.into_iter().for_each(|(at, bytes)| arena.give(at, bytes));
        assert_eq!(arena.free, [(4096, 1 << 20)].into());
        assert_eq!(arena.take(1 << 20), Some(4096));
        assert_eq!(arena.take(1), None);
    }
}
