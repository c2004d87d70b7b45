//! How a run holds its frozen weights, and what they take so.

use crate::Job;
use crate::optimizer::holds_halves;
use config::{QuantCode, Quantisation};
use model::Storage;
use weights::{Code, DType, Scheme, TensorInfo};

/// How frozen weights are held.
pub(crate) fn storage_of(job: &Job) -> Storage {
    let model = &job.config.model;
    let scheme = model.quantisation.as_ref().map(scheme_of);
    let skip = model.quantisation.as_ref().map_or_else(Vec::new, |q| q.skip.clone());
    Storage { bf16: model.dtype == config::Dtype::Bfloat16, halves: holds_halves(job), scheme, skip }
}

fn scheme_of(asked: &Quantisation) -> Scheme {
    let code = match asked.code {
        QuantCode::Nf4 => Code::Nf4,
        QuantCode::Fp4 => Code::Fp4,
        QuantCode::Int8 => Code::Int8,
    };
    Scheme { code, nested: asked.nested }
}

/// Bytes of all weights of a job's model as they are held when frozen.
pub(crate) fn held_bytes(job: &Job) -> u64 {
    held_as(job, storage_of(job).scheme)
}

/// The same, with linear layers held in codes of a scheme.
pub(crate) fn held_as(job: &Job, scheme: Option<Scheme>) -> u64 {
    let storage = Storage { scheme, ..storage_of(job) };
    job.checkpoint.infos().map(|info| held(&storage, info) as u64).sum()
}

/// Bytes of weights that an adapter run copies, as it trains them in full: they are not held beside the copy.
pub(crate) fn copied_bytes(job: &Job) -> u64 {
    let Some(a) = &job.adapter else { return 0 };
    let storage = storage_of(job);
    // A tied embedding whose head is another matrix now goes on being read where it lies.
    let read = |name: &str| job.blueprint.tied && name.contains("embed_tokens") && !a.adapters.trains("lm_head.weight");
    let copied = job.checkpoint.infos().filter(|t| a.adapters.trains(&t.name) && !read(&t.name));
    copied.map(|info| held(&storage, info) as u64).sum()
}

fn held(storage: &Storage, info: &TensorInfo) -> usize {
    let (bytes, matrix) = (info.byte_len(), info.shape.len() > 1 && info.dtype.is_float());
    match storage.scheme_of(&info.name).filter(|_| matrix) {
        Some(scheme) => {
            let cols = info.shape.last().copied().unwrap_or(1).max(1);
            scheme.bytes(info.element_count() / cols, cols)
        }
        None if storage.bf16 && matrix && info.dtype != DType::BF16 => 2 * info.element_count(),
        None => bytes,
    }
}

/// What a user should know about the way frozen weights are held.
pub(crate) fn notes(job: &Job) -> Vec<String> {
    let held_already = job.checkpoint.is_quantised();
    let asked = job.config.model.quantisation.is_some();
    let mut notes = Vec::new();
    if held_already {
        notes.push(format!(
            "{} holds weights in bitsandbytes' codes, which they stay{}",
            job.config.model.path.display(),
            if asked { "; load_in_4bit and load_in_8bit speak of its other layers" } else { "" }
        ));
    }
    notes
}
