//! `data render`: conversations through a template that need not be trusted.

use crate::confined::{Confined, Limits};
use crate::failure::Failure;
use crate::output;
use clap::Args;
use data::Clock;
use data::source::Rows;
use serde_json::Value;
use std::path::PathBuf;

/// `prospect data render`
#[derive(Args)]
#[command(after_help = "\
Example:
  prospect data render chat_template.jinja --conversations rows.jsonl --json

A row is an object with `messages`, and what else the template shall see: `tools`, `documents`, `add_generation_prompt`,
`bos_token`, `eos_token`, and any other variable. What becomes of it is an object with `rendered`, or with `error` and
its `kind`: syntax, raised (the template refuses the conversation), type, or limit.

The template runs in a process of its own that has no more memory and time than it is given.")]
pub(crate) struct RenderArgs {
    /// The template: a .jinja file, or the name of one that comes with prospect (chatml, qwen, llama3, ...).
    #[arg(value_name = "TEMPLATE.jinja")]
    template: PathBuf,
    /// The conversations, one per row.
    #[arg(long, value_name = "FILE")]
    conversations: PathBuf,
    /// Address space of the process that renders, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u64).range(64..))]
    max_memory: u64,
    /// Processor time for one row, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..))]
    max_seconds: u64,
    /// What strftime_now answers, in seconds since 1970 [default: now].
    #[arg(long, value_name = "SECONDS")]
    now: Option<i64>,
    /// Print one JSON object per row.
    #[arg(long)]
    json: bool,
}

/// `prospect data render`
pub(crate) fn render(args: &RenderArgs) -> Result<u8, Failure> {
    let named = args.template.to_str().filter(|_| !args.template.exists()).and_then(data::template::named::find);
    let template = match named {
        Some(named) => named.source.to_owned(),
        None => std::fs::read_to_string(&args.template).map_err(|e| Failure::file("read", &args.template, &e))?,
    };
    let files = data::source::resolve(&args.conversations, "train")?;
    let limits = Limits { mebibytes: args.max_memory, seconds: args.max_seconds };
    let mut confined = Confined::new(&template, args.now.map_or_else(Clock::now, Clock::at), limits);
    let (mut rows, mut number) = (Rows::open(&files), 0);
    while let Some(raw) = rows.next_row()? {
        let row: Value = match serde_json::from_slice(&raw.text) {
            Ok(row) => row,
            Err(e) => {
                let (file, line) = (files[raw.file as usize].display(), raw.line);
                return Err(Failure::Said { message: format!("{file}:{line}: not valid JSON: {e}"), code: 3 });
            }
        };
        print(&confined.render(&row)?, number, args.json)?;
        number += 1;
    }
    Ok(0)
}

/// Prints what became of a row: an object, or the text itself.
fn print(answer: &Value, number: usize, as_json: bool) -> Result<(), Failure> {
    if as_json {
        return output::json(answer);
    }
    output::line(format_args!("--- row {number}"))?;
    let text = |name: &str| answer[name].as_str().unwrap_or_default();
    match answer["rendered"].as_str() {
        Some(rendered) => output::line(rendered),
        None => output::line(format_args!("error ({}): {}", text("kind"), text("error"))),
    }
}
