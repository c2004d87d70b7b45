//! Slopes by differences in double precision, and the check of a gradient against them.

use crate::noise;

/// The derivative at 0, by the central difference of fourth order.
///
/// With this step a smooth function of unit scale is differentiated to about 1e-11: truncation grows with the fourth
/// power of the step, rounding with its inverse.
pub fn slope(mut f: impl FnMut(f64) -> f64) -> f64 {
    const STEP: f64 = 1e-4;
    (8.0 * (f(STEP) - f(-STEP)) - (f(2.0 * STEP) - f(-2.0 * STEP))) / (12.0 * STEP)
}

/// How far `gradient` is from the slopes of `loss` at `at`: the largest of |slope - gradient . direction| / (1 + |slope|)
/// over one random direction and a few single entries. A right gradient of a smooth loss gives below 1e-8.
pub fn gradient_gap(mut loss: impl FnMut(&[f64]) -> f64, at: &[f64], gradient: &[f64]) -> f64 {
    assert_eq!(at.len(), gradient.len(), "number of entries");
    let mut moved = at.to_vec();
    let mut gap = |direction: &[(usize, f64)]| {
        let by_differences = slope(|h| {
            direction.iter().for_each(|&(i, d)| moved[i] = at[i] + h * d);
            loss(&moved)
        });
        direction.iter().for_each(|&(i, _)| moved[i] = at[i]);
        let claimed: f64 = direction.iter().map(|&(i, d)| gradient[i] * d).sum();
        let gap = (by_differences - claimed).abs() / (1.0 + by_differences.abs());
        // `max` below would drop a NaN.
        if gap.is_nan() { f64::INFINITY } else { gap }
    };
    let everywhere: Vec<(usize, f64)> = noise(at.len(), 77).into_iter().enumerate().collect();
    let mut worst = if at.is_empty() { 0.0 } else { gap(&everywhere) };
    for i in (0..at.len()).step_by((at.len() / 3).max(1)) {
        worst = worst.max(gap(&[(i, 1.0)]));
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes_of_known_functions_come_out() {
        assert!((slope(|h| (0.3 + h).sin()) - 0.3f64.cos()).abs() < 1e-11);
        assert!((slope(|h| (1.0 + h).exp()) - 1f64.exp()).abs() < 1e-11);
    }

    #[test]
    fn a_right_gradient_passes_and_one_wrong_entry_does_not() {
        let at = noise(40, 1);
        let loss = |x: &[f64]| x.iter().map(|v| v * v * v).sum::<f64>();
        let mut gradient: Vec<f64> = at.iter().map(|v| 3.0 * v * v).collect();
        assert!(gradient_gap(loss, &at, &gradient) < 1e-9);
        gradient[17] *= 1.01;
        assert!(gradient_gap(loss, &at, &gradient) > 1e-4);
        gradient[17] = f64::NAN;
        assert_eq!(gradient_gap(loss, &at, &gradient), f64::INFINITY);
    }
}
