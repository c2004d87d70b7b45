//! The streamed head against plain softmax.

use crate::Checkable;
use crate::room::{Room, dot};
use kernels::{ForBackward, HeadSaved, StoredDtype, Weight};
use testkit::{noise, to};

/// Plain softmax of one row.
struct Plain {
    logits: Vec<f64>,
    p: Vec<f64>,
    lse: f64,
}

fn plain(h: &[f64], w: &[f64]) -> Plain {
    let logits: Vec<f64> = w.chunks(h.len()).map(|w| dot(w, h)).collect();
    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let lse = max + logits.iter().map(|l| (l - max).exp()).sum::<f64>().ln();
    Plain { p: logits.iter().map(|l| (l - lse).exp()).collect(), logits, lse }
}

/// A weight that is read as it stands, in four forms.
#[derive(Clone, Copy, Debug)]
enum Form {
    Param,
    Stored(StoredDtype),
}

const FORMS: [Form; 4] =
    [Form::Param, Form::Stored(StoredDtype::F32), Form::Stored(StoredDtype::Bf16), Form::Stored(StoredDtype::F16)];

/// Runs `work` with noise of scale `scale` as the weight.
fn with_weight<B: Checkable>(
    room: &mut Room<B>,
    form: Form,
    (v, d): (usize, usize),
    scale: f64,
    work: impl FnOnce(&mut Room<B>, Weight<B>, &[f64]),
) {
    let values: Vec<f64> = noise(v * d, 2).iter().map(|x| scale * x).collect();
    match form {
        Form::Param => {
            let w = room.of::<B::Real>(v, d, &values);
            work(room, Weight::Param(w.view()), &w.at);
        }
        Form::Stored(dtype) => {
            let (stored, held) = room.stored(dtype, v, d, &values);
            work(room, Weight::Stored(&stored), &held);
        }
    }
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (s, d, v) in [(0, 3, 5), (1, 1, 1), (2, 5, 37), (17, 7, 2049), (513, 2, 9), (3, 67, 4099)] {
        for form in FORMS {
            with_weight(room, form, (v, d), 4.0, |room, weight, w| scores(room, weight, w, (s, d, v)));
        }
    }
    // Steps of the running maximum: the largest logit comes in the last tile.
    for form in FORMS {
        with_weight(room, form, (6001, 3), 40.0, |room, weight, w| scores(room, weight, w, (2, 3, 6001)));
    }
    for (s, d, v) in [(0, 3, 5), (1, 1, 2), (4, 3, 2051), (513, 2, 11)] {
        for form in FORMS {
            with_weight(room, form, (v, d), 1.0, |room, weight, w| backward(room, weight, w, (s, d, v)));
        }
    }
    not_a_number(room);
}

fn tokens(s: usize, v: usize) -> Vec<u32> {
    (0..s).map(|i| if i == 0 { v - 1 } else { i * 7919 % v } as u32).collect()
}

fn scores<B: Checkable>(room: &mut Room<B>, weight: Weight<B>, w: &[f64], (s, d, v): (usize, usize, usize)) {
    let what = |name: &str| format!("head {name}, {s} rows of {d}, vocabulary {v}");
    let (h, tokens) = (room.noise::<B::Act>(s, d, 1), tokens(s, v));
    let rows: Vec<Plain> = h.at.chunks(d).map(|h| plain(h, w)).collect();
    let of = |f: &dyn Fn(usize, &Plain) -> f64| rows.iter().enumerate().map(|(i, r)| f(i, r)).collect::<Vec<f64>>();
    let logp = of(&|i, r| r.logits[tokens[i] as usize] - r.lse);
    let lse = of(&|_, r| r.lse);
    let largest = of(&|_, r| r.logits.iter().fold(0.0, |m: f64, l| m.max(l.abs())));
    // Logits are sums over `d`, the softmax's sum is over `v` but all of one sign: its relative error does not add up.
    let length = d;

    let plain_scores = room.backend.head(h.view(), weight, &tokens, false, ForBackward::Nothing);
    assert!(plain_scores.extra.is_none());
    let mut unit = room.blank::<B::Act>(s, d);
    let all = room.backend.head(h.view(), weight, &tokens, true, ForBackward::Unit(unit.out()));
    room.expect_host(&what("logp"), &plain_scores.logp, &logp, length);
    room.expect_host(&what("logp with all else"), &all.logp, &logp, length);
    room.expect_host(&what("lse"), &all.lse, &lse, length);

    let extra = all.extra.unwrap();
    // The entropy is a difference of numbers of the logits' size: compared beside the largest of them.
    let beside = |x: Vec<f64>| x.into_iter().chain(largest.iter().copied()).collect::<Vec<_>>();
    let entropy = of(&|_, r| -r.p.iter().map(|p| if *p > 0.0 { p * p.ln() } else { 0.0 }).sum::<f64>());
    let found = beside(to(&extra.entropy));
    room.expect_host(&what("entropy"), &to::<B::Real, f64>(&found), &beside(entropy), 4 * length + v);
    let mean = of(&|_, r| r.logits.iter().sum::<f64>() / v as f64);
    let found = beside(to(&extra.mean_logit));
    room.expect_host(&what("mean logit"), &to::<B::Real, f64>(&found), &beside(mean), length);
    let almost = |i: usize| 1e-5 * largest[i];
    for (i, &best) in extra.argmax.iter().enumerate() {
        assert!(rows[i].logits.iter().all(|l| *l <= rows[i].logits[best as usize] + almost(i)), "{}", what("argmax"));
    }

    let expected = |i: usize, c: usize| {
        let mean: f64 = rows[i].p.iter().zip(w.chunks(d)).map(|(p, w)| p * w[c]).sum();
        w[tokens[i] as usize * d + c] - mean
    };
    let want: Vec<f64> = (0..s * d).map(|e| expected(e / d, e % d)).collect();
    // A vocabulary of one has a unit of zero, but it is a difference of two numbers of the weight's size.
    let got = room.read(&what("unit"), &unit);
    let weight_size = [w.iter().fold(0.0, |m: f64, w| m.max(w.abs()))];
    let joined: Vec<f64> = to::<f64, _>(&got).into_iter().chain(weight_size).collect();
    let want: Vec<f64> = want.into_iter().chain(weight_size).collect();
    // An error of the logit is an error of the probability, times the logit's size.
    let size = largest.iter().fold(1.0, |m: f64, l| m.max(*l));
    room.expect_host(&what("unit"), &to::<B::Act, f64>(&joined), &want, (size * size) as usize * length);

    let few = s.min(3);
    let logits = room.backend.logits(h.view().rows(0..few), weight);
    let want: Vec<f64> = rows[..few].iter().flat_map(|r| r.logits.clone()).collect();
    room.expect_host(&what("logits"), &logits, &want, length);
}

fn backward<B: Checkable>(room: &mut Room<B>, weight: Weight<B>, w: &[f64], (s, d, v): (usize, usize, usize)) {
    let what = |name: &str| format!("head {name}, {s} rows of {d}, vocabulary {v}");
    let (h, tokens, c) = (room.noise::<B::Act>(s, d, 3), tokens(s, v), room.noise::<B::Real>(1, s, 5));
    let lse = room.backend.head(h.view(), weight, &tokens, false, ForBackward::Nothing).lse;
    let (mut dh, mut dw) = (room.blank::<B::Act>(s, d), room.of::<B::Real>(v, d, &vec![0.0; v * d]));
    let coefficient: Vec<B::Real> = to(&c.at);
    let saved = HeadSaved { tokens: &tokens, lse: &lse, coefficient: &coefficient, logits: None };
    room.backend.head_back(h.view(), weight, saved, dh.out(), dw.acc());
    let loss = |h: &[f64], w: &[f64]| -> f64 {
        let row = |(i, h): (usize, &[f64])| {
            let r = plain(h, w);
            c.at[i] * (r.logits[tokens[i] as usize] - r.lse)
        };
        h.chunks(d).enumerate().map(row).sum()
    };
    room.expect_slopes(&what("dh"), &dh, &h.at, |h| loss(h, w), d + v);
    room.expect_slopes(&what("dw"), &dw, w, |w| loss(&h.at, w), d + s);
    let plain = (room.read(&what("dh"), &dh), room.read(&what("dw"), &dw));
    for kept in [1.min(v), v / 2, v.min(2048), v] {
        let mut logits = room.blank::<B::Act>(kept, s);
        let later = ForBackward::Logits(logits.out());
        let lse = room.backend.head(h.view(), weight, &tokens, false, later).lse;
        let (mut dh, mut dw) = (room.blank::<B::Act>(s, d), room.of::<B::Real>(v, d, &vec![0.0; v * d]));
        let logits = Some(logits.out());
        let saved = HeadSaved { tokens: &tokens, lse: &lse, coefficient: &coefficient, logits };
        room.backend.head_back(h.view(), weight, saved, dh.out(), dw.acc());
        let found = (room.read(&what("dh"), &dh), room.read(&what("dw"), &dw));
        assert!(found == plain, "{}: {kept} logits kept or computed again", what("gradient"));
    }
}

/// A row that is not finite says so; its neighbours do not.
fn not_a_number<B: Checkable>(room: &mut Room<B>) {
    let (d, v) = (3, 2050);
    let mut values = noise(3 * d, 1);
    values[d + 1] = f64::NAN;
    let h = room.of::<B::Act>(3, d, &values);
    let w = room.noise::<B::Real>(v, d, 2);
    let logp: Vec<f64> =
        to(&room.backend.head(h.view(), Weight::Param(w.view()), &[1, 2, 3], true, ForBackward::Nothing).logp);
    assert!(logp[0].is_finite() && logp[1].is_nan() && logp[2].is_finite(), "{logp:?}");
}
