//! A few numbers per row and head.

use super::Sink;
use crate::{Acc, Cpu, Out, Real, View};

/// Rows handed to a thread at a time.
const ROWS: usize = 32;

impl<E: Real> Sink for Cpu<E> {
    fn sink(&self, sinks: View<Self, E>, o: Out<Self, E>, lse: Out<Self, E>) {
        let n = sinks.cols;
        assert!(sinks.rows == 1 && lse.cols == n && lse.rows == o.rows && n > 0 && o.cols.is_multiple_of(n));
        let width = o.cols / n;
        let tasks = o.row_chunks(ROWS).into_iter().zip(lse.row_chunks(ROWS)).collect();
        self.each(tasks, |((_, mut o), (_, mut lse))| {
            for t in 0..o.rows {
                let heads = o.row_mut(t).chunks_exact_mut(width).zip(lse.row_mut(t)).zip(sinks.row(0));
                for ((o, lse), s) in heads {
                    let max = s.max(*lse);
                    let (own, sink) = ((*lse - max).exp(), (*s - max).exp());
                    let share = own / (own + sink);
                    o.iter_mut().for_each(|o| *o *= share);
                    *lse = max + (own + sink).ln();
                }
            }
        });
    }

    fn sink_back(
        &self,
        sinks: View<Self, E>,
        o: View<Self, E>,
        d_o: View<Self, E>,
        lse: View<Self, E>,
        dsinks: Acc<Self, E>,
    ) {
        let n = sinks.cols;
        assert!(dsinks.shape() == (1, n) && lse.cols == n && o.cols.is_multiple_of(n) && o.cols == d_o.cols);
        assert!(o.rows == d_o.rows && lse.rows == o.rows);
        let width = o.cols / n;
        self.each(dsinks.inner().col_chunks(1), |(head, mut dsink)| {
            let at = head * width..(head + 1) * width;
            let mut sum = E::ZERO;
            for t in 0..o.rows {
                let share = (sinks.row(0)[head] - lse.row(t)[head]).exp();
                sum += share * E::dot(&d_o.row(t)[at.clone()], &o.row(t)[at.clone()]);
            }
            dsink.row_mut(0)[0] += -sum;
        });
    }
}
