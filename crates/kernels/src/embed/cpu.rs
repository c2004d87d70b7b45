//! Rows copied forward; backward splits columns between threads, so that a row met twice is added in a fixed order.

use super::Embed;
use crate::gemm::Weight;
use crate::gemm::cpu::direct;
use crate::{Acc, Cpu, Out, Real, View};

impl<E: Real> Embed for Cpu<E> {
    fn embed(&self, tokens: View<Self, u32>, w: Weight<Self>, x: Out<Self, E>) {
        assert!(tokens.cols == 1 && tokens.rows == x.rows);
        let table = direct(w);
        self.each(x.row_chunks(64), |(first, mut x)| {
            for t in 0..x.rows {
                let token = tokens.row(first + t)[0] as usize;
                match table {
                    Ok(w) => x.row_mut(t).copy_from_slice(w.row(token)),
                    Err(stored) => stored.unpack(token..token + 1, x.row_mut(t)),
                }
            }
        });
    }

    fn embed_back(&self, tokens: View<Self, u32>, dx: View<Self, E>, dw: Acc<Self, E>) {
        assert!(tokens.cols == 1 && tokens.rows == dx.rows && dw.shape().1 == dx.cols);
        self.each(dw.inner().col_chunks(256), |(first, mut dw)| {
            for t in 0..dx.rows {
                E::add_row(&dx.row(t)[first..], dw.row_mut(tokens.row(t)[0] as usize));
            }
        });
    }
}
