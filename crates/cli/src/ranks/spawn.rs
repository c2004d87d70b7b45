//! Ranks on the GPUs of this machine, as processes of ours that meet through a file.

use super::PEER;
use super::passed::{AGAIN, Signals};
use crate::args::{Command as Ours, CommandLine, LaunchArgs};
use crate::failure::Failure;
use crate::screen::Screen;
use crate::train;
use clap::Parser;
use config::{Device, Loaded, RankBackend};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// How long ranks wait for one another, where a command trains over NCCL, which needs no MPI.
pub(super) fn over_nccl(command: &[String], screen: &Screen) -> Option<Duration> {
    let words = std::iter::once("prospect").chain(command.iter().map(String::as_str));
    let loaded: Loaded = match CommandLine::try_parse_from(words).map(|line| line.command) {
        Ok(Ours::Train(args)) => train::read(&args.config, &screen.quieted()).ok(),
        Ok(Ours::Resume(args)) => train::recorded(&args.run, &[]).ok(),
        _ => None,
    }?;
    let engine = &loaded.config.engine;
    let nccl = match engine.backend {
        Some(backend) => backend == RankBackend::Nccl,
        None => matches!(engine.device, Device::Cuda(_)),
    };
    nccl.then_some(engine.dist_timeout)
}

/// How much longer than they wait for one another the others may take to end where a rank has failed.
const GRACE: Duration = Duration::from_secs(5);
/// Exit code of a rank that was told to stop.
const STOPPED: u8 = 75;

/// Starts the ranks, which wait so long for one another, and ends as they do: with the code of the first that failed.
pub(super) fn spawn(args: &LaunchArgs, timeout: Duration, screen: &Screen) -> Result<u8, Failure> {
    let program = std::env::current_exe().map_err(|e| Failure::usage(format!("cannot find this program: {e}")))?;
    let meeting = std::env::temp_dir().join(format!("prospect-ranks-{}", std::process::id()));
    let all = args.ranks.to_string();
    let mut signals = Signals::listen()?;
    let mut ranks = Ranks { children: Vec::new(), meeting };
    for rank in 0..args.ranks {
        let number = rank.to_string();
        let mut command = Command::new(&program);
        command.args(&args.command).env("PROSPECT_INIT_METHOD", format!("file://{}", ranks.meeting.display()));
        command.envs([("RANK", &number), ("LOCAL_RANK", &number), ("WORLD_SIZE", &all), ("LOCAL_WORLD_SIZE", &all)]);
        command.env(LAUNCHER, std::process::id().to_string());
        let child = command.spawn().map_err(|e| Failure::usage(format!("cannot start rank {rank}: {e}")))?;
        ranks.children.push(Some(child));
    }
    let mut ended = Ended { code: 0, until: None };
    while ranks.children.iter().any(Option::is_some) {
        signals.pass_to_ranks(ranks.children.iter().flatten());
        for (rank, place) in ranks.children.iter_mut().enumerate() {
            let Some(child) = place else { continue };
            let status = child.try_wait().map_err(|e| Failure::usage(format!("cannot wait for rank {rank}: {e}")))?;
            if let Some(status) = status {
                *place = None;
                ended.with(rank, status, timeout + GRACE, screen);
            }
        }
        if ended.until.is_some_and(|until| Instant::now() >= until) {
            let left: Vec<String> = ranks.left().map(|(rank, _)| rank.to_string()).collect();
            screen.note(format_args!("still there, and killed: rank {}", left.join(", ")));
            return Ok(ended.code);
        }
        std::thread::sleep(AGAIN);
    }
    Ok(ended.code)
}

/// The ranks that have not ended; those that are left end with this.
struct Ranks {
    children: Vec<Option<Child>>,
    /// The file through which they meet.
    meeting: PathBuf,
}

impl Ranks {
    fn left(&mut self) -> impl Iterator<Item = (usize, &mut Child)> {
        self.children.iter_mut().enumerate().filter_map(|(rank, child)| Some((rank, child.as_mut()?)))
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        // Those that have ended since need no signal.
        self.left().for_each(|(_, child)| drop(child.kill()));
        self.left().for_each(|(_, child)| drop(child.wait()));
        // Rank 0 has taken it away, unless it was killed.
        let _ = std::fs::remove_file(&self.meeting);
    }
}

/// What ranks have ended with.
struct Ended {
    code: u8,
    /// When the others are to have ended as well.
    until: Option<Instant>,
}

impl Ended {
    /// Takes in a rank. One that failed by itself says more than those that then missed it.
    fn with(&mut self, rank: usize, status: ExitStatus, patience: Duration, screen: &Screen) {
        let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or_else(|| {
            screen.note(format_args!("rank {rank} was killed ({status}); committed checkpoints are intact: `resume`"));
            PEER
        });
        if self.code == 0 || (self.code == PEER && code != 0) {
            self.code = code;
        }
        if ![0, STOPPED].contains(&code) {
            self.until.get_or_insert_with(|| Instant::now() + patience);
        }
    }
}

/// The process that started a rank.
const LAUNCHER: &str = "PROSPECT_LAUNCHER";

/// A rank whose launcher is killed is told to stop, as by it: it saves and ends.
///
/// Errors: the launcher is gone already.
#[cfg(target_os = "linux")]
pub(super) fn end_with_launcher() -> Result<(), Failure> {
    use rustix::process::{Signal, getppid, set_parent_process_death_signal};
    let Some(launcher) = super::variable(LAUNCHER) else { return Ok(()) };
    let told = set_parent_process_death_signal(Some(Signal::TERM));
    told.map_err(|e| Failure::usage(format!("cannot follow the process that started this rank: {e}")))?;
    // It may have gone before that.
    if getppid().is_none_or(|parent| parent.as_raw_pid().to_string() != launcher) {
        return Err(Failure::usage(format!("the process {launcher}, which started this rank, is gone")));
    }
    Ok(())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn end_with_launcher() -> Result<(), Failure> {
    Ok(())
}
