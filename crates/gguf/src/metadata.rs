//! Metadata of a model: what it is, its shapes, its tokenizer, its template.

use crate::tensors::architecture;
use crate::value::{Metadata, Value};
use crate::{Error, Mix};
use model::{Blueprint, RopeScaling};

/// `general.quantization_version`.
const QUANTIZATION_VERSION: u32 = 2;

/// Everything but the tokenizer.
pub(crate) fn of_model(blueprint: &Blueprint, name: &str, mix: Mix) -> Result<Metadata, Error> {
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
    add("attention.head_count_kv", count(blueprint.kv_heads));
    add("attention.key_length", count(blueprint.head_width));
    add("attention.value_length", count(blueprint.head_width));
    add("attention.layer_norm_rms_epsilon", Value::F32(blueprint.norm_eps as f32));
    add("rope.dimension_count", count(blueprint.rope.width));
    add("rope.freq_base", Value::F32(blueprint.rope.theta as f32));
    if let RopeScaling::Linear { factor } = blueprint.rope.scaling {
        add("rope.scaling.type", Value::Text("linear".into()));
        add("rope.scaling.factor", Value::F32(factor as f32));
    }
    Ok(out)
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
