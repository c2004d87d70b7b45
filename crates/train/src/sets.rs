//! From the names of data sets to their token rows: files, registered names, the cache, rows taken of each, mixing.

use crate::prepare::RunTokenizer;
use crate::{Control, Error, Event};
use config::{Config, Interval, Mix, Objective, Packing, Sft};
use data::tools::mix::{End, Mixture};
use data::{Dataset, Mapping, Options, Registry, Task};
use std::collections::BTreeMap;
use std::ops::{ControlFlow, Range};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;

/// The files of some data sets, in order, and which of them are whose.
#[derive(Default)]
pub(crate) struct Named {
    pub(crate) files: Vec<PathBuf>,
    sets: Vec<Set>,
    pub(crate) mappings: BTreeMap<PathBuf, Mapping>,
}

/// One data set of several.
struct Set {
    name: String,
    /// Its files, as numbers in the list of all.
    files: Range<u32>,
    /// Rows to read, the first ones.
    limit: Option<usize>,
}

impl Named {
    /// Rows to read of each set, where not all are.
    pub(crate) fn limits(&self) -> Vec<(Range<u32>, usize)> {
        self.sets.iter().filter_map(|set| Some((set.files.clone(), set.limit?))).collect()
    }
}

/// Rows to train on and rows to evaluate on.
pub(crate) fn datasets(
    config: &Config,
    tokenizer: &RunTokenizer,
    notes: &mut Vec<String>,
    control: &Control,
    observe: &mut dyn FnMut(Event),
) -> Result<(Dataset, Option<Dataset>), Error> {
    let train = named(config, &config.data.train, &config.data.train_split)?;
    let options = options(config);
    let mut load = |what: &'static str, named: &Named| -> Result<Dataset, Error> {
        let options = Options { mappings: named.mappings.clone(), limits: named.limits(), ..options.clone() };
        let mut progress = |done, total| {
            observe(Event::Tokenising { what, done, total });
            if control.stop.load(Ordering::SeqCst) { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let set = match &config.data.token_cache {
            Some(cache) => {
                let (print, get) = (tokenizer.files.fingerprint(), || tokenizer.get());
                data::load_cached(&named.files, &print, get, &options, cache, &mut progress)?.0
            }
            None => data::load(&named.files, tokenizer.get()?, &options, &mut progress)?,
        };
        describe(what, &set.report, notes);
        Ok(set)
    };
    let held_out = held_out(config, &train)?;
    let rows = load("training rows", &train)?;
    if let Some(size) = config.data.val_size {
        let size = match size {
            config::ValSize::Fraction(f) => data::split::ValSize::Fraction(f),
            config::ValSize::Rows(n) => data::split::ValSize::Rows(n),
        };
        // Split first: a row that a mixture repeats is on one side only.
        let (rows, eval) = data::split::split(&rows, size)?;
        return Ok((chosen(config, &rows, &train, notes)?, Some(eval)));
    }
    let eval = held_out.map(|files| load("evaluation rows", &files)).transpose()?;
    Ok((chosen(config, &rows, &train, notes)?, eval))
}

/// The files with evaluation rows, where these are not rows taken from those of training: the ones that are named, else what
/// lies beside the training rows under the name of the test split.
fn held_out(config: &Config, train: &Named) -> Result<Option<Named>, Error> {
    let split = &config.data.test_split;
    if !config.data.eval.is_empty() {
        return Ok(Some(named(config, &config.data.eval, split)?));
    }
    if config.evaluation.every == Interval::Never || config.data.val_size.is_some() {
        return Ok(None);
    }
    match named(config, &config.data.train, split) {
        Ok(beside) if beside.files.iter().all(|file| !train.files.contains(file)) => Ok(Some(beside)),
        _ => Err(Error::Mismatch {
            what: format!(
                "`eval_strategy` asks for evaluations, and there are no rows to evaluate on: expected `eval_dataset_name`, \
                 `val_size`, or a split `{split}` beside the rows of training; set one of them, or `eval_strategy: no`"
            ),
        }),
    }
}

/// How the configuration wants rows read.
pub(crate) fn options(config: &Config) -> Options {
    let mut options = Options::new(if matches!(config.objective, Objective::Kto(_)) { Task::Kto } else { Task::Sft });
    options.max_length = config.data.max_length;
    options.alternatives = config.data.alternatives;
    options.truncation = match config.data.truncation {
        config::Truncation::KeepStart => data::Truncation::KeepStart,
        config::Truncation::Drop => data::Truncation::Drop,
    };
    options.on_bad_row = match config.data.bad_rows {
        config::BadRows::Error => data::OnBadRow::Error,
        config::BadRows::Skip => data::OnBadRow::Skip,
    };
    options.first_rows = config.data.first_rows;
    options.text_field.clone_from(&config.data.text_field);
    if let Objective::Sft(Sft { completion_only_loss, assistant_only_loss, turn_loss, packing, .. }) = &config.objective
    {
        options.completion_only_loss = *completion_only_loss;
        options.assistant_only_loss = *assistant_only_loss;
        options.turn_loss = match turn_loss {
            config::TurnLoss::Whole => data::TurnLoss::Whole,
            config::TurnLoss::Assistant => data::TurnLoss::Assistant,
            config::TurnLoss::LastAssistant => data::TurnLoss::LastAssistant,
        };
        if matches!(packing, Some(Packing::BfdSplit | Packing::Wrapped)) {
            options.max_length = None;
        }
    }
    options
}

/// The files that names stand for: what `dataset_info.json` registers under a name goes before a path of that name.
pub(crate) fn named(config: &Config, names: &[PathBuf], split: &str) -> Result<Named, Error> {
    let folder = config.data.registry.as_deref();
    let registry = match folder.filter(|folder| Registry::is_at(folder)) {
        Some(folder) => Some(Registry::read(folder)?),
        None => None,
    };
    let mut all = Named::default();
    for path in names {
        let name = path.to_string_lossy();
        let registered = registry.as_ref().filter(|registry| registry.knows(&name));
        let (files, limit) = match registered {
            Some(registry) => {
                let found = registry.find(&name, config.data.fetched.get(&*name).map(PathBuf::as_path))?;
                all.mappings.extend(found.files.iter().map(|file| (file.clone(), found.mapping.clone())));
                (found.files, found.num_samples)
            }
            None => (unregistered(path, split, registry.as_ref(), folder)?, None),
        };
        let first = all.files.len() as u32;
        all.files.extend(files);
        let limit = [limit, config.data.max_samples].into_iter().flatten().min();
        all.sets.push(Set { name: name.into_owned(), files: first..all.files.len() as u32, limit });
    }
    Ok(all)
}

/// The files of a path; what is no path and was to be a name is an error that says where names are looked up.
fn unregistered(
    path: &Path,
    split: &str,
    registry: Option<&Registry>,
    folder: Option<&Path>,
) -> Result<Vec<PathBuf>, Error> {
    let found = data::source::resolve(path, split);
    let (Err(data::Error::NoFiles { path, reason }), Some(folder)) = (&found, folder) else { return Ok(found?) };
    let registered = match registry {
        Some(registry) => {
            let known: Vec<&str> = registry.names().take(20).collect();
            format!("nor does {} register it; its first names are {}", folder.display(), known.join(", "))
        }
        None => format!("nor is there a dataset_info.json in {} (dataset_dir)", folder.display()),
    };
    Err(data::Error::NoFiles { path: path.clone(), reason: format!("{reason}; {registered}") }.into())
}

/// The rows of each set of `data`.
fn rows_of(data: &Dataset, named: &Named) -> Vec<Vec<u32>> {
    let mut rows: Vec<Vec<u32>> = named.sets.iter().map(|_| Vec::new()).collect();
    for (row, i) in data.rows().iter().zip(0u32..) {
        rows[named.sets.partition_point(|set| set.files.end <= row.file)].push(i);
    }
    rows
}

/// The rows that are trained on, in the order of their reading: all of them, or a mixture.
fn chosen(config: &Config, data: &Dataset, named: &Named, notes: &mut Vec<String>) -> Result<Dataset, Error> {
    let Some(Mix { weights, until_first }) = &config.data.mix else { return Ok(data.clone()) };
    let rows = rows_of(data, named);
    let sizes: Vec<u64> = rows.iter().map(|rows| rows.len() as u64).collect();
    let equal = vec![1.0; sizes.len()];
    let weights = if weights.is_empty() { &equal } else { weights };
    let end = if *until_first { End::FirstExhausted } else { End::AllExhausted };
    let mixture = Mixture::new(&sizes, weights, config.engine.data_seed, end)?;
    let mut taken = vec![0usize; rows.len()];
    let order: Vec<u32> = mixture
        .iter()
        .map(|(set, n)| {
            taken[set] += 1;
            rows[set][(n % sizes[set]) as usize]
        })
        .collect();
    let each = |n: usize| format!("{} of the {} rows of {}", taken[n], sizes[n], named.sets[n].name);
    notes.push(format!("mixed: {}", (0..rows.len()).map(each).collect::<Vec<_>>().join(", ")));
    Ok(data.select(&order))
}

/// What became of the rows, where something did.
fn describe(what: &str, report: &data::Report, notes: &mut Vec<String>) {
    let mut say = |n: usize, text: String| {
        if n > 0 {
            notes.push(format!("{what}: {n} {text}"))
        }
    };
    say(report.bad, format!("bad rows skipped, the first: {}", report.bad_examples.first().map_or("", String::as_str)));
    say(report.truncated, "rows cut to max_length; their completions lost their end".to_owned());
    say(report.dropped_too_long, "rows longer than max_length dropped".to_owned());
    say(report.dropped_prompt_only, "rows dropped because the prompt alone fills max_length".to_owned());
    let example = report.unstable_example.as_deref().unwrap_or_default();
    say(
        report.unstable_prefix,
        format!(
            "rows whose prompt's tokens are no prefix of the whole row's; the end of the prompt ({example:?}) is left out of it"
        ),
    );
    say(report.ignored_labels, "rows have a label, which SFT does not use".to_owned());
    say(report.ignored_loss_weights, "rows have a loss_weight, which is not used".to_owned());
}
