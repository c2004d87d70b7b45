//! A model folder, with or without an adapter, ready to generate.

use crate::{Error, Generator, Limits, Output, Request};
use kernels::Cpu;
use model::{Adapters, Built, LoraInit, Tuning, initialise_lora};
use nn::{Context, Params};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
use weights::{Adapter, Checkpoint};

/// A model on the CPU. Weights stay mapped in the type they are stored in; arithmetic is f32.
pub struct Model {
    backend: Cpu<f32>,
    built: Built<Cpu<f32>>,
    positions: usize,
}

impl Model {
    /// Opens a Hugging Face folder and, if given, a PEFT adapter for it, for sequences of at most `positions` tokens
    /// (fewer where the model has fewer).
    ///
    /// # Errors
    /// What is wrong with the folder, the configuration or the adapter.
    pub fn open(folder: &Path, adapter: Option<&Path>, positions: usize, threads: usize) -> Result<Model, Error> {
        let checkpoint = Checkpoint::open(folder)?;
        let blueprint = model::arch::blueprint(&weights::read_config(folder)?)?;
        let positions = positions.min(blueprint.max_positions);
        let backend = Cpu::new(threads);
        let adapter = adapter.map(Adapter::load).transpose()?;
        let adapters = adapter.as_ref().map(Adapters::of);
        let tuning = adapters.as_ref().map_or(Tuning::Frozen, Tuning::Lora);
        let mut built = Built::new(&backend, &checkpoint, blueprint, tuning, positions)?;
        if let Some(adapter) = &adapter {
            initialise_lora(&backend, &built.table, &mut built.values, &LoraInit::From(adapter))?;
        }
        Ok(Model { backend, built, positions })
    }

    /// Positions it was opened for.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// Things worth saying about the folder.
    pub fn notes(&self) -> &[String] {
        &self.built.notes
    }

    /// See [`Generator::generate`]; `cache_rows` and `step_rows` as in [`Limits`].
    ///
    /// # Errors
    /// As there.
    pub fn generate(
        &self,
        requests: &[Request],
        stop: &[u32],
        (cache_rows, step_rows): (usize, usize),
        on_finished: &mut (dyn FnMut(usize, &Output) + Send),
    ) -> Result<Vec<Output>, Error> {
        let params = Params { table: &self.built.table, values: &self.built.values, halves: None };
        let ctx = Context { backend: &self.backend, params, adapters: true, dropout: None };
        let limits = Limits { positions: self.positions, cache_rows, step_rows };
        let generator = Generator::new(&ctx, &self.built.decoder, limits);
        self.backend.install(|| generator.generate(requests, stop, on_finished))
    }
}

/// The tokens that end an answer: `eos_token_id` of `generation_config.json` and of `config.json`, each a number or a
/// list, and the tokenizer's own.
///
/// # Errors
/// A file that cannot be read, or whose `eos_token_id` is something else.
pub fn stop_tokens(folder: &Path, tokenizer_eos: Option<u32>) -> Result<Vec<u32>, Error> {
    let mut tokens: BTreeSet<u32> = tokenizer_eos.into_iter().collect();
    tokens.extend(eos_of(folder, "config.json", &weights::read_config(folder)?)?);
    let path = folder.join("generation_config.json");
    match std::fs::read(&path) {
        Ok(bytes) => {
            let bad = |reason: String| Error::Configuration { path: path.clone(), reason };
            let config = serde_json::from_slice(&bytes).map_err(|e| bad(format!("not a JSON object: {e}")))?;
            tokens.extend(eos_of(folder, "generation_config.json", &config)?);
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Io { path, source }),
    }
    Ok(tokens.into_iter().collect())
}

fn eos_of(folder: &Path, file: &str, config: &Map<String, Value>) -> Result<Vec<u32>, Error> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    let ids = match config.get("eos_token_id") {
        None | Some(Value::Null) => Some(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(id).collect(),
        Some(value) => id(value).map(|id| vec![id]),
    };
    ids.ok_or_else(|| Error::Configuration {
        path: folder.join(file),
        reason: format!("eos_token_id: expected a token id or a list of them, found {}", config["eos_token_id"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn eos(value: Value) -> Result<Vec<u32>, Error> {
        let Value::Object(config) = value else { panic!("an object") };
        eos_of(Path::new("m"), "config.json", &config)
    }

    #[test]
    fn eos_is_a_number_a_list_or_absent() {
        assert_eq!(eos(json!({ "eos_token_id": 7 })).unwrap(), [7]);
        assert_eq!(eos(json!({ "eos_token_id": [9, 7] })).unwrap(), [9, 7]);
        assert!(eos(json!({ "eos_token_id": null })).unwrap().is_empty());
        assert!(eos(json!({})).unwrap().is_empty());
        let error = eos(json!({ "eos_token_id": "</s>" })).unwrap_err().to_string();
        assert_eq!(error, "m/config.json: eos_token_id: expected a token id or a list of them, found \"</s>\"");
        assert!(eos(json!({ "eos_token_id": [-1] })).is_err());
    }

    #[test]
    fn stop_tokens_are_those_of_all_files() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/qwen2");
        assert_eq!(stop_tokens(&folder, Some(389)).unwrap(), [388, 389]);
        assert_eq!(stop_tokens(&folder, None).unwrap(), [388]);
    }
}
