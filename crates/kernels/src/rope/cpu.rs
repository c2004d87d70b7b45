//! In place, row by row.

use super::{Rope, RopeLayout, RopeTable};
use crate::cpu::simd::vectorise;
use crate::{Cpu, Out, Real, View};

impl<E: Real> Rope for Cpu<E> {
    fn rope(
        &self,
        x: Out<Self, E>,
        positions: View<Self, u32>,
        table: &RopeTable<Self>,
        head_width: usize,
        inverse: bool,
    ) {
        let half = table.cos.cols;
        assert!(2 * half <= head_width && x.cols % head_width == 0 && positions.cols == 1 && positions.rows == x.rows);
        let sign = if inverse { -E::ONE } else { E::ONE };
        let (cos, sin, layout) = (table.cos, table.sin, table.layout);
        self.each(x.row_chunks(32), |(first, mut x)| {
            vectorise(|| {
                for t in 0..x.rows {
                    let p = positions.row(first + t)[0] as usize;
                    let (cos, sin) = (cos.row(p), sin.row(p));
                    for head in x.row_mut(t).chunks_exact_mut(head_width) {
                        match layout {
                            RopeLayout::HalfSplit => {
                                let (a, b) = head[..2 * half].split_at_mut(half);
                                for i in 0..half {
                                    let (c, s) = (cos[i], sin[i] * sign);
                                    (a[i], b[i]) = (a[i] * c - b[i] * s, b[i] * c + a[i] * s);
                                }
                            }
                            RopeLayout::Interleaved => {
                                for (i, pair) in head[..2 * half].chunks_exact_mut(2).enumerate() {
                                    let (c, s) = (cos[i], sin[i] * sign);
                                    (pair[0], pair[1]) = (pair[0] * c - pair[1] * s, pair[1] * c + pair[0] * s);
                                }
                            }
                        }
                    }
                }
            });
        });
    }
}
