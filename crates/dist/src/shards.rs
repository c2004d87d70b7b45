//! An arena dealt to ranks in stripes.

use std::ops::Range;

/// Which elements of an arena are whose: stripe after stripe, in turn. Borders do not depend on how many ranks there are, so sums by
/// stripe are the same for any number; and any part of the arena that is much longer than a stripe lies with all ranks alike, so
/// that none has to send more than its share of it.
///
/// What a rank has of anything it holds in the order of the arena, without gaps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shards {
    /// Where stripes begin, and the end of the last.
    borders: Vec<usize>,
    ranks: usize,
}

/// Fewest elements of a stripe.
const SMALLEST: usize = 1 << 10;
/// Most stripes of an arena: each is a launch of the optimiser.
const STRIPES: usize = 1 << 12;

impl Shards {
    /// Of `len` elements over `ranks` ranks.
    pub fn new(len: usize, ranks: usize) -> Shards {
        Shards::with_borders(len, ranks, |at| at)
    }

    /// As [`Shards::new`], where `allowed` gives the last place at or before another at which a stripe may begin.
    pub fn with_borders(len: usize, ranks: usize, allowed: impl Fn(usize) -> usize) -> Shards {
        assert!(ranks > 0, "shards of no rank");
        let stripe = SMALLEST.max(len.div_ceil(STRIPES).next_multiple_of(SMALLEST));
        let mut borders: Vec<usize> = (0..len).step_by(stripe).map(allowed).chain([len]).collect();
        borders.dedup();
        Shards { borders, ranks }
    }

    /// Ranks that have a part.
    pub fn ranks(&self) -> usize {
        self.ranks
    }

    /// What rank `rank` has of elements `window`, ascending.
    pub fn parts(&self, rank: usize, window: Range<usize>) -> impl Iterator<Item = Range<usize>> + '_ {
        let first = self.borders.partition_point(|b| *b <= window.start).saturating_sub(1);
        let stripes = self.borders[first..].windows(2).enumerate().take_while(move |(_, s)| s[0] < window.end);
        let own = stripes.filter(move |(k, _)| (first + k) % self.ranks == rank);
        own.map(move |(_, s)| s[0].max(window.start)..s[1].min(window.end))
    }

    /// How many elements of `window` rank `rank` has.
    pub fn count(&self, rank: usize, window: Range<usize>) -> usize {
        self.parts(rank, window).map(|part| part.len()).sum()
    }

    /// Where the elements of `window` lie among all that rank `rank` has.
    pub fn place(&self, rank: usize, window: Range<usize>) -> Range<usize> {
        let first = self.count(rank, 0..window.start);
        first..first + self.count(rank, window)
    }

    /// Sums of squares of the stripes of rank `rank`, whose elements are `values`.
    pub fn square_sums(&self, rank: usize, values: &[f32]) -> Vec<f64> {
        let mut rest = values;
        let sum = |part: Range<usize>| {
            let (stripe, after) = rest.split_at(part.len());
            rest = after;
            stripe.iter().map(|x| f64::from(*x) * f64::from(*x)).sum()
        };
        self.parts(rank, 0..self.borders[self.borders.len() - 1]).map(sum).collect()
    }

    /// One number for each stripe, in the order of the arena, from each rank's.
    pub fn in_order(&self, by_rank: &[Vec<f64>]) -> Vec<f64> {
        (0..self.borders.len() - 1).map(|stripe| by_rank[stripe % self.ranks][stripe / self.ranks]).collect()
    }
}

/// `len` elements in runs of about the same length, one for each rank.
pub fn even(len: usize, ranks: usize) -> Vec<Range<usize>> {
    (0..ranks).map(|r| r * len / ranks..(r + 1) * len / ranks).collect()
}
