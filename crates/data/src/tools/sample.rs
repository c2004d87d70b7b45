//! Taking rows out of data by their hash, so that a row that was drawn stays drawn.

use std::collections::BinaryHeap;
use std::path::{Path, PathBuf};

use super::{PROGRESS_ROWS, Progress, hash_row, in_share, next_object, tell};
use crate::error::{Error, Result};
use crate::rng::mix;
use crate::sink::{Sink, SplitSink, Written};
use crate::source::{Rows, total_bytes};
use crate::split::ValSize;

/// What became of the rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// Rows in the files.
    pub rows_read: u64,
    /// The output and its rows.
    pub written: Written,
}

/// Writes a share or a number of the rows, unchanged and in their order.
///
/// A row is drawn by the hash of its content: the sample does not depend on the order of the rows, and a smaller sample is part of
/// a larger one. A number of rows takes eight bytes of memory for each row taken; equal rows are drawn together.
///
/// # Errors
/// `Setting` for an impossible size, `Io`, `Row`, `Write`, `Table`.
pub fn sample(files: &[PathBuf], output: &Path, size: ValSize, seed: u64, progress: Progress<'_>) -> Result<Sampled> {
    let total = total_bytes(files)?;
    let bad = |reason: String| Error::Setting { key: "sample", reason };
    let limit = match size {
        ValSize::Fraction(share) if share > 0.0 && share <= 1.0 => None,
        ValSize::Fraction(share) => return Err(bad(format!("expected a share above 0 and up to 1, found {share}"))),
        ValSize::Rows(0) => return Err(bad("expected at least one row, found 0".into())),
        ValSize::Rows(count) => Some(greatest_drawn(files, count, seed, progress)?),
    };
    let mut sink = Sink::create(output)?;
    let (mut rows, mut rows_read) = (Rows::open(files), 0_u64);
    while let Some((_, row)) = next_object(files, &mut rows)? {
        rows_read += 1;
        if rows_read.is_multiple_of(PROGRESS_ROWS as u64) {
            tell(progress, rows.bytes_read(), total)?;
        }
        let hash = hash_row(&row);
        let drawn = match (size, limit) {
            (ValSize::Fraction(share), _) => in_share(hash, share, seed),
            (_, limit) => limit.is_some_and(|limit| mix(hash ^ mix(seed)) <= limit),
        };
        if drawn {
            sink.write(&row)?;
        }
    }
    Ok(Sampled { rows_read, written: sink.finish()? })
}

/// The greatest of the `count` least draws.
fn greatest_drawn(files: &[PathBuf], count: usize, seed: u64, progress: Progress<'_>) -> Result<u64> {
    let (mut rows, mut least, total) = (Rows::open(files), BinaryHeap::new(), total_bytes(files)?);
    let mut read = 0_usize;
    while let Some((_, row)) = next_object(files, &mut rows)? {
        read += 1;
        if read.is_multiple_of(PROGRESS_ROWS) {
            tell(progress, rows.bytes_read(), total)?;
        }
        let draw = mix(hash_row(&row) ^ mix(seed));
        if least.len() < count {
            least.push(draw);
        } else if least.peek().is_some_and(|greatest| draw < *greatest) {
            least.pop();
            least.push(draw);
        }
    }
    Ok(least.peek().copied().unwrap_or(0))
}

/// Divides rows, unchanged, into a part to train on and one set aside, by the hash of the whole row or of the field `by`.
///
/// Rows with the same value in `by` (the prompt, the problem) stay together.
///
/// # Errors
/// As [`sample`]; `Setting` for a share outside 0..1.
pub fn split(
    files: &[PathBuf],
    output: &Path,
    (train_share, seed): (f64, u64),
    by: Option<&str>,
    progress: Progress<'_>,
) -> Result<Vec<Written>> {
    if !(train_share > 0.0 && train_share < 1.0) {
        let reason = format!("expected a share between 0 and 1, found {train_share}");
        return Err(Error::Setting { key: "split", reason });
    }
    let mut sinks = SplitSink::create(output)?;
    let (mut rows, mut read, total) = (Rows::open(files), 0_usize, total_bytes(files)?);
    while let Some((_, row)) = next_object(files, &mut rows)? {
        read += 1;
        if read.is_multiple_of(PROGRESS_ROWS) {
            tell(progress, rows.bytes_read(), total)?;
        }
        let key = by.and_then(|name| row.get(name));
        let hash = key.map_or_else(|| hash_row(&row), |value| super::hash(value.to_string().as_bytes()));
        let sink = if in_share(hash, train_share, seed) { &mut sinks.train } else { &mut sinks.test };
        sink.write(&row)?;
    }
    sinks.finish()
}
