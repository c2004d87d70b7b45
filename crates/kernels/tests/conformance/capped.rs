//! The head under a cap against plain softmax of capped logits.

use crate::Checkable;
use crate::room::{Room, dot};
use kernels::{HeadSaved, StoredDtype, Weight};
use testkit::{noise, to};

const CAP: f64 = 1.5;

/// Capped logits of a row and their log-sum-exp.
fn plain(h: &[f64], w: &[f64]) -> (Vec<f64>, f64) {
    let logits: Vec<f64> = w.chunks(h.len()).map(|w| CAP * (dot(w, h) / CAP).tanh()).collect();
    let lse = logits.iter().map(|l| l.exp()).sum::<f64>().ln();
    (logits, lse)
}

fn logp(h: &[f64], w: &[f64], tokens: &[u32], d: usize) -> Vec<f64> {
    let row = |(h, token): (&[f64], &u32)| {
        let (logits, lse) = plain(h, w);
        logits[*token as usize] - lse
    };
    h.chunks(d).zip(tokens).map(row).collect()
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (s, d, v) in [(0, 3, 5), (1, 1, 2), (2, 5, 37), (3, 3, 2051), (259, 2, 11)] {
        let values: Vec<f64> = noise(v * d, 2).iter().map(|x| 2.0 * x).collect();
        let w = room.of::<B::Real>(v, d, &values);
        one(room, Weight::Param(w.view()), &w.at, (s, d, v));
        let (stored, held) = room.stored(StoredDtype::Bf16, v, d, &values);
        one(room, Weight::Stored(&stored), &held, (s, d, v));
    }
}

fn one<B: Checkable>(room: &mut Room<B>, weight: Weight<B>, w: &[f64], (s, d, v): (usize, usize, usize)) {
    let what = |name: &str| format!("capped head {name}, {s} rows of {d}, vocabulary {v}");
    let tokens: Vec<u32> = (0..s).map(|i| if i == 0 { v - 1 } else { i * 7919 % v } as u32).collect();
    let h = room.noise::<B::Act>(s, d, 1);
    let rows: Vec<(Vec<f64>, f64)> = h.at.chunks(d).map(|h| plain(h, w)).collect();
    let mut unit = room.blank::<B::Act>(s, d);
    let scores = room.backend.capped_head(CAP, h.view(), weight, &tokens, true, Some(unit.out()));
    let length = d + 4;
    room.expect_host(&what("logp"), &scores.logp, &logp(&h.at, w, &tokens, d), length);
    let lse: Vec<f64> = rows.iter().map(|(_, lse)| *lse).collect();
    room.expect_host(&what("lse"), &scores.lse, &lse, length);
    let extra = scores.extra.unwrap();
    let entropy = |(logits, lse): &(Vec<f64>, f64)| -logits.iter().map(|l| (l - lse).exp() * (l - lse)).sum::<f64>();
    room.expect_host(&what("entropy"), &extra.entropy, &rows.iter().map(entropy).collect::<Vec<_>>(), 4 * length + v);
    for (best, (logits, _)) in extra.argmax.iter().zip(&rows) {
        assert!(logits.iter().all(|l| *l <= logits[*best as usize] + 1e-5), "{}", what("argmax"));
    }
    let loss = |h: &[f64], w: &[f64]| logp(h, w, &tokens, d).iter().sum::<f64>();
    room.expect_slopes(&what("unit"), &unit, &h.at, |h| loss(h, w), d + v);
    let few = s.min(3);
    let logits = room.backend.capped_logits(CAP, h.view().rows(0..few), weight);
    let want: Vec<f64> = rows[..few].iter().flat_map(|(l, _)| l.clone()).collect();
    room.expect_host(&what("logits"), &logits, &want, length);

    let c = room.noise::<B::Real>(1, s, 5);
    let coefficient: Vec<B::Real> = to(&c.at);
    let (mut dh, mut dw) = (room.blank::<B::Act>(s, d), room.of::<B::Real>(v, d, &vec![0.0; v * d]));
    let saved = HeadSaved { tokens: &tokens, lse: &scores.lse, coefficient: &coefficient, logits: None };
    room.backend.capped_head_back(CAP, h.view(), weight, saved, dh.out(), dw.acc());
    let loss = |h: &[f64], w: &[f64]| dot(&logp(h, w, &tokens, d), &c.at);
    room.expect_slopes(&what("dh"), &dh, &h.at, |h| loss(h, w), d + v);
    room.expect_slopes(&what("dw"), &dw, w, |w| loss(&h.at, w), d + s);
}
