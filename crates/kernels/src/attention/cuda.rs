//! Attention on a GPU: which spans rows belong to, who reads whom, and the launches.

use super::{Attention, AttentionGrads, AttentionSaved, AttentionShape, KeyValue, Span};
use crate::cuda::{Activation, Arg, Cuda, Dtype, Given, Grid, Source, blocks};
use crate::{Memory, Out, View};

pub(crate) const SOURCE: Source =
    Source { name: "attention", text: concat!(include_str!("shape.cuh"), include_str!("kernel.cu")) };
pub(crate) const TENSOR: Source =
    Source { name: "tensor-attention", text: concat!(include_str!("shape.cuh"), include_str!("tensor.cu")) };

/// Rows of a tile on tensor cores, and others that it meets at a time, as in the kernel.
const TILE: [usize; 2] = [64, 32];
/// Elements after each row of a tile in shared memory, as in the kernel.
const PAD: usize = 8;
/// Bytes of shared memory that a block may have on every GPU since Ampere.
const MOST_SHARED: usize = 99 << 10;

/// The kernels on tensor cores.
#[derive(Clone, Copy)]
enum Pass {
    Forward,
    Queries,
    Keys,
}

/// How a pass runs on tensor cores, where it does: what the kernels are compiled with, and bytes of shared memory.
fn on_tensor_cores<A: Activation>(shape: &AttentionShape, pass: Pass) -> Option<([(&'static str, u32); 2], u32)> {
    let (qk, v, [rows, others]) = (shape.qk_width, shape.v_width, TILE);
    let [of_q, of_v] = [qk + PAD, v + PAD];
    let elements = match pass {
        Pass::Forward => (rows + others) * of_q + v * (others + PAD),
        Pass::Queries => (rows + others) * (of_q + of_v) + qk * (others + PAD),
        Pass::Keys => (rows + others) * (of_q + of_v) + (qk + v) * (others + PAD),
    };
    let fits = qk.is_multiple_of(16) && v.is_multiple_of(16) && 2 * elements <= MOST_SHARED;
    (A::DTYPE == Dtype::Bf16 && fits).then_some(([("QK", qk as u32), ("VW", v as u32)], 2 * elements as u32))
}

/// Tiles of rows: the number of each one's span, and its first row within the span.
fn tiles(spans: &[Span]) -> Vec<u32> {
    let of = |(span, i): (&Span, u32)| (0..span.rows.len()).step_by(TILE[0]).flat_map(move |at| [i, at as u32]);
    spans.iter().zip(0..).flat_map(of).collect()
}

/// A block of four warps per tile and head.
fn per_tile(tiles: &[u32], heads: usize, shared: u32) -> Grid {
    Grid { blocks: [blocks(tiles.len() / 2), blocks(heads), 1], threads: 128, shared }
}

/// A warp per row and head.
fn warps(rows: usize, heads: usize) -> Grid {
    Grid { blocks: [blocks(rows), blocks(heads), 1], threads: 32, shared: 0 }
}

/// What the plain kernels are compiled with.
fn registers(shape: &AttentionShape) -> [(&'static str, u32); 2] {
    [("Q_REGISTERS", shape.qk_width.div_ceil(32) as u32), ("V_REGISTERS", shape.v_width.div_ceil(32) as u32)]
}

/// The span that each row belongs to, `u32::MAX` for none.
fn span_of_row(spans: &[Span], rows: usize) -> Vec<u32> {
    let mut owner = vec![u32::MAX; rows];
    spans.iter().zip(0..).for_each(|(s, i)| owner[s.rows.clone()].fill(i));
    owner
}

/// Spans as the kernels read them.
fn packed(spans: &[Span]) -> Vec<u32> {
    spans
        .iter()
        .flat_map(|s| [s.rows.start, s.rows.len(), s.context.start, s.context.len()])
        .map(|n| n as u32)
        .collect()
}

/// Per span, which spans see rows of it: where each list begins, one more at the end, and the lists.
fn readers(spans: &[Span]) -> Vec<u32> {
    let sees = |reader: &Span, s: &Span| reader.context.start < s.rows.end && s.rows.start < reader.context.end;
    let mut table = vec![0; spans.len() + 1];
    for (i, span) in spans.iter().enumerate() {
        table[i] = table.len() as u32;
        let who = spans.iter().enumerate().filter(|(j, reader)| i == *j || sees(reader, span));
        table.extend(who.map(|(j, _)| j as u32));
    }
    table[spans.len()] = table.len() as u32;
    table
}

impl<A: Activation> Cuda<A> {
    pub(crate) fn attention_shape(&self, shape: &AttentionShape) -> Given<f32> {
        let group = shape.query_heads / shape.kv_heads;
        let whole = [group, shape.qk_width, shape.v_width, shape.window.unwrap_or(0)];
        let mut numbers: Vec<f32> = whole.iter().map(|n| f32::from_bits(*n as u32)).collect();
        numbers.extend([shape.scale as f32, shape.cap.unwrap_or(0.0) as f32]);
        self.given(&numbers)
    }
}

fn check<A: Activation>(shape: &AttentionShape, q: &View<Cuda<A>, A>, kv: &KeyValue<Cuda<A>>) {
    assert!(shape.query_heads.is_multiple_of(shape.kv_heads), "{shape:?}");
    assert!(q.cols == shape.query_heads * shape.qk_width && kv.k.cols == shape.kv_heads * shape.qk_width, "{shape:?}");
    assert!(kv.v.cols == shape.kv_heads * shape.v_width && kv.k.rows == kv.v.rows, "{shape:?}");
}

impl<A: Activation> Attention for Cuda<A> {
    fn attention(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        q: View<Self, A>,
        own: KeyValue<Self>,
        context: KeyValue<Self>,
        o: Out<Self, A>,
        lse: Option<Out<Self, f32>>,
    ) {
        check(shape, &q, &own);
        check(shape, &q, &context);
        assert!(o.rows == q.rows && o.cols == shape.query_heads * shape.v_width && own.k.rows == q.rows);
        assert!(lse.as_ref().is_none_or(|l| l.rows == q.rows && l.cols == shape.query_heads));
        let (numbers, table) = (self.attention_shape(shape), self.given(&packed(spans)));
        let given = [q.into(), own.k.into(), own.v.into(), context.k.into(), context.v.into()];
        let lse = lse.as_ref().map_or(Arg::from(0u64), Arg::from);
        let rest = [(&table).into(), (&numbers).into(), (&o).into(), lse];
        if let Some((widths, shared)) = on_tensor_cores::<A>(shape, Pass::Forward) {
            let tiles = tiles(spans);
            let grid = per_tile(&tiles, shape.query_heads, shared);
            let tiles = self.given(&tiles);
            let args = [&given[..], &[(&tiles).into()], &rest].concat();
            return self.launch_with(&TENSOR, "tensor_attention", &widths, grid, &args);
        }
        let owner = self.given(&span_of_row(spans, q.rows));
        let args = [&given[..], &[(&owner).into()], &rest].concat();
        self.launch_with(&SOURCE, "attention", &registers(shape), warps(q.rows, shape.query_heads), &args);
    }

    fn attention_back(
        &self,
        shape: &AttentionShape,
        spans: &[Span],
        saved: AttentionSaved<'_, Self>,
        d_o: View<Self, A>,
        grads: AttentionGrads<'_, Self>,
    ) {
        let AttentionSaved { q, kv, o, lse } = saved;
        check(shape, &q, &kv);
        let AttentionGrads { mut dq, mut dk, mut dv } = grads;
        let (t, heads) = (q.rows, shape.query_heads);
        assert!(dq.rows == t && dk.rows == t && dv.rows == t && d_o.rows == t && kv.k.rows == t);
        if spans.iter().map(|s| s.rows.len()).sum::<usize>() < t {
            self.fill_zero(dq.again());
            self.fill_zero(dk.again());
            self.fill_zero(dv.again());
        }
        let deltas = self.mat::<f32>(t, heads);
        let width = Arg::from(shape.v_width as u32);
        self.launch_with(
            &SOURCE,
            "attention_deltas",
            &registers(shape),
            warps(t, heads),
            &[o.into(), d_o.into(), width, (&deltas).into()],
        );
        let (tiles, table, readers) = (tiles(spans), self.given(&packed(spans)), self.given(&readers(spans)));
        let (numbers, places) = (self.attention_shape(shape), self.given(&tiles));
        let given = [q.into(), kv.k.into(), kv.v.into(), d_o.into(), lse.into(), (&deltas).into()];
        let run = |pass, heads, [tensor, plain]: [&'static str; 2], results: &[Arg]| {
            let args = |rows: Arg| [&given[..], &[rows, (&table).into()], results].concat();
            match on_tensor_cores::<A>(shape, pass) {
                Some((widths, shared)) => {
                    let grid = per_tile(&tiles, heads, shared);
                    self.launch_with(&TENSOR, tensor, &widths, grid, &args((&places).into()));
                }
                None => {
                    let owner = self.given(&span_of_row(spans, t));
                    self.launch_with(&SOURCE, plain, &registers(shape), warps(t, heads), &args((&owner).into()));
                }
            }
        };
        run(Pass::Queries, heads, ["tensor_dq", "attention_dq"], &[(&numbers).into(), (&dq).into()]);
        let results = [(&readers).into(), (&numbers).into(), (&dk).into(), (&dv).into()];
        run(Pass::Keys, shape.kv_heads, ["tensor_dkv", "attention_dkv"], &results);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_read_by_itself_and_by_those_that_continue_it() {
        let span = |rows, context| Span { rows, context };
        let spans = [span(0..7, 0..0), span(7..10, 0..5), span(10..12, 0..0), span(12..13, 10..11)];
        let table = readers(&spans);
        let of = |i: usize| &table[table[i] as usize..table[i + 1] as usize];
        assert_eq!([of(0), of(1), of(2), of(3)], [&[0, 1][..], &[1], &[2, 3], &[3]]);
        assert_eq!(span_of_row(&spans[..1], 8), [0, 0, 0, 0, 0, 0, 0, u32::MAX]);
    }
}
