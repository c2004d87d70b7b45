//! Beside a plan: how fast the run would be, and what other values of a key would make of it.

use crate::args::PlanArgs;
use crate::failure::Failure;
use crate::output::{self, Side, number, table};
use crate::progress::Watch;
use crate::screen::Screen;
use crate::train::load_with;
use data::Clock;
use dist::estimate::{Device, REACHED};
use serde_json::{Value, json};
use train::{Job, Pace, Plan, Rates};

/// What the run is to be planned for.
pub(crate) enum Target {
    /// This machine's processor, measured for two seconds.
    Here,
    /// A device of the table.
    Other(&'static Device),
}

impl Target {
    /// The device that is asked for, if any.
    pub(crate) fn of(args: &PlanArgs) -> Result<Option<Target>, Failure> {
        match args.device.as_deref() {
            None => Ok(None),
            Some("cpu") => Ok(Some(Target::Here)),
            Some(name) => Ok(Some(Target::Other(crate::spread::device(name)?))),
        }
    }

    /// What it does in a second, on a job's shapes.
    pub(crate) fn rates(&self, job: &Job) -> Rates {
        match self {
            Target::Here => Rates::here(job),
            Target::Other(d) => {
                let products = REACHED * d.peak;
                Rates { products, head: products, bytes: d.bandwidth, measured: false }
            }
        }
    }

    fn said(&self) -> String {
        match self {
            Target::Here => "measured here, for two seconds".to_owned(),
            Target::Other(d) => {
                format!("modelled: {} at {:.0} % of {:.0} TFLOP/s", d.name, 100.0 * REACHED, d.peak / 1e12)
            }
        }
    }
}

/// Settings that flags of `plan` stand for: what the memory plan may use.
pub(crate) fn settings(args: &PlanArgs, target: Option<&Target>) -> Vec<(String, String)> {
    let own = |device: &Target| match device {
        Target::Here => None,
        Target::Other(d) => Some(format!("{:.0}GB", d.memory / 1e9)),
    };
    let memory = args.memory.clone().or_else(|| target.and_then(own));
    memory.map(|memory| ("max_memory".to_owned(), memory)).into_iter().collect()
}

/// Speed as lines.
pub(crate) fn pace_lines(pace: &Pace, target: &Target) -> Vec<(String, String)> {
    let fact = |name: &str, value: String| (name.to_owned(), value);
    let mut lines = vec![
        fact("seconds per step", number(pace.seconds_per_step)),
        fact("tokens per second", format!("{:.0}", pace.tokens_per_second)),
        fact("hours per epoch", format!("{:.2}", pace.hours_per_epoch)),
    ];
    if pace.reference_seconds > 0.0 {
        lines.push(fact("reference before the first step", format!("{:.0} s", pace.reference_seconds)));
    }
    lines.push(fact("rates", target.said()));
    lines
}

/// Speed as JSON.
pub(crate) fn pace_json(pace: &Pace, rates: &Rates) -> Value {
    json!({
        "seconds_per_step": pace.seconds_per_step,
        "tokens_per_second": pace.tokens_per_second,
        "hours_per_epoch": pace.hours_per_epoch,
        "reference_seconds": pace.reference_seconds,
        "measured": rates.measured,
        "products_per_second": rates.products,
        "head_per_second": rates.head,
        "bytes_per_second": rates.bytes,
    })
}

/// A value of the key, and what it would make of the run.
struct Row {
    value: String,
    plan: Result<Plan, train::Error>,
    pace: Option<Pace>,
    steps: usize,
}

/// `plan --what-if KEY=A,B,C`
pub(crate) fn compare(args: &PlanArgs, asked: &str, screen: &Screen) -> Result<u8, Failure> {
    let wrong =
        || Failure::usage(format!("--what-if {asked}: expected KEY=VALUE,VALUE, as in max_length=512,1024,2048"));
    let (key, values) = asked.split_once('=').ok_or_else(wrong)?;
    let target = Target::of(args)?;
    let mut rates = None;
    let mut rows = Vec::new();
    for value in values.split(',').map(str::trim) {
        if value.is_empty() {
            return Err(wrong());
        }
        let mut extra = settings(args, target.as_ref());
        extra.retain(|(k, _)| k != key);
        extra.push((key.to_owned(), value.to_owned()));
        let loaded = load_with(&args.config, &extra, screen)?;
        if !loaded.stages.is_empty() {
            return Err(Failure::usage(
                "--what-if: expected a run of one stage, found stages; give one of their files".to_owned(),
            ));
        }
        let mut watch = Watch::new(screen);
        let mut job = Job::new(loaded.config, Clock::now(), &mut |event| watch.event(event))?;
        watch.finish();
        crate::gpu::ask(&mut job, screen);
        let plan = match Plan::new(&job) {
            Err(e @ train::Error::Memory { .. }) => Err(e),
            other => Ok(other?),
        };
        let mut pace = None;
        if let (Some(target), Ok(plan)) = (&target, &plan) {
            let rates = rates.get_or_insert_with(|| target.rates(&job));
            pace = Some(Pace::new(&job, plan, rates));
        }
        rows.push(Row { value: value.to_owned(), plan, pace, steps: job.total_steps });
    }
    match args.json {
        true => output::json(&json!({"key": key, "values": rows.iter().map(as_json).collect::<Vec<_>>()}))?,
        false => as_text(key, &rows, target.as_ref())?,
    }
    Ok(0)
}

fn as_json(row: &Row) -> Value {
    let mut line = match &row.plan {
        Ok(plan) => json!({
            "fits": true, "memory_total_bytes": plan.total(), "pack_rows": plan.execution.budget_rows,
            "recompute": plan.execution.keep != model::Keep::All, "blocks": train::kept_words(plan.execution.keep), "z0_first": plan.execution.z0_first,
            "offload": plan.host > 0,
        }),
        Err(train::Error::Memory { needed, .. }) => json!({"fits": false, "memory_total_bytes": needed}),
        Err(_) => json!({"fits": false}),
    };
    line["value"] = json!(row.value);
    line["steps"] = json!(row.steps);
    if let Some(pace) = &row.pace {
        line["seconds_per_step"] = json!(pace.seconds_per_step);
        line["tokens_per_second"] = json!(pace.tokens_per_second);
        line["hours_per_epoch"] = json!(pace.hours_per_epoch);
    }
    line
}

fn as_text(key: &str, rows: &[Row], target: Option<&Target>) -> Result<(), Failure> {
    let megabytes = |bytes: u64| format!("{:.0} MB", bytes as f64 / f64::from(1 << 20));
    let mut lines = vec![
        [key, "fits", "peak", "pack rows", "blocks", "steps", "s/step", "tokens/s", "h/epoch"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in rows {
        let mut line = vec![row.value.clone()];
        match &row.plan {
            Ok(plan) => {
                let blocks = match plan.execution.keep {
                    model::Keep::All => "kept".to_owned(),
                    model::Keep::Mixed { whole, lean } => format!("{whole} kept, {lean} lean"),
                    _ => "computed again".to_owned(),
                };
                let blocks = if plan.host > 0 { format!("{blocks}, offloaded") } else { blocks };
                let e = &plan.execution;
                line.extend(["yes".to_owned(), megabytes(plan.total()), e.budget_rows.to_string(), blocks]);
            }
            Err(e) => {
                let needed =
                    if let train::Error::Memory { needed, .. } = e { megabytes(*needed) } else { String::new() };
                line.extend(["no".to_owned(), needed, "-".to_owned(), "-".to_owned()]);
            }
        }
        line.push(row.steps.to_string());
        match &row.pace {
            Some(p) => line.extend([
                number(p.seconds_per_step),
                format!("{:.0}", p.tokens_per_second),
                format!("{:.2}", p.hours_per_epoch),
            ]),
            None => line.extend(["-".to_owned(), "-".to_owned(), "-".to_owned()]),
        }
        lines.push(line);
    }
    let sides = [[Side::Left, Side::Left].as_slice(), &[Side::Right; 7]].concat();
    table(&sides, &lines)?;
    if let Some(target) = target {
        output::line(format_args!("rates {}", target.said()))?;
    }
    Ok(())
}
