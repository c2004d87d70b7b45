//! `train` and `resume`: a run, watched.

use crate::args::{ConfigArgs, ResumeArgs, TrainArgs};
use crate::failure::Failure;
use crate::output::{self, word};
use crate::progress::Watch;
use crate::screen::Screen;
use crate::signals;
use crate::{first_use, plan, ranks};
use config::{Loaded, Tuning};
use dist::World;
use dist::launch::Launch;
use serde_json::{Map, json};
use std::path::Path;
use std::sync::Arc;
use train::{Control, Ended};

/// Reads a configuration with its flags and overrides, says what is worth saying about it, and fetches what it names on the Hub.
pub(crate) fn load(args: &ConfigArgs, screen: &Screen) -> Result<Loaded, Failure> {
    load_with(args, &[], screen)
}

/// As [`load`], with settings that win over all others.
pub(crate) fn load_with(args: &ConfigArgs, extra: &[(String, String)], screen: &Screen) -> Result<Loaded, Failure> {
    let mut loaded = read_with(args, extra, screen)?;
    first_use::prepare(&mut loaded, args.flags.hf_token.as_deref(), screen)?;
    Ok(loaded)
}

/// As [`load`], of what is there.
pub(crate) fn read(args: &ConfigArgs, screen: &Screen) -> Result<Loaded, Failure> {
    read_with(args, &[], screen)
}

fn read_with(args: &ConfigArgs, extra: &[(String, String)], screen: &Screen) -> Result<Loaded, Failure> {
    let (file, words) = args.words();
    let mut overrides = config::split_overrides(&words)?;
    overrides.retain(|(key, _)| extra.iter().all(|(k, _)| k != key));
    overrides.extend(extra.iter().cloned());
    let mut flags = args.flags.settings(file.is_some())?;
    // Blocks that are trained in full are no adapter's.
    if overrides.iter().any(|(key, _)| key == "freeze_trainable_layers") {
        flags.retain(|(key, _)| key != "use_peft");
    }
    // A word on the command line wins over a flag, and a flag over the file.
    let flags = flags.into_iter().filter(|(key, _)| overrides.iter().all(|(k, _)| k != key));
    let overrides: Vec<(String, String)> = flags.chain(overrides.iter().cloned()).collect();
    let loaded = match file {
        Some(path) => load_from(path, &with_deepspeed(path, overrides, screen)?)?,
        None => config::load("the flags", "", &overrides)?,
    };
    args.flags.notes().into_iter().for_each(|note| screen.note(note));
    loaded.notes.iter().for_each(|note| screen.note(note));
    Ok(loaded)
}

/// Settings, with the ZeRO stage of the DeepSpeed file that the run's file names, where neither says another.
fn with_deepspeed(
    path: &Path,
    mut overrides: Vec<(String, String)>,
    screen: &Screen,
) -> Result<Vec<(String, String)>, Failure> {
    const KEY: &str = "zero_stage";
    let (shown, Ok(text)) = (path.display().to_string(), std::fs::read_to_string(path)) else { return Ok(overrides) };
    let Some(file) = config::deepspeed_file(&shown, &text) else { return Ok(overrides) };
    if config::has_key(&shown, &text, KEY) || overrides.iter().any(|(key, _)| key == KEY) {
        return Ok(overrides);
    }
    let Ok(text) = std::fs::read_to_string(&file) else {
        screen.note(format_args!("deepspeed: {file} is not there; what it would shard is `{KEY}`, 0 unless set"));
        return Ok(overrides);
    };
    for found in config::account(&file, &text)? {
        if let config::Outcome::Works { key, value, remark } = found.outcome
            && key == KEY
        {
            let remark = if remark.is_empty() { String::new() } else { format!(": {remark}") };
            screen.note(format_args!("{KEY}: {value}, from {file}{remark}"));
            overrides.push((key, value));
        }
    }
    Ok(overrides)
}

fn load_from(path: &Path, overrides: &[(String, String)]) -> Result<Loaded, Failure> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Failure::usage(format!("cannot read the configuration {}: {e}", path.display())))?;
    Ok(config::load(&path.display().to_string(), &text, overrides)?)
}

/// `prospect train`
pub(crate) fn train(args: &TrainArgs, screen: &Screen) -> Result<u8, Failure> {
    if args.dry_run {
        return plan::rehearse(load(&args.config, screen)?, args.json, screen);
    }
    let launch = ranks::launched()?;
    let screen = &heard(launch.as_ref(), screen);
    let mut loaded = read(&args.config, screen)?;
    ranks::own_gpu(&mut loaded);
    let engine = &loaded.config.engine;
    let world = ranks::join(launch.as_ref(), engine.device, engine.backend, screen)?;
    first_use::prepare(&mut loaded, args.config.flags.hf_token.as_deref(), screen)?;
    let inputs: Vec<&Path> = args.config.words().0.into_iter().collect();
    run(&world, &loaded, &inputs, args.json, screen)
}

/// `prospect resume`
pub(crate) fn resume(args: &ResumeArgs, screen: &Screen) -> Result<u8, Failure> {
    rundir::settle(&args.run)?;
    if !args.run.join("status.json").exists() {
        let found = if args.run.exists() { rundir::Error::NotARun } else { rundir::Error::NoRun };
        return Err(found(args.run.clone()).into());
    }
    let launch = ranks::launched()?;
    let screen = &heard(launch.as_ref(), screen);
    // The folder may have been moved since; JSON strings are YAML strings.
    let output_dir = json!(args.run.display().to_string()).to_string();
    let overrides = [("resume_from_checkpoint".to_owned(), "true".to_owned()), ("output_dir".to_owned(), output_dir)];
    let mut loaded = recorded(&args.run, &overrides)?;
    ranks::own_gpu(&mut loaded);
    let engine = &loaded.config.engine;
    let world = ranks::join(launch.as_ref(), engine.device, engine.backend, screen)?;
    first_use::prepare(&mut loaded, None, screen)?;
    run(&world, &loaded, &[], args.json, screen)
}

/// What a run was begun with; what is worth saying about it was said then.
pub(crate) fn recorded(run: &Path, overrides: &[(String, String)]) -> Result<Loaded, Failure> {
    load_from(&run.join("config.yaml"), overrides)
}

/// Rank 0 speaks for all.
fn heard(launch: Option<&Launch>, screen: &Screen) -> Screen {
    if launch.is_none_or(|launch| launch.rank == 0) { *screen } else { screen.quieted() }
}

fn run(world: &World, loaded: &Loaded, inputs: &[&Path], json: bool, screen: &Screen) -> Result<u8, Failure> {
    let control = Arc::new(Control { gpu: crate::gpu::options(), ..Control::default() });
    signals::watch(&control, screen)?;
    let folder = &loaded.config.saving.output_dir;
    screen.line(format_args!("run folder     {}", folder.display()));
    if world.size() > 1 {
        let mut hosts = world.hosts().to_vec();
        hosts.dedup();
        screen.line(format_args!("ranks          {} on {}", world.size(), hosts.join(", ")));
    }
    let mut watch = Watch::new(screen);
    let ended = train::run_on(world, loaded, inputs, &control, &mut |event| watch.event(event));
    watch.finish();
    let ended = ended?;
    closing(loaded, &ended, screen);
    if json && world.leads() {
        output::json(&summary(&ended, world))?;
    }
    Ok(ended.exit_code())
}

fn summary(ended: &Ended, world: &World) -> serde_json::Value {
    let values: Map<_, _> = ended.values.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let mut said = json!({"run": ended.folder, "step": ended.step, "stopped": ended.stopped, "values": values});
    if !ended.begun {
        said["begun"] = json!(false);
    }
    if world.size() > 1 {
        let meter = world.meter();
        let moved = dist::Collective::ALL.map(|what| {
            let t = meter.of(what);
            let numbers = json!({"calls": t.calls, "sent": t.sent, "received": t.received, "seconds": t.seconds});
            (what.name().to_owned(), numbers)
        });
        said["traffic"] = Map::from_iter(moved).into();
    }
    said
}

/// What can be done with the run now, one line each.
fn closing(loaded: &Loaded, ended: &Ended, screen: &Screen) {
    let (run, model) = (&ended.folder, &loaded.config.model.path);
    let last = run.join("final");
    let resume = format!("resume         prospect resume {}", word(run));
    if !ended.begun {
        let text =
            "stopped before its first step; {} is as it was, with the earlier run: the same command begins again";
        return screen.line(text.replace("{}", &run.display().to_string()));
    }
    if ended.stopped {
        screen.line(format_args!("stopped after step {}; run folder {}", ended.step, run.display()));
        return screen.line(resume);
    }
    screen.line(format_args!("training complete after {} steps; run folder {}", ended.step, run.display()));
    screen.line(resume);
    match loaded.config.tuning {
        Tuning::Full | Tuning::Blocks(_) => {
            screen.line(format_args!("generate       prospect generate {} --prompt TEXT", word(&last)))
        }
        Tuning::Lora(_) | Tuning::Adapter { .. } => {
            let adapter = format!("{} --adapter {}", word(model), word(&last));
            screen.line(format_args!("merge          prospect merge {adapter} --output {}", word(&run.join("merged"))));
            screen.line(format_args!("generate       prospect generate {adapter} --prompt TEXT"));
        }
    }
}
