//! One rank's part of the optimiser's state as a file, and such parts read back by any ranks.
//!
//! Tensors are flat, and named by what they are of and their first element in the arena: `m@4096`.

use super::{CHUNK, OPTIMIZER_FILE, rounds, upload};
use crate::policy::Policy;
use crate::spread::{Spread, host};
use crate::{Error, Job};
use kernels::Backend;
use nn::{Held, Table};
use optim::adamw::{AdamW, Piece, Place};
use std::ops::Range;
use std::path::{Path, PathBuf};
use weights::{DType, Mapped, SafeTensors, Sink, TensorInfo};

/// What a tensor is of: the two moments, their largest amounts where they have eight bits, the values.
const PARTS: [&str; 5] = ["m", "v", "m_absmax", "v_absmax", "values"];

/// The part that has the values.
const VALUES: usize = 4;

/// The pieces of a layout; neighbours of full precision as one.
fn runs(layout: &[Piece]) -> Vec<Piece> {
    let mut runs: Vec<Piece> = Vec::new();
    for piece in layout {
        match (runs.last_mut(), &piece.place) {
            (Some(Piece { range, place: Place::Plain(own) }), Place::Plain(next)) if range.end == piece.range.start => {
                (range.end, own.end) = (piece.range.end, next.end);
            }
            _ => runs.push(piece.clone()),
        }
    }
    runs
}

/// Writes the part of the optimiser's state for which this rank answers, with the values where the weights are rounded.
pub(crate) fn write<B: Backend>(
    backend: &B,
    job: &Job,
    policy: &Policy<B>,
    spread: &Spread,
    optimizer: &AdamW<B>,
    path: &Path,
) -> Result<(), Error> {
    // Where all have the whole state, each writes its part of it.
    let own = spread.own();
    let all = runs(&optimizer.layout.pieces).into_iter().flat_map(|piece| within(&piece, &own));
    let (mut infos, mut places) = (Vec::new(), Vec::new());
    for Piece { range, place } in all {
        let mut add = |part: usize, dtype, n: usize| {
            infos.push(TensorInfo::new(format!("{}@{}", PARTS[part], range.start), dtype, [n]));
            places.push((part, Piece { range: range.clone(), place: place.clone() }));
        };
        for moment in 0..2 {
            match &place {
                Place::Plain(_) => add(moment, DType::F32, range.len()),
                Place::Eight(_, blocks) => {
                    add(moment, DType::U8, range.len());
                    add(2 + moment, DType::F32, blocks.len());
                }
            }
        }
        if rounds(job) {
            add(VALUES, DType::F32, range.len());
        }
    }
    let named = |name: &str| infos.iter().position(|info| info.name == name).map(|i| &places[i]);
    weights::write_file(path, &infos, |info, sink: &mut Sink| -> Result<(), Error> {
        let Some((part, Piece { range, place })) = named(&info.name) else { return Ok(()) };
        match (*part, place) {
            (VALUES, _) => {
                for start in range.clone().step_by(CHUNK) {
                    sink.put(&spread.own_values(backend, policy, start..(start + CHUNK).min(range.end)))?;
                }
            }
            (moment, Place::Plain(at)) => {
                for start in at.clone().step_by(CHUNK) {
                    let from = [&optimizer.m, &optimizer.v][moment];
                    let part = start..(start + CHUNK).min(at.end);
                    sink.put(&host(backend, from, part.clone()))?;
                    from.rest(part);
                }
            }
            (moment @ 0..2, Place::Eight(codes, _)) => {
                sink.put_bytes(&backend.to_host(optimizer.eight[moment].codes.view().cols(codes.clone())))?;
            }
            (part, Place::Eight(_, blocks)) => {
                sink.put(&host(backend, &optimizer.eight[part - 2].absmax, blocks.clone()))?;
            }
        }
        Ok(())
    })?;
    Ok(())
}

/// The parts of a piece that lie in some runs of the arena.
fn within(piece: &Piece, runs: &[Range<usize>]) -> Vec<Piece> {
    let first = runs.partition_point(|run| run.end <= piece.range.start);
    let part = |run: &Range<usize>| {
        let (start, end) = (run.start.max(piece.range.start), run.end.min(piece.range.end));
        let (from, to) = (start - piece.range.start, end - piece.range.start);
        let place = match &piece.place {
            Place::Plain(at) => Place::Plain(at.start + from..at.start + to),
            Place::Eight(codes, blocks) => {
                let absmax = blocks.start + from / super::BLOCK..blocks.start + to.div_ceil(super::BLOCK);
                Place::Eight(codes.start + from..codes.start + to, absmax)
            }
        };
        Piece { range: start..end, place }
    };
    runs[first..].iter().take_while(|run| run.start < piece.range.end).map(part).collect()
}

/// A piece of a checkpoint's state: what it is of, where it lies in the arena, and the numbers.
struct Found {
    part: usize,
    range: Range<usize>,
    tensor: Mapped,
}

/// The state that a checkpoint has, whatever ranks wrote it: one file with a tensor per parameter, or a file per rank.
fn found(table: &Table, dir: &Path) -> Result<Vec<Found>, Error> {
    let mut all = Vec::new();
    let single = dir.join(OPTIMIZER_FILE);
    let files: Vec<PathBuf> = if single.exists() { vec![single] } else { shards(dir)? };
    for path in files {
        let file = SafeTensors::open(&path)?;
        for info in file.infos() {
            let (name, flat) = info.name.split_once('@').map_or((&*info.name, None), |(n, first)| (n, Some(first)));
            let (part, of) = if flat.is_some() { (name, "") } else { name.split_once('.').unwrap_or((name, "")) };
            let Some(part) = PARTS.iter().position(|p| *p == part) else { continue };
            let len: usize = info.shape.iter().product();
            let range = match flat {
                None => table.params().iter().find(|p| p.name == of).map(nn::Param::range),
                // Of largest amounts only the first element is known; they say no more than that.
                Some(first) => first
                    .parse()
                    .ok()
                    .map(|first: usize| first..first + len * if part > 1 && part < VALUES { super::BLOCK } else { 1 }),
            };
            let Some(range) = range else { continue };
            let tensor = file.get(&info.name).ok_or_else(|| Error::Mismatch {
                what: format!("{}: tensor {} is missing; the checkpoint is of another run", path.display(), info.name),
            })?;
            all.push(Found { part, range, tensor });
        }
    }
    Ok(all)
}

fn shards(dir: &Path) -> Result<Vec<PathBuf>, Error> {
    let listed = std::fs::read_dir(dir).map_err(|source| Error::Io { doing: "list", path: dir.to_owned(), source })?;
    let mut names: Vec<String> = listed.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    names.retain(|n| n.starts_with("optimizer-") && n.ends_with(".safetensors"));
    names.sort();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

/// Reads moments back as far as the optimiser has them, and values, where the checkpoint has them, as far as they are held. Returns
/// whether it has.
pub(super) fn read<B: Backend>(
    backend: &B,
    (policy, held): (&mut Policy<B>, &Held),
    optimizer: &mut AdamW<B>,
    dir: &Path,
) -> Result<bool, Error> {
    let all = found(&policy.table, dir)?;
    let runs = runs(&optimizer.layout.pieces);
    let mut read = [0; PARTS.len()];
    for piece in &all {
        if piece.part == VALUES {
            let values = piece.tensor.to_f32()?;
            policy.land(backend, held, piece.range.start, &values);
            read[VALUES] += values.len();
            continue;
        }
        read[piece.part] += take(backend, optimizer, &runs, piece)?;
    }
    let (own, len) = (optimizer.layout.len(), policy.table.len());
    let blocks = optimizer.eight[0].absmax.cols();
    let rounded = read[VALUES] > 0;
    let whole = [own, own, blocks, blocks, if rounded { len } else { 0 }];
    for ((what, expected), found) in PARTS.iter().zip(whole).zip(read) {
        if found != expected {
            let what = format!(
                "{}: {found} of {expected} elements of {what} are there; the checkpoint is of another run, or of a rank whose file is gone",
                dir.display()
            );
            return Err(Error::Mismatch { what });
        }
    }
    Ok(rounded)
}

/// Takes over what the optimiser has of a piece; returns how many numbers that was.
fn take<B: Backend>(backend: &B, optimizer: &mut AdamW<B>, runs: &[Piece], piece: &Found) -> Result<usize, Error> {
    let first = runs.partition_point(|run| run.range.end <= piece.range.start);
    let common = runs[first..].iter().take_while(|run| run.range.start < piece.range.end);
    let coded = piece.tensor.dtype() == DType::U8;
    let numbers = if coded || common.clone().next().is_none() { Vec::new() } else { piece.tensor.to_f32()? };
    let mut count = 0;
    for Piece { range, place } in common {
        let (start, end) = (range.start.max(piece.range.start), range.end.min(piece.range.end));
        let (from, to) = (start - piece.range.start..end - piece.range.start, start - range.start);
        match (piece.part, place, coded) {
            (moment @ 0..2, Place::Plain(at), false) => {
                let AdamW { m, v, .. } = &mut *optimizer;
                upload(backend, [m, v][moment], at.start + to..at.start + to + from.len(), &numbers[from.clone()]);
                count += from.len();
            }
            (moment @ 0..2, Place::Eight(codes, _), true) => {
                let at = codes.start + to..codes.start + to + from.len();
                backend.upload(&piece.tensor.bytes()[from.clone()], optimizer.eight[moment].codes.out().cols(at));
                count += from.len();
            }
            (absmax @ 2..VALUES, Place::Eight(_, blocks), false) => {
                let from = from.start / super::BLOCK..from.end.div_ceil(super::BLOCK).min(numbers.len());
                let at = blocks.start + to / super::BLOCK;
                upload(backend, &mut optimizer.eight[absmax - 2].absmax, at..at + from.len(), &numbers[from.clone()]);
                count += from.len();
            }
            _ => {}
        }
    }
    Ok(count)
}
