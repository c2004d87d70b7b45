//! Counter-based random numbers: every draw is a pure function of (seed, stream, index), so nothing has to be saved.

/// SplitMix64's output function (Steele, Lea and Flood 2014): a bijection of 64-bit words that passes BigCrush on a counter.
pub fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The golden-ratio increment of SplitMix64.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// One family of draws. Two streams of one seed, or one stream of two seeds, are unrelated.
#[derive(Clone, Copy, Debug)]
pub struct Stream(u64);

impl Stream {
    /// The stream numbered `stream` (for example a purpose and an epoch folded together) under `seed`.
    pub fn new(seed: u64, stream: u64) -> Self {
        Stream(mix(mix(seed.wrapping_add(GAMMA)) ^ stream.wrapping_mul(GAMMA).wrapping_add(GAMMA)))
    }

    /// Draw number `index`, uniform over 64-bit words.
    pub fn at(self, index: u64) -> u64 {
        mix(self.0.wrapping_add(index.wrapping_add(1).wrapping_mul(GAMMA)))
    }

    /// Draw number `index`, uniform over `0..bound` (Lemire's multiply; bias below `bound / 2^64`).
    pub fn below(self, index: u64, bound: u64) -> u64 {
        ((u128::from(self.at(index)) * u128::from(bound)) >> 64) as u64
    }

    /// Shuffles `items` in place (Fisher-Yates): each of the orders is equally likely.
    pub fn shuffle<T>(self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i as u64, i as u64 + 1) as usize);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_fixed_for_ever() {
        // SplitMix64's published first outputs for state 0: a change here would silently reorder every resumed run.
        assert_eq!(mix(GAMMA), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(GAMMA.wrapping_mul(2)), 0x6e78_9e6a_a1b9_65f4);
        assert_eq!(Stream::new(0, 0).at(0), Stream(mix(mix(GAMMA) ^ GAMMA)).at(0));
    }

    #[test]
    fn shuffles_of_three_are_equally_likely() {
        let mut counts = std::collections::BTreeMap::new();
        for seed in 0..6000 {
            let mut items = [0, 1, 2];
            Stream::new(seed, 7).shuffle(&mut items);
            *counts.entry(items).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 6);
        assert!(counts.values().all(|&c| (850..1150).contains(&c)), "{counts:?}");
    }
}
