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
}

impl RopeSpec {
    /// From either dialect: `rope_parameters`, or `rope_theta` with `rope_scaling`.
    pub(crate) fn read(config: &Reader, width: usize) -> Result<RopeSpec, Error> {
        let (key, dict) = match config.get("rope_parameters") {
            Some(v) => ("rope_parameters", Some(v)),
            None => ("rope_scaling", config.get("rope_scaling")),
        };
        let top = config.number_or("rope_theta", 10_000.0)?;
        let number = |name: &str| dict.and_then(|d| d.get(name)).and_then(Value::as_f64).filter(|x| x.is_finite());
        let theta = number("rope_theta").unwrap_or(top);
        let need = |name: &str| {
            number(name)
                .filter(|x| *x > 0.0)
                .ok_or_else(|| Error::config(key, format!("{name}: expected a positive number")))
        };
        let kind = dict
            .and_then(|d| d.get("rope_type").or_else(|| d.get("type")))
            .map_or("default", |v| v.as_str().unwrap_or("?"));
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: need("factor")? },
            "llama3" => {
                let original = match number("original_max_position_embeddings") {
                    Some(n) => n,
                    None => config
                        .count_or("original_max_position_embeddings", Some(config.count("max_position_embeddings")?))?
                        as f64,
                };
                RopeScaling::Llama3 {
                    factor: need("factor")?,
                    low: need("low_freq_factor")?,
                    high: need("high_freq_factor")?,
                    original,
                }
            }
            other => {
                return Err(Error::config(
                    key,
                    format!(
                        "rope_type: expected default, linear or llama3, found {other:?}; others are not implemented"
                    ),
                ));
            }
        };
        if theta <= 0.0 || width % 2 == 1 {
            return Err(Error::config(
                key,
                format!("expected a positive rope_theta and an even head width, found {theta} and {width}"),
            ));
        }
        Ok(RopeSpec { theta, width, scaling })
    }

    /// Cosines and sines of positions `0..positions`, each `[positions, width/2]`.
    ///
    /// Frequencies and angles are rounded to single precision where `transformers` rounds them, because models were trained
    /// with those angles.
    pub fn tables(&self, positions: usize) -> (Vec<f64>, Vec<f64>) {
        let frequencies: Vec<f32> = (0..self.width / 2).map(|i| self.frequency(i) as f32).collect();
        let angles = (0..positions).flat_map(|p| frequencies.iter().map(move |f| f64::from(p as f32 * f)));
        angles.map(|a| (a.cos(), a.sin())).unzip()
    }

    fn frequency(&self, i: usize) -> f64 {
        let plain = self.theta.powf(-2.0 * i as f64 / self.width as f64);
        match self.scaling {
            RopeScaling::None => plain,
            RopeScaling::Linear { factor } => plain / factor,
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
        }
    }
}
