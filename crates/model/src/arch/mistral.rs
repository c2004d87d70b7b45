//! Mistral 7B (`MistralForCausalLM`): never a bias; the window, when there is one, holds in every layer.

use super::USUAL;
use crate::config::Reader;
use crate::{Blueprint, Error};

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let mut b = super::dense(config, USUAL)?;
    if config.get("sliding_window").is_some() {
        super::windows(config, &mut b.layers, |_| true)?;
    }
    Ok(b)
}
