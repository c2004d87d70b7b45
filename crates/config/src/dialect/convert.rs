//! Another tool's file as ours: to be run as it stands, or to be written as a file of ours.

use super::{Accounted, Dialect, Outcome, account_pairs, recognise};
use crate::note::Note;
use crate::problem::{Code, Errors, Place, Problem, Source};
use crate::settings::is_list;
use crate::yaml::{self, Content, Node, Pair};
use std::fmt::Write;

/// What another tool's file says in our keys, each where it was written there.
#[derive(Default)]
pub(crate) struct Converted {
    pub(crate) pairs: Vec<Pair>,
    pub(crate) notes: Vec<Note>,
    pub(crate) problems: Vec<Problem>,
}

/// Reads another tool's file as ours; an error for a file that holds no run.
pub(crate) fn converted(dialect: Dialect, source: &Source, pairs: &[Pair]) -> Result<Converted, Errors> {
    let whole = Place::whole(source.clone());
    if !matches!(dialect, Dialect::Mlx | Dialect::LlamaFactory | Dialect::Axolotl) {
        let problem = Problem::new(Code::Dialect, &whole, format!("this is {dialect}, not the configuration of a run"));
        return Err(problem
            .help("give the run's own file; `prospect import FILE` says what becomes of these keys")
            .into());
    }
    let accounted = account_pairs(dialect, pairs);
    let mut out = Converted::default();
    out.notes.push(Note::default("", format!("read as {dialect}; `prospect import` writes it with our keys")));
    for a in &accounted {
        let said = |text: String| Note::foreign(&a.key, text, &a.place);
        match &a.outcome {
            Outcome::Works { key, value, remark } => {
                if !remark.is_empty() {
                    out.notes.push(said(format!("`{}` is read as `{key}: {value}`: {remark}", a.key)));
                }
                push(&mut out.pairs, key, node(value, &a.value_place), &a.place);
            }
            Outcome::InPlace(_) => {}
            Outcome::NoEffect(reason) => out.notes.push(said(format!("`{}` has no effect: {reason}", a.key))),
            Outcome::Refused(reason) => {
                let message = format!("`{}` of {dialect} is not taken with `{}`", a.key, a.value);
                out.problems.push(Problem::new(Code::NotOffered, &a.place, message).label(reason.clone()));
            }
            Outcome::Unknown(near) => {
                let mut problem = Problem::new(Code::UnknownKey, &a.place, format!("unknown key `{}`", a.key));
                if let Some(near) = near {
                    problem = problem.label(format!("did you mean `{near}`?"));
                }
                out.problems.push(problem.help("remove it"));
            }
        }
    }
    for (key, value) in implied(dialect, &lines(&accounted)) {
        push(&mut out.pairs, key, node(value, &whole), &whole);
    }
    Ok(out)
}

/// What we write of a value as a node that stands where the value was.
fn node(value: &str, place: &Place) -> Node {
    let parsed = yaml::parse(&place.source, value).ok().flatten();
    let mut node = parsed.unwrap_or_else(|| Node {
        place: place.clone(),
        content: Content::Scalar { text: value.into(), plain: false },
    });
    crate::settings::relocate(&mut node, place);
    node
}

/// Adds a pair; lists of files that several keys name are put together, of other keys the first is kept.
fn push(pairs: &mut Vec<Pair>, key: &str, node: Node, place: &Place) {
    let Some(pair) = pairs.iter_mut().find(|pair| pair.key == key) else {
        return pairs.push(Pair { key: key.into(), key_place: place.clone(), value: node });
    };
    if is_list(key) {
        let mut items = items(std::mem::replace(&mut pair.value, node.clone()));
        items.extend(self::items(node));
        pair.value.content = Content::List(items);
    }
}

fn items(node: Node) -> Vec<Node> {
    match node.content {
        Content::List(items) => items,
        content => vec![Node { place: node.place, content }],
    }
}

/// The lines of our file: each key once.
fn lines(accounted: &[Accounted]) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for a in accounted {
        if let Outcome::Works { key, value, .. } = &a.outcome {
            push(&mut pairs, key, node(value, &a.place), &a.place);
        }
    }
    let one = |pair: Pair| {
        let value = match pair.value.content {
            Content::Scalar { text, .. } => scalar(&text),
            Content::List(items) => {
                let items: Vec<String> = items.iter().map(|item| scalar(&item.flow())).collect();
                format!("[{}]", items.join(", "))
            }
            Content::Map(_) => pair.value.flow(),
        };
        (pair.key, value)
    };
    pairs.into_iter().map(one).collect()
}

/// A text as YAML, in quotes where it needs them; numbers and words stay as they are.
fn scalar(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./+".contains(c);
    let bare = !text.is_empty() && text.chars().all(plain) && !text.starts_with('-');
    if bare || text.parse::<f64>().is_ok() { text.into() } else { serde_json::Value::from(text).to_string() }
}

/// What the other tool does where a file does not say, and we would do otherwise.
fn implied(dialect: Dialect, said: &[(String, String)]) -> Vec<(&'static str, &'static str)> {
    let value = |key: &str| said.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let sft = value("trainer") == Some("sft");
    let lora = value("use_peft") == Some("true");
    let mut out: Vec<(&str, &str)> = Vec::new();
    match dialect {
        Dialect::Mlx => out.push(("use_peft", "true")),
        Dialect::Flags if !said.is_empty() => out.extend([("trainer", "kto"), ("use_peft", "true")]),
        Dialect::LlamaFactory => {
            out.extend([("max_length", "2048"), ("learning_rate", "5e-5"), ("logging_steps", "500")]);
            out.push(("dataset_dir", "data"));
            if sft && value("completion_only_loss").is_none() {
                out.push(("turn_loss", "assistant"));
            }
            if lora {
                out.extend([("lora_r", "8"), ("lora_dropout", "0.0"), ("lora_target_modules", "all-linear")]);
            }
        }
        Dialect::Axolotl => {
            let preference = value("trainer") == Some("kto");
            if !preference {
                out.push(("trainer", "sft"));
            }
            if !preference && value("completion_only_loss").is_none() {
                out.push(("turn_loss", "assistant"));
            }
        }
        _ => {}
    }
    out.retain(|(key, _)| value(key).is_none());
    out
}

/// The file of ours that says what another tool's file says, with every key of that file accounted for: as a line, or in a
/// comment with the reason it has no effect, is not taken, or is unknown. Of several command lines each is a document.
///
/// Errors where the text cannot be read at all.
pub fn import(path: &str, text: &str) -> Result<String, Errors> {
    let dialect = recognise(path, text)?;
    let accounted = super::account(path, text)?;
    let head = format!("{}\n# From {path}, {dialect}.\n", crate::MODELINE);
    if dialect != Dialect::Flags {
        return Ok(head + &as_yaml(dialect, &accounted));
    }
    // Each command is a run of its own.
    let runs = accounted.chunk_by(|a, b| a.place.line == b.place.line);
    let run = |run: &[Accounted]| format!("# {}\n{}", run[0].place.text.trim(), as_yaml(dialect, run));
    Ok(head + &runs.map(run).collect::<Vec<_>>().join("---\n"))
}

/// Our YAML of what [`account`](super::account) found, every key accounted for. A key that two foreign keys name is written once.
pub fn as_yaml(dialect: Dialect, accounted: &[Accounted]) -> String {
    let lines = lines(accounted);
    let mut out = String::new();
    // A key of a nested mapping is written in its mapping.
    let mut nested: Vec<(&str, String)> = Vec::new();
    for (key, value) in &lines {
        match key.split_once('.') {
            None => _ = writeln!(out, "{key}: {value}"),
            Some((outer, inner)) => {
                let line = format!("  {inner}: {value}\n");
                match nested.iter_mut().find(|(name, _)| *name == outer) {
                    Some((_, lines)) => lines.push_str(&line),
                    None => nested.push((outer, line)),
                }
            }
        }
    }
    nested.iter().for_each(|(outer, lines)| _ = write!(out, "{outer}:\n{lines}"));
    let implied = implied(dialect, &lines);
    if !implied.is_empty() {
        let _ = writeln!(out, "\n# What {dialect} means where it does not say");
        implied.iter().for_each(|(key, value)| _ = writeln!(out, "{key}: {value}"));
    }
    let mut section = |title: &str, line: &dyn Fn(&Accounted) -> Option<String>| {
        let found: Vec<String> = accounted.iter().filter_map(line).collect();
        if !found.is_empty() {
            let _ = writeln!(out, "\n# {title}");
            found.iter().for_each(|line| _ = writeln!(out, "# {line}"));
        }
    };
    section("Read as other keys", &|a| match &a.outcome {
        Outcome::Works { key, value, remark } if *key != a.key || !remark.is_empty() => {
            let remark = if remark.is_empty() { String::new() } else { format!(" ({remark})") };
            Some(format!("{}: {} -> {key}: {value}{remark}", a.key, a.value))
        }
        _ => None,
    });
    section("Read from the file itself", &|a| match &a.outcome {
        Outcome::InPlace(how) => Some(format!("{}: {} ({how})", a.key, a.value)),
        _ => None,
    });
    section("Without effect", &|a| match &a.outcome {
        Outcome::NoEffect(reason) => Some(format!("{}: {} ({reason})", a.key, a.value)),
        _ => None,
    });
    section("Not taken", &|a| match &a.outcome {
        Outcome::Refused(reason) => Some(format!("not taken: {}: {} ({reason})", a.key, a.value)),
        Outcome::Unknown(_) => Some(format!("unknown: {}: {}", a.key, a.value)),
        _ => None,
    });
    out
}
