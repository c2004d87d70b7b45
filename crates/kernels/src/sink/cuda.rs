//! A block per row and head; backward a block per head.

use super::Sink;
use crate::cuda::{Activation, Cuda, Grid, Source, blocks, count, rows};
use crate::{Acc, Out, View};

pub(crate) const SOURCE: Source = Source { name: "sink", text: include_str!("kernel.cu") };

impl<A: Activation> Sink for Cuda<A> {
    fn sink(&self, sinks: View<Self, f32>, o: Out<Self, A>, lse: Out<Self, f32>) {
        let n = sinks.cols;
        assert!(sinks.rows == 1 && lse.cols == n && lse.rows == o.rows && n > 0 && o.cols.is_multiple_of(n));
        let Grid { blocks: [t, ..], threads, shared } = rows(o.rows, o.cols / n);
        let grid = Grid { blocks: [t, blocks(n), 1], threads, shared };
        self.launch(&SOURCE, "sink", grid, &[sinks.into(), count(o.cols / n), (&o).into(), (&lse).into()]);
    }

    fn sink_back(
        &self,
        sinks: View<Self, f32>,
        o: View<Self, A>,
        d_o: View<Self, A>,
        lse: View<Self, f32>,
        dsinks: Acc<Self, f32>,
    ) {
        let n = sinks.cols;
        assert!(dsinks.shape() == (1, n) && lse.cols == n && o.cols.is_multiple_of(n) && o.cols == d_o.cols);
        assert!(o.rows == d_o.rows && lse.rows == o.rows);
        let grid = Grid { blocks: [blocks(n), 1, 1], threads: 256, shared: 0 };
        let (rows, width) = (count(o.rows), count(o.cols / n));
        let args = [sinks.into(), o.into(), d_o.into(), lse.into(), rows, width, (&dsinks.0).into()];
        self.launch(&SOURCE, "sink_back", grid, &args);
    }
}
