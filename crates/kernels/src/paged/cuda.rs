//! A warp per row and head.

use super::{Paged, PagedSpan, check};
use crate::cuda::{Activation, Cuda, Grid, Source, blocks};
use crate::{AttentionShape, KeyValue, Out, View};

pub(crate) const SOURCE: Source =
    Source { name: "paged", text: concat!(include_str!("../attention/shape.cuh"), include_str!("kernel.cu")) };

/// A list of pages is a multiple of this long.
const PAGES: usize = 64;

/// Per row its position and where its sequence's pages begin, and all pages.
fn places(spans: &[PagedSpan], rows: usize) -> (Vec<u32>, Vec<u32>) {
    let (mut places, mut pages) = (vec![u32::MAX; 2 * rows], Vec::new());
    for span in spans {
        for (i, row) in span.rows.clone().enumerate() {
            places[2 * row] = (span.position + i) as u32;
            places[2 * row + 1] = pages.len() as u32;
        }
        pages.extend(&span.pages);
    }
    // Few lengths: a sequence that grows by a page asks for the same work as before.
    pages.resize(pages.len().next_multiple_of(PAGES), 0);
    (places, pages)
}

impl<A: Activation> Paged for Cuda<A> {
    fn paged(
        &self,
        shape: &AttentionShape,
        spans: &[PagedSpan],
        q: View<Self, A>,
        cache: KeyValue<Self>,
        o: Out<Self, A>,
        lse: Out<Self, f32>,
    ) {
        check(shape, &q, &cache, &o, &lse);
        let (places, pages) = places(spans, q.rows);
        let (places, pages, numbers) = (self.given(&places), self.given(&pages), self.attention_shape(shape));
        let given = [q.into(), cache.k.into(), cache.v.into(), (&places).into(), (&pages).into()];
        let args = [&given[..], &[(&numbers).into(), (&o).into(), (&lse).into()]].concat();
        let more = [("V_REGISTERS", shape.v_width.div_ceil(32) as u32)];
        let grid = Grid { blocks: [blocks(q.rows), blocks(shape.query_heads), 1], threads: 32, shared: 0 };
        self.launch_with(&SOURCE, "paged", &more, grid, &args);
    }
}
