//! Llama 2 and 3 (`LlamaForCausalLM`): optional biases, llama3 frequencies.

use super::USUAL;
use crate::config::Reader;
use crate::{Blueprint, Error};

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let mut b = super::dense(config, USUAL)?;
    b.qkv_bias = config.flag_or("attention_bias", false)?;
    b.o_bias = b.qkv_bias;
    b.mlp_bias = config.flag_or("mlp_bias", false)?;
    Ok(b)
}
