//! AdamW whose moments are held in eight bits each (Dettmers et al. 2021, arXiv 2110.02861), or whose values are held in
//! bfloat16 and rounded stochastically (Gupta et al. 2015, arXiv 1502.02551). Source of the eight bits: bitsandbytes 0.50,
//! <https://github.com/bitsandbytes-foundation/bitsandbytes>.

pub(crate) mod code;
pub(crate) mod cpu;
pub(crate) mod cuda;

use crate::{Acc, AdamwStep, Memory, View};
use half::bf16;
use std::ops::Range;

/// Elements that share a scale.
pub const BLOCK: usize = 256;

/// Which code a value gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// The nearest, as bitsandbytes' kernels for CUDA do; a first moment's code keeps its sign.
    Nearest,
    /// The one nearest to the value on a grid of 65,536 points, as its kernels for the CPU do. Zero is between two points of that grid, and
    /// becomes the upper.
    Grid,
}

/// A moment in eight bits: of each [`BLOCK`] elements their codes and the largest amount.
pub struct MomentCodes<'a, B: Memory> {
    /// `[1, n]`.
    pub codes: Acc<'a, B, u8>,
    /// `[1, n / BLOCK]`, rounded up.
    pub absmax: Acc<'a, B, B::Real>,
}

/// The optimiser's state of a range.
pub enum Moments<'a, B: Memory> {
    /// As in [`crate::Adamw`].
    Real {
        /// First moments, `[1, n]`.
        m: Acc<'a, B, B::Real>,
        /// Second moments, `[1, n]`.
        v: Acc<'a, B, B::Real>,
    },
    /// Eight bits each. Quantised after the update, so that an error enters through the next one only.
    Codes {
        /// First moments.
        m: MomentCodes<'a, B>,
        /// Second moments.
        v: MomentCodes<'a, B>,
        /// How they are rounded.
        rounding: Rounding,
    },
}

/// The values of a range.
pub enum Values<'a, B: Memory> {
    /// `[1, n]`.
    Real(Acc<'a, B, B::Real>),
    /// `[1, n]`, rounded up or down at random, so that the expected value is the exact one.
    Half {
        /// The values.
        values: Acc<'a, B, bf16>,
        /// Of the random numbers; with the element's place they are a pure function of it.
        key: u64,
    },
}

impl<'a, B: Memory> MomentCodes<'a, B> {
    fn on<C: Memory<Real = B::Real>>(self) -> MomentCodes<'a, C> {
        MomentCodes { codes: self.codes.0.on().into_acc(), absmax: self.absmax.0.on().into_acc() }
    }
}

impl<'a, B: Memory> Moments<'a, B> {
    /// The same memory in the hands of another backend.
    pub(crate) fn on<C: Memory<Real = B::Real>>(self) -> Moments<'a, C> {
        match self {
            Moments::Real { m, v } => Moments::Real { m: m.0.on().into_acc(), v: v.0.on().into_acc() },
            Moments::Codes { m, v, rounding } => Moments::Codes { m: m.on(), v: v.on(), rounding },
        }
    }
}

impl<'a, B: Memory> Values<'a, B> {
    /// The same memory in the hands of another backend.
    pub(crate) fn on<C: Memory<Real = B::Real>>(self) -> Values<'a, C> {
        match self {
            Values::Real(p) => Values::Real(p.0.on().into_acc()),
            Values::Half { values, key } => Values::Half { values: values.0.on().into_acc(), key },
        }
    }
}

/// Arrays of which parts are updated, all `[1, n]`.
pub struct Arrays<'a, B: Memory> {
    /// Values in full precision.
    pub values: Acc<'a, B, B::Real>,
    /// Values in bfloat16.
    pub halves: Acc<'a, B, bf16>,
    /// Gradients.
    pub grads: View<'a, B, B::Real>,
    /// First and second moments in full precision.
    pub moments: [Acc<'a, B, B::Real>; 2],
    /// The same in eight bits.
    pub codes: [MomentCodes<'a, B>; 2],
    /// How they are rounded.
    pub rounding: Rounding,
}

/// What is updated of [`Arrays`].
#[derive(Clone, Debug)]
pub struct Part {
    /// The update; steps of one call differ in their weight decay only.
    pub step: AdamwStep,
    /// Its gradients.
    pub grads: Range<usize>,
    /// Where its values begin.
    pub values: usize,
    /// Of the random numbers, where its values are bfloat16.
    pub half: Option<u64>,
    /// Where its moments begin, in full precision or as codes.
    pub moments: usize,
    /// Where their largest amounts begin, where they are codes.
    pub amounts: Option<usize>,
}

impl<'a, B: Memory> Arrays<'a, B> {
    /// The same memory in the hands of another backend.
    pub(crate) fn on<C: Memory<Real = B::Real>>(self) -> Arrays<'a, C> {
        Arrays {
            values: self.values.0.on().into_acc(),
            halves: self.halves.0.on().into_acc(),
            grads: self.grads.on(),
            moments: self.moments.map(|m| m.0.on().into_acc()),
            codes: self.codes.map(MomentCodes::on),
            rounding: self.rounding,
        }
    }

    /// A part's values, gradients and moments.
    fn part(&mut self, part: &Part) -> (Values<'_, B>, View<'_, B, B::Real>, Moments<'_, B>) {
        let n = part.grads.len();
        let (at, own) = (part.values..part.values + n, part.moments..part.moments + n);
        let values = match part.half {
            None => Values::Real(self.values.again().cols(at)),
            Some(key) => Values::Half { values: self.halves.again().cols(at), key },
        };
        let moments = match part.amounts {
            None => {
                let [m, v] = self.moments.each_mut().map(|x| x.again().cols(own.clone()));
                Moments::Real { m, v }
            }
            Some(first) => {
                let blocks = first..first + n.div_ceil(BLOCK);
                let [m, v] = self.codes.each_mut().map(|x| MomentCodes {
                    codes: x.codes.again().cols(own.clone()),
                    absmax: x.absmax.again().cols(blocks.clone()),
                });
                Moments::Codes { m, v, rounding: self.rounding }
            }
        };
        (values, self.grads.cols(part.grads.clone()), moments)
    }
}

/// AdamW in little memory.
pub trait Adamw8: Memory {
    /// The update of [`crate::Adamw::adamw`] over a range, `g [1, n]`. With codes it is rounded as bitsandbytes rounds.
    fn adamw8(&self, s: &AdamwStep, p: Values<Self>, g: View<Self, Self::Real>, moments: Moments<Self>);

    /// The same of many parts, none of which overlap.
    fn adamw8_parts(&self, mut arrays: Arrays<Self>, parts: &[Part]) {
        for part in parts {
            let (values, grads, moments) = arrays.part(part);
            self.adamw8(&part.step, values, grads, moments);
        }
    }
}
