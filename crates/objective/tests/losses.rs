//! The losses against closed-form values, against finite differences, and at their limits.

use objective::{Loss, Outcome, RowLoss, Settings, evaluate, z0_estimate};

const ONE: Settings = Settings { beta: 0.1, desirable_weight: 1.0, undesirable_weight: 1.0 };

fn row(policy_logp: f64, reference_logp: f64, desirable: bool) -> Outcome {
    Outcome { policy_logp, reference_logp, desirable }
}

fn four_rows() -> [Outcome; 4] {
    [row(-35.0, -36.5, true), row(-42.0, -41.0, false), row(-51.0, -53.0, true), row(-28.0, -27.0, false)]
}

fn mismatched() -> [f64; 4] {
    [-80.0 + 81.0, -95.5 + 95.0, -61.0 + 63.0, -77.0 + 76.0]
}

/// Half a unit of the ninth decimal, to which the expected values were worked out.
const HALF_UNIT: f64 = 0.5e-9;

#[track_caller]
fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() <= HALF_UNIT, "expected {expected}, found {found}");
}

#[track_caller]
fn matches_closed_form(loss: Loss, settings: Settings, mean: f64, row_losses: [f64; 4], dlogps: [f64; 4]) {
    let kl = z0_estimate(&mismatched());
    let rows = evaluate(loss, &settings, &four_rows(), kl.z0, 0.25);
    close(rows.iter().map(|row| row.loss).sum(), mean);
    for (row, (loss, dlogp)) in rows.iter().zip(row_losses.into_iter().zip(dlogps)) {
        close(4.0 * row.loss, loss);
        close(row.dlogp, dlogp);
    }
}

#[test]
fn kto_matches_its_closed_form() {
    matches_closed_form(
        Loss::Kto,
        ONE,
        0.465681725,
        [0.471904626, 0.465679056, 0.459464161, 0.465679056],
        [-0.006230266, 0.006220552, -0.006208921, 0.006220552],
    );
}

#[test]
fn apo_zero_matches_its_closed_form() {
    matches_closed_form(
        Loss::ApoZero,
        ONE,
        0.465694446,
        [0.462570155, 0.475020813, 0.450166003, 0.475020813],
        [-0.006214975, 0.006234401, -0.006187914, 0.006234401],
    );
}

#[test]
fn kto_s_matches_its_closed_form() {
    matches_closed_form(
        Loss::KtoS,
        ONE,
        0.456380622,
        [0.453261848, 0.465679056, 0.440902528, 0.465679056],
        [-0.006195389, 0.006220552, -0.006162687, 0.006220552],
    );
}

#[test]
fn class_weights_scale_their_rows_and_no_others() {
    let settings = Settings { undesirable_weight: 1.5, ..ONE };
    let rejected = 1.5 * 0.465679056;
    // The product is worked from a rounded factor, so it is only good to one and a half half-units.
    let rows = evaluate(Loss::Kto, &settings, &four_rows(), 0.375, 0.25);
    close(rows.iter().map(|row| row.loss).sum(), 0.582101489);
    for (row, expected) in rows.iter().zip([-0.006230266, 0.009330828, -0.006208921, 0.009330828]) {
        close(row.dlogp, expected);
    }
    assert!((4.0 * rows[1].loss - rejected).abs() < 1.5 * HALF_UNIT);
    close(4.0 * rows[0].loss, 0.471904626);
}

#[test]
fn z0_is_the_clamped_mean_of_mismatched_log_ratios() {
    let kl = z0_estimate(&mismatched());
    assert_eq!((kl.raw, kl.z0, kl.rows), (0.375, 0.375, 4));
    // Sample variance of 1, -0.5, 2, -1 is 5.6875 / 3.
    assert!((kl.se.unwrap() - (5.6875f64 / 12.0).sqrt()).abs() < 1e-15);
    let negative = z0_estimate(&[-1.0, -2.0]);
    assert_eq!((negative.raw, negative.z0), (-1.5, 0.0));
}

#[test]
fn z0_of_nothing_is_zero_and_of_one_row_has_no_error_bar() {
    let none = z0_estimate(&[]);
    assert_eq!((none.raw, none.z0, none.se, none.rows), (0.0, 0.0, None, 0));
    let one = z0_estimate(&[0.5]);
    assert_eq!((one.raw, one.z0, one.se), (0.5, 0.5, None));
}

#[test]
fn a_log_ratio_that_is_no_number_is_not_clamped_to_zero() {
    let kl = z0_estimate(&[1.0, f64::NAN]);
    assert!(kl.raw.is_nan() && kl.z0.is_nan());
    let rows = evaluate(Loss::Kto, &ONE, &[row(f64::NAN, -1.0, true)], 0.0, 1.0);
    assert!(rows[0].loss.is_nan() && rows[0].dlogp.is_nan());
}

#[test]
fn equal_models_cost_half_the_weight_and_pull_at_full_strength() {
    let settings = Settings { beta: 0.1, desirable_weight: 0.8, undesirable_weight: 1.2 };
    for loss in [Loss::Kto, Loss::KtoS, Loss::ApoZero] {
        let rows = evaluate(loss, &settings, &[row(-3.7, -3.7, true), row(-9.1, -9.1, false)], 0.0, 1.0);
        assert_eq!((rows[0].loss, rows[1].loss), (0.4, 0.6), "{}", loss.name());
        assert_eq!((rows[0].dlogp, rows[1].dlogp), (-0.8 * 0.1 / 4.0, 1.2 * 0.1 / 4.0), "{}", loss.name());
    }
}

#[test]
fn kto_s_is_kto_bit_for_bit_where_the_log_ratio_is_negative() {
    for r in [-1e-300, -1e-9, -0.3, -1.0, -17.123, -4e4] {
        for z0 in [0.0, 1e-12, 0.375, 2.06, 900.0] {
            for desirable in [true, false] {
                let rows = [Outcome { policy_logp: r, reference_logp: 0.0, desirable }];
                let bits = |loss| {
                    let RowLoss { loss, dlogp } = evaluate(loss, &ONE, &rows, z0, 0.125)[0];
                    (loss.to_bits(), dlogp.to_bits())
                };
                assert_eq!(bits(Loss::KtoS), bits(Loss::Kto), "r {r}, z0 {z0}");
            }
        }
    }
}

#[test]
fn kto_s_ignores_z0_at_zero_and_mirrors_around_it() {
    let slope = |r: f64, z0| evaluate(Loss::KtoS, &ONE, &[row(r, 0.0, true)], z0, 1.0)[0].dlogp;
    assert_eq!(slope(0.0, 5.0), -0.1 / 4.0);
    assert_eq!(slope(-0.0, 5.0), -0.1 / 4.0);
    assert_eq!(slope(2.5, 5.0).to_bits(), slope(-2.5, 5.0).to_bits());
    assert_ne!(slope(2.5, 5.0), evaluate(Loss::Kto, &ONE, &[row(2.5, 0.0, true)], 5.0, 1.0)[0].dlogp);
}

#[test]
fn derivatives_equal_finite_differences() {
    let settings = Settings { beta: 0.3, desirable_weight: 1.3, undesirable_weight: 0.7 };
    let step = 1e-5;
    for loss in [Loss::Kto, Loss::KtoS, Loss::ApoZero] {
        for r in [-12.0, -2.0, -0.01, 0.01, 0.9, 2.0, 30.0] {
            for z0 in [0.0, 0.9, 7.0] {
                for desirable in [true, false] {
                    let at = |r: f64| evaluate(loss, &settings, &[row(r - 40.0, -40.0, desirable)], z0, 0.5)[0];
                    let numeric = (at(r + step).loss - at(r - step).loss) / (2.0 * step);
                    let found = at(r).dlogp;
                    assert!(
                        (found - numeric).abs() < 1e-9 + 1e-6 * numeric.abs(),
                        "{} at r {r}, z0 {z0}: {found} against {numeric}",
                        loss.name()
                    );
                }
            }
        }
    }
}

#[test]
fn sign_correction_damps_as_worked_out_by_hand() {
    // Weight of KTO-S over KTO on a row with r = z0 is 4 * sigmoid'(2 * beta * z0).
    for (beta, z0, expected) in [(0.1, 1.0, 0.990), (0.1, 5.0, 0.786), (0.1, 10.0, 0.420), (0.2, 10.0, 0.071)] {
        let settings = Settings { beta, ..ONE };
        let slope = |loss| evaluate(loss, &settings, &[row(z0, 0.0, true)], z0, 1.0)[0].dlogp;
        let ratio: f64 = slope(Loss::KtoS) / slope(Loss::Kto);
        assert!((ratio - expected).abs() <= 0.5e-3, "beta {beta}, z0 {z0}: {ratio} against {expected}");
    }
}

#[test]
fn extreme_log_ratios_and_z0_saturate_without_overflow() {
    for loss in [Loss::Kto, Loss::KtoS, Loss::ApoZero] {
        for r in [-1e9, -1e5, 1e5, 1e9] {
            for z0 in [0.0, 1e5, 1e12, f64::INFINITY] {
                for desirable in [true, false] {
                    let RowLoss { loss: value, dlogp } = evaluate(loss, &ONE, &[row(r, 0.0, desirable)], z0, 1.0)[0];
                    assert!((0.0..=1.0).contains(&value), "{} at r {r}, z0 {z0}: {value}", loss.name());
                    assert!(dlogp.abs() <= 0.025 && dlogp.is_finite());
                }
            }
        }
    }
    let far = evaluate(Loss::Kto, &ONE, &[row(0.0, 0.0, true)], f64::INFINITY, 1.0)[0];
    assert_eq!((far.loss, far.dlogp.abs()), (1.0, 0.0));
}

#[test]
fn a_step_of_one_class_is_an_ordinary_step_and_an_empty_one_has_no_rows() {
    let rows = [row(-35.0, -36.5, true), row(-51.0, -53.0, true)];
    let both = evaluate(Loss::Kto, &ONE, &four_rows(), 0.375, 0.25);
    let alone = evaluate(Loss::Kto, &ONE, &rows, 0.375, 0.25);
    assert_eq!((alone[0], alone[1]), (both[0], both[2]));
    assert!(alone.iter().all(|row| row.dlogp < 0.0));
    assert!(evaluate(Loss::Kto, &ONE, &[], 0.375, 1.0).is_empty());
}

#[test]
fn settings_outside_their_domain_are_refused_by_name() {
    assert_eq!(Settings { desirable_weight: 0.0, ..ONE }.check(), Ok(()));
    for (settings, key) in [
        (Settings { beta: 0.0, ..ONE }, "beta"),
        (Settings { beta: f64::NAN, ..ONE }, "beta"),
        (Settings { desirable_weight: -1.0, ..ONE }, "desirable_weight"),
        (Settings { undesirable_weight: f64::INFINITY, ..ONE }, "undesirable_weight"),
    ] {
        let error = settings.check().unwrap_err();
        assert!(error.to_string().starts_with(&format!("{key}: expected")), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

#[test]
fn only_apo_zero_does_without_z0() {
    assert!(Loss::Kto.needs_z0() && Loss::KtoS.needs_z0() && !Loss::ApoZero.needs_z0());
    let names = [Loss::Kto, Loss::KtoS, Loss::ApoZero].map(Loss::name);
    assert_eq!(names, ["kto", "kto_s", "apo_zero_unpaired"]);
}
