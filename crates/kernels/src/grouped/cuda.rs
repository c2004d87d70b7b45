//! A product per expert that has rows; biases in one launch.

use super::{Grouped, Groups};
use crate::cuda::{Activation, Arg, Cuda, Grid, Source, blocks, column_sums, count, entries};
use crate::gemm::Gemm;
use crate::{Acc, Mat, Out, View};
use std::ops::Range;

pub(crate) const SOURCE: Source = Source { name: "grouped", text: include_str!("kernel.cu") };

/// Checks that the groups tile the rows of a matrix.
fn check(rows: &[Range<usize>], all: usize) {
    assert!(rows.last().map_or(0, |r| r.end) == all, "groups end before row {all}");
    assert!(rows.iter().scan(0, |end, r| Some(std::mem::replace(end, r.end) == r.start)).all(|tiles| tiles));
}

/// Factors of rows; none mean 1.
fn factors<A: Activation>(given: &Option<Mat<Cuda<A>, f32>>) -> Arg {
    given.as_ref().map_or(Arg::from(0u64), Arg::from)
}

impl<A: Activation> Grouped for Cuda<A> {
    fn grouped(&self, x: View<Self, A>, groups: &Groups<Self>, y: Out<Self, A>) {
        assert!(x.rows == y.rows && groups.weights.len() == groups.rows.len());
        check(groups.rows, y.rows);
        let mut y = y;
        for (w, rows) in groups.weights.iter().zip(groups.rows).filter(|(_, rows)| !rows.is_empty()) {
            let (x, y) = (x.rows(rows.clone()), y.again().rows(rows.clone()));
            if groups.turned { self.linear_dx(1.0, x, *w, y) } else { self.linear(1.0, x, *w, y) }
        }
    }

    fn grouped_dx(&self, dy: View<Self, A>, groups: &Groups<Self>, dx: Out<Self, A>) {
        assert!(dy.rows == dx.rows && groups.weights.len() == groups.rows.len());
        check(groups.rows, dx.rows);
        let mut dx = dx;
        for (w, rows) in groups.weights.iter().zip(groups.rows).filter(|(_, rows)| !rows.is_empty()) {
            let (dy, dx) = (dy.rows(rows.clone()), dx.again().rows(rows.clone()));
            if groups.turned { self.linear(1.0, dy, *w, dx) } else { self.linear_dx(1.0, dy, *w, dx) }
        }
    }

    fn grouped_bias(&self, bias: View<Self, f32>, rows: &[Range<usize>], scale: &[f32], y: Acc<Self, A>) {
        let (all, cols) = y.shape();
        assert!(bias.rows == rows.len() && bias.cols == cols && (scale.is_empty() || scale.len() == all));
        check(rows, all);
        let expert: Vec<u32> = rows.iter().zip(0..).flat_map(|(r, e)| std::iter::repeat_n(e, r.len())).collect();
        let (expert, scale) = (self.given(&expert), (!scale.is_empty()).then(|| self.given(scale)));
        let args = [bias.into(), (&expert).into(), factors(&scale), count(cols), (&y.0).into()];
        self.launch(&SOURCE, "grouped_bias", entries(all, cols), &args);
    }

    fn grouped_bias_back(&self, dy: View<Self, A>, rows: &[Range<usize>], scale: &[f32], db: Acc<Self, f32>) {
        assert!(db.shape() == (rows.len(), dy.cols) && (scale.is_empty() || scale.len() == dy.rows));
        let runs: Vec<u32> = rows.iter().flat_map(|r| [r.start as u32, r.end as u32]).collect();
        let (runs, scale) = (self.given(&runs), (!scale.is_empty()).then(|| self.given(scale)));
        let Grid { blocks: [columns, ..], threads, shared } = column_sums(dy.cols);
        let grid = Grid { blocks: [columns, blocks(rows.len()), 1], threads, shared };
        let args = [dy.into(), (&runs).into(), factors(&scale), count(dy.cols), (&db.0).into()];
        self.launch(&SOURCE, "grouped_bias_back", grid, &args);
    }
}
