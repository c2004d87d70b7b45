//! Factors of rows.

use crate::Checkable;
use crate::room::{Room, dot};
use testkit::to;

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, d) in [(0, 3), (1, 1), (70, 33)] {
        let what = |name: &str| format!("scale {name} {t} x {d}");
        let factors = room.noise::<B::Real>(1, t, 1);
        let held: Vec<B::Real> = to(&factors.at);
        let mut y = room.noise::<B::Act>(t, d, 2);
        room.backend.scale_rows(&held, y.out());
        let want: Vec<f64> = (0..t * d).map(|e| factors.at[e / d] * y.at[e]).collect();
        room.expect(&what("rows"), &y, &want, 1);
        let mut y = room.noise::<B::Act>(t, d, 2);
        room.backend.scale(1.75, y.out());
        room.expect(&what("all"), &y, &y.at.iter().map(|y| 1.75 * y).collect::<Vec<_>>(), 1);
        let (a, b) = (room.noise::<B::Act>(t, d, 3), room.noise::<B::Act>(t, d, 4));
        let want: Vec<f64> = a.at.chunks(d).zip(b.at.chunks(d)).map(|(a, b)| dot(a, b)).collect();
        room.expect_host(&what("dots"), &room.backend.row_dots(a.view(), b.view()), &want, d);
        let x = room.noise::<B::Act>(t, 1, 5);
        let want: Vec<f64> = x.at.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect();
        room.expect_host(&what("sigmoids"), &room.backend.sigmoids(x.view()), &want, 1);
        let mut column = room.blank::<B::Act>(t, 1);
        room.backend.column(&held, column.out());
        room.expect_exactly(&what("column"), &column, &factors.at);
        let (w, mut plus) = (room.noise::<B::Real>(1, d, 6), room.blank::<B::Real>(1, d));
        room.backend.one_plus(w.view(), plus.out());
        room.expect(&what("one plus"), &plus, &w.at.iter().map(|w| 1.0 + w).collect::<Vec<_>>(), 1);
    }
}
