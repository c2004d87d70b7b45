//! `demo`: the product in miniature.

use crate::args::DemoArgs;
use crate::failure::Failure;
use crate::output::{self, Side, table};
use crate::progress::Watch;
use crate::score::threads;
use crate::screen::Screen;
use crate::signals;
use demo::{Event, Recipe, Settings};
use std::path::PathBuf;
use std::sync::Arc;
use train::Control;

/// `prospect demo`
pub(crate) fn demo(args: &DemoArgs, screen: &Screen) -> Result<u8, Failure> {
    let output = args.output.clone().unwrap_or_else(|| free_folder(args.seed));
    let settings = Settings { seed: args.seed, output, threads: threads(), recipe: Recipe::default() };
    let control = Arc::new(Control::default());
    signals::watch(&control, screen)?;
    let mut watch = Watch::new(screen);
    let report = demo::run(&settings, &control, &mut |event| match event {
        Event::Stage(name) => watch.stage(name),
        Event::Note(text) => watch.event(train::Event::Opening(text)),
        Event::Answered(done, total) => {
            watch.event(train::Event::Progress { what: "answering".to_owned(), done: done as u64, total: total as u64 })
        }
        Event::Train(event) => watch.event(event),
    })?;
    watch.finish();
    let rows = report.table();
    let mut sides = vec![Side::Right; rows.first().map_or(0, Vec::len)];
    sides[..1].fill(Side::Left);
    output::line("")?;
    table(&sides, &rows)?;
    output::line("")?;
    report.findings().iter().try_for_each(output::line)?;
    output::line("")?;
    let run = &report.folders.kto;
    let made = [("run folder", run.display().to_string()), ("plots", run.join("plots").display().to_string())];
    made.iter()
        .chain(&report.next_steps())
        .try_for_each(|(what, text)| output::line(format_args!("{what:<12}  {text}")))?;
    Ok(0)
}

/// `runs/demo-SEED`, or the first `runs/demo-SEED-N` that is not there.
fn free_folder(seed: u64) -> PathBuf {
    let first = PathBuf::from(format!("runs/demo-{seed}"));
    let numbered = (2..).map(|n| PathBuf::from(format!("runs/demo-{seed}-{n}")));
    std::iter::once(first.clone()).chain(numbered).find(|folder| !folder.exists()).unwrap_or(first)
}
