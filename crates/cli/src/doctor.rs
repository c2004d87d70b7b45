//! `doctor`: what this machine has for training, what is in the way, and what to do about it.

use crate::failure::Failure;
use crate::net::{self, NetArgs};
use crate::output;
use crate::score::threads;
use crate::screen::Screen;
use clap::Args;
use hub::{Client, Settings, Silent};
use indicatif::HumanBytes;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::Duration;
use train::{GpuError, Measured};

/// `prospect doctor`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect doctor
  prospect doctor --offline --json
  prospect launch -n 4 doctor --net

The exit code is that of the first thing that keeps this machine from training: 4 memory, 5 numerics, 6 files and disk.
Warnings, a Hub that does not answer among them, leave it at 0.")]
pub(crate) struct DoctorArgs {
    /// Do not ask the Hub.
    #[arg(long)]
    offline: bool,
    /// Print one JSON object per finding: check, state (ok, warning, failed), found, todo; with --net per measurement.
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    net: NetArgs,
}

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ok,
    Warning,
    /// With the exit code it means.
    Failed(u8),
}

impl State {
    fn name(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Failed(_) => "failed",
        }
    }
}

/// What a check found, and what to do about it.
struct Finding {
    check: &'static str,
    state: State,
    found: String,
    todo: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, found: impl Into<String>) -> Finding {
        Finding { check, state: State::Ok, found: found.into(), todo: None }
    }

    fn new(check: &'static str, state: State, found: impl Into<String>, todo: impl Into<String>) -> Finding {
        Finding { check, state, found: found.into(), todo: Some(todo.into()) }
    }
}

/// Less memory than this trains nothing of use.
const LITTLE_MEMORY: u64 = 1 << 30;
/// Less room than this is full after a few checkpoints.
const LITTLE_ROOM: u64 = 2 << 30;

/// `prospect doctor`
pub(crate) fn doctor(args: &DoctorArgs, screen: &Screen) -> Result<u8, Failure> {
    if args.net.net {
        return net::net(&args.net, args.json, screen);
    }
    let settings = Settings::from_env(|name| std::env::var(name).ok());
    let cache = settings.as_ref().map_or_else(|_| PathBuf::from("."), |settings| settings.cache.clone());
    let mut findings = vec![machine(), processors(), memory()];
    findings.push(room("disk here", Path::new(".")));
    findings.push(room("disk of the Hub's cache", &cache));
    findings.push(room("disk for temporary files", &std::env::temp_dir()));
    findings.push(writable());
    findings.extend(gpu());
    findings.push(ranks());
    findings.push(hub_access(settings, args.offline));
    findings.push(training());
    for finding in &findings {
        show(finding, args.json)?;
    }
    let code = findings.iter().find_map(|finding| match finding.state {
        State::Failed(code) => Some(code),
        _ => None,
    });
    Ok(code.unwrap_or(0))
}

fn show(finding: &Finding, json: bool) -> Result<(), Failure> {
    let Finding { check, state, found, todo } = finding;
    if json {
        return output::json(&json!({"check": check, "state": state.name(), "found": found, "todo": todo}));
    }
    output::line(format_args!("{:<8}  {check:<25} {found}", state.name()))?;
    todo.iter().try_for_each(|todo| output::line(format_args!("{:<8}  {:<25} -> {todo}", "", "")))
}

fn machine() -> Finding {
    let version = env!("CARGO_PKG_VERSION");
    let build = if cfg!(debug_assertions) { ", a debug build" } else { "" };
    let found = format!("prospect {version}{build}, {} on {}", std::env::consts::OS, std::env::consts::ARCH);
    match cfg!(debug_assertions) {
        true => {
            Finding::new("program", State::Warning, found, "build with --release: training is several times faster")
        }
        false => Finding::ok("program", found),
    }
}

fn processors() -> Finding {
    let name = std::fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("model name"))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    });
    let features = rundir::lock::cpu_features();
    let found =
        format!("{} threads of {} ({})", threads(), name.as_deref().unwrap_or("this machine"), features.join(" "));
    let wide = features.iter().any(|feature| feature == "avx2" || feature == "aarch64");
    match wide {
        true => Finding::ok("processors", found),
        false => Finding::new("processors", State::Warning, found, "without AVX2 products are several times slower"),
    }
}

/// A figure of /proc/meminfo, bytes.
fn meminfo(key: &str) -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim_start_matches(':').trim().trim_end_matches("kB").trim().parse::<u64>().ok().map(|n| n << 10)
}

fn memory() -> Finding {
    let (Some(free), Some(all)) = (meminfo("MemAvailable"), meminfo("MemTotal")) else {
        return Finding::ok("memory", "this system does not say");
    };
    let found = format!("{} of {} can be had", HumanBytes(free), HumanBytes(all));
    // Weights and moments in f32 of a whole model; an adapter's base alone in bf16.
    let (full, adapter) = (free / 16, free / 3);
    match free < LITTLE_MEMORY {
        true => Finding::new("memory", State::Failed(4), found, "end other programs, or take a machine with more"),
        false => Finding::ok(
            "memory",
            format!(
                "{found}: about {:.1} B parameters with all weights trained, {:.1} B with LoRA; `plan` says exactly",
                full as f64 / 1e9,
                adapter as f64 / 1e9
            ),
        ),
    }
}

/// The nearest folder that is there.
fn existing(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

#[cfg(unix)]
fn free_room(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

#[cfg(not(unix))]
fn free_room(_folder: &Path) -> Option<u64> {
    None
}

fn room(check: &'static str, path: &Path) -> Finding {
    let folder = existing(path);
    let Some(free) = free_room(&folder) else {
        return Finding::ok(check, format!("{}: this system does not say", folder.display()));
    };
    let found = format!("{} free in {}", HumanBytes(free), folder.display());
    match free < LITTLE_ROOM {
        true => Finding::new(
            check,
            State::Warning,
            found,
            "free some, or set output_dir, HF_HUB_CACHE or TMPDIR to another disk",
        ),
        false => Finding::ok(check, found),
    }
}

fn writable() -> Finding {
    let path = Path::new(".").join(format!(".prospect-doctor-{}", std::process::id()));
    let written = std::fs::write(&path, b"x").and_then(|()| std::fs::remove_file(&path));
    match written {
        Ok(()) => Finding::ok("writing here", "works"),
        Err(e) => Finding::new(
            "writing here",
            State::Failed(6),
            e.to_string(),
            "change the folder's permissions, or give an output_dir elsewhere",
        ),
    }
}

/// The first GPU: driver, libraries, memory, a product, attention.
fn gpu() -> Vec<Finding> {
    const CHECK: &str = "GPU";
    let found = match train::examine_gpu(&crate::gpu::options()) {
        Ok(found) => found,
        Err(GpuError::Missing { library, .. }) if library.contains("driver") => {
            let found = "no NVIDIA driver, so the processors compute; device: cuda needs one for CUDA 11.8 or newer";
            return vec![Finding::ok(CHECK, found)];
        }
        Err(error) => {
            let todo = "device: cuda needs a driver for CUDA 11.8, 12 or 13, NVRTC and cuBLASLt of that release or an older one (pip install nvidia-cuda-nvrtc nvidia-cublas; PROSPECT_CUDA_LIBRARIES names their folders) and a GPU since Ampere";
            return vec![Finding::new(CHECK, State::Warning, error.to_string(), todo)];
        }
    };
    let libraries = found.about.libraries.iter().map(|(name, version)| format!(", {name} {version}"));
    let device = format!("{}{}", found.about.name, libraries.collect::<String>());
    let (free, all) = (found.free as u64, found.about.memory as u64);
    let memory = format!("{} of {} can be had", HumanBytes(free), HumanBytes(all));
    let memory = match free < LITTLE_MEMORY {
        true => Finding::new("GPU memory", State::Warning, memory, "end other programs on it (nvidia-smi lists them)"),
        false => Finding::ok("GPU memory", memory),
    };
    vec![
        Finding::ok(CHECK, device),
        memory,
        operator("GPU product", found.product),
        operator("GPU attention", found.attention),
    ]
}

/// An operator of a GPU beside the processor's.
fn operator(check: &'static str, measured: Measured) -> Finding {
    let Measured { rows, rate, gap, .. } = measured;
    let found = format!("{rows} rows in bfloat16, {rate:.3} TFLOP/s, differs from the processor's by {gap:.1e}");
    match measured.is_right() {
        true => Finding::ok(check, found),
        false => {
            let todo = "do not train on this GPU; please report this with the output of `prospect doctor --json`";
            Finding::new(check, State::Failed(5), found, todo)
        }
    }
}

fn ranks() -> Finding {
    match cfg!(feature = "mpi") {
        true => Finding::ok("several ranks", "built with MPI"),
        false => Finding::ok(
            "several ranks",
            "built without MPI: on CPUs one process; --features mpi builds it (docs/ranks.md)",
        ),
    }
}

fn hub_access(settings: Result<Settings, hub::Error>, offline: bool) -> Finding {
    const CHECK: &str = "Hugging Face Hub";
    let todo = "set HF_ENDPOINT to a mirror, HTTPS_PROXY to a proxy, or HF_HUB_OFFLINE=1; local folders need no Hub";
    let asked = settings.and_then(|mut settings| {
        settings.find_token(None)?;
        settings.limits.attempts = 1;
        settings.limits.connect = Duration::from_secs(5);
        settings.limits.idle = Duration::from_secs(10);
        let endpoint = settings.endpoint.clone();
        if offline || settings.offline {
            return Ok(format!("{endpoint} is not asked"));
        }
        Ok(match Client::new(settings)?.reach(&Silent)? {
            Some(name) => format!("{endpoint} answers, and the token is {name}'s"),
            None => format!("{endpoint} answers; no token, which public repositories do not need"),
        })
    });
    match asked {
        Ok(found) => Finding::ok(CHECK, found),
        Err(error) => Finding::new(CHECK, State::Warning, error.to_string(), todo),
    }
}

/// A run of a few steps on a tiny model, in a folder that is gone afterwards.
fn training() -> Finding {
    const CHECK: &str = "a small training run";
    let folder = std::env::temp_dir().join(format!("prospect-doctor-{}", std::process::id()));
    let tried = demo::trial(&folder);
    let _ = std::fs::remove_dir_all(&folder);
    match tried {
        Ok(trial) if trial.loss.is_finite() => Finding::ok(
            CHECK,
            format!("{} steps of KTO in {:.2} s, loss {:.4}", trial.steps, trial.seconds, trial.loss),
        ),
        Ok(trial) => Finding::new(
            CHECK,
            State::Failed(5),
            format!("its loss is {}", trial.loss),
            "please report this with the output of `prospect doctor --json`",
        ),
        Err(error) => Finding::new(
            CHECK,
            State::Failed(error.exit_code().max(1)),
            error.to_string(),
            "set TMPDIR to a folder that can be written; else please report this line",
        ),
    }
}
