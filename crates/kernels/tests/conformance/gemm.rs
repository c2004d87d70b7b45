//! The three products of a linear layer.

use crate::Checkable;
use crate::room::Room;
use kernels::{StoredDtype, Weight};

/// `a [m, k]`, `b [k, n]`.
fn product(a: &[f64], b: &[f64], (m, k, n): (usize, usize, usize)) -> Vec<f64> {
    let mut c = vec![0.0; m * n];
    for i in 0..m {
        for p in 0..k {
            (0..n).for_each(|j| c[i * n + j] += a[i * k + p] * b[p * n + j]);
        }
    }
    c
}

fn transpose(a: &[f64], rows: usize, cols: usize) -> Vec<f64> {
    (0..a.len()).map(|e| a[e % rows * cols + e / rows]).collect()
}

/// `alpha * product + before`.
fn scaled(alpha: f64, product: Vec<f64>, before: &[f64]) -> Vec<f64> {
    product.iter().zip(before).map(|(p, b)| alpha * p + b).collect()
}

/// Tokens, inputs, outputs: nothing, one, primes, one past a tile, adapters of rank 1 and 8, enough work for threads.
const SHAPES: [(usize, usize, usize); 13] = [
    (0, 3, 4),
    (2, 0, 5),
    (3, 4, 0),
    (1, 1, 1),
    (1, 65, 33),
    (2, 257, 131),
    (5, 64, 97),
    (17, 31, 67),
    (65, 129, 257),
    (67, 513, 1),
    (67, 513, 8),
    (67, 8, 513),
    (131, 41, 307),
];

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, i, o) in SHAPES {
        let what = |name: &str| format!("{name} of {t} rows, {i} to {o}");
        let (x, w, dy) = (room.noise::<B::Act>(t, i, 1), room.noise::<B::Real>(o, i, 2), room.noise::<B::Act>(t, o, 3));
        let weight = Weight::Param(w.view());

        let xw = product(&x.at, &transpose(&w.at, o, i), (t, i, o));
        let (mut y, mut y_sum) = (room.blank::<B::Act>(t, o), room.noise::<B::Act>(t, o, 4));
        room.backend.linear(1.0, x.view(), weight, y.out());
        room.expect(&what("linear"), &y, &xw, i);
        room.backend.linear(0.5, x.view(), weight, y_sum.acc());
        room.expect(&what("linear, added"), &y_sum, &scaled(0.5, xw, &y_sum.at), i);

        let dyw = product(&dy.at, &w.at, (t, o, i));
        let (mut dx, mut dx_sum) = (room.blank::<B::Act>(t, i), room.noise::<B::Act>(t, i, 5));
        room.backend.linear_dx(1.0, dy.view(), weight, dx.out());
        room.expect(&what("linear_dx"), &dx, &dyw, o);
        room.backend.linear_dx(-2.0, dy.view(), weight, dx_sum.acc());
        room.expect(&what("linear_dx, added"), &dx_sum, &scaled(-2.0, dyw, &dx_sum.at), o);

        let mut dw = room.noise::<B::Real>(o, i, 6);
        room.backend.linear_dw(0.25, dy.view(), x.view(), dw.acc());
        let dyx = product(&transpose(&dy.at, t, o), &x.at, (o, t, i));
        room.expect(&what("linear_dw"), &dw, &scaled(0.25, dyx, &dw.at), t);
    }
}

/// Every way to store a weight.
const ALL: [StoredDtype; 6] =
    [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16, StoredDtype::Mxfp4, StoredDtype::Code4, StoredDtype::Code8];

pub(crate) fn check_stored<B: Checkable>(room: &mut Room<B>) {
    // The last is taller than a panel of the CPU.
    for (t, i, o) in [(0, 3usize, 4), (1, 65, 33), (3, 31, 17), (9, 40, 131), (5, 301, 1801)] {
        for dtype in ALL {
            let i = if dtype == StoredDtype::Mxfp4 { i.next_multiple_of(dtype.block()) } else { i };
            let what = |name: &str| format!("{name} of {t} rows, {i} to {o} in {dtype:?}");
            let (stored, w) = room.stored(dtype, o, i, &testkit::noise(o * i, 1));
            let weight = Weight::Stored(&stored);
            let (x, dy) = (room.noise::<B::Act>(t, i, 2), room.noise::<B::Act>(t, o, 3));
            let xw = product(&x.at, &transpose(&w, o, i), (t, i, o));
            let dyw = product(&dy.at, &w, (t, o, i));
            let (mut y, mut dx) = (room.blank::<B::Act>(t, o), room.blank::<B::Act>(t, i));
            room.backend.linear(1.0, x.view(), weight, y.out());
            room.backend.linear_dx(1.0, dy.view(), weight, dx.out());
            room.expect(&what("linear"), &y, &xw, i);
            room.expect(&what("linear_dx"), &dx, &dyw, o);
            let (mut y, mut dx) = (room.noise::<B::Act>(t, o, 4), room.noise::<B::Act>(t, i, 5));
            room.backend.linear(0.5, x.view(), weight, y.acc());
            room.backend.linear_dx(0.5, dy.view(), weight, dx.acc());
            room.expect(&what("linear, added"), &y, &scaled(0.5, xw, &y.at), i);
            room.expect(&what("linear_dx, added"), &dx, &scaled(0.5, dyw, &dx.at), o);
        }
    }
    unusual_values(room);
}

/// Subnormal numbers, the largest ones, infinities and NaN keep their value when they are unpacked.
fn unusual_values<B: Checkable>(room: &mut Room<B>) {
    for dtype in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16] {
        let values: [f64; 12] = [
            0.0,
            -0.0,
            6e-8,
            -6e-8,
            6.1e-5,
            6.0e-5,
            65504.0,
            -65504.0,
            f64::INFINITY,
            f64::NEG_INFINITY,
            f64::NAN,
            1.0,
        ];
        let (stored, held) = room.stored(dtype, 3, 4, &values);
        let mut host: Vec<B::Real> = testkit::to(&[7.0; 12]);
        room.backend.stored_to_host(&stored, &mut host);
        let got: Vec<f64> = testkit::to(&host);
        assert!(
            got.iter().zip(&held).all(|(g, h)| g.to_bits() == h.to_bits() || (g.is_nan() && h.is_nan())),
            "{dtype:?}: {got:?} for {held:?}"
        );
    }
}
