//! Merging an adapter into its base model, and checking what was written against base and adapter.

use crate::Error;
use infer::{Model, ModelFolder};
use model::{Keep, Parts};
use pack::{Answer, families_of_rows, plan_packs};
use std::path::Path;
use weights::{DType, MergeOptions, MergeReport};

/// Sequences that base with adapter and the merged model are compared on.
const SEQUENCES: usize = 4;
/// Tokens of each.
const TOKENS: usize = 24;

/// A merge that was read back and found to answer as base and adapter do.
#[derive(Clone, Debug)]
pub struct Merged {
    /// What was written.
    pub report: MergeReport,
    /// Largest difference of a logit between the merged model and base with adapter.
    pub difference: f32,
    /// Largest difference of a logit between base with and without adapter.
    pub effect: f32,
    /// Largest logit of base with adapter, by amount.
    pub largest: f32,
    /// What a user should know: updates lost to rounding.
    pub notes: Vec<String>,
}

/// Merges `adapter` into `base` and writes a model folder to `out`, which must not hold files. Then reads it back and compares
/// logits on a few sequences.
///
/// `dtype` is the type weights are stored in; `None` keeps the base's. Errors: files and shapes that do not fit; `out` holds
/// files; logits that differ by more than rounding to the stored type explains.
pub fn merge(base: &Path, adapter: &Path, out: &Path, dtype: Option<DType>, threads: usize) -> Result<Merged, Error> {
    let folder = ModelFolder::open(base, Some(adapter))?;
    if std::fs::read_dir(out).is_ok_and(|mut entries| entries.next().is_some()) {
        let what = format!("{} holds files already; give a folder that is new or empty", out.display());
        return Err(Error::Mismatch { what });
    }
    let given = folder.adapter.as_ref().expect("the adapter was given");
    let options = MergeOptions { dtype, ..MergeOptions::default() };
    let report = weights::merge(&folder.checkpoint, given, out, &options)?;

    if given.vocabulary().is_some() && adapter.join("tokenizer.json").is_file() {
        weights::copy_companions(adapter, out)?;
    }

    let written = ModelFolder::open(out, None)?;
    let sequences = sequences(folder.blueprint.vocab);
    let adapted = folder.load(TOKENS, threads)?;
    let (with, without) = (logits(&adapted, &sequences, true), logits(&adapted, &sequences, false));
    drop(adapted);
    let merged = logits(&written.load(TOKENS, threads)?, &sequences, true);

    let (difference, effect) = (largest_difference(&with, &merged), largest_difference(&with, &without));
    let largest = with.iter().fold(0.0, |m: f32, x| m.max(x.abs()));
    let allowed = tolerance(&written) * largest;
    if difference.is_nan() || difference > allowed {
        let what = format!(
            "{}: the merged model was written, but its logits differ from base with adapter by up to {difference:.3e}, \
             expected at most {allowed:.3e}; do not use it",
            out.display()
        );
        return Err(Error::Merge { what });
    }
    let mut notes = notes(&report, difference, effect);
    if folder.checkpoint.is_quantised() {
        notes.push(format!(
            "{} holds weights in codes; the adapter was merged into what they stand for, at the type they were made from. The \
             16-bit model that they were made from gives a base without their rounding",
            base.display()
        ));
    }
    Ok(Merged { report, difference, effect, largest, notes })
}

/// Share of the largest logit that rounding of the stored weights may move one.
fn tolerance(folder: &ModelFolder) -> f32 {
    let coarsest = folder.checkpoint.infos().filter(|info| info.dtype.is_float()).map(|info| info.dtype.bits()).min();
    let brain = folder.checkpoint.infos().any(|info| info.dtype == DType::BF16);
    match coarsest {
        Some(32..) => 1e-4,
        // Half a unit in the last place is 2^-9 for bf16, 2^-12 for f16; layers add up.
        _ if brain => 0.1,
        _ => 0.02,
    }
}

fn notes(report: &MergeReport, difference: f32, effect: f32) -> Vec<String> {
    let mut notes = Vec::new();
    let lost: Vec<&str> =
        report.modules.iter().filter(|m| m.largest_update > 0.0 && m.changed == 0).map(|m| m.module.as_str()).collect();
    if let Some(first) = lost.first() {
        notes.push(format!(
            "rounding swallowed the whole update of {} of {} modules ({first} ...); merge with --dtype float32",
            lost.len(),
            report.modules.len()
        ));
    }
    let updated: usize = report.modules.iter().filter(|m| m.largest_update > 0.0).map(|m| m.elements).sum();
    let changed: usize = report.modules.iter().map(|m| m.changed).sum();
    if lost.is_empty() && 2 * changed < updated {
        notes.push(format!(
            "rounding swallowed the update of {:.0} % of the weights; merge with --dtype float32 to keep it",
            100.0 * (updated - changed) as f64 / updated as f64
        ));
    }
    if effect > 0.0 && difference > effect / 2.0 {
        notes.push(format!(
            "rounding moves logits by up to {difference:.3e}, the adapter by {effect:.3e}; merge with --dtype float32"
        ));
    }
    notes
}

/// Logits, `[positions, v]`, of a model on a few sequences that depend on its vocabulary only: what two forms of one model are
/// compared on.
///
/// Errors: tensors that are missing or have another shape or type.
pub fn probe_logits(folder: &ModelFolder, threads: usize) -> Result<Vec<f32>, Error> {
    Ok(logits(&folder.load(TOKENS, threads)?, &sequences(folder.blueprint.vocab), true))
}

/// Token sequences spread over the vocabulary.
fn sequences(vocab: usize) -> Vec<Vec<u32>> {
    // Weyl's sequence with the golden ratio.
    let token = |i: usize| ((i as f64 * 0.618_033_988_749_895).fract() * vocab as f64) as u32;
    (0..SEQUENCES).map(|s| (0..TOKENS).map(|t| token(1 + s * TOKENS + t)).collect()).collect()
}

/// Logits of every position but the last of every sequence, `[positions, v]`.
fn logits(model: &Model, sequences: &[Vec<u32>], adapters: bool) -> Vec<f32> {
    let rows = sequences
        .iter()
        .zip(0..)
        .map(|(tokens, sequence)| (&[][..], Answer { tokens, scored: None, sequence, grad: true }));
    let ctx = model.context(adapters);
    let packs = plan_packs(&families_of_rows(rows, false), SEQUENCES * TOKENS);
    let of_pack = |pack| {
        let forward = model.decoder.forward(&ctx, pack, &Parts::new(ctx.backend, pack), Keep::Nothing);
        model.decoder.logits(&ctx, &forward)
    };
    packs.iter().flat_map(of_pack).collect()
}

/// NaN where either side has one.
fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    let max = |m: f32, d: f32| if d.is_nan() || d > m { d } else { m };
    a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, |m, d| if m.is_nan() { m } else { max(m, d) })
}
