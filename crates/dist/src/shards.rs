//! An arena cut into ranges, one per rank.

use std::ops::Range;

/// Which elements of an arena are whose. Borders lie on blocks whose size is a function of the arena's length alone, so that sums by
/// block are the same however many ranks there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shards {
    len: usize,
    ranks: usize,
}

/// Fewest elements of a block.
const SMALLEST: usize = 1 << 10;
/// Most blocks of an arena.
const BLOCKS: usize = 1 << 16;

impl Shards {
    /// Of `len` elements over `ranks` ranks.
    pub fn new(len: usize, ranks: usize) -> Shards {
        assert!(ranks > 0, "shards of no rank");
        Shards { len, ranks }
    }

    /// Elements of a block.
    pub fn block(&self) -> usize {
        SMALLEST.max(self.len.div_ceil(BLOCKS).next_multiple_of(SMALLEST))
    }

    /// Elements of rank `rank`; empty where there are more ranks than blocks.
    pub fn range(&self, rank: usize) -> Range<usize> {
        let blocks = self.len.div_ceil(self.block());
        let border = |r: usize| (r * blocks / self.ranks * self.block()).min(self.len);
        border(rank)..border(rank + 1)
    }

    /// The range of every rank, in order; together they are the arena.
    pub fn ranges(&self) -> Vec<Range<usize>> {
        (0..self.ranks).map(|r| self.range(r)).collect()
    }

    /// Sums of squares of the blocks of `values`, which begin at a border.
    pub fn square_sums(&self, values: &[f32]) -> Vec<f64> {
        let squares = |block: &[f32]| block.iter().map(|x| f64::from(*x) * f64::from(*x)).sum();
        values.chunks(self.block()).map(squares).collect()
    }
}
