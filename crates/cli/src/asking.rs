//! What `generate`, `chat`, `serve` and `score` have in common: which model, what computes, and how tokens are drawn.

use crate::failure::Failure;
use crate::score::threads;
use clap::Args;
use infer::{Defaults, Device, ModelFolder, Sampling};
use std::path::PathBuf;

/// Tokens of an answer where neither the user nor the model says.
pub(crate) const MAX_NEW_TOKENS: usize = 256;

/// A model.
#[derive(Args)]
pub(crate) struct ModelArgs {
    /// A model folder, a run, or an adapter whose base model is where it says.
    #[arg(value_name = "MODEL|RUN")]
    pub(crate) model: PathBuf,
    /// A LoRA adapter for the model.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
}

impl ModelArgs {
    /// Opens it.
    pub(crate) fn open(&self) -> Result<ModelFolder, Failure> {
        Ok(ModelFolder::find(&self.model, self.adapter.as_deref())?)
    }
}

/// What computes.
#[derive(Args)]
pub(crate) struct DeviceArgs {
    /// What computes: cpu, or an NVIDIA GPU: cuda, cuda:1 (experimental).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = gpu_number)]
    device: Gpu,
}

/// The number of a GPU; none: the processor computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gpu(Option<usize>);

fn gpu_number(device: &str) -> Result<Gpu, String> {
    let number = |rest: &str| if rest.is_empty() { Some(0) } else { rest.strip_prefix(':')?.parse().ok() };
    match device.strip_prefix("cuda").map(number) {
        None if device == "cpu" => Ok(Gpu(None)),
        Some(Some(number)) => Ok(Gpu(Some(number))),
        _ => Err("expected cpu, cuda, or cuda with a number, as in cuda:1".to_owned()),
    }
}

impl DeviceArgs {
    pub(crate) fn device(&self) -> Device {
        match self.device.0 {
            None => Device::Cpu(threads()),
            Some(number) => Device::Gpu(train::GpuOptions { number, ..crate::gpu::options() }),
        }
    }
}

/// How tokens are drawn. What is not given comes from the model's generation_config.json; without one, the most likely are taken.
#[derive(Args)]
pub(crate) struct SamplingArgs {
    /// Tokens to generate at most [default: generation_config.json, or 256].
    #[arg(long, value_name = "N")]
    pub(crate) max_new_tokens: Option<usize>,
    /// Divides the logits; 0 always takes the most likely token.
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    pub(crate) temperature: Option<f64>,
    /// Draw among the most likely tokens up to this total probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) top_p: Option<f64>,
    /// Draw among this many of the most likely tokens; 0 for all.
    #[arg(long, value_name = "K")]
    pub(crate) top_k: Option<usize>,
    /// Draw among tokens of at least this share of the most likely one's probability.
    #[arg(long, value_name = "P", allow_negative_numbers = true)]
    pub(crate) min_p: Option<f64>,
    /// Makes tokens that were there already less likely, above 1.
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) repetition_penalty: Option<f64>,
    /// Of the draws.
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(crate) seed: u64,
    /// End an answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub(crate) stop: Vec<String>,
}

impl SamplingArgs {
    /// With what the model says where the user does not.
    pub(crate) fn over(&self, defaults: &Defaults) -> Sampling {
        let model = defaults.sampling;
        // Any of these asks for sampling.
        let asked = self.top_p.is_some() || self.top_k.is_some() || self.min_p.is_some();
        let unsaid = if asked && model.temperature == 0.0 { 1.0 } else { model.temperature };
        Sampling {
            temperature: self.temperature.unwrap_or(unsaid),
            top_p: self.top_p.unwrap_or(model.top_p),
            top_k: self.top_k.unwrap_or(model.top_k),
            min_p: self.min_p.unwrap_or(model.min_p),
            repetition_penalty: self.repetition_penalty.unwrap_or(model.repetition_penalty),
            seed: self.seed,
        }
    }
}

/// A line about how tokens are drawn.
pub(crate) fn described(sampling: &Sampling) -> String {
    let Sampling { temperature, top_p, top_k, min_p, repetition_penalty, seed } = sampling;
    let mut text = match *temperature {
        0.0 => "greedy".to_owned(),
        _ => format!("temperature {temperature}, top_p {top_p}, top_k {top_k}"),
    };
    if *min_p > 0.0 && *temperature != 0.0 {
        text.push_str(&format!(", min_p {min_p}"));
    }
    if *repetition_penalty != 1.0 {
        text.push_str(&format!(", repetition_penalty {repetition_penalty}"));
    }
    if *temperature != 0.0 {
        text.push_str(&format!(", seed {seed}"));
    }
    text
}
