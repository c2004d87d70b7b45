//! GPT-OSS (`GptOssForCausalLM`): sinks, windows in every other layer, biases everywhere, clamped experts.

use super::{Defaults, USUAL};
use crate::config::Reader;
use crate::{Blueprint, Error, ExpertLayout, ExpertSpec};
use kernels::{Clamp, Gating};

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let defaults = Defaults { eps: 1e-5, theta: 150_000.0, head_width: Some(64), ..USUAL };
    let mut b = super::dense(config, defaults)?;
    b.qkv_bias = config.flag_or("attention_bias", true)?;
    b.o_bias = b.qkv_bias;
    b.sinks = true;
    super::windows(config, &mut b.layers, |i| i % 2 == 0)?;
    config.seen(&["sliding_window"]);
    b.layers.iter_mut().for_each(|layer| layer.experts = true);
    let clamp =
        Clamp { alpha: config.number_or("swiglu_alpha", 1.702)?, limit: config.number_or("swiglu_limit", 7.0)? };
    b.experts = Some(ExpertSpec {
        route: super::route(config, "num_local_experts", 4, Gating::SoftmaxOfChosen)?,
        width: b.feed_forward,
        layout: ExpertLayout::Turned(clamp),
        shared: None,
        balance: Some(config.number_or("router_aux_loss_coef", 0.001)?),
    });
    // `experts_per_token` is an older name of `num_experts_per_tok`, and both are in the released files.
    config.seen(&["experts_per_token", "initial_context_length"]);
    if let Some(quantised) = config.get("quantization_config") {
        let method = quantised.get("quant_method").and_then(|m| m.as_str()).unwrap_or("nothing");
        if !["mxfp4", "bitsandbytes"].contains(&method) {
            let what = format!(
                "quant_method: expected mxfp4 or bitsandbytes, found {method}; others are not implemented here"
            );
            return Err(Error::config("quantization_config", what));
        }
    }
    Ok(b)
}
