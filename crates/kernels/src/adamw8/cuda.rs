//! A block per 256 elements.

use super::code::{SIGNED, UNSIGNED};
use super::{Adamw8, BLOCK, MomentCodes, Moments, Rounding, Values};
use crate::adamw::AdamwStep;
use crate::adamw::cuda::numbers;
use crate::cuda::{Activation, Arg, Cuda, Grid, Source, blocks};
use crate::{Acc, View};

pub(crate) const SOURCE: Source = Source { name: "adamw8", text: include_str!("kernel.cu") };

/// No array.
const NONE: Arg = Arg([0, 0]);

fn array<A, T>(acc: &Acc<'_, Cuda<A>, T>) -> Arg {
    Arg::from(&acc.0)
}

impl<A: Activation> Adamw8 for Cuda<A> {
    fn adamw8(&self, s: &AdamwStep, p: Values<Self>, g: View<Self, f32>, moments: Moments<Self>) {
        let n = g.cols;
        assert!(g.rows == 1);
        let values = match &p {
            Values::Real(p) => {
                assert!(p.shape() == (1, n));
                [array(p), NONE, Arg::from(0u64)]
            }
            Values::Half { values, key } => {
                assert!(values.shape() == (1, n));
                [NONE, array(values), Arg::from(*key)]
            }
        };
        let state = match &moments {
            Moments::Real { m, v } => {
                assert!(m.shape() == (1, n) && v.shape() == (1, n));
                [array(m), array(v), NONE, NONE, NONE, NONE, Arg::from(0u32)]
            }
            Moments::Codes { m, v, rounding } => {
                let fits = |m: &MomentCodes<Self>| {
                    assert!(m.codes.shape() == (1, n) && m.absmax.shape() == (1, n.div_ceil(BLOCK)));
                };
                [m, v].into_iter().for_each(fits);
                let grid = Arg::from(u32::from(*rounding == Rounding::Grid));
                [NONE, NONE, array(&m.codes), array(&v.codes), array(&m.absmax), array(&v.absmax), grid]
            }
        };
        let (maps, numbers) = (self.given(&[SIGNED, UNSIGNED].concat()), self.given(&numbers(s)));
        let rest = [Arg::from(n as u64), (&maps).into(), (&numbers).into()];
        let args = [&values[..], &[g.into()], &state, &rest].concat();
        let grid = Grid { blocks: [blocks(n.div_ceil(BLOCK)), 1, 1], threads: BLOCK as u32, shared: 0 };
        self.launch(&SOURCE, "adamw8", grid, &args);
    }
}
