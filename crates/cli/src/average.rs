//! `average`: the mean of several models, or of several adapters.

use crate::failure::Failure;
use crate::output;
use crate::screen::Screen;
use clap::Args;
use serde_json::json;
use std::path::PathBuf;

/// `prospect average`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect average runs/a/final runs/b/final --output models/soup
  prospect average runs/kto/checkpoint-100 runs/kto/checkpoint-200 --weights 1,3 --output soup

Models have to have the same tensors, adapters the same modules, rank and alpha. Of adapters the factors are averaged, which is the mean
of what they add only where they began with the same A; merge them first where they did not.")]
pub(crate) struct AverageArgs {
    /// Folders of models, or of PEFT adapters.
    #[arg(value_name = "DIR", required = true, num_args = 2..)]
    folders: Vec<PathBuf>,
    /// Each folder's weight, divided by their sum [default: all the same].
    #[arg(long, value_name = "W,W,...", value_delimiter = ',')]
    weights: Vec<f64>,
    /// The folder to write, new or empty.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Print what was written as a JSON object.
    #[arg(long)]
    json: bool,
}

/// `prospect average`
pub(crate) fn average(args: &AverageArgs, screen: &Screen) -> Result<u8, Failure> {
    let count = args.folders.len();
    let weights = if args.weights.is_empty() { vec![1.0; count] } else { args.weights.clone() };
    if weights.len() != count {
        return Err(Failure::usage(format!(
            "--weights: expected {count} numbers, one for each folder; found {}",
            weights.len()
        )));
    }
    if !weights.iter().all(|w| w.is_finite()) || weights.iter().sum::<f64>() <= 0.0 {
        return Err(Failure::usage("--weights: expected numbers whose sum is above 0"));
    }
    if std::fs::read_dir(&args.output).is_ok_and(|mut entries| entries.next().is_some()) {
        let what = format!("{} holds files already; give a folder that is new or empty", args.output.display());
        return Err(Failure::usage(what));
    }
    let averaged = weights::average(&args.folders, &weights, &args.output).map_err(train::Error::from)?;
    if args.json {
        output::json(&json!({
            "output": averaged.dir, "tensors": averaged.tensors, "weights": weights, "largest_move": averaged.largest_move,
        }))?;
    }
    screen.line(format_args!(
        "averaged {} tensors of {count} folders into {}; no value is further than {:.3e} from the first folder's",
        averaged.tensors,
        averaged.dir.display(),
        averaged.largest_move
    ));
    Ok(0)
}
