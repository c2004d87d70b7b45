//! A thread per entry of the results.

use super::Latent;
use super::cpu::widths;
use crate::cuda::{Activation, Cuda, Source, count, entries};
use crate::{Out, View};

pub(crate) const SOURCE: Source = Source { name: "latent", text: include_str!("kernel.cu") };

impl<A: Activation> Latent for Cuda<A> {
    fn latent_keys(&self, heads: usize, up: View<Self, A>, rotated: View<Self, A>, k: Out<Self, A>, v: Out<Self, A>) {
        assert!([up.rows, rotated.rows, v.rows].iter().all(|&r| r == k.rows));
        let [p, r, w] = widths(heads, k.cols, v.cols, rotated.cols, up.cols).map(count);
        let args = [up.into(), rotated.into(), count(heads), p, r, w, (&k).into(), (&v).into()];
        self.launch(&SOURCE, "latent_keys", entries(k.rows, k.cols + v.cols), &args);
    }

    fn latent_keys_back(
        &self,
        heads: usize,
        dk: View<Self, A>,
        dv: View<Self, A>,
        dup: Out<Self, A>,
        drotated: Out<Self, A>,
    ) {
        assert!([dv.rows, dup.rows, drotated.rows].iter().all(|&r| r == dk.rows));
        let [p, r, w] = widths(heads, dk.cols, dv.cols, drotated.cols, dup.cols).map(count);
        let args = [dk.into(), dv.into(), count(heads), p, r, w, (&dup).into(), (&drotated).into()];
        self.launch(&SOURCE, "latent_keys_back", entries(dk.rows, dup.cols + drotated.cols), &args);
    }
}
