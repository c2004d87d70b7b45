//! Mixtral (`MixtralForCausalLM`): Mistral with experts in every layer; weights are a softmax over the chosen ones.

use super::{Defaults, USUAL};
use crate::config::Reader;
use crate::{Blueprint, Error, ExpertLayout, ExpertSpec};
use kernels::Gating;

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let mut b = super::dense(config, Defaults { eps: 1e-5, theta: 1e6, ..USUAL })?;
    if config.get("sliding_window").is_some() {
        super::windows(config, &mut b.layers, |_| true)?;
    }
    b.layers.iter_mut().for_each(|layer| layer.experts = true);
    b.experts = Some(ExpertSpec {
        route: super::route(config, "num_local_experts", 2, Gating::SoftmaxOfChosen)?,
        width: b.feed_forward,
        layout: ExpertLayout::Mixtral,
        shared: None,
        balance: Some(config.number_or("router_aux_loss_coef", 0.001)?),
    });
    Ok(b)
}
