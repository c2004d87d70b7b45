//! Rows copied or unpacked forward; backward a block per row.

use super::Embed;
use crate::cuda::{Activation, Cuda, Source, count, rows};
use crate::gemm::Weight;
use crate::{Acc, Out, View};

pub(crate) const SOURCE: Source = Source { name: "embed", text: include_str!("kernel.cu") };

impl<A: Activation> Embed for Cuda<A> {
    fn embed(&self, tokens: View<Self, u32>, w: Weight<Self>, x: Out<Self, A>) {
        self.picked(w, tokens, &x);
    }

    fn embed_back(&self, tokens: View<Self, u32>, dx: View<Self, A>, dw: Acc<Self, f32>) {
        assert!(tokens.cols == 1 && tokens.rows == dx.rows && dw.shape().1 == dx.cols);
        let args = [tokens.into(), dx.into(), count(dx.rows), count(dx.cols), (&dw.0).into()];
        self.launch(&SOURCE, "embed_back", rows(dx.rows, dx.cols), &args);
    }
}
