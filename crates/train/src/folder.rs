//! A model that is asked, not trained: a folder with its tokenizer and adapter, and the model in memory.

use crate::Error;
use crate::policy::AdapterPlan;
use data::{Clock, Tokenizer};
use kernels::{Cpu, Mat};
use model::{Blueprint, Built, Decoder, Tuning};
use nn::{Context, Params, Table};
use std::path::{Path, PathBuf};
use weights::Checkpoint;

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
    pub adapter: Option<AdapterPlan>,
}

impl ModelFolder {
    /// Opens a folder in the Hugging Face layout, and an adapter in PEFT's.
    ///
    /// Errors: files that are missing, damaged or unsupported, and what does not fit together.
    pub fn open(path: &Path, adapter: Option<&Path>) -> Result<ModelFolder, Error> {
        let checkpoint = Checkpoint::open(path)?;
        let blueprint = model::arch::blueprint(&weights::read_config(path)?)?;
        let tokenizer = Tokenizer::load(path, Clock::now())?;
        if tokenizer.vocab_size() > blueprint.vocab {
            let what = format!(
                "{}: the tokenizer has {} tokens, the model's embedding {} rows (vocab_size); use the tokenizer that belongs to the model",
                path.display(),
                tokenizer.vocab_size(),
                blueprint.vocab
            );
            return Err(Error::Mismatch { what });
        }
        let adapter = match adapter {
            None => None,
            Some(path) => {
                let tuning = config::Tuning::Adapter { path: path.to_owned(), claims: Default::default() };
                AdapterPlan::new(&tuning, &blueprint)?
            }
        };
        Ok(ModelFolder { path: path.to_owned(), checkpoint, blueprint, tokenizer, adapter })
    }

    /// Places the weights for sequences of at most `positions` tokens; work will be done on `threads` threads.
    ///
    /// Errors: tensors that are missing or have another shape or type, an adapter that does not fit.
    pub fn load(&self, positions: usize, threads: usize) -> Result<Inference, Error> {
        let backend = Cpu::new(threads);
        let tuning = self.adapter.as_ref().map_or(Tuning::Frozen, |a| Tuning::Lora(&a.adapters));
        let Built { decoder, table, mut values, notes, .. } =
            Built::new(&backend, &self.checkpoint, self.blueprint.clone(), tuning, positions)?;
        if let Some(adapter) = &self.adapter {
            adapter.initialise(&backend, &table, &mut values, 0)?;
        }
        Ok(Inference { backend, decoder, table, values, notes })
    }
}

/// A model in memory, its adapter beside it.
pub struct Inference {
    backend: Cpu<f32>,
    /// The model.
    pub decoder: Decoder<Cpu<f32>>,
    table: Table,
    values: Mat<Cpu<f32>, f32>,
    /// Things worth saying to the user.
    pub notes: Vec<String>,
}

impl Inference {
    /// What a forward pass is given; `adapters` false asks the base model.
    pub fn context(&self, adapters: bool) -> Context<'_, Cpu<f32>> {
        let params = Params { table: &self.table, values: &self.values, halves: None };
        Context { backend: &self.backend, params, adapters, dropout: None }
    }
}
