//! The one table of tolerances, and comparison under it.

use crate::{Dtype, Float};

/// Largest difference allowed between a result and its definition in double precision, as a share of the largest entry
/// of the definition, when each entry is a sum of about `length` terms rounded to `dtype`.
///
/// The rounding errors of a sum behave as a random walk, so they grow with the square root of its length; the constant
/// covers the few elementwise operations around it.
pub fn tolerance(dtype: Dtype, length: usize) -> f64 {
    dtype.unit_roundoff() * (3.0 + (length as f64).sqrt())
}

/// The largest difference as a share of the largest entry of `want`; infinite where one side alone is not finite.
pub fn largest_gap<T: Float>(got: &[T], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len(), "number of entries");
    let largest = want.iter().filter(|w| w.is_finite()).fold(0.0f64, |m, w| m.max(w.abs()));
    let gap = |(g, w): (&T, &f64)| match (g.f64(), *w) {
        (g, w) if g == w || (g.is_nan() && w.is_nan()) => 0.0,
        (g, w) if g.is_finite() && w.is_finite() => (g - w).abs() / largest,
        _ => f64::INFINITY,
    };
    got.iter().zip(want).map(gap).fold(0.0, f64::max)
}

/// Panics unless `got` is `want` within the [`tolerance`] of `T` for sums of `length` terms.
pub fn assert_close<T: Float>(what: &str, got: &[T], want: &[f64], length: usize) {
    let (gap, allowed) = (largest_gap(got, want), tolerance(T::DTYPE, length));
    if gap > allowed {
        let apart = |i: usize| (got[i].f64() - want[i]).abs();
        let worst = (0..want.len()).max_by(|&a, &b| apart(a).total_cmp(&apart(b))).unwrap_or(0);
        panic!(
            "{what}: {:?} differs by {gap:.2e} of the largest entry, {allowed:.2e} allowed; entry {worst} is {} for {}",
            T::DTYPE,
            got[worst].f64(),
            want[worst]
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_relative_to_the_largest_entry() {
        assert_eq!(largest_gap(&[1.0, 4.0], &[1.5, 4.0]), 0.125);
        assert_eq!(largest_gap(&[0.0f32], &[0.0]), 0.0);
        assert_eq!(largest_gap(&[1e-30], &[0.0]), f64::INFINITY);
        assert_eq!(largest_gap(&[f64::NAN, f64::INFINITY], &[f64::NAN, f64::INFINITY]), 0.0);
        assert_eq!(largest_gap(&[f64::NAN], &[1.0]), f64::INFINITY);
        assert_eq!(largest_gap(&[1.0], &[f64::NAN]), f64::INFINITY);
    }

    #[test]
    fn the_table_separates_one_wrong_digit_from_rounding() {
        let want: Vec<f64> = crate::noise(1000, 1);
        assert_close("rounded", &crate::to::<f32, f64>(&want), &want, 1);
        assert_close("rounded", &crate::to::<half::bf16, f64>(&want), &want, 1);
        let wrong: Vec<f32> = want.iter().map(|w| (w * (1.0 + 1e-6)) as f32).collect();
        assert!(largest_gap(&wrong, &want) > tolerance(Dtype::F32, 1));
    }
}
