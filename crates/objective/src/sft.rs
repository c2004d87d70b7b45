//! Negative log-likelihood (`nll`): the mean over every target token of the whole step.

/// Derivative of the step's loss by each target token's log-probability: `-1 / n`.
///
/// `target_tokens` counts the targets of the whole optimiser step (all micro-batches, all ranks), so the loss does not
/// depend on how the step is cut. A step without targets has loss 0 (as TRL 1.16, which divides by at least 1).
pub fn coefficient(target_tokens: usize) -> f64 {
    -1.0 / target_tokens.max(1) as f64
}

/// The step's loss in nats per token, from the sum of its target tokens' log-probabilities.
pub fn loss(sum_logp: f64, target_tokens: usize) -> f64 {
    coefficient(target_tokens) * sum_logp
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_the_token_mean_and_the_coefficient_its_derivative() {
        assert_eq!(loss(-12.0, 8), 1.5);
        assert_eq!(coefficient(8), -0.125);
        assert_eq!(loss(-12.0 + 0.5, 8) - loss(-12.0, 8), 0.5 * coefficient(8));
    }

    #[test]
    fn a_step_without_targets_costs_nothing() {
        assert_eq!(loss(0.0, 0), 0.0);
        assert!(coefficient(0).is_finite());
    }
}
