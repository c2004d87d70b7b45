//! The arena and the optimiser as files: what a checkpoint holds, and what `final/` holds.

use crate::{Error, Job};
use kernels::{Backend, Mat, Real};
use nn::{Param, Table};
use optim::adamw::AdamW;
use std::ops::Range;
use std::path::Path;
use weights::{ConfigChanges, DType, LoraFactor, LoraPair, SafeTensors, Sink, TensorInfo, module_of};

/// Optimiser state beside the weights.
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Elements taken from the arena at a time.
const CHUNK: usize = 1 << 20;

/// Writes a parameter's values, piece by piece.
fn put<B: Backend>(backend: &B, values: &Mat<B, B::Real>, p: &Param, sink: &mut Sink) -> Result<(), Error> {
    for start in p.range().step_by(CHUNK) {
        let piece = values.view().cols(start..(start + CHUNK).min(p.range().end));
        let piece: Vec<f32> = backend.to_host(piece).iter().map(|x| x.f64() as f32).collect();
        sink.put(&piece)?;
    }
    Ok(())
}

/// A parameter's values in single precision.
fn host<B: Backend>(backend: &B, values: &Mat<B, B::Real>, p: &Param) -> Vec<f32> {
    backend.to_host(values.view().cols(p.range())).iter().map(|x| x.f64() as f32).collect()
}

/// The stored dtype of the model folder that a full run writes.
fn export_dtype(job: &Job) -> DType {
    match job.config.model.dtype {
        config::Dtype::Float32 => DType::F32,
        config::Dtype::Bfloat16 => DType::BF16,
        config::Dtype::Auto => job.checkpoint.infos().next().map_or(DType::F32, |t| t.dtype),
    }
}

/// Writes the trained weights into a folder that PEFT or transformers loads.
pub(crate) fn write_weights<B: Backend>(
    backend: &B,
    job: &Job,
    table: &Table,
    values: &Mat<B, B::Real>,
    dir: &Path,
) -> Result<(), Error> {
    match &job.adapter {
        Some(adapter) => {
            let mut config = adapter.config.clone();
            config.base_model_name_or_path = Some(job.config.model.path.display().to_string());
            let halves: Vec<(&str, LoraFactor, Vec<f32>)> = table
                .params()
                .iter()
                .filter_map(|p| module_of(&p.name).map(|(module, factor)| (module, factor, host(backend, values, p))))
                .collect();
            // A and B of a module are neighbours in the arena.
            let pairs: Vec<LoraPair> = halves
                .chunks_exact(2)
                .map(|ab| LoraPair { module: ab[0].0.to_owned(), a: (&ab[0].2).into(), b: (&ab[1].2).into() })
                .collect();
            weights::save_adapter(dir, &config, &pairs, DType::F32)?;
        }
        None => write_model(backend, job, table, values, dir)?,
    }
    Ok(())
}

fn write_model<B: Backend>(
    backend: &B,
    job: &Job,
    table: &Table,
    values: &Mat<B, B::Real>,
    dir: &Path,
) -> Result<(), Error> {
    let dtype = export_dtype(job);
    let trained = |name: &str| table.params().iter().find(|p| p.name == name);
    // Tensors that are never trained, but belong to the model.
    let fixed = |t: &&TensorInfo| t.name.ends_with(".e_score_correction_bias");
    let infos: Vec<TensorInfo> = match job.config.tuning {
        // Frozen blocks belong to the model as well.
        config::Tuning::Blocks(_) => {
            let stored = |t: &TensorInfo| if fixed(&t) { t.dtype } else { dtype };
            job.checkpoint.infos().map(|t| TensorInfo::new(t.name.clone(), stored(t), t.shape.clone())).collect()
        }
        _ => {
            let own = table.params().iter().map(|p| TensorInfo::new(p.name.clone(), dtype, p.shape.clone()));
            own.chain(job.checkpoint.infos().filter(fixed).cloned()).collect()
        }
    };
    weights::write_model(dir, &infos, 5 << 30, |info, sink| -> Result<(), Error> {
        match trained(&info.name) {
            Some(p) => put(backend, values, p, sink),
            None => {
                let frozen = job.checkpoint.get(&info.name)?.to_f32()?;
                frozen.chunks(CHUNK).try_for_each(|piece| sink.put(piece))?;
                Ok(())
            }
        }
    })?;
    let changes = ConfigChanges { dtype: Some(dtype), ..ConfigChanges::default() };
    weights::write_config(&job.config.model.path, dir, &changes)?;
    crate::companions::write(job, dir)
}

/// Writes what resuming needs beyond [`write_weights`]: both moments, and the values where the weights were rounded.
pub(crate) fn write_optimizer<B: Backend>(
    backend: &B,
    job: &Job,
    table: &Table,
    values: &Mat<B, B::Real>,
    optimizer: &AdamW<B>,
    dir: &Path,
) -> Result<(), Error> {
    let rounded = job.adapter.is_none() && export_dtype(job) != DType::F32;
    let parts: &[&str] = if rounded { &["m", "v", "values"] } else { &["m", "v"] };
    let name = |part: &str, p: &Param| format!("{part}.{}", p.name);
    let infos: Vec<TensorInfo> = parts
        .iter()
        .flat_map(|part| {
            table.params().iter().map(move |p| TensorInfo::new(name(part, p), DType::F32, [p.rows, p.cols]))
        })
        .collect();
    weights::write_file(&dir.join(OPTIMIZER_FILE), &infos, |info, sink: &mut Sink| -> Result<(), Error> {
        let (part, parameter) = info.name.split_once('.').expect("named above");
        let p = table.params().iter().find(|p| p.name == parameter).expect("one of the parameters");
        let from = match part {
            "m" => &optimizer.m,
            "v" => &optimizer.v,
            _ => values,
        };
        put(backend, from, p, sink)
    })?;
    Ok(())
}

/// The file of one rank's part of what [`write_optimizer`] writes.
pub(crate) fn shard_file(rank: usize, ranks: usize) -> String {
    format!("optimizer-{:05}-of-{ranks:05}.safetensors", rank + 1)
}

/// Writes the part of the optimiser's state that lies in `range` of the arena. Tensors are flat, and named by their part and
/// their first element: `m@4096`.
pub(crate) fn write_shard<B: Backend>(
    backend: &B,
    job: &Job,
    values: &Mat<B, B::Real>,
    optimizer: &AdamW<B>,
    range: Range<usize>,
    path: &Path,
) -> Result<(), Error> {
    let rounded = job.adapter.is_none() && export_dtype(job) != DType::F32;
    let parts: &[&str] = if rounded { &["m", "v", "values"] } else { &["m", "v"] };
    let name = |part: &&str| format!("{part}@{}", range.start);
    let infos: Vec<TensorInfo> =
        parts.iter().map(|part| TensorInfo::new(name(part), DType::F32, [range.len()])).collect();
    weights::write_file(path, &infos, |info, sink: &mut Sink| -> Result<(), Error> {
        let (from, first) = match info.name.split('@').next() {
            Some("m") => (&optimizer.m, optimizer.range().start),
            Some("v") => (&optimizer.v, optimizer.range().start),
            _ => (values, 0),
        };
        for start in range.clone().step_by(CHUNK) {
            let piece = from.view().cols(start - first..(start + CHUNK).min(range.end) - first);
            let piece: Vec<f32> = backend.to_host(piece).iter().map(|x| x.f64() as f32).collect();
            sink.put(&piece)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// A piece of a checkpoint's state: what it is of (`m`, `v`, `values`), where it lies in the arena, and the numbers.
struct Piece {
    part: String,
    range: Range<usize>,
    tensor: weights::Mapped,
}

/// The state that a checkpoint has, whatever ranks wrote it: one file with a tensor per parameter, or one flat piece per rank.
fn pieces(table: &Table, dir: &Path) -> Result<Vec<Piece>, Error> {
    let single = dir.join(OPTIMIZER_FILE);
    let mut pieces = Vec::new();
    let take = |file: &SafeTensors, name: &str, part: &str, range: Range<usize>, shape: &[usize]| {
        let tensor = file.get(name).ok_or_else(|| Error::Mismatch {
            what: format!("{}: tensor {name} is missing; the checkpoint is of another run", file.path().display()),
        })?;
        tensor.expect_shape(shape)?;
        Ok::<Piece, Error>(Piece { part: part.to_owned(), range, tensor })
    };
    if single.exists() {
        let file = SafeTensors::open(&single)?;
        let rounded = table.params().first().is_some_and(|p| file.get(&format!("values.{}", p.name)).is_some());
        for part in if rounded { &["m", "v", "values"][..] } else { &["m", "v"] } {
            for p in table.params() {
                pieces.push(take(&file, &format!("{part}.{}", p.name), part, p.range(), &[p.rows, p.cols])?);
            }
        }
        return Ok(pieces);
    }
    let listed = std::fs::read_dir(dir).map_err(|source| Error::Io { doing: "list", path: dir.to_owned(), source })?;
    let mut names: Vec<String> = listed.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|n| n.starts_with("optimizer-") && n.ends_with(".safetensors"));
    names.sort();
    for name in names {
        let file = SafeTensors::open(&dir.join(name))?;
        for info in file.infos() {
            let place = info.name.split_once('@').and_then(|(part, start)| Some((part, start.parse::<usize>().ok()?)));
            let Some((part, start)) = place else { continue };
            let len: usize = info.shape.iter().product();
            pieces.push(take(&file, &info.name, part, start..start + len, &[len])?);
        }
    }
    Ok(pieces)
}

/// Reads a checkpoint's values and moments back, as far as the optimiser has them.
pub(crate) fn read<B: Backend>(
    backend: &B,
    job: &Job,
    table: &Table,
    values: &mut Mat<B, B::Real>,
    optimizer: &mut AdamW<B>,
    dir: &Path,
) -> Result<(), Error> {
    let pieces = pieces(table, dir)?;
    let rounded = pieces.iter().any(|p| p.part == "values");
    let own = optimizer.range();
    let mut found = [0; 3];
    for piece in &pieces {
        let (into, wanted, count) = match piece.part.as_str() {
            "m" => (&mut optimizer.m, own.clone(), 0),
            "v" => (&mut optimizer.v, own.clone(), 1),
            _ => (&mut *values, 0..table.len(), 2),
        };
        let (start, end) = (piece.range.start.max(wanted.start), piece.range.end.min(wanted.end));
        if start < end {
            let numbers = piece.tensor.to_f32()?;
            let numbers = &numbers[start - piece.range.start..end - piece.range.start];
            upload(backend, into, start - wanted.start..end - wanted.start, numbers);
            found[count] += end - start;
        }
    }
    let missing = |what: &str, expected: usize, found: usize| Error::Mismatch {
        what: format!(
            "{}: {found} of {expected} elements of {what} are there; the checkpoint is of another run, or of a rank whose file is gone",
            dir.display()
        ),
    };
    for (what, found) in [("m", found[0]), ("v", found[1])] {
        if found != own.len() {
            return Err(missing(what, own.len(), found));
        }
    }
    match rounded {
        true if found[2] != table.len() => Err(missing("the values", table.len(), found[2])),
        true => Ok(()),
        false => read_weights(backend, job, table, values, dir),
    }
}

/// Reads the trained weights of a checkpoint or of `final/`.
pub(crate) fn read_weights<B: Backend>(
    backend: &B,
    job: &Job,
    table: &Table,
    values: &mut Mat<B, B::Real>,
    dir: &Path,
) -> Result<(), Error> {
    if job.adapter.is_some() {
        let adapter = weights::Adapter::load(dir)?;
        return Ok(model::initialise_lora(backend, table, values, &model::LoraInit::From(&adapter))?);
    }
    let checkpoint = weights::Checkpoint::open(dir)?;
    for p in table.params() {
        let tensor = checkpoint.get(&p.name)?;
        tensor.expect_shape(&p.shape)?;
        upload(backend, values, p.range(), &tensor.to_f32()?);
    }
    Ok(())
}

fn upload<B: Backend>(backend: &B, into: &mut Mat<B, B::Real>, range: Range<usize>, values: &[f32]) {
    let values: Vec<B::Real> = values.iter().map(|x| B::Real::of(f64::from(*x))).collect();
    backend.upload(&values, into.out().cols(range));
}
