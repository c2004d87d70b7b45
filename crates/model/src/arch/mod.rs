//! One file per architecture.

mod deepseek_v3;
mod gemma2;
mod gemma3_text;
mod gpt_oss;
mod llama;
mod mistral;
mod mixtral;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;

use crate::config::Reader;
use crate::{Blueprint, Error, LayerSpec, RopeSpec};
use kernels::{Gate, Gating, RouteShape};
use serde_json::{Map, Value};

/// Every `model_type` there is.
pub const NAMES: &[&str] = &[
    "deepseek_v3",
    "gemma2",
    "gemma3_text",
    "gpt_oss",
    "llama",
    "mistral",
    "mixtral",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
];

/// Reads a `config.json`.
pub fn blueprint(config: &Map<String, Value>) -> Result<Blueprint, Error> {
    let reader = Reader::new(config);
    let method = config.get("quantization_config").and_then(|q| q.get("quant_method")).and_then(Value::as_str);
    if method == Some("bitsandbytes") {
        // Each weight's own tensors say how it is held.
        reader.seen(&["quantization_config"]);
    }
    let blueprint = match reader.text_or("model_type", "")? {
        "deepseek_v3" => deepseek_v3::blueprint(&reader)?,
        "gemma2" => gemma2::blueprint(&reader)?,
        "gemma3_text" => gemma3_text::blueprint(&reader)?,
        "gpt_oss" => gpt_oss::blueprint(&reader)?,
        "llama" => llama::blueprint(&reader)?,
        "mistral" => mistral::blueprint(&reader)?,
        "mixtral" => mixtral::blueprint(&reader)?,
        "phi3" => phi3::blueprint(&reader)?,
        "qwen2" => qwen2::blueprint(&reader)?,
        "qwen2_moe" => qwen2_moe::blueprint(&reader)?,
        "qwen3" => qwen3::blueprint(&reader)?,
        "qwen3_moe" => qwen3_moe::blueprint(&reader)?,
        found => return Err(Error::UnknownArchitecture { found: found.to_owned() }),
    };
    reader.finish(blueprint.gate)?;
    sane(&blueprint)?;
    Ok(blueprint)
}

/// Most weights of a model: forty times the largest there is. Products of sizes below it overflow nowhere.
const MOST_WEIGHTS: f64 = (1u64 << 45) as f64;
/// Most experts of all layers together.
const MOST_EXPERTS: usize = 1 << 17;

/// Refuses sizes that are each thinkable and together are not, before anything is made of them.
fn sane(b: &Blueprint) -> Result<(), Error> {
    let layers = b.layers.len();
    if let Some(e) = &b.experts
        && e.route.experts * layers > MOST_EXPERTS
    {
        let what = format!("{layers} layers of {} experts are more than there can be", e.route.experts);
        return Err(Error::config("num_hidden_layers", what));
    }
    let size = |p: &crate::Projection| p.outputs as f64 * p.inputs as f64;
    let expert = b.experts.as_ref().map_or(0.0, |e| 3.0 * e.route.experts as f64 * e.width as f64 * b.hidden as f64);
    let widest = (0..layers).map(|i| b.projections(i).iter().map(size).sum::<f64>()).fold(0.0, f64::max);
    let weights = (widest + expert) * layers as f64 + 2.0 * b.vocab as f64 * b.hidden as f64;
    if weights > MOST_WEIGHTS {
        let what = format!("with the other sizes it makes {weights:.1e} weights, which no model has");
        return Err(Error::config("hidden_size", what));
    }
    Ok(())
}

/// What the file's own class takes where `config.json` says nothing.
#[derive(Clone, Copy)]
struct Defaults {
    eps: f64,
    theta: f64,
    /// Head width; `None`: model width by heads.
    head_width: Option<usize>,
    tied: bool,
}

const USUAL: Defaults = Defaults { eps: 1e-6, theta: 10_000.0, head_width: None, tied: false };

/// What all dense pre-norm decoders with grouped heads share; no biases, no head norms, full attention.
fn dense(config: &Reader, defaults: Defaults) -> Result<Blueprint, Error> {
    let heads = config.count("num_attention_heads")?;
    let hidden = config.count("hidden_size")?;
    let head_width = config.count_or("head_dim", Some(defaults.head_width.unwrap_or(hidden / heads)))?;
    plain(config, defaults, head_width, RopeSpec::read(config, defaults.theta, head_width)?)
}

/// As [`dense`], with the width of heads and their rotation decided.
fn plain(config: &Reader, defaults: Defaults, head_width: usize, rope: RopeSpec) -> Result<Blueprint, Error> {
    let heads = config.count("num_attention_heads")?;
    let kv_heads = config.count_or("num_key_value_heads", Some(heads))?;
    if heads % kv_heads != 0 {
        return Err(Error::config(
            "num_key_value_heads",
            format!("expected a divisor of {heads} heads, found {kv_heads}"),
        ));
    }
    let layers = config.count("num_hidden_layers")?;
    if layers > 4096 {
        return Err(Error::config("num_hidden_layers", format!("expected at most 4096, found {layers}")));
    }
    Ok(Blueprint {
        model_type: config.text_or("model_type", "")?.to_owned(),
        hidden: config.count("hidden_size")?,
        vocab: config.count("vocab_size")?,
        grown: 0,
        heads,
        kv_heads,
        head_width,
        feed_forward: config.count("intermediate_size")?,
        norm_eps: config.number_or("rms_norm_eps", defaults.eps)?,
        norm_one_plus: false,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        out_norms: false,
        fused: false,
        sinks: false,
        score_scale: (head_width as f64).powf(-0.5),
        score_cap: None,
        logit_cap: None,
        embed_scale: None,
        gate: Gate::Silu,
        latent: None,
        experts: None,
        tied: config.flag_or("tie_word_embeddings", defaults.tied)?,
        max_positions: rope.reach(config.count_or("max_position_embeddings", Some(2048))?),
        rope,
        local_rope: None,
        layers: vec![LayerSpec::default(); layers],
    })
}

/// A window on the layers that `slides` says, if the configuration has one.
fn windows(config: &Reader, layers: &mut [LayerSpec], slides: impl Fn(usize) -> bool) -> Result<(), Error> {
    let types = layer_types(config, layers.len())?;
    for (i, layer) in layers.iter_mut().enumerate() {
        if types.as_ref().map_or_else(|| slides(i), |t| t[i]) {
            layer.window = Some(config.count("sliding_window")?);
        }
    }
    Ok(())
}

/// Windows of the Qwen family: `layer_types` when given, else layers from `max_window_layers` on when `use_sliding_window`.
fn qwen_windows(config: &Reader, layers: &mut [LayerSpec]) -> Result<(), Error> {
    let window = match config.get("sliding_window") {
        None => None,
        Some(_) if !config.flag_or("use_sliding_window", false)? => None,
        Some(_) => Some(config.count("sliding_window")?),
    };
    let on = config.flag_or("use_sliding_window", false)?;
    let from = config.index_or("max_window_layers", 28)?;
    let types = layer_types(config, layers.len())?;
    for (i, layer) in layers.iter_mut().enumerate() {
        let slides = types.as_ref().map_or(on && i >= from, |t| t[i]);
        if slides && on {
            layer.window = Some(window.ok_or_else(|| {
                Error::config("sliding_window", "expected a count of positions, since layers slide; found nothing")
            })?);
        }
    }
    Ok(())
}

/// `layer_types` as "slides" per layer.
fn layer_types(config: &Reader, layers: usize) -> Result<Option<Vec<bool>>, Error> {
    let Some(types) = config.get("layer_types") else { return Ok(None) };
    let list = types
        .as_array()
        .filter(|l| l.len() == layers)
        .ok_or_else(|| Error::config("layer_types", format!("expected a list of {layers} names, found {types}")))?;
    let slides = |v: &Value| match v.as_str() {
        Some("full_attention") => Ok(false),
        Some("sliding_attention") => Ok(true),
        _ => Err(Error::config("layer_types", format!("expected full_attention or sliding_attention, found {v}"))),
    };
    list.iter().map(slides).collect::<Result<_, _>>().map(Some)
}

/// A router of `config[key]` experts, `num_experts_per_tok` of which each row takes.
fn route(config: &Reader, key: &'static str, per_token: usize, gating: Gating) -> Result<RouteShape, Error> {
    let (experts, chosen) = (config.count(key)?, config.count_or("num_experts_per_tok", Some(per_token))?);
    if experts > 65_536 {
        return Err(Error::config(key, format!("expected at most 65536, found {experts}")));
    }
    if chosen > experts {
        let what = format!("expected at most the {experts} experts there are, found {chosen}");
        return Err(Error::config("num_experts_per_tok", what));
    }
    Ok(RouteShape { experts, chosen, gating })
}

/// The layers of the Qwen family that have experts: every `decoder_sparse_step`-th, but for `mlp_only_layers`.
fn qwen_sparse(config: &Reader, layers: &mut [LayerSpec]) -> Result<(), Error> {
    let step = config.count_or("decoder_sparse_step", Some(1))?;
    let dense: Vec<u64> = match config.get("mlp_only_layers") {
        None => Vec::new(),
        Some(list) => list
            .as_array()
            .and_then(|l| l.iter().map(Value::as_u64).collect())
            .ok_or_else(|| Error::config("mlp_only_layers", format!("expected a list of layers, found {list}")))?,
    };
    for (i, layer) in layers.iter_mut().enumerate() {
        layer.experts = (i + 1) % step == 0 && !dense.contains(&(i as u64));
    }
    Ok(())
}
