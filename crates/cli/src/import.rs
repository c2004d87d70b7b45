//! `import` and `schema`: another tool's configuration as ours, and what editors need to know of ours.

use crate::failure::Failure;
use crate::output;
use crate::screen::Screen;
use clap::Args;
use config::{Accounted, Outcome};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// `prospect import`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect import examples/sft.yaml > run.yaml
  prospect import sft.yaml --output run.yaml      writes the schema beside it, so that editors complete the file
  prospect import train_commands.txt --json       what becomes of each key, one JSON object per line

`train` and `plan` take files of LLaMA-Factory, Axolotl and MLX as they are; importing them shows what is read.")]
pub(crate) struct ImportArgs {
    /// The other tool's file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The file to write [default: stdout].
    #[arg(long, value_name = "RUN.YAML")]
    output: Option<PathBuf>,
    /// Print what becomes of each key, one JSON object per key.
    #[arg(long)]
    json: bool,
}

/// `prospect schema`
#[derive(Args)]
pub(crate) struct SchemaArgs {
    /// The file to write [default: stdout].
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `prospect import`: 0 when everything is taken, 2 when something is refused or unknown.
pub(crate) fn import(args: &ImportArgs, screen: &Screen) -> Result<u8, Failure> {
    let text = std::fs::read_to_string(&args.file).map_err(|e| Failure::file("read", &args.file, &e))?;
    let path = args.file.display().to_string();
    let accounted = config::account(&path, &text)?;
    if args.json {
        accounted.iter().try_for_each(|a| output::json(&as_json(a)))?;
    } else {
        let yaml = config::import(&path, &text)?;
        match &args.output {
            None => output::line(yaml.trim_end())?,
            Some(file) => {
                write_new(file, yaml.as_bytes())?;
                let schema = file.with_file_name(config::SCHEMA_FILE);
                write(&schema, schema_text().as_bytes())?;
            }
        }
    }
    let count = |of: fn(&Outcome) -> bool| accounted.iter().filter(|a| of(&a.outcome)).count();
    let refused = count(|o| matches!(o, Outcome::Refused(_)));
    let unknown = count(|o| matches!(o, Outcome::Unknown(_)));
    screen.line(format_args!(
        "{path}: {}, {} keys: {} mapped, {} without effect, {refused} refused, {unknown} unknown",
        config::recognise(&path, &text)?,
        accounted.len(),
        count(|o| matches!(o, Outcome::Works { .. } | Outcome::InPlace(_))),
        count(|o| matches!(o, Outcome::NoEffect(_))),
    ));
    for a in &accounted {
        match &a.outcome {
            Outcome::Refused(reason) => screen.line(format_args!("  {}: `{}` is refused: {reason}", a.place, a.key)),
            Outcome::Unknown(near) => {
                let near = near.map_or(String::new(), |near| format!("; did you mean `{near}`?"));
                screen.line(format_args!("  {}: `{}` is unknown{near}", a.place, a.key));
            }
            Outcome::Works { .. } | Outcome::InPlace(_) | Outcome::NoEffect(_) => {}
        }
    }
    Ok(if refused + unknown > 0 { 2 } else { 0 })
}

/// `prospect schema`
pub(crate) fn schema(args: &SchemaArgs) -> Result<u8, Failure> {
    match &args.output {
        None => output::line(schema_text().trim_end())?,
        Some(file) => write(file, schema_text().as_bytes())?,
    }
    Ok(0)
}

fn schema_text() -> String {
    format!("{:#}\n", config::schema())
}

fn as_json(a: &Accounted) -> Value {
    let (outcome, key, value, why) = match &a.outcome {
        Outcome::Works { key, value, remark } => ("mapped", Some(key), Some(value), (*remark).to_owned()),
        Outcome::InPlace(how) => ("read in place", None, None, (*how).to_owned()),
        Outcome::NoEffect(why) => ("no effect", None, None, why.clone()),
        Outcome::Refused(why) => ("refused", None, None, why.clone()),
        Outcome::Unknown(near) => ("unknown", None, None, near.map_or(String::new(), |n| format!("did you mean {n}?"))),
    };
    json!({"key": a.key, "value": a.value, "line": a.place.line, "outcome": outcome, "our_key": key, "our_value": value, "why": why})
}

fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    if path.exists() {
        return Err(Failure::usage(format!("{} is there already: name another --output", path.display())));
    }
    write(path, bytes)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    std::fs::write(path, bytes).map_err(|e| Failure::file("write", path, &e))
}
