//! Plain loops; sums over rows split columns between threads, so that their order is fixed.

use super::RowOps;
use crate::cpu::simd::vectorise;
use crate::{Acc, Cpu, Out, Real, View};

const ROWS: usize = 64;

impl<E: Real> RowOps for Cpu<E> {
    fn add(&self, x: View<Self, E>, y: Acc<Self, E>) {
        assert!(y.shape() == (x.rows, x.cols));
        self.each(y.inner().row_chunks(ROWS), |(first, mut y)| {
            vectorise(|| {
                (0..y.rows).for_each(|t| y.row_mut(t).iter_mut().zip(x.row(first + t)).for_each(|(y, x)| *y += *x))
            });
        });
    }

    fn copy(&self, x: View<Self, E>, y: Out<Self, E>) {
        assert!(y.rows == x.rows && y.cols == x.cols);
        self.each(y.row_chunks(ROWS), |(first, mut y)| {
            (0..y.rows).for_each(|t| y.row_mut(t).copy_from_slice(x.row(first + t)))
        });
    }

    fn add_bias(&self, bias: View<Self, E>, y: Acc<Self, E>) {
        assert!(bias.rows == 1 && bias.cols == y.shape().1);
        self.each(y.inner().row_chunks(ROWS), |(_, mut y)| {
            vectorise(|| {
                (0..y.rows).for_each(|t| y.row_mut(t).iter_mut().zip(bias.row(0)).for_each(|(y, b)| *y += *b))
            });
        });
    }

    fn bias_back(&self, dy: View<Self, E>, db: Acc<Self, E>) {
        assert!(db.shape() == (1, dy.cols));
        self.each(db.inner().col_chunks(64), |(first, mut db)| {
            let mut sum = vec![E::ZERO; db.cols];
            for t in 0..dy.rows {
                sum.iter_mut().zip(&dy.row(t)[first..]).for_each(|(s, d)| *s += *d);
            }
            db.row_mut(0).iter_mut().zip(&sum).for_each(|(d, s)| *d += *s);
        });
    }

    fn gather(&self, x: View<Self, E>, rows: &[u32], y: Out<Self, E>) {
        assert!(y.rows == rows.len() && y.cols == x.cols);
        self.each(y.row_chunks(ROWS), |(first, mut y)| {
            (0..y.rows).for_each(|s| y.row_mut(s).copy_from_slice(x.row(rows[first + s] as usize)))
        });
    }

    fn scatter(&self, x: View<Self, E>, rows: &[u32], mut y: Out<Self, E>) {
        assert!(x.rows == rows.len() && y.cols == x.cols);
        rows.iter().enumerate().for_each(|(s, &row)| y.row_mut(row as usize).copy_from_slice(x.row(s)));
    }

    fn scatter_add(&self, x: View<Self, E>, rows: &[u32], scale: &[E], y: Acc<Self, E>) {
        assert!(x.rows == rows.len() && y.shape().1 == x.cols && (scale.is_empty() || scale.len() == rows.len()));
        self.each(y.inner().col_chunks(256), |(first, mut y)| {
            for (s, &row) in rows.iter().enumerate() {
                let c = scale.get(s).copied().unwrap_or(E::ONE);
                y.row_mut(row as usize).iter_mut().zip(&x.row(s)[first..]).for_each(|(y, x)| *y += c * *x);
            }
        });
    }

    fn dropout(&self, x: View<Self, E>, p: f64, key: u64, y: Out<Self, E>) {
        assert!(y.rows == x.rows && y.cols == x.cols);
        self.each(y.row_chunks(ROWS), |(first, mut y)| {
            for t in 0..y.rows {
                let keep = kept::<E>(p, key, (first + t) as u64);
                y.row_mut(t).iter_mut().zip(x.row(first + t)).enumerate().for_each(|(i, (y, x))| *y = *x * keep(i));
            }
        });
    }

    fn dropout_add(&self, x: View<Self, E>, p: f64, key: u64, y: Acc<Self, E>) {
        assert!(y.shape() == (x.rows, x.cols));
        self.each(y.inner().row_chunks(ROWS), |(first, mut y)| {
            for t in 0..y.rows {
                let keep = kept::<E>(p, key, (first + t) as u64);
                y.row_mut(t).iter_mut().zip(x.row(first + t)).enumerate().for_each(|(i, (y, x))| *y += *x * keep(i));
            }
        });
    }
}

/// The factor of column `i`: `1 / (1 - p)` where the hash keeps it, else 0.
fn kept<E: Real>(p: f64, key: u64, row: u64) -> impl Fn(usize) -> E {
    let threshold = (p * (1u64 << 32) as f64) as u64;
    let scale = E::of(1.0 / (1.0 - p));
    let start = mix(key ^ mix(row));
    move |i| if mix(start.wrapping_add(i as u64)) >> 32 >= threshold { scale } else { E::ZERO }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that passes the usual avalanche tests.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}
