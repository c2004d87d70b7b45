//! Qwen 3 with experts (`Qwen3MoeForCausalLM`): norms over each head of q and k, no shared expert.

use super::USUAL;
use crate::config::Reader;
use crate::{Blueprint, Error, ExpertLayout, ExpertSpec};
use kernels::Gating;

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let mut b = super::dense(config, USUAL)?;
    b.qkv_bias = config.flag_or("attention_bias", false)?;
    b.o_bias = b.qkv_bias;
    b.qk_norm = true;
    // The window, when it is in use, holds in every layer; the class knows no others.
    if config.flag_or("use_sliding_window", false)? && config.get("sliding_window").is_some() {
        let window = config.count("sliding_window")?;
        b.layers.iter_mut().for_each(|layer| layer.window = Some(window));
    }
    config.seen(&["sliding_window", "max_window_layers"]);
    super::qwen_sparse(config, &mut b.layers)?;
    b.experts = Some(ExpertSpec {
        route: super::route(config, "num_experts", 8, gating(config)?)?,
        width: config.count_or("moe_intermediate_size", Some(768))?,
        layout: ExpertLayout::PerExpert,
        shared: None,
        balance: Some(config.number_or("router_aux_loss_coef", 0.001)?),
    });
    Ok(b)
}

/// A softmax, of the chosen ones where their weights are to sum to one.
pub(super) fn gating(config: &Reader) -> Result<Gating, Error> {
    Ok(if config.flag_or("norm_topk_prob", false)? { Gating::SoftmaxOfChosen } else { Gating::Softmax })
}
