//! Rows of a table in every storage, and their gradient.

use crate::Checkable;
use crate::room::Room;
use kernels::{StoredDtype, Weight};

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for (t, v, d) in [(0, 3, 5), (1, 1, 1), (65, 7, 31), (130, 41, 257)] {
        let what = |name: &str| format!("embed {name} of {t} tokens among {v}, width {d}");
        let tokens: Vec<u32> = (0..t).map(|i| (i * i % v) as u32).collect();
        let ids = room.ids(&tokens);
        let rows = |w: &[f64]| tokens.iter().flat_map(|&k| w[k as usize * d..][..d].to_vec()).collect::<Vec<f64>>();

        let w = room.noise::<B::Real>(v, d, 1);
        let mut x = room.blank::<B::Act>(t, d);
        room.backend.embed(room.column(&ids), Weight::Param(w.view()), x.out());
        room.expect(&what("parameters"), &x, &rows(&w.at), 1);
        for dtype in [StoredDtype::F32, StoredDtype::Bf16, StoredDtype::F16, StoredDtype::Code4] {
            let (stored, held) = room.stored(dtype, v, d, &testkit::noise(v * d, 2));
            let mut x = room.blank::<B::Act>(t, d);
            room.backend.embed(room.column(&ids), Weight::Stored(&stored), x.out());
            room.expect(&what(&format!("{dtype:?}")), &x, &rows(&held), 1);
        }

        let (dx, mut dw) = (room.noise::<B::Act>(t, d, 3), room.noise::<B::Real>(v, d, 4));
        room.backend.embed_back(room.column(&ids), dx.view(), dw.acc());
        let mut want = dw.at.clone();
        for (row, &k) in tokens.iter().enumerate() {
            (0..d).for_each(|c| want[k as usize * d + c] += dx.at[row * d + c]);
        }
        room.expect(&what("backward"), &dw, &want, t);
    }
}
