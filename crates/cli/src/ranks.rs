//! Several ranks: joining those that a launcher started, starting them, and the script that Slurm starts them with.

mod passed;
mod spawn;

use crate::args::{LaunchArgs, SlurmArgs};
use crate::failure::Failure;
use crate::gpu;
use crate::output::{self, word};
use crate::screen::Screen;
use config::{Device, RankBackend};
use dist::launch::{self, Launch, detect, meeting};
use dist::{Nccl, Rendezvous, World, nccl};
use std::path::Path;
use std::time::Instant;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// This process among several that a launcher started; `None`: alone.
pub(crate) fn launched() -> Result<Option<Launch>, Failure> {
    Ok(detect(variable)?.filter(|launch| launch.size > 1))
}

/// All ranks of this job, which compute on `device`; this process alone where no launcher started several.
pub(crate) fn join(
    launch: Option<&Launch>,
    device: Device,
    backend: Option<RankBackend>,
    screen: &Screen,
) -> Result<World, Failure> {
    let Some(launch) = launch else { return Ok(World::solo()) };
    spawn::end_with_launcher()?;
    let on_gpu = matches!(device, Device::Cuda(_));
    let gpu = if let Device::Cuda(number) = device { number } else { launch::own_gpu(launch, variable).unwrap_or(0) };
    match (launch.launcher.speaks_mpi(), backend) {
        (false, _) => nccl(launch, gpu),
        (true, Some(RankBackend::Nccl)) => over_nccl(launch, gpu, screen),
        (true, None) if on_gpu => over_nccl(launch, gpu, screen),
        (true, _) => over_mpi(launch),
    }
}

fn found(gpu: usize) -> Result<nccl::Found, dist::Error> {
    nccl::Found::open(&nccl::Options { device: gpu, folders: gpu::options().folders })
}

/// Ranks that their launcher does not bring together have a GPU each.
fn nccl(launch: &Launch, gpu: usize) -> Result<World, Failure> {
    let (rank, size, by) = (launch.rank, launch.size, launch.launcher.name());
    let found = found(gpu).map_err(|e| {
        Failure::usage(format!(
            "this is rank {rank} of {size}, started by {by}, whose ranks meet over NCCL: {e}. On CPUs start them with `prospect launch -n {size}`, mpirun or srun"
        ))
    })?;
    let until = Instant::now() + dist::TIMEOUT;
    let machine = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| variable("HOSTNAME"));
    let machine = machine.map_or_else(|| "this machine".to_owned(), |name| name.trim().to_owned());
    let channel = Rendezvous::join(&meeting(launch, machine, variable)?, until)?;
    Ok(World::new(Box::new(Nccl::join(found, Box::new(channel), until)?), dist::TIMEOUT)?)
}

/// Where a launcher starts several ranks of a machine and the configuration names no GPU, each takes its own.
pub(crate) fn own_gpu(loaded: &mut config::Loaded) {
    loaded.stages.iter_mut().for_each(own_gpu);
    let device = &mut loaded.config.engine.device;
    let launch = launched().ok().flatten();
    if let (Device::Cuda(0), Some(own)) = (&device, launch.and_then(|launch| launch::own_gpu(&launch, variable))) {
        *device = Device::Cuda(own);
    }
}

#[cfg(feature = "mpi")]
fn over_mpi(launch: &Launch) -> Result<World, Failure> {
    Ok(World::new(Box::new(mpi(launch)?), dist::TIMEOUT)?)
}

/// NCCL, whose id goes over MPI; where a rank has none, MPI.
#[cfg(feature = "mpi")]
fn over_nccl(launch: &Launch, gpu: usize, screen: &Screen) -> Result<World, Failure> {
    let (mpi, until) = (mpi(launch)?, Instant::now() + dist::TIMEOUT);
    let found = found(gpu);
    let engine: Box<dyn dist::Comm> = match (mpi.all(found.is_ok(), until)?, found) {
        (true, Ok(found)) => Box::new(Nccl::join(found, Box::new(mpi), until)?),
        (_, found) => {
            let why = found.err().map_or_else(|| "another rank has none".to_owned(), |e| e.to_string());
            screen.note(format_args!("no NCCL, ranks exchange over MPI: {why}"));
            Box::new(mpi)
        }
    };
    Ok(World::new(engine, dist::TIMEOUT)?)
}

#[cfg(feature = "mpi")]
fn mpi(launch: &Launch) -> Result<dist::Mpi, Failure> {
    let (size, by) = (launch.size, launch.launcher.name());
    let mpi = dist::Mpi::start()?;
    let found = dist::Comm::size(&mpi);
    if found != size {
        return Err(Failure::usage(format!(
            "{by} started {size} ranks, and MPI knows {found}: the launcher and the MPI this program is linked with do not belong together (with srun, try `--mpi=pmix` or `--mpi=pmi2`)"
        )));
    }
    Ok(mpi)
}

/// Without MPI ranks on GPUs meet as those of torchrun do.
#[cfg(not(feature = "mpi"))]
fn over_nccl(launch: &Launch, gpu: usize, _: &Screen) -> Result<World, Failure> {
    nccl(launch, gpu)
}

#[cfg(not(feature = "mpi"))]
fn over_mpi(launch: &Launch) -> Result<World, Failure> {
    let (rank, size, by) = (launch.rank, launch.size, launch.launcher.name());
    Err(Failure::usage(format!("this is rank {rank} of {size}, started by {by}. {NO_MPI}")))
}

#[cfg(not(feature = "mpi"))]
const NO_MPI: &str = "This program was built without `mpi`, over which ranks on CPUs meet: build it with `cargo build --release --features mpi` (Debian: apt-get install libopenmpi-dev openmpi-bin)";

/// `prospect launch`: ranks over NCCL are processes of ours, those over MPI mpirun's.
pub(crate) fn launch(args: &LaunchArgs, screen: &Screen) -> Result<u8, Failure> {
    match spawn::over_nccl(&args.command, screen) {
        Some(timeout) => spawn::spawn(args, timeout, screen),
        None => mpirun(args, screen),
    }
}

#[cfg(not(feature = "mpi"))]
fn mpirun(_: &LaunchArgs, _: &Screen) -> Result<u8, Failure> {
    Err(Failure::usage(NO_MPI))
}

/// `mpirun` with this program.
#[cfg(feature = "mpi")]
fn mpirun(args: &LaunchArgs, screen: &Screen) -> Result<u8, Failure> {
    use std::process::Command;
    let program = std::env::current_exe().map_err(|e| Failure::usage(format!("cannot find this program: {e}")))?;
    let version = Command::new("mpirun").arg("--version").output().map_err(|e| {
        Failure::usage(format!(
            "cannot run mpirun: {e}; install the MPI this program was built with (Debian: apt-get install openmpi-bin)"
        ))
    })?;
    let open_mpi = String::from_utf8_lossy(&version.stdout).contains("Open MPI");
    let mut command = Command::new("mpirun");
    command.args(["-n", &args.ranks.to_string()]);
    if open_mpi && args.ranks as usize > std::thread::available_parallelism().map_or(1, usize::from) {
        screen.note("more ranks than processors: they take turns");
        command.arg("--oversubscribe");
    }
    // A terminal's Ctrl-C would have it kill its ranks before they have saved.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let mut signals = passed::Signals::listen()?;
    let child = command.arg(program).args(&args.command).stdin(std::process::Stdio::null()).spawn();
    let failed = |e: std::io::Error| Failure::usage(format!("cannot run mpirun: {e}"));
    let mut child = child.map_err(failed)?;
    let status = loop {
        signals.pass_to_mpirun(&child);
        match child.try_wait().map_err(failed)? {
            Some(status) => break status,
            None => std::thread::sleep(passed::AGAIN),
        }
    };
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    // A rank that was killed could not say so, and mpirun's code is that of its signal.
    Ok(code.filter(|code| *code < 128 || *code == INTERRUPTED).unwrap_or_else(|| {
        screen.note("a rank was killed (mpirun says which); committed checkpoints are intact: `resume`");
        PEER
    }))
}

/// Exit code where another rank failed.
const PEER: u8 = 7;
/// Exit code after a second interrupt.
#[cfg(feature = "mpi")]
const INTERRUPTED: u8 = 130;

/// `prospect slurm`: a script for `sbatch`.
pub(crate) fn slurm(args: &SlurmArgs, screen: &Screen) -> Result<u8, Failure> {
    let text = std::fs::read_to_string(&args.config).map_err(|e| Failure::file("read", &args.config, &e))?;
    let overrides = config::split_overrides(&args.overrides)?;
    // A script for a configuration that is wrong would fail hours later.
    let loaded = config::load(&args.config.display().to_string(), &text, &overrides)?;
    let script = script(args, &loaded);
    match &args.output {
        None => output::line(script.trim_end())?,
        Some(path) => {
            std::fs::write(path, &script).map_err(|e| Failure::file("write", path, &e))?;
            screen.line(format_args!("submit         sbatch {}", word(path)));
        }
    }
    Ok(0)
}

fn script(args: &SlurmArgs, loaded: &config::Loaded) -> String {
    let saving = &loaded.config.saving;
    let name = saving.output_dir.file_name().map_or_else(|| "prospect".into(), |n| n.to_string_lossy().into_owned());
    let name: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let per_node = args.tasks.or(args.gpus).unwrap_or(1);
    let mut head =
        vec![format!("job-name={name}"), format!("nodes={}", args.nodes), format!("ntasks-per-node={per_node}")];
    head.extend(args.gpus.map(|n| format!("gpus-per-node={n}")));
    head.extend(args.cpus.map(|n| format!("cpus-per-task={n}")));
    head.extend(args.time.as_ref().map(|t| format!("time={t}")));
    head.extend(args.partition.as_ref().map(|p| format!("partition={p}")));
    head.push(format!("signal=TERM@{}", args.signal));
    head.extend(["requeue", "open-mode=append", "output=slurm-%j.log"].map(str::to_owned));
    let head: String = head.iter().map(|line| format!("#SBATCH --{line}\n")).collect();
    // Without MPI ranks on GPUs meet there.
    let meeting = match args.gpus {
        Some(_) => {
            "export MASTER_ADDR=$(scontrol show hostnames \"$SLURM_JOB_NODELIST\" | head -n 1) MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))\n"
        }
        None => "",
    };
    let words: Vec<String> = args.overrides.iter().map(|w| word(Path::new(w))).collect();
    let train = [&["prospect".to_owned(), "train".to_owned(), word(&args.config)], &words[..]].concat().join(" ");
    format!(
        "#!/bin/bash\n{head}
# Written by `prospect slurm`. {all} ranks; a step has the rows of all of them unless train_batch_size is set.
# Slurm sends SIGTERM to the ranks {signal} s before the time is up: they save and end with 75, and the job is queued again. It then goes
# on from its newest checkpoint that verifies; so does one that Slurm itself queues again after a node has failed.
{meeting}srun --mpi={mpi} --kill-on-bad-exit=1 {train} resume_from_checkpoint=true
code=$?
if [ \"$code\" -eq 75 ]; then
    scontrol requeue \"$SLURM_JOB_ID\"
fi
exit \"$code\"
",
        all = args.nodes * per_node,
        signal = args.signal,
        mpi = args.mpi,
    )
}
