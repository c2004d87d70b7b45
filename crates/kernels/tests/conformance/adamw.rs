//! Three updates and the squared norm.

use crate::Checkable;
use crate::room::Room;
use kernels::AdamwStep;

/// One update of `(p, m, v)`, as written in `torch.optim.AdamW`'s documentation.
fn definition(s: &AdamwStep, g: f64, [p, m, v]: [f64; 3]) -> [f64; 3] {
    let g = g * s.grad_scale;
    let p = p - s.learning_rate * s.weight_decay * p;
    let m = s.beta1 * m + (1.0 - s.beta1) * g;
    let v = s.beta2 * v + (1.0 - s.beta2) * g * g;
    let (m_hat, v_hat) = (m / (1.0 - s.beta1.powi(s.step as i32)), v / (1.0 - s.beta2.powi(s.step as i32)));
    [p - s.learning_rate * m_hat / (v_hat.sqrt() + s.epsilon), m, v]
}

pub(crate) fn check<B: Checkable>(room: &mut Room<B>) {
    for n in [0, 1, 33, 1009, (1 << 14) + 1] {
        let mut state = [room.noise::<B::Real>(1, n, 1), room.of(1, n, &vec![0.0; n]), room.of(1, n, &vec![0.0; n])];
        let mut want = state.each_ref().map(|s| s.at.clone());
        for step in 1..=3 {
            let g = room.noise::<B::Real>(1, n, 1 + step);
            let s = AdamwStep {
                learning_rate: 0.01 * step as f64,
                beta1: 0.9,
                beta2: 0.95,
                epsilon: 1e-3,
                weight_decay: 0.3,
                step,
                grad_scale: 0.7,
            };
            let [p, m, v] = &mut state;
            room.backend.adamw(&s, p.acc(), g.view(), m.acc(), v.acc());
            for i in 0..n {
                let after = definition(&s, g.at[i], [want[0][i], want[1][i], want[2][i]]);
                (0..3).for_each(|k| want[k][i] = after[k]);
            }
        }
        for (k, name) in ["parameters", "first moments", "second moments"].iter().enumerate() {
            room.expect(&format!("adamw {name} of {n}"), &state[k], &want[k], 3);
        }
        let g = room.noise::<B::Real>(1, n, 9);
        let norm = room.backend.square_norm(g.view());
        // Summed in parts, lest the definition be the less exact one.
        let want: f64 = g.at.chunks(100).map(|g| g.iter().map(|g| g * g).sum::<f64>()).sum();
        room.expect_host("square_norm", &[norm], &[want], n);
    }
}
