//! KTO with sign correction: `1 - sigmoid(s * beta * (r + S * z0))`, where `S` is the sign of `r`.

use crate::logistic::one_minus_sigmoid;

/// One row before its class weight: the loss and its derivative by the row's log-ratio `r`, in 1 and 1/nat.
///
/// `S` is detached and `sign(0) = 0`. For `r < 0` this is KTO, bit for bit. For `r > 0` the reference point is added
/// instead of subtracted, so the weight of a row is `sigmoid'(beta * (|r| + z0))`: it shrinks as the policy moves away
/// from the reference, where KTO's stays at its maximum if `z0` rises with `r`. The loss jumps by
/// `tanh(beta * z0 / 2)` at `r = 0`; the derivative is the same on both sides of the jump.
pub fn row(beta: f64, r: f64, z0: f64, desirable: bool) -> (f64, f64) {
    let shift = if r > 0.0 {
        z0
    } else if r < 0.0 {
        -z0
    } else {
        0.0
    };
    one_minus_sigmoid(beta, r + shift, desirable)
}
