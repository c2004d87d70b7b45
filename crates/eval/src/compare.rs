//! Two models on the same rows: the difference with its interval, and how likely it is chance.

use crate::Marks;
use crate::stats::{Estimate, paired_difference, paired_p};
use std::collections::BTreeMap;

/// Resamples of the bootstrap.
const RESAMPLES: usize = 10_000;

/// How a second model does against a first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Comparison {
    /// Rows that both answered.
    pub rows: usize,
    /// Second minus first, of 1.
    pub difference: Estimate,
    /// Rows on which the second is better, and worse.
    pub won: usize,
    /// Rows on which it is worse.
    pub lost: usize,
    /// Two-sided, paired.
    pub p: f64,
}

/// Compares row by row; `None` where no row was answered by both.
pub fn compare(first: &[Marks], second: &[Marks], seed: u64) -> Option<Comparison> {
    let shares = |marks: &[Marks]| -> BTreeMap<(String, i64), f64> {
        let of = |marks: &Marks| {
            marks.rows.iter().map(|row| ((marks.task.clone(), row.item.idx), row.share())).collect::<Vec<_>>()
        };
        marks.iter().flat_map(of).collect()
    };
    let (first, second) = (shares(first), shares(second));
    let both: Vec<(f64, f64)> = first.iter().filter_map(|(key, a)| Some((*a, *second.get(key)?))).collect();
    if both.is_empty() {
        return None;
    }
    let (a, b): (Vec<f64>, Vec<f64>) = both.into_iter().unzip();
    let differences: Vec<f64> = a.iter().zip(&b).map(|(a, b)| b - a).collect();
    Some(Comparison {
        rows: a.len(),
        difference: paired_difference(&a, &b, RESAMPLES, seed),
        won: differences.iter().filter(|d| **d > 0.0).count(),
        lost: differences.iter().filter(|d| **d < 0.0).count(),
        p: paired_p(&differences, seed),
    })
}
