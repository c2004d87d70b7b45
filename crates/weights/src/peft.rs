//! adapter_config.json of PEFT LoRA adapters, and the names of their tensors.
//!
//! Source: PEFT 0.21 (<https://github.com/huggingface/peft>), `LoraConfig` and `get_peft_model_state_dict`.

use std::collections::BTreeMap;
use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::json::read_json;
use crate::target::Targets;
use crate::write::pretty_json;

/// The configuration's file name in an adapter folder.
pub const ADAPTER_CONFIG_FILE: &str = "adapter_config.json";
/// The weights' file name in an adapter folder.
pub const ADAPTER_WEIGHTS_FILE: &str = "adapter_model.safetensors";

/// The end of a linear layer's parameter.
const WEIGHT: &str = ".weight";

/// What stands before a module path in an adapter's tensor names.
const PREFIX: &str = "base_model.model.";

/// Keys that change what the adapter computes in a way that is not done here; each must be absent, null, false, empty or
/// "none".
const REFUSED: &[(&str, &str)] = &[
    ("lora_bias", "a bias on lora_B is not computed"),
    ("layer_replication", "replicated layers are not built"),
    ("trainable_token_indices", "trained embedding rows are not read; give modules_to_save: [embed_tokens]"),
    ("alora_invocation_tokens", "activated LoRA is not computed"),
    ("arrow_config", "Arrow routing is not computed"),
    ("kasa_config", "KaSA is not computed"),
    ("monteclora_config", "MonteCLoRA is not computed"),
    ("velora_config", "VeLoRA is not computed"),
    ("use_qalora", "QALoRA pooling is not computed"),
    ("use_bdlora", "block-diagonal LoRA is not computed"),
    (
        "ensure_weight_tying",
        "an embedding and a head that are trained as one are not kept so; train the embedding alone",
    ),
    ("target_modules_to_tie", "adapters on tied layers are not kept tied"),
];

/// Initialisations that leave the base model's weights as they are; PiSSA, OLoRA, CorDA, LoftQ and LoRA-GA subtract from
/// them, so such an adapter does not fit the base model on disk.
const PLAIN_INITIALISATIONS: &[&str] = &["gaussian", "eva", "orthogonal"];

/// A LoRA adapter's configuration. Keys that are not named here are kept as they were read.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank of A and B.
    pub r: usize,
    /// Numerator of the scale.
    pub lora_alpha: f64,
    /// Probability with which an element of A's input is dropped in training.
    pub lora_dropout: f64,
    /// Whether the scale is alpha/sqrt(r) in place of alpha/r.
    pub use_rslora: bool,
    /// Where the adapter goes. `None`, PEFT's choice by model type, only in adapters that were read: their tensors say.
    pub target_modules: Option<Targets>,
    /// Weights of linear layers that it goes on as well, by the ends of their names: [`AdapterConfig::set_parameters`] says why.
    target_parameters: Vec<String>,
    /// Where it does not go although a target says so.
    pub exclude_modules: Option<Targets>,
    /// Ranks that differ: the end of a module path, as a regular expression, and the rank; the first that fits counts.
    pub rank_pattern: Vec<(String, usize)>,
    /// Numerators that differ, likewise.
    pub alpha_pattern: Vec<(String, f64)>,
    /// Whether rows of weight and update together are brought to a trained length (DoRA).
    pub use_dora: bool,
    /// Modules that are trained in full beside the adapter: ends of their paths.
    pub modules_to_save: Vec<String>,
    /// Biases that are trained beside it: "none", "all" or "lora_only".
    pub bias: String,
    /// The base model, as its user named it.
    pub base_model_name_or_path: Option<String>,
    /// All other keys.
    other: Map<String, Value>,
}

impl AdapterConfig {
    /// A new adapter of rank `r` on `target_modules`, alpha equal to the rank, no dropout; all else as PEFT has it.
    pub fn new(r: usize, target_modules: Targets) -> AdapterConfig {
        let other = json!({
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "layers_pattern": null,
            "layers_to_transform": null,
            "peft_type": "LORA",
            "revision": null,
            "task_type": "CAUSAL_LM",
        });
        let Value::Object(other) = other else { unreachable!("written as an object") };
        AdapterConfig {
            r,
            lora_alpha: r as f64,
            lora_dropout: 0.0,
            use_rslora: false,
            target_modules: Some(target_modules),
            target_parameters: Vec::new(),
            exclude_modules: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            use_dora: false,
            modules_to_save: Vec::new(),
            bias: "none".to_owned(),
            base_model_name_or_path: None,
            other,
        }
    }

    /// Reads an adapter folder's configuration. A setting that is not done here is refused by name.
    pub fn read(dir: &Path) -> Result<AdapterConfig, Error> {
        let path = dir.join(ADAPTER_CONFIG_FILE);
        AdapterConfig::from_json(&path, read_json(&path)?)
    }

    fn from_json(path: &Path, mut keys: Map<String, Value>) -> Result<AdapterConfig, Error> {
        check_supported(path, &keys)?;
        let config = AdapterConfig {
            r: take(path, &mut keys, "r", "a rank of at least 1")?,
            lora_alpha: take(path, &mut keys, "lora_alpha", "a number")?,
            lora_dropout: take::<Option<f64>>(path, &mut keys, "lora_dropout", "a probability")?.unwrap_or(0.0),
            use_rslora: take::<Option<bool>>(path, &mut keys, "use_rslora", "true or false")?.unwrap_or(false),
            target_modules: take(path, &mut keys, "target_modules", "a list of names or a regular expression")?,
            target_parameters: take::<Option<Vec<String>>>(path, &mut keys, "target_parameters", "a list of names")?
                .unwrap_or_default(),
            exclude_modules: take(path, &mut keys, "exclude_modules", "a list of names or a regular expression")?,
            rank_pattern: pattern(path, &mut keys, "rank_pattern", "ranks of at least 1", |v| {
                v.as_u64().filter(|r| *r > 0).map(|r| r as usize)
            })?,
            alpha_pattern: pattern(path, &mut keys, "alpha_pattern", "numbers", Value::as_f64)?,
            use_dora: take::<Option<bool>>(path, &mut keys, "use_dora", "true or false")?.unwrap_or(false),
            modules_to_save: take::<Option<Vec<String>>>(path, &mut keys, "modules_to_save", "a list of names")?
                .unwrap_or_default(),
            bias: take::<Option<String>>(path, &mut keys, "bias", "\"none\", \"all\" or \"lora_only\"")?
                .unwrap_or_else(|| "none".to_owned()),
            base_model_name_or_path: take(path, &mut keys, "base_model_name_or_path", "a name or path")?,
            other: keys,
        };
        if config.r == 0 {
            return Err(Error::json(path, "r: expected a rank of at least 1, found 0"));
        }
        if !matches!(config.bias.as_str(), "none" | "all" | "lora_only") {
            let found = &config.bias;
            return Err(Error::json(path, format!("bias: expected none, all or lora_only, found {found:?}")));
        }
        if !config.lora_alpha.is_finite() {
            return Err(Error::json(path, "lora_alpha: expected a finite number"));
        }
        if !(0.0..1.0).contains(&config.lora_dropout) {
            let found = config.lora_dropout;
            return Err(Error::json(path, format!("lora_dropout: expected a probability below 1, found {found}")));
        }
        Ok(config)
    }

    /// Limits the adapter to some layers, found behind one of `patterns`, or behind any name.
    pub fn set_layers(&mut self, layers: &[usize], patterns: &[String]) {
        self.other.insert("layers_to_transform".to_owned(), layers.into());
        if !patterns.is_empty() {
            self.other.insert("layers_pattern".to_owned(), patterns.into());
        }
    }

    /// Names `modules` by their weights, and the rest of what the adapter goes on by `others`.
    ///
    /// For a model with routed experts PEFT 0.21 takes every target that ends in `gate_proj`, `up_proj` or `down_proj` for the
    /// stacked experts (its issue 3711), and loads nothing into dense and shared layers of these names. Named by their weights it
    /// finds them, their tensors have the names they always had, and nothing depends on how it means the others.
    pub fn set_parameters(&mut self, modules: &[String], others: Targets) {
        self.target_parameters = modules.iter().map(|module| format!("{module}{WEIGHT}")).collect();
        // Patterns are held against these longer names, then.
        let longer = |pattern: &mut String| *pattern = format!(r"({pattern})(\.weight)?");
        self.rank_pattern.iter_mut().for_each(|(pattern, _)| longer(pattern));
        self.alpha_pattern.iter_mut().for_each(|(pattern, _)| longer(pattern));
        self.target_modules = Some(others);
    }

    /// Rank of a module's factors.
    ///
    /// # Errors
    /// A pattern that is no regular expression.
    pub fn rank_of(&self, module: &str) -> Result<usize, Error> {
        Ok(first_match(&self.rank_pattern, module)?.unwrap_or(self.r))
    }

    /// What B A x is multiplied by in a module: alpha/r, or alpha/sqrt(r) for rank-stabilised LoRA (Kalajdzievski 2023).
    ///
    /// # Errors
    /// As [`AdapterConfig::rank_of`].
    pub fn scale_of(&self, module: &str) -> Result<f64, Error> {
        let (r, alpha) = (self.rank_of(module)? as f64, self.alpha_of(module)?);
        Ok(alpha / if self.use_rslora { r.sqrt() } else { r })
    }

    /// Numerator of the scale in a module.
    pub(crate) fn alpha_of(&self, module: &str) -> Result<f64, Error> {
        Ok(first_match(&self.alpha_pattern, module)?.unwrap_or(self.lora_alpha))
    }

    /// Takes note that stacked experts were taken apart; whether any stack had been named.
    pub(crate) fn unstacked(&mut self) -> bool {
        let before = self.target_parameters.len();
        self.target_parameters.retain(|name| name.ends_with(WEIGHT));
        self.target_parameters.len() < before
    }

    /// Whether a tensor of the model, by its own name, is one that this adapter trained.
    pub(crate) fn speaks_of(&self, name: &str) -> bool {
        let module = name.rsplit_once('.').map_or(name, |(module, _)| module);
        // PEFT compares ends of names here, whatever stands before them: `norm` means every norm.
        self.modules_to_save.iter().any(|end| module.ends_with(end.as_str()))
            || self.bias != "none" && name.contains("bias")
    }

    /// A key beside the typed ones, as it was read.
    pub fn other(&self, key: &str) -> Option<&Value> {
        self.other.get(key)
    }

    /// The file's content: keys sorted, as PEFT sorts them, and target names too, so that equal adapters have equal files.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let mut keys: BTreeMap<&str, Value> = self.other.iter().map(|(k, v)| (k.as_str(), v.clone())).collect();
        keys.insert("r", self.r.into());
        keys.insert("lora_alpha", number(self.lora_alpha));
        // PEFT refuses to hold a weight's adapter whose configuration has dropout, even where it only loads it.
        let dropout = if self.target_parameters.is_empty() { self.lora_dropout } else { 0.0 };
        keys.insert("lora_dropout", dropout.into());
        let parameters = &self.target_parameters;
        keys.insert("target_parameters", if parameters.is_empty() { Value::Null } else { parameters.clone().into() });
        keys.insert("use_rslora", self.use_rslora.into());
        keys.insert("target_modules", sorted(self.target_modules.as_ref()));
        keys.insert("exclude_modules", sorted(self.exclude_modules.as_ref()));
        keys.insert("base_model_name_or_path", self.base_model_name_or_path.clone().into());
        let ranks = self.rank_pattern.iter().map(|(k, r)| (k.clone(), Value::from(*r)));
        keys.insert("rank_pattern", ranks.collect::<Map<_, _>>().into());
        let alphas = self.alpha_pattern.iter().map(|(k, a)| (k.clone(), number(*a)));
        keys.insert("alpha_pattern", alphas.collect::<Map<_, _>>().into());
        keys.insert("use_dora", self.use_dora.into());
        let saved = &self.modules_to_save;
        keys.insert("modules_to_save", if saved.is_empty() { Value::Null } else { saved.clone().into() });
        keys.insert("bias", self.bias.as_str().into());
        keys.insert("inference_mode", true.into());
        pretty_json(&keys)
    }
}

/// A whole number as PEFT's type annotation has it, an integer.
fn number(x: f64) -> Value {
    if x.fract() == 0.0 && x.abs() < 1e15 { Value::from(x as i64) } else { Value::from(x) }
}

fn sorted(targets: Option<&Targets>) -> Value {
    match targets {
        Some(Targets::Names(names)) => {
            let mut names = names.clone();
            names.sort();
            names.into()
        }
        Some(Targets::Pattern(pattern)) => pattern.as_str().into(),
        None => Value::Null,
    }
}

/// Takes a key out of the map and gives it its type; an absent key is like null.
fn take<T: DeserializeOwned>(
    path: &Path,
    keys: &mut Map<String, Value>,
    key: &str,
    expected: &str,
) -> Result<T, Error> {
    let value = keys.shift_remove(key).unwrap_or(Value::Null);
    let found = value.to_string();
    serde_json::from_value(value).map_err(|_| Error::json(path, format!("{key}: expected {expected}, found {found}")))
}

/// A mapping from patterns to values, in its order.
fn pattern<T>(
    path: &Path,
    keys: &mut Map<String, Value>,
    key: &str,
    expected: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Vec<(String, T)>, Error> {
    let map = take::<Option<Map<String, Value>>>(path, keys, key, "a mapping")?.unwrap_or_default();
    let of = |(name, value): (String, Value)| match read(&value) {
        Some(read) => Ok((name, read)),
        None => Err(Error::json(path, format!("{key}: {name}: expected {expected}, found {value}"))),
    };
    map.into_iter().map(of).collect()
}

/// The value of the first pattern that the end of a module's path matches, as PEFT's `get_pattern_key`.
fn first_match<T: Copy>(patterns: &[(String, T)], module: &str) -> Result<Option<T>, Error> {
    for (pattern, value) in patterns {
        let fault = |e: fancy_regex::Error| Error::Pattern { pattern: pattern.clone(), why: e.to_string() };
        let end = fancy_regex::Regex::new(&format!(r"\A(.*\.)?({pattern})\z")).map_err(fault)?;
        if end.is_match(module).map_err(fault)? {
            return Ok(Some(*value));
        }
    }
    Ok(None)
}

fn check_supported(path: &Path, keys: &Map<String, Value>) -> Result<(), Error> {
    let refuse = |key: &str, value: &Value, why| {
        Err(Error::Unsupported { path: path.to_owned(), key: key.to_owned(), value: value.to_string(), why })
    };
    match keys.get("peft_type") {
        Some(Value::String(kind)) if kind == "LORA" => {}
        other => {
            let found = other.unwrap_or(&Value::Null);
            return refuse("peft_type", found, "only adapters of type \"LORA\" are read");
        }
    }
    for (key, why) in REFUSED {
        if let Some(value) = keys.get(*key).filter(|value| !is_unset(value)) {
            return refuse(key, value, why);
        }
    }
    if let Some(value @ Value::String(name)) = keys.get("init_lora_weights")
        && !PLAIN_INITIALISATIONS.contains(&name.as_str())
    {
        let why = "this initialisation changed the base model's weights; convert the adapter to plain LoRA with PEFT \
                   (path_initial_model_for_weight_conversion)";
        return refuse("init_lora_weights", value, why);
    }
    Ok(())
}

/// Whether a value says that the feature is off.
fn is_unset(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(s) => s.is_empty() || s == "none",
        Value::Array(items) => items.is_empty(),
        Value::Object(keys) => keys.is_empty(),
        _ => false,
    }
}

/// The two factors of a LoRA update B A, and DoRA's lengths.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LoraFactor {
    /// `[r, in]`.
    A,
    /// `[out, r]`.
    B,
    /// `[out]`.
    Magnitude,
}

impl LoraFactor {
    fn suffix(self) -> &'static str {
        match self {
            LoraFactor::A => ".lora_A.weight",
            LoraFactor::B => ".lora_B.weight",
            LoraFactor::Magnitude => ".lora_magnitude_vector",
        }
    }
}

/// The tensor name of a module's factor: `model.layers.0.self_attn.q_proj` to
/// `base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight`.
pub fn tensor_name(module: &str, factor: LoraFactor) -> String {
    format!("{PREFIX}{module}{}", factor.suffix())
}

/// The inverse of [`tensor_name`]; `None` for any other tensor.
pub fn module_of(tensor: &str) -> Option<(&str, LoraFactor)> {
    let path = tensor.strip_prefix(PREFIX)?;
    [LoraFactor::A, LoraFactor::B, LoraFactor::Magnitude]
        .into_iter()
        .find_map(|f| Some((path.strip_suffix(f.suffix())?, f)))
}

/// The tensor name of a model's own tensor that was trained beside an adapter. A bias of an adapted layer stands where PEFT
/// moves it.
pub(crate) fn whole_name(tensor: &str, adapted: impl Fn(&str) -> bool) -> String {
    match tensor.rsplit_once('.') {
        Some((module, leaf @ "bias")) if adapted(module) => format!("{PREFIX}{module}.base_layer.{leaf}"),
        _ => format!("{PREFIX}{tensor}"),
    }
}

/// The inverse of [`whole_name`].
pub(crate) fn whole_of(tensor: &str) -> Option<String> {
    Some(tensor.strip_prefix(PREFIX)?.replace(".base_layer.", "."))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "adapter_config.json";

    fn minimal() -> Map<String, Value> {
        let value = json!({ "peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["v_proj", "q_proj"] });
        value.as_object().unwrap().clone()
    }

    fn with(key: &str, value: Value) -> Result<AdapterConfig, Error> {
        let mut keys = minimal();
        keys.insert(key.to_owned(), value);
        AdapterConfig::from_json(Path::new(PATH), keys)
    }

    #[test]
    fn scale_is_alpha_over_r_or_its_root() {
        assert_eq!(with("use_rslora", false.into()).unwrap().scale_of("m.q_proj").unwrap(), 2.0);
        assert_eq!(with("use_rslora", true.into()).unwrap().scale_of("m.q_proj").unwrap(), 16.0 / 8f64.sqrt());
    }

    #[test]
    fn the_first_pattern_that_the_end_of_a_path_matches_gives_rank_and_alpha() {
        let mut config = with("rank_pattern", json!({ "0.*.q_proj": 4, "q_proj": 2, "proj": 3 })).unwrap();
        config.alpha_pattern = vec![("v_proj".to_owned(), 32.0)];
        let rank = |module: &str| config.rank_of(module).unwrap();
        assert_eq!((rank("layers.0.self_attn.q_proj"), rank("layers.1.q_proj"), rank("m.k_proj")), (4, 2, 8));
        assert_eq!(config.scale_of("layers.1.q_proj").unwrap(), 8.0);
        assert_eq!(config.scale_of("layers.1.v_proj").unwrap(), 4.0);
        assert!(with("rank_pattern", json!({ "q_proj": 0 })).is_err());
        assert!(with("bias", json!("some")).is_err());
    }

    #[test]
    fn unknown_keys_are_kept_and_names_are_sorted_on_writing() {
        let config = with("peft_version", "0.99.1".into()).unwrap();
        assert_eq!(config.other("peft_version"), Some(&"0.99.1".into()));
        let written: Value = serde_json::from_slice(&config.to_json()).unwrap();
        assert_eq!(written["peft_version"], "0.99.1");
        assert_eq!(written["target_modules"], json!(["q_proj", "v_proj"]));
        assert_eq!(written["lora_alpha"].to_string(), "16");
        let keys: Vec<_> = written.as_object().unwrap().keys().collect();
        assert!(keys.is_sorted(), "{keys:?}");
    }

    #[test]
    fn a_new_configuration_reads_back() {
        let targets = Targets::Names(vec!["q_proj".to_owned(), "v_proj".to_owned()]);
        let mut config = AdapterConfig::new(4, targets);
        config.lora_alpha = 2.5;
        config.lora_dropout = 0.05;
        config.base_model_name_or_path = Some("org/model".to_owned());
        let read: Map<String, Value> = serde_json::from_slice(&config.to_json()).unwrap();
        // Keys come back sorted: compared as JSON.
        let again = AdapterConfig::from_json(Path::new(PATH), read).unwrap();
        assert_eq!(again.to_json(), config.to_json());
        assert_eq!((again.r, again.lora_alpha, again.target_modules), (4, 2.5, config.target_modules));
    }

    #[test]
    fn what_changes_the_computation_is_refused_by_name() {
        let cases = [
            ("peft_type", json!("IA3")),
            ("lora_bias", json!(true)),
            ("trainable_token_indices", json!([1])),
            ("layer_replication", json!([[0, 1]])),
            ("init_lora_weights", json!("pissa_niter_4")),
        ];
        for (key, value) in cases {
            let error = with(key, value.clone()).unwrap_err();
            assert!(error.to_string().contains(&format!("{key}: {value} is not supported")), "{error}");
            assert_eq!(error.exit_code(), 2);
        }
        let mut keys = minimal();
        keys.remove("peft_type");
        assert!(AdapterConfig::from_json(Path::new(PATH), keys).is_err());
    }

    #[test]
    fn what_changes_nothing_is_not_refused() {
        let cases = [
            ("bias", json!("none")),
            ("use_dora", json!(false)),
            ("rank_pattern", json!({})),
            ("modules_to_save", Value::Null),
            ("layers_to_transform", json!([])),
            ("target_parameters", json!([])),
            ("target_parameters", json!(["shared_experts.up_proj.weight"])),
            ("init_lora_weights", json!(true)),
            ("init_lora_weights", json!(false)),
            ("init_lora_weights", json!("gaussian")),
            ("target_modules", json!(r".*\.q_proj")),
            ("target_modules", json!("all-linear")),
            ("target_modules", Value::Null),
            ("lora_alpha", json!(1.5)),
        ];
        for (key, value) in cases {
            with(key, value.clone()).unwrap_or_else(|e| panic!("{key} {value}: {e}"));
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_named() {
        let cases = [
            ("r", json!("8"), "r: expected a rank of at least 1, found \"8\""),
            ("r", json!(0), "r: expected a rank of at least 1, found 0"),
            ("r", json!(-1), "r: expected a rank of at least 1, found -1"),
            ("lora_alpha", Value::Null, "lora_alpha: expected a number, found null"),
            ("lora_dropout", json!(1.0), "lora_dropout: expected a probability below 1, found 1"),
            ("use_rslora", json!(1), "use_rslora: expected true or false, found 1"),
            (
                "target_modules",
                json!([1]),
                "target_modules: expected a list of names or a regular expression, found [1]",
            ),
        ];
        for (key, value, expected) in cases {
            let message = with(key, value).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn tensor_names_and_modules_are_each_others_inverse() {
        let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";
        let module = "model.layers.0.self_attn.q_proj";
        assert_eq!(tensor_name(module, LoraFactor::A), name);
        assert_eq!(module_of(name), Some((module, LoraFactor::A)));
        assert_eq!(module_of(&tensor_name(module, LoraFactor::B)), Some((module, LoraFactor::B)));
        assert_eq!(module_of("base_model.model.model.embed_tokens.lora_embedding_A"), None);
        assert_eq!(module_of("model.layers.0.self_attn.q_proj.lora_A.weight"), None);
    }
}
