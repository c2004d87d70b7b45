//! Quantising a model folder, and looking at what it became.

use crate::{Error, probe_logits};
use infer::ModelFolder;
use std::path::Path;
use weights::{QuantiseReport, Scheme};

/// What is to be quantised, and how.
#[derive(Clone, Copy, Debug)]
pub struct QuantiseRequest<'a> {
    /// The model's folder.
    pub model: &'a Path,
    /// The folder to write, new or empty.
    pub output: &'a Path,
    /// The code.
    pub scheme: Scheme,
    /// Layers or parts of the model that stay as they are.
    pub skip: &'a [String],
}

/// A quantised model that was read back.
#[derive(Clone, Debug)]
pub struct Quantised {
    /// What was written.
    pub report: QuantiseReport,
    /// Root of the mean square of the logits' differences, over that of the model's logits.
    pub relative: f64,
    /// Share of positions whose most likely token is the same.
    pub same_token: f64,
}

/// Quantises a model folder, reads the result back and compares logits on a few sequences; `observe` is told tensors written
/// and tensors in all.
///
/// Errors: files that are missing or damaged; values that are not finite; an output that holds files.
pub fn quantise(
    request: &QuantiseRequest,
    threads: usize,
    observe: &mut dyn FnMut(usize, usize),
) -> Result<Quantised, Error> {
    let QuantiseRequest { model, output, scheme, skip } = *request;
    let folder = ModelFolder::open(model, None)?;
    if std::fs::read_dir(output).is_ok_and(|mut entries| entries.next().is_some()) {
        let what = format!("{} holds files already; give a folder that is new or empty", output.display());
        return Err(Error::Mismatch { what });
    }
    let report = weights::quantise_folder(&folder.checkpoint, output, scheme, skip, observe)?;
    let vocab = folder.blueprint.vocab;
    let before = probe_logits(&folder, threads)?;
    let after = probe_logits(&ModelFolder::open(output, None)?, threads)?;
    let square = |sum: f64, x: f64| sum + x * x;
    let apart = before.iter().zip(&after).map(|(a, b)| f64::from(a - b)).fold(0.0, square);
    let size = before.iter().map(|a| f64::from(*a)).fold(0.0, square);
    let best = |row: &[f32]| (0..row.len()).max_by(|&a, &b| row[a].total_cmp(&row[b]));
    let (rows, same) = before
        .chunks_exact(vocab)
        .zip(after.chunks_exact(vocab))
        .fold((0, 0), |(rows, same), (a, b)| (rows + 1, same + usize::from(best(a) == best(b))));
    let same_token = same as f64 / rows.max(1) as f64;
    Ok(Quantised { report, relative: (apart / size.max(f64::MIN_POSITIVE)).sqrt(), same_token })
}
