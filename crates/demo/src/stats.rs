//! Accuracies with their uncertainty.

use data::rng::Stream;

/// Standard normal quantile of 0.975, for 95 % intervals.
const Z: f64 = 1.959_963_984_540_054;

/// A number with its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Estimate {
    /// The number.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Estimate {
    /// Whether the interval leaves out 0.
    pub fn excludes_zero(&self) -> bool {
        self.low > 0.0 || self.high < 0.0
    }
}

/// The share of `successes` in `trials` (at least one) with Wilson's score interval (Wilson 1927).
pub fn wilson(successes: usize, trials: usize) -> Estimate {
    assert!(successes <= trials && trials > 0, "{successes} successes of {trials} trials");
    let (n, p) = (trials as f64, successes as f64 / trials as f64);
    let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    Estimate { value: p, low: (centre - half).max(0.0), high: (centre + half).min(1.0) }
}

/// The mean with its percentile bootstrap interval over `resamples` resamples (Efron 1979).
///
/// For the difference of two systems on the same problems give the differences problem by problem: the bootstrap is
/// then paired. Values of several samples of one problem are averaged before, as they are not independent.
pub fn bootstrap(values: &[f64], resamples: usize, seed: u64) -> Estimate {
    assert!(!values.is_empty() && resamples > 0, "a bootstrap of nothing");
    let n = values.len();
    let mean_of = |resample: u64| {
        let draw = Stream::new(seed, resample);
        (0..n as u64).map(|i| values[draw.below(i, n as u64) as usize]).sum::<f64>() / n as f64
    };
    let mut means: Vec<f64> = (0..resamples as u64).map(mean_of).collect();
    means.sort_unstable_by(f64::total_cmp);
    let quantile = |q: f64| means[((resamples as f64 * q) as usize).min(resamples - 1)];
    Estimate { value: values.iter().sum::<f64>() / n as f64, low: quantile(0.025), high: quantile(0.975) }
}

/// The paired difference `b - a`, problem by problem; see [`bootstrap`].
pub fn paired_difference(a: &[f64], b: &[f64], resamples: usize, seed: u64) -> Estimate {
    assert_eq!(a.len(), b.len(), "scores of different problems");
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| b - a).collect();
    bootstrap(&differences, resamples, seed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wilson_equals_published_values() {
        // Newcombe 1998 (Statistics in Medicine 17, 857-872), table I, method 3.
        for (r, n, low, high) in
            [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)]
        {
            let got = wilson(r, n);
            assert!((got.low - low).abs() < 5e-5 && (got.high - high).abs() < 5e-5, "{r}/{n}: {got:?}");
        }
    }

    #[test]
    fn the_bootstrap_interval_is_that_of_the_normal_approximation() {
        let values: Vec<f64> = (0..400).map(|i| f64::from(u8::from(i % 4 == 0))).collect();
        let got = bootstrap(&values, 10_000, 5);
        let half = Z * (0.25f64 * 0.75 / 400.0).sqrt();
        assert_eq!(got.value, 0.25);
        assert!((got.low - (0.25 - half)).abs() < 0.005 && (got.high - (0.25 + half)).abs() < 0.005, "{got:?}");
        assert_eq!(got, bootstrap(&values, 10_000, 5));
        assert_ne!(got, bootstrap(&values, 10_000, 6));
    }

    #[test]
    fn pairing_finds_what_separate_intervals_hide() {
        // Every problem is answered alike but for 12 of 300, all of them gained.
        let a: Vec<f64> = (0..300).map(|i| f64::from(u8::from(i % 2 == 0))).collect();
        let b: Vec<f64> = (0..300).map(|i| if i % 25 == 1 { 1.0 } else { a[i] }).collect();
        let gained = b.iter().zip(&a).filter(|(b, a)| b != a).count();
        let difference = paired_difference(&a, &b, 10_000, 0);
        assert!(
            (difference.value - gained as f64 / 300.0).abs() < 1e-12 && difference.excludes_zero(),
            "{difference:?}"
        );
        assert!(!paired_difference(&a, &a, 100, 0).excludes_zero());
        assert!(wilson(150 + gained, 300).low < wilson(150, 300).high);
    }
}
