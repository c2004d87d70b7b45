//! The gated activations, far from zero too.

use crate::Checkable;
use crate::room::{Room, dot};
use kernels::{Clamp, Gate};
use testkit::noise;

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044_715 * x.powi(3))).tanh())
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    // The tanh of GELU's definition costs it digits that SiLU keeps.
    check_one(room, Gate::Silu, silu, (8.0, 1));
    check_one(room, Gate::Gelu, gelu, (5.0, 4));
    let (gate, up) = (room.of::<B::Act>(1, 4, &[-2e4, -95.0, 95.0, 2e4]), room.of::<B::Act>(1, 4, &[1.0; 4]));
    for g in [Gate::Silu, Gate::Gelu] {
        let (mut a, mut dgate) = (room.blank::<B::Act>(1, 4), room.blank::<B::Act>(1, 4));
        let mut d = room.of::<B::Act>(1, 4, &[1.0; 4]);
        room.backend.glu(g, gate.view(), up.view(), a.out());
        room.expect(&format!("saturated {g:?}"), &a, &[0.0, 0.0, 95.0, gate.at[3]], 1);
        room.backend.glu_back(g, [gate.view(), up.view()], dgate.out(), d.out());
        room.expect(&format!("saturated {g:?} dgate"), &dgate, &[0.0, 0.0, 1.0, 1.0], 1);
        room.expect(&format!("saturated {g:?} dup"), &d, &[0.0, 0.0, 95.0, gate.at[3]], 1);
    }
}

/// `spread` of the gates' sizes and the tolerance's factor.
fn check_one<B: Checkable>(room: &mut Room<B>, g: Gate, value: fn(f64) -> f64, (spread, factor): (f64, usize)) {
    let definition = |gate: &[f64], up: &[f64]| gate.iter().zip(up).map(|(g, u)| value(*g) * u).collect::<Vec<f64>>();
    for (t, f) in [(0, 3), (1, 1), (17, 33), (7, 1409)] {
        let what = |name: &str| format!("{g:?} {name} {t} x {f}");
        let spread: Vec<f64> = noise(t * f, 1).iter().map(|g| spread * g).collect();
        let (gate, up) = (room.of::<B::Act>(t, f, &spread), room.noise::<B::Act>(t, f, 2));
        let mut a = room.blank::<B::Act>(t, f);
        room.backend.glu(g, gate.view(), up.view(), a.out());
        room.expect(&what("forward"), &a, &definition(&gate.at, &up.at), factor);
        let mut over = room.of::<B::Act>(t, f, &spread);
        room.backend.glu_over(g, up.view(), over.out());
        let (over, a) = (room.read(&what("in place"), &over), room.read(&what("forward"), &a));
        assert!(over == a, "{}: other bits", what("in place"));
        let (mut dgate, mut d) = (room.blank::<B::Act>(t, f), room.noise::<B::Act>(t, f, 3));
        let da = d.at.clone();
        room.backend.glu_back(g, [gate.view(), up.view()], dgate.out(), d.out());
        room.expect_slopes(&what("dgate"), &dgate, &gate.at, |g| dot(&definition(g, &up.at), &da), factor);
        room.expect_slopes(&what("dup"), &d, &up.at, |u| dot(&definition(&gate.at, u), &da), factor);
    }
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
