//! Movement and addition of rows, and dropout.

use crate::Checkable;
use crate::room::{Room, plus};
use testkit::to;

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, d) in [(0, 4), (1, 1), (65, 31), (7, 257), (130, 33)] {
        addition(room, t, d);
        movement(room, t, d);
        dropout(room, t, d);
    }
    statistics(room);
}

fn addition<B: Checkable>(room: &mut Room<B>, t: usize, d: usize) {
    let what = |name: &str| format!("{name} {t} x {d}");
    let (x, bias) = (room.noise::<B::Act>(t, d, 1), room.noise::<B::Real>(1, d, 2));
    let mut y = room.noise::<B::Act>(t, d, 3);
    room.backend.add(x.view(), y.acc());
    room.expect(&what("add"), &y, &plus(&x.at, &y.at), 1);

    let mut y = room.noise::<B::Act>(t, d, 3);
    room.backend.add_bias(bias.view(), y.acc());
    let repeated: Vec<f64> = bias.at.iter().copied().cycle().take(t * d).collect();
    room.expect(&what("add_bias"), &y, &plus(&repeated, &y.at), 1);

    let mut db = room.noise::<B::Real>(1, d, 4);
    room.backend.bias_back(x.view(), db.acc());
    let sums: Vec<f64> = (0..d).map(|c| db.at[c] + (0..t).map(|i| x.at[i * d + c]).sum::<f64>()).collect();
    room.expect(&what("bias_back"), &db, &sums, t);
}

fn movement<B: Checkable>(room: &mut Room<B>, t: usize, d: usize) {
    let what = |name: &str| format!("{name} {t} x {d}");
    let x = room.noise::<B::Act>(t, d, 1);
    let mut y = room.blank::<B::Act>(t, d);
    room.backend.copy(x.view(), y.out());
    room.expect_exactly(&what("copy"), &y, &x.at);

    let picked: Vec<u32> = (0..2 * t).map(|s| (s * s % t.max(1)) as u32).collect();
    let mut y = room.blank::<B::Act>(2 * t, d);
    room.backend.gather(x.view(), &picked, y.out());
    let rows: Vec<f64> = picked.iter().flat_map(|&r| x.at[r as usize * d..][..d].to_vec()).collect();
    room.expect_exactly(&what("gather"), &y, &rows);

    // Every second row of a matrix twice as high, from the last to the first.
    let places: Vec<u32> = (0..t).rev().map(|s| 2 * s as u32).collect();
    let mut y = room.noise::<B::Act>(2 * t, d, 5);
    let mut want = y.at.clone();
    room.backend.scatter(x.view(), &places, y.out());
    for (s, &r) in places.iter().enumerate() {
        want[r as usize * d..][..d].copy_from_slice(&x.at[s * d..][..d]);
    }
    room.expect_exactly(&what("scatter"), &y, &want);

    let (x, scale) = (room.noise::<B::Act>(2 * t, d, 6), room.noise::<B::Real>(1, 2 * t, 7));
    for weighted in [false, true] {
        let mut y = room.noise::<B::Act>(t, d, 8);
        let mut want = y.at.clone();
        let factors: Vec<B::Real> = if weighted { to(&scale.at) } else { Vec::new() };
        room.backend.scatter_add(x.view(), &picked, &factors, y.acc());
        for (s, &r) in picked.iter().enumerate() {
            let factor = if weighted { scale.at[s] } else { 1.0 };
            (0..d).for_each(|c| want[r as usize * d + c] += factor * x.at[s * d + c]);
        }
        room.expect(&what("scatter_add"), &y, &want, 2 * t);
    }
}

fn dropped<B: Checkable>(room: &Room<B>, t: usize, d: usize, p: f64, key: u64) -> Vec<f64> {
    let x = room.of::<B::Act>(t, d, &vec![1.0; t * d]);
    let mut y = room.blank::<B::Act>(t, d);
    room.backend.dropout(x.view(), p, key, y.out());
    to(&room.read("dropout", &y))
}

fn dropout<B: Checkable>(room: &mut Room<B>, t: usize, d: usize) {
    const P: f64 = 0.25;
    let mask = dropped(room, t, d, P, 99);
    let kept: f64 = to::<f64, B::Act>(&to(&[1.0 / (1.0 - P)]))[0];
    assert!(mask.iter().all(|&m| m == 0.0 || m == kept), "dropout keeps an entry whole or not at all");
    let x = room.noise::<B::Act>(t, d, 1);
    let want: Vec<f64> = x.at.iter().zip(&mask).map(|(x, m)| x * m).collect();
    let mut y = room.blank::<B::Act>(t, d);
    room.backend.dropout(x.view(), P, 99, y.out());
    room.expect(&format!("dropout {t} x {d}"), &y, &want, 1);
    let mut y = room.noise::<B::Act>(t, d, 2);
    room.backend.dropout_add(x.view(), P, 99, y.acc());
    room.expect(&format!("dropout_add {t} x {d}"), &y, &plus(&want, &y.at), 1);
    let mut y = room.blank::<B::Act>(t, d);
    room.backend.dropout(x.view(), 0.0, 99, y.out());
    room.expect_exactly("dropout of nothing", &y, &x.at);
}

/// Shares of dropped entries, alone and of two masks at once, within four standard deviations.
fn statistics<B: Checkable>(room: &mut Room<B>) {
    let (t, d) = (200, 501);
    for p in [0.05, 0.5, 0.9] {
        let mask = dropped(room, t, d, p, 7);
        let share = |what: &str, hit: &dyn Fn(usize) -> bool, n: usize, expected: f64| {
            let found = (0..n).filter(|&i| hit(i)).count() as f64 / n as f64;
            let deviation = (expected * (1.0 - expected) / n as f64).sqrt();
            assert!((found - expected).abs() < 4.0 * deviation, "{what} at p = {p}: {found} for {expected}");
        };
        share("dropped", &|i| mask[i] == 0.0, t * d, p);
        share("dropped with the next column", &|i| mask[i] == 0.0 && mask[i + 1] == 0.0, t * d - 1, p * p);
        share("dropped with the next row", &|i| mask[i] == 0.0 && mask[i + d] == 0.0, (t - 1) * d, p * p);
        let other = dropped(room, t, d, p, 8);
        share("dropped under two keys", &|i| mask[i] == 0.0 && other[i] == 0.0, t * d, p * p);
        room.computed.extend(mask);
    }
}
