//! A block per 256 elements of a part; all parts in one launch.

use super::code::{SIGNED, UNSIGNED};
use super::{Adamw8, Arrays, BLOCK, MomentCodes, Moments, Part, Rounding, Values};
use crate::adamw::AdamwStep;
use crate::adamw::cuda::numbers;
use crate::cuda::{Activation, Arg, Cuda, Grid, Source, blocks, count};
use crate::{Acc, View};

pub(crate) const SOURCE: Source = Source { name: "adamw8", text: include_str!("kernel.cu") };

/// No array.
const NONE: Arg = Arg([0, 0]);

fn array<A, T>(acc: &Acc<'_, Cuda<A>, T>) -> Arg {
    Arg::from(&acc.0)
}

fn is_grid(rounding: Rounding) -> Arg {
    Arg::from(u32::from(rounding == Rounding::Grid))
}

/// Parts as the kernel reads them, and how many blocks they have.
fn packed(parts: &[Part], kinds: &[[f32; 9]]) -> (Vec<u32>, usize) {
    let (mut table, mut first) = (Vec::new(), 0);
    for part in parts.iter().filter(|part| !part.grads.is_empty()) {
        let n = part.grads.len();
        let places = [n, part.values, part.grads.start, part.moments, part.amounts.unwrap_or(0)].map(|n| n as u64);
        let numbers = places.into_iter().chain([part.half.unwrap_or(0)]);
        table.extend(numbers.flat_map(|x| [x as u32, (x >> 32) as u32]));
        let other = kinds.first() != Some(&self::numbers(&part.step));
        let flags = [part.half.is_some(), part.amounts.is_some(), other];
        let flags = flags.iter().zip([1, 2, 4]).map(|(on, bit)| if *on { bit } else { 0 }).sum();
        table.extend([first as u32, flags]);
        first += n.div_ceil(BLOCK);
    }
    (table, first)
}

/// Words of a part.
const WORDS: usize = 14;

impl<A: Activation> Cuda<A> {
    /// Updates parts of arrays: values of both kinds, gradients, moments, codes, amounts, and how they are rounded.
    fn update(&self, arrays: [Arg; 10], parts: &[Part]) {
        let mut kinds: Vec<[f32; 9]> = Vec::new();
        for kind in parts.iter().map(|part| numbers(&part.step)) {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        assert!(kinds.len() <= 2, "steps differ in their weight decay only");
        let (table, all) = packed(parts, &kinds);
        if all == 0 {
            return;
        }
        let (parts, maps, kinds) =
            (self.given(&table), self.given(&[SIGNED, UNSIGNED].concat()), self.given(kinds.as_flattened()));
        let first = [(&parts).into(), count(table.len() / WORDS)];
        let args = [&first[..], &arrays, &[(&maps).into(), (&kinds).into()]].concat();
        let grid = Grid { blocks: [blocks(all), 1, 1], threads: BLOCK as u32, shared: 0 };
        self.launch(&SOURCE, "adamw8", grid, &args);
    }
}

impl<A: Activation> Adamw8 for Cuda<A> {
    fn adamw8(&self, s: &AdamwStep, p: Values<Self>, g: View<Self, f32>, moments: Moments<Self>) {
        let n = g.cols;
        assert!(g.rows == 1);
        let (values, half) = match &p {
            Values::Real(p) => {
                assert!(p.shape() == (1, n));
                ([array(p), NONE], None)
            }
            Values::Half { values, key } => {
                assert!(values.shape() == (1, n));
                ([NONE, array(values)], Some(*key))
            }
        };
        let (state, amounts) = match &moments {
            Moments::Real { m, v } => {
                assert!(m.shape() == (1, n) && v.shape() == (1, n));
                ([array(m), array(v), NONE, NONE, NONE, NONE, Arg::from(0u32)], None)
            }
            Moments::Codes { m, v, rounding } => {
                let fits = |m: &MomentCodes<Self>| {
                    assert!(m.codes.shape() == (1, n) && m.absmax.shape() == (1, n.div_ceil(BLOCK)));
                };
                [m, v].into_iter().for_each(fits);
                let codes = [&m.codes, &v.codes].map(array);
                let largest = [&m.absmax, &v.absmax].map(array);
                ([NONE, NONE, codes[0], codes[1], largest[0], largest[1], is_grid(*rounding)], Some(0))
            }
        };
        let [m, v, m_codes, v_codes, m_largest, v_largest, grid] = state;
        let arrays = [values[0], values[1], g.into(), m, v, m_codes, v_codes, m_largest, v_largest, grid];
        self.update(arrays, &[Part { step: *s, grads: 0..n, values: 0, half, moments: 0, amounts }]);
    }

    fn adamw8_parts(&self, arrays: Arrays<Self>, parts: &[Part]) {
        let Arrays { values, halves, grads, moments: [m, v], codes: [m8, v8], rounding } = arrays;
        for part in parts {
            let (n, at) = (part.grads.len(), if part.half.is_some() { halves.shape().1 } else { values.shape().1 });
            let own = if part.amounts.is_some() { m8.codes.shape().1 } else { m.shape().1 };
            let blocks = part.amounts.map_or(0, |first| first + n.div_ceil(BLOCK));
            assert!(part.grads.end <= grads.cols && part.values + n <= at && part.moments + n <= own, "{part:?}");
            assert!(blocks <= m8.absmax.shape().1, "{part:?}");
        }
        let (codes, largest) = ([&m8.codes, &v8.codes].map(array), [&m8.absmax, &v8.absmax].map(array));
        let [values, halves] = [array(&values), array(&halves)];
        let [m, v] = [&m, &v].map(array);
        let all = [values, halves, grads.into(), m, v, codes[0], codes[1], largest[0], largest[1], is_grid(rounding)];
        self.update(all, parts);
    }
}
