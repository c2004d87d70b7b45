//! Loops over rows, compiled for every instruction set at hand and for both floats, and picked at run time.
//!
//! The loops are written so that every instruction set gives the same bits: reductions have explicit lanes, and there is
//! no fused multiply-add. So the choice only changes speed.

use crate::Real;

/// Instruction sets worth a separate compilation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Isa {
    /// Whatever the build targets.
    Plain,
    /// 256-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// 512-bit vectors.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The best instruction set of this processor (the detection is cached by the standard library).
#[inline]
pub(crate) fn isa() -> Isa {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
        {
            return Isa::Avx512;
        }
        if is_x86_feature_detected!("avx2") {
            return Isa::Avx2;
        }
    }
    Isa::Plain
}

/// Declares a trait of loops over slices of `E` and implements it for `f32` and `f64`.
///
/// Neither closures nor generic functions would do. Nothing makes the compiler inline a closure into a function of
/// another instruction set, and a generic function is compiled in the crate that first uses it, with that crate's
/// optimisation level. Bodies are generic and always inlined, down to what they call; the implementations are not.
macro_rules! loops {
    ($(#[$doc:meta])* trait $Loops:ident {
        $($(#[$about:meta])* fn $name:ident($($arg:ident: $ty:ty),* $(,)?) $(-> $ret:ty)? $body:block)*
    }) => {
        $(#[$doc])*
        pub trait $Loops<E> {
            $($(#[$about])* fn $name($($arg: $ty),*) $(-> $ret)?;)*
        }
        mod body {
            use super::*;
            $(#[inline(always)] pub(super) fn $name<E: Real>($($arg: $ty),*) $(-> $ret)? $body)*
        }
        mod single {
            use super::*;
            type E = f32;
            crate::cpu::simd::loops!(@for $Loops $($name($($arg: $ty),*) $(-> $ret)?;)*);
        }
        mod double {
            use super::*;
            type E = f64;
            crate::cpu::simd::loops!(@for $Loops $($name($($arg: $ty),*) $(-> $ret)?;)*);
        }
    };
    (@for $Loops:ident $($name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?;)*) => {
        impl $Loops<E> for E {
            $(fn $name($($arg: $ty),*) $(-> $ret)? {
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2")]
                fn avx512($($arg: $ty),*) $(-> $ret)? {
                    body::$name::<E>($($arg),*)
                }
                #[cfg(target_arch = "x86_64")]
                #[target_feature(enable = "avx2")]
                fn avx2($($arg: $ty),*) $(-> $ret)? {
                    body::$name::<E>($($arg),*)
                }
                use crate::cpu::simd::{Isa, isa};
                match isa() {
                    // SAFETY: the features were detected.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx512 => unsafe { avx512($($arg),*) },
                    // SAFETY: as above.
                    #[cfg(target_arch = "x86_64")]
                    Isa::Avx2 => unsafe { avx2($($arg),*) },
                    Isa::Plain => body::$name::<E>($($arg),*),
                }
            })*
        }
    };
}
pub(crate) use loops;

/// Partial results of a reduction: two AVX-512 registers of f32, enough to hide the latency of an addition.
pub(crate) const LANES: usize = 32;

/// Joins lanes pairwise in a fixed order. The halves are arrays of their own so that they stay in registers; the lanes
/// go through memory, or else the compiler carries the tree's last pairs into the loop before it, as narrow vectors.
#[inline(always)]
fn join<E: Real>(lanes: [E; LANES], f: impl Fn(E, E) -> E) -> E {
    let lanes = std::hint::black_box(lanes);
    let mut sixteen = [E::ZERO; 16];
    (0..16).for_each(|l| sixteen[l] = f(lanes[l], lanes[l + 16]));
    let mut eight = [E::ZERO; 8];
    (0..8).for_each(|l| eight[l] = f(sixteen[l], sixteen[l + 8]));
    let mut four = [E::ZERO; 4];
    (0..4).for_each(|l| four[l] = f(eight[l], eight[l + 4]));
    f(f(four[0], four[2]), f(four[1], four[3]))
}

/// Sum over columns of `f(row 0's entry, row 1's entry, ..)`; the order depends on the length only.
#[inline(always)]
pub(crate) fn lane_sum<T: Copy, E: Real, const N: usize>(rows: [&[T]; N], f: impl Fn([T; N]) -> E) -> E {
    let n = rows[0].len();
    let full = n - n % LANES;
    let mut lanes = [E::ZERO; LANES];
    let mut base = 0;
    while base < full {
        let block = rows.map(|r| &r[base..base + LANES]);
        for l in 0..LANES {
            lanes[l] += f(block.map(|b| b[l]));
        }
        base += LANES;
    }
    let mut rest = E::ZERO;
    for i in full..n {
        rest += f(rows.map(|r| r[i]));
    }
    join(lanes, |a, b| a + b) + rest
}

/// The largest entry; minus infinity of nothing. A NaN may get lost.
#[inline(always)]
pub(crate) fn lane_max<E: Real>(row: &[E]) -> E {
    let mut lanes = [E::NEG_INFINITY; LANES];
    let blocks = row.chunks_exact(LANES);
    let rest = blocks.remainder();
    for block in blocks {
        for l in 0..LANES {
            lanes[l] = block[l].max(lanes[l]);
        }
    }
    let rest = rest.iter().fold(E::NEG_INFINITY, |m, &x| x.max(m));
    join(lanes, |a, b| a.max(b)).max(rest)
}

/// Replaces each `x` by `exp(x - max)` and returns the sum.
#[inline(always)]
pub(crate) fn exp_sum<E: Real>(row: &mut [E], max: E) -> E {
    let mut lanes = [E::ZERO; LANES];
    let mut blocks = row.chunks_exact_mut(LANES);
    for block in &mut blocks {
        for l in 0..LANES {
            block[l] = (block[l] - max).exp();
            lanes[l] += block[l];
        }
    }
    let mut rest = E::ZERO;
    for x in blocks.into_remainder() {
        *x = (*x - max).exp();
        rest += *x;
    }
    join(lanes, |a, b| a + b) + rest
}
