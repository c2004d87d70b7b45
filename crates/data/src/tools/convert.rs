//! Any readable data into the one form this crate writes: `prompt` + `completion` (+ `label`), `messages` or `text`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::in_share;
use crate::dataset::Report;
use crate::error::{Error, Result};
use crate::format::{Shape, Task};
use crate::read::Examples;
use crate::sink::{Sink, SplitSink, Written};
use crate::source::total_bytes;
use crate::tokenise::Options;

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Rows in the files.
    pub rows_read: usize,
    /// Rows written with label true.
    pub desirable: usize,
    /// Rows written with label false.
    pub undesirable: usize,
    /// Rows left out because they are bad.
    pub bad: usize,
    /// The message of the first of them.
    pub first_bad: Option<String>,
    /// The shapes that rows were read in.
    pub shapes: BTreeMap<Shape, usize>,
    /// Fields that were not carried over, each with its number of rows.
    pub unused_fields: BTreeMap<String, usize>,
    /// The outputs and their rows.
    pub written: Vec<Written>,
}

enum Outputs {
    One(Box<Sink>),
    Two(Box<SplitSink>),
}

/// Writes `files` to `output`; pairs and rows with several answers become one row per answer, in their order.
///
/// With `train_share`, the prompts whose hash falls in that share (under `seed`) go to `train` and the rest to `test`: all rows of
/// a prompt together, and the same ones whatever the order of the rows. `progress` is told bytes read and bytes in all.
///
/// # Errors
/// `Row` for the first bad row (unless they are skipped), `Setting` for a share outside 0..1, `Io`, `Write`, `Table`.
pub fn convert(
    files: &[PathBuf],
    output: &Path,
    options: &Options,
    train_share: Option<f64>,
    seed: u64,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Converted> {
    assert!(options.task != Task::Prompt, "prompts alone are no training data");
    if let Some(share) = train_share.filter(|share| !(*share > 0.0 && *share < 1.0)) {
        let reason = format!("expected a share between 0 and 1, found {share}");
        return Err(Error::Setting { key: "split", reason });
    }
    let total = total_bytes(files)?;
    let mut outputs = match train_share {
        None => Outputs::One(Box::new(Sink::create(output)?)),
        Some(_) => Outputs::Two(Box::new(SplitSink::create(output)?)),
    };
    let (mut rows, mut done, mut seen) = (Examples::open(files, options), Converted::default(), Report::default());
    while let Some((_, row)) = rows.next_row()? {
        seen.see(row.shape, &row.unused);
        for example in &row.examples {
            done.desirable += usize::from(example.label == Some(true));
            done.undesirable += usize::from(example.label == Some(false));
            let sink = match (&mut outputs, train_share) {
                (Outputs::One(sink), _) => sink,
                (Outputs::Two(two), Some(share)) if in_share(example.hashes().0, share, seed) => &mut two.train,
                (Outputs::Two(two), _) => &mut two.test,
            };
            sink.write(&example.to_row())?;
        }
        if rows.rows_read.is_multiple_of(1000) {
            progress(rows.bytes_read(), total);
        }
    }
    progress(total, total);
    (done.rows_read, done.bad, done.first_bad) = (rows.rows_read, rows.bad, rows.first_bad);
    (done.shapes, done.unused_fields) = (seen.shapes, seen.unused_fields);
    done.written = match outputs {
        Outputs::One(sink) => vec![sink.finish()?],
        Outputs::Two(two) => two.finish()?,
    };
    Ok(done)
}

/// Writes each pair of `files` as a desirable and an undesirable row, interleaved.
///
/// # Errors
/// As [`convert`], and `Row` for a row that is no pair.
pub fn unpair(
    files: &[PathBuf],
    output: &Path,
    options: &Options,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Converted> {
    let options = Options { task: Task::Kto, shape: Some(Shape::Pair), ..options.clone() };
    convert(files, output, &options, None, 0, progress)
}
