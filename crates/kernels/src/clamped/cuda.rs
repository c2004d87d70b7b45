//! A thread per pair.

use super::{Clamp, ClampedGlu};
use crate::cuda::{Activation, Arg, Cuda, Source, count, entries};
use crate::{Out, View};

pub(crate) const SOURCE: Source = Source { name: "clamped", text: include_str!("kernel.cu") };

impl<A: Activation> ClampedGlu for Cuda<A> {
    fn clamped_glu(&self, clamp: Clamp, x: View<Self, A>, a: Out<Self, A>) {
        assert!(x.rows == a.rows && x.cols == 2 * a.cols, "[{}, {}] to [{}, {}]", x.rows, x.cols, a.rows, a.cols);
        let [alpha, limit] = [clamp.alpha, clamp.limit].map(|x| Arg::from(x as f32));
        let args = [x.into(), alpha, limit, count(a.cols), (&a).into()];
        self.launch(&SOURCE, "clamped_glu", entries(a.rows, a.cols), &args);
    }

    fn clamped_glu_back(&self, clamp: Clamp, x: View<Self, A>, da: View<Self, A>, dx: Out<Self, A>) {
        assert!(x.rows == da.rows && x.cols == 2 * da.cols && dx.rows == x.rows && dx.cols == x.cols);
        let [alpha, limit] = [clamp.alpha, clamp.limit].map(|x| Arg::from(x as f32));
        let args = [x.into(), da.into(), alpha, limit, count(da.cols), (&dx).into()];
        self.launch(&SOURCE, "clamped_glu_back", entries(da.rows, da.cols), &args);
    }
}
