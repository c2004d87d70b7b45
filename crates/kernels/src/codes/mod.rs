//! Weights held as codes of four or eight bits: what a code means, and turning many of them into numbers.
//!
//! The plain loop of `plain` defines the values; the instruction sets beside it give the same bits.

#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "x86_64")]
mod x86;

use crate::Real;
use crate::StoredDtype;
use crate::cpu::simd::{Isa, isa, loops};
use half::f16;
use std::ops::Range;

/// Blocks whose scales are worked out together.
const BLOCKS: usize = 64;
/// Codes of four bits that an instruction set takes at a time.
const STEP: usize = 32;
/// A signed byte's share of its row's scale, as bitsandbytes has it.
const BYTE: f32 = 1.0 / 127.0;

/// How a tensor's codes become numbers: blocks of consecutive elements, rows after one another, share a scale.
///
/// Four bits: `table[code] * scale`, rounded to `rounded`; of two codes in a byte the first is the upper half.
/// Eight bits: `code * scale / 127` with a signed code. (Dettmers et al. 2022, 2023; arXiv 2208.07339, 2305.14314.)
#[derive(Clone, Debug, PartialEq)]
pub struct Codes {
    /// What the codes of four bits stand for.
    pub table: [f32; 16],
    /// Elements that share a scale.
    pub block: usize,
    /// One scale per block.
    pub scales: Scales,
    /// The type that a value of four bits is rounded to: f32, bf16 or f16.
    pub rounded: StoredDtype,
}

/// The scales of a tensor's blocks.
#[derive(Clone, Debug, PartialEq)]
pub enum Scales {
    /// As they are.
    Plain(Vec<f32>),
    /// As codes of eight bits themselves: `table[code] * scales[number / block] + offset`.
    Nested {
        /// One per block.
        codes: Vec<u8>,
        /// What they stand for.
        table: Box<[f32; 256]>,
        /// Codes that share a scale.
        block: usize,
        /// Their scales.
        scales: Vec<f32>,
        /// Added to all.
        offset: f32,
    },
}

impl Scales {
    /// Number of scales.
    pub fn len(&self) -> usize {
        match self {
            Scales::Plain(scales) => scales.len(),
            Scales::Nested { codes, .. } => codes.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The scale of a block.
    pub fn at(&self, i: usize) -> f32 {
        match self {
            Scales::Plain(scales) => scales[i],
            Scales::Nested { codes, table, block, scales, offset } => {
                table[usize::from(codes[i])] * scales[i / block] + offset
            }
        }
    }

    /// Bytes that they take.
    pub fn byte_len(&self) -> usize {
        match self {
            Scales::Plain(scales) => 4 * scales.len(),
            Scales::Nested { codes, scales, .. } => codes.len() + 4 * (scales.len() + 256),
        }
    }
}

/// Floats that codes are turned into.
pub trait Decode: Sized {
    /// Elements `elements` of the tensor whose codes are `bytes`, into `dst`, which has a place for each.
    fn decode(dtype: StoredDtype, bytes: &[u8], codes: &Codes, elements: Range<usize>, dst: &mut [Self]);
}

impl Decode for f32 {
    fn decode(dtype: StoredDtype, bytes: &[u8], codes: &Codes, elements: Range<usize>, dst: &mut [f32]) {
        assert_eq!(elements.len(), dst.len(), "elements and places for them");
        let (mut at, mut rest, mut scales) = (elements.start, dst, [0.0; BLOCKS]);
        while at < elements.end {
            let first = at / codes.block;
            let past = elements.end.div_ceil(codes.block).min(first + BLOCKS);
            let scales = &mut scales[..past - first];
            (first..past).zip(&mut *scales).for_each(|(i, s)| *s = codes.scales.at(i));
            let run = at..elements.end.min(past * codes.block);
            let (now, later) = rest.split_at_mut(run.len());
            at = run.end;
            match dtype {
                StoredDtype::Code4 => four(&Run { bytes, codes, elements: run, scales }, now),
                StoredDtype::Code8 => eight(&Run { bytes, codes, elements: run, scales }, now),
                other => unreachable!("{other:?} has no codes"),
            }
            rest = later;
        }
    }
}

impl Decode for f64 {
    fn decode(dtype: StoredDtype, bytes: &[u8], codes: &Codes, elements: Range<usize>, dst: &mut [f64]) {
        let mut single = [0.0f32; 256];
        for (piece, first) in dst.chunks_mut(single.len()).zip(elements.step_by(single.len())) {
            let single = &mut single[..piece.len()];
            f32::decode(dtype, bytes, codes, first..first + piece.len(), single);
            piece.iter_mut().zip(single).for_each(|(y, x)| *y = f64::from(*x));
        }
    }
}

/// Consecutive elements of a tensor, and the scales of the blocks that they lie in.
struct Run<'a> {
    bytes: &'a [u8],
    codes: &'a Codes,
    elements: Range<usize>,
    /// The first is of the first element's block.
    scales: &'a [f32],
}

loops! {
    /// Codes of eight bits.
    trait CodeLoops {
        /// `code * scale / 127`.
        fn signed_bytes(bytes: &[u8], scale: f32, dst: &mut [E]) {
            for (y, b) in dst.iter_mut().zip(bytes) {
                *y = E::of(f64::from(f32::from(*b as i8) * scale * BYTE));
            }
        }
    }
}

fn eight(run: &Run, dst: &mut [f32]) {
    let (block, mut rest) = (run.codes.block, dst);
    let mut at = run.elements.start;
    for (scale, number) in run.scales.iter().zip(at / block..) {
        let end = run.elements.end.min((number + 1) * block);
        let (now, later) = rest.split_at_mut(end - at);
        f32::signed_bytes(&run.bytes[at..end], *scale, now);
        (at, rest) = (end, later);
    }
}

fn four(run: &Run, dst: &mut [f32]) {
    let Codes { table, block, rounded, .. } = run.codes;
    let (block, rounded, start, end) = (*block, *rounded, run.elements.start, run.elements.end);
    if start.is_multiple_of(block) && end.is_multiple_of(block) && block.is_multiple_of(STEP) {
        let bytes = &run.bytes[start / 2..end / 2];
        return vectors(&Steps { bytes, table, block, scales: run.scales, rounded }, dst);
    }
    // Within a block, whole steps of whole bytes; the rest one by one.
    let (mut at, mut rest) = (start, dst);
    for (scale, number) in run.scales.iter().zip(start / block..) {
        let end = end.min((number + 1) * block);
        let odd = (at % 2).min(end - at);
        let block = (end - at - odd) / STEP * STEP;
        for (count, steps) in [(odd, false), (block, block > 0), (end - at - odd - block, false)] {
            let (now, later) = rest.split_at_mut(count);
            if steps {
                let (bytes, scales) = (&run.bytes[at / 2..(at + count) / 2], std::slice::from_ref(scale));
                vectors(&Steps { bytes, table, block, scales, rounded }, now);
            } else {
                single(run.bytes, at, &scaled(table, *scale, rounded), now);
            }
            (at, rest) = (at + count, later);
        }
    }
}

/// Whole blocks of whole steps.
struct Steps<'a> {
    bytes: &'a [u8],
    table: &'a [f32; 16],
    block: usize,
    /// One per block.
    scales: &'a [f32],
    rounded: StoredDtype,
}

/// Codes from element `at` on, one by one.
fn single(bytes: &[u8], at: usize, table: &[f32; 16], dst: &mut [f32]) {
    for (y, i) in dst.iter_mut().zip(at..) {
        *y = table[usize::from(bytes[i / 2] >> (4 * (1 - i % 2)) & 15)];
    }
}

/// The values of a block's sixteen codes.
#[inline(always)]
fn scaled(table: &[f32; 16], scale: f32, rounded: StoredDtype) -> [f32; 16] {
    let values = table.map(|x| x * scale);
    match rounded {
        StoredDtype::Bf16 => values.map(|x| {
            let bits = x.to_bits();
            f32::from_bits(bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000)
        }),
        StoredDtype::F16 => values.map(|x| f16::from_f32(x).to_f32()),
        _ => values,
    }
}

fn vectors(steps: &Steps, dst: &mut [f32]) {
    let len = steps.scales.len() * steps.block;
    assert!(steps.block.is_multiple_of(STEP) && len == dst.len() && 2 * steps.bytes.len() == len);
    match isa() {
        // SAFETY: the features were detected; the lengths were compared above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => unsafe { x86::four_512(steps, dst) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => unsafe { x86::four_256(steps, dst) },
        // SAFETY: every 64-bit ARM has these instructions; the lengths were compared above.
        #[cfg(target_arch = "aarch64")]
        Isa::Plain => unsafe { neon::four(steps, dst) },
        #[cfg(not(target_arch = "aarch64"))]
        Isa::Plain => plain(steps, dst),
    }
}

/// What every instruction set gives.
#[cfg_attr(target_arch = "aarch64", allow(dead_code))] // there it is only compared with
fn plain(steps: &Steps, dst: &mut [f32]) {
    let blocks = steps.bytes.chunks_exact(steps.block / 2).zip(dst.chunks_exact_mut(steps.block));
    for ((bytes, dst), scale) in blocks.zip(steps.scales) {
        let table = scaled(steps.table, *scale, steps.rounded);
        for (pair, byte) in dst.chunks_exact_mut(2).zip(bytes) {
            pair[0] = table[usize::from(byte >> 4)];
            pair[1] = table[usize::from(byte & 15)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(n: usize, seed: u32) -> impl Iterator<Item = u32> {
        (0..n as u32).map(move |i| (i ^ seed).wrapping_mul(0x9e37_79b9).rotate_left(13).wrapping_mul(0x85eb_ca6b) >> 7)
    }

    fn codes(len: usize, block: usize, rounded: StoredDtype) -> (Vec<u8>, Codes) {
        let mut table = [0.0; 16];
        noise(16, 3).zip(&mut table).for_each(|(r, t)| *t = (r % 4001) as f32 / 2000.0 - 1.0);
        let bytes = noise(len, 1).map(|r| r as u8).collect();
        let mut scales: Vec<f32> = noise(len.div_ceil(block), 2).map(|r| (r % 977) as f32 * 1e-3).collect();
        scales.iter_mut().zip([0.0, 1e-40, 65504.0, 3e38]).for_each(|(s, odd)| *s = odd);
        (bytes, Codes { table, block, scales: Scales::Plain(scales), rounded })
    }

    /// A value by the definition.
    fn value(bytes: &[u8], codes: &Codes, i: usize) -> f32 {
        let code = if i.is_multiple_of(2) { bytes[i / 2] >> 4 } else { bytes[i / 2] & 15 };
        let x = codes.table[usize::from(code)] * codes.scales.at(i / codes.block);
        match codes.rounded {
            StoredDtype::Bf16 => half::bf16::from_f32(x).to_f32(),
            StoredDtype::F16 => f16::from_f32(x).to_f32(),
            _ => x,
        }
    }

    #[test]
    fn any_run_of_codes_has_the_values_of_the_definition() {
        for (block, rounded) in [
            (64, StoredDtype::F32),
            (64, StoredDtype::Bf16),
            (32, StoredDtype::F16),
            (128, StoredDtype::F32),
            (7, StoredDtype::Bf16),
        ] {
            let (bytes, codes) = codes(6000, block, rounded);
            for (start, end) in
                [(0, 0), (0, 1), (1, 2), (0, 64), (64, 6000), (3, 4), (63, 65), (5, 771), (130, 5999), (97, 193)]
            {
                let mut got = vec![f32::NAN; end - start];
                f32::decode(StoredDtype::Code4, &bytes, &codes, start..end, &mut got);
                let mut wide = vec![f64::NAN; end - start];
                f64::decode(StoredDtype::Code4, &bytes, &codes, start..end, &mut wide);
                for (i, (g, w)) in (start..end).zip(got.iter().zip(&wide)) {
                    let want = value(&bytes, &codes, i);
                    assert!(
                        g.to_bits() == want.to_bits() && *w == f64::from(want),
                        "{i} of {start}..{end}, blocks of {block}: {g} for {want}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_instruction_set_gives_the_same_bits() {
        let (bytes, codes) = codes(64 * 40, 64, StoredDtype::Bf16);
        let Scales::Plain(scales) = &codes.scales else { unreachable!() };
        let steps = Steps { bytes: &bytes[..32 * 40], table: &codes.table, block: 64, scales, rounded: codes.rounded };
        let made = |work: &dyn Fn(&mut [f32])| -> Vec<u32> {
            let mut dst = vec![f32::NAN; 64 * 40];
            work(&mut dst);
            dst.iter().map(|x| x.to_bits()).collect()
        };
        let want = made(&|dst| plain(&steps, dst));
        assert_eq!(want, made(&|dst| vectors(&steps, dst)));
        #[cfg(target_arch = "x86_64")]
        if isa() != Isa::Plain {
            // SAFETY: detected; lengths as in `vectors`.
            assert_eq!(want, made(&|dst| unsafe { x86::four_256(&steps, dst) }));
        }
    }

    #[test]
    fn bytes_are_signed_and_share_the_scale_of_their_row() {
        let bytes = [0u8, 127, 129, 255, 1, 2];
        let codes =
            Codes { table: [0.0; 16], block: 3, scales: Scales::Plain(vec![2.0, 127.0]), rounded: StoredDtype::F32 };
        let mut got = [0.0f32; 5];
        f32::decode(StoredDtype::Code8, &bytes, &codes, 1..6, &mut got);
        assert_eq!(got, [2.0, -2.0, -1.0, 1.0, 2.0]);
    }
}
