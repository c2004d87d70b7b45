//! Phi 3 and 4 mini (`Phi3ForCausalLM`): q, k, v in one tensor and gate and up in another, partial and long rotary.

use super::{Defaults, USUAL};
use crate::config::Reader;
use crate::{Blueprint, Error, RopeSpec};
use serde_json::Value;

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let (hidden, heads) = (config.count("hidden_size")?, config.count("num_attention_heads")?);
    let head_width = config.count_or("head_dim", Some(hidden / heads))?;
    let top = config.number_or("partial_rotary_factor", 1.0)?;
    let inside = config.get("rope_parameters").and_then(|r| r.get("partial_rotary_factor")).and_then(Value::as_f64);
    let partial = inside.unwrap_or(top);
    let width = (head_width as f64 * partial) as usize;
    if !(partial > 0.0 && partial <= 1.0) || width == 0 {
        let what = format!("expected a share of the head's {head_width} columns, found {partial}");
        return Err(Error::config("partial_rotary_factor", what));
    }
    let rope = RopeSpec::read(config, USUAL.theta, width)?;
    let mut b = super::plain(config, Defaults { eps: 1e-5, ..USUAL }, head_width, rope)?;
    b.fused = true;
    if config.get("sliding_window").is_some() {
        super::windows(config, &mut b.layers, |_| true)?;
    }
    for key in ["resid_pdrop", "embd_pdrop"] {
        let p = config.number_or(key, 0.0)?;
        if p != 0.0 {
            return Err(Error::config(key, format!("expected 0, found {p}; anything else is not implemented")));
        }
    }
    Ok(b)
}
