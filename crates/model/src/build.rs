//! From a blueprint and a checkpoint to a decoder with its trainable arena.

mod experts;
mod layers;
mod lent;
mod lora;
mod mxfp4;
mod storage;

pub use lent::{Lending, Lent};
pub use storage::Storage;

pub use lora::{Adapters, Biases, Factors, LoraInit, Start, initialise_lora};

use crate::{Blueprint, Decoder, Error, Projection, RopeSpec};
use half::bf16;
use kernels::{Backend, Elem, Mat, Real, RopeLayout};
use nn::{Held, Home, Linear, Norm, Param, ParamId, Rotary, Table, Tensor, Vector};
use std::collections::BTreeSet;
use std::ops::Range;
use storage::Source;
use weights::Checkpoint;

/// Which weights change.
#[derive(Clone, Copy, Debug)]
pub enum Tuning<'a> {
    /// None.
    Frozen,
    /// All.
    Full,
    /// All of the blocks `first..past`; embedding, last norm and head do not change.
    Blocks {
        /// The first trained block.
        first: usize,
        /// One past the last.
        past: usize,
    },
    /// Low-rank additions to some linear layers.
    Lora(&'a Adapters),
}

/// A decoder, the table of what is trained in it, and the starting values.
pub struct Built<B: Backend> {
    /// The decoder.
    pub decoder: Decoder<B>,
    /// Trainable tensors.
    pub table: Table,
    /// `[1, table.reals()]`; adapters are zero until [`initialise_lora`].
    pub values: Mat<B, B::Real>,
    /// `[1, table.halves()]`
    pub halves: Mat<B, bf16>,
    /// Things worth saying to the user.
    pub notes: Vec<String>,
}

/// The tensors that have a row for every entry of the vocabulary.
const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

/// Elements copied at a time from a checkpoint into the arena.
const CHUNK: usize = 1 << 20;

struct Builder<'a, B: Backend> {
    backend: &'a B,
    checkpoint: &'a Checkpoint,
    tuning: Tuning<'a>,
    table: Table,
    /// Where magnitudes start: the parameter, the first of its elements that is meant, lengths `[1, n]`.
    lengths: Vec<(ParamId, usize, Mat<B, B::Real>)>,
    /// How frozen matrices are held.
    storage: &'a Storage,
    /// Of the unit that is being made, the frozen matrices that ranks have between them; and those of the units before.
    whole: lent::Whole,
    lent: Vec<Lent>,
    /// Rows of the vocabulary that the checkpoint does not have.
    grown: usize,
    /// Trained tensors of the checkpoint, to be copied once the arena's length is known.
    sources: Vec<(ParamId, Source)>,
}

/// Whether weight decay applies: `transformers` leaves out biases and norms, by name.
fn decays(name: &str) -> bool {
    let name = name.to_lowercase();
    let by_part = name.split('.').any(|part| part == "norm" || part.ends_with("_norm"));
    !(by_part || ["bias", "layernorm", "rmsnorm"].iter().any(|word| name.contains(word)))
}

impl<B: Backend> Builder<'_, B> {
    /// What `make` adds to the table is a unit of it.
    fn unit<T>(&mut self, make: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let made = make(self)?;
        self.table.end_unit();
        let whole = std::mem::take(&mut self.whole);
        self.lent.push(self.storage.lending.map_or_else(Lent::default, |lending| whole.dealt(lending)));
        Ok(made)
    }

    /// A trained vector, or vectors; always in `Real`.
    fn trained(&mut self, name: &str, shape: &[usize], source: Source) -> ParamId {
        let id = self.table.push_shaped(name, shape, decays(name));
        self.sources.push((id, source));
        id
    }

    fn trained_matrix(&mut self, name: &str, shape: &[usize], source: Source) -> ParamId {
        let decay = decays(name);
        let id = match self.storage.halves {
            true => self.table.push_half(name, shape, decay),
            false => self.table.push_shaped(name, shape, decay),
        };
        self.sources.push((id, source));
        id
    }

    /// Whether a tensor of the checkpoint is trained itself.
    fn trains(&self, name: &str) -> bool {
        let block = || name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
        match self.tuning {
            Tuning::Full => true,
            Tuning::Blocks { first, past } => block().is_some_and(|block| (first..past).contains(&block)),
            Tuning::Lora(adapters) => adapters.trains(name),
            Tuning::Frozen => false,
        }
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Tensor<B>, Error> {
        if self.trains(name) {
            let missing = if [EMBEDDING, HEAD].contains(&name) { self.grown } else { 0 };
            let source = self.source(name, &[rows - missing, cols])?;
            return Ok(Tensor::Trained(self.trained_matrix(name, &[rows, cols], source)));
        }
        let held = self.held(name, &[rows, cols])?;
        Ok(self.frozen_whole(held, rows, cols))
    }

    /// Rows `cuts` of a tensor whose rows are `cols` wide, each as a weight of its own. Frozen, they share the bytes.
    fn cut(&mut self, name: &str, shape: &[usize], cuts: &[Range<usize>]) -> Result<Vec<Tensor<B>>, Error> {
        let cols = shape[shape.len() - 1];
        if self.trains(name) {
            let source = self.source(name, shape)?;
            let id = self.trained_matrix(name, shape, source);
            return Ok(cuts.iter().map(|rows| Tensor::Part { id, rows: rows.clone() }).collect());
        }
        let held = self.held(name, shape)?;
        Ok(self.frozen(held, cuts, cols))
    }

    fn vector(&mut self, name: &str, len: usize) -> Result<Vector<B>, Error> {
        self.vectors(name, &[len])
    }

    /// A vector, or one per row of a matrix.
    fn vectors(&mut self, name: &str, shape: &[usize]) -> Result<Vector<B>, Error> {
        let source = self.source(name, shape)?;
        Ok(match self.trains(name) {
            true => Vector::Trained(self.trained(name, shape, source)),
            false => Vector::Frozen(self.values(&source, shape)),
        })
    }

    /// The values of a small tensor.
    fn values(&self, source: &Source, shape: &[usize]) -> Mat<B, B::Real> {
        let len = shape.iter().product();
        let (mut values, cols) = (vec![B::Real::ZERO; len], shape[shape.len() - 1]);
        self.backend.stored_to_host(&self.backend.store(source.host(0..len), 1, len), &mut values);
        self.backend.from_host(len / cols.max(1), cols, &values)
    }

    fn linear(&mut self, p: Projection) -> Result<Linear<B>, Error> {
        let weight = self.matrix(&format!("{}.weight", p.path), p.outputs, p.inputs)?;
        let bias = if p.bias { Some(self.vector(&format!("{}.bias", p.path), p.outputs)?) } else { None };
        let lora = self.lora(&p);
        let linear = Linear { weight, bias, lora, inputs: p.inputs, outputs: p.outputs };
        self.note_lengths(&linear);
        Ok(linear)
    }

    fn norm(&mut self, b: &Blueprint, name: &str, len: usize) -> Result<Norm<B>, Error> {
        Ok(Norm { weight: self.vector(name, len)?, eps: b.norm_eps, one_plus: b.norm_one_plus })
    }
}

impl<B: Backend> Built<B> {
    /// Builds a decoder for sequences of at most `positions` tokens. Frozen weights stay where they are mapped.
    pub fn new(
        backend: &B,
        checkpoint: &Checkpoint,
        blueprint: Blueprint,
        tuning: Tuning,
        positions: usize,
    ) -> Result<Built<B>, Error> {
        let storage = Storage::default();
        Ok(Unfilled::new(&storage, backend, checkpoint, blueprint, tuning, positions)?.whole(backend))
    }
}

/// A decoder whose trainable arena has no values yet.
pub struct Unfilled<B: Backend> {
    /// Trainable tensors.
    pub table: Table,
    /// Of every unit, the frozen matrices that ranks have between them.
    pub lent: Vec<Lent>,
    decoder: Decoder<B>,
    sources: Vec<(ParamId, Source)>,
    lengths: Vec<(ParamId, usize, Mat<B, B::Real>)>,
    notes: Vec<String>,
}

impl<B: Backend> Unfilled<B> {
    /// As [`Built::new`]; frozen matrices are held as `storage` says.
    pub fn new(
        storage: &Storage,
        backend: &B,
        checkpoint: &Checkpoint,
        blueprint: Blueprint,
        tuning: Tuning,
        positions: usize,
    ) -> Result<Unfilled<B>, Error> {
        if let Tuning::Lora(adapters) = tuning {
            check_modules(&blueprint, adapters)?;
        }
        let mut builder = Builder {
            backend,
            checkpoint,
            tuning,
            storage,
            grown: blueprint.grown,
            whole: lent::Whole::default(),
            lent: Vec::new(),
            table: Table::default(),
            lengths: Vec::new(),
            sources: Vec::new(),
        };
        let (v, d) = (blueprint.vocab, blueprint.hidden);
        // Units, as the decoder numbers them.
        let embed = builder.unit(|b| b.matrix(EMBEDDING, v, d))?;
        let block = |i| builder.unit(|b| b.block(&blueprint, i));
        let blocks = (0..blueprint.layers.len()).map(block).collect::<Result<_, _>>()?;
        let norm = builder.unit(|b| b.norm(&blueprint, "model.norm.weight", d))?;
        let head = builder.unit(|b| b.head(&blueprint))?;
        let notes = tied_note(checkpoint, blueprint.tied);
        let Builder { table, sources, lengths, lent, .. } = builder;
        let interleaved = blueprint.latent.as_ref().is_some_and(|l| l.interleaved);
        let ropes = std::iter::once(&blueprint.rope).chain(&blueprint.local_rope);
        let rotaries = ropes.map(|rope| rotary(backend, rope, positions, interleaved)).collect();
        let decoder = Decoder::new(blueprint, embed, blocks, norm, head, rotaries);
        Ok(Unfilled { table, lent, decoder, sources, lengths, notes })
    }

    /// Whether the head is a matrix of its own.
    pub fn has_head(&self) -> bool {
        self.decoder.has_head()
    }

    /// Copies all starting values in.
    pub fn whole(self, backend: &B) -> Built<B> {
        let all = 0..self.table.len();
        let held = self.table.held(std::slice::from_ref(&all));
        self.fill(backend, &held)
    }

    /// Copies the starting values in, those of `held`.
    pub fn fill(self, backend: &B, held: &Held) -> Built<B> {
        let Unfilled { table, decoder, sources, lengths, notes, .. } = self;
        let len = |runs: &[Range<usize>]| runs.iter().map(ExactSizeIterator::len).sum();
        let (mut values, mut halves) = (backend.zeros(1, len(&held.reals)), backend.zeros(1, len(&held.halves)));
        for (id, source) in sources {
            let p = table.param(id);
            match p.home {
                Home::Real(_) => copy_in(backend, &source, p, (&mut values, &held.reals), |x| x),
                Home::Half(_) => {
                    copy_in(backend, &source, p, (&mut halves, &held.halves), |x| bf16::from_f64(x.f64()));
                }
            }
        }
        for (id, first, norms) in lengths {
            let at = table.param(id).values().start + first;
            land(backend, &backend.to_host(norms.view()), at, (&mut values, &held.reals));
        }
        Built { decoder, table, values, halves, notes }
    }
}

/// Uploads values that begin at element `at` of an arena, as far as they are held: `held` lies in `values` without gaps.
pub fn land<B: Backend, T: Elem>(
    backend: &B,
    piece: &[T],
    at: usize,
    (values, held): (&mut Mat<B, T>, &[Range<usize>]),
) {
    let mut first = 0;
    for run in held {
        let (start, end) = (run.start.max(at), run.end.min(at + piece.len()));
        if start < end {
            let to = first + start - run.start;
            backend.upload(&piece[start - at..end - at], values.out().cols(to..to + end - start));
        }
        first += run.len();
    }
}

/// The tables of a rotation on the device.
fn rotary<B: Backend>(backend: &B, rope: &RopeSpec, positions: usize, interleaved: bool) -> Rotary<B> {
    let (cos, sin) = rope.tables(positions);
    let upload = |table: Vec<f64>| {
        let table: Vec<B::Real> = table.into_iter().map(B::Real::of).collect();
        backend.from_host(positions, rope.width / 2, &table)
    };
    let layout = if interleaved { RopeLayout::Interleaved } else { RopeLayout::HalfSplit };
    Rotary { cos: upload(cos), sin: upload(sin), layout }
}

/// Copies a tensor into its range of the arena, piece by piece, and lets go of the mapped pages: they are not needed again. Rows
/// that it lacks are filled with the mean of those that it has.
fn copy_in<B: Backend, T: Elem>(
    backend: &B,
    source: &Source,
    p: &Param,
    (values, held): (&mut Mat<B, T>, &[Range<usize>]),
    of: impl Fn(B::Real) -> T,
) {
    let (to, len) = (p.values(), source.len());
    let mut sums = vec![0.0; if len < to.len() { p.cols } else { 0 }];
    let mut piece = vec![B::Real::ZERO; CHUNK.min(len)];
    source.tensor.in_pieces(CHUNK, |range| {
        let piece = &mut piece[..range.len()];
        backend.stored_to_host(&backend.store(source.host(range.clone()), 1, range.len()), piece);
        if !sums.is_empty() {
            range.clone().zip(&*piece).for_each(|(i, x)| sums[i % p.cols] += x.f64());
        }
        let piece: Vec<T> = piece.iter().map(|x| of(*x)).collect();
        land(backend, &piece, to.start + range.start, (&mut *values, held));
    });
    let rows = (len / p.cols.max(1)) as f64;
    let mean: Vec<T> = sums.iter().map(|sum| of(B::Real::of(sum / rows))).collect();
    for first in (to.start + len..to.end).step_by(p.cols.max(1)) {
        land(backend, &mean, first, (&mut *values, held));
    }
}

fn check_modules(blueprint: &Blueprint, adapters: &Adapters) -> Result<(), Error> {
    let known: BTreeSet<String> = blueprint.linear_modules().into_iter().chain(blueprint.expert_modules()).collect();
    match adapters.modules.keys().find(|m| !known.contains(*m) || *m == "lm_head") {
        None => Ok(()),
        Some(m) if m == "lm_head" => {
            Err(Error::Adapter { what: "lm_head is targeted; an adapter on the head is not implemented".to_owned() })
        }
        Some(m) => Err(Error::Adapter {
            what: format!("{m} is targeted, which is no linear layer of this {} model", blueprint.model_type),
        }),
    }
}

fn tied_note(checkpoint: &Checkpoint, tied: bool) -> Vec<String> {
    let (Ok(embed), Ok(head)) = (checkpoint.get(EMBEDDING), checkpoint.get(HEAD)) else {
        return Vec::new();
    };
    if !tied || embed.bytes() == head.bytes() {
        return Vec::new();
    }
    vec!["config.json says tie_word_embeddings: true, but the checkpoint holds an lm_head.weight that differs from the embedding; the embedding is used for both, as transformers does".to_owned()]
}
