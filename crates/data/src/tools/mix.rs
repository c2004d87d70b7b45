//! Mixing data sets by weight: which source comes next is a pure function of the position, so going on anywhere is a look-up.

use std::path::{Path, PathBuf};

use super::{PROGRESS_ROWS, Progress, next_object, tell};
use crate::error::{Error, Result};
use crate::rng::Stream;
use crate::sink::{Sink, Written};
use crate::source::Rows;

/// When a mixture ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Before the first source would repeat a row.
    FirstExhausted,
    /// When every source was read at least once; shorter ones repeat.
    AllExhausted,
    /// After so many rows.
    Rows(u64),
}

/// Positions of a block: every block has each source in exactly the same number.
const BLOCK: u64 = 1000;

/// An order of the rows of several sources. The state of a reader is its position, nothing else.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixture {
    /// Rows of each source in a block.
    quotas: Vec<u64>,
    sizes: Vec<u64>,
    seed: u64,
    len: u64,
}

impl Mixture {
    /// A mixture of sources of `sizes` rows by `weights`, which need not sum to one. Weights are met to a thousandth.
    ///
    /// # Errors
    /// `Setting` for weights that are not positive and finite, for a source without rows, or when a weight is below a thousandth.
    pub fn new(sizes: &[u64], weights: &[f64], seed: u64, end: End) -> Result<Mixture> {
        assert_eq!(sizes.len(), weights.len(), "one weight for each source");
        let bad = |reason: String| Error::Setting { key: "mix", reason };
        if let Some(weight) = weights.iter().find(|w| !(**w > 0.0 && w.is_finite())) {
            return Err(bad(format!("expected positive weights, found {weight}")));
        }
        if sizes.is_empty() || sizes.contains(&0) {
            return Err(bad("expected at least one row in each of the sources, found none".into()));
        }
        let sum: f64 = weights.iter().sum();
        let shares: Vec<f64> = weights.iter().map(|w| w / sum * BLOCK as f64).collect();
        let mut quotas: Vec<u64> = shares.iter().map(|s| *s as u64).collect();
        // The rest goes to the largest remainders, the first of equal ones first.
        let mut order: Vec<usize> = (0..quotas.len()).collect();
        order.sort_by(|&a, &b| (shares[b].fract()).total_cmp(&shares[a].fract()));
        let rest = (BLOCK - quotas.iter().sum::<u64>()) as usize;
        order.iter().cycle().take(rest).for_each(|&n| quotas[n] += 1);
        if quotas.contains(&0) {
            return Err(bad(format!("expected weights of at least a thousandth of their sum, found {weights:?}")));
        }
        let mut mixture = Mixture { quotas, sizes: sizes.to_vec(), seed, len: u64::MAX };
        let exhausted = (0..sizes.len()).map(|n| mixture.position_after(n));
        mixture.len = match end {
            End::Rows(rows) => rows,
            End::FirstExhausted => exhausted.min().unwrap_or(0),
            End::AllExhausted => exhausted.max().unwrap_or(0),
        };
        Ok(mixture)
    }

    /// Rows of the mixture.
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no row.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The source at position `at`, and how many rows of that source came before.
    pub fn at(&self, at: u64) -> (usize, u64) {
        let (block, place) = (at / BLOCK, at % BLOCK);
        let mut slot = permute(place, Stream::new(self.seed, block));
        for (source, &quota) in self.quotas.iter().enumerate() {
            if slot < quota {
                // Rows of a source keep their order in a block: count those that come before.
                let stream = Stream::new(self.seed, block);
                let first: u64 = self.quotas[..source].iter().sum();
                let mine = first..first + quota;
                let before = (0..place).filter(|&p| mine.contains(&permute(p, stream))).count() as u64;
                return (source, block * quota + before);
            }
            slot -= quota;
        }
        unreachable!("the quotas fill a block");
    }

    /// For every position the source, and how many rows of that source came before: as [`at`](Self::at), counted on the way.
    pub fn iter(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        let mut before = vec![0; self.quotas.len()];
        (0..self.len).map(move |at| {
            let slot = permute(at % BLOCK, Stream::new(self.seed, at / BLOCK));
            let mut end = 0;
            let of = |quota: &u64| {
                end += quota;
                slot < end
            };
            let source = self.quotas.iter().position(of).expect("the quotas fill a block");
            before[source] += 1;
            (source, before[source] - 1)
        })
    }

    /// One past the position of the last row of the first reading of source `n`.
    fn position_after(&self, n: usize) -> u64 {
        let last = self.sizes[n] - 1;
        let block = last / self.quotas[n];
        let in_block = (block * BLOCK..(block + 1) * BLOCK).find(|&at| self.at(at) == (n, last));
        in_block.expect("every row has a position") + 1
    }
}

/// A permutation of `0..BLOCK`: a Feistel network of four rounds on ten bits, walked until it lands inside.
fn permute(place: u64, stream: Stream) -> u64 {
    let mut x = place;
    loop {
        let (mut left, mut right) = (x >> 5, x & 31);
        for round in 0..4 {
            (left, right) = (right, left ^ (stream.at(round << 5 | right) & 31));
        }
        x = left << 5 | right;
        if x < BLOCK {
            return x;
        }
    }
}

/// What was mixed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mixed {
    /// Rows of each source.
    pub sizes: Vec<u64>,
    /// Rows taken from each source, repeated ones included.
    pub taken: Vec<u64>,
    /// The output and its rows.
    pub written: Written,
}

/// Writes the rows of several sources (each a list of files) mixed by weight; each source's rows stay in order. `progress` is told
/// rows, not bytes.
///
/// # Errors
/// As [`Mixture::new`], and `Io`, `Row`, `Write`, `Table`.
pub fn mix(
    sources: &[Vec<PathBuf>],
    weights: &[f64],
    output: &Path,
    (seed, end): (u64, End),
    progress: Progress<'_>,
) -> Result<Mixed> {
    let mut sizes = Vec::with_capacity(sources.len());
    for files in sources {
        let (mut rows, mut count) = (Rows::open(files), 0_u64);
        while rows.next_row()?.is_some() {
            count += 1;
            if count.is_multiple_of(PROGRESS_ROWS as u64) {
                // How much there is to do is not known before every row was counted.
                tell(progress, 0, 0)?;
            }
        }
        sizes.push(count);
    }
    let mixture = Mixture::new(&sizes, weights, seed, end)?;
    let mut sink = Sink::create(output)?;
    let mut open: Vec<Rows<'_>> = sources.iter().map(|files| Rows::open(files)).collect();
    let mut taken = vec![0; sources.len()];
    for at in 0..mixture.len() {
        let (source, _) = mixture.at(at);
        let files = &sources[source];
        taken[source] += 1;
        let row = match next_object(files, &mut open[source])? {
            Some((_, row)) => row,
            None => {
                open[source] = Rows::open(files);
                let gone = || Error::Setting { key: "mix", reason: "a file shrank while it was read".into() };
                next_object(files, &mut open[source])?.ok_or_else(gone)?.1
            }
        };
        sink.write(&row)?;
        if at.is_multiple_of(PROGRESS_ROWS as u64) {
            tell(progress, at, mixture.len())?;
        }
    }
    Ok(Mixed { sizes, taken, written: sink.finish()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_is_permuted() {
        for seed in 0..3 {
            let mut all: Vec<u64> = (0..BLOCK).map(|n| permute(n, Stream::new(seed, 1))).collect();
            assert_ne!(all, (0..BLOCK).collect::<Vec<_>>());
            all.sort_unstable();
            assert_eq!(all, (0..BLOCK).collect::<Vec<_>>());
        }
    }

    #[test]
    fn weights_are_met_and_each_source_is_read_in_order() {
        let mixture = Mixture::new(&[700, 300, 5000], &[2.0, 1.0, 1.0], 7, End::Rows(2500)).unwrap();
        let mut next = [0_u64; 3];
        for at in 0..mixture.len() {
            let (source, row) = mixture.at(at);
            assert_eq!(row, next[source], "position {at}");
            next[source] += 1;
            if at == 1999 {
                assert_eq!(mixture.iter().nth(1999), Some((source, row)));
            }
        }
        assert!(next[0].abs_diff(1250) < 60 && next[1].abs_diff(625) < 60, "{next:?}");
        assert_eq!(Mixture::new(&[10, 10], &[1.0, 1.0], 7, End::Rows(1000)).unwrap().at(999).1, 499);
    }

    #[test]
    fn a_mixture_ends_when_it_should() {
        let count = |end| {
            let mixture = Mixture::new(&[10, 30], &[1.0, 1.0], 1, end).unwrap();
            (0..mixture.len()).fold([0, 0], |mut n, at| {
                n[mixture.at(at).0] += 1;
                n
            })
        };
        let [first, _] = count(End::FirstExhausted);
        assert_eq!(first, 10);
        let [again, second] = count(End::AllExhausted);
        assert!(second == 30 && again > 10);
        for (sizes, weights) in
            [([1, 0], [1.0, 1.0]), ([1, 1], [1.0, 0.0]), ([1, 1], [1.0, f64::NAN]), ([1, 1], [1.0, 1e-9])]
        {
            assert!(Mixture::new(&sizes, &weights, 1, End::AllExhausted).is_err());
        }
    }
}
