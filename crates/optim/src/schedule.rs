//! Learning-rate schedules as transformers 5.23 computes them (`optimization.py`): pure functions of the step.
//!
//! Steps count from 0: [`Schedule::factor`] of `t` multiplies the base rate in update `t`. With a warm-up the first
//! update has rate 0, and the last one has `t = total - 1`, so the end value is approached and never used.

use std::f64::consts::PI;
use std::fmt;

/// The shape of a schedule after (or with) its warm-up, with the keyword arguments users give it.
#[derive(Debug, Clone, PartialEq)]
pub enum Shape {
    /// Down to 0 in a straight line.
    Linear,
    /// `cycles` waves of a cosine from 1; half a wave ends at 0.
    Cosine {
        /// `num_cycles`.
        cycles: f64,
    },
    /// A cosine between 1 and `floor`.
    CosineWithMinLr {
        /// `num_cycles`.
        cycles: f64,
        /// `min_lr_rate`, or `min_lr` divided by the base rate.
        floor: f64,
    },
    /// `cycles` half waves, each starting again at 1.
    CosineWithRestarts {
        /// `num_cycles`.
        cycles: f64,
    },
    /// Down to `end` as `(1 - progress)^power`.
    Polynomial {
        /// `lr_end` divided by the base rate.
        end: f64,
        /// `power`.
        power: f64,
    },
    /// Always 1, without a warm-up.
    Constant,
    /// 1 after the warm-up.
    ConstantWithWarmup,
    /// `1 / sqrt((t - warmup + timescale) / timescale)`.
    InverseSqrt {
        /// `timescale` in steps; by default the warm-up, or 10 000 without one.
        timescale: Option<f64>,
    },
    /// Up, flat, and down to `floor`.
    WarmupStableDecay(StableDecay),
}

/// Keyword arguments of `warmup_stable_decay`.
#[derive(Debug, Clone, PartialEq)]
pub struct StableDecay {
    /// `num_decay_steps`.
    pub decay_steps: f64,
    /// `num_stable_steps`; by default what warm-up and decay leave of the total.
    pub stable_steps: Option<f64>,
    /// `warmup_type`.
    pub warmup: Ramp,
    /// `decay_type`.
    pub decay: Ramp,
    /// `min_lr_ratio`: where the warm-up starts and the decay ends.
    pub floor: f64,
    /// `num_cycles` of a cosine decay.
    pub cycles: f64,
}

/// The curve of a warm-up or decay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ramp {
    /// `linear`.
    Linear,
    /// `cosine`.
    Cosine,
    /// `1-sqrt`.
    OneMinusSqrt,
}

/// A value of `lr_scheduler_kwargs`.
#[derive(Debug, Clone, PartialEq)]
pub enum Argument {
    /// A number.
    Number(f64),
    /// A string.
    Text(String),
}

/// A schedule with its lengths, in optimiser steps.
#[derive(Debug, Clone, PartialEq)]
pub struct Schedule {
    /// What it looks like.
    pub shape: Shape,
    /// Steps of warm-up, from [`warmup_steps`].
    pub warmup: u64,
    /// Steps of the run, from [`total_steps`] or `max_steps`.
    pub total: u64,
}

impl Schedule {
    /// What update `t` multiplies the base learning rate by.
    pub fn factor(&self, t: u64) -> f64 {
        let (t, warmup, total) = (t as f64, self.warmup as f64, self.total as f64);
        match &self.shape {
            Shape::Constant => return 1.0,
            Shape::WarmupStableDecay(shape) => return shape.factor(t, warmup, total),
            _ if t < warmup => return t / warmup.max(1.0),
            _ => {}
        }
        let progress = (t - warmup) / (total - warmup).max(1.0);
        match &self.shape {
            Shape::Linear => ((total - t) / (total - warmup).max(1.0)).max(0.0),
            Shape::Cosine { cycles } => cosine(*cycles, progress).max(0.0),
            Shape::CosineWithMinLr { cycles, floor } => above(*floor, cosine(*cycles, progress)),
            Shape::CosineWithRestarts { .. } if progress >= 1.0 => 0.0,
            Shape::CosineWithRestarts { cycles } => cosine(0.5, (cycles * progress) % 1.0).max(0.0),
            Shape::Polynomial { end, .. } if t >= total => *end,
            Shape::Polynomial { end, power } => (1.0 - end) * (1.0 - progress).powf(*power) + end,
            Shape::InverseSqrt { timescale } => {
                let timescale = timescale.unwrap_or(if self.warmup > 0 { warmup } else { 10_000.0 });
                ((t - warmup + timescale) / timescale).sqrt().recip()
            }
            Shape::Constant | Shape::ConstantWithWarmup | Shape::WarmupStableDecay(_) => 1.0,
        }
    }
}

impl StableDecay {
    fn factor(&self, t: f64, warmup: f64, total: f64) -> f64 {
        // A decay longer than the run leaves a negative flat part: the decay then starts before the warm-up ends.
        let decay_from = warmup + self.stable_steps.unwrap_or(total - warmup - self.decay_steps);
        if t < warmup {
            let progress = t / warmup.max(1.0);
            let up = match self.warmup {
                Ramp::Linear => progress,
                Ramp::Cosine => 1.0 - cosine(0.5, progress),
                Ramp::OneMinusSqrt => 1.0 - (1.0 - progress).sqrt(),
            };
            above(self.floor, up)
        } else if t < decay_from {
            1.0
        } else if t < decay_from + self.decay_steps {
            let progress = (t - decay_from) / self.decay_steps.max(1.0);
            let down = match self.decay {
                Ramp::Linear => 1.0 - progress,
                Ramp::Cosine => cosine(self.cycles, progress),
                Ramp::OneMinusSqrt => 1.0 - progress.sqrt(),
            };
            above(self.floor, down)
        } else {
            self.floor
        }
    }
}

/// `cycles` waves between 1 and 0 while `progress` goes from 0 to 1.
fn cosine(cycles: f64, progress: f64) -> f64 {
    0.5 * (1.0 + (PI * cycles * 2.0 * progress).cos())
}

/// Maps 0..1 to `floor`..1.
fn above(floor: f64, factor: f64) -> f64 {
    (factor * (1.0 - floor) + floor).max(0.0)
}

/// Steps of warm-up: `warmup` itself from 1 on (cut to a whole number), below 1 that share of the run, rounded up.
pub fn warmup_steps(warmup: f64, total: u64) -> u64 {
    if warmup >= 1.0 { warmup as u64 } else { (total as f64 * warmup).ceil() as u64 }
}

/// Optimiser steps per epoch of `batches` micro-batches, `accumulation` at a time; a shorter last step counts.
pub fn steps_per_epoch(batches: u64, accumulation: u64) -> u64 {
    batches.div_ceil(accumulation.max(1)).max(1)
}

/// Optimiser steps of a run of `epochs` (a fraction is allowed), rounded up.
pub fn total_steps(epochs: f64, batches: u64, accumulation: u64) -> u64 {
    (epochs * steps_per_epoch(batches, accumulation) as f64).ceil() as u64
}

/// Every `lr_scheduler_type`, with the `lr_scheduler_kwargs` it takes.
pub const NAMES: [(&str, &[&str]); 9] = [
    ("linear", &[]),
    ("cosine", &["num_cycles"]),
    ("cosine_with_min_lr", &["num_cycles", "min_lr", "min_lr_rate"]),
    ("cosine_with_restarts", &["num_cycles"]),
    ("polynomial", &["lr_end", "power"]),
    ("constant", &[]),
    ("constant_with_warmup", &[]),
    ("inverse_sqrt", &["timescale"]),
    (
        "warmup_stable_decay",
        &["num_decay_steps", "num_stable_steps", "warmup_type", "decay_type", "min_lr_ratio", "num_cycles"],
    ),
];

impl Shape {
    /// Reads a `lr_scheduler_type` and its `lr_scheduler_kwargs`; absent ones have transformers' defaults.
    ///
    /// `base_lr` turns `min_lr` and `lr_end` into factors. Fails on an unknown name or argument, an argument of the
    /// wrong kind, and on combinations transformers refuses too.
    pub fn parse(name: &str, arguments: &[(String, Argument)], base_lr: f64) -> Result<Shape, Error> {
        let Some(&(name, accepted)) = NAMES.iter().find(|entry| entry.0 == name) else {
            return Err(Error::UnknownSchedule { found: name.to_owned() });
        };
        if let Some((found, _)) = arguments.iter().find(|(key, _)| !accepted.contains(&key.as_str())) {
            return Err(Error::UnknownArgument { schedule: name, found: found.clone(), accepted });
        }
        let arguments = Arguments { schedule: name, list: arguments };
        let half_wave = || arguments.number("num_cycles").map(|cycles| cycles.unwrap_or(0.5));
        match name {
            "linear" => Ok(Shape::Linear),
            "cosine" => Ok(Shape::Cosine { cycles: half_wave()? }),
            "cosine_with_min_lr" => {
                Ok(Shape::CosineWithMinLr { cycles: half_wave()?, floor: min_lr(&arguments, base_lr)? })
            }
            "cosine_with_restarts" => {
                Ok(Shape::CosineWithRestarts { cycles: arguments.number("num_cycles")?.unwrap_or(1.0) })
            }
            "polynomial" => polynomial(&arguments, base_lr),
            "constant" => Ok(Shape::Constant),
            "constant_with_warmup" => Ok(Shape::ConstantWithWarmup),
            "inverse_sqrt" => Ok(Shape::InverseSqrt { timescale: arguments.positive("timescale")? }),
            _ => Ok(Shape::WarmupStableDecay(StableDecay {
                decay_steps: arguments
                    .number("num_decay_steps")?
                    .ok_or_else(|| arguments.error("num_decay_steps", "a number of steps", "nothing"))?,
                stable_steps: arguments.number("num_stable_steps")?,
                warmup: arguments.ramp("warmup_type")?.unwrap_or(Ramp::Linear),
                decay: arguments.ramp("decay_type")?.unwrap_or(Ramp::Cosine),
                floor: arguments.number("min_lr_ratio")?.unwrap_or(0.0),
                cycles: half_wave()?,
            })),
        }
    }
}

fn min_lr(arguments: &Arguments, base_lr: f64) -> Result<f64, Error> {
    match (arguments.number("min_lr")?, arguments.number("min_lr_rate")?) {
        (None, Some(rate)) => Ok(rate),
        (Some(rate), None) if base_lr > 0.0 => Ok(rate / base_lr),
        (Some(_), None) => Err(arguments.error("min_lr", "a learning_rate above 0 to divide it by", "0")),
        (Some(_), Some(_)) => Err(arguments.error("min_lr", "either min_lr or min_lr_rate", "both")),
        (None, None) => Err(arguments.error("min_lr_rate", "min_lr_rate or min_lr", "neither")),
    }
}

fn polynomial(arguments: &Arguments, base_lr: f64) -> Result<Shape, Error> {
    let end = arguments.number("lr_end")?.unwrap_or(1e-7);
    if end >= base_lr {
        let expected = format!("a rate below learning_rate ({base_lr})");
        return Err(arguments.error("lr_end", &expected, &end.to_string()));
    }
    Ok(Shape::Polynomial { end: end / base_lr, power: arguments.number("power")?.unwrap_or(1.0) })
}

struct Arguments<'a> {
    schedule: &'static str,
    list: &'a [(String, Argument)],
}

impl Arguments<'_> {
    fn get(&self, key: &str) -> Option<&Argument> {
        self.list.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    fn number(&self, key: &'static str) -> Result<Option<f64>, Error> {
        match self.get(key) {
            None => Ok(None),
            Some(Argument::Number(number)) if number.is_finite() && *number >= 0.0 => Ok(Some(*number)),
            Some(other) => Err(self.error(key, "0 or a positive number", &other.to_string())),
        }
    }

    fn positive(&self, key: &'static str) -> Result<Option<f64>, Error> {
        match self.number(key)? {
            Some(0.0) => Err(self.error(key, "a number above 0", "0")),
            number => Ok(number),
        }
    }

    fn ramp(&self, key: &'static str) -> Result<Option<Ramp>, Error> {
        let Some(argument) = self.get(key) else { return Ok(None) };
        match argument {
            Argument::Text(text) if text == "linear" => Ok(Some(Ramp::Linear)),
            Argument::Text(text) if text == "cosine" => Ok(Some(Ramp::Cosine)),
            Argument::Text(text) if text == "1-sqrt" => Ok(Some(Ramp::OneMinusSqrt)),
            other => Err(self.error(key, "linear, cosine or 1-sqrt", &other.to_string())),
        }
    }

    fn error(&self, key: &'static str, expected: &str, found: &str) -> Error {
        Error::Argument { schedule: self.schedule, key, expected: expected.to_owned(), found: found.to_owned() }
    }
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Argument::Number(number) => write!(f, "{number}"),
            Argument::Text(text) => write!(f, "\"{text}\""),
        }
    }
}

/// A schedule that cannot be made from its configuration.
#[derive(Debug, Clone, PartialEq)]
pub enum Error {
    /// No such `lr_scheduler_type`.
    UnknownSchedule {
        /// What was given.
        found: String,
    },
    /// The schedule takes no such argument.
    UnknownArgument {
        /// The schedule's name.
        schedule: &'static str,
        /// What was given.
        found: String,
        /// What it takes.
        accepted: &'static [&'static str],
    },
    /// An argument is missing, of the wrong kind, or contradicts another.
    Argument {
        /// The schedule's name.
        schedule: &'static str,
        /// The argument's name.
        key: &'static str,
        /// What is accepted.
        expected: String,
        /// What was given.
        found: String,
    },
}

impl Error {
    /// The process's exit code: 2, configuration.
    pub fn exit_code(&self) -> u8 {
        2
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::UnknownSchedule { found } => {
                let names: Vec<&str> = NAMES.iter().map(|entry| entry.0).collect();
                write!(f, "lr_scheduler_type: expected one of {}, found `{found}`", names.join(", "))
            }
            Error::UnknownArgument { schedule, found, accepted: [] } => {
                write!(f, "lr_scheduler_kwargs: {schedule} takes no arguments, found `{found}`; remove it")
            }
            Error::UnknownArgument { schedule, found, accepted } => {
                write!(f, "lr_scheduler_kwargs: {schedule} takes {}, found `{found}`", accepted.join(", "))
            }
            Error::Argument { schedule, key, expected, found } => {
                write!(f, "lr_scheduler_kwargs: {key} of {schedule}: expected {expected}, found {found}")
            }
        }
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(key: &str, value: f64) -> (String, Argument) {
        (key.to_owned(), Argument::Number(value))
    }

    #[track_caller]
    fn refused(name: &str, arguments: &[(String, Argument)], parts: &[&str]) {
        let error = Shape::parse(name, arguments, 2e-5).unwrap_err();
        for part in parts {
            assert!(error.to_string().contains(part), "`{part}` is missing in: {error}");
        }
        assert_eq!(error.exit_code(), 2);
    }

    #[test]
    fn a_tenth_of_a_hundred_steps_warms_up_and_a_cosine_follows() {
        let warmup = warmup_steps(0.1, 100);
        let curve = |shape| {
            let schedule = Schedule { shape, warmup, total: 100 };
            [0, 1, 9, 10, 11, 55, 99].map(|t| schedule.factor(t))
        };
        let close = |found: [f64; 7], expected: [f64; 7]| {
            let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max);
            assert!(worst <= 0.5e-9, "{found:?} against {expected:?}");
        };
        close(curve(Shape::Cosine { cycles: 0.5 }), [0.0, 0.1, 0.9, 1.0, 0.999695414, 0.5, 0.000304586]);
        let with_floor = Shape::CosineWithMinLr { cycles: 0.5, floor: 0.1 };
        close(curve(with_floor), [0.0, 0.1, 0.9, 1.0, 0.999725872, 0.55, 0.100274128]);
    }

    #[test]
    fn warm_up_is_a_count_from_one_on_and_a_rounded_up_share_below() {
        assert_eq!(warmup_steps(0.0, 100), 0);
        assert_eq!(warmup_steps(0.1, 100), 10);
        assert_eq!(warmup_steps(0.101, 100), 11);
        assert_eq!(warmup_steps(1.0, 100), 1);
        assert_eq!(warmup_steps(7.9, 100), 7);
        assert_eq!(warmup_steps(0.5, 0), 0);
    }

    #[test]
    fn a_short_last_step_counts_and_partial_epochs_round_up() {
        assert_eq!(steps_per_epoch(12, 5), 3);
        assert_eq!(steps_per_epoch(10, 5), 2);
        assert_eq!(steps_per_epoch(0, 5), 1);
        assert_eq!(total_steps(2.0, 12, 5), 6);
        assert_eq!(total_steps(1.5, 12, 5), 5);
        assert_eq!(total_steps(0.1, 12, 5), 1);
    }

    #[test]
    fn no_schedule_leaves_its_range_on_degenerate_lengths() {
        for (name, _) in NAMES {
            let arguments = match name {
                "cosine_with_min_lr" => vec![number("min_lr_rate", 0.1)],
                "warmup_stable_decay" => vec![number("num_decay_steps", 5.0)],
                _ => Vec::new(),
            };
            let shape = Shape::parse(name, &arguments, 2e-5).unwrap();
            for (warmup, total) in [(0, 0), (0, 1), (1, 1), (3, 3), (10, 3), (3, 10)] {
                let schedule = Schedule { shape: shape.clone(), warmup, total };
                for t in 0..=total + 12 {
                    let factor = schedule.factor(t);
                    assert!((0.0..=1.0).contains(&factor), "{name} {warmup}/{total} at {t}: {factor}");
                }
            }
        }
    }

    #[test]
    fn what_transformers_refuses_is_refused_by_name() {
        refused("cosin", &[], &["lr_scheduler_type", "`cosin`", "cosine_with_min_lr"]);
        refused("reduce_lr_on_plateau", &[], &["inverse_sqrt", "`reduce_lr_on_plateau`"]);
        refused("linear", &[number("power", 2.0)], &["linear takes no arguments", "`power`"]);
        refused("cosine", &[number("min_lr", 1e-6)], &["cosine takes num_cycles", "`min_lr`"]);
        refused("cosine_with_min_lr", &[], &["min_lr_rate", "neither"]);
        refused("cosine_with_min_lr", &[number("min_lr", 1e-6), number("min_lr_rate", 0.1)], &["both"]);
        refused("polynomial", &[number("lr_end", 1e-3)], &["lr_end", "below learning_rate", "0.001"]);
        refused("warmup_stable_decay", &[], &["num_decay_steps", "nothing"]);
        refused("inverse_sqrt", &[number("timescale", 0.0)], &["timescale", "above 0"]);
        refused("cosine", &[number("num_cycles", f64::NAN)], &["num_cycles", "NaN"]);
        let kind = ("decay_type".to_owned(), Argument::Text("sqrt".to_owned()));
        refused("warmup_stable_decay", &[number("num_decay_steps", 5.0), kind], &["decay_type", "1-sqrt", "\"sqrt\""]);
    }
}
