//! Metadata of a model: what it is, its shapes, its tokenizer, its template.

use crate::tensors::architecture;
use crate::value::{Metadata, Value};
use crate::{Error, Mix};
use kernels::Gating;
use model::{Blueprint, RopeScaling};
use serde_json::{Map, Value as Json};

/// `general.quantization_version`.
const QUANTIZATION_VERSION: u32 = 2;

/// Everything but the tokenizer.
pub(crate) fn of_model(
    blueprint: &Blueprint,
    config: &Map<String, Json>,
    name: &str,
    mix: Mix,
) -> Result<Metadata, Error> {
    let arch = architecture(blueprint)?;
    let mut out: Metadata = vec![
        ("general.architecture".into(), Value::Text(arch.into())),
        ("general.type".into(), Value::Text("model".into())),
        ("general.name".into(), Value::Text(name.into())),
        ("general.size_label".into(), Value::Text(size_label(blueprint.num_parameters()))),
        ("general.file_type".into(), Value::U32(mix.file_type())),
        ("general.quantization_version".into(), Value::U32(QUANTIZATION_VERSION)),
    ];
    let mut add = |key: &str, value: Value| out.push((format!("{arch}.{key}"), value));
    let count = |n: usize| Value::U32(n as u32);
    add("vocab_size", count(blueprint.vocab));
    add("block_count", count(blueprint.layers.len()));
    add("context_length", count(blueprint.max_positions));
    add("embedding_length", count(blueprint.hidden));
    add("feed_forward_length", count(blueprint.feed_forward));
    add("attention.head_count", count(blueprint.heads));
    match &blueprint.latent {
        None => {
            add("attention.head_count_kv", count(blueprint.kv_heads));
            add("attention.key_length", count(blueprint.head_width));
            add("attention.value_length", count(blueprint.head_width));
        }
        // One key that all heads share: the latent and the rotated columns.
        Some(latent) => {
            add("attention.head_count_kv", count(1));
            add("attention.key_length", count(latent.width + latent.rotated));
            add("attention.value_length", count(latent.width));
            add("attention.key_length_mla", count(latent.unrotated + latent.rotated));
            add("attention.value_length_mla", count(latent.value));
            add("attention.kv_lora_rank", count(latent.width));
            // Asked for even where there is none.
            add("attention.q_lora_rank", count(latent.query.unwrap_or(0)));
        }
    }
    add("attention.layer_norm_rms_epsilon", Value::F32(blueprint.norm_eps as f32));
    add("rope.dimension_count", count(blueprint.rope.width));
    add("rope.freq_base", Value::F32(blueprint.rope.theta as f32));
    if let RopeScaling::Linear { factor } = blueprint.rope.scaling {
        add("rope.scaling.type", Value::Text("linear".into()));
        add("rope.scaling.factor", Value::F32(factor as f32));
    }
    if let RopeScaling::Yarn { factor, mscale_all_dim, .. } = blueprint.rope.scaling {
        yarn(config, factor, mscale_all_dim, &mut add);
    }
    if let RopeScaling::Long { original, .. } = blueprint.rope.scaling {
        add("rope.scaling.original_context_length", Value::U32(original as u32));
        // What LongRoPE multiplies queries and keys by.
        add("rope.scaling.attn_factor", Value::F32(blueprint.rope.attention_factor as f32));
    }
    windows_and_caps(blueprint, &mut add);
    experts(blueprint, &mut add);
    Ok(out)
}

fn yarn(config: &Map<String, Json>, factor: f64, all: Option<f64>, add: &mut impl FnMut(&str, Value)) {
    let scaling =
        ["rope_parameters", "rope_scaling"].into_iter().find_map(|key| config.get(key)).unwrap_or(&Json::Null);
    let number = |key: &str| scaling[key].as_f64().or_else(|| config.get(key).and_then(Json::as_f64));
    let original = number("original_max_position_embeddings").or_else(|| number("max_position_embeddings"));
    add("rope.scaling.type", Value::Text("yarn".into()));
    add("rope.scaling.factor", Value::F32(factor as f32));
    add("rope.scaling.original_context_length", Value::U32(original.unwrap_or(0.0) as u32));
    for (key, name) in [("beta_fast", "rope.scaling.yarn_beta_fast"), ("beta_slow", "rope.scaling.yarn_beta_slow")] {
        if let Some(beta) = number(key) {
            add(name, Value::F32(beta as f32));
        }
    }
    if let Some(all) = all {
        // Of DeepSeek's factor of the scores.
        add("rope.scaling.yarn_log_multiplier", Value::F32(0.1 * all as f32));
    }
}

fn windows_and_caps(blueprint: &Blueprint, add: &mut impl FnMut(&str, Value)) {
    if matches!(blueprint.model_type.as_str(), "gpt_oss" | "gemma2" | "gemma3_text")
        && let Some(window) = blueprint.layers.iter().find_map(|layer| layer.window)
    {
        add("attention.sliding_window", Value::U32(window as u32));
        let slides = blueprint.layers.iter().map(|layer| layer.window.is_some()).collect();
        add("attention.sliding_window_pattern", Value::Bools(slides));
    }
    if let Some(local) = &blueprint.local_rope {
        add("rope.freq_base_swa", Value::F32(local.theta as f32));
    }
    if let Some(cap) = blueprint.score_cap {
        add("attn_logit_softcapping", Value::F32(cap as f32));
    }
    if let Some(cap) = blueprint.logit_cap {
        add("final_logit_softcapping", Value::F32(cap as f32));
    }
}

fn experts(blueprint: &Blueprint, add: &mut impl FnMut(&str, Value)) {
    let Some(spec) = &blueprint.experts else { return };
    let mut count = |key: &str, n: usize| add(key, Value::U32(n as u32));
    count("expert_count", spec.route.experts);
    count("expert_used_count", spec.route.chosen);
    count("expert_feed_forward_length", spec.width);
    if let Some(shared) = &spec.shared {
        match blueprint.latent {
            Some(_) => count("expert_shared_count", shared.width / spec.width),
            None => count("expert_shared_feed_forward_length", shared.width),
        }
    }
    if let Gating::Sigmoid { groups, kept_groups, normalise, scale } = spec.route.gating {
        count("leading_dense_block_count", blueprint.layers.iter().filter(|layer| !layer.experts).count());
        // A sigmoid of each score, in llama.cpp's numbering.
        count("expert_gating_func", 2);
        if groups > 1 {
            count("expert_group_count", groups);
            count("expert_group_used_count", kept_groups);
        }
        add("expert_weights_norm", Value::Bool(normalise));
        add("expert_weights_scale", Value::F32(scale as f32));
    }
}

/// Parameters as people say them: `7.2B`, `494M`, `260K`.
fn size_label(parameters: usize) -> String {
    let n = parameters as f64;
    match n {
        1e9.. => format!("{:.1}B", n / 1e9),
        1e6.. => format!("{:.0}M", n / 1e6),
        _ => format!("{:.0}K", n / 1e3),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_said_as_people_say_them() {
        assert_eq!([7_240_000_000, 494_000_000, 260_032].map(size_label), ["7.2B", "494M", "260K"]);
    }
}
