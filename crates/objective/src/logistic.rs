//! The logistic function and the one value function all three losses share.

/// `1 / (1 + exp(-x))`; neither branch can overflow, so it is exact at both ends and NaN only for NaN.
pub(crate) fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// `sigmoid(x) * (1 - sigmoid(x))`: even in `x`, 1/4 at 0, and without the cancellation of the product.
pub(crate) fn sigmoid_derivative(x: f64) -> f64 {
    let e = (-x.abs()).exp();
    e / ((1.0 + e) * (1.0 + e))
}

/// `1 - sigmoid(s * beta * gap)` and its derivative by `gap`, with `s` = +1 for desirable rows and -1 for others.
///
/// `gap` is the log-ratio against whatever a loss takes as its reference point, in nats.
pub(crate) fn one_minus_sigmoid(beta: f64, gap: f64, desirable: bool) -> (f64, f64) {
    let x = beta * gap;
    let slope = beta * sigmoid_derivative(x);
    // 1 - sigmoid(u) = sigmoid(-u), which keeps its digits where sigmoid(u) rounds to 1.
    if desirable { (sigmoid(-x), -slope) } else { (sigmoid(x), slope) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_arguments_neither_overflow_nor_lose_the_tail() {
        assert_eq!(sigmoid(f64::INFINITY), 1.0);
        assert_eq!(sigmoid(f64::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid(1e6), 1.0);
        assert_eq!(sigmoid(-1e6), 0.0);
        assert_eq!(sigmoid(0.0), 0.5);
        assert_eq!(sigmoid(-0.0), 0.5);
        assert!((sigmoid(-700.0) / (-700f64).exp() - 1.0).abs() < 1e-15);
        assert!((sigmoid_derivative(700.0) / (-700f64).exp() - 1.0).abs() < 1e-15);
        assert_eq!(sigmoid_derivative(f64::NEG_INFINITY), 0.0);
        assert_eq!(sigmoid_derivative(0.0), 0.25);
        assert!(sigmoid(f64::NAN).is_nan() && sigmoid_derivative(f64::NAN).is_nan());
    }

    #[test]
    fn the_derivative_is_even_to_the_last_bit() {
        for x in [0.1, 1.0, 3.75, 40.0] {
            assert_eq!(sigmoid_derivative(x).to_bits(), sigmoid_derivative(-x).to_bits());
        }
    }
}
