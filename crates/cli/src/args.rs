//! Commands and flags.

use crate::data::DataArgs;
use crate::flags::TrainerFlags;
use crate::import::{ImportArgs, SchemaArgs};
use crate::pull::PullArgs;
use crate::validate::ValidateArgs;
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Post-train language models: SFT and KTO, full weights or LoRA.
#[derive(Parser)]
#[command(name = "prospect", version, arg_required_else_help = true, propagate_version = true, after_help = EXAMPLES)]
pub(crate) struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Say nothing on stderr but errors.
    #[arg(short, long, global = true)]
    pub(crate) quiet: bool,
    /// Colour on stderr; auto: on a terminal, unless NO_COLOR is set.
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: When,
}

const EXAMPLES: &str = "\
Examples:
  prospect plan run.yaml                            what a run would do and take
  prospect train run.yaml learning_rate=1e-6        train, one setting changed
  prospect resume runs/kto                          go on where a run was stopped
  prospect chat runs/sft                            talk with a model
  prospect data show rows.jsonl --model models/base   a row as the model will see it

Results go to stdout, everything else to stderr.
Exit codes: 0 done, 2 usage or configuration, 3 data, 4 memory, 5 numerics, 6 files and disk,
7 another rank, 75 stopped and saved (resume it), 130 second interrupt, or nothing saved.";

/// When output is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum When {
    Auto,
    Always,
    Never,
}

/// The commands.
#[derive(Subcommand)]
pub(crate) enum Command {
    /// Train as a YAML file says (KTO or SFT).
    Train(TrainArgs),
    /// Say what a run would do: model, steps, schedule, memory, files. Trains nothing.
    Plan(PlanArgs),
    /// List, print and copy configurations by size, for `preset: 7b` in a file.
    Preset(PresetArgs),
    /// Look at everything a run needs (configuration, model, template, first rows, memory) and say all that is wrong.
    Validate(ValidateArgs),
    /// Write another tool's configuration (LLaMA-Factory, Axolotl, TRL, MLX) with our keys, every key accounted for.
    Import(ImportArgs),
    /// The JSON Schema of a configuration, for editors.
    Schema(SchemaArgs),
    /// Start ranks of this program on this machine: `launch -n 4 train run.yaml`.
    Launch(LaunchArgs),
    /// Write a script for Slurm's sbatch that requeues and resumes itself.
    Slurm(SlurmArgs),
    /// Go on with a run that was stopped or killed, from its newest checkpoint that verifies.
    Resume(ResumeArgs),
    /// List, show and compare runs.
    Runs(RunsArgs),
    /// Log-probabilities of completions under a model.
    Score(ScoreArgs),
    /// Continue prompts.
    Generate(crate::generate::GenerateArgs),
    /// Talk with a model on the terminal.
    Chat(crate::chat::ChatArgs),
    /// Serve a model over HTTP, with the interface of OpenAI's.
    Serve(crate::serve::ServeArgs),
    /// Are answers right? Grades them as the Qwen2.5-Math harness does, or strictly.
    Grade(crate::grade::GradeArgs),
    /// Ask benchmarks of mathematics, and grade the answers.
    Eval(crate::eval::EvalArgs),
    /// Merge an adapter into its base model, and check the result against both.
    Merge(MergeArgs),
    /// The mean of several models of one shape, or of several adapters.
    Average(crate::average::AverageArgs),
    /// Write a model or an adapter in other programs' formats.
    Export(crate::export::ExportArgs),
    /// Write a model with its linear layers in four or eight bits, in bitsandbytes' layout.
    Quantize(crate::quantize::QuantizeArgs),
    /// The whole story on made-up arithmetic, offline: tokenizer, model, SFT, KTO, evaluation.
    Demo(DemoArgs),
    /// Look at data, count, convert, mix, sample, clean and label them.
    Data(DataArgs),
    /// Fetch a model or a data set from the Hugging Face Hub or a mirror of it.
    Pull(PullArgs),
    /// Upload a result (adapter, merged model, GGUF files) with a model card, in one commit.
    Push(crate::push::PushArgs),
    /// What this machine has for training, what is in the way, and what to do about it.
    Doctor(crate::doctor::DoctorArgs),
    /// A shell's completions, on stdout.
    Completions(crate::completions::CompletionsArgs),
    /// Writes pages for `man`.
    #[command(hide = true, name = "__man")]
    Man(crate::completions::ManArgs),
    /// Renders chat templates for a parent that does not trust them.
    #[command(hide = true, name = "__render")]
    Render,
}

/// A configuration and what changes in it.
#[derive(Args)]
pub(crate) struct ConfigArgs {
    /// The configuration: flat YAML with TRL's, PEFT's and transformers' keys, or a file of LLaMA-Factory or Axolotl as it is.
    /// Its paths are relative to the current folder.
    #[arg(value_name = "RUN.YAML", required_unless_present = "trainer_flags")]
    pub(crate) config: Option<PathBuf>,
    /// Settings that win over the file, as in learning_rate=1e-6.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    #[command(flatten)]
    pub(crate) flags: TrainerFlags,
}

/// `prospect train`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect train configs/kto-lora.yaml
  prospect train run.yaml output_dir=runs/b beta=0.3 undesirable_weight=auto
  prospect train --model-name models/base --local-file rows.jsonl --batch-size 4 --learning-rate 5e-7

SIGTERM or Ctrl-C saves and exits with 75; a second one exits at once with 130. SIGUSR1 saves and goes on.")]
pub(crate) struct TrainArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Load model and data, print the plan, train nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print how the run ended as a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `prospect preset`
#[derive(Args)]
pub(crate) struct PresetArgs {
    #[command(subcommand)]
    pub(crate) command: PresetCommand,
}

/// What to do with presets.
#[derive(Subcommand)]
pub(crate) enum PresetCommand {
    /// All of them.
    Ls {
        /// One JSON object per preset.
        #[arg(long)]
        json: bool,
    },
    /// Print one.
    Show {
        /// Its name.
        name: String,
    },
    /// Write one to a new file.
    Cp {
        /// Its name.
        name: String,
        /// The file.
        file: PathBuf,
    },
}

/// `prospect plan`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect plan run.yaml
  prospect plan run.yaml per_device_train_batch_size=8 --json
  prospect plan run.yaml --memory 24GB --device cpu
  prospect plan run.yaml --ranks 4 zero_stage=3
  prospect plan run.yaml --device rtx3090 --what-if max_length=1024,2048,4096
  prospect plan run.yaml --nodes 32 --gpus 8 --network 12.5GB/s --device h100
  prospect plan run.yaml --ranks sim:256")]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    pub(crate) config: ConfigArgs,
    /// Plan each of so many ranks of the run; with sim: before the number, go through one step of them without its arithmetic: packs,
    /// exchanges and bytes of every rank, at each ZeRO stage.
    #[arg(long, value_name = "N", conflicts_with = "nodes", value_parser = ranks)]
    pub(crate) ranks: Option<Ranks>,
    /// Model the run over so many machines: memory, bytes and time by ZeRO stage. Reads the model's config.json only.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) nodes: Option<u32>,
    /// Ranks of a machine.
    #[arg(long, value_name = "N", default_value_t = 1, requires = "nodes", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) gpus: u32,
    /// Speed between machines, for each rank.
    #[arg(long, value_name = "SPEED", requires = "nodes")]
    pub(crate) network: Option<String>,
    /// What computes: cpu (this one: speed is measured for two seconds), or rtx3090, rtx4090, a100, h100, h200, b200 (speed is
    /// modelled, and memory the device's) [with --nodes: h100].
    #[arg(long, value_name = "NAME")]
    pub(crate) device: Option<String>,
    /// What the plan may use, as max_memory.
    #[arg(long, value_name = "SIZE", conflicts_with = "nodes")]
    pub(crate) memory: Option<String>,
    /// Plan with each of some values of a key, side by side.
    #[arg(long, value_name = "KEY=A,B,C", conflicts_with = "nodes")]
    pub(crate) what_if: Option<String>,
    /// Print the plan as a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Ranks to plan for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ranks {
    /// What each of them takes.
    Each(u32),
    /// A step of all of them, at every ZeRO stage.
    Simulated(u32),
}

/// `8` or `sim:8`.
fn ranks(text: &str) -> Result<Ranks, String> {
    let simulated = text.strip_prefix("sim:");
    let number = simulated.unwrap_or(text).parse().ok().filter(|n| (1..=65_536).contains(n));
    let number = number.ok_or_else(|| "expected ranks from 1 to 65536, as in 8 or sim:256".to_owned())?;
    Ok(if simulated.is_some() { Ranks::Simulated(number) } else { Ranks::Each(number) })
}

/// `prospect launch`
#[derive(Args)]
#[command(after_help = "\
Example:
  prospect launch -n 4 train run.yaml zero_stage=1
  prospect launch -n 8 train run.yaml device=cuda zero_stage=2

Ranks on GPUs exchange over NCCL. Those on CPUs need a program built with the feature `mpi`. mpirun and srun start ranks as well, and over \
several machines.")]
pub(crate) struct LaunchArgs {
    /// How many ranks.
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) ranks: u32,
    /// What each rank does, as it would be written after `prospect`.
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) command: Vec<String>,
}

/// `prospect slurm`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect slurm run.yaml --nodes 32 --gpus 8 --time 24:00:00 --partition train --output run.sbatch
  prospect slurm run.yaml --nodes 4 --tasks 2 --cpus 32 zero_stage=1")]
pub(crate) struct SlurmArgs {
    /// The configuration.
    #[arg(value_name = "RUN.YAML")]
    pub(crate) config: PathBuf,
    /// Settings that win over the file.
    #[arg(value_name = "KEY=VALUE")]
    pub(crate) overrides: Vec<String>,
    /// Machines.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) nodes: u32,
    /// GPUs of a machine, and as many ranks on it.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) gpus: Option<u32>,
    /// Ranks of a machine [default: its GPUs, else 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) tasks: Option<u32>,
    /// Processors of a rank.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) cpus: Option<u32>,
    /// Longest time, as Slurm writes it.
    #[arg(long, value_name = "HH:MM:SS", value_parser = one_word)]
    pub(crate) time: Option<String>,
    /// Partition.
    #[arg(long, value_name = "NAME", value_parser = one_word)]
    pub(crate) partition: Option<String>,
    /// Seconds before the end at which ranks save and end.
    #[arg(long, value_name = "SECONDS", default_value_t = 120)]
    pub(crate) signal: u32,
    /// How srun brings MPI's ranks together.
    #[arg(long, value_name = "TYPE", default_value = "pmix", value_parser = one_word)]
    pub(crate) mpi: String,
    /// Where to; stdout when not given.
    #[arg(long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
}

/// A word that means nothing to a shell.
fn one_word(text: &str) -> Result<String, String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_:.,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => Ok(text.to_owned()),
        false => Err("expected letters, digits and any of - _ : . ,".to_owned()),
    }
}

/// `prospect resume`
#[derive(Args)]
#[command(after_help = "\
Example:
  prospect resume runs/kto

Paths inside the run's configuration are relative to the current folder: resume from where the run was started.")]
pub(crate) struct ResumeArgs {
    /// The run folder.
    #[arg(value_name = "RUN")]
    pub(crate) run: PathBuf,
    /// Print how the run ended as a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `prospect runs`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect runs ls runs
  prospect runs show runs/kto
  prospect runs diff runs/a runs/b")]
pub(crate) struct RunsArgs {
    #[command(subcommand)]
    pub(crate) command: RunsCommand,
}

/// What to look at.
#[derive(Subcommand)]
pub(crate) enum RunsCommand {
    /// List the runs at or up to three folders below DIR, oldest first.
    Ls {
        /// Where to look.
        #[arg(value_name = "DIR", default_value = ".")]
        dir: PathBuf,
        /// Print one JSON object per run.
        #[arg(long)]
        json: bool,
    },
    /// Everything about one run: state, configuration, last values, checkpoints.
    Show {
        /// The run folder.
        #[arg(value_name = "RUN")]
        run: PathBuf,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Settings that differ between two runs, and their last values side by side.
    Diff {
        /// The first run folder.
        #[arg(value_name = "A")]
        left: PathBuf,
        /// The second run folder.
        #[arg(value_name = "B")]
        right: PathBuf,
        /// Print a JSON object.
        #[arg(long)]
        json: bool,
    },
    /// Draw metrics of several runs over their steps, a panel for each metric, as SVG and PNG.
    Plot {
        /// The run folders.
        #[arg(value_name = "RUN", required = true)]
        runs: Vec<PathBuf>,
        /// Metrics, by their names in log.jsonl.
        #[arg(long, value_name = "NAME,..", value_delimiter = ',', default_value = "loss,kl")]
        metrics: Vec<String>,
        /// Where to: both files have this name, with .svg and .png.
        #[arg(long, value_name = "FILE", default_value = "runs")]
        output: PathBuf,
    },
}

/// `prospect score`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect score models/base --data rows.jsonl
  prospect score models/base --adapter runs/kto/final --data rows.jsonl --tokens --json

What is scored:
  prompt + completion   the completion, with the end-of-sequence token that training adds
  messages              the last turn, if it is the assistant's; otherwise as text
  text                  every token after the first, as it stands")]
pub(crate) struct ScoreArgs {
    /// A model folder: config.json, *.safetensors, tokenizer.json.
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// Rows, as JSONL or JSON: a file or a folder.
    #[arg(long, value_name = "FILE")]
    pub(crate) data: PathBuf,
    /// A LoRA adapter for the model.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: Option<PathBuf>,
    /// Also the log-probability of every scored token.
    #[arg(long)]
    pub(crate) tokens: bool,
    /// Print one JSON object per row: index, logp (nats), num_tokens, and token_logps with --tokens.
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    pub(crate) device: crate::asking::DeviceArgs,
}

/// `prospect merge`
#[derive(Args)]
#[command(after_help = "\
Example:
  prospect merge models/base --adapter runs/kto/final --output models/merged --dtype bfloat16")]
pub(crate) struct MergeArgs {
    /// The base model's folder.
    #[arg(value_name = "MODEL")]
    pub(crate) model: PathBuf,
    /// The LoRA adapter.
    #[arg(long, value_name = "DIR")]
    pub(crate) adapter: PathBuf,
    /// The folder to write, new or empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) output: PathBuf,
    /// How weights are stored: float32, bfloat16 or float16 [default: as in the base model].
    #[arg(long, value_name = "TYPE", value_parser = dtype)]
    pub(crate) dtype: Option<weights::DType>,
    /// Print what was done as a JSON object.
    #[arg(long)]
    pub(crate) json: bool,
}

/// `prospect demo`
#[derive(Args)]
#[command(after_help = "\
Example:
  prospect demo --seed 1 --output runs/demo-1")]
pub(crate) struct DemoArgs {
    /// Of everything that is random.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) seed: u64,
    /// Where everything it makes is written, new or empty [default: runs/demo-N, numbered on if that is taken].
    #[arg(long, value_name = "DIR")]
    pub(crate) output: Option<PathBuf>,
}

fn dtype(name: &str) -> Result<weights::DType, String> {
    let stored = weights::DType::from_torch_name(name).filter(|dtype| dtype.is_float() && dtype.bits() >= 16);
    stored.ok_or_else(|| "expected float32, bfloat16 or float16".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_flags_fit_together() {
        use clap::CommandFactory;
        CommandLine::command().debug_assert();
    }

    /// The words of a line, as a shell takes them: quotes hold words together.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for c in line.chars() {
            match (quote, c) {
                (Some(q), c) if c == q => quote = None,
                (None, '"' | '\'') => (quote, word) = (Some(c), Some(word.unwrap_or_default())),
                (None, c) if c.is_whitespace() => words.extend(word.take()),
                (_, c) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    #[test]
    fn every_command_of_the_founding_documents_has_one_of_ours() {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/");
        let text = std::fs::read_to_string(format!("{docs}founding.md")).unwrap();
        let trouble = std::fs::read_to_string(format!("{docs}trouble.md")).unwrap();
        let ours: Vec<&str> = text.split('`').skip(1).step_by(2).filter(|code| code.starts_with("prospect ")).collect();
        assert!(ours.len() > 40, "{}", ours.len());
        for command in ours {
            let parsed = CommandLine::try_parse_from(words(command));
            assert!(parsed.is_ok(), "{command}: {}", parsed.err().unwrap());
        }
        let pages: Vec<&str> = text.split("(trouble.md#").skip(1).filter_map(|rest| rest.split(')').next()).collect();
        assert!(pages.len() >= 15, "{}", pages.len());
        let headings: Vec<String> = trouble
            .lines()
            .filter_map(|line| line.strip_prefix("## "))
            .map(|title| title.to_lowercase().replace(' ', "-").replace([',', '.', ':', '(', ')', '`'], ""))
            .collect();
        for page in pages {
            assert!(headings.iter().any(|heading| heading == page), "{page} is none of {headings:?}");
        }
    }
}
