//! `validate`: everything that would keep a run from its end, at once.

use crate::args::ConfigArgs;
use crate::failure::Failure;
use crate::first_use::{self, Unfetched};
use crate::output;
use crate::progress::Watch;
use crate::screen::Screen;
use crate::train::read;
use clap::Args;
use config::{Config, Loaded, Tuning};
use serde_json::json;

/// `prospect validate`
#[derive(Args)]
#[command(after_help = "\
Example:
  prospect validate run.yaml --rows 1000

Looks at the configuration, the model's files, tokenizer and chat template, the first rows of every data set, and whether
a step of such rows fits into memory. Exit code: 0, or that of the first problem.")]
pub(crate) struct ValidateArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Rows that are looked at, of each data set.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// Print one JSON object per problem.
    #[arg(long)]
    json: bool,
}

/// `prospect validate`
pub(crate) fn validate(args: &ValidateArgs, screen: &Screen) -> Result<u8, Failure> {
    let mut loaded = read(&args.config, screen)?;
    let mut unfetched: Vec<Unfetched> = Vec::new();
    let mut later = |failed| {
        unfetched.push(failed);
        Ok(())
    };
    first_use::prepare_but(&mut loaded, args.config.flags.hf_token.as_deref(), screen, &mut later)?;
    let mut code = 0;
    let mut count = unfetched.len();
    for (part, name, failure) in &unfetched {
        let (what, exit) = failure.said();
        code = if code == 0 { exit } else { code };
        print(args.json, part, &format!("{}: {what}", name.display()), exit, screen)?;
    }
    let configs = configs(&loaded);
    for config in &configs {
        let mut watch = Watch::new(screen);
        let (mut findings, notes) = train::validate(config, args.rows as usize, &mut |event| watch.event(event));
        watch.finish();
        // Of what is not there nothing more is to be said.
        let absent = |finding: &train::Finding| {
            let of =
                |(part, name, _): &Unfetched| *part == finding.part && finding.what.contains(&*name.to_string_lossy());
            unfetched.iter().any(of)
        };
        findings.retain(|finding| !absent(finding));
        notes.iter().for_each(|note| screen.note(note));
        for finding in &findings {
            print(args.json, finding.part, &finding.what, finding.code, screen)?;
        }
        count += findings.len();
        code = if code == 0 { findings.first().map_or(0, |f| f.code) } else { code };
    }
    match count {
        0 => {
            screen.line(format_args!("nothing wrong in the configuration, the model and the first {} rows", args.rows))
        }
        1 => screen.line("1 problem"),
        n => screen.line(format_args!("{n} problems")),
    }
    Ok(code)
}

fn print(as_json: bool, part: &str, what: &str, code: u8, screen: &Screen) -> Result<(), Failure> {
    if as_json {
        return output::json(&json!({"part": part, "problem": what, "exit_code": code}));
    }
    screen.error(&format!("{part}: {what}"));
    Ok(())
}

/// What is looked at: the run, or each stage of it as if it began with the first one's model. What a stage begins with is only there
/// once the one before it is done.
fn configs(loaded: &Loaded) -> Vec<Config> {
    if loaded.stages.is_empty() {
        return vec![loaded.config.clone()];
    }
    let mut tuning = loaded.config.tuning.clone();
    let stage = |stage: &Loaded| {
        let mut config = Config { model: loaded.config.model.clone(), ..stage.config.clone() };
        match &config.tuning {
            Tuning::Adapter { path, .. } if !path.exists() => config.tuning.clone_from(&tuning),
            other => tuning.clone_from(other),
        }
        config
    };
    loaded.stages.iter().map(stage).collect()
}
