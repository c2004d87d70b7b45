//! Products by groups of rows: empty groups, one row, both layouts, stored weights.

use crate::Checkable;
use crate::room::{Room, dot};
use kernels::{Groups, StoredDtype, Weight};
use std::ops::Range;

/// Rows of five experts.
fn groups(t: usize) -> [Range<usize>; 5] {
    let [a, b, c] = [t / 5, t / 5, t / 2];
    [0..a, a..b, b..c, c..t, t..t]
}

/// `x[s] W` or `x[s] Wᵀ` with `w` as `[e, rows, cols]`.
fn definition(
    x: &[f64],
    w: &[f64],
    groups: &[Range<usize>],
    (rows, cols): (usize, usize),
    transposed: bool,
) -> Vec<f64> {
    let (inputs, outputs) = if transposed { (cols, rows) } else { (rows, cols) };
    let mut y = Vec::new();
    for (e, group) in groups.iter().enumerate() {
        let w = &w[e * rows * cols..(e + 1) * rows * cols];
        for s in group.clone() {
            let x = &x[s * inputs..(s + 1) * inputs];
            for o in 0..outputs {
                let column: Vec<f64> =
                    (0..inputs).map(|i| if transposed { w[o * cols + i] } else { w[i * cols + o] }).collect();
                y.push(dot(x, &column));
            }
        }
    }
    y
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, i, o) in [(0, 3, 2), (1, 1, 1), (9, 5, 7), (70, 33, 40), (9, 32, 64)] {
        for turned in [false, true] {
            products(room, (t, i, o), turned);
        }
        biases(room, (t, o));
    }
}

fn products<B: Checkable>(room: &mut Room<B>, (t, i, o): (usize, usize, usize), turned: bool) {
    let what = |name: &str| format!("grouped {name}, {t} rows, {o} x {i}, turned {turned}");
    let rows = groups(t);
    let shape = if turned { (i, o) } else { (o, i) };
    let banks: Vec<_> = (0..rows.len()).map(|e| room.noise::<B::Real>(shape.0, shape.1, 40 + e as u64)).collect();
    let flat: Vec<f64> = banks.iter().flat_map(|b| b.at.clone()).collect();
    let (x, dy) = (room.noise::<B::Act>(t, i, 1), room.noise::<B::Act>(t, o, 2));
    let (mut y, mut dx) = (room.blank::<B::Act>(t, o), room.blank::<B::Act>(t, i));
    let all = Groups { weights: banks.iter().map(|b| Weight::Param(b.view())).collect(), rows: &rows, turned };
    room.backend.grouped(x.view(), &all, y.out());
    room.backend.grouped_dx(dy.view(), &all, dx.out());
    room.expect(&what("y"), &y, &definition(&x.at, &flat, &rows, shape, !turned), i);
    room.expect(&what("dx"), &dx, &definition(&dy.at, &flat, &rows, shape, turned), o);

    // Rows of that one are whole blocks.
    let blocks = i % 32 == 0 && o % 32 == 0;
    let dtypes = [StoredDtype::Bf16, StoredDtype::Code4, StoredDtype::Code8, StoredDtype::Mxfp4];
    for dtype in dtypes.into_iter().filter(|dtype| blocks || *dtype != StoredDtype::Mxfp4) {
        let (stored, held): (Vec<_>, Vec<_>) =
            banks.iter().map(|b| room.stored(dtype, shape.0, shape.1, &b.at)).unzip();
        let all = Groups { weights: stored.iter().map(Weight::Stored).collect(), rows: &rows, turned };
        let (mut y, mut dx) = (room.blank::<B::Act>(t, o), room.blank::<B::Act>(t, i));
        room.backend.grouped(x.view(), &all, y.out());
        room.backend.grouped_dx(dy.view(), &all, dx.out());
        room.expect(&what("y, stored"), &y, &definition(&x.at, &held.concat(), &rows, shape, !turned), i);
        room.expect(&what("dx, stored"), &dx, &definition(&dy.at, &held.concat(), &rows, shape, turned), o);
    }
}

fn biases<B: Checkable>(room: &mut Room<B>, (t, o): (usize, usize)) {
    let rows = groups(t);
    let expert = |s: usize| rows.iter().position(|r| r.contains(&s)).unwrap();
    let (bias, scale) = (room.noise::<B::Real>(5, o, 3), room.noise::<B::Real>(1, t, 4));
    for scaled in [false, true] {
        let what = |name: &str| format!("grouped bias {name}, {t} x {o}, scaled {scaled}");
        let factors: Vec<B::Real> = if scaled { testkit::to(&scale.at) } else { Vec::new() };
        let factor = |s: usize| if scaled { scale.at[s] } else { 1.0 };
        let mut y = room.noise::<B::Act>(t, o, 5);
        room.backend.grouped_bias(bias.view(), &rows, &factors, y.acc());
        let want = (0..t * o).map(|e| y.at[e] + factor(e / o) * bias.at[expert(e / o) * o + e % o]);
        room.expect(&what("y"), &y, &want.collect::<Vec<_>>(), 2);
        let (dy, mut db) = (room.noise::<B::Act>(t, o, 6), room.noise::<B::Real>(5, o, 7));
        room.backend.grouped_bias_back(dy.view(), &rows, &factors, db.acc());
        let sum = |e: usize, c: usize| rows[e].clone().map(|s| factor(s) * dy.at[s * o + c]).sum::<f64>();
        let want: Vec<f64> = (0..5 * o).map(|i| db.at[i] + sum(i / o, i % o)).collect();
        room.expect(&what("db"), &db, &want, t);
    }
}
