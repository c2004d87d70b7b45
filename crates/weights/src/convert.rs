//! Float types of model files and exact conversions between them: round to nearest even, NaN stays NaN.
//!
//! The scalar conversions are branch-free selects over integer arithmetic, so that the loops over slices vectorise.

use half::{bf16, f16};

use crate::dtype::DType;

/// A float type that weights are stored in.
pub trait Element: bytemuck::Pod + PartialEq + Send + Sync + std::fmt::Debug {
    /// Its name in files.
    const DTYPE: DType;
    /// Zero.
    const ZERO: Self;
    /// From f32, rounded once.
    fn from_f32(x: f32) -> Self;
    /// From f64, rounded once.
    fn from_f64(x: f64) -> Self;
    /// To any other element type, rounded once.
    fn to<T: Element>(self) -> T;
}

impl Element for f32 {
    const DTYPE: DType = DType::F32;
    const ZERO: f32 = 0.0;

    fn from_f32(x: f32) -> f32 {
        x
    }

    fn from_f64(x: f64) -> f32 {
        x as f32
    }

    fn to<T: Element>(self) -> T {
        T::from_f32(self)
    }
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
    const ZERO: f64 = 0.0;

    fn from_f32(x: f32) -> f64 {
        f64::from(x)
    }

    fn from_f64(x: f64) -> f64 {
        x
    }

    fn to<T: Element>(self) -> T {
        T::from_f64(self)
    }
}

impl Element for bf16 {
    const DTYPE: DType = DType::BF16;
    const ZERO: bf16 = bf16::ZERO;

    fn from_f32(x: f32) -> bf16 {
        let bits = x.to_bits();
        let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
        let quiet_nan = (bits >> 16) | 0x40;
        bf16::from_bits(if x.is_nan() { quiet_nan } else { rounded } as u16)
    }

    fn from_f64(x: f64) -> bf16 {
        bf16::from_f32(round_to_odd(x))
    }

    fn to<T: Element>(self) -> T {
        T::from_f32(f32::from_bits(u32::from(self.to_bits()) << 16))
    }
}

impl Element for f16 {
    const DTYPE: DType = DType::F16;
    const ZERO: f16 = f16::ZERO;

    fn from_f32(x: f32) -> f16 {
        const SMALLEST_NORMAL: u32 = 113 << 23; // 2^-14
        const TWO_POW_16: u32 = 143 << 23; // rounding alone takes what is below to infinity or to the largest value
        let sign = (x.to_bits() >> 16) & 0x8000;
        let abs = x.to_bits() & 0x7fff_ffff;
        let normal = abs.wrapping_sub(112 << 23).wrapping_add(0xfff + ((abs >> 13) & 1)) >> 13;
        // Adding 0.5, whose last place is f16's smallest step 2^-24, lets the adder do the rounding.
        let subnormal = (f32::from_bits(abs) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
        let special = if x.is_nan() { 0x7e00 | (abs >> 13) & 0x3ff } else { 0x7c00 };
        let finite = if abs < SMALLEST_NORMAL { subnormal } else { normal };
        f16::from_bits((sign | if abs >= TWO_POW_16 { special } else { finite }) as u16)
    }

    fn from_f64(x: f64) -> f16 {
        <f16 as Element>::from_f32(round_to_odd(x))
    }

    fn to<T: Element>(self) -> T {
        const REBIAS: u32 = 112 << 23; // exponent bias 15 to 127
        const SMALLEST_NORMAL: u32 = 113 << 23;
        let bits = u32::from(self.to_bits());
        let sign = (bits & 0x8000) << 16;
        let abs = (bits & 0x7fff) << 13;
        let normal = abs + REBIAS;
        let subnormal = (f32::from_bits(abs + SMALLEST_NORMAL) - f32::from_bits(SMALLEST_NORMAL)).to_bits();
        let special = abs | 0x7f80_0000;
        let magnitude = match bits & 0x7c00 {
            0 => subnormal,
            0x7c00 => special,
            _ => normal,
        };
        T::from_f32(f32::from_bits(sign | magnitude))
    }
}

/// Rounds toward zero and sets the last bit if that was inexact: a second rounding to half the width or less then gives
/// what one rounding would have (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
fn round_to_odd(x: f64) -> f32 {
    let nearest = x as f32;
    let back = f64::from(nearest);
    let truncated = nearest.to_bits() - u32::from(back.abs() > x.abs());
    if back == x || x.is_nan() { nearest } else { f32::from_bits(truncated | 1) }
}

/// Converts element by element; the slices have one length.
pub fn convert<S: Element, D: Element>(src: &[S], dst: &mut [D]) {
    assert_eq!(src.len(), dst.len(), "elements to convert and places for them");
    for (d, s) in dst.iter_mut().zip(src) {
        *d = s.to();
    }
}

/// Converts little-endian bytes of a float type, at any alignment, to `out`, one place per element.
///
/// Panics if `dtype` is no float type ([`DType::is_float`]).
pub fn decode<T: Element>(dtype: DType, bytes: &[u8], out: &mut [T]) {
    match dtype {
        DType::F32 => decode_from::<f32, T>(bytes, out),
        DType::BF16 => decode_from::<bf16, T>(bytes, out),
        DType::F16 => decode_from::<f16, T>(bytes, out),
        DType::F64 => decode_from::<f64, T>(bytes, out),
        other => panic!("{other} is no float type"),
    }
}

fn decode_from<S: Element, T: Element>(bytes: &[u8], out: &mut [T]) {
    if let Ok(src) = bytemuck::try_cast_slice::<u8, S>(bytes) {
        return convert(src, out);
    }
    assert_eq!(bytes.len(), size_of_val(out) / size_of::<T>() * size_of::<S>(), "bytes of {} values", out.len());
    for (d, s) in out.iter_mut().zip(bytes.chunks_exact(size_of::<S>())) {
        *d = bytemuck::pod_read_unaligned::<S>(s).to();
    }
}

/// Converts `src` to little-endian bytes of a float type and passes them to `emit` in order, a block at a time.
///
/// Stops at `emit`'s first error. Panics if `dtype` is no float type.
pub fn encode<S: Element, E>(src: &[S], dtype: DType, emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    match dtype {
        DType::F32 => encode_to::<S, f32, E>(src, emit),
        DType::BF16 => encode_to::<S, bf16, E>(src, emit),
        DType::F16 => encode_to::<S, f16, E>(src, emit),
        DType::F64 => encode_to::<S, f64, E>(src, emit),
        other => panic!("{other} is no float type"),
    }
}

fn encode_to<S: Element, D: Element, E>(src: &[S], mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
    if S::DTYPE == D::DTYPE {
        return emit(bytemuck::cast_slice(src));
    }
    let mut block = [D::ZERO; 2048];
    for chunk in src.chunks(block.len()) {
        let block = &mut block[..chunk.len()];
        convert(chunk, block);
        emit(bytemuck::cast_slice(block))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of all sizes, and those at and around the rounding boundaries of f16.
    fn samples() -> Vec<f32> {
        let mut out = vec![0.0, f32::INFINITY, f32::MAX, f32::MIN_POSITIVE, 1e-45, 65503.9, 65519.99, 65520.0, 65536.0];
        // A stride that is prime to every power of two visits all exponents and many mantissas.
        out.extend((0..u32::MAX).step_by(65_537 * 3).map(f32::from_bits));
        let halves = (0..=u16::MAX).map(|b| f16::from_bits(b).to_f32()).filter(|x| x.is_finite());
        let between: Vec<f32> = halves.map(|x| x * (1.0 + 1.0 / 2048.0)).collect();
        out.extend(between.iter().flat_map(|&x| [x, x.next_up(), x.next_down()]));
        out.extend(out.clone().iter().map(|x| -x));
        out
    }

    #[test]
    fn every_half_widens_as_the_half_crate_does() {
        for bits in 0..=u16::MAX {
            let (h, b) = (f16::from_bits(bits), bf16::from_bits(bits));
            let (h32, b32): (f32, f32) = (Element::to(h), Element::to(b));
            assert!(h32.to_bits() == h.to_f32().to_bits() || h32.is_nan() && h.is_nan(), "f16 {bits:#x}");
            assert!(b32.to_bits() == b.to_f32().to_bits() || b32.is_nan() && b.is_nan(), "bf16 {bits:#x}");
        }
    }

    #[test]
    fn floats_narrow_as_the_half_crate_does() {
        for x in samples() {
            let (h, b) = (<f16 as Element>::from_f32(x), <bf16 as Element>::from_f32(x));
            assert!(h.to_bits() == f16::from_f32(x).to_bits() || h.is_nan() && x.is_nan(), "f16 {x:e}: {h:?}");
            assert!(b.to_bits() == bf16::from_f32(x).to_bits() || b.is_nan() && x.is_nan(), "bf16 {x:e}: {b:?}");
        }
    }

    #[test]
    fn nan_stays_nan_even_where_only_low_bits_say_so() {
        for bits in [0x7f80_0001, 0xffff_ffff, 0x7fc0_0000] {
            let x = f32::from_bits(bits);
            assert!(<f16 as Element>::from_f32(x).is_nan(), "{bits:#x}");
            assert!(<bf16 as Element>::from_f32(x).is_nan(), "{bits:#x}");
        }
        assert!(<f16 as Element>::from_f64(f64::NAN).is_nan() && <bf16 as Element>::from_f64(f64::NAN).is_nan());
    }

    #[test]
    fn doubles_are_rounded_once() {
        // Just above the middle between 1 and the next value: rounding to f32 first would give the middle, then 1.
        let above = |ulp: f64| 1.0 + ulp / 2.0 + 1e-15;
        assert_eq!(<bf16 as Element>::from_f64(above(1.0 / 128.0)).to_f64(), 1.0 + 1.0 / 128.0);
        assert_eq!(<f16 as Element>::from_f64(above(1.0 / 1024.0)).to_f64(), 1.0 + 1.0 / 1024.0);
        // And just below, whatever the sign.
        let below = |ulp: f64| -(1.0 + ulp / 2.0 - 1e-15);
        assert_eq!(<bf16 as Element>::from_f64(below(1.0 / 128.0)).to_f64(), -1.0);
        assert_eq!(<f16 as Element>::from_f64(below(1.0 / 1024.0)).to_f64(), -1.0);
        // What is larger than f32 is infinite; what is smaller than every value is zero.
        assert_eq!(<bf16 as Element>::from_f64(1e300), bf16::INFINITY);
        assert_eq!(<bf16 as Element>::from_f64(-1e-300).to_bits(), 0x8000);
    }

    #[test]
    fn bytes_round_trip_at_any_alignment() {
        let values: Vec<f32> = (0..5000).map(|i| (i as f32 - 2500.0) / 16.0).collect();
        for dtype in [DType::F32, DType::BF16, DType::F16, DType::F64] {
            for shift in [0, 1] {
                let mut bytes = vec![0u8; shift];
                encode(&values, dtype, |block| {
                    bytes.extend_from_slice(block);
                    Ok::<(), ()>(())
                })
                .unwrap();
                assert_eq!(bytes.len() - shift, values.len() * dtype.bits() / 8);
                let (mut narrow, mut wide) = (vec![0f32; values.len()], vec![0f64; values.len()]);
                decode(dtype, &bytes[shift..], &mut narrow);
                decode(dtype, &bytes[shift..], &mut wide);
                let expected = |x: f32| match dtype {
                    DType::BF16 => bf16::from_f32(x).to_f32(),
                    DType::F16 => f16::from_f32(x).to_f32(),
                    _ => x,
                };
                assert!(narrow.iter().zip(&values).all(|(&n, &v)| n == expected(v)), "{dtype} at {shift}");
                assert!(wide.iter().zip(&values).all(|(&w, &v)| w == f64::from(expected(v))), "{dtype} at {shift}");
            }
        }
    }
}
