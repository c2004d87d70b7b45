//! How much memory a run may use, and what differs where it is a GPU's.

use super::available_memory;
use crate::{Error, GpuOptions, Job};
use config::Device;
use kernels::cuda::{Cuda, scratch_bytes};

/// Whether a job computes on a GPU.
pub(crate) fn is_on_gpu(job: &Job) -> bool {
    matches!(job.config.engine.device, Device::Cuda(_))
}

/// Bytes that a run may use, at most `max_memory`: what the GPU has free but for a tenth, which other programs and sizes that are
/// rounded up have; most of what the machine has. `u64::MAX` for a GPU that is not there to be asked.
pub(super) fn room(job: &Job) -> u64 {
    let (asked, gpu) = (job.config.engine.max_memory, job.gpu_memory);
    match (is_on_gpu(job), asked) {
        (false, _) => asked.unwrap_or_else(|| available_memory() / 20 * 17),
        (true, None) => gpu.map_or(u64::MAX, |free| free / 10 * 9),
        (true, Some(asked)) => asked.min(gpu.unwrap_or(u64::MAX)),
    }
}

/// Bytes of an activation.
pub(super) fn of_activation(job: &Job) -> usize {
    if is_on_gpu(job) && job.config.engine.bf16 { 2 } else { 4 }
}

/// Bytes of unpacked weights and of the head's tiles, on a GPU.
pub(super) fn scratch(job: &Job) -> u64 {
    let (b, act) = (&job.blueprint, of_activation(job));
    let widest = job.checkpoint.infos().filter(|t| t.shape.len() > 1).map(weights::TensorInfo::element_count).max();
    if is_on_gpu(job) { scratch_bytes([widest.unwrap_or(0), b.hidden, b.vocab], act) as u64 } else { 0 }
}

/// Asks the GPU that a job's run would compute on, if it is one, how much memory is free: its plans go by that.
///
/// # Errors
/// There is no such GPU, or something that it needs is missing.
pub fn ask_gpu(job: &mut Job, options: &GpuOptions) -> Result<(), Error> {
    if let Device::Cuda(number) = job.config.engine.device {
        let gpu = Cuda::<f32>::open(&GpuOptions { number, ..options.clone() })?;
        job.gpu_memory = Some(gpu.free_memory()? as u64);
    }
    Ok(())
}
