//! Setting rows aside for evaluation by hash, so that a row is on the same side in every run.

use crate::dataset::Dataset;
use crate::error::{Error, Result};

/// How much is set aside.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValSize {
    /// A share of the rows, in 0..1.
    Fraction(f64),
    /// A number of rows.
    Rows(usize),
}

/// Splits a data set into rows to train on and rows to evaluate on, each in file order.
///
/// Prompts are taken in the order of their hash until the size is reached, all rows of a prompt together: an answer to a prompt
/// that was trained on says little about others. So the size is met as closely as whole prompts allow, seeds have no
/// say, and the split does not change when rows are reordered. Rows that all have one prompt are taken by their own hash.
///
/// # Errors
/// `Setting` when the size is out of range or one side would be empty.
pub fn split(data: &Dataset, size: ValSize) -> Result<(Dataset, Dataset)> {
    let n = data.len();
    let bad = |reason: String| Error::Setting { key: "val_size", reason };
    let wanted = match size {
        ValSize::Fraction(f) if f > 0.0 && f < 1.0 => ((f * n as f64).round() as usize).max(1),
        ValSize::Rows(rows) if rows > 0 && rows < n => rows,
        ValSize::Fraction(f) => return Err(bad(format!("expected a fraction between 0 and 1, found {f}"))),
        ValSize::Rows(rows) => {
            return Err(bad(format!("expected 1 to {} of the {n} rows, found {rows}", n.saturating_sub(1))));
        }
    };
    let one_prompt = data.rows().windows(2).all(|pair| pair[0].prompt_hash == pair[1].prompt_hash);
    let key = |i: u32| {
        let row = data.row(i as usize);
        if one_prompt { row.row_hash } else { row.prompt_hash }
    };
    let mut rows: Vec<u32> = (0..n as u32).collect();
    rows.sort_by_key(|&i| key(i));
    let prompts: Vec<&[u32]> = rows.chunk_by(|&a, &b| key(a) == key(b)).collect();
    let mut taken = 0;
    for prompt in &prompts[..prompts.len().saturating_sub(1)] {
        // The prompt that crosses the size goes where the result comes closer to it.
        if taken > 0 && taken + prompt.len() > wanted && taken + prompt.len() - wanted > wanted.abs_diff(taken) {
            break;
        }
        taken += prompt.len();
        if taken >= wanted {
            break;
        }
    }
    if taken == 0 {
        return Err(bad(format!("all {n} rows are the same, so none can be set aside; give an evaluation set")));
    }
    let (mut eval, mut train) = (rows[..taken].to_vec(), rows[taken..].to_vec());
    eval.sort_unstable();
    train.sort_unstable();
    Ok((data.select(&train), data.select(&eval)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dataset::{Builder, NewRow};
    use crate::rng::{Stream, mix};

    /// Rows with prompts drawn from `prompts`, in an order drawn from `seed`.
    fn data(rows: usize, prompts: u64, seed: u64) -> Dataset {
        let draw = Stream::new(9, 9);
        let mut numbers: Vec<u64> = (0..rows as u64).collect();
        Stream::new(seed, 1).shuffle(&mut numbers);
        let mut builder = Builder::new();
        for number in numbers {
            builder.push(&NewRow {
                prompt: &[1],
                completion: &[number as u32],
                len: 2,
                spans: std::slice::from_ref(&(1..2)),
                label: None,
                index: 0,
                file: 0,
                line: 1,
                hashes: (mix(draw.below(number, prompts)), mix(number)),
            });
        }
        builder.finish(Vec::new(), None)
    }

    fn sorted_completions(data: &Dataset) -> Vec<u32> {
        let mut all: Vec<u32> = (0..data.len()).map(|i| data.completion(i)[0]).collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn every_row_is_on_one_side_and_no_prompt_on_both() {
        for (rows, prompts) in [(2, 100), (48, 1000), (500, 60), (500, 7)] {
            for size in [ValSize::Fraction(0.1), ValSize::Rows(1), ValSize::Fraction(0.5)] {
                let all = data(rows, prompts, 1);
                let (train, eval) = split(&all, size).unwrap();
                assert!(!train.is_empty() && !eval.is_empty());
                let mut both = [sorted_completions(&train), sorted_completions(&eval)].concat();
                both.sort_unstable();
                assert_eq!(both, sorted_completions(&all));
                let prompts: std::collections::HashSet<u64> = train.rows().iter().map(|r| r.prompt_hash).collect();
                assert!(eval.rows().iter().all(|r| !prompts.contains(&r.prompt_hash)));
            }
        }
    }

    #[test]
    fn rows_do_not_wander_when_the_file_is_reordered() {
        let (_, a) = split(&data(300, 90, 1), ValSize::Fraction(0.2)).unwrap();
        let (_, b) = split(&data(300, 90, 2), ValSize::Fraction(0.2)).unwrap();
        assert_eq!(sorted_completions(&a), sorted_completions(&b));
        assert!((50..=70).contains(&a.len()), "{}", a.len());
    }

    #[test]
    fn a_count_is_exact_when_prompts_are_distinct() {
        let (train, eval) = split(&data(300, u64::MAX, 1), ValSize::Rows(17)).unwrap();
        assert_eq!((train.len(), eval.len()), (283, 17));
    }

    #[test]
    fn impossible_sizes_are_refused() {
        for size in [
            ValSize::Fraction(0.0),
            ValSize::Fraction(1.0),
            ValSize::Fraction(f64::NAN),
            ValSize::Rows(0),
            ValSize::Rows(300),
        ] {
            assert!(matches!(split(&data(300, 9, 1), size), Err(Error::Setting { key: "val_size", .. })));
        }
    }

    #[test]
    fn rows_of_one_prompt_are_split_one_by_one() {
        let (train, eval) = split(&data(10, 1, 1), ValSize::Rows(2)).unwrap();
        assert_eq!((train.len(), eval.len()), (8, 2));
    }
}
