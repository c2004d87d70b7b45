//! Mistral 7B (`MistralForCausalLM`): never a bias; the window, when there is one, holds in every layer.

use crate::config::Reader;
use crate::{Blueprint, Error, LayerSpec};

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let mut b = super::dense(config, 1e-6)?;
    if config.get("sliding_window").is_some() {
        let window = Some(config.count("sliding_window")?);
        let types = super::layer_types(config, b.layers.len())?;
        for (i, layer) in b.layers.iter_mut().enumerate() {
            *layer = LayerSpec { window: window.filter(|_| types.as_ref().is_none_or(|t| t[i])) };
        }
    }
    Ok(b)
}
