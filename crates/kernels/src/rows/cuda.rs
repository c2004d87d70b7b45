//! A thread per entry; rows that are added into one place are sorted on the host, so that their order is fixed.

use super::RowOps;
use crate::cuda::{Activation, Arg, Cuda, Source, column_sums, count, entries};
use crate::{Acc, Out, View};

pub(crate) const SOURCE: Source = Source { name: "rows", text: include_str!("kernel.cu") };

impl<A: Activation> Cuda<A> {
    fn masked(&self, x: View<Self, A>, p: f64, key: u64, y: &Out<Self, A>, add: bool) {
        assert!(y.rows == x.rows && y.cols == x.cols);
        let (threshold, scale) = ((p * (1u64 << 32) as f64) as u32, (1.0 / (1.0 - p)) as f32);
        let args =
            [x.into(), key.into(), threshold.into(), scale.into(), count(x.cols), u32::from(add).into(), y.into()];
        self.launch(&SOURCE, "dropout", entries(x.rows, x.cols), &args);
    }
}

/// Rows that are added into, each with the number of its first source, and one past the last; and the sources, by row and in order.
fn sorted(rows: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let mut sources: Vec<u32> = (0..rows.len() as u32).collect();
    sources.sort_by_key(|&s| rows[s as usize]);
    let mut places = Vec::new();
    for (k, &s) in sources.iter().enumerate() {
        let row = rows[s as usize];
        if k == 0 || rows[sources[k - 1] as usize] != row {
            places.extend([row, k as u32]);
        }
    }
    places.extend([0, rows.len() as u32]);
    (places, sources)
}

impl<A: Activation> RowOps for Cuda<A> {
    fn add(&self, x: View<Self, A>, y: Acc<Self, A>) {
        assert!(y.shape() == (x.rows, x.cols));
        self.launch(&SOURCE, "add_rows", entries(x.rows, x.cols), &[x.into(), count(x.cols), (&y.0).into()]);
    }

    fn copy(&self, x: View<Self, A>, y: Out<Self, A>) {
        assert!(y.rows == x.rows && y.cols == x.cols);
        self.launch(&SOURCE, "copy_rows", entries(x.rows, x.cols), &[x.into(), count(x.cols), (&y).into()]);
    }

    fn add_bias(&self, bias: View<Self, f32>, y: Acc<Self, A>) {
        let (rows, cols) = y.shape();
        assert!(bias.rows == 1 && bias.cols == cols);
        self.launch(&SOURCE, "add_bias", entries(rows, cols), &[bias.into(), count(cols), (&y.0).into()]);
    }

    fn bias_back(&self, dy: View<Self, A>, db: Acc<Self, f32>) {
        assert!(db.shape() == (1, dy.cols));
        let args = [dy.into(), count(dy.rows), count(dy.cols), (&db.0).into()];
        self.launch(&SOURCE, "bias_back", column_sums(dy.cols), &args);
    }

    fn gather(&self, x: View<Self, A>, rows: &[u32], y: Out<Self, A>) {
        assert!(y.rows == rows.len() && y.cols == x.cols);
        let given = self.given(rows);
        let args = [x.into(), (&given).into(), count(x.cols), (&y).into()];
        self.launch(&SOURCE, "gather", entries(y.rows, y.cols), &args);
    }

    fn scatter(&self, x: View<Self, A>, rows: &[u32], y: Out<Self, A>) {
        assert!(x.rows == rows.len() && y.cols == x.cols);
        let given = self.given(rows);
        let args = [x.into(), (&given).into(), count(x.cols), (&y).into()];
        self.launch(&SOURCE, "scatter", entries(x.rows, x.cols), &args);
    }

    fn scatter_add(&self, x: View<Self, A>, rows: &[u32], scale: &[f32], y: Acc<Self, A>) {
        assert!(x.rows == rows.len() && y.shape().1 == x.cols && (scale.is_empty() || scale.len() == rows.len()));
        let (places, sources) = sorted(rows);
        let grid = entries(places.len() / 2 - 1, x.cols);
        let (places, sources) = (self.given(&places), self.given(&sources));
        let factors = (!scale.is_empty()).then(|| self.given(scale));
        let scale = factors.as_ref().map_or(Arg::from(0u64), Arg::from);
        let args = [x.into(), (&places).into(), (&sources).into(), scale, count(x.cols), (&y.0).into()];
        self.launch(&SOURCE, "scatter_add", grid, &args);
    }

    fn dropout(&self, x: View<Self, A>, p: f64, key: u64, y: Out<Self, A>) {
        self.masked(x, p, key, &y, false);
    }

    fn dropout_add(&self, x: View<Self, A>, p: f64, key: u64, y: Acc<Self, A>) {
        self.masked(x, p, key, &y.0, true);
    }
}
