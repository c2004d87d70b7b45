//! Compiles a plain loop for the instruction sets at hand and picks one at run time.
//!
//! The loops are written so that every instruction set gives the same bits: reductions have explicit lanes, and there is
//! no fused multiply-add. So this only changes speed.

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

/// Runs `work`, which must be `#[inline(always)]` down to its loops, compiled for this processor.
#[inline]
pub(crate) fn vectorise<R>(work: impl FnOnce() -> R) -> R {
    #[cfg(target_arch = "x86_64")]
    {
        #[target_feature(enable = "avx512f,avx512dq,avx512vl,avx2")]
        fn avx512<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        #[target_feature(enable = "avx2")]
        fn avx2<R>(work: impl FnOnce() -> R) -> R {
            work()
        }
        match isa() {
            // SAFETY: the features were detected just now.
            Isa::Avx512 => return unsafe { avx512(work) },
            // SAFETY: as above.
            Isa::Avx2 => return unsafe { avx2(work) },
            Isa::Plain => {}
        }
    }
    work()
}

/// Sum of `f(i)` over `0..n` in eight interleaved partial sums, added in a fixed order.
#[inline(always)]
pub(crate) fn lane_sum<E: crate::Real>(n: usize, f: impl Fn(usize) -> E) -> E {
    const LANES: usize = 16;
    let mut acc = [E::ZERO; LANES];
    let full = n - n % LANES;
    for base in (0..full).step_by(LANES) {
        for (l, a) in acc.iter_mut().enumerate() {
            *a += f(base + l);
        }
    }
    for i in full..n {
        acc[i - full] += f(i);
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for l in 0..width {
            let upper = acc[l + width];
            acc[l] += upper;
        }
    }
    acc[0]
}
