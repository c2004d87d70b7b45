//! Class weights for unbalanced data: the paper's window, the `auto` rule, and advice.

use std::fmt;

/// The paper's window for `desirable_weight * desirable rows / (undesirable_weight * undesirable rows)`
/// (arXiv 2402.01306v5, Eq. 9).
pub const WINDOW: (f64, f64) = (1.0, 1.5);

/// The narrower upper bound of the paper's earlier versions, which TRL checks.
pub const TRL_UPPER: f64 = 4.0 / 3.0;

/// The ratio `auto` aims at: the middle of [`WINDOW`], and inside TRL's as well.
pub const TARGET: f64 = 1.25;

/// A class weight as the user gives it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Weight {
    /// Taken as it is.
    Given(f64),
    /// Chosen from the class counts.
    Auto,
}

/// Resolves `(desirable, undesirable)` weights for a training set with these class counts.
///
/// One `auto` weight is set so that the ratio of Eq. 9 is [`TARGET`]. With both `auto`, both are 1 if that already lies
/// between 1 and [`TRL_UPPER`]; otherwise the class that counts too little is raised and the other keeps 1. A class
/// without rows, or a given weight of 0, leaves nothing to balance: `auto` is 1.
pub fn resolve(desirable: Weight, undesirable: Weight, n_desirable: usize, n_undesirable: usize) -> (f64, f64) {
    let (d, u) = (n_desirable as f64, n_undesirable as f64);
    if n_desirable == 0 || n_undesirable == 0 {
        let or_one = |weight| if let Weight::Given(value) = weight { value } else { 1.0 };
        return (or_one(desirable), or_one(undesirable));
    }
    let positive_or_one = |weight: f64| if weight > 0.0 { weight } else { 1.0 };
    match (desirable, undesirable) {
        (Weight::Given(a), Weight::Given(b)) => (a, b),
        (Weight::Given(a), Weight::Auto) => (a, positive_or_one(a * d / (TARGET * u))),
        (Weight::Auto, Weight::Given(b)) => (positive_or_one(TARGET * b * u / d), b),
        (Weight::Auto, Weight::Auto) if d / u < WINDOW.0 => (TARGET * u / d, 1.0),
        (Weight::Auto, Weight::Auto) if d / u > TRL_UPPER => (1.0, d / (TARGET * u)),
        (Weight::Auto, Weight::Auto) => (1.0, 1.0),
    }
}

/// Why the given weights do not fit the class counts, and what would; its text is the warning.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Advice {
    /// Desirable and undesirable rows.
    pub counts: (usize, usize),
    /// Desirable and undesirable weight as given.
    pub weights: (f64, f64),
    /// The ratio of Eq. 9 they make.
    pub ratio: f64,
    /// Values of `desirable_weight` inside the paper's window, the other weight kept.
    pub desirable: (f64, f64),
    /// Values of `undesirable_weight` inside the paper's window, the other weight kept.
    pub undesirable: (f64, f64),
}

/// Advice if the ratio lies outside [`WINDOW`]; none if a class has no rows.
pub fn advise(weights: (f64, f64), n_desirable: usize, n_undesirable: usize) -> Option<Advice> {
    if n_desirable == 0 || n_undesirable == 0 {
        return None;
    }
    let (gain, loss) = (weights.0 * n_desirable as f64, weights.1 * n_undesirable as f64);
    if WINDOW.0 * loss <= gain && gain <= WINDOW.1 * loss {
        return None;
    }
    let (d, u) = (n_desirable as f64, n_undesirable as f64);
    Some(Advice {
        counts: (n_desirable, n_undesirable),
        weights,
        ratio: gain / loss,
        desirable: (WINDOW.0 * loss / d, WINDOW.1 * loss / d),
        undesirable: (gain / u / WINDOW.1, gain / u / WINDOW.0),
    })
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let short = |x: f64| (x * 1e4).round() / 1e4;
        write!(
            f,
            "{} desirable rows of weight {} against {} undesirable of weight {} is a ratio of {}; the KTO paper advises \
             {} to {} (TRL: up to {}). Set desirable_weight to {} .. {}, or undesirable_weight to {} .. {}, or one to auto",
            self.counts.0,
            self.weights.0,
            self.counts.1,
            self.weights.1,
            short(self.ratio),
            WINDOW.0,
            WINDOW.1,
            short(TRL_UPPER),
            short(self.desirable.0),
            short(self.desirable.1),
            short(self.undesirable.0),
            short(self.undesirable.1),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ratio(weights: (f64, f64), d: usize, u: usize) -> f64 {
        weights.0 * d as f64 / (weights.1 * u as f64)
    }

    #[test]
    fn auto_weights_satisfy_the_paper_and_trl() {
        let auto = Weight::Auto;
        for (d, u) in [(1, 10), (10, 1), (50, 50), (4, 3), (5, 3), (1, 1_000_000), (7, 8), (3, 2)] {
            for pair in [(auto, auto), (Weight::Given(1.0), auto), (auto, Weight::Given(2.5))] {
                let weights = resolve(pair.0, pair.1, d, u);
                let found = ratio(weights, d, u);
                assert!((1.0..=TRL_UPPER).contains(&found), "{d}:{u} {pair:?} -> {weights:?}, ratio {found}");
                assert_eq!(advise(weights, d, u), None);
            }
        }
    }

    #[test]
    fn the_papers_case_of_one_to_ten_lies_in_its_range() {
        // Worked in the paper: undesirable_weight 1, desirable_weight in [10, 15].
        let (desirable, undesirable) = resolve(Weight::Auto, Weight::Given(1.0), 100, 1000);
        assert_eq!((desirable, undesirable), (12.5, 1.0));
        let advice = advise((1.0, 1.0), 100, 1000).unwrap();
        assert_eq!(advice.desirable, (10.0, 15.0));
        assert!((advice.undesirable.0 - 1.0 / 15.0).abs() < 1e-15 && (advice.undesirable.1 - 0.1).abs() < 1e-15);
    }

    #[test]
    fn two_autos_raise_one_class_and_a_given_weight_stays() {
        assert_eq!(resolve(Weight::Auto, Weight::Auto, 80, 20), (1.0, 3.2));
        assert_eq!(resolve(Weight::Auto, Weight::Auto, 20, 80), (5.0, 1.0));
        assert_eq!(resolve(Weight::Auto, Weight::Auto, 50, 45), (1.0, 1.0));
        assert_eq!(resolve(Weight::Given(1.0), Weight::Auto, 50, 20), (1.0, 2.0));
        assert_eq!(resolve(Weight::Given(0.5), Weight::Given(9.0), 1, 1), (0.5, 9.0));
    }

    #[test]
    fn a_single_class_has_nothing_to_balance() {
        assert_eq!(resolve(Weight::Auto, Weight::Auto, 24, 0), (1.0, 1.0));
        assert_eq!(resolve(Weight::Given(2.0), Weight::Auto, 0, 24), (2.0, 1.0));
        assert_eq!(resolve(Weight::Given(0.0), Weight::Auto, 5, 5), (0.0, 1.0));
        assert_eq!(advise((1.0, 1.0), 24, 0), None);
        assert_eq!(advise((1.0, 1.0), 0, 0), None);
    }

    #[test]
    fn advice_names_counts_weights_ratio_and_both_remedies() {
        let text = advise((1.0, 1.0), 15, 85).unwrap().to_string();
        for part in ["15 desirable", "85 undesirable", "0.1765", "5.6667 .. 8.5", "0.1176 .. 0.1765", "auto"] {
            assert!(text.contains(part), "`{part}` is missing in: {text}");
        }
        assert!(advise((0.0, 1.0), 5, 5).is_some(), "a weight of 0 is outside the window");
    }
}
