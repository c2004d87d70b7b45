//! The gated activation, far from zero too.

use crate::Checkable;
use crate::room::{Room, dot};

fn definition(gate: &[f64], up: &[f64]) -> Vec<f64> {
    gate.iter().zip(up).map(|(g, u)| g / (1.0 + (-g).exp()) * u).collect()
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, f) in [(0, 3), (1, 1), (17, 33), (7, 1409)] {
        let what = |name: &str| format!("swiglu {name} {t} x {f}");
        let spread: Vec<f64> = testkit::noise(t * f, 1).iter().map(|g| 8.0 * g).collect();
        let (gate, up) = (room.of::<B::Act>(t, f, &spread), room.noise::<B::Act>(t, f, 2));
        let mut a = room.blank::<B::Act>(t, f);
        room.backend.swiglu(gate.view(), up.view(), a.out());
        room.expect(&what("forward"), &a, &definition(&gate.at, &up.at), 1);

        let da = room.noise::<B::Act>(t, f, 3);
        let (mut dgate, mut dup) = (room.blank::<B::Act>(t, f), room.blank::<B::Act>(t, f));
        room.backend.swiglu_back(gate.view(), up.view(), da.view(), dgate.out(), dup.out());
        room.expect_slopes(&what("dgate"), &dgate, &gate.at, |g| dot(&definition(g, &up.at), &da.at), 1);
        room.expect_slopes(&what("dup"), &dup, &up.at, |u| dot(&definition(&gate.at, u), &da.at), 1);
    }
    let (gate, up) = (room.of::<B::Act>(1, 4, &[-2e4, -95.0, 95.0, 2e4]), room.of::<B::Act>(1, 4, &[1.0; 4]));
    let (mut a, mut dgate, mut dup) =
        (room.blank::<B::Act>(1, 4), room.blank::<B::Act>(1, 4), room.blank::<B::Act>(1, 4));
    room.backend.swiglu(gate.view(), up.view(), a.out());
    room.expect("saturated swiglu", &a, &[0.0, 0.0, 95.0, gate.at[3]], 1);
    room.backend.swiglu_back(gate.view(), up.view(), up.view(), dgate.out(), dup.out());
    room.expect("saturated dgate", &dgate, &[0.0, 0.0, 1.0, 1.0], 1);
    room.expect("saturated dup", &dup, &[0.0, 0.0, 95.0, gate.at[3]], 1);
}
