//! The model that is trained, and what it is compared with.

use crate::Error;
use config::{Lora, LoraClaims, Targets, Tuning};
use kernels::{Backend, Mat, Memory};
use model::{Adapters, Blueprint, Decoder, LoraInit, initialise_lora};
use nn::Table;
use std::path::Path;
use weights::{Adapter, AdapterConfig};

/// A decoder, its trainable values, and its reference.
pub struct Policy<B: Backend> {
    /// The model.
    pub decoder: Decoder<B>,
    /// Trainable tensors.
    pub table: Table,
    /// Their values, `[1, n]`.
    pub values: Mat<B, B::Real>,
    /// The reference of preference losses.
    pub reference: Reference<B>,
}

/// Where reference log-probabilities come from. Never a second model in memory.
pub enum Reference<B: Backend> {
    /// There is none (SFT).
    None,
    /// The same weights without the adapter, whose B starts at zero.
    AdaptersOff,
    /// The same weights with the adapter as it was given.
    Initial(Mat<B, B::Real>),
    /// Log-probabilities taken before the first step, kept beside the data.
    Cached,
}

/// An adapter's place, size and beginning, resolved against a model.
#[derive(Clone, Debug)]
pub struct AdapterPlan {
    /// For building the model.
    pub adapters: Adapters,
    /// For `adapter_config.json`.
    pub config: AdapterConfig,
    /// The given adapter, when there is one.
    pub given: Option<Adapter>,
}

impl AdapterPlan {
    /// Resolves what the configuration asks for; `None` for full fine-tuning.
    pub fn new(tuning: &Tuning, blueprint: &Blueprint) -> Result<Option<AdapterPlan>, Error> {
        match tuning {
            Tuning::Full | Tuning::Blocks(_) => Ok(None),
            Tuning::Lora(lora) => fresh(lora, blueprint).map(Some),
            Tuning::Adapter { path, claims } => given(path, claims, blueprint).map(Some),
        }
    }

    /// Whether the adapter changes nothing yet: its B is zero everywhere.
    pub fn starts_at_zero(&self) -> bool {
        self.given.as_ref().is_none_or(|g| g.pairs.iter().all(|p| p.b.iter().all(|x| *x == 0.0)))
    }

    /// Fills the arena's adapters.
    pub fn initialise<B: Backend>(
        &self,
        backend: &B,
        table: &Table,
        values: &mut Mat<B, B::Real>,
        seed: u64,
    ) -> Result<(), Error> {
        let init = match &self.given {
            Some(adapter) => LoraInit::From(adapter),
            None => LoraInit::Fresh { seed },
        };
        Ok(initialise_lora(backend, table, values, &init)?)
    }
}

/// PEFT's own targets, where a model has such layers.
const DEFAULT_TARGETS: [&str; 2] = ["q_proj", "v_proj"];

fn peft_targets(targets: &Targets, blueprint: &Blueprint) -> weights::Targets {
    let attention = || leaves(&blueprint.attention_projections(0).into_iter().map(|p| p.path).collect::<Vec<_>>());
    match targets {
        // Where attention has no such layers PEFT has no choice either: all of its layers are taken.
        Targets::Default if blueprint.fused || blueprint.latent.is_some() => weights::Targets::Names(attention()),
        Targets::Default => weights::Targets::Names(DEFAULT_TARGETS.map(str::to_owned).to_vec()),
        Targets::AllLinear => weights::Targets::Pattern("all-linear".to_owned()),
        Targets::Names(names) => weights::Targets::Names(names.clone()),
        Targets::Regex(pattern) => weights::Targets::Pattern(pattern.clone()),
    }
}

fn modules_of(
    targets: &weights::Targets,
    exclude: Option<&weights::Targets>,
    blueprint: &Blueprint,
) -> Result<Vec<String>, Error> {
    let mut all = blueprint.linear_modules();
    if speaks_of_experts(targets) {
        all.extend(blueprint.expert_modules());
    }
    let all: Vec<&str> = all.iter().map(String::as_str).collect();
    Ok(weights::resolve(targets, exclude, &all)?.into_iter().map(str::to_owned).collect())
}

/// Whether experts are asked for. `gate_proj` alone, or `all-linear`, means the layers that every row goes through:
/// transformers holds experts as stacked tensors, on which PEFT puts no adapter unless told to.
fn speaks_of_experts(targets: &weights::Targets) -> bool {
    let routed = |word: &str| word.replace("shared_experts", "").contains("experts");
    match targets {
        weights::Targets::Pattern(pattern) => routed(pattern),
        weights::Targets::Names(names) => names.iter().any(|name| routed(name)),
    }
}

fn fresh(lora: &Lora, blueprint: &Blueprint) -> Result<AdapterPlan, Error> {
    let targets = peft_targets(&lora.targets, blueprint);
    let modules = modules_of(&targets, None, blueprint)?;
    // PEFT writes the names that `all-linear` stands for; loaders without that word then find them too.
    let written = match &targets {
        weights::Targets::Pattern(word) if word == "all-linear" => weights::Targets::Names(leaves(&modules)),
        other => other.clone(),
    };
    let mut config = AdapterConfig::new(lora.r, written);
    (config.lora_alpha, config.lora_dropout, config.use_rslora) = (lora.alpha, lora.dropout, lora.rslora);
    let adapters = Adapters { rank: lora.r, scale: config.scale(), modules: modules.into_iter().collect() };
    Ok(AdapterPlan { adapters, config, given: None })
}

fn leaves(modules: &[String]) -> Vec<String> {
    let leaf = |m: &String| m.rsplit('.').next().unwrap_or(m).to_owned();
    modules.iter().map(leaf).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn given(path: &Path, claims: &LoraClaims, blueprint: &Blueprint) -> Result<AdapterPlan, Error> {
    let adapter = Adapter::load(path)?;
    let config = adapter.config.clone();
    let disagree = |key: &str, said: String, found: String| {
        Err(Error::Adapter {
            path: path.to_owned(),
            what: format!("{key}: the configuration says {said}, the adapter has {found}"),
        })
    };
    if let Some(r) = claims.r.filter(|r| *r != config.r) {
        return disagree("lora_r", r.to_string(), config.r.to_string());
    }
    if let Some(alpha) = claims.alpha.filter(|a| *a != config.lora_alpha) {
        return disagree("lora_alpha", alpha.to_string(), config.lora_alpha.to_string());
    }
    if let Some(rslora) = claims.rslora.filter(|r| *r != config.use_rslora) {
        return disagree("use_rslora", rslora.to_string(), config.use_rslora.to_string());
    }
    let modules: Vec<String> = adapter.pairs.iter().map(|p| p.module.clone()).collect();
    if let Some(targets) = &claims.targets {
        let mut said = modules_of(&peft_targets(targets, blueprint), None, blueprint)?;
        said.sort();
        if said != modules {
            return disagree("lora_target_modules", leaves(&said).join(", "), leaves(&modules).join(", "));
        }
    }
    let adapters = Adapters { rank: config.r, scale: config.scale(), modules: modules.into_iter().collect() };
    Ok(AdapterPlan { adapters, config, given: Some(adapter) })
}

/// A copy of an arena.
pub fn copy_of<B: Backend>(backend: &B, values: &Mat<B, B::Real>) -> Mat<B, B::Real> {
    backend.from_host(1, values.cols(), &Memory::to_host(backend, values.view()))
}
