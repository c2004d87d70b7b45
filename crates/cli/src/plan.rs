//! `plan`: what a run would do and take.

use crate::args::PlanArgs;
use crate::failure::Failure;
use crate::output::{self, Side, number, table};
use crate::progress::Watch;
use crate::screen::Screen;
use crate::train::load;
use config::{Config, Interval, Tuning};
use data::Clock;
use serde_json::{Value, json};
use train::{Job, Plan};

/// Columns of the learning-rate curve.
const CURVE: usize = 48;

/// `prospect plan`
pub fn plan(args: &PlanArgs, screen: &Screen) -> Result<u8, Failure> {
    let loaded = load(&args.config, screen)?;
    let mut watch = Watch::new(screen);
    let job = Job::new(loaded.config, Clock::now(), &mut |event| watch.event(event))?;
    watch.finish();
    job.notes.iter().for_each(|note| screen.note(note));
    let plan = Plan::new(&job)?;
    let rates = train::learning_rates(&job)?;
    if args.json {
        output::json(&as_json(&job, &plan, &rates))?;
    } else {
        as_text(&job, &plan, &rates)?;
    }
    Ok(0)
}

fn as_text(job: &Job, plan: &Plan, rates: &[f64]) -> Result<(), Failure> {
    facts(train::opening(job, plan))?;
    output::line("\nrows")?;
    rows(job)?;
    output::line("\nlearning rate")?;
    curve(rates)?;
    output::line("\nmemory")?;
    output::line(plan.memory_table().trim_end())?;
    output::line(format_args!("\nfiles in {}", job.config.saving.output_dir.display()))?;
    let files = files(&job.config, job.total_steps);
    table(&[Side::Left, Side::Left], &files.into_iter().map(|(name, what)| vec![format!("  {name}"), what]).collect::<Vec<_>>())
}
