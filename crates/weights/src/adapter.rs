//! LoRA adapters as PEFT folders: loading and saving the pairs of factors.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::dtype::{DType, TensorInfo};
use crate::error::Error;
use crate::peft::{
    ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, AdapterConfig, LoraFactor, module_of, tensor_name, whole_name, whole_of,
};
use crate::safetensors::{Mapped, SafeTensors};
use crate::unstack::{Experts, block_of, name_experts, unstack};
use crate::write::{write_atomic, write_file};

/// The tensors that have a row for every token, which an adapter may bring with more rows than the model has.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
pub(crate) const HEAD: &str = "lm_head.weight";

/// The two factors of one module, row-major.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraPair<'a> {
    /// Path of the module in the base model, as `model.layers.0.self_attn.q_proj`.
    pub module: String,
    /// `r`, at least 1.
    pub rank: usize,
    /// What B A is multiplied by.
    pub scale: f64,
    /// `[r, in]`.
    pub a: Cow<'a, [f32]>,
    /// `[out, r]`.
    pub b: Cow<'a, [f32]>,
    /// `[out]`: lengths that rows of the sum are brought to (DoRA).
    pub magnitude: Option<Cow<'a, [f32]>>,
}

impl LoraPair<'_> {
    /// Width of the module's input.
    pub fn inputs(&self) -> usize {
        self.a.len() / self.rank
    }

    /// Width of the module's output.
    pub fn outputs(&self) -> usize {
        self.b.len() / self.rank
    }
}

/// A tensor of the model itself that was trained beside an adapter.
#[derive(Clone, Debug, PartialEq)]
pub struct WholeTensor<'a> {
    /// As in the base model.
    pub name: String,
    /// Axes.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Cow<'a, [f32]>,
}

/// A LoRA adapter in memory, in f32.
#[derive(Clone, Debug)]
pub struct Adapter {
    /// Its configuration.
    pub config: AdapterConfig,
    /// Its factors, sorted by module.
    pub pairs: Vec<LoraPair<'static>>,
    /// What else it trained, sorted by name.
    pub whole: Vec<WholeTensor<'static>>,
}

impl Adapter {
    /// Reads a PEFT adapter folder. Which modules it has is read from the tensors; `target_modules` may be a list, a
    /// pattern or absent. Fails on a tensor that is no LoRA factor, a factor without its partner, or another rank than
    /// the configuration's; and on stacked experts, which take a model to be told apart.
    pub fn load(dir: &Path) -> Result<Adapter, Error> {
        Adapter::load_on(dir, |_| Experts::new())
    }

    /// As [`Adapter::load`], for a model with these experts in its blocks. An adapter of PEFT's on stacked experts becomes one on
    /// their layers.
    pub fn load_on(dir: &Path, experts: impl Fn(usize) -> Experts) -> Result<Adapter, Error> {
        let mut config = AdapterConfig::read(dir)?;
        let path = dir.join(ADAPTER_WEIGHTS_FILE);
        if !path.exists() && dir.join("adapter_model.bin").exists() {
            let what = "only pickled PyTorch files, which can run code and are not read; save the adapter with \
                        safe_serialization=True";
            return Err(Error::NoWeights { dir: dir.to_owned(), what: what.to_owned() });
        }
        let file = SafeTensors::open(&path)?;
        let mut factors: BTreeMap<&str, [Option<Mapped>; 3]> = BTreeMap::new();
        let mut whole = Vec::new();
        for (i, info) in file.infos().enumerate() {
            if let Some((module, factor)) = module_of(&info.name) {
                factors.entry(module).or_default()[factor as usize] = Some(file.at(i));
            } else if let Some(name) = whole_of(&info.name).filter(|name| config.speaks_of(name)) {
                let values = file.at(i).to_f32()?.into();
                whole.push(WholeTensor { name, shape: info.shape.clone(), values });
            } else {
                let what = format!(
                    "tensor {:?} is no factor of a linear layer's LoRA, and modules_to_save and bias do not speak of it",
                    info.name
                );
                return Err(Error::adapter(&path, what));
            }
        }
        if factors.is_empty() {
            return Err(Error::adapter(&path, "no factor of a linear layer's LoRA is there"));
        }
        whole.sort_by(|a: &WholeTensor, b| a.name.cmp(&b.name));
        let stacked = config.unstacked();
        let (mut pairs, mut said) = (Vec::with_capacity(factors.len()), Vec::new());
        for (module, parts) in factors {
            match (block_of(module).filter(|_| stacked), &parts) {
                (Some(block), [Some(a), Some(b), None]) => {
                    let (of_experts, of_stack) = unstack(&path, module, (a, b), &experts(block), &config)?;
                    pairs.extend(of_experts);
                    said.extend(of_stack);
                }
                _ => pairs.push(read_pair(&path, module, parts, &config)?),
            }
        }
        name_experts(&mut config, &said)?;
        pairs.sort_by(|p, q| p.module.cmp(&q.module));
        Ok(Adapter { config, pairs, whole })
    }

    /// Rows of the embedding, where the adapter brings one.
    pub fn vocabulary(&self) -> Option<usize> {
        let embedding = self.whole.iter().find(|t| t.name == EMBEDDING)?;
        embedding.shape.first().copied()
    }

    /// The factors of a module.
    pub fn get(&self, module: &str) -> Option<&LoraPair<'static>> {
        self.pairs.binary_search_by(|p| p.module.as_str().cmp(module)).ok().map(|i| &self.pairs[i])
    }
}

/// Whether an adapter folder brings an embedding; no tensor is read. Where it cannot be read it does not, and loading it says why.
pub fn trains_embedding(dir: &Path) -> bool {
    let file = SafeTensors::open(&dir.join(ADAPTER_WEIGHTS_FILE));
    file.is_ok_and(|file| file.infos().any(|info| whole_of(&info.name).is_some_and(|name| name == EMBEDDING)))
}

fn read_pair(
    path: &Path,
    module: &str,
    parts: [Option<Mapped>; 3],
    config: &AdapterConfig,
) -> Result<LoraPair<'static>, Error> {
    let (a, b, magnitude) = match parts {
        [Some(a), Some(b), magnitude] => (a, b, magnitude),
        [a, b, _] => {
            let (there, absent) = match (a, b) {
                (Some(_), _) => ("lora_A", "lora_B"),
                (_, Some(_)) => ("lora_B", "lora_A"),
                _ => ("lora_magnitude_vector", "lora_A"),
            };
            return Err(Error::adapter(path, format!("module {module:?} has {there} but no {absent}")));
        }
    };
    if magnitude.is_some() != config.use_dora {
        let (has, says) = if config.use_dora { ("no", "true") } else { ("a", "false") };
        let what = format!("module {module:?} has {has} lora_magnitude_vector, and use_dora is {says}");
        return Err(Error::adapter(path, what));
    }
    let (rank, scale) = (config.rank_of(module)?, config.scale_of(module)?);
    // An unknown width is taken from the tensor itself: only the rank and the number of axes are known here.
    a.expect_shape(&[rank, a.shape().last().copied().unwrap_or(0)])?;
    let outputs = b.shape().first().copied().unwrap_or(0);
    b.expect_shape(&[outputs, rank])?;
    let magnitude = match magnitude {
        None => None,
        Some(m) => {
            m.expect_shape(&[outputs])?;
            Some(m.to_f32()?.into())
        }
    };
    Ok(LoraPair { module: module.to_owned(), rank, scale, a: a.to_f32()?.into(), b: b.to_f32()?.into(), magnitude })
}

/// Writes a PEFT adapter folder, made if it is not there, with its tensors stored as `dtype`. The configuration comes last:
/// a folder that has it has its weights.
///
/// Panics if a factor is no matrix of the pair's rank.
pub fn save_adapter(
    dir: &Path,
    config: &AdapterConfig,
    pairs: &[LoraPair<'_>],
    whole: &[WholeTensor<'_>],
    dtype: DType,
) -> Result<(), Error> {
    let mut tensors: Vec<(TensorInfo, &[f32])> = Vec::with_capacity(2 * pairs.len() + whole.len());
    for pair in pairs {
        let LoraPair { module, rank: r, a, b, magnitude, .. } = pair;
        assert!(
            a.len().is_multiple_of(*r) && b.len().is_multiple_of(*r),
            "{module}: {} and {} of rank {r}",
            a.len(),
            b.len()
        );
        let info = |factor, shape: Vec<usize>| TensorInfo::new(tensor_name(module, factor), dtype, shape);
        tensors.push((info(LoraFactor::A, vec![*r, pair.inputs()]), a));
        tensors.push((info(LoraFactor::B, vec![pair.outputs(), *r]), b));
        tensors.extend(magnitude.iter().map(|m| (info(LoraFactor::Magnitude, vec![m.len()]), &m[..])));
    }
    let adapted: BTreeSet<&str> = pairs.iter().map(|p| p.module.as_str()).collect();
    for tensor in whole {
        let name = whole_name(&tensor.name, |module| adapted.contains(module));
        tensors.push((TensorInfo::new(name, dtype, tensor.shape.clone()), &tensor.values));
    }
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let infos: Vec<TensorInfo> = tensors.iter().map(|(info, _)| info.clone()).collect();
    let by_name: BTreeMap<&str, &[f32]> = tensors.iter().map(|(info, values)| (info.name.as_str(), *values)).collect();
    write_file(&dir.join(ADAPTER_WEIGHTS_FILE), &infos, |info, sink| sink.put(by_name[info.name.as_str()]))?;
    write_atomic(&dir.join(ADAPTER_CONFIG_FILE), &config.to_json())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::Tensor;
    use crate::target::Targets;
    use crate::testdir::TestDir;
    use crate::write::write_tensors;
    use std::path::PathBuf;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/weights").join(name)
    }

    fn config() -> AdapterConfig {
        AdapterConfig::new(2, Targets::Names(vec!["q_proj".to_owned()]))
    }

    fn pair<'a>(module: &str, a: &'a [f32], b: &'a [f32]) -> LoraPair<'a> {
        LoraPair { module: module.to_owned(), rank: 2, scale: 1.0, a: a.into(), b: b.into(), magnitude: None }
    }

    #[test]
    fn a_saved_adapter_reads_back() {
        let dir = TestDir::new();
        let out = dir.join("new/adapter");
        let (a, b) = ([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0.5, -0.5]);
        let pairs = [pair("m.1.q_proj", &a, &b), pair("m.0.q_proj", &a[..4], &a[..4])];
        save_adapter(&out, &config(), &pairs, &[], DType::F32).unwrap();
        let adapter = Adapter::load(&out).unwrap();
        assert_eq!(adapter.pairs, [pairs[1].clone(), pairs[0].clone()], "sorted by module");
        let q = adapter.get("m.1.q_proj").unwrap();
        assert_eq!((q.inputs(), q.outputs()), (3, 1));
        assert!(adapter.get("m.2.q_proj").is_none());
        let file = SafeTensors::open(&out.join(ADAPTER_WEIGHTS_FILE)).unwrap();
        assert_eq!(file.get("base_model.model.m.1.q_proj.lora_A.weight").unwrap().shape(), [2, 3]);
        assert_eq!(file.get("base_model.model.m.1.q_proj.lora_B.weight").unwrap().shape(), [1, 2]);
    }

    #[test]
    fn an_adapter_of_peft_survives_loading_and_saving_bit_for_bit() {
        let dir = TestDir::new();
        let adapter = Adapter::load(&fixture("adapter")).unwrap();
        // Its targets are a regular expression: the modules come from the tensors.
        assert!(matches!(adapter.config.target_modules, Some(Targets::Pattern(_))));
        assert_eq!(adapter.pairs.len(), 6);
        assert_eq!(adapter.pairs[0].scale, 3.0);
        save_adapter(dir.path(), &adapter.config, &adapter.pairs, &adapter.whole, DType::F32).unwrap();
        for name in [ADAPTER_WEIGHTS_FILE, ADAPTER_CONFIG_FILE] {
            let (ours, theirs) = (fs::read(dir.join(name)).unwrap(), fs::read(fixture("adapter").join(name)).unwrap());
            if name == ADAPTER_CONFIG_FILE {
                // PEFT writes no newline at the end; nothing else differs.
                assert_eq!(String::from_utf8(ours).unwrap().trim_end(), String::from_utf8(theirs).unwrap());
            } else {
                assert_eq!(ours, theirs);
            }
        }
    }

    #[test]
    fn adapters_that_do_not_hang_together_are_refused_by_name() {
        let name = |factor| tensor_name("m.q_proj", factor);
        let (a, b) = (name(LoraFactor::A), name(LoraFactor::B));
        let embedding = "base_model.model.embed_tokens.lora_embedding_A".to_owned();
        type Shaped<'a> = (&'a String, &'a [usize]);
        let cases: [(&[Shaped<'_>], &str); 6] = [
            (&[(&a, &[2, 3])], "has lora_A but no lora_B"),
            (&[(&b, &[3, 2])], "has lora_B but no lora_A"),
            (&[(&a, &[3, 3]), (&b, &[3, 2])], "has shape [3, 3], expected [2, 3]"),
            (&[(&a, &[2, 3]), (&b, &[3, 1])], "has shape [3, 1], expected [3, 2]"),
            (&[(&a, &[2, 3, 1]), (&b, &[3, 2])], "has shape [2, 3, 1]"),
            (&[(&embedding, &[2, 3])], "is no factor of a linear layer's LoRA"),
        ];
        for (tensors, expected) in cases {
            let dir = TestDir::new();
            dir.file(ADAPTER_CONFIG_FILE, config().to_json());
            let zeros = [0; 64];
            let tensors: Vec<_> = tensors
                .iter()
                .map(|&(name, shape)| {
                    let bytes = &zeros[..4 * shape.iter().product::<usize>()];
                    Tensor { name, dtype: DType::F32, shape, bytes }
                })
                .collect();
            write_tensors(&dir.join(ADAPTER_WEIGHTS_FILE), &tensors).unwrap();
            let message = Adapter::load(dir.path()).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn pickled_weights_are_not_read() {
        let dir = TestDir::new();
        dir.file(ADAPTER_CONFIG_FILE, config().to_json());
        assert!(matches!(Adapter::load(dir.path()), Err(Error::Io { .. })));
        dir.file("adapter_model.bin", "");
        assert!(Adapter::load(dir.path()).unwrap_err().to_string().contains("safe_serialization=True"));
    }
}
