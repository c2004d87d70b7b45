//! `export`: a model or an adapter in other programs' formats.

mod adapter;

use crate::failure::Failure;
use crate::output;
use crate::progress::Bar;
use crate::score::threads;
use crate::screen::Screen;
use adapter::AdapterArgs;
use clap::{Args, Subcommand};
use gguf::{Event, Exported, Mix};
use serde_json::json;
use std::path::{Path, PathBuf};
use weights::AdapterForm;

/// `prospect export`
#[derive(Args)]
pub(crate) struct ExportArgs {
    #[command(subcommand)]
    format: Format,
}

/// The formats.
#[derive(Subcommand)]
enum Format {
    /// GGUF files for llama.cpp and Ollama, and a Modelfile.
    Gguf(GgufArgs),
    /// An adapter as npz archives of MLX trainers: lora_adapters.npz, and of a run its checkpoints too.
    Npz(AdapterArgs),
    /// An adapter as a folder of mlx-lm's.
    MlxLm(AdapterArgs),
    /// An adapter as a folder of PEFT's, made from any of the others.
    Peft(AdapterArgs),
}

/// `prospect export gguf`
#[derive(Args)]
#[command(after_help = "\
Example:
  prospect export gguf models/merged --type q4_k_m,q8_0 --output gguf

Types: f32 f16 bf16 q8_0 q6_k q5_k_m q5_k_s q5_1 q5_0 q4_k_m q4_k_s q4_1 q4_0.
Each file is read back and its logits compared with the model's before it is called done. An adapter is merged first
(prospect merge).")]
struct GgufArgs {
    /// The model folder.
    #[arg(value_name = "MODEL")]
    model: PathBuf,
    /// Types of the files, one file each.
    #[arg(long = "type", value_name = "LIST", value_delimiter = ',', num_args = 1.., required = true, value_parser = mix)]
    types: Vec<Mix>,
    /// The folder to write to.
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Print one JSON object per file.
    #[arg(long)]
    json: bool,
}

pub(crate) fn mix(name: &str) -> Result<Mix, String> {
    Mix::from_name(name).map_err(|e| e.to_string())
}

/// `prospect export`
pub(crate) fn export(args: &ExportArgs, screen: &Screen) -> Result<u8, Failure> {
    match &args.format {
        Format::Gguf(args) => gguf(args, screen),
        Format::Npz(args) => adapter::export(args, AdapterForm::Npz, screen),
        Format::MlxLm(args) => adapter::export(args, AdapterForm::MlxLm, screen),
        Format::Peft(args) => adapter::export(args, AdapterForm::Peft, screen),
    }
}

fn gguf(args: &GgufArgs, screen: &Screen) -> Result<u8, Failure> {
    let exported = write_gguf(&args.model, None, &args.types, &args.output, screen)?;
    for file in &exported {
        let agreement = &file.agreement;
        if args.json {
            let kinds: serde_json::Map<_, _> =
                file.kinds.iter().map(|(kind, count)| (kind.name().to_owned(), json!(count))).collect();
            output::json(&json!({
                "path": file.path,
                "type": file.mix.name(),
                "bytes": file.bytes,
                "tensors": kinds,
                "largest_logit_difference": agreement.largest,
                "relative_logit_difference": agreement.relative,
                "same_token": agreement.same_token,
            }))?;
        } else {
            output::line(format_args!(
                "{}  {:.1} MB; read back: logits differ by {:.2} % of their size, {:.0} % of most likely tokens are the same",
                file.path.display(),
                file.bytes as f64 / 1e6,
                100.0 * agreement.relative,
                100.0 * agreement.same_token
            ))?;
        }
    }
    Ok(0)
}

/// Writes the files, showing how far it is.
pub(crate) fn write_gguf(
    model: &Path,
    name: Option<&str>,
    types: &[Mix],
    output: &Path,
    screen: &Screen,
) -> Result<Vec<Exported>, Failure> {
    let mut bar: Option<(&str, Bar)> = None;
    Ok(gguf::export(model, name, types, output, threads(), &mut |event| match event {
        Event::Note(text) => screen.note(text),
        Event::Progress { mix, done, total } => {
            if bar.as_ref().is_none_or(|(of, _)| *of != mix) {
                bar = Some((mix, Bar::new(screen, mix)));
            }
            if let Some((_, bar)) = &mut bar {
                bar.set(done, total);
            }
        }
    })?)
}
