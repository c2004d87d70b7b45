//! Which rows of the cache are free: every sequence has one contiguous range of them, as attention reads one range.

use std::ops::Range;

/// Free ranges of cache rows, ascending, never touching one another.
#[derive(Debug)]
pub(crate) struct Slots {
    free: Vec<Range<usize>>,
}

impl Slots {
    /// `rows` free rows.
    pub(crate) fn new(rows: usize) -> Slots {
        Slots { free: Vec::from_iter((rows > 0).then_some(0..rows)) }
    }

    /// The first free range of `rows` rows, if there is one.
    pub(crate) fn take(&mut self, rows: usize) -> Option<Range<usize>> {
        let i = self.free.iter().position(|range| range.len() >= rows)?;
        let start = self.free[i].start;
        self.free[i].start += rows;
        if self.free[i].is_empty() {
            self.free.remove(i);
        }
        Some(start..start + rows)
    }

    /// Gives back a range that was taken, and joins it with its neighbours.
    pub(crate) fn give(&mut self, range: Range<usize>) {
        if range.is_empty() {
            return;
        }
        let i = self.free.partition_point(|r| r.start < range.start);
        let before = i.checked_sub(1).filter(|&b| self.free[b].end == range.start);
        let after = self.free.get(i).filter(|r| r.start == range.end).map(|r| r.end);
        match (before, after) {
            (Some(b), Some(end)) => {
                self.free[b].end = end;
                self.free.remove(i);
            }
            (Some(b), None) => self.free[b].end = range.end,
            (None, Some(_)) => self.free[i].start = range.start,
            (None, None) => self.free.insert(i, range),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::rng::Stream;

    #[test]
    fn ranges_never_overlap_and_all_come_back() {
        let (mut slots, mut taken) = (Slots::new(100), Vec::<Range<usize>>::new());
        let draw = Stream::new(3, 0);
        for i in 0..2000 {
            let want = draw.below(2 * i, 30) as usize + 1;
            match slots.take(want) {
                Some(range) => {
                    assert_eq!(range.len(), want);
                    assert!(range.end <= 100 && taken.iter().all(|t| t.end <= range.start || range.end <= t.start));
                    taken.push(range);
                }
                None => slots.give(taken.swap_remove(draw.below(2 * i + 1, taken.len() as u64) as usize)),
            }
            let free: usize = slots.free.iter().map(Range::len).sum();
            assert_eq!(free + taken.iter().map(Range::len).sum::<usize>(), 100);
            assert!(slots.free.windows(2).all(|w| w[0].end < w[1].start), "{:?}", slots.free);
        }
        taken.into_iter().for_each(|range| slots.give(range));
        assert_eq!((slots.free.len(), slots.free[0].clone()), (1, 0..100));
    }
}
