//! Frozen weights in device memory as they are stored, unpacked a panel of rows at a time.

use super::driver::Factor;
use super::memory::Block;
use super::{Activation, Arg, Cuda, Dtype, Source, count, entries};
use crate::{Coded, HostTensor, Mat, Memory, Out, Scales, StoredDtype, View, Weight};
use std::any::TypeId;
use std::ops::Range;

pub(super) const UNPACK: Source =
    Source { name: "unpack", text: concat!(include_str!("codes.cuh"), include_str!("unpack.cu")) };

/// Elements of an unpacked panel: 32 MiB of bf16, enough rows for a product at full speed.
pub(super) const PANEL_ELEMENTS: usize = 1 << 24;

/// A frozen weight `[rows, cols]` in its storage dtype.
pub struct CudaStored {
    data: Block,
    dtype: StoredDtype,
    codes: Option<CodesOnDevice>,
    pub(crate) rows: usize,
    pub(crate) cols: usize,
}

/// What codes stand for; the first of them belongs to element `skip` of its block.
struct CodesOnDevice {
    /// The structure that the kernel reads.
    how: Block,
    /// What it points to.
    _scales: [Block; 2],
}

/// As `Codes` in the kernel's source.
struct Layout {
    addresses: [u64; 2],
    skip: usize,
    block: usize,
    nested: [usize; 3],
    rounded: StoredDtype,
    table: [f32; 16],
}

impl Layout {
    fn bytes(&self) -> Vec<u8> {
        let [nested_block, nested_skip, nested_count] = self.nested;
        let rounded = match self.rounded {
            StoredDtype::Bf16 => 1,
            StoredDtype::F16 => 2,
            _ => 0,
        };
        let numbers = [self.skip, self.block, nested_block, nested_skip, nested_count, rounded];
        let addresses = self.addresses.iter().flat_map(|a| a.to_le_bytes());
        let numbers = numbers.into_iter().flat_map(|n| u32::try_from(n).expect("blocks are short").to_le_bytes());
        addresses.chain(numbers).chain(self.table.iter().flat_map(|x| x.to_le_bytes())).collect()
    }
}

/// Copies what the codes `elements` of a tensor need; the first code that is kept is element `base`.
fn codes_on_device<A: Activation>(cuda: &Cuda<A>, coded: &Coded, base: usize, end: usize) -> CodesOnDevice {
    let codes = &*coded.codes;
    let blocks = base / codes.block..end.div_ceil(codes.block);
    let (scales, nested, numbers) = match &codes.scales {
        Scales::Plain(scales) => (cuda.numbers(&scales[blocks]), cuda.bytes(&[]), [1, 0, 0]),
        Scales::Nested { codes, table, block, scales, offset } => {
            let first = blocks.start / block;
            let shared = &scales[first..blocks.end.div_ceil(*block)];
            let numbers: Vec<f32> = table.iter().chain(shared).chain([offset]).copied().collect();
            let skip = blocks.start - first * block;
            (cuda.bytes(&codes[blocks]), cuda.numbers(&numbers), [*block, skip, shared.len()])
        }
    };
    let is_nested = matches!(codes.scales, Scales::Nested { .. });
    let layout = Layout {
        addresses: [scales.address, if is_nested { nested.address } else { 0 }],
        skip: coded.first - base,
        block: codes.block,
        nested: numbers,
        rounded: codes.rounded,
        table: codes.table,
    };
    CodesOnDevice { how: cuda.bytes(&layout.bytes()), _scales: [scales, nested] }
}

impl CudaStored {
    pub(super) fn new<A: Activation>(cuda: &Cuda<A>, tensor: &HostTensor, rows: usize, cols: usize) -> CudaStored {
        let (bytes, dtype) = (tensor.bytes.bytes(), tensor.dtype);
        let Some(coded) = &tensor.coded else {
            assert_eq!(bytes.len(), dtype.bytes(rows * cols), "{rows} x {cols} weight of {dtype:?}");
            return CudaStored { data: cuda.bytes(bytes), dtype, codes: None, rows, cols };
        };
        // Whole blocks of scales and whole bytes.
        let unit = coded.codes.block * if coded.codes.block.is_multiple_of(dtype.block()) { 1 } else { dtype.block() };
        let (base, end) = (coded.first / unit * unit, coded.first + rows * cols);
        assert!(
            end.div_ceil(dtype.block()) <= bytes.len() && end <= coded.codes.scales.len() * coded.codes.block,
            "{rows} x {cols} weight of {dtype:?} in {} bytes",
            bytes.len()
        );
        let data = cuda.bytes(&bytes[base / dtype.block()..end.div_ceil(dtype.block())]);
        CudaStored { data, dtype, codes: Some(codes_on_device(cuda, coded, base, end)), rows, cols }
    }

    /// The address of the weight itself, when it is stored as `dtype`.
    fn in_place(&self, dtype: Dtype) -> Option<u64> {
        let same = match self.dtype {
            StoredDtype::F32 => dtype == Dtype::F32,
            StoredDtype::Bf16 => dtype == Dtype::Bf16,
            _ => false,
        };
        same.then_some(self.data.address)
    }

    /// Rows into `out`, all of whose rows are written.
    fn unpack<A: Activation>(&self, cuda: &Cuda<A>, from: Rows<A>, out: &Out<'_, Cuda<A>, A>) {
        let (first, named) = match from {
            Rows::From(first) => (first, NO_ROWS),
            Rows::Named(rows) => (0, Arg::from(rows)),
        };
        assert!(first <= self.rows && out.cols == self.cols, "rows {first}.. of {}", self.rows);
        let kernel = match self.dtype {
            StoredDtype::F32 => "unpack_f32",
            StoredDtype::Bf16 => "unpack_bf16",
            StoredDtype::F16 => "unpack_f16",
            StoredDtype::Mxfp4 => "unpack_mxfp4",
            StoredDtype::Code4 => "unpack_code4",
            StoredDtype::Code8 => "unpack_code8",
        };
        let mut args = vec![Arg::from(self.data.address)];
        args.extend(self.codes.as_ref().map(|codes| Arg::from(codes.how.address)));
        args.extend([named, count(first), count(self.cols), Arg::from(out)]);
        cuda.launch(&UNPACK, kernel, entries(out.rows, out.cols), &args);
    }

    /// All of it as f32.
    pub(super) fn to_host<A: Activation>(&self, cuda: &Cuda<A>, dst: &mut [f32]) {
        assert_eq!(dst.len(), self.rows * self.cols, "{} x {} weight", self.rows, self.cols);
        let single = cuda.single();
        let height = panel_rows(self.cols);
        for (piece, first) in dst.chunks_mut(height * self.cols.max(1)).zip((0..self.rows).step_by(height)) {
            let rows = height.min(self.rows - first);
            let mut panel = single.mat::<f32>(rows, self.cols);
            self.unpack(&single, Rows::From(first), &panel.out());
            single.download(panel.view(), piece);
        }
    }
}

/// Rows of a panel of a weight of `cols` columns.
fn panel_rows(cols: usize) -> usize {
    (PANEL_ELEMENTS / cols.max(1)).max(16)
}

/// Where and how a weight lies.
#[derive(Clone, Copy)]
pub(crate) struct Lying {
    /// `WEIGHT` in the source of the grouped product: 32, 16: f32, bf16; 15: f16; 5: MXFP4; 4, 8: codes.
    pub(crate) kind: u32,
    /// Of the first element.
    pub(crate) address: u64,
    /// Elements from one row to the next.
    pub(crate) ld: usize,
    /// Of what codes stand for.
    pub(crate) how: u64,
}

/// Rows of a weight as activations' elements: where they lie, or in scratch memory.
pub(crate) struct Panel {
    /// Of the first element.
    pub(crate) address: u64,
    /// Elements from one row to the next.
    pub(crate) ld: usize,
    /// Which rows of the weight.
    pub(crate) rows: Range<usize>,
}

impl Panel {
    /// As a matrix of f32, of a device with such activations.
    pub(crate) fn view<'a>(&self, cols: usize) -> View<'a, Cuda<f32>, f32> {
        let (ptr, tie) = (self.address as *const f32, std::marker::PhantomData);
        View { ptr, rows: self.rows.len(), cols, ld: self.ld, tie }
    }
    pub(crate) fn factor(&self) -> Factor {
        Factor { address: self.address, ld: self.ld, turned: false }
    }
}

/// Outputs and inputs.
pub(crate) fn shape<A: Activation>(w: Weight<'_, Cuda<A>>) -> (usize, usize) {
    match w {
        Weight::Param(w) => (w.rows, w.cols),
        Weight::Half(w) => (w.rows, w.cols),
        Weight::Stored(s) => (s.rows, s.cols),
    }
}

impl<A: Activation> Cuda<A> {
    /// Rows of a weight; `scratch` holds them where they had to be unpacked or rounded.
    pub(crate) fn panel(&self, w: Weight<'_, Self>, rows: Range<usize>, scratch: &mut Option<Mat<Self, A>>) -> Panel {
        let cols = shape(w).1;
        let (address, ld) = match w {
            Weight::Param(w) if TypeId::of::<A>() == TypeId::of::<f32>() => (w.ptr as u64, w.ld),
            Weight::Half(w) if A::DTYPE == Dtype::Bf16 => (w.ptr as u64, w.ld),
            Weight::Stored(s) if s.in_place(A::DTYPE).is_some() => (s.data.address, s.cols),
            _ => {
                if scratch.as_ref().is_none_or(|s| s.rows() < rows.len()) {
                    *scratch = Some(self.mat(rows.len(), cols));
                }
                let out = scratch.as_mut().expect("made above").out().rows(0..rows.len());
                match w {
                    Weight::Param(w) => self.round(w.rows(rows.clone()), NO_ROWS, &out),
                    Weight::Half(w) => self.widen(w.rows(rows.clone()), NO_ROWS, &out),
                    Weight::Stored(s) => s.unpack(self, Rows::From(rows.start), &out),
                }
                return Panel { address: out.ptr as u64, ld: out.ld, rows };
            }
        };
        Panel { address: address + (rows.start * ld * A::DTYPE.size()) as u64, ld, rows }
    }

    /// A weight as it lies in memory, whichever activations are.
    pub(crate) fn lying(&self, w: Weight<'_, Self>) -> Lying {
        let number = |bits, address, ld| Lying { kind: bits, address, ld, how: 0 };
        match w {
            Weight::Param(w) => number(32, w.ptr as u64, w.ld),
            Weight::Half(w) => number(16, w.ptr as u64, w.ld),
            Weight::Stored(s) => {
                let how = s.codes.as_ref().map_or(0, |codes| codes.how.address);
                let kind = match s.dtype {
                    StoredDtype::F32 => 32,
                    StoredDtype::Bf16 => 16,
                    StoredDtype::F16 => 15,
                    StoredDtype::Mxfp4 => 5,
                    StoredDtype::Code4 => 4,
                    StoredDtype::Code8 => 8,
                };
                Lying { kind, address: s.data.address, ld: s.cols, how }
            }
        }
    }

    /// Calls `work` for panels that make up the weight: one where it lies as it is needed.
    pub(crate) fn panels(&self, w: Weight<'_, Self>, mut work: impl FnMut(Panel)) {
        let (rows, cols) = shape(w);
        let mut scratch = None;
        let whole = match w {
            Weight::Param(_) => TypeId::of::<A>() == TypeId::of::<f32>(),
            Weight::Half(_) => A::DTYPE == Dtype::Bf16,
            Weight::Stored(s) => s.in_place(A::DTYPE).is_some(),
        };
        let height = if whole { rows.max(1) } else { panel_rows(cols) };
        for first in (0..rows).step_by(height) {
            work(self.panel(w, first..(first + height).min(rows), &mut scratch));
        }
    }

    /// The rows of a weight that `rows [n, 1]` names.
    pub(crate) fn picked(&self, w: Weight<'_, Self>, rows: View<'_, Self, u32>, out: &Out<'_, Self, A>) {
        assert!(rows.cols == 1 && rows.rows == out.rows && out.cols == shape(w).1);
        match w {
            Weight::Param(w) => self.round(w, Arg::from(rows), out),
            Weight::Half(w) => self.widen(w, Arg::from(rows), out),
            Weight::Stored(s) => s.unpack(self, Rows::Named(rows), out),
        }
    }

    /// bf16 as activations' elements, likewise.
    fn widen(&self, x: View<'_, Self, half::bf16>, rows: Arg, y: &Out<'_, Self, A>) {
        self.launch(&UNPACK, "widen_rows", entries(y.rows, y.cols), &[x.into(), rows, count(y.cols), y.into()]);
    }

    /// f32 as activations' elements: all rows, or those that are named.
    pub(crate) fn round(&self, x: View<'_, Self, f32>, rows: Arg, y: &Out<'_, Self, A>) {
        self.launch(&UNPACK, "round_rows", entries(y.rows, y.cols), &[x.into(), rows, count(y.cols), y.into()]);
    }
}

/// No names of rows: all of them, in order.
pub(crate) const NO_ROWS: Arg = Arg([0, 0]);

/// Which rows of a weight.
enum Rows<'a, A> {
    /// From this one on.
    From(usize),
    /// Those of the list `[n, 1]`.
    Named(View<'a, Cuda<A>, u32>),
}
