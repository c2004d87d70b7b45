//! The K types: superblocks of 256 values, whose sub-blocks have scales (and minima) of six or eight bits.
//!
//! Without an importance matrix a sub-block's scale is searched: some candidates around the one that fits the range, each
//! followed by the least-squares scale for the integers it gives; the least weighted error wins, the first of equals.

use super::{SUPER, half_at, put_half};

/// A scale below this is none.
const EPSILON: f32 = 1e-15;
/// Values of a sub-block of Q4_K and Q5_K.
const SUB: usize = 32;
/// Values of a sub-block of Q6_K.
const SIXTEEN: usize = 16;

/// To the nearest integer, ties to even, by the sum with 1.5 * 2^23, for amounts up to 2^22; anything for larger ones.
fn nearest(x: f32) -> i32 {
    let bits = (x + 12_582_912.0).to_bits() as i32;
    (bits & 0x007f_ffff) - 0x0040_0000
}

/// A scale and the integers -32..=31 plus 32 for 16 values, weighted by their squares.
fn symmetric(x: &[f32], levels: &mut [u8]) -> f32 {
    const MAX: i32 = 32;
    let largest = x.iter().fold((0.0f32, 0.0f32), |(a, m), &x| if x.abs() > a { (x.abs(), x) } else { (a, m) });
    if largest.0 < EPSILON {
        levels.fill(0);
        return 0.0;
    }
    let max = largest.1;
    let level = |inverse: f32, x: f32| nearest(inverse * x).clamp(-MAX, MAX - 1);
    let sums = |inverse: f32| {
        x.iter().fold((0.0f32, 0.0f32), |(xl, ll), &x| {
            let (w, l) = (x * x, level(inverse, x) as f32);
            (xl + w * x * l, ll + w * l * l)
        })
    };
    let mut chosen = -(MAX as f32) / max;
    let (xl, ll) = sums(chosen);
    let mut scale = if ll != 0.0 { xl / ll } else { 0.0 };
    let mut best = scale * xl;
    for step in (-9..=9).filter(|step| *step != 0) {
        let inverse = -(MAX as f32 + 0.1 * step as f32) / max;
        let (xl, ll) = sums(inverse);
        if ll > 0.0 && xl * xl > best * ll {
            (chosen, scale) = (inverse, xl / ll);
            best = scale * xl;
        }
    }
    for (l, &x) in levels.iter_mut().zip(x) {
        *l = (MAX + level(chosen, x)) as u8;
    }
    scale
}

/// How the scale of a sub-block with a minimum is searched.
struct Search {
    /// Greatest integer.
    max: i32,
    /// Of the first candidate, added to `max`.
    first: f32,
    /// Candidates after the first.
    steps: i32,
}

/// A scale, the amount of a minimum of at most 0, and the integers `0..=max` for 32 values.
fn with_minimum(x: &[f32], weights: &[f32], levels: &mut [u8], search: &Search) -> (f32, f32) {
    let (mut min, mut max) = (x[0], x[0]);
    let mut sum_w = weights[0];
    let mut sum_x = sum_w * x[0];
    for (&x, &w) in x.iter().zip(weights).skip(1) {
        if x < min {
            min = x;
        }
        if x > max {
            max = x;
        }
        sum_w += w;
        sum_x += w * x;
    }
    if min > 0.0 {
        min = 0.0;
    }
    if max == min {
        levels.fill(0);
        return (0.0, -min);
    }
    // As in ggml, a candidate starts from the best minimum so far, not from that of the range.
    let top = search.max as f32;
    let level = |inverse: f32, from: f32, x: f32| nearest(inverse * (x - from)).clamp(0, search.max) as u8;
    let error = |scale: f32, min: f32, levels: &[u8]| {
        let of = |sum: f32, ((&x, &w), &l): ((&f32, &f32), &u8)| {
            let off = scale * f32::from(l) + min - x;
            sum + w * (off * off)
        };
        x.iter().zip(weights).zip(levels).fold(0.0f32, of)
    };
    let inverse = top / (max - min);
    let mut scale = 1.0 / inverse;
    levels.iter_mut().zip(x).for_each(|(l, &x)| *l = level(inverse, min, x));
    let mut best = error(scale, min, levels);
    let mut tried = [0u8; SUB];
    for step in 0..=search.steps {
        let inverse = (search.first + 0.1 * step as f32 + top) / (max - min);
        let (mut sum_l, mut sum_l2, mut sum_xl) = (0.0f32, 0.0f32, 0.0f32);
        for ((&x, &w), tried) in x.iter().zip(weights).zip(&mut tried) {
            *tried = level(inverse, min, x);
            let l = f32::from(*tried);
            sum_l += w * l;
            sum_l2 += w * l * l;
            sum_xl += w * l * x;
        }
        let determinant = sum_w * sum_l2 - sum_l * sum_l;
        if determinant > 0.0 {
            let mut this_scale = (sum_w * sum_xl - sum_x * sum_l) / determinant;
            let mut this_min = (sum_l2 * sum_x - sum_l * sum_xl) / determinant;
            if this_min > 0.0 {
                this_min = 0.0;
                this_scale = sum_xl / sum_l2;
            }
            let this = error(this_scale, this_min, &tried);
            if this < best {
                levels.copy_from_slice(&tried);
                (best, scale, min) = (this, this_scale, this_min);
            }
        }
    }
    (scale, -min)
}

/// Scale and minimum, of six bits each, of sub-block `j` in the twelve bytes that hold those of eight.
fn six_bits(j: usize, bytes: &[u8]) -> (u8, u8) {
    match j {
        0..4 => (bytes[j] & 63, bytes[j + 4] & 63),
        _ => (bytes[j + 4] & 15 | (bytes[j - 4] >> 6) << 4, bytes[j + 4] >> 4 | (bytes[j] >> 6) << 4),
    }
}

/// Scales, minima and integers of a superblock; the first 16 bytes of `out` get the scales.
fn superblock(x: &[f32], out: &mut [u8], search: &Search) -> [u8; SUPER] {
    let mut levels = [0u8; SUPER];
    let (mut scales, mut minima) = ([0f32; 8], [0f32; 8]);
    let (mut max_scale, mut max_min) = (0f32, 0f32);
    for (j, (x, levels)) in x.chunks_exact(SUB).zip(levels.chunks_exact_mut(SUB)).enumerate() {
        let square = x.iter().fold(0f32, |sum, x| sum + x * x);
        let rms = (square / SUB as f32).sqrt();
        let weights: [f32; SUB] = std::array::from_fn(|l| rms + x[l].abs());
        (scales[j], minima[j]) = with_minimum(x, &weights, levels, search);
        max_scale = if scales[j] > max_scale { scales[j] } else { max_scale };
        max_min = if minima[j] > max_min { minima[j] } else { max_min };
    }
    let inverse = |max: f32| if max > 0.0 { 63.0 / max } else { 0.0 };
    let (by_scale, by_min) = (inverse(max_scale), inverse(max_min));
    let packed = &mut out[4..16];
    packed.fill(0);
    for j in 0..8 {
        let six = |x: f32| (nearest(x) as u8).min(63);
        let (scale, min) = (six(by_scale * scales[j]), six(by_min * minima[j]));
        if j < 4 {
            (packed[j], packed[j + 4]) = (scale, min);
        } else {
            packed[j + 4] = (scale & 15) | (min & 15) << 4;
            packed[j - 4] |= (scale >> 4) << 6;
            packed[j] |= (min >> 4) << 6;
        }
    }
    let (d, d_min) = (put_half(out, 0, max_scale / 63.0), put_half(out, 2, max_min / 63.0));
    for (j, (x, levels)) in x.chunks_exact(SUB).zip(levels.chunks_exact_mut(SUB)).enumerate() {
        let (scale, min) = six_bits(j, &out[4..16]);
        let (d, m) = (d * f32::from(scale), d_min * f32::from(min));
        if d != 0.0 {
            levels.iter_mut().zip(x).for_each(|(l, &x)| *l = nearest((x + m) / d).clamp(0, search.max) as u8);
        }
    }
    levels
}

/// Nibbles of each 64 values: the first 32 low, the others high.
fn put_nibbles(levels: &[u8; SUPER], out: &mut [u8]) {
    for (levels, out) in levels.chunks_exact(2 * SUB).zip(out.chunks_exact_mut(SUB)) {
        for j in 0..SUB {
            out[j] = levels[j] & 15 | (levels[j + SUB] & 15) << 4;
        }
    }
}

pub(super) fn q4(x: &[f32], out: &mut [u8]) {
    let levels = superblock(x, out, &Search { max: 15, first: -1.0, steps: 20 });
    put_nibbles(&levels, &mut out[16..]);
}

pub(super) fn q5(x: &[f32], out: &mut [u8]) {
    let levels = superblock(x, out, &Search { max: 31, first: -0.5, steps: 15 });
    let (high, nibbles) = out[16..].split_at_mut(SUB);
    put_nibbles(&levels, nibbles);
    for (j, high) in high.iter_mut().enumerate() {
        *high = (0..8).fold(0, |bits, sub| bits | (levels[sub * SUB + j] >> 4) << sub);
    }
}

pub(super) fn q6(x: &[f32], out: &mut [u8]) {
    let mut levels = [0u8; SUPER];
    let mut scales = [0f32; 16];
    let (mut largest, mut max) = (0f32, 0f32);
    for (j, (x, levels)) in x.chunks_exact(SIXTEEN).zip(levels.chunks_exact_mut(SIXTEEN)).enumerate() {
        scales[j] = symmetric(x, levels);
        if scales[j].abs() > largest {
            (largest, max) = (scales[j].abs(), scales[j]);
        }
    }
    out.fill(0);
    if largest < EPSILON {
        return;
    }
    let inverse = -128.0 / max;
    let d = put_half(out, 208, 1.0 / inverse);
    for j in 0..16 {
        let scale = nearest(inverse * scales[j]).min(127) as i8;
        out[192 + j] = scale as u8;
        let d = d * f32::from(scale);
        if d != 0.0 {
            for i in SIXTEEN * j..SIXTEEN * (j + 1) {
                levels[i] = (nearest(x[i] / d).clamp(-32, 31) + 32) as u8;
            }
        }
    }
    for (half, levels) in levels.chunks_exact(SUPER / 2).enumerate() {
        for l in 0..SUB {
            let q: [u8; 4] = std::array::from_fn(|quarter| levels[l + quarter * SUB]);
            out[64 * half + l] = q[0] & 15 | (q[2] & 15) << 4;
            out[64 * half + l + SUB] = q[1] & 15 | (q[3] & 15) << 4;
            out[128 + SUB * half + l] = q[0] >> 4 | (q[1] >> 4) << 2 | (q[2] >> 4) << 4 | (q[3] >> 4) << 6;
        }
    }
}

/// `scale * level - min` of the eight sub-blocks.
fn with_scales(bytes: &[u8], out: &mut [f32], level: impl Fn(usize, usize) -> u8) {
    let (d, d_min) = (half_at(bytes, 0), half_at(bytes, 2));
    for (j, out) in out.chunks_exact_mut(SUB).enumerate() {
        let (scale, min) = six_bits(j, &bytes[4..16]);
        let (d, m) = (d * f32::from(scale), d_min * f32::from(min));
        for (l, out) in out.iter_mut().enumerate() {
            *out = d * f32::from(level(j, l)) - m;
        }
    }
}

pub(super) fn from_q4(bytes: &[u8], out: &mut [f32]) {
    with_scales(bytes, out, |j, l| bytes[16 + SUB * (j / 2) + l] >> (4 * (j % 2)) & 15);
}

pub(super) fn from_q5(bytes: &[u8], out: &mut [f32]) {
    let (high, nibbles) = (&bytes[16..48], &bytes[48..]);
    with_scales(bytes, out, |j, l| nibbles[SUB * (j / 2) + l] >> (4 * (j % 2)) & 15 | (high[l] >> j & 1) << 4);
}

pub(super) fn from_q6(bytes: &[u8], out: &mut [f32]) {
    let d = half_at(bytes, 208);
    for (i, out) in out.iter_mut().enumerate() {
        let (half, quarter, l) = (i / 128, i % 128 / SUB, i % SUB);
        let low = bytes[64 * half + SUB * (quarter % 2) + l] >> (4 * (quarter / 2)) & 15;
        let high = bytes[128 + SUB * half + l] >> (2 * quarter) & 3;
        let level = i32::from(low | high << 4) - 32;
        *out = d * f32::from(bytes[192 + i / SIXTEEN] as i8) * level as f32;
    }
}
