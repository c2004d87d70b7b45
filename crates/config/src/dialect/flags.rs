//! Command lines of the RTX 3090 trainer: `train_kto`, `inference`, `upload_to_hf`.

use super::{Accounted, Outcome, Row, To, apply};
use crate::problem::{Place, Source};
use crate::table;
use crate::yaml::{Content, Node};
use To::{By, Key, KeyBut, NoEffect, Secret, Unless};

const COMMANDS: &[(&str, &[Row])] = &[("train_kto", TRAIN), ("inference", INFERENCE), ("upload_to_hf", UPLOAD)];

fn line(key: &str, value: &str, remark: &'static str) -> Outcome {
    Outcome::Works { key: key.into(), value: value.into(), remark }
}

const UPLOADS: &str =
    "`prospect push RUN org/name` uploads a run's result; --what merged, and --gguf TYPES, as in that tool";
const SECRET: &str = "a secret, left out: give it with HF_TOKEN, HF_TOKEN_PATH, --token-file or a login";

#[rustfmt::skip] // a table: one row, one line
const TRAIN: &[Row] = &[
    ("--model-size", KeyBut("preset", "the model itself is named as `model_name_or_path`")),
    ("--model-name", Key("model_name_or_path")),
    ("--max-seq-length", Key("max_length")),
    ("--dataset-name", Key("dataset_name")),
    ("--dataset-file", Unless(&[], "it names a file of `--dataset-name`, and there is none")),
    ("--local-file", Key("dataset_name")),
    ("--split-dataset", By(|_| line("val_size", "0.1", "that tool does not say which share; set your own"))),
    ("--output-dir", Key("output_dir")),
    ("--batch-size", Key("per_device_train_batch_size")),
    ("--gradient-accumulation", Key("gradient_accumulation_steps")),
    ("--learning-rate", Key("learning_rate")),
    ("--num-epochs", Key("num_train_epochs")),
    ("--max-steps", Key("max_steps")),
    ("--wandb", By(|_| line("report_to", "wandb", "accepted; nothing is sent yet"))),
    ("--wandb-project", NoEffect("nothing is sent to trackers yet")),
    ("--wandb-run-name", Key("run_name")),
    ("--hf-token", Secret),
    ("--dry-run", NoEffect("`prospect train --dry-run` loads model and data, shows the plan and trains nothing")),
];

#[rustfmt::skip] // a table: one row, one line
const INFERENCE: &[Row] =
    &[("", NoEffect("`prospect generate MODEL --adapter DIR --prompt TEXT` answers with a trained model"))];

#[rustfmt::skip] // a table: one row, one line
const UPLOAD: &[Row] = &[
    ("", NoEffect(UPLOADS)),
    ("--token", Secret),
    ("--save-method", NoEffect(UPLOADS)),
    ("--create-gguf", NoEffect(UPLOADS)),
    ("--gguf-quantizations", NoEffect(UPLOADS)),
];

/// A word and its 1-based column.
struct Word<'a> {
    text: &'a str,
    column: usize,
}

/// Whether every line is a command of that tool.
pub(super) fn looks_like(text: &str) -> bool {
    let mut lines = text.lines().filter(|line| !blank(line)).peekable();
    lines.peek().is_some() && lines.all(|line| command(&words(line)).is_some())
}

pub(super) fn account(source: &Source, text: &str) -> Vec<Accounted> {
    let mut out = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, line)| !blank(line)) {
        let line = without_secrets(line);
        let words = words(&line);
        let Some((name, rows, mut at)) = command(&words) else { continue };
        let first_of_line = out.len();
        while at < words.len() {
            let word = &words[at];
            let is_flag = word.text.starts_with("--");
            let (flag, inline) = word.text.split_once('=').map_or((word.text, None), |(f, v)| (f, Some(v)));
            let first = at + usize::from(is_flag);
            let mut end = first;
            let takes_one = |end: usize| end < words.len() && !words[end].text.starts_with("--");
            while is_flag && inline.is_none() && takes_one(end) {
                end += 1;
            }
            let values: Vec<&str> = words[first..end].iter().map(|w| w.text.trim_matches(['"', '\''])).collect();
            let value = if is_flag { inline.map_or(values.join(" "), String::from) } else { word.text.into() };
            let key = if is_flag { flag } else { "" };
            let place = Place {
                source: source.clone(),
                line: i + 1,
                column: word.column,
                length: flag.chars().count(),
                text: line.clone(),
            };
            out.push(one(name, key, value, place, rows));
            at = end.max(at + 1);
        }
        let line = out.split_off(first_of_line);
        out.extend(together(line));
    }
    out
}

/// The flags of one line, where one changes what another means: the file of a data set.
fn together(line: Vec<Accounted>) -> Vec<Accounted> {
    let flag = |a: &Accounted| a.key.split_once(' ').map_or("", |(_, flag)| flag).to_owned();
    let flags: Vec<String> = line.iter().map(flag).collect();
    let known: Vec<&str> = flags.iter().map(String::as_str).collect();
    let value_of =
        |wanted: &str| line.iter().zip(&known).find(|(_, flag)| **flag == wanted).map(|(a, _)| a.value.clone());
    let (name, file) = (value_of("--dataset-name"), value_of("--dataset-file"));
    let mut out = Vec::new();
    for (mut a, flag) in line.into_iter().zip(&flags) {
        match (flag.as_str(), &name, &file) {
            ("--dataset-name", Some(name), Some(file)) => {
                let value = serde_json::Value::from(format!("{}/{file}", name.trim_end_matches('/'))).to_string();
                a.outcome = self::line("dataset_name", &value, "fetched on first use");
            }
            ("--dataset-file", Some(_), Some(_)) => a.outcome = Outcome::NoEffect("said with `--dataset-name`".into()),
            _ => {}
        }
        out.push(a);
    }
    out
}

fn one(command: &str, flag: &str, value: String, place: Place, rows: &[Row]) -> Accounted {
    let shown = if flag.is_empty() { format!("{command} ARGUMENT") } else { format!("{command} {flag}") };
    let node = Node { place: place.clone(), content: Content::Scalar { text: value.clone(), plain: true } };
    let to = rows.iter().find(|(name, _)| *name == flag).map(|(_, to)| *to);
    let outcome = match to {
        // A switch without a value is on.
        Some(Unless(_, reason)) => Outcome::Refused(reason.into()),
        Some(NoEffect(reason)) => Outcome::NoEffect(reason.into()),
        Some(Secret) => Outcome::NoEffect(SECRET.into()),
        Some(to) => apply(to, &node),
        None => Outcome::Unknown(table::nearest(flag, rows.iter().map(|(name, _)| *name))),
    };
    Accounted { key: shown, value, value_place: place.clone(), place, outcome }
}

/// The line with the values of secret flags as `***`.
fn without_secrets(line: &str) -> String {
    let words = words(line);
    let rows = command(&words).map_or(&[][..], |(_, rows, _)| rows);
    let is_secret = |flag: &str| rows.iter().any(|(name, to)| *name == flag && matches!(to, Secret));
    let mut shown = line.to_string();
    for pair in words.windows(2).filter(|pair| is_secret(pair[0].text)) {
        shown = shown.replace(pair[1].text, "***");
    }
    for (flag, value) in words.iter().filter_map(|word| word.text.split_once('=')).filter(|(flag, _)| is_secret(flag)) {
        shown = shown.replace(&format!("{flag}={value}"), &format!("{flag}=***"));
    }
    shown
}

fn blank(line: &str) -> bool {
    line.trim().is_empty() || line.trim_start().starts_with('#')
}

fn words(line: &str) -> Vec<Word<'_>> {
    let mut out = Vec::new();
    for text in line.split_whitespace() {
        let start = text.as_ptr() as usize - line.as_ptr() as usize;
        out.push(Word { text, column: line[..start].chars().count() + 1 });
    }
    out
}

/// The command a line starts (also as `python src/train_kto.py`), its table, and the index of its first argument.
fn command<'a>(words: &[Word<'a>]) -> Option<(&'static str, &'static [Row], usize)> {
    let skip = usize::from(words.first().is_some_and(|w: &Word<'a>| w.text.starts_with("python")));
    let program = words.get(skip)?.text;
    let stem = program.rsplit('/').next().unwrap_or(program).trim_end_matches(".py");
    COMMANDS.iter().find(|(name, _)| *name == stem).map(|(name, rows)| (*name, *rows, skip + 1))
}
