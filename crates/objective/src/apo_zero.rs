//! APO-zero on unpaired rows (D'Oosterlinck et al. 2024, arXiv 2408.06266): `1 - sigmoid(s * beta * r)`, no `z0`.

use crate::logistic::one_minus_sigmoid;

/// One row before its class weight: the loss and its derivative by the row's log-ratio `r`, in 1 and 1/nat.
pub fn row(beta: f64, r: f64, desirable: bool) -> (f64, f64) {
    one_minus_sigmoid(beta, r, desirable)
}
