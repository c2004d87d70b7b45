//! Gemma's and GPT-OSS' gated activations.

use crate::Checkable;
use crate::room::{Room, dot};
use kernels::Clamp;
use testkit::noise;

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

pub(crate) fn check_geglu<B: Checkable>(room: &mut Room<B>) {
    let definition = |gate: &[f64], up: &[f64]| gate.iter().zip(up).map(|(g, u)| gelu(*g) * u).collect::<Vec<f64>>();
    for (t, f) in [(0, 3), (1, 1), (17, 33), (7, 1409)] {
        let what = |name: &str| format!("geglu {name} {t} x {f}");
        let spread: Vec<f64> = noise(t * f, 1).iter().map(|g| 5.0 * g).collect();
        let (gate, up) = (room.of::<B::Act>(t, f, &spread), room.noise::<B::Act>(t, f, 2));
        let mut a = room.blank::<B::Act>(t, f);
        room.backend.geglu(gate.view(), up.view(), a.out());
        room.expect(&what("forward"), &a, &definition(&gate.at, &up.at), 4);
        let da = room.noise::<B::Act>(t, f, 3);
        let (mut dgate, mut dup) = (room.blank::<B::Act>(t, f), room.blank::<B::Act>(t, f));
        room.backend.geglu_back(gate.view(), up.view(), da.view(), dgate.out(), dup.out());
        room.expect_slopes(&what("dgate"), &dgate, &gate.at, |g| dot(&definition(g, &up.at), &da.at), 4);
        room.expect_slopes(&what("dup"), &dup, &up.at, |u| dot(&definition(&gate.at, u), &da.at), 4);
    }
    let (gate, up) = (room.of::<B::Act>(1, 2, &[-2e3, 2e3]), room.of::<B::Act>(1, 2, &[1.0; 2]));
    let mut a = room.blank::<B::Act>(1, 2);
    room.backend.geglu(gate.view(), up.view(), a.out());
    room.expect("saturated geglu", &a, &[0.0, 2e3], 1);
}

pub(crate) fn check_clamped<B: Checkable>(room: &mut Room<B>) {
    let clamp = Clamp { alpha: 1.702, limit: 0.75 };
    let definition = |x: &[f64]| -> Vec<f64> {
        let one = |x: &[f64]| {
            let (gate, up) = (x[0].min(clamp.limit), x[1].clamp(-clamp.limit, clamp.limit));
            (up + 1.0) * gate / (1.0 + (-clamp.alpha * gate).exp())
        };
        x.chunks(2).map(one).collect()
    };
    for (t, f) in [(0, 3), (1, 1), (17, 33), (40, 65)] {
        let what = |name: &str| format!("clamped {name} {t} x {f}");
        let x = room.noise::<B::Act>(t, 2 * f, 1);
        let mut a = room.blank::<B::Act>(t, f);
        room.backend.clamped_glu(clamp, x.view(), a.out());
        room.expect(&what("forward"), &a, &definition(&x.at), 2);
        let (da, mut dx) = (room.noise::<B::Act>(t, f, 3), room.blank::<B::Act>(t, 2 * f));
        room.backend.clamped_glu_back(clamp, x.view(), da.view(), dx.out());
        room.expect_slopes(&what("dx"), &dx, &x.at, |x| dot(&definition(x), &da.at), 2);
    }
}
