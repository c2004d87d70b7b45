//! Qwen 2 and 2.5 (`Qwen2ForCausalLM`): biases on q, k, v whatever the configuration says.

use super::USUAL;
use crate::config::Reader;
use crate::{Blueprint, Error};

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let mut b = super::dense(config, USUAL)?;
    b.qkv_bias = true;
    super::qwen_windows(config, &mut b.layers)?;
    Ok(b)
}
