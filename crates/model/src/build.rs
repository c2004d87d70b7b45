//! From a blueprint and a checkpoint to a decoder with its trainable arena.

mod experts;
mod layers;
mod mxfp4;
mod storage;

pub use storage::Storage;

use crate::{Blueprint, Decoder, Error, Projection, RopeSpec};
use kernels::{Backend, Mat, Real, RopeLayout};
use nn::{Linear, Lora, Norm, ParamId, Rotary, Table, Tensor, Vector};
use std::collections::BTreeSet;
use std::ops::Range;
use storage::Source;
use weights::{Adapter, Checkpoint, LoraFactor, tensor_name};

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

/// Where low-rank additions go, and how large they are.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapters {
    /// `r`.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scale: f64,
    /// Paths of the linear layers.
    pub modules: BTreeSet<String>,
}

/// How an adapter starts.
pub enum LoraInit<'a> {
    /// A uniform in +-1/sqrt(inputs), B zero: the model is unchanged.
    Fresh {
        /// Of A.
        seed: u64,
    },
    /// A given adapter.
    From(&'a Adapter),
}

/// A decoder, the table of what is trained in it, and the starting values.
pub struct Built<B: Backend> {
    /// The decoder.
    pub decoder: Decoder<B>,
    /// Trainable tensors.
    pub table: Table,
    /// `[1, table.len()]`; adapters are zero until [`initialise_lora`].
    pub values: Mat<B, B::Real>,
    /// Things worth saying to the user.
    pub notes: Vec<String>,
}

/// Elements copied at a time from a checkpoint into the arena.
const CHUNK: usize = 1 << 20;

struct Builder<'a, B: Backend> {
    backend: &'a B,
    checkpoint: &'a Checkpoint,
    tuning: Tuning<'a>,
    table: Table,
    /// How frozen matrices are held.
    storage: &'a Storage,
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
    fn trained(&mut self, name: &str, shape: &[usize], source: Source) -> ParamId {
        let id = self.table.push_shaped(name, shape, decays(name));
        self.sources.push((id, source));
        id
    }

    /// Whether a tensor of the checkpoint is trained itself.
    fn trains(&self, name: &str) -> bool {
        let block = || name.strip_prefix("model.layers.")?.split('.').next()?.parse::<usize>().ok();
        match self.tuning {
            Tuning::Full => true,
            Tuning::Blocks { first, past } => block().is_some_and(|block| (first..past).contains(&block)),
            Tuning::Frozen | Tuning::Lora(_) => false,
        }
    }

    fn matrix(&mut self, name: &str, rows: usize, cols: usize) -> Result<Tensor<B>, Error> {
        if self.trains(name) {
            let source = self.source(name, &[rows, cols])?;
            return Ok(Tensor::Trained(self.trained(name, &[rows, cols], source)));
        }
        Ok(Tensor::Frozen(self.backend.store(self.held(name, &[rows, cols])?, rows, cols)))
    }

    /// Rows `cuts` of a tensor whose rows are `cols` wide, each as a weight of its own. Frozen, they share the bytes.
    fn cut(&mut self, name: &str, shape: &[usize], cuts: &[Range<usize>]) -> Result<Vec<Tensor<B>>, Error> {
        let cols = shape[shape.len() - 1];
        if self.trains(name) {
            let source = self.source(name, shape)?;
            let id = self.trained(name, shape, source);
            return Ok(cuts.iter().map(|rows| Tensor::Part { id, rows: rows.clone() }).collect());
        }
        let whole = self.held(name, shape)?;
        Ok(cuts.iter().map(|rows| Tensor::Frozen(self.rows_of(&whole, rows.clone(), cols))).collect())
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
        Ok(Linear { weight, bias, lora, inputs: p.inputs, outputs: p.outputs })
    }

    /// The adapter on a linear layer, if there is to be one.
    fn lora(&mut self, p: &Projection) -> Option<Lora> {
        match self.tuning {
            Tuning::Lora(adapters) if adapters.modules.contains(&p.path) => {
                let a = tensor_name(&p.path, LoraFactor::A);
                let b = tensor_name(&p.path, LoraFactor::B);
                let site = seed_of(0, &p.path);
                let a = self.table.push(&a, adapters.rank, p.inputs, decays(&a));
                let b = self.table.push(&b, p.outputs, adapters.rank, decays(&b));
                Some(Lora { a, b, first: 0, scale: adapters.scale, site })
            }
            _ => None,
        }
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
        Built::stored_as(&Storage::default(), backend, checkpoint, blueprint, tuning, positions)
    }

    /// As [`Built::new`]; frozen matrices are held as `storage` says.
    pub fn stored_as(
        storage: &Storage,
        backend: &B,
        checkpoint: &Checkpoint,
        blueprint: Blueprint,
        tuning: Tuning,
        positions: usize,
    ) -> Result<Built<B>, Error> {
        if let Tuning::Lora(adapters) = tuning {
            check_modules(&blueprint, adapters)?;
        }
        let mut builder =
            Builder { backend, checkpoint, tuning, storage, table: Table::default(), sources: Vec::new() };
        let (v, d) = (blueprint.vocab, blueprint.hidden);
        let embed = builder.matrix("model.embed_tokens.weight", v, d)?;
        let blocks = (0..blueprint.layers.len()).map(|i| builder.block(&blueprint, i)).collect::<Result<_, _>>()?;
        let norm = builder.norm(&blueprint, "model.norm.weight", d)?;
        let head = if blueprint.tied { None } else { Some(builder.matrix("lm_head.weight", v, d)?) };
        let notes = tied_note(checkpoint, blueprint.tied);
        let Builder { table, sources, .. } = builder;
        let mut values = backend.zeros(1, table.len());
        for (id, source) in sources {
            copy_in(backend, &source, table.param(id).range(), &mut values);
        }
        let interleaved = blueprint.latent.as_ref().is_some_and(|l| l.interleaved);
        let ropes = std::iter::once(&blueprint.rope).chain(&blueprint.local_rope);
        let rotaries = ropes.map(|rope| rotary(backend, rope, positions, interleaved)).collect();
        let decoder = Decoder::new(blueprint, embed, blocks, norm, head, rotaries);
        Ok(Built { decoder, table, values, notes })
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

/// Copies a tensor into its range of the arena, piece by piece, and lets go of the mapped pages: they are not needed again.
fn copy_in<B: Backend>(backend: &B, source: &Source, to: Range<usize>, values: &mut Mat<B, B::Real>) {
    let mut piece = vec![B::Real::ZERO; CHUNK.min(to.len())];
    for start in (0..to.len()).step_by(CHUNK) {
        let range = start..(start + CHUNK).min(to.len());
        let piece = &mut piece[..range.len()];
        backend.stored_to_host(&backend.store(source.host(range.clone()), 1, range.len()), piece);
        backend.upload(piece, values.out().cols(to.start + range.start..to.start + range.end));
    }
    source.tensor.release();
}

fn check_modules(blueprint: &Blueprint, adapters: &Adapters) -> Result<(), Error> {
    let known: BTreeSet<String> = blueprint.linear_modules().into_iter().chain(blueprint.expert_modules()).collect();
    match adapters.modules.iter().find(|m| !known.contains(*m) || *m == "lm_head") {
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
    let (Ok(embed), Ok(head)) = (checkpoint.get("model.embed_tokens.weight"), checkpoint.get("lm_head.weight")) else {
        return Vec::new();
    };
    if !tied || embed.bytes() == head.bytes() {
        return Vec::new();
    }
    vec!["config.json says tie_word_embeddings: true, but the checkpoint holds an lm_head.weight that differs from the embedding; the embedding is used for both, as transformers does".to_owned()]
}

/// Fills the adapters' part of an arena.
pub fn initialise_lora<B: Backend>(
    backend: &B,
    table: &Table,
    values: &mut Mat<B, B::Real>,
    init: &LoraInit,
) -> Result<(), Error> {
    for p in table.params() {
        let Some((module, factor)) = weights::module_of(&p.name) else { continue };
        let n = p.rows * p.cols;
        let host: Vec<B::Real> = match init {
            LoraInit::Fresh { .. } if factor == LoraFactor::B => vec![B::Real::ZERO; n],
            LoraInit::Fresh { seed } => {
                let (key, bound) = (seed_of(*seed, &p.name), (p.cols as f64).powf(-0.5));
                let uniform = |i: usize| (mix(key.wrapping_add(i as u64)) >> 11) as f64 / (1u64 << 53) as f64;
                (0..n).map(|i| B::Real::of((2.0 * uniform(i) - 1.0) * bound)).collect()
            }
            LoraInit::From(adapter) => {
                let pair = adapter.get(module).ok_or_else(|| Error::Adapter {
                    what: format!("it has no factors for {module}, which is targeted"),
                })?;
                let given = if factor == LoraFactor::A { &pair.a } else { &pair.b };
                if given.len() != n {
                    let what = format!(
                        "{}: expected {} x {}, found {} elements; it was made for another model",
                        p.name,
                        p.rows,
                        p.cols,
                        given.len()
                    );
                    return Err(Error::Adapter { what });
                }
                given.iter().map(|&x| B::Real::of(f64::from(x))).collect()
            }
        };
        backend.upload(&host, values.out().cols(p.range()));
    }
    Ok(())
}

/// A key for a named tensor's random numbers: FNV-1a of the name, mixed with the seed.
fn seed_of(seed: u64, name: &str) -> u64 {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    mix(hash ^ mix(seed))
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014).
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
