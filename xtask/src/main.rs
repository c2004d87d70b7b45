//! Chores of the repository: `cargo run -p xtask -- tidy`, `... fuzz`, `... dist`, `... bench`.
#![forbid(unsafe_code)]

mod cuda;
mod dist;
mod tidy;

use std::path::Path;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage: cargo run -p xtask -- tidy                           check the rules of CONTRIBUTING.md that a compiler cannot
       cargo run -p xtask -- fuzz TARGET --seconds N        broken inputs for a parser, for N seconds (--seed S: others)
       cargo run -p xtask -- cuda-check [--gpu N]           kernels through NVIDIA's compiler, and on the CPU (and on GPU N)
       cargo run -p xtask -- dist [TARGET ..]               the binary, checksums, completions and manual pages, in dist/
       cargo run --release -p xtask -- bench [ARGS]         measure; bench --help says what
targets: jsonl, csv, packed, parquet, arrow, template, config, registry, safetensors, index, model, adapter, tiktoken, gguf, latex, http";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository");
    match arguments.first().map(String::as_str) {
        Some("tidy") if arguments.len() == 1 => tidy(root),
        Some("fuzz") if arguments.len() > 1 && !arguments.contains(&"--help".to_owned()) => fuzz(root, &arguments[1..]),
        Some("cuda-check") => cuda::check(root, &arguments[1..]),
        Some("dist") => match dist::run(root, &arguments[1..]) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("dist: {error}");
                ExitCode::from(6)
            }
        },
        Some("bench") => bench(root, &arguments[1..]),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

/// Runs the fuzz test of the command line, which knows every parser, built as this was.
fn fuzz(root: &Path, arguments: &[String]) -> ExitCode {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root).args(["test", "-p", "prospect", "--test", "fuzz"]);
    if !cfg!(debug_assertions) {
        command.arg("--release");
    }
    match command.arg("--").args(arguments).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("fuzz: {error}");
            ExitCode::from(6)
        }
    }
}

/// Builds the binary that is measured, then runs the crate that measures it, both as users build them.
fn bench(root: &Path, arguments: &[String]) -> ExitCode {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let run = |words: &[&str], rest: &[String]| {
        let status = Command::new(&cargo).args(["--config", "term.quiet=true"]).args(words).args(rest).status();
        status.is_ok_and(|status| status.success())
    };
    let manifest = root.join("Cargo.toml").display().to_string();
    let built = run(&["build", "--release", "-p", "prospect", "--manifest-path", &manifest], &[]);
    let measured = built && run(&["run", "--release", "-p", "bench", "--manifest-path", &manifest, "--"], arguments);
    if measured { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn tidy(root: &Path) -> ExitCode {
    match tidy::run(root) {
        Ok(findings) if findings.is_empty() => {
            println!("tidy: nothing to say");
            ExitCode::SUCCESS
        }
        Ok(findings) => {
            for finding in &findings {
                println!("{finding}");
            }
            println!("tidy: {} to put right", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error}");
            ExitCode::from(6)
        }
    }
}
