//! Files of other tools: recognising them, and saying of every key what becomes of it here.

mod accelerate;
mod axolotl;
mod convert;
mod dataset_info;
mod deepspeed;
mod flags;
mod llama_factory;
mod mlx;

pub(crate) use convert::converted;
pub use convert::{as_yaml, import};

use crate::problem::{Errors, Place, Source};
use crate::settings::{Settings, is_secret, written};
use crate::table::{self, Status};
use crate::value::Kind;
use crate::yaml::{Content, Node, Pair};
use std::fmt;

/// Whose file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Ours, and TRL's: flat keys.
    Flat,
    /// An accelerate launch file.
    Accelerate,
    /// DeepSpeed's JSON.
    DeepSpeed,
    /// Nested sections `model`, `lora`, `training`, `kto` of the MLX trainer.
    Mlx,
    /// LLaMA-Factory's training YAML.
    LlamaFactory,
    /// Axolotl's YAML.
    Axolotl,
    /// LLaMA-Factory's `dataset_info.json`.
    DatasetInfo,
    /// Command lines of the RTX 3090 trainer, one per line.
    Flags,
}

impl fmt::Display for Dialect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dialect::Flat => "a TRL configuration",
            Dialect::Accelerate => "an accelerate launch file",
            Dialect::DeepSpeed => "a DeepSpeed configuration",
            Dialect::Mlx => "a nested MLX-style configuration",
            Dialect::LlamaFactory => "a LLaMA-Factory configuration",
            Dialect::Axolotl => "an Axolotl configuration",
            Dialect::DatasetInfo => "a LLaMA-Factory dataset_info.json",
            Dialect::Flags => "a list of command lines",
        })
    }
}

/// One key of a file and what becomes of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Accounted {
    /// Dotted where it is nested; with its command for flags.
    pub key: String,
    /// As written, on one line; secrets as `***`.
    pub value: String,
    /// Where the key stands.
    pub place: Place,
    /// Where its value stands.
    pub(crate) value_place: Place,
    /// What becomes of it.
    pub outcome: Outcome,
}

/// What becomes of a key.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    /// It is this line of our YAML.
    Works {
        /// Our key.
        key: String,
        /// Its value as YAML.
        value: String,
        /// What differs from the other tool; may be empty.
        remark: &'static str,
    },
    /// It works from the file it is in, and how.
    InPlace(&'static str),
    /// Accepted without effect, and why.
    NoEffect(String),
    /// Not taken, and why.
    Refused(String),
    /// No table knows it; the nearest key that one knows.
    Unknown(Option<&'static str>),
}

/// What a foreign key is here.
#[derive(Clone, Copy)]
pub(crate) enum To {
    /// Our key with the same value.
    Key(&'static str),
    /// Our key with the same value, and what differs.
    KeyBut(&'static str, &'static str),
    /// Our key; these values are spelled otherwise.
    Respelled(&'static str, &'static [(&'static str, &'static str)]),
    /// Our key, or none, by value; any other value is refused with the reason.
    Values(&'static [(&'static str, Line)], &'static str),
    /// Read from that file itself, and how.
    InPlace(&'static str),
    /// No effect, and why.
    NoEffect(&'static str),
    /// Refused unless it has one of these values, and why.
    Unless(&'static [&'static str], &'static str),
    /// Never to be printed; refused.
    Secret,
    /// Decided by looking at the value.
    By(fn(&str) -> Outcome),
}

/// A line of our YAML, or that the value says what is done anyway.
#[derive(Clone, Copy)]
pub(crate) enum Line {
    Is(&'static str, &'static str),
    Anyway,
}

/// A row of a dialect's table: the dotted key, and what it is here.
pub(crate) type Row = (&'static str, To);

const SECRET: &str = "a secret: give it to the program that needs it, never in a file";
const UNSET: &str = "it is unset";
const ANYWAY: &str = "it says what is done anyway";

/// Recognises whose file a text is. Errors: text that is neither YAML nor a list of known commands.
pub fn recognise(path: &str, text: &str) -> Result<Dialect, Errors> {
    if flags::looks_like(text) {
        return Ok(Dialect::Flags);
    }
    let pairs = crate::top_level(&Source::File(path.into()), text)?;
    Ok(of_pairs(&pairs).unwrap_or(Dialect::Flat))
}

/// Says of every key of a file, ours or another tool's, what becomes of it here.
///
/// Errors only where the text cannot be read at all; a wrong value is [`Outcome::Refused`] with the reason.
pub fn account(path: &str, text: &str) -> Result<Vec<Accounted>, Errors> {
    let source = Source::File(path.into());
    let dialect = recognise(path, text)?;
    if dialect == Dialect::Flags {
        return Ok(flags::account(&source, text));
    }
    Ok(account_pairs(dialect, &crate::top_level(&source, text)?))
}

/// [`account`] of pairs that were read.
fn account_pairs(dialect: Dialect, pairs: &[Pair]) -> Vec<Accounted> {
    let mut out = Vec::new();
    match dialect {
        Dialect::DatasetInfo => {
            for entry in pairs {
                walk(&entry.key, "", &entry.value, &entry.key_place, dataset_info::ROWS, &mut out);
            }
        }
        Dialect::Accelerate => each(pairs, accelerate::ROWS, &mut out),
        Dialect::DeepSpeed => each(pairs, deepspeed::ROWS, &mut out),
        Dialect::Mlx => each(pairs, mlx::ROWS, &mut out),
        Dialect::LlamaFactory => each(pairs, llama_factory::ROWS, &mut out),
        Dialect::Axolotl => each(pairs, axolotl::ROWS, &mut out),
        Dialect::Flat | Dialect::Flags => each(pairs, &[], &mut out),
    }
    out
}

/// Whose file it is, unless it is a flat one.
pub(crate) fn of_pairs(pairs: &[Pair]) -> Option<Dialect> {
    let has = |key: &str| pairs.iter().any(|pair| pair.key == key);
    let count = |keys: &[&str]| keys.iter().filter(|key| has(key)).count();
    let is_map = |pair: &Pair| matches!(pair.value.content, Content::Map(_));
    if count(accelerate::MARKS) >= 2 {
        Some(Dialect::Accelerate)
    } else if count(deepspeed::MARKS) >= 2 && !has("trainer") && !has("model_name_or_path") {
        Some(Dialect::DeepSpeed)
    } else if !pairs.is_empty() && pairs.iter().all(|pair| dataset_info::is_entry(&pair.value)) {
        Some(Dialect::DatasetInfo)
    } else if pairs.iter().filter(|p| is_map(p) && mlx::SECTIONS.contains(&p.key.as_str())).count() >= 2 {
        Some(Dialect::Mlx)
    } else if count(axolotl::MARKS) >= 2 {
        Some(Dialect::Axolotl)
    } else if count(llama_factory::MARKS) >= 2 && count(llama_factory::OWN) >= 1 {
        Some(Dialect::LlamaFactory)
    } else {
        None
    }
}

/// Where a run's own file says that DeepSpeed's is: the value of `deepspeed`, if it is a path.
pub fn deepspeed_file(path: &str, text: &str) -> Option<String> {
    let pairs = crate::top_level(&Source::File(path.into()), text).ok()?;
    let pair = pairs.iter().find(|pair| pair.key == "deepspeed")?;
    match &pair.value.content {
        Content::Scalar { text, .. } if !pair.value.is_null() && !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

/// Whether a file has a key of its own.
pub fn has_key(path: &str, text: &str, key: &str) -> bool {
    let pairs = crate::top_level(&Source::File(path.into()), text);
    pairs.is_ok_and(|pairs| pairs.iter().any(|pair| pair.key == key))
}

fn each(pairs: &[Pair], rows: &[Row], out: &mut Vec<Accounted>) {
    for pair in pairs {
        walk("", &pair.key, &pair.value, &pair.key_place, rows, out);
    }
}

/// Accounts for a key, or for the keys inside it when its table has rows for them. `shown` is put before `key` in what
/// is said, and is no part of the table's key.
fn walk(shown: &str, key: &str, node: &Node, place: &Place, rows: &[Row], out: &mut Vec<Accounted>) {
    let known =
        rows.iter().any(|(name, _)| *name == key) || matches!(table::find(key).map(|e| e.kind), Some(Kind::Anything));
    let listed = format!("{key}[]");
    if let Content::List(items) = &node.content
        && rows.iter().any(|(name, _)| name.starts_with(&listed))
    {
        for item in items {
            walk(shown, &listed, item, place, rows, out);
        }
        return;
    }
    if let Content::Map(pairs) = &node.content
        && !known
    {
        for pair in pairs {
            let inner = if key.is_empty() { pair.key.clone() } else { format!("{key}.{}", pair.key) };
            walk(shown, &inner, &pair.value, &pair.key_place, rows, out);
        }
        return;
    }
    let name = if shown.is_empty() { key.into() } else { format!("{shown}.{key}") };
    let section = format!("{key}.");
    let is_section = !known && rows.iter().any(|(name, _)| name.starts_with(&section));
    let to = rows.iter().find(|(name, _)| *name == key).map(|(_, to)| *to);
    let outcome = match to {
        Some(to) => apply(to, node),
        // `offload_optimizer: null`, as other tools' documents write a section that is not there.
        None if is_section && (node.is_null() || node.flow().eq_ignore_ascii_case("none")) => {
            Outcome::NoEffect(UNSET.into())
        }
        None if table::find(key).is_some() => ours(key, node, ""),
        None => {
            let names = rows.iter().map(|(name, _)| *name).chain(table::entries().map(|e| e.key));
            Outcome::Unknown(table::nearest(key, names))
        }
    };
    let (mut place, mut value_place, mut value) = (place.clone(), node.place.clone(), node.flow());
    if matches!(to, Some(To::Secret)) || is_secret(key) {
        place.text = place.text.replace(&value, "***");
        value_place.text.clone_from(&place.text);
        value = "***".into();
    }
    out.push(Accounted { key: name, value, place, value_place, outcome });
}

/// What a foreign key with this value is.
pub(crate) fn apply(to: To, node: &Node) -> Outcome {
    let text = node.flow();
    match to {
        To::Key(key) => ours(key, node, ""),
        To::KeyBut(key, remark) => ours(key, node, remark),
        To::Respelled(key, spellings) => {
            let mut node = node.clone();
            if let Some((_, ours)) = spellings.iter().find(|(theirs, _)| *theirs == text) {
                node.content = Content::Scalar { text: (*ours).into(), plain: true };
            }
            ours(key, &node, "")
        }
        To::Values(values, reason) => match values.iter().find(|(value, _)| *value == text.to_lowercase()) {
            Some((_, Line::Is(key, value))) => {
                Outcome::Works { key: (*key).into(), value: (*value).into(), remark: "" }
            }
            Some((_, Line::Anyway)) => Outcome::NoEffect(ANYWAY.into()),
            None => Outcome::Refused(reason.into()),
        },
        To::InPlace(how) => Outcome::InPlace(how),
        To::NoEffect(reason) => Outcome::NoEffect(reason.into()),
        To::Unless(values, _) if node.is_null() || values.contains(&text.to_lowercase().as_str()) => {
            Outcome::NoEffect(ANYWAY.into())
        }
        To::Unless(_, reason) => Outcome::Refused(reason.into()),
        To::Secret => Outcome::Refused(SECRET.into()),
        To::By(look) => look(&text),
    }
}

/// What our own table says of a key with this value.
fn ours(key: &str, node: &Node, remark: &'static str) -> Outcome {
    let entry = table::find(key).expect("the tables of other tools name keys of ours");
    let pair = Pair { key: key.into(), key_place: node.place.clone(), value: node.clone() };
    let settings = Settings::collect(&[pair]);
    if let Some(problem) = settings.problems.first() {
        let label = if problem.label.is_empty() { String::new() } else { format!(": {}", problem.label) };
        return Outcome::Refused(format!("{}{label}", problem.message));
    }
    if let Some((key, setting)) = settings.iter().next() {
        return Outcome::Works { key: key.into(), value: written(&setting.value), remark };
    }
    match entry.status {
        Status::NoEffect(reason) => Outcome::NoEffect(reason.into()),
        Status::Refused { .. } => Outcome::NoEffect(ANYWAY.into()),
        _ if node.is_null() => Outcome::NoEffect(UNSET.into()),
        _ => Outcome::NoEffect("this value leaves it unset".into()),
    }
}
