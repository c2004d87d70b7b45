//! Qwen 1.5 and 2 with experts (`Qwen2MoeForCausalLM`): a shared expert behind a gate of its own.

use super::USUAL;
use crate::config::Reader;
use crate::{Blueprint, Error, ExpertLayout, ExpertSpec, SharedSpec};

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let mut b = super::dense(config, USUAL)?;
    b.qkv_bias = config.flag_or("qkv_bias", true)?;
    // Unlike in the dense models, the lower layers slide, every other one.
    let (on, until) = (config.flag_or("use_sliding_window", false)?, config.index_or("max_window_layers", 28)?);
    if on {
        super::windows(config, &mut b.layers, |i| i % 2 == 0 && i < until)?;
    }
    config.seen(&["sliding_window", "layer_types"]);
    super::qwen_sparse(config, &mut b.layers)?;
    let width = config.count_or("shared_expert_intermediate_size", Some(5632))?;
    b.experts = Some(ExpertSpec {
        route: super::route(config, "num_experts", 4, super::qwen3_moe::gating(config)?)?,
        width: config.count_or("moe_intermediate_size", Some(1408))?,
        layout: ExpertLayout::PerExpert,
        shared: Some(SharedSpec { name: "shared_expert", width, gated: true }),
        balance: Some(config.number_or("router_aux_loss_coef", 0.001)?),
    });
    Ok(b)
}
