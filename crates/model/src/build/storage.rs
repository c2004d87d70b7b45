//! How frozen matrices are held: where they are mapped, rounded once to bf16, or as codes of four or eight bits.

use super::{Builder, CHUNK, Lending};
use crate::Error;
use half::bf16;
use kernels::{Backend, Coded, HostBytes, HostTensor, Real, StoredDtype};
use nn::Tensor;
use std::ops::Range;
use std::sync::Arc;
use weights::{DType, Mapped, Quantised, Scheme, is_quantisable};

/// How frozen matrices are held. By default where they are mapped, as they are stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Storage {
    /// Rounded once to bf16 where that takes less room.
    pub bf16: bool,
    /// Trained matrices in bfloat16, and nowhere else.
    pub halves: bool,
    /// Linear layers of the blocks in codes; embedding, head and routers never.
    pub scheme: Option<Scheme>,
    /// Layers, or parts of the model, that are not held in codes.
    pub skip: Vec<String>,
    /// Those that take memory of their own in parts, one on each of several ranks; `None`: whole.
    pub lending: Option<Lending>,
}

impl Storage {
    /// The scheme of a tensor of the checkpoint, when it is to be held in codes.
    pub fn scheme_of(&self, name: &str) -> Option<Scheme> {
        let path = name.strip_suffix(".weight").unwrap_or(name);
        self.scheme.filter(|_| is_quantisable(path, &self.skip))
    }
}

/// Bytes of a mapped tensor.
struct InFile {
    tensor: Mapped,
    range: Range<usize>,
}

impl HostBytes for InFile {
    fn bytes(&self) -> &[u8] {
        &self.tensor.bytes()[self.range.clone()]
    }
}

/// A tensor of the checkpoint whose values can be computed with.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) tensor: Mapped,
    dtype: StoredDtype,
}

impl Source {
    /// Elements.
    pub(super) fn len(&self) -> usize {
        self.tensor.info().element_count()
    }

    /// Elements `range` of the tensor, where they lie.
    pub(super) fn host(&self, range: Range<usize>) -> HostTensor {
        let bytes =
            InFile { tensor: self.tensor.clone(), range: self.dtype.bytes(range.start)..self.dtype.bytes(range.end) };
        HostTensor::new(Arc::new(bytes), self.dtype)
    }
}

/// Some of another owner's bytes.
pub(super) struct Piece {
    pub(super) whole: Arc<dyn HostBytes>,
    pub(super) range: Range<usize>,
}

impl HostBytes for Piece {
    fn bytes(&self) -> &[u8] {
        &self.whole.bytes()[self.range.clone()]
    }
}

/// A frozen tensor on the host.
pub(super) struct Held {
    pub(super) tensor: HostTensor,
    /// Whether it lies in a file, where other processes have it as well.
    pub(super) mapped: bool,
}

/// Rows of a tensor on the host as a frozen weight.
pub(super) fn rows_of<B: Backend>(backend: &B, whole: &HostTensor, rows: Range<usize>, cols: usize) -> B::Stored {
    let first = rows.start * cols;
    let part = match &whole.coded {
        Some(coded) => {
            let coded = Coded { codes: coded.codes.clone(), first: coded.first + first };
            HostTensor { coded: Some(coded), ..whole.clone() }
        }
        None => match whole.dtype.bytes(first)..whole.dtype.bytes(rows.end * cols) {
            all if all == (0..whole.bytes.bytes().len()) => whole.clone(),
            range => HostTensor::new(Arc::new(Piece { whole: whole.bytes.clone(), range }), whole.dtype),
        },
    };
    backend.store(part, rows.len(), cols)
}

impl<B: Backend> Builder<'_, B> {
    pub(super) fn source(&self, name: &str, shape: &[usize]) -> Result<Source, Error> {
        if self.trains(name) && self.checkpoint.quantised(name)?.is_some() {
            let what = format!(
                "{name} is held in codes, which cannot be trained; set use_peft, or give the model that it was made from"
            );
            return Err(Error::config("quantization_config", what));
        }
        let tensor = self.checkpoint.get_shaped(name, shape)?;
        let dtype = match tensor.dtype() {
            DType::F32 => StoredDtype::F32,
            DType::BF16 => StoredDtype::Bf16,
            DType::F16 => StoredDtype::F16,
            other => return Err(Error::Dtype { tensor: name.to_owned(), found: format!("{other:?}") }),
        };
        Ok(Source { tensor, dtype })
    }

    /// A frozen matrix, or several in one tensor, as it is to be held.
    pub(super) fn held(&self, name: &str, shape: &[usize]) -> Result<Held, Error> {
        if let Some(quantised) = self.checkpoint.quantised(name)? {
            if quantised.shape != shape {
                let path = self.checkpoint.dir().to_owned();
                let (expected, found) = (shape.to_vec(), quantised.shape);
                return Err(weights::Error::Shape { path, name: name.to_owned(), expected, found }.into());
            }
            return Ok(Held { tensor: quantised.host(0), mapped: true });
        }
        let source = self.source(name, shape)?;
        if let Some(scheme) = self.storage.scheme_of(name) {
            let quantised = Quantised::new(&source.tensor, scheme)?;
            source.tensor.release();
            return Ok(Held { tensor: quantised.host(0), mapped: false });
        }
        let len = shape.iter().product();
        Ok(match self.storage.bf16 && source.dtype != StoredDtype::Bf16 {
            true => Held { tensor: self.rounded(&source, len), mapped: false },
            false => Held { tensor: source.host(0..len), mapped: true },
        })
    }

    /// All of a tensor, rounded to bf16.
    fn rounded(&self, source: &Source, len: usize) -> HostTensor {
        let mut bytes = Vec::with_capacity(2 * len);
        let mut piece = vec![B::Real::ZERO; CHUNK.min(len)];
        source.tensor.in_pieces(CHUNK, |range| {
            let piece = &mut piece[..range.len()];
            self.backend.stored_to_host(&self.backend.store(source.host(range.clone()), 1, range.len()), piece);
            bytes.extend(piece.iter().flat_map(|x| bf16::from_f64(x.f64()).to_le_bytes()));
        });
        HostTensor::new(Arc::new(bytes), StoredDtype::Bf16)
    }

    /// Rows `cuts` of a frozen tensor whose rows are `cols` wide, each as a weight of its own. They share the bytes.
    pub(super) fn frozen(&mut self, held: Held, cuts: &[Range<usize>], cols: usize) -> Vec<Tensor<B>> {
        if self.storage.lending.is_some_and(|lending| lending.mapped || !held.mapped) {
            return self.whole.add(held, cuts, cols).map(Tensor::Lent).collect();
        }
        let stored = |rows: &Range<usize>| rows_of(self.backend, &held.tensor, rows.clone(), cols);
        cuts.iter().map(|rows| Tensor::Frozen(stored(rows))).collect()
    }

    /// A frozen tensor as one weight.
    pub(super) fn frozen_whole(&mut self, held: Held, rows: usize, cols: usize) -> Tensor<B> {
        self.frozen(held, std::slice::from_ref(&(0..rows)), cols).remove(0)
    }
}
