//! A thread per entry.

use super::GeGlu;
use crate::cuda::{Activation, Cuda, Source, count, entries};
use crate::{Out, View};

pub(crate) const SOURCE: Source = Source { name: "geglu", text: include_str!("kernel.cu") };

impl<A: Activation> GeGlu for Cuda<A> {
    fn geglu(&self, gate: View<Self, A>, up: View<Self, A>, a: Out<Self, A>) {
        assert!(gate.rows == a.rows && up.rows == a.rows && gate.cols == a.cols && up.cols == a.cols);
        let args = [gate.into(), up.into(), count(a.cols), (&a).into()];
        self.launch(&SOURCE, "geglu", entries(a.rows, a.cols), &args);
    }

    fn geglu_back(
        &self,
        gate: View<Self, A>,
        up: View<Self, A>,
        da: View<Self, A>,
        dgate: Out<Self, A>,
        dup: Out<Self, A>,
    ) {
        assert!([gate.rows, up.rows, dgate.rows, dup.rows].iter().all(|&r| r == da.rows));
        assert!([gate.cols, up.cols, dgate.cols, dup.cols].iter().all(|&c| c == da.cols));
        let args = [gate.into(), up.into(), da.into(), count(da.cols), (&dgate).into(), (&dup).into()];
        self.launch(&SOURCE, "geglu_back", entries(da.rows, da.cols), &args);
    }
}
