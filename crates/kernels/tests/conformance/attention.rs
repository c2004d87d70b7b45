//! Attention against its definition: groups, windows, shared prefixes, keys from elsewhere, one row at a time.

use crate::Checkable;
use crate::room::{Framed, Room, dot};
use kernels::{AttentionGrads, AttentionSaved, AttentionShape, KeyValue, Span};
use std::ops::Range;

struct Case {
    shape: AttentionShape,
    spans: Vec<Span>,
    /// Rows.
    t: usize,
}

fn span(rows: Range<usize>, context: Range<usize>) -> Span {
    Span { rows, context }
}

fn case(n: usize, k: usize, widths: (usize, usize), window: Option<usize>, spans: &[Span]) -> Case {
    let shape = AttentionShape {
        query_heads: n,
        kv_heads: k,
        qk_width: widths.0,
        v_width: widths.1,
        scale: 0.37,
        window,
        cap: None,
    };
    Case { shape, spans: spans.to_vec(), t: spans.last().map_or(0, |s| s.rows.end) }
}

/// A cap that bends the scores there are.
fn capped(mut case: Case) -> Case {
    case.shape.cap = Some(0.8);
    case
}

fn cases() -> Vec<Case> {
    // Two answers after a prompt, an independent text, and one that continues its second row.
    let shared = [span(0..7, 0..0), span(7..10, 0..5), span(10..12, 0..0), span(12..13, 10..11)];
    // Blocks of rows and one row past; a context that ends inside one.
    let long = [span(0..66, 0..0), span(66..134, 0..65)];
    // Answers of one row, as when tokens are generated.
    let single = [span(0..5, 0..0), span(5..6, 0..5), span(6..7, 0..3), span(7..8, 0..0)];
    vec![
        case(1, 1, (1, 1), None, &[]),
        case(1, 1, (1, 1), None, &[span(0..1, 0..0)]),
        case(4, 2, (3, 5), None, &shared),
        case(6, 2, (33, 31), None, &shared),
        case(2, 2, (4, 2), Some(3), &[span(0..9, 0..0), span(9..14, 0..6), span(14..16, 0..2)]),
        case(3, 1, (5, 3), Some(1), &shared),
        case(2, 1, (2, 2), None, &long),
        case(2, 1, (2, 2), Some(17), &long),
        case(4, 2, (7, 35), None, &single),
        case(4, 4, (7, 3), Some(2), &single),
        // Widths that tensor cores take.
        case(4, 2, (16, 32), None, &shared),
        case(2, 1, (32, 16), Some(17), &long),
        capped(case(2, 2, (16, 16), None, &long)),
        capped(case(4, 2, (3, 5), None, &shared)),
        capped(case(2, 1, (2, 2), Some(17), &long)),
        capped(case(4, 2, (7, 35), None, &single)),
    ]
}

/// The keys a row sees, oldest first: in the context, and among the rows themselves.
fn keys_of(case: &Case, row: usize) -> (Range<usize>, Range<usize>) {
    let s = case.spans.iter().find(|s| s.rows.contains(&row)).unwrap();
    let total = s.context.len() + row + 1 - s.rows.start;
    let skip = case.shape.window.map_or(0, |w| total.saturating_sub(w));
    let in_context = skip.min(s.context.len());
    (s.context.start + in_context..s.context.end, s.rows.start + skip - in_context..row + 1)
}

/// Output and log-sum-exp; `own` and `context` are keys and values.
fn definition(case: &Case, q: &[f64], own: [&[f64]; 2], context: [&[f64]; 2]) -> (Vec<f64>, Vec<f64>) {
    let s = case.shape;
    let (mut o, mut lse) = (vec![0.0; case.t * s.query_heads * s.v_width], vec![0.0; case.t * s.query_heads]);
    for row in 0..case.t {
        let (before, own_keys) = keys_of(case, row);
        let keys: Vec<(usize, [&[f64]; 2])> =
            before.map(|key| (key, context)).chain(own_keys.map(|key| (key, own))).collect();
        for n in 0..s.query_heads {
            let j = n / (s.query_heads / s.kv_heads);
            let at = row * s.query_heads + n;
            let q = &q[at * s.qk_width..][..s.qk_width];
            let score =
                |key: usize, k: &[f64]| s.scale * dot(q, &k[(key * s.kv_heads + j) * s.qk_width..][..s.qk_width]);
            let cap = |x: f64| s.cap.map_or(x, |c| c * (x / c).tanh());
            let weights: Vec<f64> = keys.iter().map(|(key, [k, _])| cap(score(*key, k)).exp()).collect();
            let total: f64 = weights.iter().sum();
            lse[at] = total.ln();
            for (w, (key, [_, v])) in weights.iter().zip(&keys) {
                for c in 0..s.v_width {
                    o[at * s.v_width + c] += w / total * v[(key * s.kv_heads + j) * s.v_width + c];
                }
            }
        }
    }
    (o, lse)
}

/// Queries, keys, values and the gradient of the output.
fn inputs<B: Checkable>(room: &Room<B>, case: &Case) -> [Framed<B, B::Act>; 4] {
    let s = case.shape;
    let widths =
        [s.query_heads * s.qk_width, s.kv_heads * s.qk_width, s.kv_heads * s.v_width, s.query_heads * s.v_width];
    [0, 1, 2, 3].map(|i| room.noise(case.t, widths[i], i as u64 + 1))
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for case in cases() {
        let what = |name: &str| format!("attention {name}, {:?}, {:?}", case.shape, case.spans);
        let s = case.shape;
        let [q, k, v, d_o] = inputs(room, &case);
        let kv = KeyValue { k: k.view(), v: v.view() };
        let length = s.qk_width.max(case.t);
        let (o_want, lse_want) = definition(&case, &q.at, [&k.at, &v.at], [&k.at, &v.at]);
        let (mut o, mut lse) =
            (room.blank::<B::Act>(case.t, d_o.view().cols), room.blank::<B::Real>(case.t, s.query_heads));
        room.backend.attention(&s, &case.spans, q.view(), kv, kv, o.out(), Some(lse.out()));
        room.expect(&what("forward"), &o, &o_want, length);
        room.expect(&what("lse"), &lse, &lse_want, length);
        let mut bare = room.blank::<B::Act>(case.t, d_o.view().cols);
        room.backend.attention(&s, &case.spans, q.view(), kv, kv, bare.out(), None);
        room.expect_exactly(&what("without lse"), &bare, &testkit::to(&room.read("forward", &o)));

        let [mut dq, mut dk, mut dv] = [&q, &k, &v].map(|m| room.blank::<B::Act>(case.t, m.view().cols));
        let saved = AttentionSaved { q: q.view(), kv, o: o.view(), lse: lse.view() };
        let grads = AttentionGrads { dq: dq.out(), dk: dk.out(), dv: dv.out() };
        room.backend.attention_back(&s, &case.spans, saved, d_o.view(), grads);
        let loss = |q: &[f64], k: &[f64], v: &[f64]| dot(&definition(&case, q, [k, v], [k, v]).0, &d_o.at);
        room.expect_slopes(&what("dq"), &dq, &q.at, |q| loss(q, &k.at, &v.at), length);
        room.expect_slopes(&what("dk"), &dk, &k.at, |k| loss(&q.at, k, &v.at), length);
        room.expect_slopes(&what("dv"), &dv, &v.at, |v| loss(&q.at, &k.at, v), length);
    }
    keys_from_elsewhere(room);
}

/// Spans may continue rows of other matrices: a tail after its base, new tokens after a cache.
fn keys_from_elsewhere<B: Checkable>(room: &mut Room<B>) {
    for window in [None, Some(9)] {
        let spans = [span(0..3, 2..70), span(3..4, 0..0), span(4..5, 70..71), span(5..72, 1..8)];
        let case = case(4, 2, (5, 3), window, &spans);
        let [q, k, v, d_o] = inputs(room, &case);
        let (ck, cv) = (room.noise::<B::Act>(71, 10, 11), room.noise::<B::Act>(71, 6, 12));
        let (own, context) = (KeyValue { k: k.view(), v: v.view() }, KeyValue { k: ck.view(), v: cv.view() });
        let mut o = room.blank::<B::Act>(case.t, d_o.view().cols);
        room.backend.attention(&case.shape, &case.spans, q.view(), own, context, o.out(), None);
        let want = definition(&case, &q.at, [&k.at, &v.at], [&ck.at, &cv.at]).0;
        room.expect("attention to keys from elsewhere", &o, &want, case.t);
    }
}
