//! In place, row by row.

use super::{Rope, RopeLayout, RopeTable};
use crate::cpu::simd::loops;
use crate::{Cpu, Out, Real, View};

loops! {
    /// One row, head by head.
    trait RopeLoops {
        fn rope_half_split_row(x: &mut [E], place: (usize, usize), cos: &[E], sin: &[E], sign: E) {
            let ((head_width, offset), half) = (place, cos.len());
            for head in x.chunks_exact_mut(head_width) {
                let (a, b) = head[offset..offset + 2 * half].split_at_mut(half);
                for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
                    let s = *s * sign;
                    (*a, *b) = (*a * *c - *b * s, *b * *c + *a * s);
                }
            }
        }
        fn rope_interleaved_row(x: &mut [E], place: (usize, usize), cos: &[E], sin: &[E], sign: E) {
            let (head_width, offset) = place;
            for head in x.chunks_exact_mut(head_width) {
                for ((pair, c), s) in head[offset..].chunks_exact_mut(2).zip(cos).zip(sin) {
                    let s = *s * sign;
                    (pair[0], pair[1]) = (pair[0] * *c - pair[1] * s, pair[1] * *c + pair[0] * s);
                }
            }
        }
    }
}

impl<E: Real> Rope for Cpu<E> {
    fn rope(
        &self,
        x: Out<Self, E>,
        positions: View<Self, u32>,
        table: &RopeTable<Self>,
        head_width: usize,
        inverse: bool,
    ) {
        let (cos, sin) = (table.cos, table.sin);
        assert!(table.offset + 2 * cos.cols <= head_width && sin.cols == cos.cols && x.cols.is_multiple_of(head_width));
        assert!(positions.cols == 1 && positions.rows == x.rows);
        let sign = if inverse { -E::ONE } else { E::ONE };
        let rotate = match table.layout {
            RopeLayout::HalfSplit => E::rope_half_split_row,
            RopeLayout::Interleaved => E::rope_interleaved_row,
        };
        self.each(x.row_chunks(32), |(first, mut x)| {
            for t in 0..x.rows {
                let p = positions.row(first + t)[0] as usize;
                rotate(x.row_mut(t), (head_width, table.offset), cos.row(p), sin.row(p), sign);
            }
        });
    }
}
