//! Chores of the repository: `cargo run -p xtask -- tidy`, `cargo run --release -p xtask -- bench`.
#![forbid(unsafe_code)]

mod tidy;

use std::path::Path;
use std::process::{Command, ExitCode};

const USAGE: &str = "\
usage:
  cargo run -p xtask -- tidy                      check the rules of CONTRIBUTING.md that a compiler cannot
  cargo run --release -p xtask -- bench [ARGS]    measure; bench --help says what";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the repository");
    match arguments.split_first() {
        Some((chore, [])) if chore == "tidy" => tidy(root),
        Some((chore, rest)) if chore == "bench" => bench(root, rest),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
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
