//! Steps over made-up tokens without prompts: the plain loop that is compared with PyTorch's, and time per token by length.

use crate::args::{RANK, Tuning};
use crate::arithmetic::{median, ratios};
use crate::child;
use crate::device::{Device, on};
use crate::error::Error;
use crate::machine::threads;
use crate::noise::{floats, tokens};
use crate::progress::Progress;
use crate::runs::{Setup, number};
use crate::steps::{PARTS, by_part};
use kernels::timed::Timed;
use kernels::{Backend, Cpu, HEAD_ROWS, Mat, Memory, Real};
use model::{Adapters, Blueprint, Built, Decoder, HeadPlan, Keep, LoraInit, Parts, initialise_lora};
use nn::{Context, Grads, Params, Table};
use optim::adamw::{AdamW, Layout, Member, Settings, clip};
use pack::{Answer, Pack, families_of_rows, plan_packs};
use serde::Serialize;
use serde_json::{Map, Value, json};
use std::path::Path;
use std::process::Command;
use std::time::Instant;
use weights::{Checkpoint, DType, TensorInfo};

/// A model with its optimiser, trained on whole sequences.
struct Loop<'a, B: Backend> {
    backend: &'a B,
    decoder: Decoder<B>,
    table: Table,
    values: Mat<B, B::Real>,
    grads: Mat<B, B::Real>,
    optimizer: AdamW<B>,
}

impl<'a, B: Backend> Loop<'a, B> {
    fn new(backend: &'a B, folder: &Path, tuning: Tuning, positions: usize) -> Result<Loop<'a, B>, Error> {
        let blueprint = blueprint_of(folder)?;
        let adapters = all_linear(&blueprint);
        let tuning = match tuning {
            Tuning::Full => model::Tuning::Full,
            Tuning::Lora => model::Tuning::Lora(&adapters),
        };
        let Built { decoder, table, mut values, .. } =
            Built::new(backend, &Checkpoint::open(folder)?, blueprint, tuning, positions)?;
        initialise_lora(backend, &table, &mut values, &LoraInit::Fresh { seed: 0, start: model::Start::Usual })?;
        let (rounding, seed) = (kernels::Rounding::Nearest, 0);
        let settings = Settings { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0, rounding, seed };
        let members = table.params().iter().map(|p| Member::plain(p.range(), p.decay));
        let optimizer = AdamW::new(backend, settings, Layout::new(members));
        Ok(Loop { grads: backend.mat(1, table.len()), backend, decoder, table, values, optimizer })
    }

    /// One step on rows that are scored from their second token on; returns the mean loss.
    fn step(&mut self, rows: &[Vec<u32>]) -> f64 {
        let k = self.backend;
        k.fill_zero(self.grads.out());
        let ctx = Context {
            backend: k,
            params: Params { table: &self.table, values: &self.values, halves: None, lent: &[], away: None },
            adapters: true,
            dropout: None,
        };
        let packs = packs(rows);
        let targets: usize = packs.iter().map(|p| p.targets.len()).sum();
        let mut loss = 0.0;
        for pack in &packs {
            let parts = Parts::new(k, pack);
            let forward = self.decoder.forward(&ctx, pack, &parts, Keep::All);
            let mut grads = Grads { table: &self.table, values: &mut self.grads, away: None };
            // As a run on text does it: the head goes backward through the rows that it has just scored.
            let head = HeadPlan { extra: false, kept_logits: HEAD_ROWS * self.decoder.blueprint.vocab };
            let mut coefficient = |logp: &[B::Real]| vec![B::Real::of(-1.0 / targets as f64); logp.len()];
            let scores = self.decoder.score_backward(&ctx, &mut grads, pack, &forward, head, &mut coefficient);
            loss -= scores.logp.iter().map(|p| p.f64()).sum::<f64>() / targets as f64;
            self.decoder.backward(&ctx, &mut grads, pack, &parts, forward, scores, &[]);
        }
        let norm = k.square_norm(self.grads.view()).sqrt();
        self.optimizer.update(k, &mut self.values, &mut k.zeros(1, 0), &self.grads, 1e-4, clip(norm, 1.0));
        loss
    }
}

/// Rows of a pack, as a run's plan has it.
const PACK_ROWS: usize = 2048;

fn packs(rows: &[Vec<u32>]) -> Vec<Pack> {
    let answers = rows
        .iter()
        .zip(0u32..)
        .map(|(row, sequence)| (&[][..], Answer { tokens: row, scored: None, sequence, grad: true }));
    plan_packs(&families_of_rows(answers, true), PACK_ROWS)
}

fn blueprint_of(folder: &Path) -> Result<Blueprint, Error> {
    Ok(model::arch::blueprint(&weights::read_config(folder)?)?)
}

fn all_linear(blueprint: &Blueprint) -> Adapters {
    Adapters::uniform(RANK, 2.0, blueprint.linear_modules().into_iter().filter(|m| m != "lm_head"))
}

/// Rows, and tokens of a row that predict another: what both sides of the comparison compute.
const LOOP_ROWS: usize = 2;
const LOOP_TOKENS: usize = 512;

/// Seconds of a plain loop's steps, ours and PyTorch's.
#[derive(Serialize)]
pub(crate) struct Plain {
    pub(crate) tuning: &'static str,
    /// Median seconds of a step, by round.
    pub(crate) ours: Vec<f64>,
    pub(crate) peer: Vec<f64>,
    /// The peer's over ours, round by round.
    pub(crate) ratios: Vec<f64>,
    /// The peer's resident peak, bytes.
    pub(crate) peer_peak_bytes: f64,
    pub(crate) versions: Value,
}

/// Compares the plain loops, ours and PyTorch's in turn.
pub(crate) fn compare(tunings: &[Tuning], setup: &Setup, progress: &mut Progress) -> Result<Vec<Plain>, Error> {
    let (python, scripts) = setup.peer.as_ref().expect("asked for only where there is one");
    let folder = setup.scratch.join("plain-model");
    let shape = write_model(&folder)?;
    let mut all = Vec::new();
    for &tuning in tunings {
        let backend = Cpu::<f32>::new(threads());
        let mut ours = Loop::new(&backend, &folder, tuning, LOOP_TOKENS + 1)?;
        let rows: Vec<Vec<u32>> =
            (0..LOOP_ROWS as u64).map(|i| tokens(LOOP_TOKENS + 1, ours.decoder.blueprint.vocab, i)).collect();
        let mut plain = Plain {
            tuning: tuning.name(),
            ours: Vec::new(),
            peer: Vec::new(),
            ratios: Vec::new(),
            peer_peak_bytes: f64::NAN,
            versions: Value::Null,
        };
        for round in 1..=setup.rounds {
            let title = format!("plain loop {}, round {round} of {}", tuning.name(), setup.rounds);
            progress.next(&title);
            ours.step(&rows);
            plain.ours.push(median((0..setup.steps.1.max(5)).map(|_| timed(|| ours.step(&rows)))));
            progress.next(&format!("PyTorch: {title}"));
            let mut command = Command::new(python);
            command.arg(scripts.join("peer_torch.py")).arg(shape.to_string());
            command.args(["--rows", &LOOP_ROWS.to_string(), "--tokens", &LOOP_TOKENS.to_string()]);
            command.args(["--threads", &threads().to_string(), "--steps", &(setup.steps.1.max(5) + 1).to_string()]);
            if tuning == Tuning::Lora {
                command.args(["--lora", &RANK.to_string()]);
            }
            let said = child::run(&mut command, setup.meter)?.json("peer_torch.py")?;
            plain.peer.push(number(&said, "median_step_seconds", "peer_torch.py")?);
            plain.peer_peak_bytes = number(&said, "peak_bytes", "peer_torch.py")?;
            plain.versions = said["versions"].clone();
        }
        plain.ratios = ratios(&plain.peer, &plain.ours);
        all.push(plain);
    }
    Ok(all)
}

fn timed<R>(work: impl FnOnce() -> R) -> f64 {
    let begin = Instant::now();
    work();
    begin.elapsed().as_secs_f64()
}

/// Writes the model of the plain loop and returns its `config.json`.
fn write_model(folder: &Path) -> Result<Value, Error> {
    let config = json!({
        "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_act": "silu",
        "hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 8, "num_attention_heads": 8,
        "num_key_value_heads": 4, "head_dim": 64, "vocab_size": 32_000, "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6, "rope_theta": 10_000.0, "tie_word_embeddings": false,
    });
    std::fs::create_dir_all(folder).map_err(Error::io("make", folder))?;
    let map: &Map<String, Value> = config.as_object().expect("written as an object above");
    let blueprint = model::arch::blueprint(map)?;
    let (v, d) = (blueprint.vocab, blueprint.hidden);
    let tensor = |name: String, shape: &[usize]| TensorInfo::new(name, DType::F32, shape);
    let mut tensors = vec![tensor("model.embed_tokens.weight".into(), &[v, d])];
    for i in 0..blueprint.layers.len() {
        let linear = |p: model::Projection| tensor(format!("{}.weight", p.path), &[p.outputs, p.inputs]);
        tensors.extend(blueprint.projections(i).into_iter().map(linear));
        let norm = |name| tensor(format!("model.layers.{i}.{name}.weight"), &[d]);
        tensors.extend(["input_layernorm", "post_attention_layernorm"].map(norm));
    }
    tensors.extend([tensor("model.norm.weight".into(), &[d]), tensor("lm_head.weight".into(), &[v, d])]);
    weights::write_model::<weights::Error>(folder, &tensors, usize::MAX, |info, sink| {
        let n = info.element_count();
        let is_norm = info.name.ends_with("norm.weight");
        let values = if is_norm { vec![1.0; n] } else { floats(n, 0).iter().map(|x| x * 0.035).collect() };
        sink.put::<f32>(&values)
    })?;
    let path = folder.join("config.json");
    std::fs::write(&path, config.to_string()).map_err(Error::io("write", &path))?;
    Ok(config)
}

/// Time per token of rows of one length.
#[derive(Serialize)]
pub(crate) struct Length {
    pub(crate) model: String,
    /// Tokens of a row.
    pub(crate) tokens: usize,
    /// Rows of a step.
    pub(crate) rows: usize,
    /// Median microseconds of a token.
    pub(crate) per_token: f64,
    /// Mean microseconds of a token by part.
    pub(crate) parts: Vec<(&'static str, f64)>,
}

impl Length {
    /// Microseconds of a token's attention, and of all the rest.
    pub(crate) fn split(&self) -> (f64, f64) {
        let attention: f64 = self.parts.iter().filter(|(name, _)| *name == "attention").map(|(_, s)| s).sum();
        (attention, self.parts.iter().map(|(_, s)| s).sum::<f64>() - attention)
    }
}

/// Tokens of a row, short and long; a step has as many of either in all.
pub(crate) const LENGTHS: [usize; 2] = [256, 8192];

/// SFT with adapters on rows of each length, in turn.
pub(crate) fn lengths(name: &str, folder: &Path, steps: usize, device: &Device) -> Result<Vec<Length>, Error> {
    on!(device, backend => lengths_on(Timed::new(backend), name, folder, steps))
}

fn lengths_on<B: Backend>(backend: Timed<B>, name: &str, folder: &Path, steps: usize) -> Result<Vec<Length>, Error> {
    let longest = LENGTHS[1].min(blueprint_of(folder)?.max_positions);
    let mut ours = Loop::new(&backend, folder, Tuning::Lora, longest)?;
    let vocab = ours.decoder.blueprint.vocab;
    let batch =
        |length: usize| -> Vec<Vec<u32>> { (0..longest / length).map(|i| tokens(length, vocab, i as u64)).collect() };
    let lengths = [LENGTHS[0], longest];
    let mut seconds = [Vec::new(), Vec::new()];
    let mut parts = [[0.0; PARTS.len()]; 2];
    for round in 0..=steps {
        for (i, &length) in lengths.iter().enumerate() {
            let rows = batch(length);
            backend.take();
            let mut worked = Ok(());
            let wall = timed(|| {
                ours.step(&rows);
                worked = backend.trouble().map_or(Ok(()), Err);
            });
            worked?;
            // The first round finds pages and caches cold.
            if round > 0 {
                seconds[i].push(wall);
                by_part(&backend.take(), wall).iter().zip(&mut parts[i]).for_each(|(s, sum)| *sum += s);
            }
        }
    }
    let of = |i: usize| {
        let (length, rows) = (lengths[i], longest / lengths[i]);
        // A row's last token is not computed.
        let micro = 1e6 / (rows * (length - 1)) as f64;
        Length {
            model: name.to_owned(),
            tokens: length,
            rows,
            per_token: median(seconds[i].iter().copied()) * micro,
            parts: PARTS.into_iter().zip(parts[i].map(|s| s / steps as f64 * micro)).collect(),
        }
    };
    Ok((0..2).map(of).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attention_is_split_from_the_rest() {
        let parts = vec![("embed", 1.0), ("attention", 4.0), ("head", 2.0)];
        let length = Length { model: String::new(), tokens: 8, rows: 1, per_token: 7.0, parts };
        assert_eq!(length.split(), (4.0, 3.0));
    }

    #[test]
    fn both_lengths_have_as_many_rows_in_their_packs() {
        let rows = |length: usize, n: usize| (0..n).map(|i| tokens(length, 100, i as u64)).collect::<Vec<_>>();
        let sizes = |rows: &[Vec<u32>]| packs(rows).iter().map(Pack::num_rows).collect::<Vec<_>>();
        assert_eq!(sizes(&rows(513, 4)), [2048]);
        assert_eq!(sizes(&rows(8192, 1)), [8191]);
    }
}
