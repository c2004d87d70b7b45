//! Looking at everything a run needs without running it: every problem at once, not only the first.

use crate::policy::AdapterPlan;
use crate::prepare::tokenizer_files;
use crate::sets::{named, options};
use crate::{Error, Event, Job, Plan};
use config::{BadRows, Config};
use data::{Clock, OnBadRow, Options};
use std::ops::ControlFlow;

/// Something that would keep a run from its end.
#[derive(Debug)]
pub struct Finding {
    /// What was looked at: model, template, data, memory.
    pub part: &'static str,
    /// What is wrong, and where.
    pub what: String,
    /// The exit code a run would end with.
    pub code: u8,
}

impl Finding {
    fn of(part: &'static str) -> impl Fn(Error) -> Finding {
        move |e| Finding { part, what: e.to_string(), code: e.exit_code() }
    }
}

/// Checks the model's files, its tokenizer and template, the data files and their first `rows` rows, and whether a step of those
/// rows fits into memory. Notes are what a run would say at its start about the same rows.
pub fn validate(config: &Config, rows: usize, observe: &mut dyn FnMut(Event)) -> (Vec<Finding>, Vec<String>) {
    let mut config = config.clone();
    // A few rows are no entry for the cache.
    (config.data.first_rows, config.data.token_cache) = (Some(rows), None);
    let mut findings = Vec::new();
    let tokenizer = look_at_model(&config, &mut findings);
    let sets = [(&config.data.train, &config.data.train_split), (&config.data.eval, &config.data.test_split)];
    for (names, split) in sets {
        for name in names {
            look_at(&config, name, split, tokenizer.as_ref(), &mut findings, observe);
        }
    }
    let mut notes = Vec::new();
    if findings.is_empty() {
        config.data.bad_rows = BadRows::Skip;
        match Job::new(config, Clock::now(), observe) {
            Ok(job) => {
                findings.extend(Plan::new(&job).map(drop).err().map(Finding::of("memory")));
                findings.extend(crate::rehearse(&job).map(drop).err().map(Finding::of("model")));
                notes = job.notes;
            }
            Err(e) => findings.push(Finding::of("run")(e)),
        }
    }
    (findings, notes)
}

/// The model's folder, its blueprint, its adapter, its tokenizer and template. Without a folder that is the one problem.
fn look_at_model(config: &Config, findings: &mut Vec<Finding>) -> Option<data::Tokenizer> {
    let opened = weights::Checkpoint::open(&config.model.path).map(drop).map_err(Error::from);
    findings.extend(opened.err().map(Finding::of("model")));
    if !config.model.path.is_dir() {
        return None;
    }
    let blueprint = weights::read_config(&config.model.path)
        .map_err(Error::from)
        .and_then(|read| model::arch::blueprint(&read).map_err(Error::from));
    match &blueprint {
        Ok(blueprint) => {
            let adapter = AdapterPlan::new(&config.tuning, blueprint).map(drop);
            findings.extend(adapter.err().map(Finding::of("adapter")));
        }
        Err(e) => findings.push(Finding { part: "model", what: e.to_string(), code: e.exit_code() }),
    }
    let tokenizer = tokenizer_files(config, Clock::now()).and_then(|files| Ok(files.load()?));
    match &tokenizer {
        Ok(tokenizer) => {
            if let Err(e @ data::Error::Template(_)) = tokenizer.template() {
                findings.push(Finding::of("template")(e.into()));
            }
        }
        Err(e) => findings.push(Finding { part: "tokenizer", what: e.to_string(), code: e.exit_code() }),
    }
    tokenizer.ok()
}

/// The files of one data set and its first rows.
fn look_at(
    config: &Config,
    name: &std::path::PathBuf,
    split: &str,
    tokenizer: Option<&data::Tokenizer>,
    findings: &mut Vec<Finding>,
    observe: &mut dyn FnMut(Event),
) {
    let found = match named(config, std::slice::from_ref(name), split) {
        Ok(found) => found,
        Err(e) => return findings.push(Finding::of("data")(e)),
    };
    let Some(tokenizer) = tokenizer else { return };
    let limits = found.limits();
    let options = Options { on_bad_row: OnBadRow::Skip, limits, mappings: found.mappings, ..options(config) };
    let mut progress = |done, total| {
        observe(Event::Tokenising { what: "first rows", done, total });
        ControlFlow::Continue(())
    };
    match data::load(&found.files, tokenizer, &options, &mut progress) {
        Ok(set) if set.report.bad > 0 && config.data.bad_rows == BadRows::Error => {
            let report = &set.report;
            findings.extend(report.bad_examples.iter().map(|bad| Finding { part: "data", what: bad.clone(), code: 3 }));
            let more = report.bad - report.bad_examples.len();
            if more > 0 {
                let what = format!("{}: {more} more bad rows in the first {}", name.display(), report.rows_read);
                findings.push(Finding { part: "data", what, code: 3 });
            }
        }
        Ok(_) => {}
        Err(e) => findings.push(Finding::of("data")(e.into())),
    }
}
