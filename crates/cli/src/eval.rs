//! `eval`: benchmarks, asked and graded.

use crate::asking::DeviceArgs;
use crate::failure::Failure;
use crate::output::{self, Side};
use crate::progress::Bar;
use crate::score::threads;
use crate::screen::Screen;
use clap::Args;
use eval::compare::{Comparison, compare};
use eval::stats::Estimate;
use eval::{Candidate, Event, Marks, Outcome, PromptType, Settings, Slice, Task};
use infer::ModelFolder;
use serde_json::json;
use std::path::{Path, PathBuf};

/// `prospect eval`
#[derive(Args)]
#[command(after_help = "\
Examples:
  prospect eval runs/kto/merged --benchmarks gsm8k,math500 --data eval/data
  prospect eval models/base --benchmarks amc23 --data eval/data --prompt-type qwen-boxed --n-sampling 8
  prospect eval models/base runs/kto --benchmarks gsm8k --data eval/data
  prospect eval models/base --benchmarks mine.yaml

A benchmark of your own is a JSONL file and a YAML file with `file`, and as needed `name`, `question`, `answer`, `boxed: true`
(the answer is the last \\boxed{} of its field) and `rules` (the benchmark whose rules of extraction hold).
An evaluation that was stopped goes on where it was when it is run again.")]
pub(crate) struct EvalArgs {
    /// Model folders, runs, or adapters whose base model is where they say; with several, each is compared with the first.
    #[arg(value_name = "MODEL", required = true)]
    models: Vec<PathBuf>,
    /// Benchmarks: names, or YAML files that describe one.
    #[arg(
        long,
        value_name = "LIST",
        value_delimiter = ',',
        default_value = "aime24,amc23,gsm8k,math500,minerva_math,olympiadbench"
    )]
    benchmarks: Vec<String>,
    /// Where the benchmarks are, each as NAME/test.jsonl.
    #[arg(long, value_name = "DIR", default_value = "data")]
    data: PathBuf,
    /// A LoRA adapter for the model.
    #[arg(long, value_name = "DIR", conflicts_with = "base")]
    adapter: Option<PathBuf>,
    /// The base model of those MODELs that are adapters, in place of the one they name.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Where results go [default: evals/MODEL]; with several models, a folder each below it.
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// How questions are put: cot, direct, qwen-boxed, qwen25-math-cot, deepseek-math, mathstral, openseek_sft, r1.
    #[arg(long, value_name = "TYPE", default_value = "cot", value_parser = prompt_type)]
    prompt_type: PromptType,
    /// Wrap the prompt as a user's turn of the model's chat template.
    #[arg(long)]
    apply_chat_template: bool,
    /// Divides the logits; 0 always takes the most likely token.
    #[arg(long, value_name = "T", default_value_t = 0.6, allow_negative_numbers = true)]
    temperature: f64,
    /// Draw among the most likely tokens up to this total probability.
    #[arg(long, value_name = "P", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Answers to each question.
    #[arg(long, value_name = "N", default_value_t = 1)]
    n_sampling: usize,
    /// Tokens of an answer at most.
    #[arg(long, value_name = "N", default_value_t = 3072)]
    max_tokens_per_call: usize,
    /// Of the draws.
    #[arg(long, value_name = "S", default_value_t = 1)]
    seed: u64,
    /// The first N rows of each benchmark only; -1 for all.
    #[arg(long, value_name = "N", default_value_t = -1, allow_negative_numbers = true)]
    num_test_sample: i64,
    /// Of those, from this one.
    #[arg(long, value_name = "I", default_value_t = 0)]
    start: usize,
    /// Up to but without this one; -1 for all.
    #[arg(long, value_name = "I", default_value_t = -1, allow_negative_numbers = true)]
    end: i64,
    #[command(flatten)]
    device: DeviceArgs,
    /// Begin anew where results are there already.
    #[arg(long)]
    overwrite: bool,
    /// Print the metrics as one JSON object.
    #[arg(long)]
    json: bool,
}

fn prompt_type(name: &str) -> Result<PromptType, String> {
    PromptType::from_name(name).map_err(|e| e.to_string())
}

/// A model's results.
struct Examined {
    name: String,
    output: PathBuf,
    outcomes: Vec<Outcome>,
    /// Mean of the benchmarks' accuracies, in percent, with what the folder held before.
    final_acc: f64,
}

/// `prospect eval`
pub(crate) fn eval(args: &EvalArgs, screen: &Screen) -> Result<u8, Failure> {
    let slice = Slice { num_test_sample: args.num_test_sample, start: args.start, end: args.end };
    let settings = Settings {
        prompt_type: args.prompt_type,
        apply_chat_template: args.apply_chat_template,
        temperature: args.temperature,
        top_p: args.top_p,
        n_sampling: args.n_sampling,
        max_tokens_per_call: args.max_tokens_per_call,
        seed: args.seed,
        slice,
    };
    settings.check()?;
    let read = |name: &String| Task::read(name, &args.data, slice);
    let tasks = args.benchmarks.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    if let Some(twice) = (1..tasks.len()).find(|&i| tasks[..i].iter().any(|task| task.name == tasks[i].name)) {
        return Err(Failure::usage(format!("--benchmarks: {} is there twice", tasks[twice].name)));
    }
    let mut examined: Vec<Examined> = Vec::new();
    for (model, output) in args.models.iter().zip(outputs(args)?) {
        let (folder, adapter) = ModelFolder::stands_for(model, args.adapter.as_deref(), args.base.as_deref())?;
        let candidate = Candidate::open(&folder, adapter.as_deref(), args.device.device())?;
        let name = model.display().to_string();
        let mut bar: Option<(String, Bar)> = None;
        let to = (output.as_path(), args.overwrite);
        let outcomes = eval::evaluate(&candidate, &tasks, &settings, to, threads(), &mut |event| match event {
            Event::Note(text) => screen.note(text),
            Event::Progress { task, done, total } => {
                if bar.as_ref().is_none_or(|(of, _)| *of != task) {
                    bar = Some((task.clone(), Bar::new(screen, &format!("{name}: {task}"))));
                }
                if let Some((_, bar)) = &mut bar {
                    bar.set(done, total);
                }
            }
        })?;
        drop(bar);
        let (_, final_acc) = eval::final_result(&output, &settings.run_name())?;
        let pages: Vec<_> =
            outcomes.iter().map(|o| (o.marks.task.clone(), o.files.clone(), o.metrics.clone())).collect();
        eval::overview(&output, &name, &pages)?;
        examined.push(Examined { name, output, outcomes, final_acc });
    }
    if args.json { as_json(&examined, &settings) } else { as_tables(&examined, &settings, screen) }
}

/// Where each model's results go.
fn outputs(args: &EvalArgs) -> Result<Vec<PathBuf>, Failure> {
    let short = |model: &PathBuf| {
        let model = std::path::absolute(model).unwrap_or_else(|_| model.clone());
        let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
        // A run's result is named after the run.
        let parent = model.parent().and_then(name).filter(|_| model.ends_with("final") || model.ends_with("merged"));
        let own = name(&model).unwrap_or_else(|| "model".into());
        parent.map_or(own.clone(), |parent| format!("{parent}-{own}"))
    };
    if let (Some(output), [_]) = (&args.output, &args.models[..]) {
        return Ok(vec![output.clone()]);
    }
    let root = args.output.clone().unwrap_or_else(|| "evals".into());
    let all: Vec<PathBuf> = args.models.iter().map(|model| root.join(short(model))).collect();
    match (1..all.len()).find(|&i| all[..i].contains(&all[i])) {
        Some(i) => {
            Err(Failure::usage(format!("two models would write to {}; evaluate them one by one", all[i].display())))
        }
        None => Ok(all),
    }
}

fn as_json(examined: &[Examined], settings: &Settings) -> Result<u8, Failure> {
    let of = |model: &Examined| -> Result<serde_json::Value, Failure> {
        let mut benchmarks = serde_json::Map::new();
        for outcome in &model.outcomes {
            let path = outcome.files.metrics();
            let bytes = std::fs::read(&path).map_err(|e| Failure::file("read", &path, &e))?;
            benchmarks.insert(outcome.marks.task.clone(), serde_json::from_slice(&bytes).unwrap_or_default());
        }
        Ok(json!({"model": model.name, "output": model.output, "final_acc": model.final_acc, "benchmarks": benchmarks}))
    };
    let models = examined.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    let comparisons: Vec<_> = comparisons(examined, settings)
        .into_iter()
        .map(|(model, task, c)| {
            json!({
                "model": model, "against": examined[0].name, "benchmark": task, "rows": c.rows, "won": c.won, "lost": c.lost,
                "difference": 100.0 * c.difference.value,
                "ci95": [100.0 * c.difference.low, 100.0 * c.difference.high], "p": c.p,
            })
        })
        .collect();
    output::json(&json!({"run": settings.run_name(), "models": models, "comparisons": comparisons}))?;
    Ok(0)
}

fn as_tables(examined: &[Examined], settings: &Settings, screen: &Screen) -> Result<u8, Failure> {
    let several = settings.n_sampling > 1;
    for model in examined {
        let mut sides = vec![Side::Left];
        let mut head = ["benchmark", "rows", "acc", "95 % interval", "strict"].map(str::to_owned).to_vec();
        let ks: Vec<usize> = model.outcomes[0].metrics.pass_at.iter().map(|(k, _)| *k).filter(|k| *k > 1).collect();
        head.extend(ks.iter().map(|k| format!("pass@{k}")));
        if several {
            head.push(format!("maj@{}", settings.n_sampling));
        }
        head.extend(["tokens", "cut off", "empty"].map(str::to_owned));
        sides.resize(head.len(), Side::Right);
        let mut rows = vec![head];
        rows.extend(model.outcomes.iter().map(|outcome| cells(outcome, several)));
        output::line(&model.name)?;
        output::table(&sides, &rows)?;
        output::line(format_args!("mean of benchmarks  {:.2} %\n", model.final_acc))?;
        screen.line(format_args!("answers to read: {}", model.output.join("index.html").display()));
    }
    let found = comparisons(examined, settings);
    if !found.is_empty() {
        output::line(format_args!("against {}", examined[0].name))?;
        let head = ["model", "benchmark", "rows", "difference", "95 % interval", "won", "lost", "p"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        rows.extend(found.into_iter().map(|(model, task, c)| {
            vec![
                model,
                task,
                c.rows.to_string(),
                format!("{:+.2}", 100.0 * c.difference.value),
                interval(&c.difference),
                c.won.to_string(),
                c.lost.to_string(),
                format!("{:.4}", c.p),
            ]
        }));
        let mut sides = vec![Side::Right; head.len()];
        sides[..2].fill(Side::Left);
        output::table(&sides, &rows)?;
    }
    Ok(0)
}

fn interval(e: &Estimate) -> String {
    format!("{:.2} to {:.2}", 100.0 * e.low, 100.0 * e.high)
}

fn cells(outcome: &Outcome, several: bool) -> Vec<String> {
    let metrics = &outcome.metrics;
    let percent = |x: f64| format!("{:.2}", 100.0 * x);
    let mut cells = vec![
        outcome.marks.task.clone(),
        metrics.num_samples.to_string(),
        percent(metrics.mean_acc.value),
        interval(&metrics.mean_acc),
        percent(metrics.strict_acc.value),
    ];
    cells.extend(metrics.pass_at.iter().filter(|(k, _)| *k > 1).map(|(_, x)| percent(*x)));
    if several {
        cells.push(metrics.maj_at.last().map_or(String::new(), |(_, x)| percent(*x)));
    }
    cells.extend([
        format!("{:.0}", metrics.tokens.mean),
        percent(metrics.truncated),
        metrics.empty_samples.to_string(),
    ]);
    cells
}

/// Every model but the first against the first: benchmark by benchmark, then over all rows.
fn comparisons(examined: &[Examined], settings: &Settings) -> Vec<(String, String, Comparison)> {
    let Some((first, others)) = examined.split_first() else { return Vec::new() };
    let marks = |model: &Examined| model.outcomes.iter().map(|o| o.marks.clone()).collect::<Vec<Marks>>();
    let (base, mut found) = (marks(first), Vec::new());
    for model in others {
        let own = marks(model);
        let each =
            base.iter().zip(&own).map(|(a, b)| (a.task.clone(), std::slice::from_ref(a), std::slice::from_ref(b)));
        let all = (own.len() > 1).then(|| ("all rows".to_owned(), &base[..], &own[..]));
        for (task, a, b) in each.chain(all) {
            found.extend(compare(a, b, settings.seed).map(|comparison| (model.name.clone(), task, comparison)));
        }
    }
    found
}
