//! Keys and values of latent attention.

use crate::Checkable;
use crate::room::{Room, dot};

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, n, [p, r, w]) in [(0, 2, [3, 2, 1]), (1, 1, [1, 2, 1]), (5, 3, [4, 2, 7]), (40, 4, [16, 8, 12])] {
        let what = |name: &str| format!("latent {name}, {t} rows, {n} heads of {p} + {r}, {w}");
        let (up, rotated) = (room.noise::<B::Act>(t, n * (p + w), 1), room.noise::<B::Act>(t, r, 2));
        let keys = |up: &[f64], rotated: &[f64]| -> Vec<f64> {
            let head =
                |h: usize| [&up[h / n * n * (p + w) + h % n * (p + w)..][..p], &rotated[h / n * r..][..r]].concat();
            (0..t * n).flat_map(head).collect()
        };
        let values = |up: &[f64]| -> Vec<f64> { up.chunks(p + w).flat_map(|head| head[p..].to_vec()).collect() };
        let (mut k, mut v) = (room.blank::<B::Act>(t, n * (p + r)), room.blank::<B::Act>(t, n * w));
        room.backend.latent_keys(n, up.view(), rotated.view(), k.out(), v.out());
        room.expect_exactly(&what("k"), &k, &keys(&up.at, &rotated.at));
        room.expect_exactly(&what("v"), &v, &values(&up.at));

        let (dk, dv) = (room.noise::<B::Act>(t, n * (p + r), 3), room.noise::<B::Act>(t, n * w, 4));
        let (mut dup, mut drotated) = (room.blank::<B::Act>(t, n * (p + w)), room.blank::<B::Act>(t, r));
        room.backend.latent_keys_back(n, dk.view(), dv.view(), dup.out(), drotated.out());
        let loss = |up: &[f64], rotated: &[f64]| dot(&keys(up, rotated), &dk.at) + dot(&values(up), &dv.at);
        room.expect_slopes(&what("dup"), &dup, &up.at, |up| loss(up, &rotated.at), n);
        room.expect_slopes(&what("drotated"), &drotated, &rotated.at, |r| loss(&up.at, r), n);
    }
}
