//! A thread per pair, in place.

use super::{Rope, RopeLayout, RopeTable};
use crate::cuda::{Activation, Cuda, Source, count, entries};
use crate::{Out, View};

pub(crate) const SOURCE: Source = Source { name: "rope", text: include_str!("kernel.cu") };

impl<A: Activation> Rope for Cuda<A> {
    fn rope(
        &self,
        x: Out<Self, A>,
        positions: View<Self, u32>,
        table: &RopeTable<Self>,
        head_width: usize,
        inverse: bool,
    ) {
        let (cos, sin, half) = (table.cos, table.sin, table.cos.cols);
        assert!(table.offset + 2 * half <= head_width && sin.cols == half && x.cols.is_multiple_of(head_width));
        assert!(positions.cols == 1 && positions.rows == x.rows);
        let (heads, sign) = (x.cols / head_width, if inverse { -1.0f32 } else { 1.0 });
        let interleaved = u32::from(table.layout == RopeLayout::Interleaved);
        let args = [
            (&x).into(),
            positions.into(),
            cos.into(),
            sin.into(),
            count(half),
            count(heads),
            count(head_width),
            count(table.offset),
            interleaved.into(),
            sign.into(),
        ];
        self.launch(&SOURCE, "rope", entries(x.rows, heads * half), &args);
    }
}
