//! The arena and the optimiser as files: what a checkpoint holds, and what `final/` holds.

pub(crate) mod shard;

use crate::policy::Policy;
use crate::run::load::whole_for;
use crate::spread::{Read, real};
use crate::{Error, Job};
use kernels::{Backend, Mat, Real, bf16};
use model::land;
use nn::{Held, Home, Param, Table};
use optim::adamw::{AdamW, Layout, Place};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use weights::{ConfigChanges, DType, LoraFactor, LoraPair, SafeTensors, Sink, TensorInfo, WholeTensor, module_of};

/// Optimiser state beside the weights.
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Elements whose moments in eight bits share their largest amount.
const BLOCK: usize = kernels::adamw8::BLOCK;

/// Elements taken from the arena at a time.
const CHUNK: usize = 1 << 20;

/// Writes elements of an arena, piece by piece, in the type the sink stores.
fn put<B: Backend>(backend: &B, from: &Mat<B, B::Real>, range: Range<usize>, sink: &mut Sink) -> Result<(), Error> {
    for start in range.clone().step_by(CHUNK) {
        let piece = from.view().cols(start..(start + CHUNK).min(range.end));
        let piece: Vec<f32> = backend.to_host(piece).iter().map(|x| x.f64() as f32).collect();
        sink.put(&piece)?;
        from.rest(start..(start + CHUNK).min(range.end));
    }
    Ok(())
}

/// Writes a parameter's values.
fn put_values(read: &Read, p: &Param, sink: &mut Sink) -> Result<(), Error> {
    for start in p.range().step_by(CHUNK) {
        sink.put(&read(start..(start + CHUNK).min(p.range().end))?)?;
    }
    Ok(())
}

/// The stored dtype of the model folder that a full run writes.
fn export_dtype(job: &Job) -> DType {
    match job.config.model.dtype {
        config::Dtype::Float32 => DType::F32,
        config::Dtype::Bfloat16 => DType::BF16,
        config::Dtype::Auto => job.checkpoint.infos().next().map_or(DType::F32, |t| t.dtype),
    }
}

/// Writes the trained weights into a folder that PEFT or transformers loads; values are asked of `values`.
pub(crate) fn write_weights(job: &Job, table: &Table, values: &Read, dir: &Path) -> Result<(), Error> {
    match &job.adapter {
        Some(adapter) => {
            let mut config = adapter.config.clone();
            config.base_model_name_or_path = Some(job.config.model.path.display().to_string());
            let factor = |module: &str, factor| {
                let name = weights::tensor_name(module, factor);
                let param = table.params().iter().find(|p| p.name == name);
                param.map(|p| values(p.range()).map(Cow::Owned)).transpose()
            };
            let pair = |(module, on): (&String, &model::Factors)| -> Result<LoraPair, Error> {
                Ok(LoraPair {
                    module: module.clone(),
                    rank: on.rank,
                    scale: on.scale,
                    a: factor(module, LoraFactor::A)?.unwrap_or_default(),
                    b: factor(module, LoraFactor::B)?.unwrap_or_default(),
                    magnitude: factor(module, LoraFactor::Magnitude)?,
                })
            };
            let pairs = adapter.adapters.modules.iter().map(pair).collect::<Result<Vec<LoraPair>, _>>()?;
            let whole = |p: &Param| -> Result<WholeTensor, Error> {
                let values = values(p.range())?.into();
                Ok(WholeTensor { name: p.name.clone(), shape: p.shape.clone(), values })
            };
            let whole = table.params().iter().filter(|p| module_of(&p.name).is_none()).map(whole);
            let whole = whole.collect::<Result<Vec<WholeTensor>, Error>>()?;
            weights::save_adapter(dir, &config, &pairs, &whole, DType::F32)?;
        }
        None => write_model(job, table, values, dir)?,
    }
    Ok(())
}

fn write_model(job: &Job, table: &Table, values: &Read, dir: &Path) -> Result<(), Error> {
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
            Some(p) => put_values(values, p, sink),
            None => {
                let frozen = job.checkpoint.get(&info.name)?.to_f32()?;
                frozen.chunks(CHUNK).try_for_each(|piece| sink.put(piece))?;
                Ok(())
            }
        }
    })?;
    let changes = ConfigChanges { dtype: Some(dtype), set: job.changes.clone(), ..ConfigChanges::default() };
    weights::write_config(&job.config.model.path, dir, &changes)?;
    crate::companions::write(job, dir)
}

/// A tensor of the optimiser's file: what of, which of the two moments (or the values), and how it is stored.
struct Saved<'t> {
    param: &'t Param,
    place: &'t Place,
    part: Part,
}

#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// A moment, by number.
    Moment(usize),
    /// Its largest amounts, where it has eight bits.
    Absmax(usize),
    /// The values, where the weights were rounded.
    Values,
}

impl Saved<'_> {
    fn name(&self) -> String {
        let part = match self.part {
            Part::Moment(i) => ["m", "v"][i],
            Part::Absmax(i) => ["m_absmax", "v_absmax"][i],
            Part::Values => "values",
        };
        format!("{part}.{}", self.param.name)
    }

    fn info(&self) -> TensorInfo {
        let (rows, cols) = (self.param.rows, self.param.cols);
        match (self.part, self.place) {
            (Part::Moment(_), Place::Eight(..)) => TensorInfo::new(self.name(), DType::U8, [rows, cols]),
            (Part::Absmax(_), Place::Eight(_, blocks)) => TensorInfo::new(self.name(), DType::F32, [blocks.len()]),
            _ => TensorInfo::new(self.name(), DType::F32, [rows, cols]),
        }
    }
}

/// Everything that is saved of an optimiser, in order.
fn parts<'t>(table: &'t Table, layout: &'t Layout, rounded: bool) -> Vec<Saved<'t>> {
    let of = |part| move |(param, place)| Saved { param, place, part };
    let all = || table.params().iter().zip(layout.pieces.iter().map(|piece| &piece.place));
    let eight = || all().filter(|(_, place)| matches!(place, Place::Eight(..)));
    let mut parts: Vec<Saved> = (0..2).flat_map(|i| all().map(of(Part::Moment(i)))).collect();
    parts.extend((0..2).flat_map(|i| eight().map(of(Part::Absmax(i)))));
    // Values in bfloat16 are the weights themselves.
    let exact = |(p, _): &(&Param, &Place)| rounded && matches!(p.home, Home::Real(_));
    parts.extend(all().filter(exact).map(of(Part::Values)));
    parts
}

/// Whether the weights that a run writes are rounded.
fn rounds(job: &Job) -> bool {
    job.adapter.is_none() && export_dtype(job) != DType::F32
}

/// Writes what resuming needs beyond [`write_weights`]: both moments, and the values where the weights were rounded.
pub(crate) fn write_optimizer<B: Backend>(
    backend: &B,
    job: &Job,
    policy: &Policy<B>,
    optimizer: &AdamW<B>,
    dir: &Path,
) -> Result<(), Error> {
    let saved = parts(&policy.table, &optimizer.layout, rounds(job));
    let infos: Vec<TensorInfo> = saved.iter().map(Saved::info).collect();
    let by_name: HashMap<String, &Saved> = saved.iter().map(|part| (part.name(), part)).collect();
    weights::write_file(&dir.join(OPTIMIZER_FILE), &infos, |info, sink: &mut Sink| -> Result<(), Error> {
        let part = by_name[&info.name];
        match (part.part, part.place) {
            (Part::Values, _) => put(backend, &policy.values, part.param.values(), sink),
            (Part::Moment(i), Place::Plain(range)) => {
                put(backend, [&optimizer.m, &optimizer.v][i], range.clone(), sink)
            }
            (Part::Moment(i), Place::Eight(codes, _)) => {
                let held = &optimizer.eight[i].codes;
                sink.put_bytes(&backend.to_host(held.view().cols(codes.clone())))?;
                held.rest(codes.clone());
                Ok(())
            }
            (Part::Absmax(i), Place::Eight(_, blocks)) => {
                put(backend, &optimizer.eight[i].absmax, blocks.clone(), sink)
            }
            (Part::Absmax(_), Place::Plain(_)) => Ok(()),
        }
    })?;
    Ok(())
}

/// The file of one rank's part of what [`write_optimizer`] writes.
pub(crate) fn shard_file(rank: usize, ranks: usize) -> String {
    format!("optimizer-{:05}-of-{ranks:05}.safetensors", rank + 1)
}

/// Reads a checkpoint's values and moments back, as far as they are held here: `held` of the values, and of the moments what the
/// optimiser has, which may be the `whole`.
pub(crate) fn read<B: Backend>(
    backend: &B,
    job: &Job,
    (policy, held): (&mut Policy<B>, &Held),
    (optimizer, whole): (&mut AdamW<B>, bool),
    dir: &Path,
) -> Result<(), Error> {
    if whole && dir.join(OPTIMIZER_FILE).exists() {
        return read_whole(backend, job, policy, optimizer, dir);
    }
    match shard::read(backend, (&mut *policy, held), optimizer, dir)? {
        true => Ok(()),
        false => read_weights(backend, job, (policy, held), dir),
    }
}

/// Reads what [`write_optimizer`] wrote.
fn read_whole<B: Backend>(
    backend: &B,
    job: &Job,
    policy: &mut Policy<B>,
    optimizer: &mut AdamW<B>,
    dir: &Path,
) -> Result<(), Error> {
    let moments = SafeTensors::open(&dir.join(OPTIMIZER_FILE))?;
    let rounded = rounds(job);
    let (table, layout) = (policy.table.clone(), optimizer.layout.clone());
    for part in parts(&table, &layout, rounded) {
        let info = part.info();
        let tensor = moments.get(&info.name).ok_or_else(|| Error::Mismatch {
            what: format!(
                "{}: tensor {} is missing; the checkpoint is of another run",
                moments.path().display(),
                info.name
            ),
        })?;
        tensor.expect_shape(&info.shape)?;
        match (part.part, part.place) {
            (Part::Moment(i), Place::Eight(codes, _)) => {
                if tensor.dtype() != DType::U8 {
                    return Err(tensor.wrong_type("U8").into());
                }
                let held = &mut optimizer.eight[i].codes;
                backend.upload(tensor.bytes(), held.out().cols(codes.clone()));
                held.rest(codes.clone());
            }
            (Part::Moment(i), Place::Plain(range)) => {
                let AdamW { m, v, .. } = optimizer;
                upload(backend, [m, v][i], range.clone(), &tensor.to_f32()?);
            }
            (Part::Absmax(i), Place::Eight(_, blocks)) => {
                upload(backend, &mut optimizer.eight[i].absmax, blocks.clone(), &tensor.to_f32()?);
            }
            (Part::Absmax(_), Place::Plain(_)) => {}
            (Part::Values, _) => {
                upload(backend, &mut policy.values, part.param.values(), &tensor.to_f32()?);
            }
        }
    }
    let (every, all) = (!rounded, 0..table.len());
    let held = table.held(std::slice::from_ref(&all));
    read_some(backend, job, (policy, &held), dir, |p| every || matches!(p.home, Home::Half(_)))
}

/// Reads the trained weights of a checkpoint or of `final/`, as far as they are held.
pub(crate) fn read_weights<B: Backend>(
    backend: &B,
    job: &Job,
    policy: (&mut Policy<B>, &Held),
    dir: &Path,
) -> Result<(), Error> {
    read_some(backend, job, policy, dir, |_| true)
}

/// Those of them that `wanted` holds for.
fn read_some<B: Backend>(
    backend: &B,
    job: &Job,
    (policy, held): (&mut Policy<B>, &Held),
    dir: &Path,
    wanted: impl Fn(&Param) -> bool,
) -> Result<(), Error> {
    let Policy { table, values, halves, .. } = policy;
    if !table.params().iter().any(&wanted) {
        return Ok(());
    }
    if job.adapter.is_some() {
        let adapter = weights::Adapter::load(dir)?;
        return whole_for(backend, table, (values, &held.reals), |values| {
            Ok(model::initialise_lora(backend, table, values, &model::LoraInit::From(&adapter))?)
        });
    }
    let checkpoint = weights::Checkpoint::open(dir)?;
    for p in table.params().iter().filter(|p| wanted(p)) {
        let tensor = checkpoint.get(&p.name)?;
        tensor.expect_shape(&p.shape)?;
        match p.home {
            Home::Real(first) => land(backend, &real::<B>(&tensor.to_f32()?), first, (&mut *values, &held.reals)),
            Home::Half(first) => {
                let exact: Vec<bf16> = tensor.to_f32()?.iter().map(|x| bf16::from_f32(*x)).collect();
                land(backend, &exact, first, (&mut *halves, &held.halves));
            }
        }
    }
    Ok(())
}

fn upload<B: Backend>(backend: &B, into: &mut Mat<B, B::Real>, range: Range<usize>, values: &[f32]) {
    backend.upload(&real::<B>(values), into.out().cols(range.clone()));
    into.rest(range);
}
