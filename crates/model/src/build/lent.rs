//! Frozen matrices that ranks have between them: a rank's part of the bytes of a unit, and the matrices again from everyone's.

use super::storage::{Held, Piece, rows_of};
use kernels::{Backend, Coded, Codes, HostBytes, HostTensor, Scales, StoredDtype};
use std::ops::Range;
use std::sync::Arc;

/// How frozen matrices that take memory of their own are dealt to ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lending {
    /// Ranks that have a part each.
    pub members: usize,
    /// Which of them this is.
    pub member: usize,
    /// Whether those that are used where they are mapped come with their unit too, for a device that has to copy them. Nobody sends these.
    pub mapped: bool,
}

impl Lending {
    /// What one of so many members has of `len` bytes.
    pub fn part(members: usize, member: usize, len: usize) -> Range<usize> {
        member * len / members..(member + 1) * len / members
    }
}

/// The frozen matrices of a unit, as far as they come with it, and this rank's part of their bytes.
#[derive(Default)]
pub struct Lent {
    own: Arc<Vec<u8>>,
    len: usize,
    tensors: Vec<Source>,
    cuts: Vec<Cut>,
}

/// Where a tensor comes from.
enum Source {
    /// It is mapped.
    Here(HostTensor),
    /// From the bytes of all ranks.
    Dealt(Dealt),
}

/// A tensor among the bytes of a unit: what it stores, then codes of scales, then scales.
struct Dealt {
    sections: [Range<usize>; 3],
    dtype: StoredDtype,
    /// What codes stand for, without their scales.
    outline: Option<Codes>,
}

/// A matrix: rows of a tensor.
struct Cut {
    tensor: usize,
    rows: Range<usize>,
    cols: usize,
}

impl Lent {
    /// This rank's bytes.
    pub fn own(&self) -> &Arc<Vec<u8>> {
        &self.own
    }

    /// Bytes that all ranks have together.
    pub fn byte_len(&self) -> usize {
        self.len
    }

    /// Whether no matrix comes with the unit.
    pub fn is_empty(&self) -> bool {
        self.cuts.is_empty()
    }

    /// The matrices from the bytes of all ranks, in the order of [`nn::Tensor::Lent`]'s numbers.
    pub fn matrices<B: Backend>(&self, backend: &B, bytes: impl HostBytes + 'static) -> Vec<B::Stored> {
        assert!(bytes.bytes().len() == self.len, "{} bytes of a unit of {}", bytes.bytes().len(), self.len);
        let bytes: Arc<dyn HostBytes> = Arc::new(bytes);
        let tensor = |source: &Source| match source {
            Source::Here(tensor) => tensor.clone(),
            Source::Dealt(dealt) => dealt.tensor(&bytes),
        };
        let tensors: Vec<HostTensor> = self.tensors.iter().map(tensor).collect();
        self.cuts.iter().map(|cut| cut.stored(backend, &tensors[cut.tensor])).collect()
    }
}

impl Cut {
    fn stored<B: Backend>(&self, backend: &B, tensor: &HostTensor) -> B::Stored {
        rows_of(backend, tensor, self.rows.clone(), self.cols)
    }
}

impl Dealt {
    fn tensor(&self, all: &Arc<dyn HostBytes>) -> HostTensor {
        let [values, codes, scales] = self.sections.clone();
        let coded = self.outline.as_ref().map(|outline| {
            let floats = all.bytes()[scales].as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let scales = match &outline.scales {
                Scales::Plain(_) => Scales::Plain(floats),
                Scales::Nested { table, block, offset, .. } => {
                    let codes = all.bytes()[codes].to_vec();
                    Scales::Nested { codes, table: table.clone(), block: *block, scales: floats, offset: *offset }
                }
            };
            Coded { codes: Arc::new(Codes { scales, ..outline.clone() }), first: 0 }
        });
        HostTensor { bytes: Arc::new(Piece { whole: Arc::clone(all), range: values }), dtype: self.dtype, coded }
    }
}

/// The same codes without their scales; these: codes, and numbers.
fn apart(codes: &Codes) -> (Codes, &[u8], &[f32]) {
    let (empty, bytes, floats): (_, &[u8], &[f32]) = match &codes.scales {
        Scales::Plain(scales) => (Scales::Plain(Vec::new()), &[], scales),
        Scales::Nested { codes, table, block, scales, offset } => {
            let (table, block, offset) = (table.clone(), *block, *offset);
            (Scales::Nested { codes: Vec::new(), table, block, scales: Vec::new(), offset }, codes, scales)
        }
    };
    (Codes { table: codes.table, block: codes.block, scales: empty, rounded: codes.rounded }, bytes, floats)
}

/// The matrices of a unit while they are whole.
#[derive(Default)]
pub(super) struct Whole {
    tensors: Vec<Held>,
    cuts: Vec<Cut>,
}

impl Whole {
    /// Adds rows `cuts` of a tensor; returns the numbers that these matrices have in the unit.
    pub(super) fn add(&mut self, held: Held, cuts: &[Range<usize>], cols: usize) -> Range<usize> {
        let (tensor, first) = (self.tensors.len(), self.cuts.len());
        self.tensors.push(held);
        self.cuts.extend(cuts.iter().map(|rows| Cut { tensor, rows: rows.clone(), cols }));
        first..self.cuts.len()
    }

    /// A matrix by its number.
    pub(super) fn stored<B: Backend>(&self, backend: &B, number: usize) -> B::Stored {
        let cut = &self.cuts[number];
        cut.stored(backend, &self.tensors[cut.tensor].tensor)
    }

    /// Keeps a member's part.
    pub(super) fn dealt(self, lending: Lending) -> Lent {
        let mut len = 0;
        let mut next = |n: usize| {
            len += n;
            len - n..len
        };
        let source = |held: &Held| {
            if held.mapped {
                return Source::Here(held.tensor.clone());
            }
            let split = held.tensor.coded.as_ref().map(|coded| apart(&coded.codes));
            let (codes, floats) = split.as_ref().map_or((0, 0), |(_, codes, floats)| (codes.len(), 4 * floats.len()));
            let sections = [held.tensor.bytes.bytes().len(), codes, floats].map(&mut next);
            Source::Dealt(Dealt { sections, dtype: held.tensor.dtype, outline: split.map(|(outline, ..)| outline) })
        };
        let tensors: Vec<Source> = self.tensors.iter().map(source).collect();
        let of = Lending::part(lending.members, lending.member, len);
        let mut own = Window { at: 0, kept: Vec::with_capacity(of.len()), of };
        for held in self.tensors.iter().filter(|held| !held.mapped) {
            own.pass(held.tensor.bytes.bytes());
            if let Some(coded) = &held.tensor.coded {
                let (_, codes, floats) = apart(&coded.codes);
                own.pass(codes);
                own.pass(&floats.iter().flat_map(|x| x.to_le_bytes()).collect::<Vec<u8>>());
            }
        }
        Lent { own: Arc::new(own.kept), len, tensors, cuts: self.cuts }
    }
}

/// Keeps some of the bytes that go by.
struct Window {
    at: usize,
    of: Range<usize>,
    kept: Vec<u8>,
}

impl Window {
    fn pass(&mut self, bytes: &[u8]) {
        let within = |at: usize| at.saturating_sub(self.at).min(bytes.len());
        let part = &bytes[within(self.of.start)..within(self.of.end)];
        self.kept.extend_from_slice(part);
        self.at += bytes.len();
    }
}
