//! `plan --ranks sim:N`: a step over many ranks, gone through without its arithmetic.

use crate::args::PlanArgs;
use crate::failure::Failure;
use crate::output::{self, Side, table};
use crate::progress::{Bar, Watch};
use crate::screen::Screen;
use crate::train::load_with;
use crate::whatif::{self, Target};
use data::Clock;
use dist::Collective;
use serde_json::{Map, Value, json};
use train::{Job, Plan, Simulated};

/// `prospect plan --ranks sim:N`
pub(crate) fn plan(args: &PlanArgs, ranks: usize, screen: &Screen) -> Result<u8, Failure> {
    let target = Target::of(args)?;
    let mut loaded = load_with(&args.config, &whatif::settings(args, target.as_ref()), screen)?;
    if !loaded.stages.is_empty() {
        return Err(Failure::usage("--ranks: expected a run of one stage, found stages; give one of their files"));
    }
    train::over_ranks(&mut loaded.config, ranks);
    let mut watch = Watch::new(screen);
    let job = Job::new(loaded.config, Clock::now(), &mut |event| watch.event(event))?;
    watch.finish();
    let mut bar = Bar::new(screen, "stages");
    let mut stages = Vec::new();
    for zero in 0u8..4 {
        bar.set(u64::from(zero), 4);
        let found = match train::simulate(&job, ranks, zero, 0) {
            Err(train::Error::Memory { needed, .. }) => Err(needed),
            other => Ok(other?),
        };
        stages.push((zero, found));
    }
    drop(bar);
    if args.json {
        let stages: Vec<Value> = stages.iter().map(|(zero, found)| as_json(*zero, found)).collect();
        output::json(&json!({"simulated": true, "ranks": ranks, "rows": job.order.rows_per_step(), "stages": stages}))?;
        return Ok(0);
    }
    output::line("simulated: packs, shards and exchanges are a run's, nothing is computed; memory is planned")?;
    let rows = job.order.rows_per_step();
    output::line(format_args!("  {ranks} ranks, the first step of {}: {rows} rows\n", job.total_steps))?;
    let head = ["stage", "packs", "rows", "exchanges", "sent by a rank", "sent by all", "memory of a rank"];
    let lines: Vec<Vec<String>> =
        std::iter::once(head.map(str::to_owned).to_vec()).chain(stages.iter().map(|(zero, s)| row(*zero, s))).collect();
    table(&[Side::Left, Side::Right, Side::Right, Side::Right, Side::Right, Side::Right, Side::Right], &lines)?;
    output::line("\nfrom the rank that has least to the one that has most; exchanges are the same on every rank:")?;
    for (zero, found) in stages.iter().filter_map(|(zero, found)| Some((zero, found.as_ref().ok()?))) {
        let each = by_collective(&found.1[0]).into_iter().filter(|(_, calls, _)| *calls > 0);
        let each: Vec<String> = each.map(|(what, calls, _)| format!("{calls} of {}", what.name())).collect();
        output::line(format_args!("  stage {zero}: {}", each.join(", ")))?;
    }
    Ok(0)
}

/// A stage's plan and ranks, or the bytes that it would need.
type Stage = Result<(Plan, Vec<Simulated>), u64>;

/// The least and the most of the ranks.
fn span(found: &[Simulated], of: impl Fn(&Simulated) -> u64) -> (u64, u64) {
    found.iter().map(of).fold((u64::MAX, 0), |(least, most), n| (least.min(n), most.max(n)))
}

fn row(zero: u8, stage: &Stage) -> Vec<String> {
    let (plan, found) = match stage {
        Ok(found) => found,
        Err(needed) => {
            let gaps = ["-"; 5].map(str::to_owned);
            return [&[zero.to_string()], &gaps[..], &[format!("{}: does not fit", size(*needed))]].concat();
        }
    };
    let text = |(least, most): (u64, u64), show: &dyn Fn(u64) -> String| match (show(least), show(most)) {
        (least, most) if least == most => least,
        (least, most) => format!("{least} to {most}"),
    };
    vec![
        zero.to_string(),
        text(span(found, |r| r.packs as u64), &|n| n.to_string()),
        text(span(found, |r| r.rows as u64), &|n| n.to_string()),
        found[0].calls.len().to_string(),
        text(span(found, Simulated::sent), &size),
        size(found.iter().map(Simulated::sent).sum()),
        size(plan.total()),
    ]
}

/// Bytes with four digits.
fn size(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

/// Calls and bytes sent of each collective, on one rank.
fn by_collective(rank: &Simulated) -> Vec<(Collective, usize, u64)> {
    let of = |what: Collective| {
        let sent: Vec<u64> = rank.calls.iter().filter(|(c, _)| *c == what).map(|(_, bytes)| *bytes).collect();
        (what, sent.len(), sent.iter().sum())
    };
    Collective::ALL.map(of).to_vec()
}

fn as_json(zero: u8, stage: &Stage) -> Value {
    let (plan, found) = match stage {
        Ok(found) => found,
        Err(needed) => return json!({"stage": zero, "fits": false, "memory_total_bytes": needed}),
    };
    let rank = |rank: &Simulated| {
        let each = by_collective(rank).into_iter();
        let calls: Map<_, _> =
            each.map(|(what, calls, sent)| (what.name().to_owned(), json!({"calls": calls, "sent": sent}))).collect();
        json!({"packs": rank.packs, "rows": rank.rows, "traffic": calls, "sent": rank.sent()})
    };
    let memory: Map<_, _> = plan.memory.iter().map(|(part, bytes)| ((*part).to_owned(), json!(bytes))).collect();
    json!({"stage": zero, "fits": true, "exchanges": found[0].calls.len(), "pack_rows": plan.execution.budget_rows,
        "memory_bytes": memory, "memory_total_bytes": plan.total(), "ranks": found.iter().map(rank).collect::<Vec<_>>()})
}
