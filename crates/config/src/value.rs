//! The types a key may have, and reading a YAML node as one of them.

use crate::problem::Code;
use crate::yaml::{Content, Node};

/// The type of a key's value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// true, false, yes, no, on, off.
    Bool,
    /// A whole number, at least this.
    Int(i64),
    /// A finite number in a range.
    Float(Range),
    /// Any text; a number is read as its text.
    Text,
    /// One text or a list of them.
    Texts,
    /// Texts, also written as one with commas between.
    Names,
    /// A list of numbers in a range, also written as one text with commas between.
    Numbers(Range),
    /// A mapping from names to numbers in a range.
    Pairs(Range),
    /// One of some names.
    Choice(&'static [Choice]),
    /// One of some names or a list of them.
    Choices(&'static [Choice]),
    /// true, false, or one of some names.
    BoolOr(&'static [&'static str]),
    /// true, false, or a path.
    BoolOrText,
    /// A number in a range, or one of some names.
    FloatOr(Range, &'static [&'static str]),
    /// A number of bytes: 8589934592, 8GiB, 8 GB.
    Bytes,
    /// A mapping whose keys are in a table of their own.
    Map(&'static [crate::table::Entry]),
    /// Not looked at.
    Anything,
}

/// A name a [`Kind::Choice`] knows.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// Taken.
    Is(&'static str),
    /// Another spelling of a name that is taken.
    Means(&'static str, &'static str),
    /// Known and refused, with the reason.
    Not(&'static str, &'static str),
}

impl Choice {
    /// The name as it is written.
    pub fn name(&self) -> &'static str {
        match self {
            Choice::Is(name) | Choice::Means(name, _) | Choice::Not(name, _) => name,
        }
    }
}

/// A range of numbers and its words in messages.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// `a number > 0`
    pub words: &'static str,
    /// Whether a finite number lies inside.
    pub holds: fn(f64) -> bool,
}

impl Range {
    /// Any finite number.
    pub const ANY: Range = Range { words: "a number", holds: |_| true };
    /// Above zero.
    pub const POSITIVE: Range = Range { words: "a number > 0", holds: |x| x > 0.0 };
    /// Zero or above.
    pub const NON_NEGATIVE: Range = Range { words: "a number >= 0", holds: |x| x >= 0.0 };
    /// [0, 1)
    pub const BELOW_ONE: Range = Range { words: "a number in [0, 1)", holds: |x| (0.0..1.0).contains(&x) };
    /// [0, 1]
    pub const UNIT: Range = Range { words: "a number in [0, 1]", holds: |x| (0.0..=1.0).contains(&x) };
    /// Whole numbers from 1.
    pub const RANK: Range = Range { words: "a whole number >= 1", holds: |x| x >= 1.0 && x.fract() == 0.0 && x < 1e9 };
    /// Whole numbers from 0.
    pub const INDEX: Range = Range { words: "a whole number >= 0", holds: |x| x >= 0.0 && x.fract() == 0.0 && x < 1e9 };
    /// Steps: a ratio of the whole below 1, else a count.
    pub const STEPS: Range = Range {
        words: "a whole number of steps >= 1, or a ratio of all steps in (0, 1)",
        holds: |x| x > 0.0 && (x < 1.0 || x.fract() == 0.0),
    };
    /// As [`Range::STEPS`], with 0 for none.
    pub const STEPS_OR_NONE: Range = Range {
        words: "a whole number of steps, or a ratio of all steps in (0, 1)",
        holds: |x| x >= 0.0 && (x < 1.0 || x.fract() == 0.0),
    };
    /// Rows: a fraction below 1, else a count.
    pub const ROWS: Range = Range {
        words: "a fraction of the rows in (0, 1), or a whole number of rows",
        holds: |x| x > 0.0 && (x < 1.0 || x.fract() == 0.0),
    };
}

/// A value that has been read as the type of its key.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// Explicitly nothing, where that means something (`max_length: null`).
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<String>),
    Numbers(Vec<f64>),
    /// In the order they were written.
    Pairs(Vec<(String, f64)>),
}

/// Why a node is not of a kind.
#[derive(Debug)]
pub(crate) struct Mismatch {
    pub(crate) code: Code,
    /// What would be right, or for a refused choice the reason.
    pub(crate) expected: String,
    pub(crate) help: Option<String>,
}

fn wrong(expected: impl Into<String>) -> Mismatch {
    Mismatch { code: Code::WrongType, expected: expected.into(), help: None }
}

/// Reads a node that is not null as `kind`. Maps and [`Kind::Anything`] are the caller's.
pub(crate) fn read(kind: &Kind, node: &Node) -> Result<Value, Mismatch> {
    let text = match &node.content {
        Content::Scalar { text, .. } => text.trim(),
        Content::List(items) => return read_list(kind, items),
        Content::Map(pairs) => return read_pairs(kind, pairs),
    };
    match kind {
        Kind::Bool => boolean(text).map(Value::Bool).ok_or_else(|| wrong(words(kind))),
        Kind::Int(least) => int(text, *least, kind),
        Kind::Float(range) => float(text, range).map(Value::Float),
        Kind::Text => Ok(Value::Text(text.into())),
        Kind::Texts | Kind::Names if text.is_empty() => Err(wrong(words(kind))),
        Kind::Texts => Ok(Value::List(vec![text.into()])),
        Kind::Names => Ok(Value::List(parts(text).map(String::from).collect())),
        Kind::Numbers(range) => {
            parts(text).map(|part| float(part, range)).collect::<Result<_, _>>().map(Value::Numbers)
        }
        Kind::Choice(choices) => choose(text, choices).map(|name| Value::Text(name.into())),
        Kind::Choices(choices) => choose(text, choices).map(|name| Value::List(vec![name.into()])),
        Kind::BoolOr(names) => match boolean(text) {
            Some(b) => Ok(Value::Bool(b)),
            None if names.contains(&text) => Ok(Value::Text(text.into())),
            None => Err(wrong(words(kind))),
        },
        Kind::BoolOrText => Ok(boolean(text).map_or_else(|| Value::Text(text.into()), Value::Bool)),
        Kind::FloatOr(_, names) if names.contains(&text) => Ok(Value::Text(text.into())),
        Kind::FloatOr(range, _) => float(text, range)
            .map(Value::Float)
            .map_err(|m| if m.code == Code::WrongType { wrong(words(kind)) } else { m }),
        Kind::Bytes => bytes(text).map(Value::Int).ok_or_else(|| wrong(words(kind))),
        Kind::Pairs(_) => match crate::yaml::parse(&node.place.source, text) {
            Ok(Some(Node { content: Content::Map(pairs), .. })) => read_pairs(kind, &pairs),
            _ => Err(wrong(words(kind))),
        },
        Kind::Map(_) | Kind::Anything => Err(wrong(words(kind))),
    }
}

fn read_pairs(kind: &Kind, pairs: &[crate::yaml::Pair]) -> Result<Value, Mismatch> {
    let Kind::Pairs(range) = kind else { return Err(wrong(words(kind))) };
    let read = |pair: &crate::yaml::Pair| match &pair.value.content {
        Content::Scalar { text, .. } => Ok((pair.key.clone(), float(text.trim(), range)?)),
        _ => Err(wrong(words(kind))),
    };
    pairs.iter().map(read).collect::<Result<_, _>>().map(Value::Pairs)
}

/// What stands between the commas of a text.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty())
}

fn read_list(kind: &Kind, items: &[Node]) -> Result<Value, Mismatch> {
    let texts = items.iter().map(|item| match &item.content {
        Content::Scalar { text, .. } if !item.is_null() => Ok(text.trim()),
        _ => Err(wrong(words(kind))),
    });
    match kind {
        Kind::Texts | Kind::Names => texts.map(|t| t.map(String::from)).collect::<Result<_, _>>().map(Value::List),
        Kind::Numbers(range) => texts.map(|t| float(t?, range)).collect::<Result<_, _>>().map(Value::Numbers),
        Kind::Choices(choices) => {
            texts.map(|t| choose(t?, choices).map(String::from)).collect::<Result<_, _>>().map(Value::List)
        }
        _ => Err(wrong(words(kind))),
    }
}

/// The kind in the words of an error message.
pub(crate) fn words(kind: &Kind) -> String {
    let or = |first: &str, names: &[&str]| format!("{first} or `{}`", names.join("` or `"));
    match kind {
        Kind::Bool => "true or false".into(),
        Kind::Int(least) if *least == i64::MIN => "a whole number".into(),
        Kind::Int(least) => format!("a whole number >= {least}"),
        Kind::Float(range) => range.words.into(),
        Kind::Text => "a text".into(),
        Kind::Texts | Kind::Names => "a text or a list of texts".into(),
        Kind::Pairs(range) => format!("a mapping from names, each to {}", range.words),
        Kind::Numbers(range) => format!("a list, each {}", range.words),
        Kind::Choice(choices) => format!("one of {}", taken(choices).join(", ")),
        Kind::Choices(choices) => format!("one or a list of {}", taken(choices).join(", ")),
        Kind::BoolOr(names) => or("true, false", names),
        Kind::BoolOrText => "true, false or a path".into(),
        Kind::FloatOr(range, names) => or(range.words, names),
        Kind::Bytes => "a number of bytes such as 8GiB".into(),
        Kind::Map(_) => "a mapping".into(),
        Kind::Anything => "a value".into(),
    }
}

fn taken(choices: &[Choice]) -> Vec<&'static str> {
    choices.iter().filter(|c| matches!(c, Choice::Is(_))).map(Choice::name).collect()
}

/// YAML 1.1's booleans, which PyYAML reads.
fn boolean(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "yes" | "on" => Some(true),
        "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// `5e-7`, `1.0e-4`, `.5`, `+1`, `1_000`: a YAML 1.1 reader takes some of these for text, we do not.
fn number(text: &str) -> Option<f64> {
    let starts = text.trim_start_matches(['+', '-']);
    let numeric = starts.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    let text = if numeric && text.contains('_') { text.replace('_', "") } else { text.into() };
    if numeric { text.parse().ok().filter(|x: &f64| x.is_finite()) } else { None }
}

fn float(text: &str, range: &Range) -> Result<f64, Mismatch> {
    let value = number(text).ok_or_else(|| Mismatch { help: none_is_null(text), ..wrong(range.words) })?;
    if (range.holds)(value) {
        Ok(value)
    } else {
        Err(Mismatch { code: Code::OutOfRange, expected: range.words.into(), help: None })
    }
}

fn int(text: &str, least: i64, kind: &Kind) -> Result<Value, Mismatch> {
    let digits = text.trim_start_matches(['+', '-']);
    if digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit()) {
        let help =
            Some(format!("write `{}`: YAML 1.1 readers take a leading zero for octal", digits.trim_start_matches('0')));
        return Err(Mismatch { help, ..wrong(words(kind)) });
    }
    let exact =
        digits.replace('_', "").parse::<i64>().ok().filter(|_| digits.starts_with(|c: char| c.is_ascii_digit()));
    let value = match exact {
        Some(value) if text.starts_with('-') => Some(-value),
        Some(value) => Some(value),
        None => number(text).filter(|x| x.fract() == 0.0 && x.abs() < 9e15).map(|x| x as i64),
    };
    match value {
        Some(value) if value >= least => Ok(Value::Int(value)),
        Some(_) => Err(Mismatch { code: Code::OutOfRange, expected: words(kind), help: None }),
        None => Err(Mismatch { help: none_is_null(text), ..wrong(words(kind)) }),
    }
}

fn none_is_null(text: &str) -> Option<String> {
    (text == "None").then(|| "YAML writes Python's `None` as `null`, or leave the key out".into())
}

/// A bare `no` or `off` is PyYAML's False; where `no` is a choice it means that choice.
fn choose(text: &str, choices: &'static [Choice]) -> Result<&'static str, Mismatch> {
    let find = |name: &str| choices.iter().find(|c| c.name() == name);
    let found = find(text).or_else(|| if boolean(text) == Some(false) { find("no") } else { None });
    match found {
        Some(Choice::Is(name) | Choice::Means(_, name)) => Ok(name),
        Some(Choice::Not(_, reason)) => {
            let help = Some(format!("use one of {}", taken(choices).join(", ")));
            Err(Mismatch { code: Code::NotOffered, expected: (*reason).into(), help })
        }
        None => {
            let near = crate::table::nearest(text, choices.iter().map(Choice::name));
            let help = near.map(|name| format!("did you mean `{name}`?"));
            Err(Mismatch { code: Code::NotAChoice, expected: words(&Kind::Choice(choices)), help })
        }
    }
}

fn bytes(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (amount, unit) = text.split_at(digits);
    let unit: f64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kib" => 1024.0,
        "m" | "mib" => 1024f64.powi(2),
        "g" | "gib" => 1024f64.powi(3),
        "t" | "tib" => 1024f64.powi(4),
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "tb" => 1e12,
        _ => return None,
    };
    number(amount.trim()).map(|x| x * unit).filter(|x| *x >= 1.0 && *x < 9e15).map(|x| x as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problem::Source;

    fn node(text: &str) -> Node {
        crate::yaml::parse(&Source::Override(1), text).unwrap().unwrap()
    }

    #[test]
    fn numbers_that_yaml_1_1_takes_for_text_are_numbers() {
        for (text, expected) in [
            ("5e-7", 5e-7),
            ("1e-4", 1e-4),
            ("\"1e-4\"", 1e-4),
            ("1.0e-4", 1e-4),
            (".5", 0.5),
            ("+2", 2.0),
            ("1_000", 1e3),
        ] {
            assert_eq!(read(&Kind::Float(Range::ANY), &node(text)).unwrap(), Value::Float(expected), "{text}");
        }
        for text in ["nan", ".inf", "1e999", "abc", "1:30", "--1", "true", "[1]"] {
            assert!(read(&Kind::Float(Range::ANY), &node(text)).is_err(), "{text}");
        }
    }

    #[test]
    fn whole_numbers_are_exact_and_never_octal() {
        for (text, expected) in
            [("8", 8), ("-1", -1), ("1_000", 1000), ("1e3", 1000), ("9007199254740993", 9007199254740993)]
        {
            assert_eq!(read(&Kind::Int(-1), &node(text)).unwrap(), Value::Int(expected), "{text}");
        }
        for text in ["010", "1.5", "-2", "1e30", "", "_1", "0x10"] {
            assert!(read(&Kind::Int(-1), &node(&format!("'{text}'"))).is_err(), "{text}");
        }
    }

    #[test]
    fn booleans_are_read_only_where_one_is_expected() {
        assert_eq!(read(&Kind::Bool, &node("Yes")).unwrap(), Value::Bool(true));
        assert_eq!(read(&Kind::Text, &node("yes")).unwrap(), Value::Text("yes".into()));
        const NO: &[Choice] = &[Choice::Is("no"), Choice::Is("steps")];
        for text in ["no", "false", "off", "'no'"] {
            assert_eq!(read(&Kind::Choice(NO), &node(text)).unwrap(), Value::Text("no".into()), "{text}");
        }
        assert_eq!(read(&Kind::Choice(NO), &node("stepps")).unwrap_err().help.unwrap(), "did you mean `steps`?");
    }

    #[test]
    fn sizes_have_units() {
        assert_eq!(read(&Kind::Bytes, &node("1.5 GiB")).unwrap(), Value::Int(3 << 29));
        assert_eq!(read(&Kind::Bytes, &node("2GB")).unwrap(), Value::Int(2_000_000_000));
        assert!(read(&Kind::Bytes, &node("2 apples")).is_err());
    }
}
