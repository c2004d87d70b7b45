//! Measures prospect: operators, steps against their floor, whole runs, and other systems beside it.
#![forbid(unsafe_code)]

mod args;
mod arithmetic;
mod beside;
mod child;
mod device;
mod error;
mod generation;
mod job;
mod machine;
mod noise;
mod operators;
mod plain;
mod planned;
mod progress;
mod report;
mod runs;
mod startup;
mod steps;

use args::{Arguments, Tuning};
use clap::Parser;
use device::{Device, Meter, Named, on};
use error::Error;
use job::Case;
use kernels::cuda::Cuda;
use machine::{Gpu, Machine, Rates};
use progress::Progress;
use report::Results;
use runs::Setup;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    match measure(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// What is measured, in the order it is measured in.
struct Parts {
    operators: bool,
    runs: bool,
    steps: bool,
    startup: bool,
    lengths: bool,
    generation: bool,
}

fn measure(arguments: &Arguments) -> Result<(), Error> {
    let all = arguments.everything();
    let parts = Parts {
        operators: all || arguments.operators,
        runs: all || arguments.runs,
        steps: all || arguments.steps,
        startup: all || arguments.startup,
        lengths: all || arguments.lengths,
        generation: all || arguments.generation,
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("bench lies in the repository");
    let binary = parts.runs || parts.startup || parts.generation || !arguments.configs.is_empty();
    let prospect = if binary { prospect(arguments)? } else { PathBuf::new() };
    let device = Device::new(arguments.device, arguments.bf16);
    let meter = if binary { device.meter()? } else { Meter::Resident };
    let scratch = arguments.scratch.clone();
    let scratch =
        scratch.unwrap_or_else(|| std::env::temp_dir().join(format!("prospect-bench-{}", std::process::id())));
    std::fs::create_dir_all(&scratch).map_err(Error::io("make", &scratch))?;
    let setup = Setup {
        prospect: &prospect,
        device: arguments.device,
        meter: &meter,
        peer: arguments.peer.as_deref().map(|python| (python, root.join("bench/peer"))),
        scratch: &scratch,
        rounds: arguments.rounds as usize,
        steps: (arguments.count as usize, arguments.peer_count as usize),
    };
    let mut results = begin(root, arguments, &device, &meter)?;
    let output = output(arguments, root, &results)?;
    let measured = fill(arguments, &parts, (&setup, &device), &output, &mut results);
    if arguments.scratch.is_none() {
        std::fs::remove_dir_all(&scratch).map_err(Error::io("remove", &scratch))?;
    }
    measured?;
    if arguments.json {
        println!("{}", serde_json::to_string(&results).expect("numbers and texts"));
    } else {
        print!("{}", results.markdown());
    }
    eprintln!("results: {}", output.display());
    Ok(())
}

/// The binary that is measured.
fn prospect(arguments: &Arguments) -> Result<PathBuf, Error> {
    let beside = || Some(std::env::current_exe().ok()?.with_file_name("prospect"));
    let path = arguments.prospect.clone().or_else(beside).unwrap_or_default();
    if path.is_file() {
        return Ok(path);
    }
    Err(Error::Usage(format!("no binary at {}; build it with: cargo build --release -p prospect", path.display())))
}

fn begin(root: &Path, arguments: &Arguments, device: &Device, meter: &Meter) -> Result<Results, Error> {
    eprintln!("rates of large products and copies");
    let gpu = match device {
        Device::Cpu { .. } => None,
        Device::Gpu(options) => Some(Gpu::from(Cuda::<f32>::open(options)?.about())),
    };
    Ok(Results {
        date: rundir::time::now(),
        commit: machine::commit(root),
        rustc: machine::ask(root, "rustc", &["--version"]),
        version: env!("CARGO_PKG_VERSION"),
        machine: Machine::look(gpu),
        device: arguments.device.text(),
        bf16: arguments.rounds(),
        keeps: arguments.no_checkpointing,
        memory: meter.name(),
        rates: on!(device, backend => Rates::measure(&backend, device.sizes())),
        operators: Vec::new(),
        attention: Vec::new(),
        runs: Vec::new(),
        steps: Vec::new(),
        generation: Vec::new(),
        plain: Vec::new(),
        startup: Vec::new(),
        lengths: Vec::new(),
        planned: Vec::new(),
    })
}

/// A folder of its own for the results.
fn output(arguments: &Arguments, root: &Path, results: &Results) -> Result<PathBuf, Error> {
    let day = results.date.get(..10).unwrap_or("undated");
    let name = format!("{day}-{}", results.machine.slug());
    let runs = root.join("bench/runs");
    let numbered = || {
        let names = std::iter::once(name.clone()).chain((2..).map(|i| format!("{name}-{i}")));
        names.map(|name| runs.join(name)).find(|path| !path.exists())
    };
    let path = arguments.output.clone().or_else(numbered).expect("numbers do not end");
    std::fs::create_dir_all(&path).map_err(Error::io("make", &path))?;
    Ok(path)
}

/// Writes what there is so far: hours of measuring are not lost to the last part.
fn keep(output: &Path, results: &Results) -> Result<(), Error> {
    let write = |name: &str, text: String| {
        let path = output.join(name);
        std::fs::write(&path, text).map_err(Error::io("write", &path))
    };
    write("result.json", serde_json::to_string_pretty(results).expect("numbers and texts") + "\n")?;
    write("README.md", results.markdown())
}

fn fill(
    arguments: &Arguments,
    parts: &Parts,
    (setup, device): (&Setup, &Device),
    output: &Path,
    results: &mut Results,
) -> Result<(), Error> {
    let cases = cases(arguments);
    let tunings: &[Tuning] = &arguments.tuning;
    let (peer, shapes) = (setup.peer.is_some(), device.sizes().shapes);
    let plain = parts.runs && peer && arguments.device == Named::Cpu && !arguments.bf16;
    let sides = if peer { 2 } else { 1 };
    let count = |measured: bool, n: usize| if measured { n } else { 0 };
    let mut progress = Progress::new(
        count(parts.startup, 1 + cases.len())
            + count(parts.operators, shapes.len())
            + count(parts.operators && peer, shapes.len() * setup.rounds * 2)
            + count(parts.steps, cases.len())
            + count(parts.runs, cases.len() * setup.rounds * sides)
            + count(parts.generation, answered(arguments).len() * setup.rounds * sides)
            + count(plain, tunings.len() * setup.rounds * 2)
            + count(parts.lengths, arguments.models.len().min(1))
            + arguments.configs.len(),
    );
    keep(output, results)?;
    plans(arguments, setup, output, results, &mut progress)?;
    if parts.startup {
        progress.next("prospect --help");
        results.startup.push(startup::help(setup.prospect)?);
        for case in &cases {
            progress.next(&format!("prospect plan: {}", case.title()));
            results.startup.push(startup::plan(case, setup.prospect, setup.scratch)?);
        }
        keep(output, results)?;
    }
    if parts.operators {
        one_by_one(setup, &device.plainly(), output, results, &mut progress)?;
    }
    if parts.steps {
        for case in &cases {
            progress.next(&format!("steps: {}", case.title()));
            let steps = steps::measure(case, setup.steps.0, setup.scratch, device)?;
            results.steps.push(steps);
            keep(output, results)?;
        }
    }
    if parts.lengths {
        // The first model is the smallest by custom, and long rows take long.
        for (name, folder) in arguments.models.iter().take(1) {
            progress.next(&format!("lengths: {name}"));
            results.lengths.extend(plain::lengths(name, folder, 3, &device.plainly())?);
            keep(output, results)?;
        }
    }
    if parts.runs {
        for case in &cases {
            let run = runs::measure(case, setup, &mut progress)?;
            results.runs.push(run);
            keep(output, results)?;
        }
    }
    if parts.generation {
        answers(arguments, setup, output, results, &mut progress)?;
    }
    if plain {
        results.plain = plain::compare(tunings, setup, &mut progress)?;
        keep(output, results)?;
    }
    Ok(())
}

/// Operators by themselves, and attention beside the peer's.
fn one_by_one(
    setup: &Setup,
    device: &Device,
    output: &Path,
    results: &mut Results,
    progress: &mut Progress,
) -> Result<(), Error> {
    for &shape in device.sizes().shapes {
        progress.next(&format!("operators: {}", shape.name));
        results.operators.extend(operators::measure(shape, device)?);
        keep(output, results)?;
        if setup.peer.is_some() {
            results.attention.extend(beside::compare(shape, device, setup, progress)?);
            keep(output, results)?;
        }
    }
    Ok(())
}

/// The configurations that are given as files.
fn plans(
    arguments: &Arguments,
    setup: &Setup,
    output: &Path,
    results: &mut Results,
    progress: &mut Progress,
) -> Result<(), Error> {
    for (name, file) in &arguments.configs {
        progress.next(&format!("plan and run: {name}"));
        results.planned.push(planned::measure(name, file, setup)?);
        keep(output, results)?;
    }
    Ok(())
}

/// Answers of each model.
fn answers(
    arguments: &Arguments,
    setup: &Setup,
    output: &Path,
    results: &mut Results,
    progress: &mut Progress,
) -> Result<(), Error> {
    for (model, data, batch) in answered(arguments) {
        results.generation.push(generation::compare(model, data, batch, setup, progress)?);
        keep(output, results)?;
    }
    Ok(())
}

/// Every model with every number of prompts, which are those of the first rows that are given.
fn answered(arguments: &Arguments) -> Vec<((&str, &Path), &Path, usize)> {
    let prompts = arguments.data().first().map(|(_, file)| file.as_path());
    let models = arguments.models.iter().map(|(name, folder)| (name.as_str(), folder.as_path()));
    models
        .flat_map(|model| prompts.map(|data| generation::BATCHES.map(|batch| (model, data, batch))))
        .flatten()
        .collect()
}

/// Every model with every objective that there are rows for, and every tuning asked for.
fn cases(arguments: &Arguments) -> Vec<Case<'_>> {
    let mut cases = Vec::new();
    for (name, model) in &arguments.models {
        for (objective, data) in arguments.data() {
            for &tuning in &arguments.tuning {
                let batch = arguments.batch(objective);
                let (bf16, keeps, device) = (arguments.rounds(), arguments.no_checkpointing, arguments.device);
                cases.push(Case { name, model, data, objective, tuning, batch, bf16, keeps, device });
            }
        }
    }
    cases
}
