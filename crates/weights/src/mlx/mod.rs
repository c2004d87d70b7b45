//! Adapters of MLX, in and out: the npz archives of early LoRA trainers, and the folders of mlx-lm.
//!
//! Both hold the transposes of PEFT's factors. An npz archive says nothing about the scale, so a JSON file of the same name
//! stands beside it; mlx-lm's `scale` multiplies directly. Source: mlx-lm 0.32, `tuner/lora.py` and `tuner/utils.py`.

mod npy;
mod zip;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value, json};

use crate::adapter::{Adapter, LoraPair, save_adapter};
use crate::dtype::{DType, TensorInfo};
use crate::error::Error;
use crate::json::read_json;
use crate::peft::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, AdapterConfig};
use crate::safetensors::SafeTensors;
use crate::target::Targets;
use crate::write::{pretty_json, write_atomic, write_file};
use npy::{Matrix, turned};

/// The weights of mlx-lm's adapters.
const MLX_WEIGHTS_FILE: &str = "adapters.safetensors";
/// The archive's name in a folder.
const NPZ_FILE: &str = "lora_adapters.npz";

/// The forms that adapters come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterForm {
    /// A folder of PEFT's.
    Peft,
    /// A folder of mlx-lm's.
    MlxLm,
    /// An npz archive, with a JSON file beside it.
    Npz,
}

impl AdapterForm {
    /// In words.
    pub fn name(self) -> &'static str {
        match self {
            AdapterForm::Peft => "PEFT",
            AdapterForm::MlxLm => "mlx-lm",
            AdapterForm::Npz => "npz",
        }
    }

    /// What the path is, by the files that are there.
    pub fn of(path: &Path) -> Option<AdapterForm> {
        if path.is_file() {
            return path.extension().is_some_and(|e| e == "npz").then_some(AdapterForm::Npz);
        }
        [
            (ADAPTER_WEIGHTS_FILE, AdapterForm::Peft),
            (MLX_WEIGHTS_FILE, AdapterForm::MlxLm),
            (NPZ_FILE, AdapterForm::Npz),
        ]
        .into_iter()
        .find_map(|(name, form)| path.join(name).is_file().then_some(form))
    }
}

/// Reads an adapter in any of the forms. `alpha` is for an npz archive that says nothing about its scale, and wins over what
/// stands beside it.
pub fn read_adapter(path: &Path, alpha: Option<f64>) -> Result<(AdapterForm, Adapter), Error> {
    let form = AdapterForm::of(path).ok_or_else(|| Error::NoWeights {
        dir: path.to_owned(),
        what: format!("expected {ADAPTER_WEIGHTS_FILE}, {MLX_WEIGHTS_FILE} or an npz archive of an adapter"),
    })?;
    let adapter = match form {
        AdapterForm::Peft => Adapter::load(path)?,
        AdapterForm::MlxLm => read_mlx_lm(path)?,
        AdapterForm::Npz if path.is_file() => read_npz(path, alpha)?,
        AdapterForm::Npz => read_npz(&path.join(NPZ_FILE), alpha)?,
    };
    Ok((form, adapter))
}

/// Writes the adapter in a form, reads it back and compares every value. `path` is the folder, made if it is not there, or the
/// archive. Returns the files written. `layers` is the number of the base model's layers where it is known.
pub fn export_adapter(
    adapter: &Adapter,
    form: AdapterForm,
    path: &Path,
    layers: Option<usize>,
) -> Result<Vec<PathBuf>, Error> {
    let folder = if form == AdapterForm::Npz { path.parent().unwrap_or(Path::new("")) } else { path };
    if !folder.as_os_str().is_empty() {
        fs::create_dir_all(folder).map_err(Error::io("create", folder))?;
    }
    if form != AdapterForm::Peft {
        check_plain(path, adapter)?;
    }
    let written = match form {
        AdapterForm::Peft => {
            save_adapter(path, &adapter.config, &adapter.pairs, &adapter.whole, DType::F32)?;
            vec![path.join(ADAPTER_WEIGHTS_FILE), path.join(ADAPTER_CONFIG_FILE)]
        }
        AdapterForm::MlxLm => write_mlx_lm(path, adapter, layers)?,
        AdapterForm::Npz => write_npz(path, adapter)?,
    };
    let (_, back) = read_adapter(path, None)?;
    // alpha / r and back is off in the last place.
    let same = |(a, b): (&LoraPair<'_>, &LoraPair<'_>)| {
        (a.scale - b.scale).abs() <= 1e-12 * a.scale.abs() && LoraPair { scale: a.scale, ..b.clone() } == *a
    };
    let pairs = || adapter.pairs.iter().zip(&back.pairs);
    if adapter.pairs.len() != back.pairs.len() || adapter.whole != back.whole || !pairs().all(same) {
        let what = "it was written and read back, and does not hold what it should; do not use it";
        return Err(Error::adapter(path, what));
    }
    Ok(written)
}

/// Whether MLX's forms have room for it: one rank and one scale, and factors only.
fn check_plain(path: &Path, adapter: &Adapter) -> Result<(), Error> {
    let first = &adapter.pairs[0];
    let alike = |pair: &LoraPair<'_>| pair.rank == first.rank && pair.scale == first.scale && pair.magnitude.is_none();
    if adapter.whole.is_empty() && adapter.pairs.iter().all(alike) {
        return Ok(());
    }
    let what =
        "this form holds factors of one rank and one scale, no DoRA and no layers trained in full; merge the adapter";
    Err(Error::adapter(path, what))
}

fn read_mlx_lm(dir: &Path) -> Result<Adapter, Error> {
    let config_path = dir.join(ADAPTER_CONFIG_FILE);
    let config: Map<String, Value> = read_json(&config_path)?;
    let kind = config.get("fine_tune_type").and_then(Value::as_str).unwrap_or("lora");
    if kind != "lora" {
        let why = "only adapters of type \"lora\" are read";
        return Err(Error::Unsupported { path: config_path, key: "fine_tune_type".into(), value: kind.into(), why });
    }
    let path = dir.join(MLX_WEIGHTS_FILE);
    let file = SafeTensors::open(&path)?;
    let mut factors = Vec::new();
    for (i, info) in file.infos().enumerate() {
        let [rows, columns] = info.shape[..] else {
            let what = format!("{:?} has shape {:?}; only factors of linear layers are read", info.name, info.shape);
            return Err(Error::adapter(&path, what));
        };
        let values = file.at(i).to_f32()?;
        factors.push((info.name.clone(), Matrix { rows, columns, values }));
    }
    let number = |key: &str| config.get("lora_parameters").and_then(|p| p.get(key)).and_then(Value::as_f64);
    let scale = number("scale").ok_or_else(|| Error::json(&config_path, "lora_parameters.scale: expected a number"))?;
    let model = config.get("model").and_then(Value::as_str);
    let (pairs, r) = pairs(&path, factors)?;
    Ok(assembled(pairs, r, scale * r as f64, number("dropout"), model))
}

/// The archive of an adapter, and what stands beside it: our own JSON file, or PEFT's configuration.
fn read_npz(path: &Path, alpha: Option<f64>) -> Result<Adapter, Error> {
    let archive = zip::Archive::open(path)?;
    let mut factors = Vec::new();
    for (i, name) in archive.names().enumerate() {
        let name = name.strip_suffix(".npy").unwrap_or(name);
        let matrix = npy::read(&archive.read(i)?).map_err(|what| Error::adapter(path, format!("{name}: {what}")))?;
        factors.push((name.to_owned(), matrix));
    }
    let (pairs, r) = pairs(path, factors)?;
    let beside = [path.with_extension("json"), path.with_file_name(ADAPTER_CONFIG_FILE)];
    let known: Map<String, Value> = match beside.iter().find(|file| file.is_file()) {
        Some(file) => read_json(file)?,
        None => Map::new(),
    };
    let number = |keys: [&str; 2]| keys.iter().find_map(|key| known.get(*key)).and_then(Value::as_f64);
    let scaled = number(["scale", "scale"]).map(|scale| scale * r as f64);
    let Some(alpha) = alpha.or(scaled).or_else(|| number(["alpha", "lora_alpha"])) else {
        let what = format!(
            "it does not say what its factors are multiplied by, and neither {} nor {ADAPTER_CONFIG_FILE} is beside it; give --alpha",
            beside[0].file_name().unwrap_or_default().to_string_lossy()
        );
        return Err(Error::adapter(path, what));
    };
    let model = ["base_model_name_or_path", "model"].iter().find_map(|key| known.get(*key)).and_then(Value::as_str);
    Ok(assembled(pairs, r, alpha, number(["dropout", "lora_dropout"]), model))
}

/// An adapter that another program made.
fn assembled(
    mut pairs: Vec<LoraPair<'static>>,
    r: usize,
    alpha: f64,
    dropout: Option<f64>,
    model: Option<&str>,
) -> Adapter {
    let mut config = AdapterConfig::new(r, Targets::Names(targets(&pairs)));
    config.lora_alpha = alpha;
    config.lora_dropout = dropout.unwrap_or(0.0);
    config.base_model_name_or_path = model.map(str::to_owned);
    pairs.iter_mut().for_each(|pair| pair.scale = alpha / r as f64);
    Adapter { config, pairs, whole: Vec::new() }
}

/// Names for `target_modules`: what every layer has, or whole paths where layers differ.
fn targets(pairs: &[LoraPair<'_>]) -> Vec<String> {
    let mut layers: BTreeMap<usize, BTreeSet<&str>> = BTreeMap::new();
    let mut others = Vec::new();
    for pair in pairs {
        match of_layer(&pair.module) {
            Some((layer, rest)) => drop(layers.entry(layer).or_default().insert(rest)),
            None => others.push(pair.module.clone()),
        }
    }
    let first = layers.values().next().cloned().unwrap_or_default();
    let whole = layers.keys().copied().eq(0..layers.len()) && layers.values().all(|names| *names == first);
    match whole {
        true => first.into_iter().map(str::to_owned).chain(others).collect(),
        false => pairs.iter().map(|pair| pair.module.clone()).collect(),
    }
}

/// The layer of a module, and its name there.
fn of_layer(module: &str) -> Option<(usize, &str)> {
    let (_, rest) = module.split_once("layers.")?;
    let (layer, rest) = rest.split_once('.')?;
    Some((layer.parse().ok()?, rest))
}

/// Factors by module, as PEFT has them, and their rank; what they are multiplied by is not known here. Keys end in `lora_a` and `lora_b`, in either case, behind the
/// module's path or behind `.lora` after it.
fn pairs(path: &Path, factors: Vec<(String, Matrix)>) -> Result<(Vec<LoraPair<'static>>, usize), Error> {
    let mut found: BTreeMap<String, [Option<Matrix>; 2]> = BTreeMap::new();
    for (name, matrix) in factors {
        let split = name.rsplit_once('.').map(|(module, factor)| (module, factor.to_ascii_lowercase()));
        let (module, index) = match split {
            Some((module, factor)) if factor == "lora_a" => (module, 0),
            Some((module, factor)) if factor == "lora_b" => (module, 1),
            _ => return Err(Error::adapter(path, format!("{name:?} is no factor of a linear layer's LoRA"))),
        };
        let module = module.strip_suffix(".lora").unwrap_or(module).to_owned();
        found.entry(module).or_default()[index] = Some(matrix);
    }
    let mut rank = None;
    let mut pairs = Vec::new();
    for (module, factors) in found {
        let [Some(a), Some(b)] = factors else {
            return Err(Error::adapter(path, format!("module {module:?} has one factor only")));
        };
        let r = *rank.get_or_insert(a.columns);
        if r == 0 || a.columns != r || b.rows != r {
            let what = format!(
                "module {module:?} has factors [{}, {}] and [{}, {}], expected rank {r}",
                a.rows, a.columns, b.rows, b.columns
            );
            return Err(Error::adapter(path, what));
        }
        let (a, b) = (a.turned().values.into(), b.turned().values.into());
        pairs.push(LoraPair { module, rank: r, scale: 1.0, a, b, magnitude: None });
    }
    let r = rank.ok_or_else(|| Error::adapter(path, "no factor of an adapter is in it"))?;
    Ok((pairs, r))
}

/// A factor of a pair turned as MLX has it, with its shape there; `a` is the first.
fn as_mlx(pair: &LoraPair<'_>, a: bool) -> (Vec<f32>, usize, usize) {
    let (r, inputs, outputs) = (pair.rank, pair.inputs(), pair.outputs());
    match a {
        true => (turned(&pair.a, r, inputs), inputs, r),
        false => (turned(&pair.b, outputs, r), r, outputs),
    }
}

fn write_npz(path: &Path, adapter: &Adapter) -> Result<Vec<PathBuf>, Error> {
    let (r, scale) = (adapter.pairs[0].rank, adapter.pairs[0].scale);
    let key = |i: usize| (&adapter.pairs[i / 2], i.is_multiple_of(2));
    let names: Vec<String> = (0..2 * adapter.pairs.len())
        .map(|i| format!("{}.lora.lora_{}.npy", key(i).0.module, if key(i).1 { 'A' } else { 'B' }))
        .collect();
    zip::write(path, &names, |i| {
        let (values, rows, columns) = as_mlx(key(i).0, key(i).1);
        npy::write(&values, rows, columns)
    })?;
    let config = &adapter.config;
    let beside = json!({
        "rank": r,
        "alpha": scale * r as f64,
        "scale": scale,
        "dropout": config.lora_dropout,
        "target_modules": targets(&adapter.pairs),
        "base_model_name_or_path": config.base_model_name_or_path,
    });
    let sidecar = path.with_extension("json");
    write_atomic(&sidecar, &pretty_json(&beside))?;
    Ok(vec![path.to_owned(), sidecar])
}

fn write_mlx_lm(dir: &Path, adapter: &Adapter, layers: Option<usize>) -> Result<Vec<PathBuf>, Error> {
    let (config, r, scale) = (&adapter.config, adapter.pairs[0].rank, adapter.pairs[0].scale);
    let mut infos = Vec::new();
    let mut factors = BTreeMap::new();
    for pair in &adapter.pairs {
        for (a, name) in [(true, "lora_a"), (false, "lora_b")] {
            let shape = if a { [pair.inputs(), r] } else { [r, pair.outputs()] };
            let name = format!("{}.{name}", pair.module);
            infos.push(TensorInfo::new(name.clone(), DType::F32, shape));
            factors.insert(name, (pair, a));
        }
    }
    let weights = dir.join(MLX_WEIGHTS_FILE);
    write_file(&weights, &infos, |info, sink| {
        let (pair, a) = factors[&info.name];
        sink.put(&as_mlx(pair, a).0)
    })?;
    let of_layers: Vec<_> = adapter.pairs.iter().filter_map(|pair| of_layer(&pair.module)).collect();
    let (first, last) = of_layers.iter().fold((usize::MAX, 0), |(f, l), (n, _)| (f.min(*n), l.max(*n)));
    // The last so many are given adapters when it is loaded; those without factors here stay without effect.
    let count = layers.unwrap_or(last + 1).saturating_sub(first);
    let mut keys: BTreeSet<&str> = of_layers.iter().map(|(_, rest)| *rest).collect();
    keys.extend(adapter.pairs.iter().map(|pair| pair.module.as_str()).filter(|module| of_layer(module).is_none()));
    let written = json!({
        "fine_tune_type": "lora",
        "model": config.base_model_name_or_path,
        "num_layers": count,
        "lora_parameters": {"rank": r, "scale": scale, "dropout": config.lora_dropout, "keys": keys},
    });
    let path = dir.join(ADAPTER_CONFIG_FILE);
    write_atomic(&path, &pretty_json(&written))?;
    Ok(vec![weights, path])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;

    fn adapter() -> Adapter {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/weights/adapter");
        Adapter::load(&dir).unwrap()
    }

    #[test]
    fn every_form_holds_the_same_adapter_bit_for_bit() {
        let (dir, original) = (TestDir::new(), adapter());
        let places = [
            (AdapterForm::Npz, "a/x.npz"),
            (AdapterForm::MlxLm, "a/lm"),
            (AdapterForm::Peft, "a/peft"),
            (AdapterForm::Npz, "b/y.npz"),
        ];
        let mut from = original.clone();
        for (form, place) in places {
            let files = export_adapter(&from, form, &dir.join(place), Some(40)).unwrap();
            assert!(files.iter().all(|file| file.is_file()), "{files:?}");
            let (found, read) = read_adapter(&dir.join(place), None).unwrap();
            assert_eq!((found, read.pairs[0].scale), (form, 3.0));
            assert_eq!(read.pairs, original.pairs);
            from = read;
        }
        // The last came by way of all forms, and is the first.
        assert_eq!(fs::read(dir.join("a/x.npz")).unwrap(), fs::read(dir.join("b/y.npz")).unwrap());
        let lm: Value = read_json(&dir.join("a/lm/adapter_config.json")).unwrap();
        let first = original.pairs.iter().filter_map(|p| of_layer(&p.module)).map(|(n, _)| n).min().unwrap();
        assert_eq!((&lm["num_layers"], &lm["lora_parameters"]["scale"]), (&json!(40 - first), &json!(3.0)));
    }

    #[test]
    fn an_archive_without_a_scale_is_asked_for_one_and_damage_is_found() {
        let (dir, original) = (TestDir::new(), adapter());
        let path = dir.join("lora_adapters.npz");
        export_adapter(&original, AdapterForm::Npz, &path, None).unwrap();
        fs::remove_file(dir.join("lora_adapters.json")).unwrap();
        let error = read_adapter(dir.path(), None).unwrap_err().to_string();
        assert!(error.contains("give --alpha"), "{error}");
        assert_eq!(read_adapter(dir.path(), Some(8.0)).unwrap().1.config.lora_alpha, 8.0);
        let bytes = fs::read(&path).unwrap();
        for (what, at) in [("checksum", 200), ("directory", bytes.len() - 5), ("end is missing", bytes.len() - 22)] {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x55;
            fs::write(&path, bytes).unwrap();
            let error = read_adapter(&path, Some(8.0)).unwrap_err().to_string();
            assert!(error.contains(what), "{what}: {error}");
        }
        // Cut anywhere, it is an error and nothing else.
        for end in (0..bytes.len()).step_by(97) {
            fs::write(&path, &bytes[..end]).unwrap();
            assert!(read_adapter(&path, Some(8.0)).is_err());
        }
    }

    #[test]
    fn what_the_forms_have_no_room_for_is_refused() {
        let dir = TestDir::new();
        let mut two = adapter();
        two.pairs[1].scale = 5.0;
        for form in [AdapterForm::Npz, AdapterForm::MlxLm] {
            let error = export_adapter(&two, form, &dir.join("x.npz"), None).unwrap_err().to_string();
            assert!(error.contains("one rank and one scale"), "{error}");
        }
    }

    #[test]
    fn layers_that_differ_are_named_one_by_one() {
        let pair = |module: &str| LoraPair { module: module.to_owned(), ..adapter().pairs[0].clone() };
        let of = |modules: &[&str]| targets(&modules.iter().map(|m| pair(m)).collect::<Vec<_>>());
        assert_eq!(
            of(&["model.layers.0.mlp.up_proj", "model.layers.1.mlp.up_proj", "lm_head"]),
            ["mlp.up_proj", "lm_head"]
        );
        let last = ["model.layers.2.mlp.up_proj", "model.layers.3.mlp.up_proj"];
        assert_eq!(of(&last), last);
    }
}
