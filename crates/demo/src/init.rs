//! A small Qwen2 model folder with random weights.

use crate::Error;
use data::rng::Stream;
use serde_json::{Map, Value, json};
use std::f64::consts::TAU;
use std::path::Path;
use weights::{DType, TensorInfo};

/// Shapes of a model, and how its weights are drawn.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Shape {
    /// Rows of the embedding, which is also the head.
    pub vocabulary: usize,
    /// Token that ends an answer.
    pub eos_token_id: u32,
    /// Positions.
    pub positions: usize,
    /// Model width.
    pub hidden: usize,
    /// Feed-forward width.
    pub feed_forward: usize,
    /// Blocks.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key/value heads.
    pub kv_heads: usize,
    /// Standard deviation of the weights. Projections into the residual stream get it divided by `sqrt(2 * layers)`
    /// (Radford et al. 2019, section 2.3), biases are zero and norms one.
    pub deviation: f64,
}

impl Shape {
    /// The `config.json` of it.
    fn config(&self) -> Map<String, Value> {
        let config = json!({
            "architectures": ["Qwen2ForCausalLM"],
            "model_type": "qwen2",
            "attention_dropout": 0.0,
            "bos_token_id": null,
            "eos_token_id": self.eos_token_id,
            "hidden_act": "silu",
            "hidden_size": self.hidden,
            "initializer_range": self.deviation,
            "intermediate_size": self.feed_forward,
            "max_position_embeddings": self.positions,
            "num_attention_heads": self.heads,
            "num_hidden_layers": self.layers,
            "num_key_value_heads": self.kv_heads,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10_000.0,
            "sliding_window": null,
            "tie_word_embeddings": true,
            "torch_dtype": "float32",
            "use_cache": true,
            "use_sliding_window": false,
            "vocab_size": self.vocabulary,
        });
        let Value::Object(config) = config else { unreachable!("written as an object above") };
        config
    }
}

/// Writes `config.json`, `generation_config.json` and `model.safetensors` to `folder`. Returns the number of parameters.
///
/// # Errors
/// `Model` for shapes that fit no model, `Weights` when a file cannot be written.
pub fn write(folder: &Path, shape: &Shape, seed: u64) -> Result<usize, Error> {
    let config = shape.config();
    let blueprint = model::arch::blueprint(&config)?;
    let generation = json!({ "eos_token_id": shape.eos_token_id, "do_sample": true, "temperature": 1.0 });
    let pretty = |value: &Value| format!("{value:#}\n").into_bytes();
    weights::write_atomic(&folder.join("generation_config.json"), &pretty(&generation))?;
    weights::write_model::<weights::Error>(folder, &tensors(&blueprint), usize::MAX, |info, sink| {
        sink.put(&values(info, shape, seed))
    })?;
    // Last: a folder without it is no model.
    weights::write_atomic(&folder.join("config.json"), &pretty(&Value::Object(config)))?;
    Ok(blueprint.num_parameters())
}

/// Names and shapes of all weights.
fn tensors(blueprint: &model::Blueprint) -> Vec<TensorInfo> {
    let tensor = |name: String, shape: &[usize]| TensorInfo::new(name, DType::F32, shape);
    let d = blueprint.hidden;
    let mut tensors = vec![tensor("model.embed_tokens.weight".into(), &[blueprint.vocab, d])];
    for i in 0..blueprint.layers.len() {
        for p in blueprint.projections(i) {
            tensors.push(tensor(format!("{}.weight", p.path), &[p.outputs, p.inputs]));
            if p.bias {
                tensors.push(tensor(format!("{}.bias", p.path), &[p.outputs]));
            }
        }
        for norm in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push(tensor(format!("model.layers.{i}.{norm}.weight"), &[d]));
        }
    }
    tensors.push(tensor("model.norm.weight".into(), &[d]));
    tensors
}

/// The starting values of a tensor; they depend on its name and shape only, not on what else there is.
fn values(info: &TensorInfo, shape: &Shape, seed: u64) -> Vec<f32> {
    let count = info.element_count();
    if info.name.ends_with(".bias") {
        return vec![0.0; count];
    }
    if info.name.ends_with("norm.weight") {
        return vec![1.0; count];
    }
    let into_residual = ["o_proj.weight", "down_proj.weight"].iter().any(|end| info.name.ends_with(end));
    let shrink = if into_residual { (2.0 * shape.layers as f64).sqrt() } else { 1.0 };
    let name = info.name.bytes().fold(0u64, |hash, byte| data::rng::mix(hash ^ u64::from(byte)));
    let draw = Stream::new(seed, name);
    (0..count as u64).map(|i| (normal(draw, i) * shape.deviation / shrink) as f32).collect()
}

/// Standard normal number `index` of a stream (Box and Muller 1958).
fn normal(draw: Stream, index: u64) -> f64 {
    // In (0, 1], so that the logarithm is finite.
    let uniform = |i: u64| ((draw.at(i) >> 11) as f64 + 1.0) / (1u64 << 53) as f64;
    (-2.0 * uniform(2 * index).ln()).sqrt() * (TAU * uniform(2 * index + 1)).cos()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use weights::Checkpoint;

    const SHAPE: Shape = Shape {
        vocabulary: 300,
        eos_token_id: 2,
        positions: 128,
        hidden: 64,
        feed_forward: 96,
        layers: 2,
        heads: 4,
        kv_heads: 2,
        deviation: 0.05,
    };

    #[test]
    fn the_folder_is_a_model_of_the_stated_size() {
        let scratch = Scratch::new();
        let parameters = write(scratch.path(), &SHAPE, 3).unwrap();
        let config = weights::read_config(scratch.path()).unwrap();
        let blueprint = model::arch::blueprint(&config).unwrap();
        assert_eq!(blueprint.num_parameters(), parameters);
        let checkpoint = Checkpoint::open(scratch.path()).unwrap();
        let mut found = 0;
        for info in tensors(&blueprint) {
            found += checkpoint.get_shaped(&info.name, &info.shape).unwrap().to_f32().unwrap().len();
        }
        assert_eq!(found, parameters);
    }

    #[test]
    fn weights_have_the_stated_deviation_and_follow_the_seed() {
        let weight = |name: &str, seed| values(&TensorInfo::new(name, DType::F32, [64, 96]), &SHAPE, seed);
        for (name, want) in
            [("model.layers.0.mlp.up_proj.weight", 0.05), ("model.layers.0.mlp.down_proj.weight", 0.025)]
        {
            let w = weight(name, 1);
            let n = w.len() as f64;
            let mean = w.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
            let deviation = (w.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / n).sqrt();
            // Four standard errors of each.
            assert!(mean.abs() < 4.0 * want / n.sqrt(), "{name}: {mean}");
            assert!((deviation - want).abs() < 4.0 * want / (2.0 * n).sqrt(), "{name}: {deviation}");
            assert_eq!(w, weight(name, 1));
            assert_ne!(w, weight(name, 2));
        }
        assert_ne!(weight("a.weight", 1), weight("b.weight", 1));
        assert!(weight("model.norm.weight", 1).iter().all(|&x| x == 1.0));
    }
}
