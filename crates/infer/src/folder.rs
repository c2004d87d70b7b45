//! A model that is asked, not trained: a folder with its tokenizer and adapter, and the model in memory.

use crate::generate::StopTexts;
use crate::{Engine, Error, Generator, Limits, Output, Request, Sampling};
use data::{Clock, RenderInput, Tokenizer};
use kernels::{Backend, Cpu, Mat};
use model::{Adapters, Blueprint, Built, Decoder, LoraInit, Tuning, initialise_lora};
use nn::{Context, Params, Table};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use weights::{Adapter, AdapterConfig, Checkpoint};

/// A model folder, its tokenizer, and an adapter for it: read and checked, the weights not yet in place.
pub struct ModelFolder {
    /// The folder.
    pub path: PathBuf,
    /// Its tensors, mapped.
    pub checkpoint: Checkpoint,
    /// Its shapes.
    pub blueprint: Blueprint,
    /// Its tokenizer and chat template.
    pub tokenizer: Tokenizer,
    /// The adapter, when one was given.
    pub adapter: Option<Adapter>,
}

impl ModelFolder {
    /// Opens a folder in the Hugging Face layout, and an adapter in PEFT's.
    ///
    /// # Errors
    /// Files that are missing, damaged or unsupported, and what does not fit together.
    pub fn open(path: &Path, adapter: Option<&Path>) -> Result<ModelFolder, Error> {
        let checkpoint = Checkpoint::open(path)?;
        let mut blueprint = model::arch::blueprint(&weights::read_config(path)?)?;
        let given = adapter.map(|dir| Adapter::load_on(dir, |i| blueprint.experts_for_adapters(i))).transpose()?;
        let vocabulary = given.as_ref().and_then(Adapter::vocabulary);
        blueprint.grow(vocabulary.unwrap_or(0));
        // An adapter with an embedding of its own was trained with a tokenizer of its own.
        let own = adapter.filter(|dir| vocabulary.is_some() && dir.join("tokenizer.json").is_file());
        let tokenizer = Tokenizer::load(own.unwrap_or(path), Clock::now())?;
        if tokenizer.vocab_size() > blueprint.vocab {
            let what = format!(
                "{}: the tokenizer has {} tokens, the model's embedding {} rows (vocab_size); use the tokenizer that belongs to the model",
                path.display(),
                tokenizer.vocab_size(),
                blueprint.vocab
            );
            return Err(Error::Mismatch { what });
        }
        Ok(ModelFolder { path: path.to_owned(), checkpoint, blueprint, tokenizer, adapter: given })
    }

    /// Opens what a path stands for: a model folder, a run (its result), or an adapter, whose base model is where it says.
    ///
    /// # Errors
    /// As [`ModelFolder::open`]; a path that is none of these.
    pub fn find(path: &Path, adapter: Option<&Path>) -> Result<ModelFolder, Error> {
        let (folder, adapter) = ModelFolder::stands_for(path, adapter, None)?;
        ModelFolder::open(&folder, adapter.as_deref())
    }

    /// The model folder that a path stands for, and the adapter: the one given, or the path itself, or what the path's run has trained. `base`
    /// takes the place of the model that such an adapter names.
    ///
    /// # Errors
    /// An adapter beside another one, or one that does not say where its base model is.
    pub fn stands_for(
        path: &Path,
        adapter: Option<&Path>,
        base: Option<&Path>,
    ) -> Result<(PathBuf, Option<PathBuf>), Error> {
        let path = if path.join("config.json").is_file() || path.join(ADAPTER).is_file() {
            path.to_owned()
        } else {
            let results = ["merged", "final"].map(|name| path.join(name));
            results.into_iter().find(|folder| folder.is_dir()).unwrap_or_else(|| path.to_owned())
        };
        if path.join("config.json").is_file() || !path.join(ADAPTER).is_file() {
            return Ok((path, adapter.map(Path::to_owned)));
        }
        let bad = |reason: &str| Error::Configuration { path: path.join(ADAPTER), reason: reason.to_owned() };
        if adapter.is_some() {
            return Err(bad("this is an adapter, and another one was given for it; name the model, not an adapter"));
        }
        let named = || Ok::<_, Error>(AdapterConfig::read(&path)?.base_model_name_or_path.map(PathBuf::from));
        let Some(base) = base.map_or_else(named, |base| Ok(Some(base.to_owned())))? else {
            return Err(bad(
                "base_model_name_or_path: expected the folder of the base model, found nothing; name the model, and this folder as its adapter",
            ));
        };
        Ok((base, Some(path)))
    }

    /// Places the weights for sequences of at most `positions` tokens (fewer where the model has fewer); work will be done on
    /// `threads` threads.
    ///
    /// # Errors
    /// Tensors that are missing or have another shape or type, an adapter that does not fit.
    pub fn load(&self, positions: usize, threads: usize) -> Result<Model, Error> {
        Model::new(&self.checkpoint, self.blueprint.clone(), self.adapter.as_ref(), positions, threads)
    }

    /// The tokens that end an answer: `eos_token_id` of `generation_config.json` and of `config.json`, each a number or a
    /// list, the tokenizer's own, and the one that the chat template puts after an assistant's turn.
    ///
    /// # Errors
    /// A file that cannot be read, or whose `eos_token_id` is something else.
    pub fn stop_tokens(&self) -> Result<Vec<u32>, Error> {
        let mut tokens: BTreeSet<u32> = self.tokenizer.eos_id().into_iter().collect();
        tokens.extend(end_of_turn(&self.tokenizer));
        tokens.extend(eos_of(&self.path, "config.json", &weights::read_config(&self.path)?)?);
        tokens.extend(eos_of(&self.path, GENERATION, &self.generation_config()?)?);
        Ok(tokens.into_iter().collect())
    }

    /// How the model wants to be asked, as `generation_config.json` says.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn defaults(&self) -> Result<Defaults, Error> {
        let config = self.generation_config()?;
        let number = |key: &str| config.get(key).and_then(Value::as_f64);
        let count = |key: &str| config.get(key).and_then(Value::as_u64).map(|n| n as usize);
        let sampled = config.get("do_sample").and_then(Value::as_bool) == Some(true);
        let greedy = Sampling { repetition_penalty: number("repetition_penalty").unwrap_or(1.0), ..Sampling::GREEDY };
        let sampling = Sampling {
            temperature: number("temperature").unwrap_or(1.0),
            top_p: number("top_p").unwrap_or(1.0),
            top_k: count("top_k").unwrap_or(0),
            min_p: number("min_p").unwrap_or(0.0),
            ..greedy
        };
        Ok(Defaults { sampling: if sampled { sampling } else { greedy }, max_new_tokens: count("max_new_tokens") })
    }

    fn generation_config(&self) -> Result<Map<String, Value>, Error> {
        let path = self.path.join(GENERATION);
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| Error::Configuration { path, reason: format!("not a JSON object: {e}") }),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(Map::new()),
            Err(source) => Err(Error::Io { path, source }),
        }
    }
}

const GENERATION: &str = "generation_config.json";
const ADAPTER: &str = "adapter_config.json";

/// What a model says about how it wants to be asked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Defaults {
    /// Greedy unless it wants to be sampled.
    pub sampling: Sampling,
    /// Tokens of an answer.
    pub max_new_tokens: Option<usize>,
}

/// A model in memory, its adapter beside it. On the CPU weights stay mapped in the type they are stored in, and arithmetic is f32.
pub struct Model<B: Backend = Cpu<f32>> {
    backend: B,
    /// The same, for generation.
    apart: B,
    /// The model.
    pub decoder: Decoder<B>,
    table: Table,
    values: Mat<B, B::Real>,
    /// Positions it was loaded for.
    pub positions: usize,
    /// Things worth saying to the user.
    pub notes: Vec<String>,
}

/// An engine of a [`Model`].
pub type ModelEngine<'a> = Engine<'a, Cpu<f32>>;

impl Model {
    /// Places a checkpoint's weights, and an adapter's; as [`ModelFolder::load`].
    ///
    /// # Errors
    /// As there.
    pub fn new(
        checkpoint: &Checkpoint,
        blueprint: Blueprint,
        adapter: Option<&Adapter>,
        positions: usize,
        threads: usize,
    ) -> Result<Model, Error> {
        let backend = Cpu::new(threads);
        Model::on(backend.clone(), backend.rows_apart(), checkpoint, blueprint, adapter, positions)
    }
}

impl<B: Backend> Model<B> {
    /// As [`Model::new`], on a device; `apart` is what generation uses of it.
    pub(crate) fn on(
        backend: B,
        apart: B,
        checkpoint: &Checkpoint,
        blueprint: Blueprint,
        adapter: Option<&Adapter>,
        positions: usize,
    ) -> Result<Model<B>, Error> {
        let positions = positions.min(blueprint.max_positions);
        let adapters = adapter.map(Adapters::of);
        let tuning = adapters.as_ref().map_or(Tuning::Frozen, Tuning::Lora);
        let Built { decoder, table, mut values, notes, .. } =
            Built::new(&backend, checkpoint, blueprint, tuning, positions)?;
        if let Some(adapter) = adapter {
            initialise_lora(&backend, &table, &mut values, &LoraInit::From(adapter))?;
        }
        if let Some(error) = backend.trouble() {
            return Err(error.into());
        }
        Ok(Model { apart, backend, decoder, table, values, positions, notes })
    }

    /// What a forward pass is given; `adapters` false asks the base model.
    pub fn context(&self, adapters: bool) -> Context<'_, B> {
        let params = Params { table: &self.table, values: &self.values, halves: None, lent: &[], away: None };
        Context { backend: &self.backend, params, adapters, dropout: None }
    }

    /// What generation is given: what a sequence gets does not depend on those beside it.
    pub fn generation(&self) -> Context<'_, B> {
        Context { backend: &self.apart, ..self.context(true) }
    }

    /// Runs `work` on the model's threads, so that the operators inside start without a hand-over.
    pub fn install<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        self.backend.within(work)
    }

    /// See [`Generator::generate_until`]; `cache_rows` and `step_rows` as in [`Limits`].
    ///
    /// # Errors
    /// As there.
    pub fn generate(
        &self,
        requests: &[Request],
        (stop, texts): (&[u32], Option<StopTexts<'_>>),
        (cache_rows, step_rows): (usize, usize),
        on_finished: &mut (dyn FnMut(usize, &Output) + Send),
    ) -> Result<Vec<Output>, Error> {
        let limits = Limits { positions: self.positions, cache_rows, step_rows };
        let ctx = self.generation();
        let generator = Generator::new(&ctx, &self.decoder, limits);
        self.install(|| generator.generate_until(requests, stop, texts, on_finished))
    }
}

/// The special token that the chat template puts after what an assistant says, if it has such a token.
fn end_of_turn(tokenizer: &Tokenizer) -> Option<u32> {
    const SAID: &str = "prospect";
    let messages = &[json!({"role": "user", "content": "?"}), json!({"role": "assistant", "content": SAID})];
    let text = tokenizer.render(RenderInput { messages, ..Default::default() }).ok()?;
    let after = &text[text.rfind(SAID)? + SAID.len()..];
    let first = *tokenizer.encode(after, false).ok()?.first()?;
    let (shown, hidden) = (tokenizer.decode(&[first], false).ok()?, tokenizer.decode(&[first], true).ok()?);
    (hidden.is_empty() && !shown.is_empty()).then_some(first)
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
    fn stop_tokens_are_those_of_all_files_and_of_the_template() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/qwen2");
        let folder = ModelFolder::open(&folder, None).unwrap();
        // <|im_end|>
        assert_eq!(folder.stop_tokens().unwrap(), [388]);
        assert_eq!(end_of_turn(&folder.tokenizer), Some(388));
    }
}
