//! Attention on a GPU: which spans rows belong to, who reads whom, and the launches.

use super::{Attention, AttentionGrads, AttentionSaved, AttentionShape, KeyValue, Span};
use crate::cuda::{Activation, Arg, Cuda, Grid, Source, blocks};
use crate::{Mat, Memory, Out, View};

const SOURCE: Source = Source { name: "attention", text: include_str!("kernel.cu") };

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
    pub(crate) fn attention_shape(&self, shape: &AttentionShape) -> Mat<Self, f32> {
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
        let (owner, table) = (self.given(&span_of_row(spans, q.rows)), self.given(&packed(spans)));
        let numbers = self.attention_shape(shape);
        let args = [
            q.into(),
            own.k.into(),
            own.v.into(),
            context.k.into(),
            context.v.into(),
            (&owner).into(),
            (&table).into(),
            (&numbers).into(),
            (&o).into(),
            lse.as_ref().map_or(Arg::from(0u64), Arg::from),
        ];
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
        let (owner, table) = (self.given(&span_of_row(spans, t)), self.given(&packed(spans)));
        let (readers, numbers) = (self.given(&readers(spans)), self.attention_shape(shape));
        let given = [q.into(), kv.k.into(), kv.v.into(), d_o.into(), lse.into(), (&deltas).into()];
        let spans: [Arg; 2] = [(&owner).into(), (&table).into()];
        let args = [&given[..], &spans, &[(&numbers).into(), (&dq).into()]].concat();
        self.launch_with(&SOURCE, "attention_dq", &registers(shape), warps(t, heads), &args);
        let results = [(&readers).into(), (&numbers).into(), (&dk).into(), (&dv).into()];
        let args = [&given[..], &spans, &results].concat();
        self.launch_with(&SOURCE, "attention_dkv", &registers(shape), warps(t, shape.kv_heads), &args);
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
