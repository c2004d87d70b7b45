//! Adapters: where they stand, what is trained beside them, and how they begin.

use super::{Builder, EMBEDDING, HEAD, Tuning, decays};
use crate::{Blueprint, Error, Projection};
use kernels::{Backend, Mat, Real, Weight};
use nn::{Linear, Lora, Table, Tensor};
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use weights::{Adapter, LoraFactor, LoraPair, tensor_name};

/// Where low-rank additions go, how large they are, and what is trained beside them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Adapters {
    /// By path of the linear layer.
    pub modules: BTreeMap<String, Factors>,
    /// Whether rows of the sums are brought to a trained length (DoRA).
    pub dora: bool,
    /// Modules, by path, whose tensors are trained in full; a tied head that is one gets weights of its own.
    pub saved: BTreeSet<String>,
    /// Biases that are trained.
    pub biases: Biases,
}

/// A low-rank addition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Factors {
    /// `r`.
    pub rank: usize,
    /// `alpha / r`, or `alpha / sqrt(r)`.
    pub scale: f64,
}

/// Biases that are trained beside an adapter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Biases {
    /// None.
    #[default]
    None,
    /// All of the model.
    All,
    /// Those of the layers that have an adapter.
    Adapted,
}

impl Adapters {
    /// The same on all of some layers.
    pub fn uniform(rank: usize, scale: f64, modules: impl IntoIterator<Item = String>) -> Adapters {
        let modules = modules.into_iter().map(|module| (module, Factors { rank, scale })).collect();
        Adapters { modules, ..Adapters::default() }
    }

    /// Of an adapter that exists.
    pub fn of(adapter: &Adapter) -> Adapters {
        let factors = |p: &LoraPair| (p.module.clone(), Factors { rank: p.rank, scale: p.scale });
        let module = |name: &String| name.rsplit_once('.').map_or(name.as_str(), |(module, _)| module).to_owned();
        let whole = || adapter.whole.iter().map(|t| &t.name);
        Adapters {
            modules: adapter.pairs.iter().map(factors).collect(),
            dora: adapter.config.use_dora,
            saved: whole().filter(|name| !name.contains("bias")).map(module).collect(),
            biases: if whole().any(|name| name.contains("bias")) { biases(&adapter.config.bias) } else { Biases::None },
        }
    }

    /// Whether a tensor of the checkpoint is trained in full beside the adapter.
    pub fn trains(&self, name: &str) -> bool {
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        let bias = name.contains("bias") && !name.ends_with(".e_score_correction_bias");
        self.saved.contains(module)
            || match self.biases {
                Biases::None => false,
                Biases::All => bias,
                Biases::Adapted => bias && self.modules.contains_key(module),
            }
    }

    /// Whether something of the model itself is trained.
    pub fn touches_model(&self) -> bool {
        !self.saved.is_empty() || self.biases != Biases::None
    }
}

/// How an adapter starts.
pub enum LoraInit<'a> {
    /// Random numbers.
    Fresh {
        /// Of them.
        seed: u64,
        /// How they are drawn.
        start: Start,
    },
    /// A given adapter.
    From(&'a Adapter),
}

/// How a fresh adapter is drawn (`init_lora_weights` of PEFT).
#[derive(Clone, Copy, Debug)]
pub enum Start {
    /// A uniform in +-1/sqrt(inputs), B zero: the model is unchanged.
    Usual,
    /// A normal of deviation 1/r; B zero.
    Gaussian,
    /// A as usual, B uniform in +-1/sqrt(r).
    Random,
}

impl<B: Backend> Builder<'_, B> {
    /// The adapter on a linear layer, if there is to be one.
    pub(super) fn lora(&mut self, p: &Projection) -> Option<Lora> {
        match self.tuning {
            Tuning::Lora(adapters) => {
                let Factors { rank, scale } = *adapters.modules.get(&p.path)?;
                let a = tensor_name(&p.path, LoraFactor::A);
                let b = tensor_name(&p.path, LoraFactor::B);
                let site = seed_of(0, &p.path);
                let a = self.table.push_shaped(&a, &[rank, p.inputs], decays(&a));
                let b = self.table.push_shaped(&b, &[p.outputs, rank], decays(&b));
                let magnitude = adapters.dora.then(|| {
                    let name = tensor_name(&p.path, LoraFactor::Magnitude);
                    self.table.push_shaped(&name, &[p.outputs], decays(&name))
                });
                Some(Lora { a, b, first: 0, scale, magnitude, site })
            }
            _ => None,
        }
    }

    /// Notes the lengths of a weight's rows, at which a magnitude starts.
    pub(super) fn note_lengths(&mut self, linear: &Linear<B>) {
        let Some(Lora { magnitude: Some(id), first, .. }) = linear.lora else { return };
        let whole;
        let stored = match &linear.weight {
            Tensor::Frozen(stored) => stored,
            Tensor::Lent(number) => {
                whole = self.whole.stored(self.backend, *number);
                &whole
            }
            Tensor::Trained(_) | Tensor::Part { .. } => return,
        };
        let mut norms = self.backend.mat(1, linear.outputs);
        self.backend.row_norms(Weight::Stored(stored), None, norms.out());
        self.lengths.push((id, first, norms));
    }

    /// The head, where it is not the embedding. A tied one that adapters train, or whose embedding they train, is a matrix of
    /// its own: PEFT wraps each of the two modules by itself.
    pub(super) fn head(&mut self, b: &Blueprint) -> Result<Option<Tensor<B>>, Error> {
        let (embed, head) = (EMBEDDING, HEAD);
        if !b.tied {
            return self.matrix(head, b.vocab, b.hidden).map(Some);
        }
        let Tuning::Lora(adapters) = self.tuning else { return Ok(None) };
        if !adapters.trains(embed) && !adapters.trains(head) {
            return Ok(None);
        }
        if adapters.trains(head) {
            let source = self.source(embed, &[b.vocab - b.grown, b.hidden])?;
            return Ok(Some(Tensor::Trained(self.trained_matrix(head, &[b.vocab, b.hidden], source))));
        }
        let held = self.held(embed, &[b.vocab, b.hidden])?;
        Ok(Some(self.frozen_whole(held, b.vocab, b.hidden)))
    }
}

/// `bias` of PEFT.
fn biases(word: &str) -> Biases {
    match word {
        "all" => Biases::All,
        "lora_only" => Biases::Adapted,
        _ => Biases::None,
    }
}

/// Fills the adapters' part of an arena.
pub fn initialise_lora<B: Backend>(
    backend: &B,
    table: &Table,
    values: &mut Mat<B, B::Real>,
    init: &LoraInit,
) -> Result<(), Error> {
    for p in table.params() {
        let n = p.rows * p.cols;
        let Some((module, factor)) = weights::module_of(&p.name) else {
            if let LoraInit::From(adapter) = init {
                whole(backend, p, adapter, values)?;
            }
            continue;
        };
        let host: Vec<B::Real> = match init {
            // It starts at the weight's own lengths, which building has put there.
            LoraInit::Fresh { .. } if factor == LoraFactor::Magnitude => continue,
            LoraInit::Fresh { start: Start::Usual | Start::Gaussian, .. } if factor == LoraFactor::B => {
                vec![B::Real::ZERO; n]
            }
            LoraInit::Fresh { seed, start } => {
                let (key, bound) = (seed_of(*seed, &p.name), (p.cols as f64).powf(-0.5));
                let uniform = |i: usize| (mix(key.wrapping_add(i as u64)) >> 11) as f64 / (1u64 << 53) as f64;
                let plain = |i: usize| (2.0 * uniform(i) - 1.0) * bound;
                match start {
                    Start::Gaussian => {
                        let deviation = 1.0 / p.rows as f64;
                        (0..n).map(|i| B::Real::of(deviation * normal(uniform(2 * i), uniform(2 * i + 1)))).collect()
                    }
                    // A linear layer of torch: B too is uniform in +-1/sqrt(r).
                    Start::Usual | Start::Random => (0..n).map(|i| B::Real::of(plain(i))).collect(),
                }
            }
            LoraInit::From(adapter) => {
                let pair = adapter.get(module).ok_or_else(|| Error::Adapter {
                    what: format!("it has no factors for {module}, which is targeted"),
                })?;
                let none = Cow::Borrowed(&[][..]);
                let given = match factor {
                    LoraFactor::A => &pair.a,
                    LoraFactor::B => &pair.b,
                    LoraFactor::Magnitude => pair.magnitude.as_ref().unwrap_or(&none),
                };
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
        backend.upload(&host, values.out().cols(p.values()));
    }
    Ok(())
}

/// Fills a tensor that is trained in full beside an adapter.
fn whole<B: Backend>(backend: &B, p: &nn::Param, adapter: &Adapter, values: &mut Mat<B, B::Real>) -> Result<(), Error> {
    let given = adapter.whole.iter().find(|t| t.name == p.name).ok_or_else(|| Error::Adapter {
        what: format!("it has no {}, which its modules_to_save or bias speak of", p.name),
    })?;
    if given.shape != p.shape {
        let what =
            format!("{}: expected {:?}, found {:?}; it was made for another model", p.name, p.shape, given.shape);
        return Err(Error::Adapter { what });
    }
    let host: Vec<B::Real> = given.values.iter().map(|&x| B::Real::of(f64::from(x))).collect();
    backend.upload(&host, values.out().cols(p.values()));
    Ok(())
}

/// A normal number from two uniform ones (Box and Muller 1958).
fn normal(u: f64, v: f64) -> f64 {
    (-2.0 * (1.0 - u).ln()).sqrt() * (std::f64::consts::TAU * v).cos()
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
