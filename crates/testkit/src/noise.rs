//! Seeded noise.

/// `n` numbers, uniform in [-1, 1), by Marsaglia's xorshift (2003); the same on every machine.
pub fn noise(n: usize, seed: u64) -> Vec<f64> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 11) as f64 / (1u64 << 52) as f64 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

#[cfg(test)]
mod tests {
    use super::noise;

    #[test]
    fn noise_is_centred_spread_and_repeats() {
        let x = noise(100_000, 7);
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let square = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
        assert!(x.iter().all(|v| (-1.0..1.0).contains(v)));
        assert!(mean.abs() < 0.01 && (square - 1.0 / 3.0).abs() < 0.01, "{mean} {square}");
        assert!(x == noise(100_000, 7) && x != noise(100_000, 8));
    }
}
