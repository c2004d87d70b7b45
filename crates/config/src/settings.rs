//! From YAML pairs to checked settings: each key looked up, read as its type, and brought under its one name.

use crate::note::Note;
use crate::problem::{Code, Place, Problem};
use crate::table::{self, Entry, Status};
use crate::value::{self, Kind, Mismatch, Value};
use crate::yaml::{self, Content, Node, Pair};
use std::collections::{BTreeMap, BTreeSet};

/// One value that was written, under the key's one name.
#[derive(Clone, Debug)]
pub(crate) struct Setting {
    pub(crate) value: Value,
    pub(crate) key_place: Place,
    /// The key as it was written, which may be another spelling.
    pub(crate) written: String,
}

/// What one source says.
#[derive(Default, Debug)]
pub(crate) struct Settings {
    explicit: BTreeMap<&'static str, Setting>,
    /// Keys set to null, which an override uses to take back what the file says.
    cleared: BTreeSet<&'static str>,
    /// Keys that were written and could not be read: rules about them would only repeat the complaint.
    broken: BTreeSet<&'static str>,
    /// Keys accepted without effect and why, in order, for the resolved file.
    pub(crate) idle: Vec<(String, &'static str)>,
    pub(crate) notes: Vec<Note>,
    pub(crate) problems: Vec<Problem>,
}

impl Settings {
    /// Reads the pairs of one source.
    pub(crate) fn collect(pairs: &[Pair]) -> Settings {
        let mut settings = Settings::default();
        for pair in pairs {
            settings.pair(&pair.key, &pair.key_place, &pair.value);
        }
        settings
    }

    /// Lays `other` (the command line) over this (the file): what it says wins, whatever the spelling.
    pub(crate) fn overlay(&mut self, other: Settings) {
        for key in other.cleared {
            self.explicit.remove(key);
        }
        self.explicit.extend(other.explicit);
        self.broken.extend(other.broken);
        self.idle.extend(other.idle);
        self.notes.extend(other.notes);
        self.problems.extend(other.problems);
    }

    /// What was written for a key, under any of its spellings.
    pub(crate) fn get(&self, key: &str) -> Option<&Setting> {
        debug_assert!(table::find(key).is_some_and(|e| matches!(e.status, Status::Works(..))), "`{key}` is no key");
        self.explicit.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, &Setting)> {
        self.explicit.iter().map(|(key, setting)| (*key, setting))
    }

    /// Whether none of the keys was written wrongly.
    pub(crate) fn sound(&self, keys: &[&str]) -> bool {
        keys.iter().all(|key| !self.broken.contains(key))
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.explicit.remove(key);
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match &self.get(key)?.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Option<bool> {
        match self.get(key)?.value {
            Value::Bool(b) => Some(b),
            _ => None,
        }
    }

    pub(crate) fn number(&self, key: &str) -> Option<f64> {
        match self.get(key)?.value {
            Value::Float(x) => Some(x),
            Value::Int(n) => Some(n as f64),
            _ => None,
        }
    }

    fn pair(&mut self, key: &str, key_place: &Place, node: &Node) {
        let Some(entry) = table::find(key) else {
            return self.unknown(key, key_place, node);
        };
        if let Kind::Map(inner) = entry.kind {
            return self.mapping(entry, inner, node);
        }
        if let Status::NoEffect(reason) = entry.status {
            if !node.is_null() {
                self.no_effect(entry, reason, key_place, node);
            }
            return;
        }
        let target = target_of(entry);
        if node.is_null() {
            if key == "max_length" || key == "max_seq_length" {
                self.insert(target, entry, Value::Null, key_place);
            } else {
                self.cleared.insert(target.key);
            }
            return;
        }
        let value = match entry.kind {
            Kind::Anything => Ok(Value::Null),
            _ => value::read(&entry.kind, node),
        };
        let value = match value {
            Ok(value) => value,
            Err(mismatch) => {
                self.broken.insert(target.key);
                return self.problems.push(mismatched(entry, node, mismatch));
            }
        };
        if let Status::Refused { unless, reason } = entry.status {
            return self.refused(entry, unless, reason, &value, node);
        }
        match respell(entry.key, value) {
            Some(value) => self.insert(target, entry, value, key_place),
            None => {
                self.cleared.insert(target.key);
            }
        }
    }

    /// A nested mapping, or the same as JSON text, which is how TRL's command line passes it.
    fn mapping(&mut self, entry: &'static Entry, inner: &'static [Entry], node: &Node) {
        match &node.content {
            _ if node.is_null() => {}
            Content::Map(pairs) => {
                for pair in pairs {
                    self.pair(&format!("{}.{}", entry.key, pair.key), &pair.key_place, &pair.value);
                }
            }
            Content::Scalar { text, .. } if text.trim_start().starts_with('{') => {
                match yaml::parse(&node.place.source, text) {
                    Ok(Some(mut parsed)) if matches!(parsed.content, Content::Map(_)) => {
                        relocate(&mut parsed, &node.place);
                        self.mapping(entry, inner, &parsed);
                    }
                    _ => self.problems.push(not_a_mapping(entry, inner, node)),
                }
            }
            _ => self.problems.push(not_a_mapping(entry, inner, node)),
        }
    }

    fn insert(&mut self, target: &'static Entry, entry: &Entry, value: Value, key_place: &Place) {
        if entry.key != target.key {
            self.notes.push(Note::spelling(entry.key, target.key, &written(&value), key_place));
        }
        let setting = Setting { value, key_place: key_place.clone(), written: entry.key.into() };
        if let Some(first) = self.explicit.get(target.key) {
            if first.value != setting.value {
                self.problems.push(disagree(target, first, &setting));
                self.broken.insert(target.key);
            }
            return;
        }
        self.explicit.insert(target.key, setting);
    }

    fn no_effect(&mut self, entry: &'static Entry, reason: &'static str, key_place: &Place, node: &Node) {
        if !matches!(entry.kind, Kind::Anything)
            && let Err(mismatch) = value::read(&entry.kind, node)
        {
            return self.problems.push(mismatched(entry, node, mismatch));
        }
        self.idle.push((entry.key.into(), reason));
        self.notes.push(Note::no_effect(entry.key, reason, key_place));
    }

    fn refused(&mut self, entry: &Entry, unless: &[&str], reason: &str, value: &Value, node: &Node) {
        if unless.iter().any(|text| says(entry, text, value, node)) {
            return;
        }
        let mut node = node.clone();
        let secret = is_secret(entry.key);
        if secret {
            hide(&mut node.place);
        }
        let shown = if secret { "a value".into() } else { node.describe() };
        let allowed: Vec<String> =
            unless.iter().filter(|text| **text != "null").map(|text| format!("`{text}`")).collect();
        let help = if allowed.is_empty() {
            format!("remove `{}`", entry.key)
        } else {
            format!("remove `{}` or set it to {}", entry.key, allowed.join(" or "))
        };
        let message = format!("`{}` ({}) is not offered with {shown}", entry.key, entry.doc);
        self.problems.push(Problem::new(Code::NotOffered, &node.place, message).label(reason).help(help));
    }

    fn unknown(&mut self, key: &str, place: &Place, node: &Node) {
        let (parent, names): (Option<&str>, Vec<&'static str>) = match key.rsplit_once('.') {
            Some((parent, _)) if matches!(table::find(parent).map(|e| e.kind), Some(Kind::Map(_))) => {
                let Some(Kind::Map(inner)) = table::find(parent).map(|e| e.kind) else { unreachable!("matched above") };
                (Some(parent), inner.iter().map(|e| e.key).collect())
            }
            _ => (None, table::entries().map(|e| e.key).collect()),
        };
        let near = table::nearest(key, names.iter().copied());
        let bare =
            |key: &str| parent.and_then(|p| key.strip_prefix(p)).map_or(key, |k| k.trim_start_matches('.')).to_string();
        let message = match parent {
            Some(parent) => format!("unknown key `{}` in `{parent}`", bare(key)),
            None => format!("unknown key `{key}`"),
        };
        let mut problem = Problem::new(Code::UnknownKey, place, message);
        match near {
            Some(near) => {
                problem = problem.label(format!("did you mean `{}`?", bare(near)));
                if let Some(entry) = table::find(near) {
                    self.broken.insert(target_of(entry).key);
                    problem = problem.help(format!("`{}`: {}", bare(near), entry.doc));
                }
            }
            None if parent.is_some() => {
                let known: Vec<String> = names.iter().map(|name| bare(name)).collect();
                problem = problem.help(format!("the keys there are {}", known.join(", ")));
            }
            None => {
                problem = problem.label("no key of TRL, PEFT, transformers or prospect");
                let nested = matches!(node.content, Content::Map(_));
                problem = problem.help(if nested {
                    "the file is flat: write the keys inside at the top level"
                } else {
                    "remove it"
                });
            }
        }
        self.problems.push(problem);
    }
}

/// The row of the one name of a key.
pub(crate) fn target_of(entry: &'static Entry) -> &'static Entry {
    match entry.status {
        Status::Spelling(of) => table::find(of).expect("a test walks the table: every spelling has its key"),
        _ => entry,
    }
}

/// The value that another spelling's value means; `None` for one that says nothing.
fn respell(key: &str, value: Value) -> Option<Value> {
    match (key, value) {
        ("warmup_ratio" | "warmup_steps", Value::Float(0.0)) => None,
        ("use_kto_s" | "use_sign_correction", Value::Bool(true)) => Some(Value::Text("kto_s".into())),
        ("use_kto_s" | "use_sign_correction", Value::Bool(false)) => None,
        ("mask_history", Value::Bool(history)) => history.then(|| Value::Text("last_assistant".into())),
        ("train_on_prompt", Value::Bool(prompt)) => prompt.then_some(Value::Bool(false)),
        ("train_sampling_strategy", Value::Text(name)) => Some(Value::Bool(name != "sequential")),
        ("max_steps", Value::Int(-1)) | ("shuffle_dataset", Value::Bool(false)) => None,
        (_, value) => Some(value),
    }
}

/// Whether a refused key's value says what is done anyway.
fn says(entry: &Entry, text: &str, value: &Value, node: &Node) -> bool {
    let source = &node.place.source;
    let Ok(Some(same)) = yaml::parse(source, text) else { return false };
    if let Kind::Anything = entry.kind {
        return same.flow() == node.flow();
    }
    value::read(&entry.kind, &same).is_ok_and(|same| same == *value)
}

/// Whether a key's value is a list that may be put together from several places.
pub(crate) fn is_list(key: &str) -> bool {
    table::find(key).is_some_and(|entry| matches!(entry.kind, Kind::Texts | Kind::Names))
}

pub(crate) fn is_secret(key: &str) -> bool {
    key.ends_with("_token") && key.contains("hub")
}

/// Blanks out a value that must not be printed.
fn hide(place: &mut Place) {
    let shown: String = place.text.chars().take(place.column.saturating_sub(1)).collect();
    place.text = format!("{shown}***");
    place.length = 3;
}

/// Puts every place of a text that was inside another value at that value.
pub(crate) fn relocate(node: &mut Node, place: &Place) {
    node.place = place.clone();
    match &mut node.content {
        Content::Scalar { .. } => {}
        Content::List(items) => items.iter_mut().for_each(|item| relocate(item, place)),
        Content::Map(pairs) => {
            for pair in pairs {
                pair.key_place = place.clone();
                relocate(&mut pair.value, place);
            }
        }
    }
}

fn mismatched(entry: &Entry, node: &Node, mismatch: Mismatch) -> Problem {
    let Mismatch { code, expected, help } = mismatch;
    let (key, found) = (entry.key, node.describe());
    let problem = match code {
        Code::NotOffered => Problem::new(code, &node.place, format!("`{key}`: {found} is not offered")).label(expected),
        Code::NotAChoice => {
            Problem::new(code, &node.place, format!("`{key}` knows no {found}")).label(format!("expected {expected}"))
        }
        Code::OutOfRange => Problem::new(code, &node.place, format!("`{key}` is out of range: {found}"))
            .label(format!("expected {expected}")),
        _ => Problem::new(code, &node.place, format!("`{key}` has the wrong type: found {found}"))
            .label(format!("expected {expected}")),
    };
    problem.help(help.unwrap_or_else(|| format!("`{key}`: {}", entry.doc)))
}

fn not_a_mapping(entry: &Entry, inner: &[Entry], node: &Node) -> Problem {
    let example = inner.first().and_then(|e| e.key.rsplit_once('.')).map_or("key", |(_, key)| key);
    Problem::new(Code::WrongType, &node.place, format!("`{}` has the wrong type: found {}", entry.key, node.describe()))
        .label("expected a mapping")
        .help(format!("write `{}:` and below it, indented, lines such as `{example}: ...`", entry.key))
}

fn disagree(target: &Entry, first: &Setting, second: &Setting) -> Problem {
    let message = if first.written == second.written {
        format!("`{}` is given twice with two values", first.written)
    } else {
        format!("`{}` and `{}` are two spellings of one thing and disagree", first.written, second.written)
    };
    Problem::new(Code::Disagree, &second.key_place, message)
        .label(format!("means `{}: {}`", target.key, written(&second.value)))
        .and(&first.key_place, format!("means `{}: {}`", target.key, written(&first.value)))
        .help(format!("keep one of the two, best `{}`", target.key))
}

/// A value as YAML text that this crate and PyYAML read back as the same.
pub(crate) fn written(value: &Value) -> String {
    match value {
        Value::Null => "null".into(),
        Value::Bool(b) => b.to_string(),
        Value::Int(n) => n.to_string(),
        Value::Float(x) => float(*x),
        Value::Text(text) => quoted(text),
        Value::List(items) if items.len() == 1 => quoted(&items[0]),
        Value::List(items) => format!("[{}]", items.iter().map(|t| quoted(t)).collect::<Vec<_>>().join(", ")),
        Value::Pairs(pairs) => {
            let pair = |(name, x): &(String, f64)| format!("{}: {}", serde_json::Value::from(name.as_str()), float(*x));
            format!("{{{}}}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
        }
        Value::Numbers(items) => format!("[{}]", items.iter().map(|x| float(*x)).collect::<Vec<_>>().join(", ")),
    }
}

/// Shortest digits that read back as the same bits; with a point and a sign, as YAML 1.1 wants them.
fn float(x: f64) -> String {
    let text = format!("{x:?}");
    if let Some(whole) = text.strip_suffix(".0") {
        return whole.into();
    }
    let Some((digits, exponent)) = text.split_once('e') else { return text };
    let point = if digits.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    format!("{digits}{point}e{sign}{exponent}")
}

fn quoted(text: &str) -> String {
    let plain = text.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/'))
        && text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/' || c == '.')
        && text.contains(|c: char| c.is_ascii_alphabetic());
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "null" | "y" | "n" | ".nan" | ".inf"
    );
    if plain && !word { text.into() } else { serde_json::Value::from(text).to_string() }
}
