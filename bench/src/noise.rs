//! Made-up inputs, the same on every machine.

use data::rng::Stream;

/// `n` numbers, uniform in [-1, 1).
pub(crate) fn floats(n: usize, seed: u64) -> Vec<f32> {
    let draw = Stream::new(seed, 0);
    (0..n as u64).map(|i| (draw.at(i) >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

/// As many, the same ones again and again: enough where speed does not depend on values.
pub(crate) fn cycled(n: usize, seed: u64) -> Vec<f32> {
    let few = floats(n.min(1 << 20), seed);
    few.iter().copied().cycle().take(n).collect()
}

/// `n` tokens of a vocabulary.
pub(crate) fn tokens(n: usize, vocabulary: usize, seed: u64) -> Vec<u32> {
    let draw = Stream::new(seed, 1);
    (0..n as u64).map(|i| draw.below(i, vocabulary as u64) as u32).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn noise_lies_in_its_range_and_repeats() {
        let x = floats(10_000, 7);
        assert!(x.iter().all(|x| (-1.0..1.0).contains(x)) && x == floats(10_000, 7) && x != floats(10_000, 8));
        assert!(tokens(1000, 10, 1).iter().all(|&t| t < 10));
    }
}
