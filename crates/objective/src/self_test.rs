//! The test every preference run makes of itself: before the first update, policy and reference are one model.

use crate::{Error, Kl, Outcome, RowLoss, Settings};

/// Checks that `r == 0`, `z0 == 0` and every loss is half its weight: the step's loss is 0.5 * mean weight, exactly.
///
/// `losses` are those of `rows` from [`crate::evaluate`] with the same `normaliser`. Equality is exact because both
/// log-probabilities come from the same weights by the same kernels in the same order.
pub fn check(settings: &Settings, rows: &[Outcome], kl: &Kl, losses: &[RowLoss], normaliser: f64) -> Result<(), Error> {
    assert_eq!(rows.len(), losses.len(), "one loss per row");
    for (index, (row, loss)) in rows.iter().zip(losses).enumerate() {
        let expected = 0.5 * (normaliser * settings.weight(row.desirable));
        require(Some(index), "log-ratio", 0.0, row.log_ratio())?;
        require(Some(index), "loss", expected, loss.loss)?;
    }
    require(None, "mean mismatched log-ratio", 0.0, kl.raw)?;
    require(None, "z0", 0.0, kl.z0)
}

fn require(row: Option<usize>, what: &'static str, expected: f64, found: f64) -> Result<(), Error> {
    if found == expected { Ok(()) } else { Err(Error::SelfTest { row, what, expected, found }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Loss, evaluate, z0_estimate};

    const SETTINGS: Settings = Settings { beta: 0.1, desirable_weight: 0.7, undesirable_weight: 1.3 };

    fn first_step(moved: f64) -> Result<(), Error> {
        let row = |logp: f64, desirable| Outcome { policy_logp: logp, reference_logp: logp, desirable };
        let mut rows = [row(-31.25, true), row(-7.0 / 3.0, false), row(-1e3, true)];
        rows[1].policy_logp += moved;
        let kl = z0_estimate(&[0.0, 0.0, 0.0]);
        let losses = evaluate(Loss::Kto, &SETTINGS, &rows, kl.z0, 1.0 / 3.0);
        check(&SETTINGS, &rows, &kl, &losses, 1.0 / 3.0)
    }

    #[test]
    fn equal_models_pass() {
        assert_eq!(first_step(0.0), Ok(()));
    }

    #[test]
    fn one_rounding_of_one_row_fails_and_names_it() {
        let error = first_step(1e-15).unwrap_err();
        assert!(matches!(error, Error::SelfTest { row: Some(1), what: "log-ratio", .. }), "{error}");
        assert_eq!(error.exit_code(), 5);
    }

    #[test]
    fn a_moved_mismatched_row_fails() {
        let kl = z0_estimate(&[0.0, -1e-9]);
        let error = check(&SETTINGS, &[], &kl, &[], 1.0).unwrap_err();
        assert!(matches!(error, Error::SelfTest { row: None, .. }), "{error}");
    }
}
