//! What to change when nothing fits, and what it would give.

use super::{Load, Plan, is_on_gpu};
use crate::Job;
use config::{OptimizerName, Recompute, Tuning};
use optim::adamw::Layout;
use weights::{Code, Scheme};

/// Changes of the configuration with the peak that each would bring by itself, those that suffice first; never none.
pub(super) fn changes(job: &Job, load: Load, smallest: &Plan) -> Vec<String> {
    let part = |name: &str| smallest.memory.iter().find(|(part, _)| *part == name).map_or(0, |(_, bytes)| *bytes);
    let (total, available) = (smallest.total(), smallest.available);
    let full = matches!(job.config.tuning, Tuning::Full);
    let mut changes: Vec<(String, u64)> = Vec::new();
    if full && job.config.optimizer.on_disk.is_none() && !is_on_gpu(job) {
        let off = part("optimiser state").saturating_sub(Layout::WINDOW_BYTES as u64);
        changes.push(("offload_optimizer_device: nvme".to_owned(), total - off));
    }
    if full {
        let trained = part("trained weights") + part("gradients") + part("optimiser state");
        let frozen = crate::storage::held_bytes(job);
        // An adapter of rank 8 is about a hundredth of the weights, each with a gradient and two moments.
        let adapter = 16 * smallest.parameters as u64 / 100;
        changes.push(("use_peft: true".to_owned(), total.saturating_sub(trained) + frozen + adapter));
        if job.config.optimizer.name != OptimizerName::Adamw8bit {
            changes.push(("optim: adamw_8bit".to_owned(), total - part("optimiser state") / 4 * 3));
        }
    } else if job.config.model.quantisation.is_none() && !job.checkpoint.is_quantised() {
        let four = crate::storage::held_as(job, Some(Scheme { code: Code::Nf4, nested: true }));
        let saved = crate::storage::held_bytes(job).saturating_sub(four);
        changes.push(("load_in_4bit: true, use_bnb_nested_quant: true".to_owned(), total.saturating_sub(saved)));
    }
    if job.config.engine.recompute == Recompute::Never {
        let load_again = super::Execution { keep: model::Keep::Inputs, ..smallest.execution };
        let plan = Plan::with(job, load, load_again, available);
        changes.push(("gradient_checkpointing: auto".to_owned(), plan.total()));
    }
    if is_on_gpu(job) && job.config.engine.offload == Some(false) && job.config.engine.recompute != Recompute::Never {
        let away = super::Execution { keep: model::Keep::Inputs, offload: true, ..smallest.execution };
        changes.push(("activation_offloading: auto".to_owned(), Plan::with(job, load, away, available).total()));
    }
    // With packs of one family each, what rows take grows with the longest.
    let by_rows = part("saved activations") + part("working activations") + part("head");
    let rest = total - by_rows;
    let longest = load.family.max(1) as u64;
    if by_rows > 0 && rest < available {
        let fitting = (available - rest) * longest / by_rows / 64 * 64;
        if fitting >= 64 {
            changes.push((format!("max_length: {fitting}"), rest + by_rows * fitting / longest));
        }
    }
    changes.retain(|(_, bytes)| *bytes < total);
    changes.sort_by_key(|(_, bytes)| (*bytes > available, *bytes));
    let mut said: Vec<String> = changes
        .into_iter()
        .map(|(change, bytes)| {
            let enough = if bytes <= available { "" } else { ", not enough by itself" };
            format!("{change}: about {} MB{enough}", bytes >> 20)
        })
        .collect();
    said.push(format!("max_memory: {}MB, if the machine has them", (total >> 20) + 1));
    said
}
