//! A thread per entry.

use super::{Gate, Glu};
use crate::cuda::{Activation, Cuda, Source, count, entries};
use crate::{Out, View};

pub(crate) const SOURCE: Source = Source { name: "glu", text: include_str!("kernel.cu") };

impl<A: Activation> Glu for Cuda<A> {
    fn glu(&self, g: Gate, gate: View<Self, A>, up: View<Self, A>, a: Out<Self, A>) {
        assert!(gate.shape() == a.shape() && up.shape() == a.shape());
        let args = [gate.into(), up.into(), count(a.cols), (&a).into()];
        let name = match g {
            Gate::Silu => "swiglu",
            Gate::Gelu => "geglu",
        };
        self.launch(&SOURCE, name, entries(a.rows, a.cols), &args);
    }

    fn glu_over(&self, g: Gate, up: View<Self, A>, gate_to_a: Out<Self, A>) {
        assert!(up.shape() == gate_to_a.shape());
        let args = [up.into(), count(up.cols), (&gate_to_a).into()];
        let name = match g {
            Gate::Silu => "swiglu_over",
            Gate::Gelu => "geglu_over",
        };
        self.launch(&SOURCE, name, entries(up.rows, up.cols), &args);
    }

    fn glu_back(&self, g: Gate, inputs: [View<Self, A>; 2], dgate: Out<Self, A>, da_to_dup: Out<Self, A>) {
        assert!(inputs.iter().map(View::shape).chain([dgate.shape()]).all(|s| s == da_to_dup.shape()));
        let [gate, up] = inputs;
        let args = [gate.into(), up.into(), count(up.cols), (&dgate).into(), (&da_to_dup).into()];
        let name = match g {
            Gate::Silu => "swiglu_back",
            Gate::Gelu => "geglu_back",
        };
        self.launch(&SOURCE, name, entries(up.rows, up.cols), &args);
    }
}
