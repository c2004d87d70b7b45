//! `data`: what is done to data before training, one file for each command.

mod convert;
mod dedup;
mod label;
mod mix;
mod render;
mod sample;
mod show;
mod source;
mod stats;

use crate::failure::Failure;
use crate::screen::Screen;
use clap::{Args, Subcommand};

/// `prospect data`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect data show rows.jsonl --model models/base
  prospect data stats 'data/*.jsonl' --model models/base
  prospect data convert pairs.json kto.parquet --split 0.95

Files are JSONL, JSON arrays, CSV, TSV (also as .gz or .zst), Parquet, Arrow, folders of them, and what save_to_disk
wrote. Formats are told from the first row, said on the screen, and overruled with --from.")]
pub(crate) struct DataArgs {
    /// What to do.
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand)]
enum DataCommand {
    /// A row as the model will see it: its tokens, where the prompt ends, what is trained, the label.
    Show(show::ShowArgs),
    /// Count rows, labels, lengths, what truncation does, duplicates, prompts that share rows, problems.
    Stats(stats::StatsArgs),
    /// Write any readable data as prompt + completion (+ label), messages or text.
    Convert(convert::ConvertArgs),
    /// Render conversations with a chat template that need not be trusted.
    Render(render::RenderArgs),
    /// Write pairs (chosen, rejected) as a desirable and an undesirable row each.
    Unpair(convert::UnpairArgs),
    /// Mix data sets by weight, each in its order.
    Mix(mix::MixArgs),
    /// Draw rows by their hash, or divide them, so that a row is on the same side in every run.
    Sample(sample::SampleArgs),
    /// Leave out rows that repeat others, exactly or nearly.
    Dedup(dedup::DedupArgs),
    /// Label completions by a rule, or make undesirable rows from desirable ones.
    Label(label::LabelArgs),
}

/// `prospect data`
pub(crate) fn data(args: &DataArgs, screen: &Screen) -> Result<u8, Failure> {
    match &args.command {
        DataCommand::Show(args) => show::show(args, screen),
        DataCommand::Stats(args) => stats::stats(args, screen),
        DataCommand::Convert(args) => convert::convert(args, screen),
        DataCommand::Render(args) => render::render(args),
        DataCommand::Unpair(args) => convert::unpair(args, screen),
        DataCommand::Mix(args) => mix::mix(args, screen),
        DataCommand::Sample(args) => sample::sample(args, screen),
        DataCommand::Dedup(args) => dedup::dedup(args, screen),
        DataCommand::Label(args) => label::label(args, screen),
    }
}
