//! Storage types of ggml: values to blocks of bytes and back.
//!
//! The quantisers do the arithmetic of ggml's reference quantisers, in f32 and in the same order, so that the same weights
//! become the same bytes. Block layouts: ggml's `ggml-common.h`; the searches: `ggml-quants.c` (MIT).

mod k;
mod simple;

use half::{bf16, f16};

/// Values in a superblock of the K types.
pub(crate) const SUPER: usize = 256;
/// Values in a block of the simple types.
pub(crate) const BLOCK: usize = 32;

/// How a tensor's values are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[allow(missing_docs)]
pub enum Kind {
    F32,
    F16,
    BF16,
    Q8_0,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q4K,
    Q5K,
    Q6K,
    Mxfp4,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::F32,
        Self::F16,
        Self::BF16,
        Self::Q8_0,
        Self::Q4_0,
        Self::Q4_1,
        Self::Q5_0,
        Self::Q5_1,
        Self::Q4K,
        Self::Q5K,
        Self::Q6K,
        Self::Mxfp4,
    ];

    /// Its number in files.
    pub fn id(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q4_0 => 2,
            Self::Q4_1 => 3,
            Self::Q5_0 => 6,
            Self::Q5_1 => 7,
            Self::Q8_0 => 8,
            Self::Q4K => 12,
            Self::Q5K => 13,
            Self::Q6K => 14,
            Self::BF16 => 30,
            Self::Mxfp4 => 39,
        }
    }

    /// The type of that number.
    pub fn from_id(id: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.id() == id)
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "F32",
            Self::F16 => "F16",
            Self::BF16 => "BF16",
            Self::Q8_0 => "Q8_0",
            Self::Q4_0 => "Q4_0",
            Self::Q4_1 => "Q4_1",
            Self::Q5_0 => "Q5_0",
            Self::Q5_1 => "Q5_1",
            Self::Q4K => "Q4_K",
            Self::Q5K => "Q5_K",
            Self::Q6K => "Q6_K",
            Self::Mxfp4 => "MXFP4",
        }
    }

    /// Values and bytes of a block.
    pub fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::F16 | Self::BF16 => (1, 2),
            Self::Q8_0 => (BLOCK, 34),
            Self::Q4_0 => (BLOCK, 18),
            Self::Q4_1 => (BLOCK, 20),
            Self::Q5_0 => (BLOCK, 22),
            Self::Q5_1 => (BLOCK, 24),
            Self::Q4K => (SUPER, 144),
            Self::Q5K => (SUPER, 176),
            Self::Q6K => (SUPER, 210),
            Self::Mxfp4 => (BLOCK, 17),
        }
    }

    /// Bytes of `values` values, a whole number of blocks.
    pub fn bytes(self, values: usize) -> usize {
        let (block, bytes) = self.block();
        assert_eq!(values % block, 0, "{values} values in blocks of {block}");
        values / block * bytes
    }

    /// Stores `values`, a whole number of blocks, in `out`, which has [`Kind::bytes`] of them.
    pub fn quantise(self, values: &[f32], out: &mut [u8]) {
        assert_eq!(out.len(), self.bytes(values.len()), "bytes for {} values of {}", values.len(), self.name());
        let (block, bytes) = self.block();
        for (x, out) in values.chunks_exact(block).zip(out.chunks_exact_mut(bytes)) {
            match self {
                Self::F32 => out.copy_from_slice(&x[0].to_le_bytes()),
                Self::F16 => out.copy_from_slice(&f16::from_f32(x[0]).to_le_bytes()),
                Self::BF16 => out.copy_from_slice(&bf16::from_f32(x[0]).to_le_bytes()),
                Self::Q8_0 => simple::q8_0(x, out),
                Self::Q4_0 => simple::q4_0(x, out),
                Self::Q4_1 => simple::q4_1(x, out),
                Self::Q5_0 => simple::q5_0(x, out),
                Self::Q5_1 => simple::q5_1(x, out),
                Self::Q4K => k::q4(x, out),
                Self::Q5K => k::q5(x, out),
                Self::Q6K => k::q6(x, out),
                Self::Mxfp4 => simple::mxfp4(x, out),
            }
        }
    }

    /// The values stored in `bytes`, a whole number of blocks.
    pub fn dequantise(self, bytes: &[u8], out: &mut [f32]) {
        assert_eq!(bytes.len(), self.bytes(out.len()), "bytes for {} values of {}", out.len(), self.name());
        let (block, size) = self.block();
        for (bytes, out) in bytes.chunks_exact(size).zip(out.chunks_exact_mut(block)) {
            match self {
                Self::F32 => out[0] = f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]),
                Self::F16 => out[0] = half_at(bytes, 0),
                Self::BF16 => out[0] = bf16::from_le_bytes([bytes[0], bytes[1]]).to_f32(),
                Self::Q8_0 => simple::from_q8_0(bytes, out),
                Self::Q4_0 => simple::from_q4(bytes, out, None),
                Self::Q4_1 => simple::from_q4(bytes, out, Some(half_at(bytes, 2))),
                Self::Q5_0 => simple::from_q5(bytes, out, None),
                Self::Q5_1 => simple::from_q5(bytes, out, Some(half_at(bytes, 2))),
                Self::Q4K => k::from_q4(bytes, out),
                Self::Q5K => k::from_q5(bytes, out),
                Self::Q6K => k::from_q6(bytes, out),
                Self::Mxfp4 => simple::from_mxfp4(bytes, out),
            }
        }
    }
}

/// The f16 at byte `at`.
fn half_at(bytes: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([bytes[at], bytes[at + 1]]).to_f32()
}

/// Rounds `x` to f16, stores it at byte `at` and returns what was stored.
fn put_half(out: &mut [u8], at: usize, x: f32) -> f32 {
    let rounded = f16::from_f32(x);
    out[at..at + 2].copy_from_slice(&rounded.to_le_bytes());
    rounded.to_f32()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers like weights: a few large among many small.
    pub(crate) fn noise(n: usize) -> Vec<f32> {
        let mut state = 1u64;
        let mut next = move || {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            ((state >> 40) as f32) / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next() * next() * next()).collect()
    }

    /// Root of the mean square of the error, relative to the values.
    fn error(kind: Kind, x: &[f32]) -> f32 {
        let mut bytes = vec![0; kind.bytes(x.len())];
        kind.quantise(x, &mut bytes);
        let mut back = vec![0.0; x.len()];
        kind.dequantise(&bytes, &mut back);
        let square = |it: &mut dyn Iterator<Item = f32>| it.map(|v| v * v).sum::<f32>();
        (square(&mut x.iter().zip(&back).map(|(a, b)| a - b)) / square(&mut x.iter().copied())).sqrt()
    }

    #[test]
    fn bytes_are_those_of_ggml() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/gguf/ggml.bin");
        let (expected, x) = (std::fs::read(path).unwrap(), noise(2048));
        let mut rest = &expected[..];
        for kind in [Kind::Q8_0, Kind::Q4_0, Kind::Q4_1, Kind::Q5_0, Kind::Q5_1, Kind::Q4K, Kind::Q5K, Kind::Q6K] {
            let mut bytes = vec![0; kind.bytes(x.len())];
            kind.quantise(&x, &mut bytes);
            let (expected, after) = rest.split_at(bytes.len());
            let differ =
                bytes.chunks(kind.block().1).zip(expected.chunks(kind.block().1)).filter(|(a, b)| a != b).count();
            assert_eq!(differ, 0, "blocks of {}", kind.name());
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn more_bits_err_less() {
        let x = noise(256 * 64);
        let errors: Vec<f32> =
            [Kind::F32, Kind::F16, Kind::Q8_0, Kind::Q6K, Kind::Q5K, Kind::Q4K].map(|kind| error(kind, &x)).to_vec();
        assert!(errors.windows(2).all(|pair| pair[0] < pair[1]), "{errors:?}");
        assert!(errors[0] == 0.0 && errors[5] < 0.12, "{errors:?}");
        assert!(error(Kind::Q5_1, &x) < error(Kind::Q4_1, &x) && error(Kind::Q5_0, &x) < error(Kind::Q4_0, &x));
    }

    #[test]
    fn what_cannot_be_scaled_is_stored_as_nothing_and_nothing_panics() {
        for kind in Kind::ALL {
            for fill in [0.0, 1e-30, -3.0, f32::MAX, f32::NAN, f32::INFINITY] {
                let x = vec![fill; 256];
                let mut bytes = vec![0; kind.bytes(256)];
                kind.quantise(&x, &mut bytes);
                let mut back = vec![1.0; 256];
                kind.dequantise(&bytes, &mut back);
                if fill == 0.0 {
                    assert!(back.iter().all(|x| *x == 0.0), "{}", kind.name());
                }
                if fill == -3.0 {
                    assert!(back.iter().all(|x| (x + 3.0).abs() < 0.05), "{}: {back:?}", kind.name());
                }
            }
        }
    }

    #[test]
    fn values_of_mxfp4_come_back_as_they_were_whatever_scale_they_had() {
        for largest in 1..8 {
            let x: Vec<f32> = (0..32).map(|i| simple::MXFP4[(i % (largest + 1)) + 8 * (i % 2)] * 0.125).collect();
            assert_eq!(error(Kind::Mxfp4, &x), 0.0, "{x:?}");
        }
    }

    #[test]
    fn every_number_names_one_type() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_id(kind.id()), Some(kind));
        }
        assert_eq!(Kind::from_id(99), None);
    }
}
