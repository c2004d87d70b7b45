//! `completions`, and pages for `man`.

use crate::args::CommandLine;
use crate::failure::Failure;
use clap::{Args, CommandFactory};
use clap_complete::Shell;
use std::io::Write;
use std::path::PathBuf;

/// `prospect completions`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect completions bash > ~/.local/share/bash-completion/completions/prospect
  prospect completions zsh > ~/.zfunc/_prospect")]
pub(crate) struct CompletionsArgs {
    /// The shell.
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

/// `prospect __man`
#[derive(Args)]
pub(crate) struct ManArgs {
    /// The folder to write to.
    #[arg(value_name = "DIR")]
    dir: PathBuf,
}

/// `prospect completions`
pub(crate) fn completions(args: &CompletionsArgs) -> Result<u8, Failure> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut CommandLine::command(), "prospect", &mut text);
    std::io::stdout().write_all(&text).map_err(|e| Failure::stdout(&e))?;
    Ok(0)
}

/// `prospect __man`
pub(crate) fn man(args: &ManArgs) -> Result<u8, Failure> {
    std::fs::create_dir_all(&args.dir).map_err(|e| Failure::file("create", &args.dir, &e))?;
    clap_mangen::generate_to(CommandLine::command(), &args.dir).map_err(|e| Failure::file("write", &args.dir, &e))?;
    Ok(0)
}
