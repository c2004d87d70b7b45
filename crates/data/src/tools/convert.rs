//! Any readable data into the one form this crate writes: `prompt` + `completion` (+ `label`), `messages` or `text`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{PROGRESS_ROWS, Progress, in_share, tell};
use crate::dataset::Report;
use crate::error::{Error, Result};
use crate::format::{Example, Shape, Task};
use crate::journal::{Journal, Position};
use crate::read::Examples;
use crate::sink::{Sink, SplitSink, Written};
use crate::source::total_bytes;
use crate::tokenise::Options;

/// What became of the rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Rows of `rows_read` that an earlier call had done.
    pub gone_on_from: usize,
    /// The outputs and their rows.
    #[serde(skip)]
    pub written: Vec<Written>,
}

/// How the outputs divide the rows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    /// The share of the prompts that goes to `train`, above 0 and below 1; the rest goes to `test`.
    pub train_share: f64,
    /// Which prompts these are.
    pub seed: u64,
}

enum Outputs {
    One(Box<Sink>),
    Two(Box<SplitSink>, Split),
}

/// Bytes read between two notes of how far the work is.
const JOURNAL_BYTES: u64 = 128 << 20;

/// Writes `files` to `output`; pairs and rows with several answers become one row per answer, in their order.
///
/// With `split`, prompts are divided by their hash: all rows of a prompt together, and the same ones whatever the order of the
/// rows. Stopped by `progress`, killed, or with the disk full, what was done lies beside the output under a hidden name, and the same call goes on
/// from there.
///
/// # Errors
/// `Row` for the first bad row (unless they are skipped), `Setting` for a share outside 0..1, `Stopped`, `Io`, `Write`, `Table`.
pub fn convert(
    files: &[PathBuf],
    output: &Path,
    options: &Options,
    split: Option<Split>,
    progress: Progress<'_>,
) -> Result<Converted> {
    assert!(options.task != Task::Prompt, "prompts alone are no training data");
    if let Some(split) = split.filter(|split| !(split.train_share > 0.0 && split.train_share < 1.0)) {
        let reason = format!("expected a share between 0 and 1, found {}", split.train_share);
        return Err(Error::Setting { key: "split", reason });
    }
    let total = total_bytes(files)?;
    let (journal, key) = Journal::of(output, files, &[&format!("convert {split:?} {options:?}")])?;
    let (outputs, done) = Outputs::open(output, &key, split, journal.read())?;
    let converted =
        write(files, options, &journal, (outputs, done), &mut |done, of| tell(progress, done, of.unwrap_or(total)));
    if !converted.as_ref().is_err_and(Error::may_go_on) {
        journal.remove();
    }
    converted
}

/// Goes through the rows that are left. `go_on` is told the bytes read, then the bytes of a table written and how many there are.
fn write(
    files: &[PathBuf],
    options: &Options,
    journal: &Journal,
    (mut outputs, mut done): (Outputs, Converted),
    go_on: &mut dyn FnMut(u64, Option<u64>) -> Result<()>,
) -> Result<Converted> {
    let mut rows = Examples::open(files, options);
    let read = read_rows(&mut rows, journal, (&mut outputs, &mut done), go_on);
    if let Err(error) = read {
        if error.may_go_on() {
            outputs.keep();
        }
        return Err(error);
    }
    let mut writing = |written, all| go_on(written, Some(all)).map_err(|_| Error::Stopped { kept: true });
    done.written = match outputs {
        Outputs::One(sink) => vec![sink.finish_telling(&mut writing)?],
        Outputs::Two(two, _) => two.finish_telling(&mut writing)?,
    };
    Ok(done)
}

/// The first of two passes where the output is a table, else all of it.
fn read_rows(
    rows: &mut Examples<'_>,
    journal: &Journal,
    (outputs, done): (&mut Outputs, &mut Converted),
    go_on: &mut dyn FnMut(u64, Option<u64>) -> Result<()>,
) -> Result<()> {
    rows.skip(done.rows_read)?;
    (done.gone_on_from, rows.bad, rows.first_bad) = (done.rows_read, done.bad, done.first_bad.take());
    let (shapes, unused_fields) = (std::mem::take(&mut done.shapes), std::mem::take(&mut done.unused_fields));
    let mut seen = Report { shapes, unused_fields, ..Report::default() };
    let mut noted = rows.bytes_read();
    while let Some((_, row)) = rows.next_row()? {
        seen.see(row.shape, &row.unused);
        for example in &row.examples {
            done.desirable += usize::from(example.label == Some(true));
            done.undesirable += usize::from(example.label == Some(false));
            outputs.sink(example).write(&example.to_row())?;
        }
        if !rows.rows_read.is_multiple_of(PROGRESS_ROWS) {
            continue;
        }
        let stopped = go_on(rows.bytes_read(), None).is_err();
        if stopped || rows.bytes_read() - noted >= JOURNAL_BYTES {
            noted = rows.bytes_read();
            journal.write(&outputs.settle()?, &done.so_far(rows, &seen))?;
        }
        if stopped {
            return Err(Error::Stopped { kept: true });
        }
    }
    *done = done.so_far(rows, &seen);
    if outputs.wait() {
        journal.write(&outputs.settle()?, done)?;
    }
    Ok(())
}

impl Converted {
    /// With what was counted elsewhere.
    fn so_far(&self, rows: &Examples<'_>, seen: &Report) -> Converted {
        Converted {
            rows_read: rows.rows_read,
            bad: rows.bad,
            first_bad: rows.first_bad.clone(),
            shapes: seen.shapes.clone(),
            unused_fields: seen.unused_fields.clone(),
            ..self.clone()
        }
    }
}

impl Outputs {
    /// Opens the outputs where an earlier call left them, or from the start.
    fn open(
        output: &Path,
        key: &str,
        split: Option<Split>,
        earlier: Option<(Vec<Position>, Converted)>,
    ) -> Result<(Outputs, Converted)> {
        let (at, done) = earlier.unwrap_or_default();
        let at = [0, 1].map(|n| at.get(n).copied());
        let (outputs, goes_on) = match split {
            None => {
                let (sink, goes_on) = Sink::going_on(output, key, at[0])?;
                (Outputs::One(Box::new(sink)), goes_on)
            }
            Some(split) => {
                let (two, goes_on) = SplitSink::going_on(output, key, at)?;
                (Outputs::Two(Box::new(two), split), goes_on)
            }
        };
        if goes_on || at[0].is_none() {
            return Ok((outputs, done));
        }
        // Some of it is gone: all of it is done again.
        drop(outputs);
        Outputs::open(output, key, split, None)
    }

    fn sink(&mut self, example: &Example) -> &mut Sink {
        match self {
            Outputs::One(sink) => sink,
            Outputs::Two(two, split) => match in_share(example.hashes().0, split.train_share, split.seed) {
                true => &mut two.train,
                false => &mut two.test,
            },
        }
    }

    /// Whether rows are written a second time, as a table.
    fn wait(&self) -> bool {
        match self {
            Outputs::One(sink) => sink.waits(),
            Outputs::Two(two, _) => two.train.waits(),
        }
    }

    /// What was settled stays, for a call that goes on. Says whether there is any.
    fn keep(&mut self) -> bool {
        match self {
            Outputs::One(sink) => sink.keep(),
            Outputs::Two(two, _) => two.train.keep() & two.test.keep(),
        }
    }

    fn settle(&mut self) -> Result<Vec<Position>> {
        match self {
            Outputs::One(sink) => Ok(vec![sink.settle()?]),
            Outputs::Two(two, _) => Ok(vec![two.train.settle()?, two.test.settle()?]),
        }
    }
}

/// Writes each pair of `files` as a desirable and an undesirable row, interleaved.
///
/// # Errors
/// As [`convert`], and `Row` for a row that is no pair.
pub fn unpair(files: &[PathBuf], output: &Path, options: &Options, progress: Progress<'_>) -> Result<Converted> {
    let options = Options { task: Task::Kto, shape: Some(Shape::Pair), ..options.clone() };
    convert(files, output, &options, None, progress)
}
