//! The prospect command line: a table of contents.
#![forbid(unsafe_code)]

mod args;
mod asking;
mod average;
mod chat;
mod completions;
mod confined;
mod data;
mod demo;
mod doctor;
mod eval;
mod export;
mod failure;
mod first_use;
mod flags;
mod generate;
mod gpu;
mod grade;
mod hub_name;
mod import;
mod merge;
mod meter;
mod net;
mod output;
mod plan;
mod preset;
mod progress;
mod pull;
mod push;
mod quantize;
mod ranks;
mod runs;
mod score;
mod screen;
mod serve;
mod signals;
mod simulated;
mod spread;
mod train;
mod validate;
mod watchdog;
mod whatif;

use args::{Command, CommandLine};
use clap::Parser;
use failure::Failure;
use screen::Screen;
use std::process::ExitCode;

fn main() -> ExitCode {
    failure::report_panics();
    let CommandLine { command, quiet, color } = CommandLine::parse();
    let screen = Screen::new(quiet, color);
    let done = failure::within_memory(|| run(command, &screen));
    ExitCode::from(done.unwrap_or_else(|failure| failure.report(&screen)))
}

#[global_allocator]
static HEAP: ::train::Heap = ::train::Heap { exhausted: failure::exhausted };

/// Runs a command and returns the process's exit code.
fn run(command: Command, screen: &Screen) -> Result<u8, Failure> {
    match command {
        Command::Train(args) => train::train(&args, screen),
        Command::Plan(args) => plan::plan(&args, screen),
        Command::Preset(args) => preset::preset(&args),
        Command::Validate(args) => validate::validate(&args, screen),
        Command::Import(args) => import::import(&args, screen),
        Command::Schema(args) => import::schema(&args),
        Command::Launch(args) => ranks::launch(&args, screen),
        Command::Slurm(args) => ranks::slurm(&args, screen),
        Command::Resume(args) => train::resume(&args, screen),
        Command::Runs(args) => runs::runs(&args),
        Command::Score(args) => score::score(&args, screen),
        Command::Generate(args) => generate::generate(&args, screen),
        Command::Chat(args) => chat::chat(&args, screen),
        Command::Serve(args) => serve::serve(&args, screen),
        Command::Grade(args) => grade::grade(&args, screen),
        Command::Eval(args) => eval::eval(&args, screen),
        Command::Merge(args) => merge::merge(&args, screen),
        Command::Average(args) => average::average(&args, screen),
        Command::Export(args) => export::export(&args, screen),
        Command::Quantize(args) => quantize::quantize(&args, screen),
        Command::Demo(args) => demo::demo(&args, screen),
        Command::Data(args) => data::data(&args, screen),
        Command::Pull(args) => pull::pull(&args, screen),
        Command::Push(args) => push::push(&args, screen),
        Command::Doctor(args) => doctor::doctor(&args, screen),
        Command::Completions(args) => completions::completions(&args),
        Command::Man(args) => completions::man(&args),
        Command::Render => confined::serve(),
    }
}
