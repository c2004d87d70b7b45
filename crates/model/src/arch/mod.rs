//! One file per architecture.

mod llama;
mod mistral;
mod qwen2;
mod qwen3;

use crate::config::Reader;
use crate::{Blueprint, Error, LayerSpec, RopeSpec};
use serde_json::{Map, Value};

/// Every `model_type` there is.
pub const NAMES: &[&str] = &["llama", "mistral", "qwen2", "qwen3"];

/// Reads a `config.json`.
pub fn blueprint(config: &Map<String, Value>) -> Result<Blueprint, Error> {
    let reader = Reader::new(config);
    let blueprint = match reader.text_or("model_type", "")? {
        "llama" => llama::blueprint(&reader)?,
        "mistral" => mistral::blueprint(&reader)?,
        "qwen2" => qwen2::blueprint(&reader)?,
        "qwen3" => qwen3::blueprint(&reader)?,
        found => return Err(Error::UnknownArchitecture { found: found.to_owned() }),
    };
    reader.finish()?;
    Ok(blueprint)
}

/// What all dense pre-norm decoders with grouped heads share; no biases, no head norms, full attention.
fn dense(config: &Reader, default_eps: f64) -> Result<Blueprint, Error> {
    let (hidden, heads) = (config.count("hidden_size")?, config.count("num_attention_heads")?);
    let kv_heads = config.count_or("num_key_value_heads", Some(heads))?;
    let head_width = config.count_or("head_dim", Some(hidden / heads))?;
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
        hidden,
        vocab: config.count("vocab_size")?,
        heads,
        kv_heads,
        head_width,
        feed_forward: config.count("intermediate_size")?,
        norm_eps: config.number_or("rms_norm_eps", default_eps)?,
        qkv_bias: false,
        o_bias: false,
        mlp_bias: false,
        qk_norm: false,
        tied: config.flag_or("tie_word_embeddings", false)?,
        rope: RopeSpec::read(config, head_width)?,
        max_positions: config.count_or("max_position_embeddings", Some(2048))?,
        layers: vec![LayerSpec { window: None }; layers],
    })
}

/// Windows of the Qwen family: `layer_types` when given, else layers from `max_window_layers` on when `use_sliding_window`.
fn qwen_windows(config: &Reader, layers: &mut [LayerSpec]) -> Result<(), Error> {
    let window = match config.get("sliding_window") {
        None => None,
        Some(_) => Some(config.count("sliding_window")?),
    };
    let on = config.flag_or("use_sliding_window", false)?;
    let from = match config.get("max_window_layers") {
        None => 28,
        Some(v) => {
            v.as_u64().ok_or_else(|| Error::config("max_window_layers", format!("expected a count, found {v}")))?
                as usize
        }
    };
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
