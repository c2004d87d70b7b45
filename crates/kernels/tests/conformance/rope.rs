//! Rotation in both layouts, of whole heads and of some of their columns, and back.

use crate::Checkable;
use crate::room::{Room, dot};
use kernels::{RopeLayout, RopeTable};

/// Columns of the pair `i`.
fn pair(layout: RopeLayout, half: usize, i: usize) -> (usize, usize) {
    match layout {
        RopeLayout::HalfSplit => (i, i + half),
        RopeLayout::Interleaved => (2 * i, 2 * i + 1),
    }
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    let shapes = [
        (0, 1, 2, 1, 0),
        (1, 1, 2, 1, 0),
        (5, 3, 7, 2, 0),
        (33, 2, 64, 32, 0),
        (3, 1, 35, 17, 0),
        (4, 3, 9, 3, 2),
        (2, 2, 6, 2, 2),
    ];
    for (t, heads, width, half, offset) in shapes {
        for layout in [RopeLayout::HalfSplit, RopeLayout::Interleaved] {
            let what = |name: &str| {
                format!("rope {name} {layout:?}, {t} rows, {half} pairs of {heads} x {width} from {offset}")
            };
            // Positions repeat and do not ascend; the table carries an attention factor.
            let at: Vec<u32> = (0..t).map(|i| (i * 17 % 41 % 23) as u32).collect();
            let angle = |e: usize| (e / half) as f64 * 0.3f64.powi((e % half) as i32);
            let table = |f: &dyn Fn(f64) -> f64| (0..41 * half).map(|e| 1.3 * f(angle(e))).collect::<Vec<_>>();
            let (cos, sin) =
                (room.of::<B::Real>(41, half, &table(&f64::cos)), room.of::<B::Real>(41, half, &table(&f64::sin)));
            let definition = |x: &[f64]| {
                let mut y = x.to_vec();
                for (row, &p) in at.iter().enumerate() {
                    for head in 0..heads {
                        for i in 0..half {
                            let start = (row * heads + head) * width + offset;
                            let (a, b) = pair(layout, half, i);
                            let (c, s) = (cos.at[p as usize * half + i], sin.at[p as usize * half + i]);
                            y[start + a] = x[start + a] * c - x[start + b] * s;
                            y[start + b] = x[start + b] * c + x[start + a] * s;
                        }
                    }
                }
                y
            };
            let positions = room.ids(&at);
            let turn = |x, inverse| {
                let table = RopeTable { cos: cos.view(), sin: sin.view(), layout, offset };
                room.backend.rope(x, room.column(&positions), &table, width, inverse);
            };
            let mut x = room.noise::<B::Act>(t, heads * width, 1);
            turn(x.out(), false);
            let mut d = room.noise::<B::Act>(t, heads * width, 2);
            turn(d.out(), true);
            room.expect(&what("forward"), &x, &definition(&x.at), 2);
            room.expect_slopes(&what("inverse"), &d, &x.at, |x| dot(&definition(x), &d.at), 2);
        }
    }
}
