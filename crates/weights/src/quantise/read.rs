//! Codes and scales out of a checkpoint in bitsandbytes' layout, none of it believed.
//!
//! Four bits: beside `X.weight` (codes, `[n / 2, 1]`) lie `X.weight.absmax`, `X.weight.quant_map`,
//! `X.weight.quant_state.bitsandbytes__nf4` (JSON) and, with nested scales, `X.weight.nested_absmax` and
//! `X.weight.nested_quant_map`. Eight bits: beside `X.weight` (I8) lie `X.SCB` and `X.weight_format`.

use std::sync::Arc;

use kernels::{Codes, Scales, StoredDtype};
use serde::Deserialize;

use super::{Code, InFile, Quantised, Values};
use crate::checkpoint::Checkpoint;
use crate::dtype::{DType, TensorInfo};
use crate::error::Error;
use crate::safetensors::Mapped;

/// The name of a state up to the code's.
pub(super) const STATE: &str = ".quant_state.bitsandbytes__";
/// The longest state that is parsed, bytes; the library's own have two hundred.
const MAX_STATE: usize = 1 << 16;

/// What the library writes of a tensor beside numbers.
#[derive(Deserialize)]
struct State {
    quant_type: String,
    blocksize: usize,
    dtype: String,
    shape: Vec<usize>,
    nested_blocksize: Option<usize>,
    nested_offset: Option<f64>,
}

/// Endings of the tensors beside a quantised one.
const COMPANIONS: [&str; 5] =
    [".weight.absmax", ".weight.quant_map", ".weight.nested_absmax", ".weight.nested_quant_map", ".weight_format"];

impl Checkpoint {
    /// Whether a tensor is only there for a quantised one's sake.
    fn is_companion(&self, name: &str) -> bool {
        let weight = |stem: &str| self.contains(&format!("{stem}.weight"));
        name.contains(&format!(".weight{STATE}"))
            || COMPANIONS.iter().any(|end| name.strip_suffix(end).is_some_and(weight))
            || name.strip_suffix(".SCB").is_some_and(weight)
    }

    /// Whether weights are codes in bitsandbytes' layout.
    pub fn is_quantised(&self) -> bool {
        self.names().any(|name| name.ends_with(".weight.quant_map") || name.ends_with(".SCB"))
    }

    /// The tensors as they mean it: name, float type and shape of each, quantised ones included.
    pub fn logical_infos(&self) -> Result<Vec<TensorInfo>, Error> {
        let own = self.infos().filter(|info| !self.is_companion(&info.name));
        let logical = |info: &TensorInfo| match self.quantised(&info.name)? {
            None => Ok(info.clone()),
            Some(quantised) => Ok(TensorInfo::new(&info.name, quantised.dtype, quantised.shape)),
        };
        own.map(logical).collect()
    }

    /// A tensor's values, however they are stored.
    pub fn values(&self, name: &str) -> Result<Values, Error> {
        match self.quantised(name)? {
            Some(quantised) => Ok(Values::Quantised(quantised)),
            None => Ok(Values::Plain(self.get(name)?)),
        }
    }

    /// The tensor of that name, when it is quantised in bitsandbytes' layout. Codes stay where they are mapped.
    ///
    /// Errors: what of it is missing, has another length than the others say, or is not known.
    pub fn quantised(&self, name: &str) -> Result<Option<Quantised>, Error> {
        let state = |code: Code| format!("{name}{STATE}{}", code.name());
        let stem = name.strip_suffix(".weight").unwrap_or(name);
        for code in [Code::Nf4, Code::Fp4] {
            if self.contains(&state(code)) {
                return four_bits(self, name, code, &self.get(&state(code))?).map(Some);
            }
        }
        if self.contains(&format!("{stem}.SCB")) {
            return eight_bits(self, name, stem).map(Some);
        }
        let prefix = format!("{name}{STATE}");
        if let Some(other) = self.names().find(|other| other.starts_with(&prefix)) {
            let what = format!("the quantisation {:?} is not known; expected nf4 or fp4", &other[prefix.len()..]);
            return Err(self.odd(name, what));
        }
        if self.contains(&format!("{name}.absmax")) {
            return Err(self.odd(name, format!("it has an absmax, but no {name}{STATE}nf4 or fp4")));
        }
        Ok(None)
    }

    fn odd(&self, name: &str, what: impl Into<String>) -> Error {
        Error::quantised(self.dir(), name, what)
    }

    /// Floats of a companion, of which there must be `len`, all finite.
    fn floats(&self, name: &str, len: usize) -> Result<Vec<f32>, Error> {
        let tensor = self.get(name)?;
        if tensor.info().element_count() != len {
            return Err(self.odd(name, format!("expected {len} values, found shape {:?}", tensor.shape())));
        }
        let values = tensor.to_f32()?;
        match values.iter().all(|x| x.is_finite()) {
            true => Ok(values),
            false => Err(self.odd(name, "a value is not finite")),
        }
    }
}

/// A block that the library knows.
fn block_size(found: usize) -> bool {
    found.is_power_of_two() && (32..=4096).contains(&found)
}

fn four_bits(from: &Checkpoint, name: &str, code: Code, state: &Mapped) -> Result<Quantised, Error> {
    let odd = |what: String| from.odd(name, what);
    let state = parsed(from, name, code, state)?;
    let elements = state.shape.iter().try_fold(1usize, |n, extent| n.checked_mul(*extent));
    let n = elements.ok_or_else(|| odd(format!("shape {:?} overflows", state.shape)))?;
    let tensor = from.get(name)?;
    let (found, size) = (tensor.bytes().len(), tensor.dtype().bits() / 8);
    if size == 0 || found != n.div_ceil(2).next_multiple_of(size) {
        let shape = &state.shape;
        return Err(odd(format!("expected {} bytes of codes for shape {shape:?}, found {found}", n.div_ceil(2))));
    }
    let blocks = n.div_ceil(state.blocksize);
    let absmax = format!("{name}.absmax");
    let scales = match (state.nested_blocksize, state.nested_offset) {
        (None, None) => Scales::Plain(from.floats(&absmax, blocks)?),
        (Some(block), Some(offset)) if block_size(block) && (offset as f32).is_finite() => {
            let codes = from.get_shaped(&absmax, &[blocks])?;
            if codes.dtype() != DType::U8 {
                return Err(codes.wrong_type("U8: codes of nested scales"));
            }
            let table = from.floats(&format!("{name}.nested_quant_map"), 256)?;
            let scales = from.floats(&format!("{name}.nested_absmax"), blocks.div_ceil(block))?;
            let table = table.try_into().unwrap_or_else(|_| unreachable!("256 values"));
            Scales::Nested { codes: codes.bytes().to_vec(), table, block, scales, offset: offset as f32 }
        }
        (block, offset) => {
            return Err(odd(format!(
                "nested scales need a block of 32 to 4096 and a finite offset, found {block:?} and {offset:?}"
            )));
        }
    };
    let table = from.floats(&format!("{name}.quant_map"), 16)?;
    if !(0..blocks).all(|i| scales.at(i).is_finite()) {
        return Err(odd("a scale is not finite".to_owned()));
    }
    let (dtype, rounded) = match state.dtype.as_str() {
        "bfloat16" => (DType::BF16, StoredDtype::Bf16),
        "float16" => (DType::F16, StoredDtype::F16),
        "float32" => (DType::F32, StoredDtype::F32),
        other => return Err(odd(format!("dtype {other:?}: expected float32, bfloat16 or float16"))),
    };
    let table = table.try_into().unwrap_or_else(|_| unreachable!("16 values"));
    let codes = Arc::new(Codes { table, block: state.blocksize, scales, rounded });
    let bytes = Arc::new(InFile(tensor, 0..n.div_ceil(2)));
    Ok(Quantised { bytes, codes, code, shape: state.shape, dtype })
}

fn parsed(from: &Checkpoint, name: &str, code: Code, state: &Mapped) -> Result<State, Error> {
    let bytes = state.bytes();
    if state.dtype() != DType::U8 || bytes.len() > MAX_STATE {
        return Err(from.odd(state.name(), format!("expected at most {MAX_STATE} bytes of JSON as U8")));
    }
    let state: State =
        serde_json::from_slice(bytes).map_err(|e| from.odd(state.name(), format!("not the JSON of a state: {e}")))?;
    if state.quant_type != code.name() {
        let what = format!("its state says quant_type {:?}, its name {}", state.quant_type, code.name());
        return Err(from.odd(name, what));
    }
    if !block_size(state.blocksize) {
        let what = format!("blocksize {}: expected a power of two from 32 to 4096", state.blocksize);
        return Err(from.odd(name, what));
    }
    Ok(state)
}

fn eight_bits(from: &Checkpoint, name: &str, stem: &str) -> Result<Quantised, Error> {
    let tensor = from.get(name)?;
    if tensor.dtype() != DType::I8 {
        return Err(tensor.wrong_type("I8: codes of eight bits"));
    }
    let shape = tensor.shape().to_vec();
    let [rows, cols] = shape[..] else { return Err(from.odd(name, format!("expected a matrix, found {shape:?}"))) };
    if let Ok(format) = from.get(&format!("{stem}.weight_format"))
        && format.bytes() != [0]
    {
        let what = format!("weight_format {:?}: expected 0, rows after one another", format.bytes());
        return Err(from.odd(name, what));
    }
    let scales = Scales::Plain(from.floats(&format!("{stem}.SCB"), rows)?);
    let codes = Codes { table: [0.0; 16], block: cols.max(1), scales, rounded: StoredDtype::F32 };
    let n = tensor.bytes().len();
    let bytes = Arc::new(InFile(tensor, 0..n));
    Ok(Quantised { bytes, codes: Arc::new(codes), code: Code::Int8, shape, dtype: DType::F16 })
}
