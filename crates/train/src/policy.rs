//! The model that is trained, and what it is compared with.

use crate::Error;
use crate::spread::{host, real};
use config::{Lora, LoraBias, LoraClaims, LoraStart, Targets, Tuning};
use kernels::{Backend, Mat, Memory, bf16};
use model::{Adapters, Biases, Blueprint, Decoder, Factors, LoraInit, Start, initialise_lora, land};
use nn::{Held, Home, Table};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;
use weights::{Adapter, AdapterConfig};

/// A decoder, its trainable values, and its reference.
pub struct Policy<B: Backend> {
    /// The model.
    pub decoder: Decoder<B>,
    /// Trainable tensors.
    pub table: Table,
    /// Their values, but for those in bfloat16.
    pub values: Mat<B, B::Real>,
    /// Those.
    pub halves: Mat<B, bf16>,
    /// The reference of preference losses.
    pub reference: Reference<B>,
}

impl<B: Backend> Policy<B> {
    /// Values of elements `range` of the arena in single precision, where all values are here.
    pub(crate) fn host(&self, backend: &B, range: Range<usize>) -> Vec<f32> {
        let mut all = Vec::with_capacity(range.len());
        for (home, at) in self.homes(range) {
            match home {
                Home::Real(_) => all.extend(host(backend, &self.values, at)),
                Home::Half(_) => {
                    all.extend(Memory::to_host(backend, self.halves.view().cols(at)).iter().map(|x| x.to_f32()));
                }
            }
        }
        all
    }

    /// Takes over values that begin at element `first` of the arena.
    pub(crate) fn put(&mut self, backend: &B, first: usize, values: &[f32]) {
        let mut rest = values;
        for (home, at) in self.homes(first..first + values.len()) {
            let (these, after) = rest.split_at(at.len());
            match home {
                Home::Real(_) => backend.upload(&real::<B>(these), self.values.out().cols(at)),
                Home::Half(_) => {
                    let rounded: Vec<bf16> = these.iter().map(|x| bf16::from_f32(*x)).collect();
                    backend.upload(&rounded, self.halves.out().cols(at));
                }
            }
            rest = after;
        }
    }

    /// Takes over those of values that begin at element `first` of the arena which are held here.
    pub(crate) fn land(&mut self, backend: &B, held: &Held, first: usize, values: &[f32]) {
        let mut rest = values;
        for (home, len) in self.table.homes(first..first + values.len()) {
            let (these, after) = rest.split_at(len);
            match home {
                Home::Real(at) => land(backend, &real::<B>(these), at, (&mut self.values, &held.reals)),
                Home::Half(at) => {
                    let rounded: Vec<bf16> = these.iter().map(|x| bf16::from_f32(*x)).collect();
                    land(backend, &rounded, at, (&mut self.halves, &held.halves));
                }
            }
            rest = after;
        }
    }

    /// Where the values of elements `range` of the arena are, in order.
    fn homes(&self, range: Range<usize>) -> Vec<(Home, Range<usize>)> {
        let params = self.table.params();
        if self.table.halves() == 0 {
            return vec![(Home::Real(0), range)];
        }
        let first = params.partition_point(|p| p.range().end <= range.start);
        let part = |p: &nn::Param| {
            let (start, end) = (range.start.max(p.offset), range.end.min(p.range().end));
            (p.home, p.values().start + start - p.offset..p.values().start + end - p.offset)
        };
        params[first..].iter().take_while(|p| p.offset < range.end).map(part).collect()
    }
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
    /// How a fresh one begins.
    start: Start,
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

    /// Whether the reference is the model with the adapter off: nothing of the model itself is trained, and the adapter changes
    /// nothing yet, as its B is zero everywhere.
    pub fn starts_at_zero(&self) -> bool {
        let zero = match &self.given {
            None => !matches!(self.start, Start::Random),
            Some(g) => !g.config.use_dora && g.pairs.iter().all(|p| p.b.iter().all(|x| *x == 0.0)),
        };
        zero && !self.adapters.touches_model()
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
            None => LoraInit::Fresh { seed, start: self.start },
        };
        Ok(initialise_lora(backend, table, values, &init)?)
    }
}

/// PEFT's own targets, where a model has such layers.
const DEFAULT_TARGETS: [&str; 2] = ["q_proj", "v_proj"];

/// Names that routed experts' layers share with dense ones and those of shared experts.
const EXPERT_LAYERS: [&str; 3] = [".gate_proj", ".up_proj", ".down_proj"];

fn peft_targets(targets: &Targets, blueprint: &Blueprint) -> weights::Targets {
    let attention = || leaves(&blueprint.attention_projections(0).into_iter().map(|p| p.path).collect::<Vec<_>>());
    match targets {
        // Of these PEFT has no choice of its own, or one that the model lacks: with routed experts all that every token goes
        // through is taken, without them attention.
        Targets::Default if blueprint.experts.is_some() && blueprint.model_type != "mixtral" => {
            weights::Targets::Pattern("all-linear".to_owned())
        }
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
    let exclude = lora.exclude.as_ref().map(|targets| peft_targets(targets, blueprint));
    let saved = saved_modules(&lora.modules_to_save, blueprint)?;
    let mut modules = modules_of(&targets, exclude.as_ref(), blueprint)?;
    modules.retain(|module| !saved.contains(module));
    if let Some(layers) = &lora.layers {
        if matches!(lora.targets, Targets::Regex(_)) {
            let what = "layers_to_transform: lora_target_modules is a regular expression, which PEFT does not limit to \
                        layers; say in it which layers, or give names";
            return Err(Error::Mismatch { what: what.to_owned() });
        }
        modules.retain(|module| layer_of(module, &lora.layers_pattern).is_some_and(|l| layers.contains(&l)));
        if modules.is_empty() {
            let what = format!("layers_to_transform: {layers:?} leaves no layer to adapt");
            return Err(Error::Mismatch { what });
        }
    }
    // PEFT writes the names that `all-linear` stands for; loaders without that word then find them too.
    let written = match &targets {
        weights::Targets::Pattern(word) if word == "all-linear" => weights::Targets::Names(leaves(&modules)),
        other => other.clone(),
    };
    let mut config = AdapterConfig::new(lora.r, written);
    (config.lora_alpha, config.lora_dropout, config.use_rslora) = (lora.alpha, lora.dropout, lora.rslora);
    (config.rank_pattern, config.alpha_pattern) = (lora.rank_pattern.clone(), lora.alpha_pattern.clone());
    (config.use_dora, config.exclude_modules) = (lora.dora, exclude);
    name_for_peft(&mut config, &modules, lora, blueprint);
    config.modules_to_save.clone_from(&lora.modules_to_save);
    config.bias = match lora.bias {
        LoraBias::None => "none",
        LoraBias::All => "all",
        LoraBias::LoraOnly => "lora_only",
    }
    .to_owned();
    if let Some(layers) = &lora.layers {
        config.set_layers(layers, &lora.layers_pattern);
    }
    if lora.dora && modules.iter().any(|m| m.contains(".experts.")) {
        let what =
            "use_dora: experts are targeted, whose lengths are not trained; leave them out of lora_target_modules";
        return Err(Error::Mismatch { what: what.to_owned() });
    }
    let start = match lora.start {
        LoraStart::Usual => Start::Usual,
        LoraStart::Gaussian => Start::Gaussian,
        LoraStart::Random => Start::Random,
    };
    let factors = |module: String| -> Result<(String, Factors), Error> {
        let (rank, scale) = (config.rank_of(&module)?, config.scale_of(&module)?);
        Ok((module, Factors { rank, scale }))
    };
    let biases = match lora.bias {
        LoraBias::None => Biases::None,
        LoraBias::All => Biases::All,
        LoraBias::LoraOnly => Biases::Adapted,
    };
    let modules = modules.into_iter().map(factors).collect::<Result<_, _>>()?;
    let adapters = Adapters { modules, dora: lora.dora, saved, biases };
    Ok(AdapterPlan { adapters, config, given: None, start })
}

/// Names what is adapted in a model with routed experts so that PEFT finds it: layers beside experts by their weights, experts by
/// the names they share, whichever of them it is. DoRA PEFT cannot put on either.
fn name_for_peft(config: &mut AdapterConfig, modules: &[String], lora: &Lora, blueprint: &Blueprint) {
    let in_expert = |m: &String| m.contains(".experts.");
    let beside = |m: &String| !in_expert(m) && EXPERT_LAYERS.iter().any(|leaf| m.ends_with(leaf));
    let of = |kind: &dyn Fn(&String) -> bool| modules.iter().filter(|m| kind(m)).cloned().collect::<Vec<_>>();
    let (dense, experts) = (of(&beside), of(&in_expert));
    if blueprint.experts.is_none() || lora.dora || dense.is_empty() && experts.is_empty() {
        return;
    }
    let mut rest = of(&|m| !in_expert(m) && !beside(m));
    if !matches!(lora.targets, Targets::Regex(_)) {
        rest = leaves(&rest);
    }
    rest.extend(leaves(&experts));
    config.set_parameters(&dense, weights::Targets::Names(rest));
}

/// Paths of the modules that are trained in full: each name is the end of at least one.
fn saved_modules(names: &[String], blueprint: &Blueprint) -> Result<BTreeSet<String>, Error> {
    let mut all = vec!["model.embed_tokens".to_owned(), "model.norm".to_owned()];
    all.extend(blueprint.linear_modules());
    let mut norms = vec!["input_layernorm", "post_attention_layernorm"];
    if blueprint.out_norms {
        norms.extend(["pre_feedforward_layernorm", "post_feedforward_layernorm"]);
    }
    if blueprint.qk_norm {
        norms.extend(["self_attn.q_norm", "self_attn.k_norm"]);
    }
    let layers = 0..blueprint.layers.len();
    all.extend(layers.flat_map(|i| norms.iter().map(move |norm| format!("model.layers.{i}.{norm}"))));
    let mut saved = BTreeSet::new();
    for name in names {
        // PEFT compares ends of names here, whatever stands before them: `norm` means every `..._norm`, too.
        let found: Vec<&String> = all.iter().filter(|m| m.ends_with(name.as_str())).collect();
        if found.is_empty() {
            let what = format!("modules_to_save: {name:?} is no embedding, norm, head or linear layer of this model");
            return Err(Error::Mismatch { what });
        }
        saved.extend(found.into_iter().cloned());
    }
    Ok(saved)
}

/// The index of the layer that a module is in: the first number behind a name, or behind one of `patterns`.
fn layer_of(module: &str, patterns: &[String]) -> Option<usize> {
    let parts: Vec<&str> = module.split('.').collect();
    let named = |name: &str| patterns.is_empty() || patterns.iter().any(|p| p == name);
    parts
        .windows(2)
        .skip(usize::from(patterns.is_empty()))
        .find(|w| named(w[0]) && w[1].parse::<usize>().is_ok())
        .and_then(|w| w[1].parse().ok())
}

/// Last parts of paths; an expert's number at the end of one (`gate_up_projs.3`) is no name.
fn leaves(modules: &[String]) -> Vec<String> {
    let leaf = |m: &String| m.rsplit('.').find(|part| part.parse::<usize>().is_err()).unwrap_or(m).to_owned();
    modules.iter().map(leaf).collect::<std::collections::BTreeSet<_>>().into_iter().collect()
}

fn given(path: &Path, claims: &LoraClaims, blueprint: &Blueprint) -> Result<AdapterPlan, Error> {
    let adapter = Adapter::load_on(path, |i| blueprint.experts_for_adapters(i))?;
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
    Ok(AdapterPlan { adapters: Adapters::of(&adapter), config, given: Some(adapter), start: Start::Usual })
}

/// A copy of an arena.
pub fn copy_of<B: Backend>(backend: &B, values: &Mat<B, B::Real>) -> Mat<B, B::Real> {
    backend.from_host(1, values.cols(), &Memory::to_host(backend, values.view()))
}
