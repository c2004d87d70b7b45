//! Experts are independent tasks; inside one its product is the usual one, so the bits do not depend on the threads.

use super::{Grouped, Groups};
use crate::gemm::Gemm;
use crate::{Acc, Cpu, Out, Real, View};
use std::ops::Range;

/// Cuts a matrix at the borders of the groups, and leaves out empty ones.
fn cut<'a, E: Real>(out: Out<'a, Cpu<E>, E>, rows: &[Range<usize>]) -> Vec<(usize, Out<'a, Cpu<E>, E>)> {
    assert!(rows.last().map_or(0, |r| r.end) == out.rows, "groups end before row {}", out.rows);
    assert!(rows.iter().scan(0, |end, r| Some(std::mem::replace(end, r.end) == r.start)).all(|tiles| tiles));
    let piece = |r: &Range<usize>| Out { ptr: out.ptr.wrapping_add(r.start * out.ld), rows: r.len(), ..out };
    rows.iter().enumerate().filter(|(_, r)| !r.is_empty()).map(|(e, r)| (e, piece(r))).collect()
}

impl<E: Real> Grouped for Cpu<E> {
    fn grouped(&self, x: View<Self, E>, groups: &Groups<Self>, y: Out<Self, E>) {
        assert!(x.rows == y.rows && groups.weights.len() == groups.rows.len());
        self.each(cut(y, groups.rows), |(e, y)| {
            let (x, w) = (x.rows(groups.rows[e].clone()), groups.weights[e]);
            if groups.turned { self.linear_dx(1.0, x, w, y) } else { self.linear(1.0, x, w, y) }
        });
    }

    fn grouped_dx(&self, dy: View<Self, E>, groups: &Groups<Self>, dx: Out<Self, E>) {
        assert!(dy.rows == dx.rows && groups.weights.len() == groups.rows.len());
        self.each(cut(dx, groups.rows), |(e, dx)| {
            let (dy, w) = (dy.rows(groups.rows[e].clone()), groups.weights[e]);
            if groups.turned { self.linear(1.0, dy, w, dx) } else { self.linear_dx(1.0, dy, w, dx) }
        });
    }

    fn grouped_bias(&self, bias: View<Self, E>, rows: &[Range<usize>], scale: &[E], y: Acc<Self, E>) {
        let y = y.inner();
        assert!(bias.rows == rows.len() && bias.cols == y.cols && (scale.is_empty() || scale.len() == y.rows));
        self.each(cut(y, rows), |(e, mut y)| {
            for t in 0..y.rows {
                let c = scale.get(rows[e].start + t).copied().unwrap_or(E::ONE);
                E::add_scaled_row(c, bias.row(e), y.row_mut(t));
            }
        });
    }

    fn grouped_bias_back(&self, dy: View<Self, E>, rows: &[Range<usize>], scale: &[E], db: Acc<Self, E>) {
        assert!(db.shape() == (rows.len(), dy.cols) && (scale.is_empty() || scale.len() == dy.rows));
        self.each(db.inner().row_chunks(1), |(e, mut db)| {
            let mut sum = vec![E::ZERO; db.cols];
            for s in rows[e].clone() {
                E::add_scaled_row(scale.get(s).copied().unwrap_or(E::ONE), dy.row(s), &mut sum);
            }
            E::add_row(&sum, db.row_mut(0));
        });
    }
}
