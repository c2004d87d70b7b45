//! A model folder with its linear layers quantised, in the layout that transformers and bitsandbytes load.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use kernels::{Codes, Scales};
use serde_json::{Value, json};

use super::read::STATE;
use super::scales::NESTED_BLOCK;
use super::{Code, Quantised, Scheme};
use crate::checkpoint::Checkpoint;
use crate::dtype::{DType, TensorInfo};
use crate::error::Error;
use crate::folder::{ConfigChanges, copy_companions, read_config, write_config};
use crate::write::{Sink, write_model};

/// Bytes of a state's JSON, blanks at its end included: as long before its numbers are known.
const STATE_BYTES: usize = 256;
/// Most bytes of values in one file.
const SHARD_BYTES: usize = 5_000_000_000;

/// What was written.
#[derive(Clone, Debug, Default)]
pub struct QuantiseReport {
    /// The new folder.
    pub dir: PathBuf,
    /// Weights in codes.
    pub quantised: usize,
    /// Their elements.
    pub elements: usize,
    /// Tensors that stay as they are.
    pub kept: usize,
    /// Bytes of values before.
    pub bytes_before: usize,
    /// Bytes of values after.
    pub bytes: usize,
    /// Files copied from the model.
    pub copied: Vec<String>,
}

/// Whether the linear layer `path` is one that is quantised: in a block, no router, and not among `skip`, which are names of
/// layers or parts of the model.
pub fn is_quantisable(path: &str, skip: &[String]) -> bool {
    let named = |part: &String| format!(".{path}.").contains(&format!(".{part}."));
    path.starts_with("model.layers.") && !is_router(path) && !skip.iter().any(named)
}

/// Whether a layer says which experts a row goes to.
fn is_router(path: &str) -> bool {
    path.ends_with(".gate") || path.ends_with(".router")
}

/// Writes the model `from` to the folder `out`, made if it is not there, with the linear layers of its blocks quantised: the
/// layout of bitsandbytes. Embedding, head, routers, norms, stacked experts and the layers of `skip` stay as they are stored.
/// `observe` is told tensors written and tensors in all.
///
/// A tensor is quantised when it is written; no more than one is in memory. Errors: as for [`Quantised::new`]; a model that is
/// quantised already or has nothing to quantise.
pub fn quantise_folder(
    from: &Checkpoint,
    out: &Path,
    scheme: Scheme,
    skip: &[String],
    observe: &mut dyn FnMut(usize, usize),
) -> Result<QuantiseReport, Error> {
    let config = read_config(from.dir())?;
    if let Some(value) = config.get("quantization_config").filter(|v| !v.is_null()) {
        let why = "a model that is quantised already is not quantised again; give the one that it was made from";
        let key = "quantization_config".to_owned();
        return Err(Error::Unsupported { path: from.dir().to_owned(), key, value: value.to_string(), why });
    }
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let resolved = |dir: &Path| fs::canonicalize(dir).map_err(Error::io("open", dir));
    if resolved(from.dir())? == resolved(out)? {
        return Err(Error::SameFolder { path: out.to_owned() });
    }
    let chosen = |info: &TensorInfo| {
        let layer = info.name.strip_suffix(".weight").filter(|_| info.shape.len() == 2 && info.dtype.is_float());
        layer.is_some_and(|layer| is_quantisable(layer, skip))
    };
    let mut report = QuantiseReport { dir: out.to_owned(), ..Default::default() };
    let mut infos = Vec::new();
    for info in from.infos() {
        report.bytes_before += info.byte_len();
        if chosen(info) {
            (report.quantised, report.elements) = (report.quantised + 1, report.elements + info.element_count());
            infos.extend(parts(info, scheme));
        } else {
            report.kept += 1;
            infos.push(info.clone());
        }
    }
    if report.quantised == 0 {
        return Err(Error::quantised(from.dir(), "model.layers", "no linear layer to quantise is there"));
    }
    let (mut small, mut written) = (Small { from, scheme, made: BTreeMap::new() }, 0);
    report.bytes = write_model(out, &infos, SHARD_BYTES, |info, sink| {
        small.put(info, sink)?;
        written += 1;
        observe(written, infos.len());
        Ok::<(), Error>(())
    })?;
    report.copied = copy_companions(from.dir(), out)?;
    let routers = from.names().filter_map(|name| name.strip_suffix(".weight")).filter(|path| is_router(path));
    let mut kept: Vec<String> = std::iter::once("lm_head".to_owned()).chain(skip.iter().cloned()).collect();
    kept.extend(routers.filter_map(|path| path.splitn(4, '.').nth(3)).map(str::to_owned));
    kept.sort();
    kept.dedup();
    let set = vec![("quantization_config".to_owned(), quantisation(from, scheme, &kept))];
    write_config(from.dir(), out, &ConfigChanges { set, ..ConfigChanges::default() })?;
    Ok(report)
}

/// The tensors that a quantised weight is stored as.
fn parts(info: &TensorInfo, scheme: Scheme) -> Vec<TensorInfo> {
    let (name, n) = (&info.name, info.element_count());
    let part = |end: &str, dtype, shape: Vec<usize>| TensorInfo::new(format!("{name}{end}"), dtype, shape);
    if scheme.code == Code::Int8 {
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        let scales = TensorInfo::new(format!("{stem}.SCB"), DType::F32, [info.shape[0]]);
        return vec![part("", DType::I8, info.shape.clone()), scales, part("_format", DType::U8, Vec::new())];
    }
    let blocks = n.div_ceil(Scheme::BLOCK);
    let mut parts = vec![
        part("", DType::U8, vec![n.div_ceil(2), 1]),
        part(".absmax", if scheme.nested { DType::U8 } else { DType::F32 }, vec![blocks]),
        part(".quant_map", DType::F32, vec![16]),
        part(&format!("{STATE}{}", scheme.code.name()), DType::U8, vec![STATE_BYTES]),
    ];
    if scheme.nested {
        parts.push(part(".nested_absmax", DType::F32, vec![blocks.div_ceil(NESTED_BLOCK)]));
        parts.push(part(".nested_quant_map", DType::F32, vec![256]));
    }
    parts
}

/// Puts tensors one after the other. Scales are written before codes, as wider types come first: they are kept, the codes are
/// made again when their turn comes.
struct Small<'a> {
    from: &'a Checkpoint,
    scheme: Scheme,
    /// By the weight's name: what its codes stand for, and the type it had.
    made: BTreeMap<String, (Codes, DType)>,
}

impl Small<'_> {
    fn put(&mut self, info: &TensorInfo, sink: &mut Sink<'_>) -> Result<(), Error> {
        let name = &info.name;
        if self.from.contains(name) && self.from.get(name)?.dtype() == info.dtype {
            let tensor = self.from.get(name)?;
            sink.put_bytes(tensor.bytes())?;
            tensor.release();
            return Ok(());
        }
        if self.from.contains(name) {
            return sink.put_bytes(self.quantised(name)?.bytes());
        }
        let (weight, part) = match (name.strip_suffix(".SCB"), name.strip_suffix("_format")) {
            (Some(stem), _) => (format!("{stem}.weight"), "SCB"),
            (_, Some(weight)) => return self.quantised(weight).and_then(|_| sink.put_bytes(&[0])),
            _ => {
                let at = name.find(".weight.").expect("a part of a weight") + ".weight".len();
                (name[..at].to_owned(), &name[at + 1..])
            }
        };
        if !self.made.contains_key(&weight) {
            self.quantised(&weight)?;
        }
        let (codes, dtype) = &self.made[&weight];
        match (part, &codes.scales) {
            ("SCB" | "absmax", Scales::Plain(scales)) => sink.put(scales),
            ("absmax", Scales::Nested { codes, .. }) => sink.put_bytes(codes),
            ("nested_absmax", Scales::Nested { scales, .. }) => sink.put(scales),
            ("nested_quant_map", Scales::Nested { table, .. }) => sink.put(&table[..]),
            ("quant_map", _) => sink.put(&codes.table),
            _ => {
                let shape = self.from.get(&weight)?.shape().to_vec();
                sink.put_bytes(&state(self.scheme, codes, *dtype, &shape))
            }
        }
    }

    fn quantised(&mut self, name: &str) -> Result<Quantised, Error> {
        let tensor = self.from.get(name)?;
        let quantised = Quantised::new(&tensor, self.scheme)?;
        tensor.release();
        self.made.insert(name.to_owned(), (quantised.codes().clone(), quantised.dtype));
        Ok(quantised)
    }
}

/// What the library says of a tensor in JSON, its keys in their order, and blanks.
fn state(scheme: Scheme, codes: &Codes, dtype: DType, shape: &[usize]) -> Vec<u8> {
    let mut state = json!({
        "quant_type": scheme.code.name(),
        "blocksize": codes.block,
        "dtype": dtype.torch_name(),
        "shape": shape,
    });
    if let Scales::Nested { block, offset, .. } = &codes.scales {
        state["nested_blocksize"] = (*block).into();
        state["nested_dtype"] = "float32".into();
        state["nested_offset"] = f64::from(*offset).into();
    }
    let mut bytes = state.to_string().into_bytes();
    bytes.resize(STATE_BYTES, b' ');
    bytes
}

/// `quantization_config` as transformers writes it.
fn quantisation(from: &Checkpoint, scheme: Scheme, kept: &[String]) -> Value {
    let (four, nested) = (scheme.code != Code::Int8, scheme.nested && scheme.code != Code::Int8);
    let compute = from.infos().find(|info| info.shape.len() == 2).and_then(|info| info.dtype.torch_name());
    json!({
        "_load_in_4bit": four,
        "_load_in_8bit": !four,
        "bnb_4bit_compute_dtype": compute.unwrap_or("float32"),
        "bnb_4bit_quant_storage": "uint8",
        "bnb_4bit_quant_type": if four { scheme.code.name() } else { "fp4" },
        "bnb_4bit_use_double_quant": nested,
        "llm_int8_enable_fp32_cpu_offload": false,
        "llm_int8_has_fp16_weight": false,
        "llm_int8_skip_modules": kept,
        "llm_int8_threshold": 6.0,
        "load_in_4bit": four,
        "load_in_8bit": !four,
        "quant_method": "bitsandbytes",
    })
}
