//! What is done to data before training: looked at, counted, converted, mixed, sampled, cleaned and labelled.
//!
//! Every tool is a function from files and settings to a report, and streams: memory does not grow with the size of rows, and
//! only where a tool compares all rows with one another does it keep a few bytes of each.

pub mod answer;
pub mod convert;
pub mod dedup;
pub mod detect;
pub mod label;
pub mod lengths;
pub mod mix;
pub mod negatives;
pub mod sample;
pub mod show;
pub mod stats;

use std::ops::ControlFlow;
use std::path::PathBuf;

use serde_json::Value as Json;

use crate::error::{Error, Result};
use crate::format::BadField;
use crate::locate::FieldPath;
use crate::read::{parse_json, row_error};
use crate::rng::mix;
use crate::sink::JsonRow;
use crate::source::{RawRow, Rows};

/// Is told bytes read and bytes in all from time to time; breaks where the work is to stop.
pub type Progress<'a> = &'a mut dyn FnMut(u64, u64) -> ControlFlow<()>;

/// Rows between two calls of a [`Progress`].
const PROGRESS_ROWS: usize = 64;

/// Tells how far the work is.
///
/// # Errors
/// `Stopped` when it is to stop.
pub(crate) fn tell(progress: Progress<'_>, done: u64, total: u64) -> Result<()> {
    match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped { kept: false }),
    }
}

/// The next row as an object, as it stands in its file.
///
/// # Errors
/// `Io`, `Row`, `Table`.
fn next_object(files: &[PathBuf], rows: &mut Rows<'_>) -> Result<Option<(RawRow, JsonRow)>> {
    let Some(raw) = rows.next_row()? else { return Ok(None) };
    let bad = match parse_json(&raw) {
        Ok(Json::Object(row)) => return Ok(Some((raw, row))),
        Ok(other) => {
            let reason = format!("expected a JSON object, found {}", crate::format::found(Some(&other)));
            BadField::new(FieldPath::default(), reason)
        }
        Err(bad) => bad,
    };
    Err(row_error(files, &raw, bad))
}

/// Hash of bytes, the same on every machine.
fn hash(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(blake3::hash(bytes).as_bytes()[..8].try_into().expect("eight bytes"))
}

/// Hash of a row's content, the same in every file format and under every spacing.
fn hash_row(row: &JsonRow) -> u64 {
    hash(&serde_json::to_vec(row).expect("JSON values serialise"))
}

/// Whether a row with this hash is in the share that `seed` draws: the same rows in every run and in every order, and those of
/// a smaller share are among those of a larger one.
fn in_share(hash: u64, share: f64, seed: u64) -> bool {
    let draw = mix(hash ^ mix(seed));
    share >= 1.0 || (draw as f64) < share * 2_f64.powi(64)
}
