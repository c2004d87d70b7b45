//! Attention against its definition, and its backward against finite differences in f64.

use super::{Attention, AttentionGrads, AttentionSaved, AttentionShape, KeyValue, Span};
use crate::{Cpu, Memory};

type C = Cpu<f64>;

fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        })
        .collect()
}

struct Case {
    shape: AttentionShape,
    spans: Vec<Span>,
    t: usize,
}

fn span(rows: std::ops::Range<usize>, context: std::ops::Range<usize>) -> Span {
    Span { rows, context }
}

fn cases() -> Vec<Case> {
    let shape = |n, k, h, v, window| AttentionShape {
        query_heads: n,
        kv_heads: k,
        qk_width: h,
        v_width: v,
        scale: 0.37,
        window,
    };
    vec![
        Case { shape: shape(1, 1, 1, 1, None), spans: vec![span(0..1, 0..0)], t: 1 },
        Case {
            shape: shape(4, 2, 3, 5, None),
            spans: vec![span(0..7, 0..0), span(7..10, 0..5), span(10..12, 0..0), span(12..13, 10..11)],
            t: 13,
        },
        Case {
            shape: shape(2, 2, 4, 2, Some(3)),
            spans: vec![span(0..9, 0..0), span(9..14, 0..6), span(14..16, 0..2)],
            t: 16,
        },
        Case { shape: shape(2, 1, 2, 2, None), spans: vec![span(0..66, 0..0), span(66..134, 0..65)], t: 134 },
        Case { shape: shape(2, 1, 2, 2, Some(17)), spans: vec![span(0..66, 0..0), span(66..134, 0..65)], t: 134 },
    ]
}

/// The keys a row sees, oldest first.
fn keys_of(case: &Case, row: usize) -> Vec<usize> {
    let s = case.spans.iter().find(|s| s.rows.contains(&row)).unwrap();
    let all: Vec<usize> = s.context.clone().chain(s.rows.start..=row).collect();
    let skip = case.shape.window.map_or(0, |w| all.len().saturating_sub(w));
    all[skip..].to_vec()
}

fn by_definition(case: &Case, q: &[f64], k: &[f64], v: &[f64]) -> Vec<f64> {
    let s = case.shape;
    let group = s.query_heads / s.kv_heads;
    let mut o = vec![0.0; case.t * s.query_heads * s.v_width];
    for row in 0..case.t {
        let keys = keys_of(case, row);
        for n in 0..s.query_heads {
            let j = n / group;
            let q = &q[(row * s.query_heads + n) * s.qk_width..][..s.qk_width];
            let score = |key: usize| {
                s.scale * (0..s.qk_width).map(|h| q[h] * k[(key * s.kv_heads + j) * s.qk_width + h]).sum::<f64>()
            };
            let weights: Vec<f64> = keys.iter().map(|&key| score(key).exp()).collect();
            let total: f64 = weights.iter().sum();
            for (w, key) in weights.iter().zip(&keys) {
                for c in 0..s.v_width {
                    o[(row * s.query_heads + n) * s.v_width + c] +=
                        w / total * v[(key * s.kv_heads + j) * s.v_width + c];
                }
            }
        }
    }
    o
}

fn inputs(case: &Case) -> [Vec<f64>; 4] {
    let s = case.shape;
    [
        noise(case.t * s.query_heads * s.qk_width, 1),
        noise(case.t * s.kv_heads * s.qk_width, 2),
        noise(case.t * s.kv_heads * s.v_width, 3),
        noise(case.t * s.query_heads * s.v_width, 4),
    ]
}

#[test]
fn forward_equals_the_definition_for_shared_prefixes_groups_and_windows() {
    let cpu = C::new(2);
    for case in cases() {
        let [q, k, v, _] = inputs(&case);
        let s = case.shape;
        let want = by_definition(&case, &q, &k, &v);
        let (q, k) =
            (cpu.from_host(case.t, s.query_heads * s.qk_width, &q), cpu.from_host(case.t, s.kv_heads * s.qk_width, &k));
        let v = cpu.from_host(case.t, s.kv_heads * s.v_width, &v);
        let kv = KeyValue { k: k.view(), v: v.view() };
        let mut o = cpu.mat(case.t, s.query_heads * s.v_width);
        cpu.attention(&s, &case.spans, q.view(), kv, kv, o.out(), None);
        let got = cpu.to_host::<f64>(o.view());
        got.iter().zip(&want).for_each(|(a, b)| assert!((a - b).abs() < 1e-12, "{s:?} {a} {b}"));
    }
}

#[test]
fn backward_equals_finite_differences() {
    let cpu = C::new(2);
    for case in cases() {
        let s = case.shape;
        let [q, k, v, weight] = inputs(&case);
        let dims =
            [s.query_heads * s.qk_width, s.kv_heads * s.qk_width, s.kv_heads * s.v_width, s.query_heads * s.v_width];
        let m: Vec<_> = [&q, &k, &v, &weight].iter().zip(dims).map(|(x, c)| cpu.from_host(case.t, c, x)).collect();
        let kv = KeyValue { k: m[1].view(), v: m[2].view() };
        let (mut o, mut lse) = (cpu.mat(case.t, dims[3]), cpu.mat(case.t, s.query_heads));
        cpu.attention(&s, &case.spans, m[0].view(), kv, kv, o.out(), Some(lse.out()));
        let (mut dq, mut dk, mut dv) = (cpu.mat(case.t, dims[0]), cpu.mat(case.t, dims[1]), cpu.mat(case.t, dims[2]));
        let saved = AttentionSaved { q: m[0].view(), kv, o: o.view(), lse: lse.view() };
        cpu.attention_back(
            &s,
            &case.spans,
            saved,
            m[3].view(),
            AttentionGrads { dq: dq.out(), dk: dk.out(), dv: dv.out() },
        );
        let grads: Vec<Vec<f64>> = [&dq, &dk, &dv].iter().map(|g| cpu.to_host(g.view())).collect();
        let loss = |x: &[Vec<f64>; 3]| -> f64 {
            by_definition(&case, &x[0], &x[1], &x[2]).iter().zip(&weight).map(|(o, w)| o * w).sum()
        };
        let mut x = [q, k, v];
        for which in 0..3 {
            let stride = (x[which].len() / 23).max(1);
            for e in (0..x[which].len()).step_by(stride) {
                let at = x[which][e];
                x[which][e] = at + 1e-5;
                let up = loss(&x);
                x[which][e] = at - 1e-5;
                let down = loss(&x);
                x[which][e] = at;
                let (want, got) = ((up - down) / 2e-5, grads[which][e]);
                assert!((want - got).abs() < 1e-7 * (1.0 + want.abs()), "{s:?} input {which} entry {e}: {want} {got}");
            }
        }
    }
}
