//! Rotary frequencies and their scalings, as `transformers` computes them.

use crate::Error;
use crate::config::Reader;
use serde_json::Value;
use std::f64::consts::PI;

/// Rotary embedding of a model.
#[derive(Clone, Debug, PartialEq)]
pub struct RopeSpec {
    /// Base of the frequencies.
    pub theta: f64,
    /// Columns of a head that are rotated.
    pub width: usize,
    /// Stretching of the context.
    pub scaling: RopeScaling,
    /// Factor of cosines and sines.
    pub attention_factor: f64,
}

/// How frequencies are changed for longer contexts.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Not at all.
    None,
    /// All divided by `factor`.
    Linear {
        /// Divisor.
        factor: f64,
    },
    /// The base grows with the longest sequence, once that is past what the model was trained on.
    Dynamic {
        /// How fast.
        factor: f64,
        /// Positions of the original training.
        original: f64,
    },
    /// YaRN (Peng et al. 2023, arXiv 2309.00071): slow frequencies divided, fast ones kept, a ramp over the entries between.
    Yarn {
        /// Divisor of slow frequencies.
        factor: f64,
        /// Entries below it are kept.
        low: f64,
        /// Entries above it are divided.
        high: f64,
        /// DeepSeek's further factor of attention scores is made of it.
        mscale_all_dim: Option<f64>,
        /// Positions of the original training.
        original: f64,
    },
    /// Llama 3.1: long wavelengths divided, short ones kept, a ramp between.
    Llama3 {
        /// Divisor of long wavelengths.
        factor: f64,
        /// `original / low` is the wavelength above which frequencies are divided.
        low: f64,
        /// `original / high` is the wavelength below which they are kept.
        high: f64,
        /// Positions of the original training.
        original: f64,
    },
    /// LongRoPE (Ding et al. 2024, arXiv 2402.13753): a divisor per frequency, other ones where sequences are long.
    Long {
        /// Divisors up to `original` positions.
        short: Vec<f64>,
        /// Divisors beyond.
        long: Vec<f64>,
        /// Positions of the original training.
        original: f64,
    },
}

/// The scalings there are, for messages.
const KINDS: &str = "default, linear, dynamic, yarn, llama3 or longrope";

/// YaRN's `0.1 m ln(s) + 1`.
pub(crate) fn mscale(scale: f64, m: f64) -> f64 {
    if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 }
}

/// A rope dictionary of a configuration.
struct Dict<'a, 'c> {
    key: &'static str,
    dict: Option<&'a Value>,
    config: &'a Reader<'c>,
    width: usize,
    theta: f64,
}

impl Dict<'_, '_> {
    fn number(&self, name: &str) -> Option<f64> {
        self.dict.and_then(|d| d.get(name)).and_then(Value::as_f64).filter(|x| x.is_finite())
    }

    fn need(&self, name: &str) -> Result<f64, Error> {
        let positive = self.number(name).filter(|x| *x > 0.0);
        positive.ok_or_else(|| Error::config(self.key, format!("{name}: expected a positive number")))
    }

    fn list(&self, name: &str) -> Result<Vec<f64>, Error> {
        let list = self.dict.and_then(|d| d.get(name)).and_then(Value::as_array);
        let numbers: Option<Vec<f64>> = list.and_then(|l| l.iter().map(Value::as_f64).collect());
        numbers.filter(|l| l.len() == self.width / 2 && l.iter().all(|x| x.is_finite() && *x > 0.0)).ok_or_else(|| {
            Error::config(self.key, format!("{name}: expected a list of {} positive numbers", self.width / 2))
        })
    }

    /// Positions of the original training, there or at the top level; else those of the model.
    fn original(&self) -> Result<f64, Error> {
        match self.number("original_max_position_embeddings") {
            Some(n) => Ok(n),
            None => {
                let positions = self.config.count("max_position_embeddings")?;
                Ok(self.config.count_or("original_max_position_embeddings", Some(positions))? as f64)
            }
        }
    }

    fn scaling(&self, kind: &str) -> Result<(RopeScaling, f64), Error> {
        let plain = |scaling| Ok((scaling, 1.0));
        match kind {
            "default" => plain(RopeScaling::None),
            "linear" => plain(RopeScaling::Linear { factor: self.need("factor")? }),
            "dynamic" => {
                let original = self.config.count("max_position_embeddings")? as f64;
                plain(RopeScaling::Dynamic { factor: self.need("factor")?, original })
            }
            "llama3" => plain(RopeScaling::Llama3 {
                factor: self.need("factor")?,
                low: self.need("low_freq_factor")?,
                high: self.need("high_freq_factor")?,
                original: self.original()?,
            }),
            "yarn" => self.yarn(),
            "longrope" | "su" => self.long(),
            other => Err(Error::config(
                self.key,
                format!("rope_type: expected {KINDS}, found {other:?}; others are not implemented"),
            )),
        }
    }

    fn yarn(&self) -> Result<(RopeScaling, f64), Error> {
        let original = self.original()?;
        let factor = match self.number("factor") {
            Some(_) => self.need("factor")?,
            None => self.config.count("max_position_embeddings")? as f64 / original,
        };
        let given = |name: &str| self.number(name).filter(|m| *m != 0.0);
        let (m, all) = (given("mscale"), given("mscale_all_dim"));
        let attention = match (self.number("attention_factor"), m, all) {
            (Some(given), _, _) => given,
            (None, Some(m), Some(all)) => mscale(factor, m) / mscale(factor, all),
            _ => mscale(factor, 1.0),
        };
        let d = self.width as f64;
        // The entry whose wave turns `n` times within the original context.
        let entry = |n: f64| d * (original / (n * 2.0 * PI)).ln() / (2.0 * self.theta.ln());
        let (mut low, mut high) = (entry(given("beta_fast").unwrap_or(32.0)), entry(given("beta_slow").unwrap_or(1.0)));
        if self.dict.and_then(|d| d.get("truncate")).and_then(Value::as_bool).unwrap_or(true) {
            (low, high) = (low.floor(), high.ceil());
        }
        // The width and not half of it, as in the models' own code.
        let (low, mut high) = (low.max(0.0), high.min(d - 1.0));
        if low == high {
            high += 0.001;
        }
        if !(low.is_finite() && high.is_finite()) {
            return Err(Error::config(self.key, "expected rope_theta above 1 and positive beta_fast and beta_slow"));
        }
        Ok((RopeScaling::Yarn { factor, low, high, mscale_all_dim: all, original }, attention))
    }

    fn long(&self) -> Result<(RopeScaling, f64), Error> {
        let original = self.original()?;
        let positions = self.config.count("max_position_embeddings")? as f64;
        let factor = self.number("factor").unwrap_or(positions / original);
        let own = if factor <= 1.0 { 1.0 } else { (1.0 + factor.ln() / original.ln()).sqrt() };
        let scaling =
            RopeScaling::Long { short: self.list("short_factor")?, long: self.list("long_factor")?, original };
        Ok((scaling, self.number("attention_factor").unwrap_or(own)))
    }
}

impl RopeSpec {
    /// From either dialect: `rope_parameters`, or `rope_theta` with `rope_scaling`.
    pub(crate) fn read(config: &Reader, theta: f64, width: usize) -> Result<RopeSpec, Error> {
        let (key, dict) = match config.get("rope_parameters") {
            Some(v) => ("rope_parameters", Some(v)),
            None => ("rope_scaling", config.get("rope_scaling")),
        };
        RopeSpec::of(key, dict, config, config.number_or("rope_theta", theta)?, width)
    }

    /// From a dictionary that the configuration has under `key`.
    pub(crate) fn of(
        key: &'static str,
        dict: Option<&Value>,
        config: &Reader,
        theta: f64,
        width: usize,
    ) -> Result<RopeSpec, Error> {
        let theta =
            dict.and_then(|d| d.get("rope_theta")).and_then(Value::as_f64).filter(|t| t.is_finite()).unwrap_or(theta);
        if theta <= 0.0 || width % 2 == 1 {
            return Err(Error::config(
                key,
                format!(
                    "expected a positive rope_theta and an even number of rotated columns, found {theta} and {width}"
                ),
            ));
        }
        let kind = dict
            .and_then(|d| d.get("rope_type").or_else(|| d.get("type")))
            .map_or("default", |v| v.as_str().unwrap_or("?"));
        let (scaling, attention_factor) = Dict { key, dict, config, width, theta }.scaling(kind)?;
        Ok(RopeSpec { theta, width, scaling, attention_factor })
    }

    /// Without any scaling.
    pub(crate) fn plain(theta: f64, width: usize) -> Result<RopeSpec, Error> {
        if theta <= 0.0 || width % 2 == 1 {
            return Err(Error::config("rope_local_base_freq", format!("expected a positive number, found {theta}")));
        }
        Ok(RopeSpec { theta, width, scaling: RopeScaling::None, attention_factor: 1.0 })
    }

    /// Cosines and sines of positions `0..positions`, each `[positions, width/2]`.
    ///
    /// Frequencies and angles are rounded to single precision where `transformers` rounds them, because models were trained
    /// with those angles. Scalings that depend on a sequence's length take `positions`, the longest there can be, for all:
    /// that is what `transformers` does with the longest sequence of each batch.
    pub fn tables(&self, positions: usize) -> (Vec<f64>, Vec<f64>) {
        let frequencies: Vec<f32> = (0..self.width / 2).map(|i| self.frequency(i, positions as f64) as f32).collect();
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        angles.map(|a| (a.cos() * self.attention_factor, a.sin() * self.attention_factor)).unzip()
    }

    /// Positions that the model is for, where `own` is the configuration's `max_position_embeddings`: YaRN stretches its original
    /// ones by `factor`, and many configurations (Qwen2.5's documented one) leave the other number as it was.
    pub(crate) fn reach(&self, own: usize) -> usize {
        match self.scaling {
            // No table of more positions could be made, whatever the configuration says.
            RopeScaling::Yarn { factor, original, .. } => own.max((original * factor).min(f64::from(1 << 28)) as usize),
            _ => own,
        }
    }

    fn frequency(&self, i: usize, positions: f64) -> f64 {
        let d = self.width as f64;
        let plain = self.theta.powf(-2.0 * i as f64 / d);
        match &self.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
            RopeScaling::Dynamic { factor, original } => {
                let stretch = factor * positions.max(*original) / original - (factor - 1.0);
                (self.theta * stretch.powf(d / (d - 2.0))).powf(-2.0 * i as f64 / d)
            }
            RopeScaling::Yarn { factor, low, high, .. } => {
                let divided = ((i as f64 - low) / (high - low)).clamp(0.0, 1.0);
                plain / factor * divided + plain * (1.0 - divided)
            }
            RopeScaling::Llama3 { factor, low, high, original } => {
                let wavelength = 2.0 * PI / plain;
                if wavelength < original / high {
                    plain
                } else if wavelength > original / low {
                    plain / factor
                } else {
                    let smooth = (original / wavelength - low) / (high - low);
                    (1.0 - smooth) * plain / factor + smooth * plain
                }
            }
            RopeScaling::Long { short, long, original } => {
                plain / if positions > *original { long[i] } else { short[i] }
            }
        }
    }
}
