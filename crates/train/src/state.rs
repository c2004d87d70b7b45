//! The arena and the optimiser as files: what a checkpoint holds, and what `final/` holds.

use crate::policy::Policy;
use crate::{Error, Job};
use kernels::{Backend, Mat, Real, bf16};
use nn::{Home, Param, Table};
use optim::adamw::{AdamW, Layout, Place};
use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;
use std::path::Path;
use weights::{ConfigChanges, DType, LoraFactor, LoraPair, SafeTensors, Sink, TensorInfo, WholeTensor, module_of};

/// Optimiser state beside the weights.
const OPTIMIZER_FILE: &str = "optimizer.safetensors";

/// Elements taken from the arena at a time.
const CHUNK: usize = 1 << 20;

/// Writes elements of an arena, piece by piece, in the type the sink stores.
fn put<B: Backend>(backend: &B, from: &Mat<B, B::Real>, range: Range<usize>, sink: &mut Sink) -> Result<(), Error> {
    for start in range.clone().step_by(CHUNK) {
        let piece = from.view().cols(start..(start + CHUNK).min(range.end));
        let piece: Vec<f32> = backend.to_host(piece).iter().map(|x| x.f64() as f32).collect();
        sink.put(&piece)?;
    }
    Ok(())
}

/// Writes a parameter's values.
fn put_values<B: Backend>(backend: &B, policy: &Policy<B>, p: &Param, sink: &mut Sink) -> Result<(), Error> {
    if let Home::Real(_) = p.home {
        return put(backend, &policy.values, p.values(), sink);
    }
    for start in p.values().step_by(CHUNK) {
        sink.put(&backend.to_host(policy.halves.view().cols(start..(start + CHUNK).min(p.values().end))))?;
    }
    Ok(())
}

/// A parameter's values in single precision.
fn host<B: Backend>(backend: &B, values: &Mat<B, B::Real>, p: &Param) -> Vec<f32> {
    backend.to_host(values.view().cols(p.values())).iter().map(|x| x.f64() as f32).collect()
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
pub(crate) fn write_weights<B: Backend>(backend: &B, job: &Job, policy: &Policy<B>, dir: &Path) -> Result<(), Error> {
    let Policy { table, values, .. } = policy;
    match &job.adapter {
        Some(adapter) => {
            let mut config = adapter.config.clone();
            config.base_model_name_or_path = Some(job.config.model.path.display().to_string());
            let factor = |module: &str, factor| {
                let name = weights::tensor_name(module, factor);
                table.params().iter().find(|p| p.name == name).map(|p| Cow::Owned(host(backend, values, p)))
            };
            let pair = |(module, on): (&String, &model::Factors)| LoraPair {
                module: module.clone(),
                rank: on.rank,
                scale: on.scale,
                a: factor(module, LoraFactor::A).unwrap_or_default(),
                b: factor(module, LoraFactor::B).unwrap_or_default(),
                magnitude: factor(module, LoraFactor::Magnitude),
            };
            let pairs: Vec<LoraPair> = adapter.adapters.modules.iter().map(pair).collect();
            let whole = |p: &Param| WholeTensor {
                name: p.name.clone(),
                shape: p.shape.clone(),
                values: host(backend, values, p).into(),
            };
            let whole: Vec<WholeTensor> =
                table.params().iter().filter(|p| module_of(&p.name).is_none()).map(whole).collect();
            weights::save_adapter(dir, &config, &pairs, &whole, DType::F32)?;
        }
        None => write_model(backend, job, policy, dir)?,
    }
    Ok(())
}

fn write_model<B: Backend>(backend: &B, job: &Job, policy: &Policy<B>, dir: &Path) -> Result<(), Error> {
    let (dtype, table) = (export_dtype(job), &policy.table);
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
            Some(p) => put_values(backend, policy, p, sink),
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
    let all = || table.params().iter().zip(&layout.places);
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
                Ok(sink.put_bytes(&backend.to_host(optimizer.eight[i].codes.view().cols(codes.clone())))?)
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
    policy: &mut Policy<B>,
    optimizer: &mut AdamW<B>,
    dir: &Path,
) -> Result<(), Error> {
    let whole = optimizer.range() == (0..policy.table.len());
    if whole && (dir.join(OPTIMIZER_FILE).exists() || !optimizer.layout.is_plain()) {
        return read_whole(backend, job, policy, optimizer, dir);
    }
    let pieces = pieces(&policy.table, dir)?;
    let rounded = pieces.iter().any(|p| p.part == "values");
    let (own, len) = (optimizer.range(), policy.table.len());
    let mut found = [0; 3];
    for piece in &pieces {
        let (into, wanted, count) = match piece.part.as_str() {
            "m" => (&mut optimizer.m, own.clone(), 0),
            "v" => (&mut optimizer.v, own.clone(), 1),
            _ => (&mut policy.values, 0..len, 2),
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
        true if found[2] != len => Err(missing("the values", len, found[2])),
        true => Ok(()),
        false => read_weights(backend, job, policy, dir),
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
                backend.upload(tensor.bytes(), optimizer.eight[i].codes.out().cols(codes.clone()));
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
    let every = !rounded;
    read_some(backend, job, policy, dir, |p| every || matches!(p.home, Home::Half(_)))
}

/// Reads the trained weights of a checkpoint or of `final/`.
pub(crate) fn read_weights<B: Backend>(
    backend: &B,
    job: &Job,
    policy: &mut Policy<B>,
    dir: &Path,
) -> Result<(), Error> {
    read_some(backend, job, policy, dir, |_| true)
}

/// Those of them that `wanted` holds for.
fn read_some<B: Backend>(
    backend: &B,
    job: &Job,
    policy: &mut Policy<B>,
    dir: &Path,
    wanted: impl Fn(&Param) -> bool,
) -> Result<(), Error> {
    let Policy { table, values, halves, .. } = policy;
    if !table.params().iter().any(&wanted) {
        return Ok(());
    }
    if job.adapter.is_some() {
        let adapter = weights::Adapter::load(dir)?;
        return Ok(model::initialise_lora(backend, table, values, &model::LoraInit::From(&adapter))?);
    }
    let checkpoint = weights::Checkpoint::open(dir)?;
    for p in table.params().iter().filter(|p| wanted(p)) {
        let tensor = checkpoint.get(&p.name)?;
        tensor.expect_shape(&p.shape)?;
        match p.home {
            Home::Real(_) => upload(backend, values, p.values(), &tensor.to_f32()?),
            Home::Half(_) => {
                let exact: Vec<bf16> = tensor.to_f32()?.iter().map(|x| bf16::from_f32(*x)).collect();
                backend.upload(&exact, halves.out().cols(p.values()));
            }
        }
    }
    Ok(())
}

fn upload<B: Backend>(backend: &B, into: &mut Mat<B, B::Real>, range: Range<usize>, values: &[f32]) {
    let values: Vec<B::Real> = values.iter().map(|x| B::Real::of(f64::from(*x))).collect();
    backend.upload(&values, into.out().cols(range));
}
