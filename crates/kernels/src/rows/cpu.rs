//! Plain loops; sums over rows split columns between threads, so that their order is fixed.

use super::RowOps;
use crate::cpu::simd::loops;
use crate::{Acc, Cpu, Out, Real, View};

/// Rows handed to a thread at a time.
const ROWS: usize = 64;
/// Columns handed to a thread at a time where rows are summed.
const COLS: usize = 256;

loops! {
    /// One row.
    trait RowLoops {
        fn add_row(x: &[E], y: &mut [E]) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += *x);
        }
        fn add_scaled_row(scale: E, x: &[E], y: &mut [E]) {
            y.iter_mut().zip(x).for_each(|(y, x)| *y += scale * *x);
        }
        fn scale_row(scale: E, y: &mut [E]) {
            y.iter_mut().for_each(|y| *y *= scale);
        }
        fn dropout_row(mask: Mask, x: &[E], y: &mut [E]) {
            let scale = E::of(mask.scale);
            for ((y, x), i) in y.iter_mut().zip(x).zip(0..) {
                *y = if mask.keeps(i) { *x * scale } else { E::ZERO };
            }
        }
        fn dropout_add_row(mask: Mask, x: &[E], y: &mut [E]) {
            let scale = E::of(mask.scale);
            for ((y, x), i) in y.iter_mut().zip(x).zip(0..) {
                *y += if mask.keeps(i) { *x * scale } else { E::ZERO };
            }
        }
    }
}

/// Which columns of a row dropout keeps: those whose hash is at least the threshold.
#[derive(Clone, Copy)]
pub struct Mask {
    /// Of key and row.
    hash: u32,
    threshold: u32,
    scale: f64,
}

impl Mask {
    fn new(p: f64, key: u64, row: u64) -> Mask {
        let hash = (mix(key ^ mix(row)) >> 32) as u32;
        Mask { hash, threshold: (p * (1u64 << 32) as f64) as u32, scale: 1.0 / (1.0 - p) }
    }

    #[inline(always)]
    fn keeps(self, column: u32) -> bool {
        mix_32(self.hash ^ mix_32(column)) >= self.threshold
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection that passes the usual avalanche tests.
pub(crate) fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// The finaliser of MurmurHash3 (Appleby 2011) over 32 bits, of which a vector register holds twice as many.
#[inline(always)]
fn mix_32(x: u32) -> u32 {
    let x = x.wrapping_add(0x9e37_79b9);
    let x = (x ^ (x >> 16)).wrapping_mul(0x85eb_ca6b);
    let x = (x ^ (x >> 13)).wrapping_mul(0xc2b2_ae35);
    x ^ (x >> 16)
}

impl<E: Real> RowOps for Cpu<E> {
    fn add(&self, x: View<Self, E>, y: Acc<Self, E>) {
        assert!(y.shape() == (x.rows, x.cols));
        self.each(y.inner().row_chunks(ROWS), |(first, mut y)| {
            (0..y.rows).for_each(|t| E::add_row(x.row(first + t), y.row_mut(t)))
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
            (0..y.rows).for_each(|t| E::add_row(bias.row(0), y.row_mut(t)))
        });
    }

    fn bias_back(&self, dy: View<Self, E>, db: Acc<Self, E>) {
        assert!(db.shape() == (1, dy.cols));
        self.each(db.inner().col_chunks(COLS), |(first, mut db)| {
            let mut sum = vec![E::ZERO; db.cols];
            (0..dy.rows).for_each(|t| E::add_row(&dy.row(t)[first..], &mut sum));
            E::add_row(&sum, db.row_mut(0));
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
        self.each(y.inner().col_chunks(COLS), |(first, mut y)| {
            for (s, &row) in rows.iter().enumerate() {
                let c = scale.get(s).copied().unwrap_or(E::ONE);
                E::add_scaled_row(c, &x.row(s)[first..], y.row_mut(row as usize));
            }
        });
    }

    fn dropout(&self, x: View<Self, E>, p: f64, key: u64, y: Out<Self, E>) {
        assert!(y.rows == x.rows && y.cols == x.cols);
        self.each(y.row_chunks(ROWS), |(first, mut y)| {
            for t in 0..y.rows {
                E::dropout_row(Mask::new(p, key, (first + t) as u64), x.row(first + t), y.row_mut(t));
            }
        });
    }

    fn dropout_add(&self, x: View<Self, E>, p: f64, key: u64, y: Acc<Self, E>) {
        assert!(y.shape() == (x.rows, x.cols));
        self.each(y.inner().row_chunks(ROWS), |(first, mut y)| {
            for t in 0..y.rows {
                E::dropout_add_row(Mask::new(p, key, (first + t) as u64), x.row(first + t), y.row_mut(t));
            }
        });
    }
}
