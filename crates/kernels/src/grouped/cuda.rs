//! All experts in one launch, where their weights lie alike and each has few rows; else a product each. Biases in one launch.

use super::{Grouped, Groups};
use crate::cuda::{Activation, Arg, Cuda, Given, Grid, Lying, Source, blocks, column_sums, count, entries, shape};
use crate::gemm::Gemm;
use crate::{Acc, Out, View, Weight};
use std::ops::Range;

pub(crate) const SOURCE: Source = Source { name: "grouped", text: include_str!("kernel.cu") };

pub(crate) const PRODUCT: Source =
    Source { name: "grouped_product", text: concat!(include_str!("../cuda/codes.cuh"), include_str!("product.cu")) };
/// How weights lie, as the kernel is told it.
pub(crate) const WEIGHTS: [u32; 6] = [32, 16, 15, 8, 5, 4];

/// Rows and columns of a tile.
const TILE: usize = 64;
/// Rows an expert has on average, up to which starting a product for each takes longer than what cuBLASLt is faster by. Not measured yet.
const FEW_ROWS: usize = 128;

/// Checks that the groups tile the rows of a matrix.
fn check(rows: &[Range<usize>], all: usize) {
    assert!(rows.last().map_or(0, |r| r.end) == all, "groups end before row {all}");
    assert!(rows.iter().scan(0, |end, r| Some(std::mem::replace(end, r.end) == r.start)).all(|tiles| tiles));
}

/// Factors of rows; none mean 1.
fn factors(given: &Option<Given<f32>>) -> Arg {
    given.as_ref().map_or(Arg::from(0u64), Arg::from)
}

impl<A: Activation> Cuda<A> {
    /// All groups in one launch; `along`: weights lie as `[outputs, inputs]` of this product. `false`: nothing was done.
    fn grouped_at_once(&self, x: View<Self, A>, groups: &Groups<Self>, along: bool, y: &Out<Self, A>) -> bool {
        let live: Vec<(u32, Weight<'_, Self>, &Range<usize>)> = (0..)
            .zip(groups.weights.iter().zip(groups.rows))
            .filter(|(_, (_, rows))| !rows.is_empty())
            .map(|(e, (w, rows))| (e, *w, rows))
            .collect();
        let lying: Vec<Lying> = live.iter().map(|(_, w, _)| self.lying(*w)).collect();
        let Some(kind) = lying.first().map(|of| of.kind) else { return true };
        if lying.iter().any(|of| of.kind != kind) || y.rows > FEW_ROWS * live.len() {
            return false;
        }
        let (mut banks, mut tiles) = (vec![0u32; 6 * groups.rows.len()], Vec::new());
        for ((e, w, rows), Lying { address, ld, how, .. }) in live.iter().zip(&lying) {
            assert!(shape(*w) == if along { (y.cols, x.cols) } else { (x.cols, y.cols) });
            let halves = [*address, *ld as u64, *how].map(|x| [x as u32, (x >> 32) as u32]);
            banks[6 * *e as usize..][..6].copy_from_slice(halves.as_flattened());
            for first in (rows.start..rows.end).step_by(TILE) {
                tiles.extend([*e, first as u32, (first + TILE).min(rows.end) as u32]);
            }
        }
        let grid =
            Grid { blocks: [blocks(tiles.len() / 3), blocks(y.cols.div_ceil(TILE)), 1], threads: 128, shared: 0 };
        let (banks, tiles) = (self.given(&banks), self.given(&tiles));
        let turned = u32::from(!along).into();
        let args = [x.into(), (&banks).into(), (&tiles).into(), turned, count(x.cols), count(y.cols), Arg::from(y)];
        self.launch_with(&PRODUCT, "grouped_product", &[("WEIGHT", kind)], grid, &args);
        true
    }
}

impl<A: Activation> Grouped for Cuda<A> {
    fn grouped(&self, x: View<Self, A>, groups: &Groups<Self>, y: Out<Self, A>) {
        assert!(x.rows == y.rows && groups.weights.len() == groups.rows.len());
        check(groups.rows, y.rows);
        if self.grouped_at_once(x, groups, !groups.turned, &y) {
            return;
        }
        let mut y = y;
        for (w, rows) in groups.weights.iter().zip(groups.rows).filter(|(_, rows)| !rows.is_empty()) {
            let (x, y) = (x.rows(rows.clone()), y.again().rows(rows.clone()));
            if groups.turned { self.linear_dx(1.0, x, *w, y) } else { self.linear(1.0, x, *w, y) }
        }
    }

    fn grouped_dx(&self, dy: View<Self, A>, groups: &Groups<Self>, dx: Out<Self, A>) {
        assert!(dy.rows == dx.rows && groups.weights.len() == groups.rows.len());
        check(groups.rows, dx.rows);
        if self.grouped_at_once(dy, groups, groups.turned, &dx) {
            return;
        }
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
