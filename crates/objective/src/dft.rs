//! Dynamic fine-tuning (Wu et al. 2025, arXiv 2508.05629): each token's loss is weighted by its own probability.

/// The loss of tokens of log-probability `logp` (nats), `-p logp`, and its derivative by `logp`, `-p`: the probability is a weight
/// and is not differentiated.
pub fn token(logp: f64) -> (f64, f64) {
    let p = logp.exp();
    (-p * logp, -p)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_weight_is_the_probability() {
        let (loss, slope) = token(-2.0);
        assert_eq!(slope, -(-2.0f64).exp());
        assert_eq!(loss, 2.0 * (-2.0f64).exp());
        assert_eq!(token(0.0), (0.0, -1.0));
    }
}
