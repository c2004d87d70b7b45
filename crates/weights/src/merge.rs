//! Merging a LoRA adapter into its base model: W + scale * B A, in f32, rounded once to the stored type.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::adapter::{Adapter, EMBEDDING, HEAD, LoraPair};
use crate::checkpoint::Checkpoint;
use crate::dtype::{DType, TensorInfo};
use crate::error::Error;
use crate::folder::{ConfigChanges, copy_companions, read_config, write_config};
use crate::quantise::Values;
use crate::stacked::{Slice, slice};
use crate::target::leaves;
use crate::write::{Sink, write_model};

/// Elements of a weight that are in memory at once, at least one row.
const BLOCK: usize = 1 << 18;

/// How the merged model is stored.
#[derive(Clone, Debug)]
pub struct MergeOptions {
    /// Type of all float tensors; `None` keeps each as it is in the base model.
    pub dtype: Option<DType>,
    /// Most bytes of values in one file.
    pub max_shard_bytes: usize,
}

impl Default for MergeOptions {
    /// Types as they are, shards of 5 GB.
    fn default() -> MergeOptions {
        MergeOptions { dtype: None, max_shard_bytes: 5_000_000_000 }
    }
}

/// What merging did to one module.
#[derive(Clone, Debug, PartialEq)]
pub struct MergedModule {
    /// Path of the module.
    pub module: String,
    /// Elements of its weight.
    pub elements: usize,
    /// Elements that differ from the base after rounding; 0 where the update was lost to rounding.
    pub changed: usize,
    /// Largest |scale * (B A)|, before rounding.
    pub largest_update: f32,
}

/// A merged model that was written.
#[derive(Clone, Debug)]
pub struct MergeReport {
    /// The new folder; [`Checkpoint::open`] reads it back.
    pub dir: PathBuf,
    /// Bytes of values.
    pub bytes: usize,
    /// The modules that the adapter is on, in its order.
    pub modules: Vec<MergedModule>,
    /// Files copied from the base model.
    pub copied: Vec<String>,
}

/// Writes base plus adapter to the folder `out`, made if it is not there: weights, tokenizer, and config.json last.
///
/// One block of rows is in memory at a time. Fails before anything is written if a module of the adapter is not in the
/// base, has another shape, or is quantised.
pub fn merge(base: &Checkpoint, adapter: &Adapter, out: &Path, options: &MergeOptions) -> Result<MergeReport, Error> {
    let config = read_config(base.dir())?;
    let quantised = base.is_quantised();
    // GPT-OSS: only its experts are in codes, which are copied as they are.
    let mxfp4 = config.get("quantization_config").is_some_and(|v| v["quant_method"] == "mxfp4");
    if let Some(value) = config.get("quantization_config").filter(|v| !v.is_null() && !quantised && !mxfp4) {
        return Err(Error::Unsupported {
            path: base.dir().to_owned(),
            key: "quantization_config".to_owned(),
            value: value.to_string(),
            why: "an adapter is merged into the unquantised base model, or into one in bitsandbytes' codes; give one of these",
        });
    }
    check_modules(base, adapter)?;
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let resolved = |dir: &Path| fs::canonicalize(dir).map_err(Error::io("open", dir));
    if resolved(base.dir())? == resolved(out)? {
        return Err(Error::SameFolder { path: out.to_owned() });
    }

    let mut infos: Vec<TensorInfo> = base.logical_infos()?.iter().map(|info| stored_as(info, options.dtype)).collect();
    let untied = untied_head(base, adapter, &config)?;
    infos.extend(untied.iter().map(|info| stored_as(info, options.dtype)));
    for info in &mut infos {
        if let Some(whole) = adapter.whole.iter().find(|t| t.name == info.name) {
            info.shape.clone_from(&whole.shape);
        }
    }
    let stacked: Vec<(Slice, &LoraPair)> = adapter
        .pairs
        .iter()
        .filter(|pair| !base.contains(&format!("{}.weight", pair.module)))
        .filter_map(|pair| Some((slice(&pair.module)?, pair)))
        .collect();
    let mut merged = Vec::with_capacity(adapter.pairs.len());
    let bytes = write_model(out, &infos, options.max_shard_bytes, |info, sink| {
        if let Some(whole) = adapter.whole.iter().find(|t| t.name == info.name) {
            return sink.put(&whole.values);
        }
        let weight = base.values(if untied.is_some() && info.name == HEAD { EMBEDDING } else { &info.name })?;
        let on_experts: Vec<_> = stacked.iter().filter(|(slice, _)| slice.tensor == info.name).collect();
        if !on_experts.is_empty() {
            merged.extend(merge_stack(&weight, &on_experts, info, sink)?);
            weight.release();
            return Ok(());
        }
        match (info.name.strip_suffix(".weight").and_then(|module| adapter.get(module)), &weight) {
            (Some(pair), _) => merged.push(merge_weight(&weight, pair, info, sink)?),
            (None, Values::Plain(plain)) if plain.dtype() == info.dtype => sink.put_bytes(plain.bytes())?,
            (None, _) => copy_converted(&weight, sink)?,
        }
        weight.release();
        Ok::<(), Error>(())
    })?;
    merged.sort_by(|a, b| a.module.cmp(&b.module));
    let copied = copy_companions(base.dir(), out)?;
    let mut set: Vec<(String, Value)> =
        untied.iter().map(|_| ("tie_word_embeddings".to_owned(), false.into())).collect();
    set.extend(adapter.vocabulary().map(|rows| ("vocab_size".to_owned(), rows.into())));
    write_config(base.dir(), out, &ConfigChanges { dtype: options.dtype, unquantized: quantised, set })?;
    Ok(MergeReport { dir: out.to_owned(), bytes, modules: merged, copied })
}

/// The head that a model gets whose embedding was its head, and of which an adapter trained one of the two.
fn untied_head(base: &Checkpoint, adapter: &Adapter, config: &Map<String, Value>) -> Result<Option<TensorInfo>, Error> {
    let trained = adapter.whole.iter().any(|t| t.name == HEAD || t.name == EMBEDDING);
    let tied = config.get("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(!base.contains(HEAD));
    if !trained || !tied || base.contains(HEAD) {
        return Ok(None);
    }
    Ok(Some(TensorInfo { name: HEAD.to_owned(), ..base.get(EMBEDDING)?.info().clone() }))
}

/// The tensor as it will be stored. The balancing bias of DeepSeek-V3's router stays what it is, as models keep it in f32.
fn stored_as(info: &TensorInfo, dtype: Option<DType>) -> TensorInfo {
    let keeps = !info.dtype.is_float() || info.name.ends_with(".e_score_correction_bias");
    let dtype = dtype.filter(|_| !keeps).unwrap_or(info.dtype);
    TensorInfo { dtype, ..info.clone() }
}

fn check_modules(base: &Checkpoint, adapter: &Adapter) -> Result<(), Error> {
    for whole in adapter.whole.iter().filter(|t| t.name != HEAD || base.contains(HEAD)) {
        let stored = base.get(&whole.name)?;
        let more = whole.shape.first() > stored.shape().first() && whole.shape.get(1) == stored.shape().get(1);
        // New rows of the vocabulary come in both, or the merged model would have logits without embeddings.
        let grown = more
            && [EMBEDDING, HEAD].contains(&whole.name.as_str())
            && adapter.vocabulary() == whole.shape.first().copied();
        if !grown {
            stored.expect_shape(&whole.shape)?;
        }
    }
    for pair in &adapter.pairs {
        let name = format!("{}.weight", pair.module);
        let shape = [pair.outputs(), pair.inputs()];
        if let Some(slice) = slice(&pair.module).filter(|s| !base.contains(&name) && s.is_in(base)) {
            check_slice(base, &slice, shape)?;
            continue;
        }
        if !base.contains(&name) {
            let matrices = base.infos().filter(|i| i.shape.len() == 2).filter_map(|i| i.name.strip_suffix(".weight"));
            let modules: BTreeSet<String> = leaves(&matrices.collect::<Vec<_>>()).into_iter().collect();
            return Err(Error::NoTarget { target: pair.module.clone(), modules: modules.into_iter().collect() });
        }
        match base.values(&name)? {
            Values::Quantised(weight) if weight.shape != shape => {
                let (path, expected) = (base.dir().to_owned(), shape.to_vec());
                return Err(Error::Shape { path, name, expected, found: weight.shape });
            }
            Values::Quantised(_) => {}
            Values::Plain(weight) => {
                weight.expect_shape(&shape)?;
                if !weight.dtype().is_float() {
                    return Err(weight.wrong_type("F32, BF16, F16 or F64: merge into the unquantised base model"));
                }
            }
        }
    }
    Ok(())
}

/// A stack whose matrices hold a module of that shape.
fn check_slice(base: &Checkpoint, slice: &Slice, shape: [usize; 2]) -> Result<(), Error> {
    if base.contains(&slice.codes()) {
        return Err(Error::Unsupported {
            path: base.dir().to_owned(),
            key: "quantization_config".to_owned(),
            value: "mxfp4".to_owned(),
            why: "its experts stay in codes, which have no room for what an adapter adds to them; use that adapter without \
                  merging it, or give a base in bf16",
        });
    }
    let stack = base.get(&slice.tensor)?;
    let experts = stack.shape().first().copied().unwrap_or(0).max(slice.expert + 1);
    let [rows, cols] = slice.matrix(shape);
    stack.expect_shape(&[experts, rows, cols])?;
    if !stack.dtype().is_float() {
        return Err(stack.wrong_type("F32, BF16, F16 or F64: merge into the unquantised base model"));
    }
    Ok(())
}

/// Puts a stack of experts with what adapters add to some of them, one expert after the other.
fn merge_stack(
    stack: &Values,
    adapters: &[&(Slice, &LoraPair<'_>)],
    info: &TensorInfo,
    sink: &mut Sink<'_>,
) -> Result<Vec<MergedModule>, Error> {
    let (experts, size) = (stack.shape()[0], stack.shape()[1..].iter().product::<usize>());
    let limit = largest(info.dtype);
    let (mut merged, mut matrix) = (Vec::new(), vec![0.0f32; size]);
    for e in 0..experts {
        stack.read_range(e * size, &mut matrix)?;
        for (slice, pair) in adapters.iter().filter(|(slice, _)| slice.expert == e) {
            merged.push(merge_slice(&mut matrix, slice, pair, info.dtype));
        }
        if !matrix.iter().all(|w| w.abs() < limit) {
            return Err(Error::NonFinite { name: info.name.clone(), dtype: info.dtype });
        }
        sink.put(&matrix)?;
    }
    Ok(merged)
}

/// Adds to an expert's matrix what an adapter on some of it adds.
fn merge_slice(matrix: &mut [f32], slice: &Slice, pair: &LoraPair<'_>, stored: DType) -> MergedModule {
    let shape @ [outputs, inputs] = [pair.outputs(), pair.inputs()];
    let mut report = MergedModule::new(pair);
    let (mut row, mut update) = (vec![0.0; inputs], vec![0.0; inputs]);
    for (o, b_r) in (0..outputs).zip(pair.b.chunks_exact(pair.rank)) {
        let (first, step) = slice.row(o, shape);
        let places = || (first..).step_by(step).take(inputs);
        row.iter_mut().zip(places()).for_each(|(w, at)| *w = matrix[at]);
        let before = row.clone();
        report.add(pair, o, b_r, &mut row, &mut update);
        report.changed += count_changed(&before, &row, stored);
        row.iter().zip(places()).for_each(|(w, at)| matrix[at] = *w);
    }
    report
}

/// From here up a value rounds to infinity.
fn largest(stored: DType) -> f32 {
    if stored == DType::F16 { 65520.0 } else { f32::INFINITY }
}

impl MergedModule {
    /// Nothing changed yet.
    fn new(pair: &LoraPair<'_>) -> MergedModule {
        let elements = pair.outputs() * pair.inputs();
        MergedModule { module: pair.module.clone(), elements, changed: 0, largest_update: 0.0 }
    }

    /// Adds what `pair` adds to row `o`, and takes note of it.
    fn add(&mut self, pair: &LoraPair<'_>, o: usize, b_r: &[f32], row: &mut [f32], update: &mut [f32]) {
        add_row_update(row, b_r, &pair.a, pair.scale as f32, update);
        if let Some(magnitude) = &pair.magnitude {
            bring_to_length(row, magnitude[o], update);
        }
        self.largest_update = update.iter().fold(self.largest_update, |m, u| m.max(u.abs()));
    }
}

/// Puts W + scale * B A, one block of rows after the other.
fn merge_weight(
    weight: &Values,
    pair: &LoraPair<'_>,
    info: &TensorInfo,
    sink: &mut Sink<'_>,
) -> Result<MergedModule, Error> {
    let (r, stored) = (pair.rank, info.dtype);
    let (outputs, inputs) = (pair.outputs(), pair.inputs());
    let (mut report, limit) = (MergedModule::new(pair), largest(stored));
    let rows_at_once = (BLOCK / inputs.max(1)).clamp(1, outputs.max(1));
    let mut block = vec![0.0; rows_at_once * inputs];
    let mut before = block.clone();
    let mut update = vec![0.0; inputs];
    for first in (0..outputs).step_by(rows_at_once) {
        let rows = rows_at_once.min(outputs - first);
        let (block, before) = (&mut block[..rows * inputs], &mut before[..rows * inputs]);
        weight.read_range(first * inputs, block)?;
        before.copy_from_slice(block);
        let factors = pair.b[first * r..].chunks_exact(r);
        for (o, (row, b_r)) in (first..).zip(block.chunks_exact_mut(inputs.max(1)).zip(factors)) {
            report.add(pair, o, b_r, row, &mut update);
        }
        if !block.iter().all(|w| w.abs() < limit) {
            return Err(Error::NonFinite { name: info.name.clone(), dtype: stored });
        }
        report.changed += count_changed(before, block, stored);
        sink.put(block)?;
    }
    Ok(report)
}

/// `row[i] += scale * sum_r b[r] * a[r, i]`; leaves the products with `scale` in `update`.
fn add_row_update(row: &mut [f32], b_r: &[f32], a_ri: &[f32], scale: f32, update: &mut [f32]) {
    update.fill(0.0);
    for (&b, a_i) in b_r.iter().zip(a_ri.chunks_exact(row.len().max(1))) {
        for (u, &a) in update.iter_mut().zip(a_i) {
            *u += b * a;
        }
    }
    for (w, u) in row.iter_mut().zip(update) {
        *u *= scale;
        *w += *u;
    }
}

/// Scales a row to a length; leaves what that and the update before it added in `update`.
fn bring_to_length(row: &mut [f32], length: f32, update: &mut [f32]) {
    let own = row.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt() as f32;
    let factor = length / own;
    for (w, u) in row.iter_mut().zip(update) {
        let scaled = *w * factor;
        *u += scaled - *w;
        *w = scaled;
    }
}

/// How many values differ once both are rounded to the stored type.
fn count_changed(before: &[f32], after: &[f32], stored: DType) -> usize {
    use crate::convert::Element;
    fn count<T: Element>(before: &[f32], after: &[f32]) -> usize {
        before.iter().zip(after).filter(|&(&b, &a)| T::from_f32(b) != T::from_f32(a)).count()
    }
    match stored {
        DType::BF16 => count::<half::bf16>(before, after),
        DType::F16 => count::<half::f16>(before, after),
        _ => count::<f32>(before, after),
    }
}

/// Puts all values, a block at a time, in the type that is stored.
fn copy_converted(weight: &Values, sink: &mut Sink<'_>) -> Result<(), Error> {
    let count = weight.shape().iter().product();
    let mut block = vec![0.0f64; BLOCK.min(count)];
    for start in (0..count).step_by(BLOCK) {
        let block = &mut block[..BLOCK.min(count - start)];
        weight.read_range(start, block)?;
        sink.put(block)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::adapter::WholeTensor;
    use crate::peft::AdapterConfig;
    use crate::target::Targets;
    use crate::testdir::TestDir;
    use half::bf16;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/weights").join(name)
    }

    fn adapter(module: &str, r: usize, a: Vec<f32>, b: Vec<f32>) -> Adapter {
        let config = AdapterConfig::new(r, Targets::Names(vec!["q_proj".to_owned()]));
        let pair =
            LoraPair { module: module.to_owned(), rank: r, scale: 1.0, a: a.into(), b: b.into(), magnitude: None };
        Adapter { config, pairs: vec![pair], whole: Vec::new() }
    }

    /// A folder with config.json and the matrix `q_proj.weight` of shape [2, 3], and `norm.weight`.
    fn base(dtype: DType) -> (TestDir, Checkpoint) {
        let dir = TestDir::new();
        dir.file("config.json", r#"{"torch_dtype": "x"}"#);
        let infos = [TensorInfo::new("q_proj.weight", dtype, [2, 3]), TensorInfo::new("norm.weight", dtype, [1])];
        write_model(dir.path(), &infos, 1000, |info, sink| {
            if info.name == "norm.weight" { sink.put(&[0.1f32]) } else { sink.put(&[1.0f32, 2.0, 3.0, 4.0, 5.0, 6.0]) }
        })
        .unwrap();
        let checkpoint = Checkpoint::open(dir.path()).unwrap();
        (dir, checkpoint)
    }

    #[test]
    fn merging_equals_pefts_own_merge() {
        let out = TestDir::new();
        let base = Checkpoint::open(&fixture("base")).unwrap();
        let adapter = Adapter::load(&fixture("adapter")).unwrap();
        let report = merge(&base, &adapter, out.path(), &MergeOptions::default()).unwrap();
        let ours = Checkpoint::open(&report.dir).unwrap();
        let theirs = Checkpoint::open(&fixture("merged")).unwrap();
        assert!(ours.infos().eq(theirs.infos()));
        let mut differing = 0;
        for name in ours.names() {
            let (ours, theirs) =
                (ours.get(name).unwrap().to_f32().unwrap(), theirs.get(name).unwrap().to_f32().unwrap());
            // The order of a sum of four products is all that may differ.
            assert!(ours.iter().zip(&theirs).all(|(o, t)| (o - t).abs() <= 1e-7), "{name}");
            differing += usize::from(base.get(name).unwrap().to_f32().unwrap() != ours);
        }
        assert_eq!(differing, 6);
        assert_eq!(
            report.modules.iter().map(|m| &m.module).collect::<Vec<_>>(),
            adapter.pairs.iter().map(|p| &p.module).collect::<Vec<_>>()
        );
        assert!(report.modules.iter().all(|m| m.changed > m.elements / 2 && m.largest_update > 0.01), "{report:?}");
        assert_eq!(
            std::fs::read(out.join("config.json")).unwrap(),
            std::fs::read(fixture("base/config.json")).unwrap()
        );
    }

    #[test]
    fn the_sum_is_made_in_f32_and_rounded_once() {
        let (_dir, base) = base(DType::BF16);
        let out = TestDir::new();
        // Just above half of the step of bf16 at 1: rounding the update itself would make it the half, and 1 stay 1.
        let update = 0.5 / 128.0 * (1.0 + 1.0 / 1024.0);
        let adapter = adapter("q_proj", 1, vec![update, 0.0, 0.0], vec![1.0, 0.0]);
        let report = merge(&base, &adapter, out.path(), &MergeOptions::default()).unwrap();
        let merged = Checkpoint::open(out.path()).unwrap();
        let weight = merged.get("q_proj.weight").unwrap();
        assert_eq!(weight.dtype(), DType::BF16);
        assert_eq!(weight.to_f32().unwrap(), [1.0078125, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(merged.get("norm.weight").unwrap().view::<bf16>().unwrap(), [bf16::from_f32(0.1)]);
        let expected = MergedModule { module: "q_proj".into(), elements: 6, changed: 1, largest_update: update };
        assert_eq!(report.modules, [expected]);
    }

    #[test]
    fn an_update_that_rounding_loses_is_counted_as_unchanged() {
        let (_dir, base) = base(DType::BF16);
        let out = TestDir::new();
        let adapter = adapter("q_proj", 1, vec![1e-4; 3], vec![1.0; 2]);
        let report = merge(&base, &adapter, out.path(), &MergeOptions::default()).unwrap();
        assert_eq!(report.modules[0].changed, 0);
        // Stored wider, nothing is lost, and config.json says so.
        let options = MergeOptions { dtype: Some(DType::F32), ..MergeOptions::default() };
        let report = merge(&base, &adapter, out.path(), &options).unwrap();
        assert_eq!(report.modules[0].changed, 6);
        assert_eq!(read_config(out.path()).unwrap()["torch_dtype"], "float32");
        let merged = Checkpoint::open(out.path()).unwrap();
        assert_eq!(merged.get("norm.weight").unwrap().to_f32().unwrap(), [bf16::from_f32(0.1).to_f32()]);
    }

    #[test]
    fn blocks_of_rows_make_no_difference() {
        // More than one block of rows, with a last one that is not full.
        let (outputs, inputs) = (3, BLOCK / 2 + 1);
        let dir = TestDir::new();
        dir.file("config.json", "{}");
        let values: Vec<f32> = (0..outputs * inputs).map(|i| (i % 1013) as f32).collect();
        let infos = [TensorInfo::new("q_proj.weight", DType::F32, [outputs, inputs])];
        write_model(dir.path(), &infos, 1, |_, sink| sink.put(&values)).unwrap();
        let a: Vec<f32> = (0..inputs).map(|i| (i % 7) as f32).collect();
        let adapter = adapter("q_proj", 1, a.clone(), vec![1.0, 2.0, 3.0]);
        let out = TestDir::new();
        merge(&Checkpoint::open(dir.path()).unwrap(), &adapter, out.path(), &MergeOptions::default()).unwrap();
        let merged = Checkpoint::open(out.path()).unwrap().get("q_proj.weight").unwrap();
        let merged = merged.view::<f32>().unwrap();
        for (o, row) in merged.chunks(inputs).enumerate() {
            for (i, &w) in row.iter().enumerate() {
                assert_eq!(w, values[o * inputs + i] + (o + 1) as f32 * a[i], "row {o} column {i}");
            }
        }
    }

    #[test]
    fn an_adapter_of_another_model_is_refused_before_anything_is_written() {
        let (_dir, base) = base(DType::F32);
        let dir = TestDir::new();
        let out = dir.join("out");
        let absent = adapter("k_proj", 1, vec![0.0; 3], vec![0.0; 2]);
        let message = merge(&base, &absent, &out, &MergeOptions::default()).unwrap_err().to_string();
        assert!(message.contains("\"k_proj\"") && message.contains("which has: q_proj"), "{message}");
        let narrow = adapter("q_proj", 1, vec![0.0; 2], vec![0.0; 2]);
        let message = merge(&base, &narrow, &out, &MergeOptions::default()).unwrap_err().to_string();
        assert!(message.contains("has shape [2, 3], expected [2, 2]"), "{message}");
        assert!(!out.exists());
    }

    #[test]
    fn a_result_that_is_not_finite_is_refused() {
        let (_dir, base) = base(DType::F16);
        let out = TestDir::new();
        let adapter = adapter("q_proj", 1, vec![65520.0; 3], vec![1.0, 0.0]);
        let error = merge(&base, &adapter, out.path(), &MergeOptions::default()).unwrap_err();
        assert!(matches!(error, Error::NonFinite { .. }), "{error}");
        assert_eq!(error.exit_code(), 5);
        assert_eq!(std::fs::read_dir(out.path()).unwrap().count(), 0);
        let options = MergeOptions { dtype: Some(DType::F32), ..MergeOptions::default() };
        assert!(merge(&base, &adapter, out.path(), &options).is_ok());
    }

    #[test]
    fn the_base_model_is_never_the_output() {
        let (dir, base) = base(DType::F32);
        let adapter = adapter("q_proj", 1, vec![0.0; 3], vec![0.0; 2]);
        let error = merge(&base, &adapter, &dir.path().join("."), &MergeOptions::default()).unwrap_err();
        assert!(matches!(error, Error::SameFolder { .. }), "{error}");
    }

    #[test]
    fn a_magnitude_is_the_length_that_rows_get() {
        let (_dir, base) = base(DType::F32);
        let out = TestDir::new();
        let mut adapter = adapter("q_proj", 1, vec![1.0, 0.0, 0.0], vec![2.0, 0.0]);
        adapter.pairs[0].magnitude = Some(vec![1.0, 2.0 * 77f32.sqrt()].into());
        merge(&base, &adapter, out.path(), &MergeOptions::default()).unwrap();
        let merged = Checkpoint::open(out.path()).unwrap().get("q_proj.weight").unwrap().to_f32().unwrap();
        let norm = 22f32.sqrt();
        let expected = [3.0 / norm, 2.0 / norm, 3.0 / norm, 8.0, 10.0, 12.0];
        assert!(merged.iter().zip(expected).all(|(m, e)| (m - e).abs() < 2e-6), "{merged:?}");
    }

    #[test]
    fn tensors_that_were_trained_beside_an_adapter_take_the_place_of_the_bases() {
        let (_dir, base) = base(DType::F32);
        let out = TestDir::new();
        let mut adapter = adapter("q_proj", 1, vec![0.0; 3], vec![0.0; 2]);
        let whole = |shape: Vec<usize>| WholeTensor { name: "norm.weight".into(), shape, values: vec![7.0].into() };
        adapter.whole = vec![whole(vec![1])];
        merge(&base, &adapter, out.path(), &MergeOptions::default()).unwrap();
        assert_eq!(Checkpoint::open(out.path()).unwrap().get("norm.weight").unwrap().to_f32().unwrap(), [7.0]);
        adapter.whole = vec![whole(vec![2])];
        assert!(merge(&base, &adapter, &out.join("other"), &MergeOptions::default()).is_err());
    }

    #[test]
    fn experts_of_a_stack_are_merged_where_they_lie() {
        // Two experts of width 2 on 3 inputs: gate above up as [e, out, in], and the same numbers turned as [e, in, out].
        let values: Vec<f32> = (0..24).map(|i| i as f32).collect();
        let dir = TestDir::new();
        dir.file("config.json", "{}");
        let infos = [
            TensorInfo::new("mlp.experts.gate_up_proj", DType::F32, [2, 4, 3]),
            TensorInfo::new("turned.experts.gate_up_proj", DType::F32, [2, 3, 4]),
        ];
        write_model(dir.path(), &infos, 1000, |_, sink| sink.put(&values)).unwrap();
        let base = Checkpoint::open(dir.path()).unwrap();
        let merged = |module: &str, tensor: &str, b: Vec<f32>| {
            let out = TestDir::new();
            let given = adapter(module, 1, vec![100.0, 200.0, 300.0], b);
            let report = merge(&base, &given, out.path(), &MergeOptions::default()).unwrap();
            let merged = Checkpoint::open(out.path()).unwrap().get(tensor).unwrap().to_f32().unwrap();
            (report.modules[0].changed, merged.iter().zip(&values).map(|(m, v)| m - v).collect::<Vec<f32>>())
        };
        let mut expected = vec![0.0; 24];
        // Expert 1, second half, its second row.
        expected[12 + 9..].copy_from_slice(&[100.0, 200.0, 300.0]);
        let (changed, update) = merged("mlp.experts.1.up_proj", "mlp.experts.gate_up_proj", vec![0.0, 1.0]);
        assert_eq!((changed, update), (3, expected));
        let mut expected = vec![0.0; 24];
        // Expert 0, output 2: a column.
        (0..3).for_each(|i| expected[4 * i + 2] = 100.0 * (i + 1) as f32);
        let (changed, update) =
            merged("turned.experts.gate_up_projs.0", "turned.experts.gate_up_proj", vec![0.0, 0.0, 1.0, 0.0]);
        assert_eq!((changed, update), (3, expected));
        let mut expected = vec![0.0; 24];
        expected[..3].copy_from_slice(&[100.0, 200.0, 300.0]);
        let (changed, update) = merged("block_sparse_moe.experts.0.w1", "mlp.experts.gate_up_proj", vec![1.0, 0.0]);
        assert_eq!((changed, update), (3, expected));
        // An expert that the stack does not have.
        let absent = adapter("mlp.experts.2.up_proj", 1, vec![0.0; 3], vec![0.0; 2]);
        let message = merge(&base, &absent, &dir.join("out"), &MergeOptions::default()).unwrap_err().to_string();
        assert!(message.contains("has shape [2, 4, 3], expected [3, 4, 3]"), "{message}");
    }

    #[test]
    fn a_quantised_base_is_refused() {
        let (dir, base) = base(DType::F32);
        dir.file("config.json", r#"{"quantization_config": {"quant_method": "bitsandbytes"}}"#);
        let adapter = adapter("q_proj", 1, vec![0.0; 3], vec![0.0; 2]);
        let out = TestDir::new();
        let message = merge(&base, &adapter, out.path(), &MergeOptions::default()).unwrap_err().to_string();
        assert!(message.contains("unquantised base model"), "{message}");
    }
}
