//! Blocks of 32 values with one scale, and with a minimum in the `_1` types.

use super::{BLOCK, half_at, put_half};

/// Zero for a scale of zero: nothing is divided by it.
fn inverse(d: f32) -> f32 {
    if d == 0.0 { 0.0 } else { 1.0 / d }
}

/// The value of the largest amount, the first of equals.
fn extreme(x: &[f32]) -> f32 {
    x.iter().fold((0.0, 0.0), |(amount, value), &x| if x.abs() > amount { (x.abs(), x) } else { (amount, value) }).1
}

fn range(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::MAX, f32::MIN), |(min, max), &x| (if x < min { x } else { min }, if x > max { x } else { max }))
}

/// Two nibbles in a byte: values `j` and `j + 16`.
fn put_nibbles(q: &[u8; BLOCK], out: &mut [u8]) {
    for j in 0..BLOCK / 2 {
        out[j] = (q[j] & 15) | (q[j + BLOCK / 2] & 15) << 4;
    }
}

fn put_fifth_bits(q: &[u8; BLOCK], out: &mut [u8]) {
    let bits = q.iter().enumerate().fold(0u32, |bits, (j, q)| bits | u32::from(q >> 4 & 1) << j);
    out.copy_from_slice(&bits.to_le_bytes());
}

/// What the codes of MXFP4 stand for, doubled: bit 3 is the sign.
pub(super) const MXFP4: [f32; 16] =
    [0.0, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, -0.0, -1.0, -2.0, -3.0, -4.0, -6.0, -8.0, -12.0];

/// Half of two to the power of `e - 127`.
fn half_of_power(e: u8) -> f32 {
    f32::from_bits(if e < 2 { 0x0020_0000 << e } else { u32::from(e - 1) << 23 })
}

pub(super) fn mxfp4(x: &[f32], out: &mut [u8]) {
    let amount = x.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let e = if amount > 0.0 { (amount.log2().floor() - 2.0 + 127.0) as u8 } else { 0 };
    let d = half_of_power(e);
    out[0] = e;
    // The first of the nearest.
    let code = |x: f32| {
        let nearer =
            |best: usize, i: usize| if (MXFP4[i] * d - x).abs() < (MXFP4[best] * d - x).abs() { i } else { best };
        (1..MXFP4.len()).fold(0, nearer) as u8
    };
    let q: [u8; BLOCK] = std::array::from_fn(|j| code(x[j]));
    put_nibbles(&q, &mut out[1..]);
}

pub(super) fn from_mxfp4(bytes: &[u8], out: &mut [f32]) {
    let d = half_of_power(bytes[0]);
    for (j, byte) in bytes[1..].iter().enumerate() {
        out[j] = MXFP4[usize::from(byte & 15)] * d;
        out[j + BLOCK / 2] = MXFP4[usize::from(byte >> 4)] * d;
    }
}

pub(super) fn q8_0(x: &[f32], out: &mut [u8]) {
    let d = x.iter().fold(0.0f32, |m, x| m.max(x.abs())) / 127.0;
    let id = inverse(d);
    put_half(out, 0, d);
    for (q, x) in out[2..].iter_mut().zip(x) {
        *q = (x * id).round() as i8 as u8;
    }
}

pub(super) fn q4_0(x: &[f32], out: &mut [u8]) {
    let d = extreme(x) / -8.0;
    let id = inverse(d);
    put_half(out, 0, d);
    let q: [u8; BLOCK] = std::array::from_fn(|j| ((x[j] * id + 8.5) as i8 as u8).min(15));
    put_nibbles(&q, &mut out[2..]);
}

pub(super) fn q4_1(x: &[f32], out: &mut [u8]) {
    let (min, max) = range(x);
    let d = (max - min) / 15.0;
    let id = inverse(d);
    put_half(out, 0, d);
    put_half(out, 2, min);
    let q: [u8; BLOCK] = std::array::from_fn(|j| (((x[j] - min) * id + 0.5) as i8 as u8).min(15));
    put_nibbles(&q, &mut out[4..]);
}

pub(super) fn q5_0(x: &[f32], out: &mut [u8]) {
    let d = extreme(x) / -16.0;
    let id = inverse(d);
    put_half(out, 0, d);
    let q: [u8; BLOCK] = std::array::from_fn(|j| ((x[j] * id + 16.5) as i8 as u8).min(31));
    put_fifth_bits(&q, &mut out[2..6]);
    put_nibbles(&q, &mut out[6..]);
}

pub(super) fn q5_1(x: &[f32], out: &mut [u8]) {
    let (min, max) = range(x);
    let d = (max - min) / 31.0;
    let id = inverse(d);
    put_half(out, 0, d);
    put_half(out, 2, min);
    let q: [u8; BLOCK] = std::array::from_fn(|j| ((x[j] - min) * id + 0.5) as u8);
    put_fifth_bits(&q, &mut out[4..8]);
    put_nibbles(&q, &mut out[8..]);
}

pub(super) fn from_q8_0(bytes: &[u8], out: &mut [f32]) {
    let d = half_at(bytes, 0);
    for (x, q) in out.iter_mut().zip(&bytes[2..]) {
        *x = f32::from(*q as i8) * d;
    }
}

/// Q4_0 without, Q4_1 with a minimum.
pub(super) fn from_q4(bytes: &[u8], out: &mut [f32], min: Option<f32>) {
    let d = half_at(bytes, 0);
    let nibbles = &bytes[if min.is_some() { 4 } else { 2 }..];
    for j in 0..BLOCK / 2 {
        for (place, q) in [(j, nibbles[j] & 15), (j + BLOCK / 2, nibbles[j] >> 4)] {
            out[place] = min.map_or((f32::from(q) - 8.0) * d, |min| f32::from(q) * d + min);
        }
    }
}

/// Q5_0 without, Q5_1 with a minimum.
pub(super) fn from_q5(bytes: &[u8], out: &mut [f32], min: Option<f32>) {
    let d = half_at(bytes, 0);
    let rest = &bytes[if min.is_some() { 4 } else { 2 }..];
    let (high, nibbles) = (u32::from_le_bytes([rest[0], rest[1], rest[2], rest[3]]), &rest[4..]);
    for j in 0..BLOCK / 2 {
        for (place, q) in [(j, nibbles[j] & 15), (j + BLOCK / 2, nibbles[j] >> 4)] {
            let q = f32::from(q | ((high >> place & 1) as u8) << 4);
            out[place] = min.map_or((q - 16.0) * d, |min| q * d + min);
        }
    }
}
