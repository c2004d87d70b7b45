//! Changes that turn a good file into one that nobody meant.

/// Draws that are the same in every run (SplitMix64).
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(seed: u64) -> Draw {
        Draw(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Inputs longer than this teach nothing more.
const LONGEST: usize = 1 << 16;

/// `base` with one to eight changes; `words` mean something to the parser.
pub(crate) fn mutate(base: &[u8], other: &[u8], words: &[&str], draw: &mut Draw) -> Vec<u8> {
    let mut out = base.to_vec();
    for _ in 0..1 + draw.below(8) {
        let at = draw.below(out.len() + 1);
        let length = draw.below((out.len() - at).min(64) + 1);
        match draw.below(9) {
            0 if at < out.len() => out[at] ^= 1 << draw.below(8),
            1 if at < out.len() => out[at] = draw.next() as u8,
            2 => drop(out.drain(at..at + length)),
            3 => {
                let copy = out[at..at + length].to_vec();
                let times = 1 + draw.below(8);
                let to = draw.below(out.len() + 1);
                out.splice(to..to, copy.repeat(times));
            }
            4 => out.truncate(at),
            5 if !words.is_empty() => drop(out.splice(at..at, words[draw.below(words.len())].bytes())),
            6 => {
                let from = draw.below(other.len() + 1);
                let part = other[from..(from + 1 + draw.below(256)).min(other.len())].to_vec();
                out.splice(at..at + length, part);
            }
            7 if out.len() >= 8 => {
                let at = draw.below(out.len() - 7);
                let width = [1, 2, 4, 8][draw.below(4)];
                let value = [0, 1, u64::MAX, i64::MAX as u64, i32::MAX as u64, 0x8000_0000, 0xffff][draw.below(7)];
                out[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
            }
            _ => {
                let number = ["0", "-1", "1e999", "18446744073709551616", "null", "\"\"", "[]", "{}"][draw.below(8)];
                out.splice(at..at, number.bytes());
            }
        }
    }
    out.truncate(LONGEST);
    out
}
