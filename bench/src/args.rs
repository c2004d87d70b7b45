//! What is to be measured, and on what.

use crate::device::Named;
use clap::{Parser, ValueEnum};
use std::path::PathBuf;

/// Measure prospect: operators, whole runs, steps by part and against their floor, other systems beside it.
///
/// Without --operators, --runs, --steps, --startup, --lengths or --generation everything is measured that the inputs allow.
#[derive(Parser)]
#[command(
    name = "bench",
    after_help = "\
Examples:
  bench --operators
  bench --model small-105m=models/small-105m --kto kto.jsonl --sft sft.jsonl
  bench --model small-105m=models/small-105m --kto kto.jsonl --runs --tuning lora --peer .venv/bin/python
  bench --device cuda --operators --peer .venv/bin/python

Results go to bench/runs/DATE-CPU/ as result.json and README.md; progress goes to stderr."
)]
pub(crate) struct Arguments {
    /// Time every operator: on the CPU for the shapes of small-105m and qwen2.5-0.5b, on a GPU for those of qwen2.5-7b.
    #[arg(long)]
    pub(crate) operators: bool,
    /// Run `prospect train` as users do: rows per second of the whole process, peak memory, the plan's figure.
    #[arg(long)]
    pub(crate) runs: bool,
    /// Time steps by part, and compare them with the operations that the mathematics needs.
    #[arg(long)]
    pub(crate) steps: bool,
    /// Time `prospect --help` and `prospect plan`.
    #[arg(long)]
    pub(crate) startup: bool,
    /// Time per token of long rows against short ones.
    #[arg(long)]
    pub(crate) lengths: bool,
    /// Answer prompts as `prospect generate` does, one and eight at a time: tokens per second.
    #[arg(long)]
    pub(crate) generation: bool,
    /// A configuration and the name it has in the tables; repeatable: peak memory and time of its steps beside the plan's.
    #[arg(long = "config", value_name = "NAME=FILE", value_parser = named)]
    pub(crate) configs: Vec<(String, PathBuf)>,
    /// A model folder and the name it has in the tables; repeatable.
    #[arg(long = "model", value_name = "NAME=DIR", value_parser = named)]
    pub(crate) models: Vec<(String, PathBuf)>,
    /// Rows for KTO.
    #[arg(long, value_name = "FILE")]
    pub(crate) kto: Option<PathBuf>,
    /// Rows for SFT.
    #[arg(long, value_name = "FILE")]
    pub(crate) sft: Option<PathBuf>,
    /// Python with the packages of bench/peer/requirements.txt: also measure TRL and a plain PyTorch loop.
    #[arg(long, value_name = "PYTHON")]
    pub(crate) peer: Option<PathBuf>,
    /// Which weights are trained.
    #[arg(long, value_delimiter = ',', default_values = ["lora", "full"])]
    pub(crate) tuning: Vec<Tuning>,
    /// Runs and steps in mixed precision, `bf16: true`, on both sides; on a GPU always.
    #[arg(long)]
    pub(crate) bf16: bool,
    /// Keep activations, `gradient_checkpointing: false`, on both sides [default: ours as the plan says, the peer's recomputed].
    #[arg(long)]
    pub(crate) no_checkpointing: bool,
    /// What computes, on both sides: cpu, cuda, cuda:1.
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = Named::read)]
    pub(crate) device: Named,
    /// Rows of a step [default: 4 for KTO, 8 for SFT].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) batch: Option<u32>,
    /// Steps of a run of ours, and of a series of steps by part.
    #[arg(long, value_name = "N", default_value_t = 24, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) count: u32,
    /// Steps of a peer's run; the first is not counted.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(2..))]
    pub(crate) peer_count: u32,
    /// How often every run is repeated, ours and the peer's in turn.
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rounds: u32,
    /// The binary [default: the one beside this program].
    #[arg(long, value_name = "FILE")]
    pub(crate) prospect: Option<PathBuf>,
    /// Where results go [default: bench/runs/DATE-CPU, numbered on if that is taken].
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
    /// Where runs and made-up models are put meanwhile [default: a folder of the system's for temporary files].
    #[arg(long, value_name = "DIR")]
    pub(crate) scratch: Option<PathBuf>,
    /// Print the results as a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// The objectives that are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Objective {
    Kto,
    Sft,
}

impl Objective {
    /// As configurations name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Objective::Kto => "kto",
            Objective::Sft => "sft",
        }
    }

    /// Rows of a step, when none are asked for.
    fn batch(self) -> usize {
        match self {
            Objective::Kto => 4,
            Objective::Sft => 8,
        }
    }
}

/// Which weights are trained.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Tuning {
    /// Low-rank additions of rank 8 to all linear layers.
    Lora,
    /// All.
    Full,
}

impl Tuning {
    /// As it stands in tables.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Tuning::Lora => "lora",
            Tuning::Full => "full",
        }
    }
}

/// Rank of the adapters that are measured.
pub(crate) const RANK: usize = 8;

impl Arguments {
    /// Whether no part is named.
    pub(crate) fn everything(&self) -> bool {
        let named =
            [self.operators, self.runs, self.steps, self.startup, self.lengths, self.generation].contains(&true);
        !named && self.configs.is_empty()
    }

    /// Whether products round to bfloat16.
    pub(crate) fn rounds(&self) -> bool {
        self.bf16 || self.device != Named::Cpu
    }

    /// Rows of a step.
    pub(crate) fn batch(&self, objective: Objective) -> usize {
        self.batch.map_or(objective.batch(), |rows| rows as usize)
    }

    /// The data there is.
    pub(crate) fn data(&self) -> Vec<(Objective, &PathBuf)> {
        let both = [(Objective::Kto, &self.kto), (Objective::Sft, &self.sft)];
        both.into_iter().filter_map(|(objective, file)| Some((objective, file.as_ref()?))).collect()
    }
}

fn named(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, dir)) if !name.is_empty() && !dir.is_empty() => Ok((name.to_owned(), dir.into())),
        _ => Err("expected NAME=DIR, as in small-105m=models/small-105m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_fit_together() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }

    #[test]
    fn a_model_has_a_name_and_a_folder() {
        assert_eq!(named("a=b/c=d"), Ok(("a".to_owned(), PathBuf::from("b/c=d"))));
        assert!(named("models/a").is_err() && named("=a").is_err() && named("a=").is_err());
    }
}
