//! How long the short commands take.

use crate::arithmetic::median;
use crate::child;
use crate::error::Error;
use crate::job::Case;
use serde::Serialize;
use std::path::Path;
use std::process::Command;

/// A command and its times.
#[derive(Serialize)]
pub(crate) struct Startup {
    pub(crate) command: String,
    /// The first time, seconds: without whatever later ones find prepared.
    pub(crate) first: f64,
    /// Median of the others, seconds.
    pub(crate) median: f64,
}

fn measure(name: &str, command: &mut Command, times: usize) -> Result<Startup, Error> {
    let seconds = child::time(command, times + 1)?;
    Ok(Startup { command: name.to_owned(), first: seconds[0], median: median(seconds[1..].iter().copied()) })
}

/// `prospect --help`.
pub(crate) fn help(prospect: &Path) -> Result<Startup, Error> {
    measure("prospect --help", Command::new(prospect).arg("--help"), 20)
}

/// `prospect plan` of a case.
pub(crate) fn plan(case: &Case, prospect: &Path, scratch: &Path) -> Result<Startup, Error> {
    let config = scratch.join("plan.yaml");
    std::fs::write(&config, case.yaml(24, &scratch.join("run"))).map_err(Error::io("write", &config))?;
    let name = format!("prospect plan, {}", case.title());
    measure(&name, Command::new(prospect).args(["--quiet", "plan"]).arg(&config), 3)
}
