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

/// The mean of values that are independent, with the normal approximation's interval, within 0 and 1.
pub fn mean_share(values: &[f64]) -> Estimate {
    assert!(!values.is_empty(), "a mean of nothing");
    let n = values.len() as f64;
    let mean = values.iter().sum::<f64>() / n;
    let variance = values.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / (n - 1.0).max(1.0);
    let half = Z * (variance / n).sqrt();
    Estimate { value: mean, low: (mean - half).max(0.0), high: (mean + half).min(1.0) }
}

/// How likely differences at least as large come about when neither of two systems is better: two-sided, paired.
///
/// Where every difference is 0 or a whole 1 this is McNemar's exact test (Dixon and Mood 1946 for its sign form); else the
/// signs are flipped at random, 10,000 times.
pub fn paired_p(differences: &[f64], seed: u64) -> f64 {
    let (up, down) = (count(differences, |d| d > 0.0), count(differences, |d| d < 0.0));
    if differences.iter().all(|d| *d == 0.0 || d.abs() == 1.0) {
        return sign_test(up, down);
    }
    const FLIPS: u64 = 10_000;
    let observed = differences.iter().sum::<f64>().abs();
    let flipped = |flip: u64| {
        let draw = Stream::new(seed, flip);
        let signed = |(i, d): (usize, &f64)| if draw.at(i as u64) & 1 == 0 { *d } else { -d };
        differences.iter().enumerate().map(signed).sum::<f64>().abs()
    };
    // A sum of the same terms in another order is not always the same number.
    let as_large = (0..FLIPS).filter(|&flip| flipped(flip) >= observed - 1e-9).count();
    (as_large as f64 + 1.0) / (FLIPS as f64 + 1.0)
}

fn count(values: &[f64], test: impl Fn(f64) -> bool) -> usize {
    values.iter().filter(|value| test(**value)).count()
}

/// Two-sided probability of `up` and `down` under a fair coin.
fn sign_test(up: usize, down: usize) -> f64 {
    let n = up + down;
    // ln C(n, i) - n ln 2, by recurrence.
    let mut ln = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = 0.0;
    for i in 0..=up.min(down) {
        tail += ln.exp();
        ln += ((n - i) as f64).ln() - ((i + 1) as f64).ln();
    }
    (2.0 * tail).min(1.0)
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

    #[test]
    fn the_paired_test_is_exact_for_right_and_wrong() {
        // 2 P(X <= 2) of Binomial(12, 1/2) is 158/4096.
        let differences: Vec<f64> = (0..50)
            .map(|i| {
                [1.0, -1.0, 0.0][if i < 10 {
                    0
                } else if i < 12 {
                    1
                } else {
                    2
                }]
            })
            .collect();
        assert!((paired_p(&differences, 0) - 158.0 / 4096.0).abs() < 1e-12);
        assert_eq!(paired_p(&[0.0; 5], 0), 1.0);
        // 5,000 heads of 10,000 and 2,000 of 2,000: neither overflows nor loses its sense.
        assert!(sign_test(5000, 5000) > 0.999 && sign_test(2000, 0) == 0.0);
        // Halves: the exact probability over all 64 sign patterns of six equal halves is 2/64.
        assert!((paired_p(&[0.5; 6], 3) - 2.0 / 64.0).abs() < 0.006);
    }

    #[test]
    fn the_mean_of_shares_has_the_normal_interval() {
        let got = mean_share(&[0.0, 0.5, 1.0, 0.5]);
        assert_eq!(got.value, 0.5);
        let half = Z * (0.5f64 / 3.0 / 4.0).sqrt();
        assert!((got.high - 0.5 - half).abs() < 1e-12 && (0.5 - got.low - half).abs() < 1e-12);
    }
}
