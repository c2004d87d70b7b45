//! The arena and the optimiser as files: what a checkpoint holds, and what `final/` holds.

use crate::{Error, Job};
use kernels::{Backend, Mat, Real};
use nn::{Param, Table};
use optim::adamw::AdamW;
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
    write_companions(job, dir)
}

/// Tokenizer, chat template and generation defaults beside the weights; the template is the one that rows were written with.
pub(crate) fn write_companions(job: &Job, dir: &Path) -> Result<(), Error> {
    weights::copy_companions(&job.config.model.path, dir)?;
    if let Some(template) = &job.given_template {
        let path = dir.join("chat_template.jinja");
        std::fs::write(&path, template).map_err(|source| Error::Io { doing: "write", path, source })?;
    }
    Ok(())
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

/// Reads a checkpoint's values and moments back.
pub(crate) fn read<B: Backend>(
    backend: &B,
    job: &Job,
    table: &Table,
    values: &mut Mat<B, B::Real>,
    optimizer: &mut AdamW<B>,
    dir: &Path,
) -> Result<(), Error> {
    let moments = SafeTensors::open(&dir.join(OPTIMIZER_FILE))?;
    let rounded = table.params().first().is_some_and(|p| moments.get(&format!("values.{}", p.name)).is_some());
    for p in table.params() {
        let fill = |part: &str, into: &mut Mat<B, B::Real>| -> Result<(), Error> {
            let name = format!("{part}.{}", p.name);
            let tensor = moments.get(&name).ok_or_else(|| Error::Mismatch {
                what: format!(
                    "{}: tensor {name} is missing; the checkpoint is of another run",
                    moments.path().display()
                ),
            })?;
            tensor.expect_shape(&[p.rows, p.cols])?;
            upload(backend, into, p, &tensor.to_f32()?);
            Ok(())
        };
        fill("m", &mut optimizer.m)?;
        fill("v", &mut optimizer.v)?;
        if rounded {
            fill("values", values)?;
        }
    }
    if !rounded {
        read_weights(backend, job, table, values, dir)?;
    }
    Ok(())
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
        upload(backend, values, p, &tensor.to_f32()?);
    }
    Ok(())
}

fn upload<B: Backend>(backend: &B, into: &mut Mat<B, B::Real>, p: &Param, values: &[f32]) {
    let values: Vec<B::Real> = values.iter().map(|x| B::Real::of(f64::from(*x))).collect();
    backend.upload(&values, into.out().cols(p.range()));
}
