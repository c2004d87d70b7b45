//! How a run holds its frozen weights, and what they take so.

use crate::optimizer::holds_halves;
use crate::plan::{block_of, is_on_gpu};
use crate::{Error, Job};
use config::{QuantCode, Quantisation};
use kernels::Backend;
use model::{Lending, Storage, Unfilled};
use weights::{Code, DType, Scheme, TensorInfo};

/// How frozen weights are held.
pub(crate) fn storage_of(job: &Job) -> Storage {
    let model = &job.config.model;
    let scheme = model.quantisation.as_ref().map(scheme_of);
    let skip = model.quantisation.as_ref().map_or_else(Vec::new, |q| q.skip.clone());
    Storage { bf16: model.dtype == config::Dtype::Bfloat16, halves: holds_halves(job), scheme, skip, lending: None }
}

fn scheme_of(asked: &Quantisation) -> Scheme {
    let code = match asked.code {
        QuantCode::Nf4 => Code::Nf4,
        QuantCode::Fp4 => Code::Fp4,
        QuantCode::Int8 => Code::Int8,
    };
    Scheme { code, nested: asked.nested }
}

/// The model of a job, its frozen weights held as the job says and those that take memory of their own dealt to ranks as `lending` says,
/// without the values that it trains.
pub(crate) fn unfilled<B: Backend>(job: &Job, backend: &B, lending: Option<Lending>) -> Result<Unfilled<B>, Error> {
    let (blueprint, storage) = (job.blueprint.clone(), Storage { lending, ..storage_of(job) });
    Ok(Unfilled::new(&storage, backend, &job.checkpoint, blueprint, job.tuning(), job.positions)?)
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

/// Bytes that the system maps with the row of an embedding that is read: what lies around it, where that is in memory already.
const AROUND: u64 = 64 << 10;
/// Tokens after which hardly a new one comes.
const LOOKED_AT: usize = 1 << 20;

/// Bytes of a frozen embedding, used where its file is mapped, that the run never touches: rows of tokens which it does not have. One
/// that is the head as well is read whole.
pub(crate) fn unread_bytes(job: &Job) -> u64 {
    let embedding = job.checkpoint.infos().find(|t| t.name.ends_with("embed_tokens.weight"));
    let (Some(embedding), Some(a)) = (embedding, &job.adapter) else { return 0 };
    let mapped = held(&storage_of(job), embedding) == embedding.byte_len();
    if job.blueprint.tied || !mapped || a.adapters.trains(&embedding.name) {
        return 0;
    }
    let (epoch, mut seen, mut tokens) = (job.order.epoch(0), vec![false; job.blueprint.vocab], 0);
    for step in 0..job.total_steps.min(job.order.steps_per_epoch()) {
        for text in epoch.step(step).rows().iter().flat_map(|&unit| job.train.texts(unit)) {
            tokens += text.prompt.len() + text.tokens.len();
            text.prompt.iter().chain(&text.tokens).for_each(|&token| seen[token as usize] = true);
        }
        if tokens > LOOKED_AT {
            break;
        }
    }
    let touched = seen.iter().filter(|seen| **seen).count() as u64 * AROUND;
    (embedding.byte_len() as u64).saturating_sub(touched)
}

/// Bytes of the frozen matrices of each unit (embedding, blocks, head) that ranks have in shards at stage 3: those that take memory of
/// their own, which on a GPU are all.
pub(crate) fn lent_bytes(job: &Job) -> Vec<u64> {
    let (storage, last) = (storage_of(job), job.blueprint.layers.len() + 1);
    let mut units = vec![0; last + 1];
    for info in job.checkpoint.infos().filter(|info| info.shape.len() > 1 && !trains(job, &info.name)) {
        let bytes = held(&storage, info);
        // Experts in four bits lie in two tensors, which are joined.
        let joined = ["_blocks", "_scales"].iter().any(|end| info.name.ends_with(end));
        if bytes != info.byte_len() || joined || is_on_gpu(job) {
            let head = if info.name == "lm_head.weight" { last } else { 0 };
            units[block_of(&info.name).map_or(head, |block| 1 + block)] += bytes as u64;
        }
    }
    units
}

/// Whether a tensor of the checkpoint is trained itself.
fn trains(job: &Job, name: &str) -> bool {
    match job.tuning() {
        model::Tuning::Full => true,
        model::Tuning::Blocks { first, past } => block_of(name).is_some_and(|block| (first..past).contains(&block)),
        model::Tuning::Lora(adapters) => adapters.trains(name),
        model::Tuning::Frozen => false,
    }
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
