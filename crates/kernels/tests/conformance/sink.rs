//! A sink's share of finished attention.

use crate::Checkable;
use crate::room::{Room, dot};

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, n, w) in [(0, 2, 3), (1, 1, 1), (5, 3, 4), (70, 2, 33)] {
        let what = |name: &str| format!("sink {name}, {t} rows, {n} heads of {w}");
        let (o, lse) = (room.noise::<B::Act>(t, n * w, 1), room.noise::<B::Real>(t, n, 2));
        let sinks = room.noise::<B::Real>(1, n, 3);
        let definition = |sinks: &[f64]| -> (Vec<f64>, Vec<f64>) {
            let total: Vec<f64> = (0..t * n).map(|e| lse.at[e].exp() + sinks[e % n].exp()).collect();
            let o = (0..t * n * w).map(|e| o.at[e] * lse.at[e / w].exp() / total[e / w]).collect();
            (o, total.iter().map(|t| t.ln()).collect())
        };
        let (mut shrunk, mut longer) = (room.of::<B::Act>(t, n * w, &o.at), room.of::<B::Real>(t, n, &lse.at));
        room.backend.sink(sinks.view(), shrunk.out(), longer.out());
        let (want, sums) = definition(&sinks.at);
        room.expect(&what("o"), &shrunk, &want, 3);
        room.expect(&what("lse"), &longer, &sums, 3);

        let (d_o, mut dsinks) = (room.noise::<B::Act>(t, n * w, 4), room.of::<B::Real>(1, n, &vec![0.0; n]));
        room.backend.sink_back(sinks.view(), shrunk.view(), d_o.view(), longer.view(), dsinks.acc());
        room.expect_slopes(&what("dsinks"), &dsinks, &sinks.at, |s| dot(&definition(s).0, &d_o.at), t + w);
    }
    let (mut o, mut lse) = (room.of::<B::Act>(1, 2, &[1.0, 1.0]), room.of::<B::Real>(1, 2, &[300.0, -300.0]));
    let sinks = room.of::<B::Real>(1, 2, &[-300.0, 300.0]);
    room.backend.sink(sinks.view(), o.out(), lse.out());
    room.expect("far sinks", &o, &[1.0, 0.0], 1);
    room.expect("far sinks' sums", &lse, &[300.0, 300.0], 1);
}
