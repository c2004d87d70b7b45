//! Qwen 3 dense (`Qwen3ForCausalLM`): norms over each head of q and k, head width of its own.

use super::{Defaults, USUAL};
use crate::config::Reader;
use crate::{Blueprint, Error};

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    // The class default is 128 whatever hidden_size / heads gives.
    let mut b = super::dense(config, Defaults { head_width: Some(128), ..USUAL })?;
    b.qkv_bias = config.flag_or("attention_bias", false)?;
    b.o_bias = b.qkv_bias;
    b.qk_norm = true;
    super::qwen_windows(config, &mut b.layers)?;
    Ok(b)
}
