//! Gemma 2 (`Gemma2ForCausalLM`): norms before and after, GELU, capped scores and logits, windows in every other layer.

use super::{Defaults, USUAL};
use crate::config::Reader;
use crate::{Blueprint, Error};
use kernels::Gate;

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let mut b = super::dense(config, Defaults { head_width: Some(256), tied: true, ..USUAL })?;
    family(config, &mut b)?;
    b.score_cap = cap(config, "attn_logit_softcapping", Some(50.0))?;
    b.logit_cap = cap(config, "final_logit_softcapping", Some(30.0))?;
    super::windows(config, &mut b.layers, |i| i % 2 == 0)?;
    config.seen(&["sliding_window", "cache_implementation"]);
    Ok(b)
}

/// What Gemma 2 and 3 share.
pub(super) fn family(config: &Reader, b: &mut Blueprint) -> Result<(), Error> {
    b.gate = Gate::Gelu;
    b.norm_one_plus = true;
    b.out_norms = true;
    b.embed_scale = Some((b.hidden as f64).sqrt());
    b.qkv_bias = config.flag_or("attention_bias", false)?;
    b.o_bias = b.qkv_bias;
    let scalar = config.number_or("query_pre_attn_scalar", 256.0)?;
    if scalar <= 0.0 {
        return Err(Error::config("query_pre_attn_scalar", format!("expected a positive number, found {scalar}")));
    }
    b.score_scale = scalar.powf(-0.5);
    let found = config.text_or("hidden_activation", "gelu_pytorch_tanh")?;
    if found != "gelu_pytorch_tanh" {
        let what = format!("expected \"gelu_pytorch_tanh\", found {found:?}; others are not implemented");
        return Err(Error::config("hidden_activation", what));
    }
    Ok(())
}

/// A cap; null is none, and so is 0 in the code of the models.
pub(super) fn cap(config: &Reader, key: &'static str, default: Option<f64>) -> Result<Option<f64>, Error> {
    if !config.has(key) {
        return Ok(default);
    }
    let cap = config.number_or(key, 0.0)?;
    if cap < 0.0 {
        return Err(Error::config(key, format!("expected a positive number or null, found {cap}")));
    }
    Ok(Some(cap).filter(|c| *c > 0.0))
}
