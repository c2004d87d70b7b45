//! The mean of models of one shape (a "model soup"), or of adapters of one rank, tensor by tensor.

use std::fs;
use std::path::{Path, PathBuf};

use crate::adapter::{Adapter, LoraPair, WholeTensor, save_adapter};
use crate::checkpoint::Checkpoint;
use crate::dtype::{DType, TensorInfo};
use crate::error::Error;
use crate::folder::{ConfigChanges, copy_companions, write_config};
use crate::peft::{ADAPTER_CONFIG_FILE, ADAPTER_WEIGHTS_FILE, AdapterConfig};
use crate::safetensors::Mapped;
use crate::write::{Sink, write_model};

/// Elements of a tensor that are in memory at once.
const BLOCK: usize = 1 << 18;
/// Most bytes of values in one file.
const SHARD: usize = 5_000_000_000;

/// An average that was written.
#[derive(Clone, Debug)]
pub struct Averaged {
    /// The new folder.
    pub dir: PathBuf,
    /// Tensors averaged.
    pub tensors: usize,
    /// Largest distance of a value from that of the first folder, before rounding; infinite for values that are not finite.
    pub largest_move: f64,
}

/// Writes the mean of `folders` to `out`, made if it is not there: models with the weights, names and types of the first, or
/// adapters whose configurations agree. `shares` are each folder's weight; they are divided by their sum.
///
/// Sums are taken in f64 and rounded once. Of models one block of values is in memory at a time. Tensors that hold no floats must be
/// equal. Fails before anything is written if names or shapes differ.
///
/// Panics if there are no folders, or other shares than folders.
pub fn average(folders: &[PathBuf], shares: &[f64], out: &Path) -> Result<Averaged, Error> {
    assert!(!folders.is_empty() && folders.len() == shares.len(), "{} and {}", folders.len(), shares.len());
    let sum: f64 = shares.iter().sum();
    let shares: Vec<f64> = shares.iter().map(|share| share / sum).collect();
    fs::create_dir_all(out).map_err(Error::io("create", out))?;
    let resolved = |dir: &Path| fs::canonicalize(dir).map_err(Error::io("open", dir));
    for folder in folders {
        if resolved(folder)? == resolved(out)? {
            return Err(Error::SameFolder { path: out.to_owned() });
        }
    }
    if folders[0].join(ADAPTER_CONFIG_FILE).is_file() {
        adapters(folders, &shares, out)
    } else {
        models(folders, &shares, out)
    }
}

fn models(folders: &[PathBuf], shares: &[f64], out: &Path) -> Result<Averaged, Error> {
    let models = folders.iter().map(|dir| Checkpoint::open(dir)).collect::<Result<Vec<_>, _>>()?;
    let infos: Vec<TensorInfo> = models[0].infos().cloned().collect();
    for other in &models[1..] {
        infos.iter().try_for_each(|info| other.get_shaped(&info.name, &info.shape).map(drop))?;
        other.names().try_for_each(|name| models[0].get(name).map(drop))?;
    }
    let mut largest_move = 0.0;
    write_model(out, &infos, SHARD, |info, sink| {
        let parts = models.iter().map(|model| model.get(&info.name)).collect::<Result<Vec<_>, _>>()?;
        largest_move = f64::max(largest_move, tensor(&parts, shares, sink)?);
        parts.iter().for_each(Mapped::release);
        Ok::<(), Error>(())
    })?;
    copy_companions(&folders[0], out)?;
    write_config(&folders[0], out, &ConfigChanges::default())?;
    Ok(Averaged { dir: out.to_owned(), tensors: infos.len(), largest_move })
}

/// Puts the mean of one tensor; how far it moved the first.
fn tensor(parts: &[Mapped], shares: &[f64], sink: &mut Sink<'_>) -> Result<f64, Error> {
    let first = &parts[0];
    if !first.dtype().is_float() {
        if let Some(other) = parts.iter().find(|part| part.bytes() != first.bytes()) {
            return Err(other.wrong_type("floats, or the values of the first model"));
        }
        sink.put_bytes(first.bytes())?;
        return Ok(0.0);
    }
    let count = first.info().element_count();
    let (mut sum, mut block) = (vec![0.0f64; BLOCK.min(count)], vec![0.0f64; BLOCK.min(count)]);
    let mut largest = 0.0;
    for start in (0..count).step_by(BLOCK) {
        let length = BLOCK.min(count - start);
        let (sum, block) = (&mut sum[..length], &mut block[..length]);
        sum.fill(0.0);
        for (part, share) in parts.iter().zip(shares) {
            part.read_range(start, block)?;
            sum.iter_mut().zip(&*block).for_each(|(sum, x)| *sum += share * x);
        }
        first.read_range(start, block)?;
        largest = f64::max(largest, furthest(sum, block));
        sink.put(sum)?;
    }
    Ok(largest)
}

fn furthest(a: &[f64], b: &[f64]) -> f64 {
    let distance = |(a, b): (&f64, &f64)| if (a - b).is_finite() { (a - b).abs() } else { f64::INFINITY };
    a.iter().zip(b).map(distance).fold(0.0, f64::max)
}

fn adapters(folders: &[PathBuf], shares: &[f64], out: &Path) -> Result<Averaged, Error> {
    let all = folders.iter().map(|dir| Adapter::load(dir)).collect::<Result<Vec<_>, _>>()?;
    let first = &all[0];
    for (folder, other) in folders.iter().zip(&all).skip(1) {
        agree(folder, &first.config, &other.config)?;
        let modules = |adapter: &Adapter| adapter.pairs.iter().map(|pair| pair.module.clone()).collect::<Vec<_>>();
        let shapes = |adapter: &Adapter| adapter.pairs.iter().map(|p| (p.a.len(), p.b.len())).collect::<Vec<_>>();
        let whole = |adapter: &Adapter| {
            let tensors = adapter.whole.iter();
            tensors.map(|t| (t.name.clone(), t.shape.clone())).collect::<Vec<_>>()
        };
        let alike = modules(first) == modules(other) && shapes(first) == shapes(other) && whole(first) == whole(other);
        if !alike {
            let what = format!(
                "its modules or their widths are not those of {}; average adapters of one shape",
                folders[0].display()
            );
            return Err(Error::adapter(&folder.join(ADAPTER_WEIGHTS_FILE), what));
        }
    }
    let mut largest_move = 0.0;
    let mut mean = |of: &dyn Fn(&Adapter) -> &[f32]| -> Vec<f32> {
        let mut sum = vec![0.0f64; of(first).len()];
        for (adapter, share) in all.iter().zip(shares) {
            sum.iter_mut().zip(of(adapter)).for_each(|(sum, x)| *sum += share * f64::from(*x));
        }
        let start: Vec<f64> = of(first).iter().map(|x| f64::from(*x)).collect();
        largest_move = f64::max(largest_move, furthest(&sum, &start));
        sum.into_iter().map(|x| x as f32).collect()
    };
    let pairs: Vec<LoraPair<'static>> = (0..first.pairs.len())
        .map(|n| LoraPair {
            module: first.pairs[n].module.clone(),
            rank: first.pairs[n].rank,
            scale: first.pairs[n].scale,
            a: mean(&|adapter| &adapter.pairs[n].a).into(),
            b: mean(&|adapter| &adapter.pairs[n].b).into(),
            magnitude: first
                .config
                .use_dora
                .then(|| mean(&|adapter| adapter.pairs[n].magnitude.as_deref().unwrap_or_default()).into()),
        })
        .collect();
    let whole: Vec<WholeTensor<'static>> = (0..first.whole.len())
        .map(|n| WholeTensor { values: mean(&|adapter| &adapter.whole[n].values).into(), ..first.whole[n].clone() })
        .collect();
    copy_companions(&folders[0], out)?;
    save_adapter(out, &first.config, &pairs, &whole, DType::F32)?;
    let tensors = pairs.len() * if first.config.use_dora { 3 } else { 2 } + whole.len();
    Ok(Averaged { dir: out.to_owned(), tensors, largest_move })
}

/// Whether two adapters scale what they add alike.
fn agree(folder: &Path, first: &AdapterConfig, other: &AdapterConfig) -> Result<(), Error> {
    let of = |config: &AdapterConfig| (config.r, config.lora_alpha, config.use_rslora);
    let patterns = |config: &AdapterConfig| (config.rank_pattern.clone(), config.alpha_pattern.clone());
    if patterns(first) != patterns(other) || first.use_dora != other.use_dora {
        let what = "rank_pattern, alpha_pattern or use_dora: expected what the first adapter has";
        return Err(Error::adapter(&folder.join(crate::peft::ADAPTER_CONFIG_FILE), what));
    }
    if of(first) == of(other) {
        return Ok(());
    }
    let say = |(r, alpha, rslora)| format!("r {r}, lora_alpha {alpha}, use_rslora {rslora}");
    let what = format!("{}; expected {} as in the first adapter", say(of(other)), say(of(first)));
    Err(Error::adapter(&folder.join(ADAPTER_CONFIG_FILE), what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testdir::TestDir;
    use crate::{Tensor, write_tensors};

    fn model(dir: &Path, values: &[f32], more: &str) {
        fs::create_dir_all(dir).unwrap();
        let bytes: Vec<u8> = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        let (ids, name) = (7i64.to_le_bytes(), format!("w{more}"));
        let tensors = [
            Tensor { name: &name, dtype: DType::F32, shape: &[2, 2], bytes: &bytes },
            Tensor { name: "ids", dtype: DType::I64, shape: &[1], bytes: &ids },
        ];
        write_tensors(&dir.join("model.safetensors"), &tensors).unwrap();
        fs::write(dir.join("config.json"), "{}").unwrap();
    }

    #[test]
    fn the_mean_of_models_is_weighted_and_keeps_what_is_no_float() {
        let test = TestDir::new();
        let (a, b, out) = (test.path().join("a"), test.path().join("b"), test.path().join("out"));
        model(&a, &[1.0, 2.0, 3.0, 4.0], "");
        model(&b, &[5.0, 2.0, -1.0, 0.0], "");
        let averaged = average(&[a.clone(), b.clone()], &[3.0, 1.0], &out).unwrap();
        assert_eq!((averaged.tensors, averaged.largest_move), (2, 1.0));
        let written = Checkpoint::open(&out).unwrap();
        assert_eq!(written.get("w").unwrap().to_f32().unwrap(), [2.0, 2.0, 2.0, 3.0]);
        assert_eq!(written.get("ids").unwrap().bytes(), 7i64.to_le_bytes());
        assert!(matches!(average(&[a.clone(), b], &[1.0, 1.0], &a), Err(Error::SameFolder { .. })));
        let c = test.path().join("c");
        model(&c, &[0.0; 4], "2");
        assert!(matches!(average(&[a, c], &[1.0, 1.0], &out), Err(Error::MissingTensor { .. })));
    }

    #[test]
    fn the_mean_of_adapters_is_that_of_their_factors_and_scales_must_agree() {
        let test = TestDir::new();
        let save = |name: &str, values: [f32; 4], alpha: f64| {
            let dir = test.path().join(name);
            let mut config = AdapterConfig::new(1, crate::Targets::Names(vec!["q".to_owned()]));
            config.lora_alpha = alpha;
            let pair = LoraPair {
                module: "layers.0.q".to_owned(),
                rank: 1,
                scale: alpha,
                a: values[..2].to_vec().into(),
                b: values[2..].to_vec().into(),
                magnitude: None,
            };
            save_adapter(&dir, &config, &[pair], &[], DType::F32).unwrap();
            dir
        };
        let (a, b) = (save("a", [1.0, 2.0, 3.0, 4.0], 2.0), save("b", [3.0, 2.0, 1.0, 0.0], 2.0));
        let out = test.path().join("out");
        average(&[a.clone(), b], &[1.0, 1.0], &out).unwrap();
        let mean = Adapter::load(&out).unwrap();
        assert_eq!(
            (mean.config.lora_alpha, &*mean.pairs[0].a, &*mean.pairs[0].b),
            (2.0, &[2.0, 2.0][..], &[2.0, 2.0][..])
        );
        let other = save("other", [0.0; 4], 4.0);
        let error = average(&[a, other], &[1.0, 1.0], &out).unwrap_err().to_string();
        assert!(error.contains("lora_alpha 4") && error.contains("lora_alpha 2"), "{error}");
    }
}
