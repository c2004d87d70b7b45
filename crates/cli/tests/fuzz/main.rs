//! Broken files by the thousand: mutated seeds through every parser of outside bytes, which may refuse them and do nothing else.
//!
//! Without arguments (as in `cargo test`) every target gets its seeds, the cases that were found once, and a few hundred mutations,
//! the same in every run. `TARGET --seconds N` goes on for N seconds; what breaks is left in `fuzz-TARGET-found`.

mod mutate;
mod outside;
mod seeds;
mod targets;

use mutate::{Draw, mutate};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use targets::{TARGETS, Target};

/// Mutations of a target in a test run.
const SHORT: u64 = 300;
/// Processor time that one input may take.
const PATIENCE: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let seconds = arguments.iter().position(|a| a == "--seconds").and_then(|at| arguments.get(at + 1)?.parse().ok());
    let start = arguments.iter().position(|a| a == "--seed").and_then(|at| arguments.get(at + 1)?.parse().ok());
    let named: Vec<&Target> = TARGETS.iter().filter(|target| arguments.iter().any(|a| a == target.name)).collect();
    let chosen: Vec<&Target> = if named.is_empty() { TARGETS.iter().collect() } else { named };
    std::panic::set_hook(Box::new(|_| {}));
    let mut found = 0;
    for target in chosen {
        let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        found += run(target, until, start.unwrap_or(0));
    }
    if found == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs a target and returns how many inputs broke it.
fn run(target: &Target, until: Option<Instant>, start: u64) -> usize {
    let folder = std::env::temp_dir().join(format!("prospect-fuzz-{}-{}", target.name, std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let mut corpus = seeds::of(target.name);
    corpus.extend(kept(target.name));
    let began = Instant::now();
    let watched = watch(target.name);
    let (mut runs, mut found) = (0_u64, Vec::<String>::new());
    for input in corpus.clone() {
        runs += 1;
        found.extend(one(target, &folder, &input, &watched));
    }
    let mut draw = Draw::new(start);
    loop {
        let more = until.map_or(runs < SHORT + corpus.len() as u64, |until| Instant::now() < until);
        if !more || found.len() > 20 {
            break;
        }
        let base = draw.below(corpus.len());
        let other = draw.below(corpus.len());
        let input = mutate(&corpus[base], &corpus[other], target.words, &mut draw);
        runs += 1;
        if let Some(what) = one(target, &folder, &input, &watched) {
            let path = PathBuf::from(format!("fuzz-{}-found", target.name)).join(format!("{runs}"));
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &input).unwrap();
            eprintln!("fuzz {}: {what}: {}", target.name, path.display());
            found.push(what);
        } else if until.is_some() && corpus.len() < 4000 && draw.below(200) == 0 {
            // Mutations of mutations reach further.
            corpus.push(input);
        }
    }
    watched.store(0, Ordering::SeqCst);
    let _ = std::fs::remove_dir_all(&folder);
    let seconds = began.elapsed().as_secs_f64();
    println!("fuzz {}: {runs} inputs in {seconds:.1} s, {} broke it", target.name, found.len());
    found.iter().for_each(|what| println!("  {what}"));
    found.len()
}

/// Gives a target one input; says what broke, if anything did.
fn one(target: &Target, folder: &Path, input: &[u8], watched: &AtomicU64) -> Option<String> {
    let path = folder.join(target.file);
    std::fs::write(&path, input).unwrap();
    watched.store(1 + processor_time().as_millis() as u64, Ordering::SeqCst);
    let done = catch_unwind(AssertUnwindSafe(|| (target.run)(&path, input)));
    watched.store(0, Ordering::SeqCst);
    done.err().map(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        text.or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned())).unwrap_or_default()
    })
}

/// Ends the process when an input takes too long; zero means that none is under way.
fn watch(name: &'static str) -> Arc<AtomicU64> {
    let since = Arc::new(AtomicU64::new(0));
    let seen = Arc::clone(&since);
    std::thread::spawn(move || {
        while Arc::strong_count(&seen) > 1 {
            std::thread::park_timeout(Duration::from_millis(500));
            let began = seen.load(Ordering::SeqCst);
            let took = (processor_time().as_millis() as u64).saturating_sub(began);
            if began > 0 && took > PATIENCE.as_millis() as u64 {
                eprintln!(
                    "fuzz {name}: an input takes more than {PATIENCE:?}; it is the last one in the temporary folder"
                );
                std::process::exit(1);
            }
        }
    });
    since
}

#[cfg(unix)]
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(not(unix))]
fn processor_time() -> Duration {
    Duration::ZERO
}

/// Cases that broke a target once.
fn kept(target: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/fuzz").join(target);
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).unwrap()).collect()
}
