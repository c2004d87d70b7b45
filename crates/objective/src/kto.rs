//! KTO (Ethayarajh et al. 2024, arXiv 2402.01306, Eq. 8): `1 - sigmoid(s * beta * (r - z0))`.

use crate::logistic::one_minus_sigmoid;

/// One row before its class weight: the loss and its derivative by the row's log-ratio `r`, in 1 and 1/nat.
///
/// `z0` is the reference point, the estimated KL divergence in nats; nothing is differentiated through it. The
/// derivative peaks at `r = z0` and fades on both sides: rows that are very right or very wrong move little.
pub fn row(beta: f64, r: f64, z0: f64, desirable: bool) -> (f64, f64) {
    one_minus_sigmoid(beta, r - z0, desirable)
}
