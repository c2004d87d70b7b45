//! Where data come from and how they are read: files, patterns, folders, registered names, names of the Hub.

use crate::failure::Failure;
use crate::hub_name::HubName;
use crate::screen::Screen;
use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use data::tools::detect::{Detected, detect};
use data::{Clock, OnBadRow, Options, Registry, Shape, Task, Tokenizer, TokenizerFiles};
use std::path::{Path, PathBuf};

/// How rows are read.
#[derive(Args)]
pub(crate) struct ReadingArgs {
    /// The format of every row; auto: told from each row's fields.
    #[arg(long, value_name = "FORMAT", default_value = "auto", value_parser = formats())]
    from: String,
    /// The field that holds plain text.
    #[arg(long, value_name = "NAME", default_value = "text")]
    text_field: String,
    /// Whether a list in `completion` is several answers, and not one of several turns.
    #[arg(long)]
    alternatives: bool,
    /// The label of rows that have none: true or false.
    #[arg(long, value_name = "BOOL")]
    default_label: Option<bool>,
    /// Leave bad rows out and count them, rather than stop at the first.
    #[arg(long)]
    skip_bad: bool,
    /// Which split of a folder or of a saved data set is read.
    #[arg(long, value_name = "NAME", default_value = "train")]
    input_split: String,
    /// A dataset_info.json, or its folder, that knows data sets by name [default: ./data or the current folder].
    #[arg(long, value_name = "FILE")]
    registry: Option<PathBuf>,
}

fn formats() -> PossibleValuesParser {
    PossibleValuesParser::new(std::iter::once("auto").chain(Shape::ALL.map(Shape::name)))
}

/// What rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Goal {
    Kto,
    Sft,
}

impl Goal {
    /// The library's word for it.
    pub(crate) fn task(self) -> Task {
        match self {
            Goal::Kto => Task::Kto,
            Goal::Sft => Task::Sft,
        }
    }
}

/// How rows become tokens.
#[derive(Args)]
pub(crate) struct TokenArgs {
    /// A model whose tokenizer and template are used: a folder, or org/name on the Hub.
    #[arg(long, value_name = "MODEL")]
    pub(crate) model: Option<PathBuf>,
    /// Another chat template: a name (chatml, qwen, llama3, ...), a .jinja file, or a folder with a tokenizer.
    #[arg(long, value_name = "TEMPLATE", requires = "model")]
    template: Option<PathBuf>,
    /// Tokens to which rows are cut; 0 for no limit.
    #[arg(long, value_name = "N", default_value_t = 1024)]
    max_length: usize,
}

/// What of a model a tokenizer is made from.
const TOKENIZER_FILES: [&str; 5] =
    ["tokenizer*", "special_tokens_map.json", "chat_template.*", "config.json", "generation_config.json"];

impl TokenArgs {
    /// The tokenizer, if a model is given.
    pub(crate) fn tokenizer(&self, screen: &Screen) -> Result<Option<Tokenizer>, Failure> {
        let Some(model) = &self.model else { return Ok(None) };
        let model = HubName::local(hub::RepoKind::Model, model, &TOKENIZER_FILES, screen)?;
        let files = TokenizerFiles::open(&model, Clock::now())?;
        let files = match &self.template {
            Some(template) => files.with_template(template)?,
            None => files,
        };
        Ok(Some(files.load()?))
    }

    /// The limit on a row's tokens.
    pub(crate) fn max_length(&self) -> Option<usize> {
        (self.max_length > 0).then_some(self.max_length)
    }
}

/// Data that were found, and how they are read.
pub(crate) struct Source {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) options: Options,
}

/// Finds what `names` stand for and looks at the first row, which decides what rows are for unless `goal` does.
pub(crate) fn open(
    names: &[PathBuf],
    reading: &ReadingArgs,
    goal: Option<Goal>,
    screen: &Screen,
) -> Result<Source, Failure> {
    let mut options = Options {
        text_field: reading.text_field.clone(),
        shape: Shape::named(&reading.from),
        default_label: reading.default_label,
        alternatives: reading.alternatives,
        on_bad_row: if reading.skip_bad { OnBadRow::Skip } else { OnBadRow::Error },
        ..Options::new(Task::Sft)
    };
    let files = find(names, reading, &mut options, screen)?;
    if let Some(detected) = &detect(&files, &options)? {
        options.task = goal.map_or(detected.task, Goal::task);
        screen.note(sentence(detected, &options, reading.from == "auto"));
    }
    Ok(Source { files, options })
}

/// The files of several names, in their order; a mapping of columns goes into `options`.
pub(crate) fn find(
    names: &[PathBuf],
    reading: &ReadingArgs,
    options: &mut Options,
    screen: &Screen,
) -> Result<Vec<PathBuf>, Failure> {
    let mut files = Vec::new();
    for name in names {
        let found = match registered(name, reading, screen)? {
            Some(entry) => {
                if let Some(rows) = entry.num_samples {
                    screen.note(format_args!("{} is registered with {rows} rows; all are read", name.display()));
                }
                let mapped = entry.files.iter().map(|file| (file.clone(), entry.mapping.clone()));
                options.mappings.extend(mapped);
                entry.files
            }
            None => {
                let name = HubName::local(hub::RepoKind::Dataset, name, &[], screen)?;
                data::source::resolve(&name, &reading.input_split)?
            }
        };
        files.extend(found);
    }
    Ok(files)
}

/// The registered data set of that name, if it is one and no file.
fn registered(name: &Path, reading: &ReadingArgs, screen: &Screen) -> Result<Option<data::Registered>, Failure> {
    let Some(text) = name.to_str().filter(|_| !name.exists()) else { return Ok(None) };
    let usual = ["data/dataset_info.json", "dataset_info.json"].map(PathBuf::from);
    let place = reading.registry.clone().or_else(|| usual.into_iter().find(|place| place.is_file()));
    let Some(place) = place else { return Ok(None) };
    let registry = Registry::read(&place)?;
    // A registry that was named is to have the name; one that happens to be here may.
    let is_path = text.contains(['/', '*', '?', '[']);
    if !registry.knows(text) && (reading.registry.is_none() || is_path) {
        return Ok(None);
    }
    let elsewhere = registry.on_the_hub(text).and_then(|id| HubName::of(hub::RepoKind::Dataset, Path::new(&id)));
    let fetched = elsewhere.map(|name| name.fetch(&[], None, screen)).transpose()?;
    Ok(Some(registry.find(text, fetched.as_deref())?))
}

fn sentence(detected: &Detected, options: &Options, told: bool) -> String {
    let task = if options.task == Task::Kto { "KTO" } else { "SFT" };
    let mut fields: Vec<&str> = detected.fields.iter().take(8).map(String::as_str).collect();
    if detected.fields.len() > 8 {
        fields.push("...");
    }
    let fields = fields.join(", ");
    match (detected.shape, told) {
        (Some(shape), true) => format!(
            "format {} for {task}, told from the first row ({fields}); --from and --task or --to overrule it",
            shape.name()
        ),
        (Some(shape), false) => format!("format {} for {task}, as asked; the first row has {fields}", shape.name()),
        (None, _) => format!("format unknown: the first row has {fields}"),
    }
}

/// A task in a word.
pub(crate) fn task_word(task: Task) -> &'static str {
    match task {
        Task::Kto => "kto",
        Task::Sft => "sft",
        Task::Prompt => "prompt",
    }
}
