//! DeepSeek V3 and its relatives (`DeepseekV3ForCausalLM`), OpenSeek-Small among them: attention through a latent, a sigmoid
//! router with a correction that chooses but does not weight, experts in groups, shared experts, dense layers first.

use super::{Defaults, USUAL};
use crate::config::Reader;
use crate::rope::RopeScaling;
use crate::{Blueprint, Error, ExpertLayout, ExpertSpec, LatentSpec, RopeSpec, SharedSpec};
use kernels::Gating;

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let query = match config.get("q_lora_rank") {
        None => None,
        Some(_) => Some(config.count("q_lora_rank")?),
    };
    let latent = LatentSpec {
        query,
        width: config.count("kv_lora_rank")?,
        unrotated: config.count("qk_nope_head_dim")?,
        rotated: config.count("qk_rope_head_dim")?,
        value: config.count("v_head_dim")?,
        interleaved: config.flag_or("rope_interleave", true)?,
        bias: config.flag_or("attention_bias", false)?,
    };
    let rope = RopeSpec::read(config, USUAL.theta, latent.rotated)?;
    // `head_dim` is the rotated width here, and `num_key_value_heads` means nothing.
    let head_width = latent.unrotated + latent.rotated;
    let mut b = super::plain(config, Defaults { eps: 1e-6, ..USUAL }, head_width, rope)?;
    b.kv_heads = b.heads;
    if let RopeScaling::Yarn { factor, mscale_all_dim: Some(all), .. } = b.rope.scaling {
        b.score_scale *= crate::rope::mscale(factor, all).powi(2);
    }
    b.latent = Some(latent);
    let first = config.index_or("first_k_dense_replace", 3)?;
    b.layers.iter_mut().enumerate().for_each(|(i, layer)| layer.experts = i >= first);
    let width = config.count("moe_intermediate_size")?;
    let shared = config.count_or("n_shared_experts", Some(1))? * width;
    b.experts = Some(ExpertSpec {
        route: route(config)?,
        width,
        layout: ExpertLayout::Corrected,
        shared: Some(SharedSpec { name: "shared_experts", width: shared, gated: false }),
        balance: None,
    });
    for (key, only) in [("scoring_func", "sigmoid"), ("topk_method", "noaux_tc")] {
        let found = config.text_or(key, only)?;
        if found != only {
            return Err(Error::config(key, format!("expected {only:?}, found {found:?}; others are not implemented")));
        }
    }
    // Of pre-training, of other parallelisms, or of further tokens predicted, which nothing here uses.
    config.seen(&[
        "moe_layer_freq",
        "num_nextn_predict_layers",
        "num_mtp_layers",
        "aux_loss_alpha",
        "seq_aux",
        "ep_size",
    ]);
    Ok(b)
}

fn route(config: &Reader) -> Result<kernels::RouteShape, Error> {
    let (groups, kept_groups) = (config.count_or("n_group", Some(8))?, config.count_or("topk_group", Some(4))?);
    let gating = Gating::Sigmoid {
        groups,
        kept_groups,
        normalise: config.flag_or("norm_topk_prob", true)?,
        scale: config.number_or("routed_scaling_factor", 2.5)?,
    };
    let route = super::route(config, "n_routed_experts", 8, gating)?;
    if route.experts % groups != 0 {
        return Err(Error::config(
            "n_group",
            format!("expected a divisor of {} experts, found {groups}", route.experts),
        ));
    }
    if kept_groups > groups || kept_groups * (route.experts / groups) < route.chosen {
        let what = format!(
            "expected at most {groups}, and groups enough for {} experts per token, found {kept_groups}",
            route.chosen
        );
        return Err(Error::config("topk_group", what));
    }
    Ok(route)
}
