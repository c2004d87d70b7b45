//! One flat YAML: every key accounted for, errors with line and column.
//!
//! [`load`] reads a file whose keys are TRL's, PEFT's and transformers' own names into a [`Config`]; [`account`] says of
//! any file the founding tools wrote what becomes of each key. Nothing but the text is looked at.
#![forbid(unsafe_code)]

mod config;
mod curve;
mod dialect;
mod flat;
mod note;
mod preset;
mod problem;
mod resolve;
mod rules;
mod schema;
mod settings;
mod stages;
mod table;
mod tuning;
mod value;
mod yaml;

pub use config::*;
pub use dialect::{Accounted, Dialect, Outcome, account, as_yaml, deepspeed_file, has_key, import, recognise};
pub use flat::flat;
pub use note::{Note, NoteKind};
pub use preset::PRESET_FILES;
pub use problem::{Code, Errors, Piece, Place, Problem, Source, Style};
pub use schema::schema;
pub use table::{Entry, Scope, Section, Status, all as keys};
pub use value::{Choice, Kind, Range};

use settings::Settings;
use yaml::{Content, Pair};

/// The first line of a YAML file that we write: editors find the schema by it, in a file beside.
pub const MODELINE: &str = "# yaml-language-server: $schema=prospect.schema.json";

/// The name of the schema in the folder of a YAML file that we write.
pub const SCHEMA_FILE: &str = "prospect.schema.json";

/// A configuration that is right.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// Every setting, resolved; of a run in stages the first stage's, in the folder of the whole run.
    pub config: Config,
    /// What to say at the start: keys without effect, spellings, defaults, advice; in the order of the file.
    pub notes: Vec<Note>,
    /// For the run folder: all keys with their values; loads back to the same `config`.
    pub resolved_yaml: String,
    /// `stages:`, in order, each a run of its own in a folder of the run's; empty for a run that has none.
    pub stages: Vec<Loaded>,
}

/// Reads the text of a configuration, ours or another tool's, with `key=value` overrides that win over it.
///
/// `path` names the text in messages and is not opened. Keys of a nested mapping are overridden as
/// `lr_scheduler_kwargs.min_lr_rate`. Errors: every problem at once; their exit code is 2.
pub fn load(path: &str, text: &str, overrides: &[(String, String)]) -> Result<Loaded, Errors> {
    let source = Source::File(path.into());
    let mut pairs = top_level(&source, text)?;
    let mut foreign = None;
    if let Some(found) = dialect::of_pairs(&pairs) {
        let mut converted = dialect::converted(found, &source, &pairs)?;
        pairs = std::mem::take(&mut converted.pairs);
        foreign = Some(converted);
    }
    let over = override_pairs(overrides)?;
    let own = preset::pairs(&pairs, &over)?;
    pairs.extend(own);
    let staged = stages::take(&mut pairs)?;
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    if let Some(converted) = foreign {
        // Keys of ours that the conversion respelled were said by it.
        (problems, notes) = (converted.problems, converted.notes);
    }
    let loaded = if staged.is_empty() {
        one(&source, &[&pairs, &over], &mut problems, &mut notes)
    } else {
        stages::load(&source, &pairs, &staged, &over, &mut problems, &mut notes)
    };
    if !problems.is_empty() {
        problems.sort_by_key(|problem| order(&problem.place));
        problems.dedup();
        return Err(Errors { problems });
    }
    let mut loaded = loaded.expect("no problem, so it was resolved");
    notes.sort_by_key(|note| note.place.as_ref().map_or((2, 0, 0), order));
    notes.dedup();
    loaded.notes = notes;
    Ok(loaded)
}

/// Resolves the pairs of one run, later layers over earlier ones; `None` when there are problems.
fn one(source: &Source, layers: &[&[Pair]], problems: &mut Vec<Problem>, notes: &mut Vec<Note>) -> Option<Loaded> {
    let mut settings = Settings::default();
    layers.iter().for_each(|pairs| settings.overlay(Settings::collect(pairs)));
    let facts = rules::check(&mut settings, source);
    problems.append(&mut settings.problems);
    notes.append(&mut settings.notes);
    if !problems.is_empty() {
        return None;
    }
    let resolved = resolve::Resolved::fill(&settings, facts);
    let (config, resolved_yaml) = (resolved.config(), resolved.yaml(&settings.idle));
    Some(Loaded { config, resolved_yaml, notes: Vec::new(), stages: Vec::new() })
}

/// Splits the command line's `key=value` words. Error: a word without `=` or without a key.
pub fn split_overrides(words: &[String]) -> Result<Vec<(String, String)>, Errors> {
    let mut problems = Vec::new();
    let mut pairs = Vec::new();
    for (i, word) in words.iter().enumerate() {
        match word.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                pairs.push((key.trim().trim_start_matches("--").to_string(), value.to_string()));
            }
            _ => {
                let (length, text) = (word.chars().count().max(1), word.clone());
                let place = Place { source: Source::Override(i + 1), line: 1, column: 1, length, text };
                problems.push(
                    Problem::new(Code::Override, &place, format!("`{word}` is no `key=value`"))
                        .help("write overrides as `learning_rate=1e-6`, without blanks around `=`"),
                );
            }
        }
    }
    if problems.is_empty() { Ok(pairs) } else { Err(Errors { problems }) }
}

/// File before command line, then by line and column.
fn order(place: &Place) -> (usize, usize, usize) {
    match place.source {
        Source::File(_) => (0, place.line, place.column),
        Source::Override(n) => (1, n, place.column),
    }
}

fn top_level(source: &Source, text: &str) -> Result<Vec<Pair>, Errors> {
    match yaml::parse(source, text)? {
        None => Ok(Vec::new()),
        Some(node) if node.is_null() => Ok(Vec::new()),
        Some(yaml::Node { content: Content::Map(pairs), .. }) => Ok(pairs),
        Some(node) => {
            let message = format!("expected `key: value` lines, found {}", node.describe());
            let problem = Problem::new(Code::Shape, &node.place, message);
            Err(problem.help("begin with `trainer: kto` and `model_name_or_path: FOLDER`").into())
        }
    }
}

/// Each override as a pair whose places point into `key=value`.
fn override_pairs(overrides: &[(String, String)]) -> Result<Vec<Pair>, Errors> {
    let mut pairs: Vec<Pair> = Vec::new();
    let mut problems = Vec::new();
    for (i, (key, value)) in overrides.iter().enumerate() {
        let source = Source::Override(i + 1);
        let text = format!("{key}={value}").replace('\n', " ");
        let at = |column, length: usize| Place {
            source: source.clone(),
            line: 1,
            column,
            length: length.max(1),
            text: text.clone(),
        };
        let width = key.chars().count();
        let (key_place, value_place) = (at(1, width), at(width + 2, value.chars().count()));
        let node = match yaml::parse(&source, value) {
            Ok(Some(mut node)) => {
                settings::relocate(&mut node, &value_place);
                node
            }
            Ok(None) => {
                yaml::Node { place: value_place, content: Content::Scalar { text: String::new(), plain: true } }
            }
            Err(errors) => {
                let here = |problem| Problem { place: value_place.clone(), ..problem };
                problems.extend(errors.problems.into_iter().map(here));
                continue;
            }
        };
        if let Some(first) = pairs.iter().find(|pair| pair.key == *key) {
            problems.push(
                Problem::new(Code::Duplicate, &key_place, format!("`{key}` is overridden twice"))
                    .label("again here")
                    .and(&first.key_place, "first here")
                    .help("keep one of the two"),
            );
            continue;
        }
        pairs.push(Pair { key: key.clone(), key_place, value: node });
    }
    if problems.is_empty() { Ok(pairs) } else { Err(Errors { problems }) }
}
