//! LLaMA-Factory's `pref_ftx`: the likelihood of desirable rows beside the preference loss.

use crate::metrics::TokenSums;
use crate::{Outcome, RowLoss};

/// Adds to each desirable row's loss `weight * (n / c)^2 * -log pi(y|x) / tokens` of `n` rows with `c` desirable ones.
///
/// The mean over the `n` rows of what is added is `weight * n / c` times the mean token loss of the desirable rows, which is the
/// term of LLaMA-Factory's KTO trainer with its rescaling. Rows of `losses` are taken before they are normalised. A group without
/// desirable rows gets nothing.
pub fn add(weight: f64, rows: &[Outcome], sums: &[TokenSums], losses: &mut [RowLoss]) {
    let desirable = rows.iter().filter(|row| row.desirable).count();
    if weight == 0.0 || desirable == 0 {
        return;
    }
    let scale = weight * (rows.len() as f64 / desirable as f64).powi(2);
    for ((row, sums), loss) in rows.iter().zip(sums).zip(losses).filter(|((row, _), _)| row.desirable) {
        let per_token = scale / sums.tokens.max(1) as f64;
        loss.loss -= per_token * row.policy_logp;
        loss.dlogp -= per_token;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mean_over_rows_is_the_rescaled_mean_token_loss_of_the_desirable() {
        let row = |policy_logp, desirable| Outcome { policy_logp, reference_logp: -1.0, desirable };
        let rows = [row(-6.0, true), row(-9.0, false), row(-4.0, true), row(-1.0, false), row(-2.0, false)];
        let sums = [3, 5, 4, 1, 2].map(|tokens| TokenSums { tokens, ..TokenSums::default() });
        let nothing = RowLoss { loss: 0.25, dlogp: 0.5 };
        let mut losses = [nothing; 5];
        add(0.2, &rows, &sums, &mut losses);
        let added: f64 = losses.iter().map(|l| l.loss - 0.25).sum::<f64>() / 5.0;
        // Token losses 2 and 1 of the two desirable rows: mean 1.5, rescaled by 5 / 2.
        assert!((added - 0.2 * 1.5 * 2.5).abs() < 1e-15, "{added}");
        assert_eq!((losses[1], losses[3]), (nothing, nothing));
        // The derivative is the slope of what is added.
        let at = |logp| {
            let mut moved = rows;
            moved[0].policy_logp = logp;
            let mut losses = [nothing; 5];
            add(0.2, &moved, &sums, &mut losses);
            losses[0].loss
        };
        assert!((at(-5.5) - at(-6.0) - 0.5 * (losses[0].dlogp - 0.5)).abs() < 1e-15);
        let mut none = [nothing; 5];
        add(0.2, &rows.map(|r| Outcome { desirable: false, ..r }), &sums, &mut none);
        assert_eq!(none, [nothing; 5]);
    }
}
