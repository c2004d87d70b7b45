//! `export npz`, `export mlx-lm` and `export peft`: an adapter from any form to any other.

use crate::failure::Failure;
use crate::output;
use crate::screen::Screen;
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use weights::{Adapter, AdapterForm};

/// `prospect export npz`, `mlx-lm`, `peft`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect export npz runs/kto --output mlx        lora_adapters.npz, best_checkpoint.npz, checkpoint_step_N.npz
  prospect export mlx-lm runs/kto/final --output adapters
  prospect export peft mlx/lora_adapters.npz --alpha 16 --output adapter

Every file is read back and compared with the adapter, value by value. An npz archive does not say what its factors are
multiplied by: a JSON file of the same name beside it does (rank, alpha, scale).")]
pub(crate) struct AdapterArgs {
    /// A run, or an adapter: a folder of PEFT's or mlx-lm's, or an npz archive.
    #[arg(value_name = "RUN|ADAPTER")]
    adapter: PathBuf,
    /// The folder to write, new or empty.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// The alpha of an npz archive that has nothing beside it.
    #[arg(long, value_name = "A")]
    alpha: Option<f64>,
    /// Print one JSON object per adapter.
    #[arg(long)]
    json: bool,
}

/// Writes the adapter, and of a run its checkpoints where the form has names for them.
pub(super) fn export(args: &AdapterArgs, form: AdapterForm, screen: &Screen) -> Result<u8, Failure> {
    if args.alpha.is_some_and(|alpha| !alpha.is_finite()) {
        return Err(Failure::usage("--alpha: expected a finite number"));
    }
    if std::fs::read_dir(&args.output).is_ok_and(|mut entries| entries.next().is_some()) {
        let what = format!("{} holds files already; give a folder that is new or empty", args.output.display());
        return Err(Failure::usage(what));
    }
    for (from, name) in sources(&args.adapter, form)? {
        let (found, adapter) = weights::read_adapter(&from, args.alpha).map_err(train::Error::from)?;
        let to = name.map_or_else(|| args.output.clone(), |name| args.output.join(name));
        let files = weights::export_adapter(&adapter, form, &to, layers(&adapter)).map_err(train::Error::from)?;
        let (modules, first) = (adapter.pairs.len(), &adapter.pairs[0]);
        if args.json {
            output::json(&json!({
                "from": from, "form": found.name(), "to": form.name(), "files": files, "modules": modules,
                "rank": first.rank, "alpha": first.scale * first.rank as f64, "scale": first.scale,
            }))?;
        }
        screen.line(format_args!(
            "{} ({}) as {}: {modules} modules of rank {}, multiplied by {}; read back, every value equal",
            from.display(),
            found.name(),
            to.display(),
            first.rank,
            first.scale
        ));
    }
    Ok(0)
}

/// What is exported, and under which names in the output folder: an adapter, or what a run made.
fn sources(path: &Path, form: AdapterForm) -> Result<Vec<(PathBuf, Option<String>)>, Failure> {
    let npz = form == AdapterForm::Npz;
    let main = npz.then(|| "lora_adapters.npz".to_owned());
    let last = path.join("final");
    if AdapterForm::of(path).is_some() || !last.is_dir() {
        return Ok(vec![(path.to_owned(), main)]);
    }
    if AdapterForm::of(&last).is_none() {
        let what = format!("{} holds a whole model, no adapter; `export gguf` writes models", last.display());
        return Err(Failure::usage(what));
    }
    let mut sources = vec![(last, main)];
    if npz {
        let best = best_step(path)?;
        for step in rundir::checkpoint::steps(path)? {
            let from = path.join(format!("checkpoint-{step}"));
            if best == Some(step) {
                sources.push((from.clone(), Some("best_checkpoint.npz".to_owned())));
            }
            sources.push((from, Some(format!("checkpoint_step_{step}.npz"))));
        }
    }
    Ok(sources)
}

/// The step whose evaluation was the best, as the newest checkpoint says.
fn best_step(run: &Path) -> Result<Option<u64>, Failure> {
    let (newest, _) = rundir::checkpoint::newest_verified(run)?;
    Ok(newest.and_then(|found| found.manifest.meta["best"][1].as_u64()))
}

/// How many layers the base model has, where it is on this machine.
fn layers(adapter: &Adapter) -> Option<usize> {
    let base = adapter.config.base_model_name_or_path.as_ref()?;
    let config = weights::read_config(Path::new(base)).ok()?;
    config.get("num_hidden_layers")?.as_u64().map(|n| n as usize)
}
