//! Gemma 3, text only (`Gemma3ForCausalLM`): norms over heads, five sliding layers to each full one, and rotary bases of
//! their own for both kinds.

use super::{Defaults, USUAL};
use crate::config::Reader;
use crate::{Blueprint, Error, RopeSpec};

pub(super) fn blueprint(config: &Reader) -> Result<Blueprint, Error> {
    let head_width = config.count_or("head_dim", Some(256))?;
    let nested = |kind: &str| config.get("rope_parameters").and_then(|r| r.get(kind));
    let [full, sliding] = ["full_attention", "sliding_attention"].map(nested);
    let (rope, local) = match (full, sliding) {
        (None, None) => (
            RopeSpec::read(config, 1e6, head_width)?,
            RopeSpec::plain(config.number_or("rope_local_base_freq", 1e4)?, head_width)?,
        ),
        _ => (
            RopeSpec::of("rope_parameters", full, config, 1e6, head_width)?,
            RopeSpec::of("rope_parameters", sliding, config, 1e4, head_width)?,
        ),
    };
    let mut b = super::plain(config, Defaults { tied: true, ..USUAL }, head_width, rope)?;
    super::gemma2::family(config, &mut b)?;
    b.qk_norm = true;
    b.score_cap = super::gemma2::cap(config, "attn_logit_softcapping", None)?;
    b.logit_cap = super::gemma2::cap(config, "final_logit_softcapping", None)?;
    let pattern = ["sliding_window_pattern", "_sliding_window_pattern"].map(|key| config.count_or(key, Some(6)));
    let [pattern, other] = pattern;
    let every = if config.has("sliding_window_pattern") { pattern? } else { other? };
    super::windows(config, &mut b.layers, |i| (i + 1) % every != 0)?;
    b.layers.iter_mut().for_each(|layer| layer.local = layer.window.is_some());
    b.local_rope = Some(local);
    config.seen(&["sliding_window", "cache_implementation"]);
    Ok(b)
}
