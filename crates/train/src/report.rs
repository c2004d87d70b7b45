//! What a run writes for people: `train.log`, plots, the card.

use crate::{Error, Job, Plan};
use config::{Device, Objective, Tuning};
use kernels::Cpu;
use rundir::RunFolder;
use rundir::card::Card;
use std::fmt::Write;
use std::path::Path;

/// The lines that open `train.log` and the screen.
pub fn opening(job: &Job, plan: &Plan) -> Vec<String> {
    let b = &job.blueprint;
    let mut lines = vec![
        format!(
            "model          {} ({}, {:.1} M parameters)",
            job.config.model.path.display(),
            b.model_type,
            plan.parameters as f64 / 1e6
        ),
        format!("trainable      {} ({:.3} %)", plan.trainable, 100.0 * plan.trainable as f64 / plan.parameters as f64),
    ];
    if let Some(a) = &job.adapter {
        let from = a.given.as_ref().map_or("fresh", |_| "given");
        lines.push(format!(
            "adapter        LoRA, {from}, r {}, alpha {}, {} modules",
            a.config.r,
            a.config.lora_alpha,
            a.adapters.modules.len()
        ));
    }
    match &job.config.objective {
        Objective::Sft(_) => {
            lines.push("objective      sft, mean negative log-likelihood per target token".to_owned());
            lines.push(format!(
                "rows           {} ({} tokens, {} targets)",
                job.train.len(),
                job.train.data.report.tokens,
                job.train.data.report.loss_tokens
            ));
        }
        Objective::Kto(kto) => {
            let (d, u) = job.train.data.label_counts();
            lines.push(format!("reference      {}", reference_name(job)));
            lines.push(format!("loss type      {}", crate::loss_of(kto).name()));
            lines.push(format!("beta           {}", kto.beta));
            lines.push(format!("weights        desirable {}, undesirable {}", job.weights.0, job.weights.1));
            lines.push(format!("rows           {} desirable, {} undesirable", d, u));
        }
    }
    if let Some(eval) = &job.eval {
        lines.push(format!("evaluation     {} rows", eval.len()));
    }
    let batch = job.config.batch;
    lines.push(format!("steps          {} of {} x {} rows", job.total_steps, batch.train_rows, batch.accumulation));
    let e = plan.execution;
    let recompute = kept_words(e.keep);
    let sweep = if e.z0_first { "z0 first" } else { "one sweep" };
    let engine = &job.config.engine;
    let products = match (engine.bf16, engine.device) {
        (false, Device::Cuda(_)) if engine.tf32 => ", products in tf32",
        (false, _) => "",
        (true, Device::Cuda(_)) => ", activations in bfloat16",
        (true, _) if Cpu::<f32>::has_mixed() => ", products in bfloat16",
        (true, _) => ", products in float32 (bf16: this processor does not multiply bfloat16)",
    };
    lines.push(format!("execution      packs of {} rows, activations {recompute}, {sweep}{products}", e.budget_rows));
    let available = match plan.available {
        u64::MAX => "no GPU is here to ask for its memory".to_owned(),
        bytes => format!("{} MB may be used", bytes >> 20),
    };
    lines.extend(plan.offload_words(job).map(|words| format!("offloading     {words}")));
    lines.extend(plan.frozen_words(job).map(|words| format!("frozen weights {words}")));
    lines.push(format!("memory         {} MB expected, {available}", plan.total() >> 20));
    lines
}

/// What blocks keep for backward, in words.
pub fn kept_words(keep: model::Keep) -> String {
    match keep {
        model::Keep::All => "kept".to_owned(),
        model::Keep::Mixed { whole, lean } => {
            format!("kept in {whole} blocks, in {lean} without the feed-forward layer's, recomputed in the others")
        }
        model::Keep::Inputs | model::Keep::Nothing => "recomputed".to_owned(),
    }
}

/// How the reference log-probabilities are had.
pub(crate) fn reference_name(job: &Job) -> &'static str {
    let precompute = job.kto().is_some_and(|k| k.precompute_ref_log_probs);
    match (&job.config.tuning, &job.adapter) {
        (Tuning::Full | Tuning::Blocks(_), _) | (_, None) => {
            "log-probabilities of the initial weights, taken before the first step"
        }
        _ if precompute => "log-probabilities of the initial state, taken before the first step",
        (_, Some(a)) if a.starts_at_zero() => "the same model with the adapter off",
        _ => "the adapter as it was given (a frozen copy)",
    }
}

/// Draws the plots of a run's log.
pub(crate) fn plots(run: &RunFolder) -> Result<Vec<String>, Error> {
    let records = rundir::log::read(&run.path().join("log.jsonl"))?;
    let panels = rundir::plot::panels_of_log(&records);
    if panels.is_empty() {
        return Ok(Vec::new());
    }
    let files = rundir::plot::write(&panels, &run.path().join("plots").join("training"))?;
    let relative = |p: &Path| p.strip_prefix(run.path()).unwrap_or(p).display().to_string();
    Ok(files.iter().map(|p| relative(p)).collect())
}

/// Writes the README card.
pub(crate) fn card(run: &RunFolder, job: &Job, metrics: &[(String, f64)], plots: Vec<String>) -> Result<(), Error> {
    let c = &job.config;
    let mut settings = vec![
        ("learning_rate".to_owned(), format!("{:e}", c.optimizer.learning_rate)),
        ("rows per step".to_owned(), format!("{} x {}", c.batch.train_rows, c.batch.accumulation)),
        ("steps".to_owned(), job.total_steps.to_string()),
        ("max_length".to_owned(), c.data.max_length.map_or("none".to_owned(), |m| m.to_string())),
        ("seed".to_owned(), c.engine.seed.to_string()),
    ];
    if let Some(kto) = job.kto() {
        settings.insert(0, ("loss_type".to_owned(), crate::loss_of(kto).name().to_owned()));
        settings.insert(1, ("beta".to_owned(), kto.beta.to_string()));
    }
    if let Some(a) = &job.adapter {
        settings.push(("LoRA".to_owned(), format!("r {}, alpha {}", a.config.r, a.config.lora_alpha)));
    }
    let name = c.logging.run_name.clone().or_else(|| run.path().file_name().map(|n| n.to_string_lossy().into_owned()));
    let card = Card {
        name: name.unwrap_or_else(|| "run".to_owned()),
        base_model: c.model.path.display().to_string(),
        datasets: c.data.train.iter().map(|p| p.display().to_string()).collect(),
        trainer: if job.kto().is_some() { "kto" } else { "sft" }.to_owned(),
        adapter: job.adapter.is_some(),
        settings,
        metrics: metrics.to_vec(),
        plots: plots.into_iter().filter(|p| p.ends_with(".png")).collect(),
    };
    Ok(run.write("README.md", card.to_markdown().as_bytes())?)
}

/// A metrics line as text.
pub(crate) fn line(values: &[(String, f64)]) -> String {
    let mut out = String::new();
    for (name, value) in values {
        let _ = match name.as_str() {
            "step" | "num_tokens" | "n_chosen" | "n_rejected" => write!(out, "{name} {value}  "),
            "learning_rate" => write!(out, "{name} {value:.3e}  "),
            _ => write!(out, "{name} {value:.6}  "),
        };
    }
    out.trim_end().to_owned()
}
