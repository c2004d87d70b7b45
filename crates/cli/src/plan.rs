//! `plan`: what a run would do and take.

use crate::args::{PlanArgs, Ranks};
use crate::failure::Failure;
use crate::output::{self, Side, number, table};
use crate::progress::Watch;
use crate::screen::Screen;
use crate::train::{load_with, read};
use crate::whatif::{self, Target};
use config::{Config, Interval, Loaded, Tuning};
use data::Clock;
use serde_json::{Value, json};
use train::{Job, Pace, Plan, Team};

/// Columns of the learning-rate curve.
const CURVE: usize = 48;

/// `prospect plan`
pub(crate) fn plan(args: &PlanArgs, screen: &Screen) -> Result<u8, Failure> {
    if let Some(nodes) = args.nodes {
        return crate::spread::plan(args, nodes, &read(&args.config, screen)?);
    }
    let ranks = match args.ranks {
        Some(Ranks::Simulated(ranks)) => return crate::simulated::plan(args, ranks as usize, screen),
        Some(Ranks::Each(ranks)) => Some(ranks),
        None => None,
    };
    if let Some(asked) = &args.what_if {
        return whatif::compare(args, asked, screen);
    }
    let target = Target::of(args)?;
    let loaded = load_with(&args.config, &whatif::settings(args, target.as_ref()), screen)?;
    show(loaded, args.json, Asked { rehearse: false, ranks, target: target.as_ref() }, screen)
}

/// What is to be shown beside a run's plan.
struct Asked<'a> {
    rehearse: bool,
    ranks: Option<u32>,
    target: Option<&'a Target>,
}

/// `prospect train --dry-run`
pub(crate) fn rehearse(loaded: Loaded, json: bool, screen: &Screen) -> Result<u8, Failure> {
    show(loaded, json, Asked { rehearse: true, ranks: None, target: None }, screen)
}

/// Plans a run, or each stage of one. A stage that begins with what another leaves is planned from the model it comes from.
fn show(loaded: Loaded, json: bool, asked: Asked, screen: &Screen) -> Result<u8, Failure> {
    let Asked { rehearse, ranks, target } = asked;
    let mut configs = vec![loaded.config];
    let staged = !loaded.stages.is_empty();
    if staged {
        let base = configs.remove(0).model.path;
        configs = loaded.stages.into_iter().map(|stage| stage.config).collect();
        for config in configs.iter_mut().filter(|config| !config.model.path.exists()) {
            config.model.path.clone_from(&base);
        }
    }
    for (n, mut config) in (1..).zip(configs) {
        train::over_ranks(&mut config, ranks.unwrap_or(1) as usize);
        if staged && !json {
            output::line(format_args!("{}stage {n}", if n > 1 { "\n" } else { "" }))?;
        }
        if let Tuning::Adapter { path, .. } = &config.tuning
            && staged
            && !path.exists()
        {
            screen.note(format_args!(
                "stage {n} goes on with {}, which is not there yet: planned when it is",
                path.display()
            ));
            continue;
        }
        let mut watch = Watch::new(screen);
        let mut job = Job::new(config, Clock::now(), &mut |event| watch.event(event))?;
        watch.finish();
        crate::gpu::ask(&mut job, screen);
        job.notes.iter().for_each(|note| screen.note(note));
        let plan = Plan::over(&job, Team::of(&job, ranks.unwrap_or(1) as usize))?;
        let rates = train::learning_rates(&job);
        if rehearse {
            train::rehearse(&job)?.iter().for_each(|note| screen.note(note));
        }
        let pace = target.map(|target| {
            let device = target.rates(&job);
            (Pace::new(&job, &plan, &device), device, target)
        });
        match json {
            true => {
                let mut line = as_json(&job, &plan, &rates);
                if let Some((pace, device, _)) = &pace {
                    line["pace"] = whatif::pace_json(pace, device);
                }
                output::json(&line)?;
            }
            false => as_text(&job, &plan, &rates, pace.as_ref().map(|(pace, _, target)| (pace, *target)))?,
        }
    }
    if rehearse {
        screen.line("dry run: model and data were loaded; nothing was trained or written");
    }
    Ok(0)
}

fn as_text(job: &Job, plan: &Plan, rates: &[f64], pace: Option<(&Pace, &Target)>) -> Result<(), Failure> {
    for line in train::opening(job, plan) {
        output::line(line)?;
    }
    output::line("\nrows")?;
    indented(rows(job))?;
    output::line("\nlearning rate")?;
    indented(learning_rates(rates))?;
    output::line(format_args!("  {}", curve(rates)))?;
    output::line(format_args!("\nmemory\n{}", plan.memory_table().trim_end()))?;
    if let Some((pace, target)) = pace {
        output::line("\npace")?;
        indented(whatif::pace_lines(pace, target))?;
    }
    output::line(format_args!("\nfiles in {}", job.config.saving.output_dir.display()))?;
    indented(files(job, plan))
}

/// Names and facts, names two blanks from the edge.
fn indented(facts: Vec<(String, String)>) -> Result<(), Failure> {
    let row = |(name, fact): (String, String)| vec![format!("  {name}"), fact];
    table(&[Side::Left, Side::Left], &facts.into_iter().map(row).collect::<Vec<_>>())
}

fn rows(job: &Job) -> Vec<(String, String)> {
    let report = &job.train.data.report;
    let count = |name: &str, n: usize| (name.to_owned(), n.to_string());
    let mut facts = vec![count("read", report.rows_read), count("trained on", job.train.data.len())];
    if job.kto().is_some() {
        let (desirable, undesirable) = job.train.data.label_counts();
        facts.extend([count("  desirable", desirable), count("  undesirable", undesirable)]);
    }
    if let Some(bins) = &job.train.bins {
        facts.push(count("packed into bins", bins.len()));
    }
    facts.extend(job.eval.as_ref().map(|eval| count("evaluated on", eval.data.len())));
    let lost = [
        ("bad, skipped", report.bad),
        ("cut to max_length", report.truncated),
        ("longer than max_length, dropped", report.dropped_too_long),
        ("nothing left to train on, dropped", report.dropped_prompt_only),
    ];
    facts.extend(lost.into_iter().filter(|(_, n)| *n > 0).map(|(name, n)| count(name, n)));
    facts.push(("tokens".to_owned(), format!("{}, {} of them predicted", report.tokens, report.loss_tokens)));
    facts.push(("longest row".to_owned(), format!("{} tokens", report.longest)));
    facts
}

/// The first step, the peak, and the last.
fn learning_rates(rates: &[f64]) -> Vec<(String, String)> {
    let peak = (0..rates.len()).fold(0, |best, i| if rates[i] > rates[best] { i } else { best });
    let mut steps = vec![0, peak, rates.len() / 2, rates.len().saturating_sub(1)];
    steps.sort_unstable();
    steps.dedup();
    let at = |i: usize| Some((format!("step {}", i + 1), number(*rates.get(i)?)));
    steps.into_iter().filter_map(at).collect()
}

/// The rates as a row of bars, from 0 to the peak.
fn curve(rates: &[f64]) -> String {
    const BARS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let peak = rates.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let columns = rates.len().min(CURVE);
    let bar = |c: usize| BARS[((rates[c * rates.len() / columns] / peak) * 7.0).round() as usize];
    (0..columns).map(bar).collect()
}

/// What the run will write, and about how much.
fn files(job: &Job, plan: &Plan) -> Vec<(String, String)> {
    let megabytes = |bytes: usize| format!("about {:.1} MB", bytes as f64 / 1e6);
    let fact = |name: &str, what: &str| (name.to_owned(), what.to_owned());
    let mut files = vec![
        fact("config.yaml, inputs/, lock.json", "the configuration, the files given, hashes of model and data"),
        fact("log.jsonl, train.log", "one record per logged step, as JSON and as text"),
    ];
    if job.config.logging.tensorboard {
        files.push(fact("tensorboard/", "the same as event files"));
    }
    let saved = checkpoints(&job.config, job.total_steps);
    // Weights and two moments, in float32.
    let each = megabytes(12 * plan.trainable);
    let kept = job.config.saving.total_limit.map_or(String::new(), |n| format!(", the last {n} and the best kept"));
    match saved.as_slice() {
        [] => {}
        [one] => files.push((format!("checkpoint-{one}/"), each)),
        [first, .., last] => {
            let name = format!("checkpoint-{first}/ ... checkpoint-{last}/");
            files.push((name, format!("{} checkpoints, each {each}{kept}", saved.len())));
        }
    }
    let layout = if matches!(job.config.tuning, Tuning::Full | Tuning::Blocks(_)) {
        "a model in the Hugging Face layout"
    } else {
        "an adapter in the PEFT layout"
    };
    files.push(("final/".to_owned(), format!("the result, {layout}, {}", megabytes(4 * plan.trainable))));
    files.push(fact("plots/, README.md", "curves as SVG and PNG, the model card"));
    files
}

/// Steps after which a checkpoint is written, as far as they are known before the run.
fn checkpoints(config: &Config, total: usize) -> Vec<usize> {
    let every = |n: usize| (1..=total).filter(|step| step % n == 0).chain([total]).collect();
    let mut steps: Vec<usize> = match config.saving.every {
        Interval::Never => Vec::new(),
        Interval::Steps(n) => every(n),
        Interval::Share(share) => every(((share * total as f64).ceil() as usize).max(1)),
        Interval::Epoch => vec![total],
    };
    steps.dedup();
    steps
}

fn as_json(job: &Job, plan: &Plan, rates: &[f64]) -> Value {
    let report = &job.train.data.report;
    let (desirable, undesirable) = job.train.data.label_counts();
    let execution = plan.execution;
    let memory: serde_json::Map<_, _> =
        plan.memory.iter().map(|(part, bytes)| (part.to_string(), json!(bytes))).collect();
    let files: serde_json::Map<_, _> = files(job, plan).into_iter().map(|(name, what)| (name, json!(what))).collect();
    json!({
        "model": {
            "path": job.config.model.path,
            "model_type": job.blueprint.model_type,
            "parameters": plan.parameters,
            "trainable": plan.trainable,
        },
        "rows": {
            "read": report.rows_read,
            "train": job.train.data.len(),
            "units": job.train.len(),
            "eval": job.eval.as_ref().map_or(0, |eval| eval.data.len()),
            "desirable": desirable,
            "undesirable": undesirable,
            "tokens": report.tokens,
            "loss_tokens": report.loss_tokens,
            "longest": report.longest,
            "truncated": report.truncated,
            "dropped": report.dropped_too_long + report.dropped_prompt_only,
            "bad": report.bad,
        },
        "steps": job.total_steps,
        "rows_per_step": job.order.rows_per_step(),
        "class_weights": {"desirable": job.weights.0, "undesirable": job.weights.1},
        "learning_rate": rates,
        "execution": {
            "pack_rows": execution.budget_rows,
            "recompute": execution.keep != model::Keep::All,
            "blocks": train::kept_words(execution.keep),
            "z0_first": execution.z0_first,
            "offload": plan.host > 0,
        },
        "memory_bytes": memory,
        "memory_total_bytes": plan.total(),
        "memory_pinned_bytes": plan.host,
        "memory_available_bytes": plan.available,
        "checkpoints": checkpoints(&job.config, job.total_steps),
        "output_dir": job.config.saving.output_dir,
        "files": files,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_curve_rises_and_falls_with_the_rates() {
        assert_eq!(curve(&[0.0, 0.5, 1.0, 0.5]), "▁▅█▅");
        assert_eq!(curve(&[3.0; 100]).chars().count(), CURVE);
        assert_eq!(curve(&[]), "");
    }

    #[test]
    fn the_rates_shown_are_the_first_the_peak_the_middle_and_the_last() {
        let shown = learning_rates(&[0.0, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(
            shown.iter().map(|(step, _)| step.as_str()).collect::<Vec<_>>(),
            ["step 1", "step 2", "step 3", "step 5"]
        );
    }
}
