//! Copies, row by row.

use super::Latent;
use crate::{Cpu, Out, Real, View};

/// Rows handed to a thread at a time.
const ROWS: usize = 32;

/// Widths of a head's own key columns, of the shared ones, and of a value.
pub(super) fn widths(heads: usize, k: usize, v: usize, shared: usize, up: usize) -> [usize; 3] {
    assert!(heads > 0 && k.is_multiple_of(heads) && v.is_multiple_of(heads) && k / heads >= shared);
    let [own, w] = [k / heads - shared, v / heads];
    assert!(up == heads * (own + w), "{heads} heads of {own} + {w} in {up} columns");
    [own, shared, w]
}

impl<E: Real> Latent for Cpu<E> {
    fn latent_keys(&self, heads: usize, up: View<Self, E>, rotated: View<Self, E>, k: Out<Self, E>, v: Out<Self, E>) {
        assert!([up.rows, rotated.rows, v.rows].iter().all(|&r| r == k.rows));
        let [p, r, w] = widths(heads, k.cols, v.cols, rotated.cols, up.cols);
        let tasks = k.row_chunks(ROWS).into_iter().zip(v.row_chunks(ROWS)).collect();
        self.each(tasks, |((first, mut k), (_, mut v))| {
            for t in 0..k.rows {
                let (up, rotated) = (up.row(first + t), rotated.row(first + t));
                for (k, up) in k.row_mut(t).chunks_exact_mut(p + r).zip(up.chunks_exact(p + w)) {
                    k[..p].copy_from_slice(&up[..p]);
                    k[p..].copy_from_slice(rotated);
                }
                for (v, up) in v.row_mut(t).chunks_exact_mut(w).zip(up.chunks_exact(p + w)) {
                    v.copy_from_slice(&up[p..]);
                }
            }
        });
    }

    fn latent_keys_back(
        &self,
        heads: usize,
        dk: View<Self, E>,
        dv: View<Self, E>,
        dup: Out<Self, E>,
        drotated: Out<Self, E>,
    ) {
        assert!([dv.rows, dup.rows, drotated.rows].iter().all(|&r| r == dk.rows));
        let [p, r, w] = widths(heads, dk.cols, dv.cols, drotated.cols, dup.cols);
        let tasks = dup.row_chunks(ROWS).into_iter().zip(drotated.row_chunks(ROWS)).collect();
        self.each(tasks, |((first, mut dup), (_, mut drotated))| {
            for t in 0..dup.rows {
                let (dk, dv) = (dk.row(first + t), dv.row(first + t));
                let sum = drotated.row_mut(t);
                sum.fill(E::ZERO);
                for dk in dk.chunks_exact(p + r) {
                    sum.iter_mut().zip(&dk[p..]).for_each(|(s, d)| *s += *d);
                }
                let heads = dk.chunks_exact(p + r).zip(dv.chunks_exact(w));
                for (up, (dk, dv)) in dup.row_mut(t).chunks_exact_mut(p + w).zip(heads) {
                    up[..p].copy_from_slice(&dk[..p]);
                    up[p..].copy_from_slice(dv);
                }
            }
        });
    }
}
