//! Losses: log-probabilities in, loss and its derivative out.
//!
//! A preference loss sees one summed log-probability per row, for the whole step at once, and returns one derivative
//! per row; only then does any backward pass run. All of it is host arithmetic in `f64`, in nats.
#![forbid(unsafe_code)]

pub mod apo_zero;
pub mod balance;
pub mod dft;
mod error;
pub mod ftx;
pub mod kto;
pub mod kto_s;
mod logistic;
pub mod metrics;
pub mod self_test;
pub mod sft;

pub use error::Error;

/// What the two models say about one row: log-probabilities summed over its completion tokens, in nats.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Outcome {
    /// `log pi(y|x)` under the policy.
    pub policy_logp: f64,
    /// `log pi_ref(y|x)` under the reference.
    pub reference_logp: f64,
    /// The row's label.
    pub desirable: bool,
}

impl Outcome {
    /// `r = log pi(y|x) - log pi_ref(y|x)`, in nats, without beta.
    pub fn log_ratio(&self) -> f64 {
        self.policy_logp - self.reference_logp
    }
}

/// The preference losses; a new one is one file and one arm of `Loss::row`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// [`kto`].
    Kto,
    /// [`kto_s`].
    KtoS,
    /// [`apo_zero`].
    ApoZero,
}

impl Loss {
    /// The `loss_type` users write.
    pub fn name(self) -> &'static str {
        match self {
            Loss::Kto => "kto",
            Loss::KtoS => "kto_s",
            Loss::ApoZero => "apo_zero_unpaired",
        }
    }

    /// Whether the loss reads `z0`, that is, whether mismatched rows have to be computed.
    pub fn needs_z0(self) -> bool {
        self != Loss::ApoZero
    }

    fn row(self, beta: f64, r: f64, z0: f64, desirable: bool) -> (f64, f64) {
        match self {
            Loss::Kto => kto::row(beta, r, z0, desirable),
            Loss::KtoS => kto_s::row(beta, r, z0, desirable),
            Loss::ApoZero => apo_zero::row(beta, r, desirable),
        }
    }
}

/// The numbers a user sets; the same for every row of a run.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settings {
    /// Scale of the log-ratio, per nat; positive.
    pub beta: f64,
    /// Weight of desirable rows; 0 or more.
    pub desirable_weight: f64,
    /// Weight of undesirable rows; 0 or more.
    pub undesirable_weight: f64,
}

impl Settings {
    /// Refuses a `beta` that is not a positive number and a weight that is negative or not a number.
    pub fn check(&self) -> Result<(), Error> {
        let refuse = |key, value, expected| Err(Error::Setting { key, value, expected });
        if !(self.beta > 0.0 && self.beta.is_finite()) {
            return refuse("beta", self.beta, "a number above 0");
        }
        for (key, value) in
            [("desirable_weight", self.desirable_weight), ("undesirable_weight", self.undesirable_weight)]
        {
            if !(value >= 0.0 && value.is_finite()) {
                return refuse(key, value, "0 or a positive number");
            }
        }
        Ok(())
    }

    /// The class weight of a row.
    pub fn weight(&self, desirable: bool) -> f64 {
        if desirable { self.desirable_weight } else { self.undesirable_weight }
    }
}

/// One row's share of the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RowLoss {
    /// Weight and normaliser included: the step's loss is the sum over its rows.
    pub loss: f64,
    /// Derivative of the step's loss by the row's policy log-probability, per nat.
    pub dlogp: f64,
}

/// The losses of `rows`, in their order, against one reference point `z0` (nats, 0 or more; unused by `ApoZero`).
///
/// `normaliser` multiplies every row: 1 / rows of the step for its mean, 1 / (rows of the micro-batch * micro-batches
/// of the step) for TRL's mean of micro-batch means. Values that are not finite pass through; the caller stops on them.
pub fn evaluate(loss: Loss, settings: &Settings, rows: &[Outcome], z0: f64, normaliser: f64) -> Vec<RowLoss> {
    let one = |row: &Outcome| {
        let (value, slope) = loss.row(settings.beta, row.log_ratio(), z0, row.desirable);
        let scale = normaliser * settings.weight(row.desirable);
        RowLoss { loss: scale * value, dlogp: scale * slope }
    };
    rows.iter().map(one).collect()
}

/// The step's estimate of the KL divergence between policy and reference, in nats per sequence.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kl {
    /// Mean mismatched log-ratio; may be negative. 0 without rows.
    pub raw: f64,
    /// The reference point of the losses: `raw`, but at least 0.
    pub z0: f64,
    /// Standard error of `raw`; needs two rows.
    pub se: Option<f64>,
    /// Mismatched rows it was taken from.
    pub rows: usize,
}

/// Estimates `z0` from the log-ratios `log pi(y'|x) - log pi_ref(y'|x)` of mismatched rows, in nats.
///
/// The mean is clamped at 0 once, after it was taken over all rows (arXiv 2402.01306, section 4.1). A log-ratio that is
/// not a number makes all three values not a number: it must not look like 0.
pub fn z0_estimate(mismatched: &[f64]) -> Kl {
    let rows = mismatched.len();
    if rows == 0 {
        return Kl { raw: 0.0, z0: 0.0, se: None, rows };
    }
    let n = rows as f64;
    let raw = mismatched.iter().sum::<f64>() / n;
    let squares = mismatched.iter().map(|r| (r - raw) * (r - raw)).sum::<f64>();
    let se = (rows > 1).then(|| (squares / (n - 1.0) / n).sqrt());
    let z0 = if raw > 0.0 || raw.is_nan() { raw } else { 0.0 };
    Kl { raw, z0, se, rows }
}
