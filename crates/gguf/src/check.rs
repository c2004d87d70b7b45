//! The test of an export: the file is read back, made a model again, and asked the same as the source.

use crate::export::Source as Model;
use crate::tensors::restored;
use crate::value::{Value, find};
use crate::{Error, Gguf, Mix};
use infer::ModelFolder;
use std::path::{Path, PathBuf};
use weights::{DType, TensorInfo};

/// How well a file's logits agree with the source's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Agreement {
    /// Largest difference of a logit.
    pub largest: f32,
    /// Root of the mean square of the differences, relative to that of the logits.
    pub relative: f32,
    /// The same of the middle position: where experts are chosen, rounding makes a few tokens go to others.
    pub middle: f32,
    /// Share of positions whose most likely token is the same.
    pub same_token: f32,
}

/// A folder that is gone at the end.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Reads the file back and compares it with its model: names and shapes, tokens, template, logits.
pub(crate) fn check(path: &Path, model: &Model, mix: Mix, threads: usize) -> Result<Agreement, Error> {
    let file = Gguf::open(path)?;
    let wrong = |reason: String| Error::SelfTest { path: path.to_owned(), reason };
    let template = find(&file.metadata, "tokenizer.chat_template");
    let same = match (template, &model.template) {
        (None, None) => true,
        (Some(Value::Text(found)), Some(source)) => found == source,
        _ => false,
    };
    if !same {
        return Err(wrong("the chat template is not the model's".into()));
    }
    if let Some(Value::Texts(tokens)) = find(&file.metadata, "tokenizer.ggml.tokens") {
        let other = |(id, token): &(usize, &String)| {
            let own = model.folder.tokenizer.id_to_token(*id as u32);
            own.is_some_and(|own| own != **token)
        };
        if let Some((id, token)) = tokens.iter().enumerate().find(other) {
            return Err(wrong(format!("token {id} is {token:?}, not the model's")));
        }
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let copy = Temporary(path.with_file_name(format!(".{name}.check")));
    restore(&file, model, mix, &copy.0)?;
    let restored = ModelFolder::open(&copy.0, None)?;
    let logits = train::probe_logits(&restored, threads)?;
    let agreement = agreement(&model.logits, &logits, model.folder.blueprint.vocab);
    let allowed = allowed(mix);
    let (found, whole) = match model.folder.blueprint.experts {
        Some(_) => (agreement.middle, agreement.relative),
        None => (agreement.relative, 0.0),
    };
    if found.is_nan() || found > allowed || whole.is_nan() || whole > ANY_FILE {
        return Err(wrong(format!(
            "its logits differ from the model's by {:.3e} of their size ({:.3e} at the middle position), expected at most {allowed:.0e}",
            agreement.relative, agreement.middle
        )));
    }
    Ok(agreement)
}

/// What no rounding does, wherever tokens go.
const ANY_FILE: f32 = 0.7;

/// What rounding may do to logits, as a share of their size. A row or tensor in a wrong place gives a share near 1.
fn allowed(mix: Mix) -> f32 {
    match mix {
        Mix::F32 => 1e-4,
        Mix::F16 => 1e-2,
        Mix::BF16 => 5e-2,
        Mix::Q8_0 => 0.1,
        Mix::Q6K => 0.25,
        Mix::Q5KM | Mix::Q5KS | Mix::Q5_0 | Mix::Q5_1 => 0.4,
        Mix::Q4KM | Mix::Q4KS | Mix::Q4_0 | Mix::Q4_1 | Mix::Mxfp4Moe => 0.6,
    }
}

/// Writes the file's tensors as a model folder: the inverse of the export.
fn restore(file: &Gguf, model: &Model, mix: Mix, to: &Path) -> Result<(), Error> {
    let from = &model.folder.path;
    let _ = std::fs::remove_dir_all(to);
    std::fs::create_dir_all(to).map_err(Error::io("create", to))?;
    weights::copy_companions(from, to)?;
    let plain = weights::ConfigChanges { unquantized: true, ..Default::default() };
    weights::write_config(from, to, &plain)?;
    // What f16 cannot hold comes from f32 or bf16 weights; quantised values are products of f16 scales.
    let dtype = match mix {
        // Scales of MXFP4 are beyond what f16 holds.
        Mix::F32 | Mix::Mxfp4Moe => DType::F32,
        Mix::BF16 => DType::BF16,
        _ => DType::F16,
    };
    let sources = restored(&model.folder.blueprint, &model.folder.checkpoint)?;
    // In the order in which the file's tensors are read: experts of a projection one after the other.
    let mut names: Vec<(&String, &Vec<usize>)> = Vec::new();
    for (name, shape) in sources.iter().flat_map(|source| &source.from).map(|(name, shape)| (name, shape)) {
        if !names.iter().any(|(other, _)| *other == name) {
            names.push((name, shape));
        }
    }
    let info = |(name, shape): &(&String, &Vec<usize>)| {
        TensorInfo::new((*name).clone(), if shape.len() == 1 { DType::F32 } else { dtype }, (*shape).clone())
    };
    let infos: Vec<TensorInfo> = names.iter().map(info).collect();
    let mut held: Option<(String, Vec<f32>)> = None;
    weights::write_model(to, &infos, usize::MAX, |info, sink| -> Result<(), Error> {
        let mut values = vec![0.0; info.shape.iter().product()];
        for source in &sources {
            let Some(tensor) = source.from.iter().position(|(name, _)| *name == info.name) else { continue };
            let found = file.tensor(&source.name)?;
            if found.shape != source.shape {
                let reason = format!("{}: shape {:?}, expected {:?}", source.name, found.shape, source.shape);
                return Err(Error::Malformed { path: to.to_owned(), reason });
            }
            let read = match &held {
                Some((name, read)) if *name == source.name => read,
                _ => &held.insert((source.name.clone(), file.values(found)?)).1,
            };
            let width = source.width();
            for (row, read) in (0..source.rows()).zip(read.chunks_exact(width)) {
                let place = source.place(row);
                if place.tensor == tensor {
                    read.iter().enumerate().for_each(|(i, x)| values[place.first + i * place.step] = x - source.plus);
                }
            }
        }
        Ok(sink.put(&values)?)
    })?;
    Ok(())
}

fn agreement(a: &[f32], b: &[f32], vocab: usize) -> Agreement {
    let square = |it: &mut dyn Iterator<Item = f32>| it.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let off = square(&mut a.iter().zip(b).map(|(a, b)| a - b));
    let size = square(&mut a.iter().copied());
    let mut of_rows: Vec<f64> = a
        .chunks_exact(vocab)
        .zip(b.chunks_exact(vocab))
        .map(|(a, b)| {
            let off = square(&mut a.iter().zip(b).map(|(a, b)| a - b));
            if off == 0.0 { 0.0 } else { (off / square(&mut a.iter().copied())).sqrt() }
        })
        .collect();
    of_rows.sort_by(f64::total_cmp);
    let largest = |row: &[f32]| (0..row.len()).max_by(|i, j| row[*i].total_cmp(&row[*j]));
    let rows = a.chunks_exact(vocab).zip(b.chunks_exact(vocab));
    let same = rows.clone().filter(|(a, b)| largest(a) == largest(b)).count();
    Agreement {
        largest: a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max),
        relative: if off == 0.0 { 0.0 } else { (off / size).sqrt() as f32 },
        middle: of_rows.get(of_rows.len() / 2).map_or(0.0, |x| *x as f32),
        same_token: same as f32 / rows.len().max(1) as f32,
    }
}
