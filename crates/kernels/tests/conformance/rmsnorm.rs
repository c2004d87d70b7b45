//! The norm over rows and over heads.

use crate::Checkable;
use crate::room::{Room, dot, plus};
use kernels::RmsNormSaved;

const EPS: f64 = 0.05;

fn reciprocals(x: &[f64], h: usize) -> Vec<f64> {
    x.chunks(h).map(|g| 1.0 / (g.iter().map(|v| v * v).sum::<f64>() / h as f64 + EPS).sqrt()).collect()
}

fn definition(x: &[f64], w: &[f64]) -> Vec<f64> {
    let rstd = reciprocals(x, w.len());
    (0..x.len()).map(|i| x[i] * rstd[i / w.len()] * w[i % w.len()]).collect()
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, g, h) in [(0, 1, 5), (1, 1, 1), (1, 1, 33), (7, 3, 31), (33, 2, 65), (65, 1, 257)] {
        let what = |name: &str| format!("rmsnorm {name} of {t} rows, {g} groups of {h}");
        let (x, w) = (room.noise::<B::Act>(t, g * h, 1), room.noise::<B::Real>(1, h, 2));
        let (mut y, mut rstd) = (room.blank::<B::Act>(t, g * h), room.blank::<B::Real>(t, g));
        room.backend.rmsnorm(x.view(), w.view(), EPS, y.out(), rstd.out());
        room.expect(&what("forward"), &y, &definition(&x.at, &w.at), h);
        room.expect(&what("rstd"), &rstd, &reciprocals(&x.at, h), h);

        let mut again = room.blank::<B::Act>(t, g * h);
        room.backend.rmsnorm_again(x.view(), w.view(), rstd.view(), again.out());
        room.expect_exactly(&what("again"), &again, &testkit::to(&room.read("forward", &y)));

        let (dy, before, before_w) =
            (room.noise::<B::Act>(t, g * h, 3), room.noise::<B::Act>(t, g * h, 4), room.noise::<B::Real>(1, h, 5));
        let saved = || RmsNormSaved { x: x.view(), w: w.view(), rstd: rstd.view() };
        let mut dx = room.blank::<B::Act>(t, g * h);
        room.backend.rmsnorm_back(saved(), dy.view(), dx.out(), None);
        room.expect_slopes(&what("dx"), &dx, &x.at, |x| dot(&definition(x, &w.at), &dy.at), h);

        let mut sum = room.noise::<B::Act>(t, g * h, 4);
        let mut dw = room.noise::<B::Real>(1, h, 5);
        room.backend.rmsnorm_back(saved(), dy.view(), sum.acc(), Some(dw.acc()));
        let alone: Vec<f64> = testkit::to(&room.read("dx", &dx));
        room.expect(&what("dx, added"), &sum, &plus(&alone, &before.at), 1);
        let loss = |w: &[f64]| dot(&definition(&x.at, w), &dy.at) + dot(w, &before_w.at);
        room.expect_slopes(&what("dw"), &dw, &w.at, loss, t * g);
    }
}
