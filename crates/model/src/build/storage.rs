//! How frozen matrices are held: where they are mapped, rounded once to bf16, or as codes of four or eight bits.

use super::{Builder, CHUNK};
use crate::Error;
use half::bf16;
use kernels::{Backend, Coded, HostBytes, HostTensor, Real, StoredDtype};
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
struct Piece {
    whole: Arc<dyn HostBytes>,
    range: Range<usize>,
}

impl HostBytes for Piece {
    fn bytes(&self) -> &[u8] {
        &self.whole.bytes()[self.range.clone()]
    }
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
    pub(super) fn held(&self, name: &str, shape: &[usize]) -> Result<HostTensor, Error> {
        if let Some(quantised) = self.checkpoint.quantised(name)? {
            if quantised.shape != shape {
                let path = self.checkpoint.dir().to_owned();
                let (expected, found) = (shape.to_vec(), quantised.shape);
                return Err(weights::Error::Shape { path, name: name.to_owned(), expected, found }.into());
            }
            return Ok(quantised.host(0));
        }
        let source = self.source(name, shape)?;
        if let Some(scheme) = self.storage.scheme_of(name) {
            let quantised = Quantised::new(&source.tensor, scheme)?;
            source.tensor.release();
            return Ok(quantised.host(0));
        }
        let len = shape.iter().product();
        Ok(match self.storage.bf16 && source.dtype != StoredDtype::Bf16 {
            true => self.rounded(&source, len),
            false => source.host(0..len),
        })
    }

    /// All of a tensor, rounded to bf16.
    fn rounded(&self, source: &Source, len: usize) -> HostTensor {
        let mut bytes = Vec::with_capacity(2 * len);
        let mut piece = vec![B::Real::ZERO; CHUNK.min(len)];
        for start in (0..len).step_by(CHUNK) {
            let range = start..(start + CHUNK).min(len);
            let piece = &mut piece[..range.len()];
            self.backend.stored_to_host(&self.backend.store(source.host(range.clone()), 1, range.len()), piece);
            bytes.extend(piece.iter().flat_map(|x| bf16::from_f64(x.f64()).to_le_bytes()));
        }
        source.tensor.release();
        HostTensor::new(Arc::new(bytes), StoredDtype::Bf16)
    }

    /// Rows of a tensor on the host as a frozen weight.
    pub(super) fn rows_of(&self, whole: &HostTensor, rows: Range<usize>, cols: usize) -> B::Stored {
        let first = rows.start * cols;
        let part = match &whole.coded {
            Some(coded) => {
                let coded = Coded { codes: coded.codes.clone(), first: coded.first + first };
                HostTensor { coded: Some(coded), ..whole.clone() }
            }
            None => {
                let range = whole.dtype.bytes(first)..whole.dtype.bytes(rows.end * cols);
                HostTensor::new(Arc::new(Piece { whole: whole.bytes.clone(), range }), whole.dtype)
            }
        };
        self.backend.store(part, rows.len(), cols)
    }
}
