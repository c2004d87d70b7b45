//! Ranks on the GPUs of this machine, as processes of ours that meet through a file.

use super::PEER;
use crate::args::{Command as Ours, CommandLine, LaunchArgs};
use crate::failure::Failure;
use crate::screen::Screen;
use crate::train;
use clap::Parser;
use config::{Device, Loaded, RankBackend};
use std::process::{Child, Command};

/// Whether a command trains on GPUs, whose ranks need no MPI.
pub(super) fn is_on_gpus(command: &[String], screen: &Screen) -> bool {
    let words = std::iter::once("prospect").chain(command.iter().map(String::as_str));
    let loaded: Option<Loaded> = match CommandLine::try_parse_from(words).map(|line| line.command) {
        Ok(Ours::Train(args)) => train::read(&args.config, &screen.quieted()).ok(),
        Ok(Ours::Resume(args)) => train::recorded(&args.run, &[]).ok(),
        _ => None,
    };
    loaded.is_some_and(|loaded| {
        let engine = &loaded.config.engine;
        matches!(engine.device, Device::Cuda(_)) && engine.backend != Some(RankBackend::Mpi)
    })
}

/// Starts the ranks, and ends as they do: with the first code that is not 0.
pub(super) fn spawn(args: &LaunchArgs, screen: &Screen) -> Result<u8, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::usage(format!("cannot find this program: {e}")))?;
    let meeting = std::env::temp_dir().join(format!("prospect-ranks-{}", std::process::id()));
    let all = args.ranks.to_string();
    let mut ranks = Vec::new();
    for rank in 0..args.ranks {
        let number = rank.to_string();
        let mut command = Command::new(&program);
        command.args(&args.command).env("PROSPECT_INIT_METHOD", format!("file://{}", meeting.display()));
        command.envs([("RANK", &number), ("LOCAL_RANK", &number), ("WORLD_SIZE", &all), ("LOCAL_WORLD_SIZE", &all)]);
        match command.spawn() {
            Ok(child) => ranks.push(child),
            Err(e) => {
                // Those that are there would wait for it.
                ranks.iter_mut().for_each(|child| drop(child.kill()));
                return Err(Failure::usage(format!("cannot start rank {rank}: {e}")));
            }
        }
    }
    pass_on(&ranks)?;
    let mut first = 0;
    for (rank, child) in ranks.iter_mut().enumerate() {
        let status = child.wait().map_err(|e| Failure::usage(format!("cannot wait for rank {rank}: {e}")))?;
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or_else(|| {
            screen.note(format_args!("rank {rank} was killed; committed checkpoints are intact: `resume`"));
            PEER
        });
        first = if first == 0 { code } else { first };
    }
    Ok(first)
}

/// Passes signals on to the ranks, so that they save and end; Ctrl-C reaches them anyway.
#[cfg(unix)]
fn pass_on(ranks: &[Child]) -> Result<(), Failure> {
    use rustix::process::{Pid, Signal, kill_process};
    use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
    let ranks: Vec<Pid> = ranks.iter().map(Pid::from_child).collect();
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGUSR1])
        .map_err(|e| Failure::usage(format!("cannot listen to signals: {e}")))?;
    std::thread::spawn(move || {
        for signal in signals.forever() {
            let signal = match signal {
                SIGTERM => Signal::TERM,
                SIGUSR1 => Signal::USR1,
                _ => continue,
            };
            for rank in &ranks {
                // One that has ended needs none.
                let _ = kill_process(*rank, signal);
            }
        }
    });
    Ok(())
}

#[cfg(not(unix))]
fn pass_on(_: &[Child]) -> Result<(), Failure> {
    Ok(())
}
