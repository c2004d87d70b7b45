//! A checkpoint's tensors as llama.cpp has them: names, the order of rows, the llama3 frequencies.

use crate::Error;
use model::{Blueprint, RopeScaling};
use std::f64::consts::PI;
use weights::{Checkpoint, Values};

/// A tensor of the file and where its values come from.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Source {
    /// llama.cpp's name.
    pub(crate) name: String,
    /// The checkpoint's name.
    pub(crate) from: String,
    /// Extents, slowest first.
    pub(crate) shape: Vec<usize>,
    /// Heads whose halves are interleaved, where they are: llama.cpp rotates neighbours in this architecture.
    pub(crate) heads: Option<usize>,
}

/// llama.cpp's name of the architecture.
pub(crate) fn architecture(blueprint: &Blueprint) -> Result<&'static str, Error> {
    match blueprint.model_type.as_str() {
        "llama" | "mistral" => Ok("llama"),
        "qwen2" => Ok("qwen2"),
        "qwen3" => Ok("qwen3"),
        other => Err(Error::Unsupported {
            reason: format!("model_type `{other}` is not exported to GGUF; llama, mistral, qwen2 and qwen3 are"),
        }),
    }
}

/// All tensors of the file, in its order.
pub(crate) fn sources(blueprint: &Blueprint) -> Result<Vec<Source>, Error> {
    let interleaved = architecture(blueprint)? == "llama";
    let (d, h) = (blueprint.hidden, blueprint.head_width);
    let mut all = Vec::new();
    let mut add = |name: String, from: String, shape: Vec<usize>, heads: Option<usize>| {
        all.push(Source { name, from, shape, heads: heads.filter(|_| interleaved) });
    };
    add("token_embd.weight".into(), "model.embed_tokens.weight".into(), vec![blueprint.vocab, d], None);
    const PARTS: [&str; 7] = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"];
    for i in 0..blueprint.layers.len() {
        let of = |leaf: &str| format!("model.layers.{i}.{leaf}");
        add(format!("blk.{i}.attn_norm.weight"), of("input_layernorm.weight"), vec![d], None);
        add(format!("blk.{i}.ffn_norm.weight"), of("post_attention_layernorm.weight"), vec![d], None);
        for (part, linear) in PARTS.into_iter().zip(blueprint.projections(i)) {
            let heads = match part {
                "attn_q" => Some(blueprint.heads),
                "attn_k" => Some(blueprint.kv_heads),
                _ => None,
            };
            let shape = vec![linear.outputs, linear.inputs];
            add(format!("blk.{i}.{part}.weight"), format!("{}.weight", linear.path), shape, heads);
            if linear.bias {
                add(format!("blk.{i}.{part}.bias"), format!("{}.bias", linear.path), vec![linear.outputs], heads);
            }
        }
        if blueprint.qk_norm {
            add(format!("blk.{i}.attn_q_norm.weight"), of("self_attn.q_norm.weight"), vec![h], None);
            add(format!("blk.{i}.attn_k_norm.weight"), of("self_attn.k_norm.weight"), vec![h], None);
        }
    }
    add("output_norm.weight".into(), "model.norm.weight".into(), vec![d], None);
    if !blueprint.tied {
        add("output.weight".into(), "lm_head.weight".into(), vec![blueprint.vocab, d], None);
    }
    Ok(all)
}

impl Source {
    /// The row of the checkpoint that stands in row `row` of the file: of a head's two halves, first and second in turn.
    pub(crate) fn row(&self, row: usize) -> usize {
        let Some(heads) = self.heads else { return row };
        let width = self.shape[0] / heads;
        let (head, at) = (row / width, row % width);
        head * width + at % 2 * (width / 2) + at / 2
    }

    /// Values of a row.
    pub(crate) fn width(&self) -> usize {
        if self.shape.len() > 1 { self.shape[1] } else { 1 }
    }

    /// The checkpoint's tensor.
    pub(crate) fn open(&self, checkpoint: &Checkpoint) -> Result<Values, Error> {
        let values = checkpoint.values(&self.from)?;
        match values.shape() == self.shape {
            true => Ok(values),
            // A matrix in codes has no axes of its own in the file; others are reported with the file that they are in.
            false => Ok(Values::Plain(checkpoint.get_shaped(&self.from, &self.shape)?)),
        }
    }
}

/// Llama 3.1's stretched context: what each frequency is divided by, as the tensor `rope_freqs.weight`.
pub(crate) fn rope_divisors(blueprint: &Blueprint) -> Option<Vec<f32>> {
    let RopeScaling::Llama3 { factor, low, high, original } = blueprint.rope.scaling else { return None };
    let width = blueprint.rope.width;
    let divisor = |i: usize| {
        let wavelength = 2.0 * PI * blueprint.rope.theta.powf(2.0 * i as f64 / width as f64);
        if wavelength < original / high {
            return 1.0;
        }
        if wavelength > original / low {
            return factor;
        }
        let smooth = (original / wavelength - low) / (high - low);
        1.0 / ((1.0 - smooth) / factor + smooth)
    };
    Some((0..width / 2).map(|i| divisor(i) as f32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_of_a_head_are_interleaved_and_every_row_is_taken_once() {
        let source = Source { name: "q".into(), from: "q".into(), shape: vec![8, 1], heads: Some(2) };
        let rows: Vec<usize> = (0..8).map(|row| source.row(row)).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7]);
        let plain = Source { heads: None, ..source };
        assert_eq!(plain.row(5), 5);
    }
}
