//! A thread per entry; dot products a block per row.

use super::Scale;
use crate::cuda::{Activation, Arg, Cuda, Source, count, entries, line, rows};
use crate::{Memory, Out, View};

pub(crate) const SOURCE: Source = Source { name: "scale", text: include_str!("kernel.cu") };

impl<A: Activation> Scale for Cuda<A> {
    fn scale(&self, alpha: f64, y: Out<Self, A>) {
        let args = [Arg::from(alpha as f32), count(y.cols), (&y).into()];
        self.launch(&SOURCE, "scale_all", entries(y.rows, y.cols), &args);
    }

    fn scale_rows(&self, scale: &[f32], y: Out<Self, A>) {
        assert!(scale.len() == y.rows, "{} factors for {} rows", scale.len(), y.rows);
        let given = self.given(scale);
        self.launch(&SOURCE, "scale_rows", entries(y.rows, y.cols), &[(&given).into(), count(y.cols), (&y).into()]);
    }

    fn row_dots(&self, a: View<Self, A>, b: View<Self, A>) -> Vec<f32> {
        assert!(a.rows == b.rows && a.cols == b.cols, "[{}, {}] . [{}, {}]", a.rows, a.cols, b.rows, b.cols);
        let dots = self.mat::<f32>(1, a.rows);
        let args = [a.into(), b.into(), count(a.cols), (&dots).into()];
        self.launch(&SOURCE, "row_dots", rows(a.rows, a.cols), &args);
        self.to_host(dots.view())
    }

    fn sigmoids(&self, x: View<Self, A>) -> Vec<f32> {
        assert!(x.cols == 1, "{} columns", x.cols);
        let y = self.mat::<f32>(1, x.rows);
        self.launch(&SOURCE, "sigmoids", line(x.rows), &[x.into(), Arg::from(x.rows as u64), (&y).into()]);
        self.to_host(y.view())
    }

    fn column(&self, values: &[f32], y: Out<Self, A>) {
        assert!(y.cols == 1 && y.rows == values.len());
        let given = self.given(values);
        self.launch(&SOURCE, "column", line(y.rows), &[(&given).into(), Arg::from(y.rows as u64), (&y).into()]);
    }

    fn one_plus(&self, w: View<Self, f32>, y: Out<Self, f32>) {
        assert!(w.rows == 1 && y.rows == 1 && w.cols == y.cols);
        self.launch(&SOURCE, "one_plus", line(w.cols), &[w.into(), count(w.cols), (&y).into()]);
    }
}
