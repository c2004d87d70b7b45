//! The learning rate over the steps, as the configuration has it.

/// Learning rate over the steps, as transformers computes it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// Its shape after the warm-up.
    pub kind: ScheduleKind,
    /// Its beginning.
    pub warmup: Warmup,
}

/// Warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// A count of steps, 0 for none.
    Steps(usize),
    /// A share of all steps, in (0, 1): ceil(share * steps).
    Ratio(f64),
}

/// Shape of the learning rate after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScheduleKind {
    /// To 0 in a line.
    Linear,
    /// Along a cosine.
    Cosine {
        /// Waves; 0.5 ends at 0.
        num_cycles: f64,
    },
    /// Along a cosine to a floor.
    CosineWithMinLr {
        /// Waves; 0.5 ends at the floor.
        num_cycles: f64,
        /// The floor.
        floor: Floor,
    },
    /// Cosines with hard restarts.
    CosineWithRestarts {
        /// Whole number of cosines.
        num_cycles: usize,
    },
    /// A power of what is left.
    Polynomial {
        /// The last learning rate.
        lr_end: f64,
        /// The power.
        power: f64,
    },
    /// No change and no warm-up, as in transformers.
    Constant,
    /// No change after the warm-up.
    ConstantWithWarmup,
    /// 1 / sqrt of the step.
    InverseSqrt {
        /// Steps; `None`: the warm-up's, or 10000.
        timescale: Option<usize>,
    },
    /// Up, level, down.
    WarmupStableDecay {
        /// Steps of decay.
        num_decay_steps: usize,
        /// Steps between; `None`: what is left.
        num_stable_steps: Option<usize>,
        /// Curve of the warm-up.
        warmup_curve: Curve,
        /// Curve of the decay.
        decay_curve: Curve,
        /// The floor as a share.
        min_lr_ratio: f64,
        /// Waves of a cosine decay.
        num_cycles: f64,
    },
}

/// Floor of `cosine_with_min_lr`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Floor {
    /// A learning rate.
    Rate(f64),
    /// A share of the peak, in [0, 1].
    Share(f64),
}

/// Curves of `warmup_stable_decay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Curve {
    /// A line.
    Linear,
    /// Half a cosine.
    Cosine,
    /// 1 - sqrt
    OneMinusSqrt,
}
