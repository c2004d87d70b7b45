//! A task: a benchmark's rows, ready to be asked and graded. The six known ones, or any JSONL file with a few lines of YAML.

use crate::Error;
use crate::benchmark::{Benchmark, Gold};
use crate::grader::{boxed_answer, normalise_gold};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::path::Path;
#[cfg(test)]
use std::path::PathBuf;

/// One question with its gold answer.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The row's number: its `idx`, else its place in the file.
    pub idx: i64,
    /// The question as it is put.
    pub question: String,
    /// The right answer.
    pub gold: Gold,
    /// The row as read.
    pub row: Map<String, Value>,
}

/// A benchmark's rows.
#[derive(Clone, Debug, PartialEq)]
pub struct Task {
    /// Its name in files.
    pub name: String,
    /// The known benchmark whose rules of extraction hold.
    pub rules: String,
    /// Its rows, ascending by `idx`.
    pub items: Vec<Item>,
    /// BLAKE3 of the file.
    pub hash: String,
}

/// Where a row keeps what is needed.
enum Source {
    Known(Benchmark),
    User { question: Option<String>, answer: String, boxed: bool, rules: Benchmark },
}

/// Which of a file's rows are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slice {
    /// The first rows only; negative for all.
    pub num_test_sample: i64,
    /// Of those, from this one.
    pub start: usize,
    /// Up to but without this one; negative for all.
    pub end: i64,
}

impl Slice {
    fn of<T>(self, mut items: Vec<T>) -> Vec<T> {
        if self.num_test_sample > 0 {
            items.truncate(self.num_test_sample as usize);
        }
        if self.end >= 0 {
            items.truncate(self.end as usize);
        }
        items.drain(..self.start.min(items.len()));
        items
    }
}

/// Keys of a benchmark's YAML.
const KEYS: [&str; 6] = ["name", "file", "question", "answer", "boxed", "rules"];

impl Task {
    /// A known benchmark's rows in `data/<name>/test.jsonl`, or those of a benchmark that a YAML file describes.
    ///
    /// # Errors
    /// An unknown name, a file that cannot be read, rows that lack what the benchmark needs.
    pub fn read(name: &str, data: &Path, slice: Slice) -> Result<Self, Error> {
        if name.ends_with(".yaml") || name.ends_with(".yml") {
            return Self::user(Path::new(name), slice);
        }
        let benchmark = Benchmark::from_name(name)?;
        let path = data.join(name).join("test.jsonl");
        Self::rows(name.to_owned(), &path, &Source::Known(benchmark), slice)
    }

    /// The benchmark that a YAML file describes; its `file` is relative to the YAML.
    fn user(path: &Path, slice: Slice) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        let [name, file, question, answer, boxed, rules] = config::flat(&path.to_string_lossy(), &text, KEYS)?;
        let bad = |reason: String| Error::Task { path: path.to_owned(), reason };
        let name = match name {
            Some(name) => name,
            None => path.file_stem().unwrap_or_default().to_string_lossy().into_owned(),
        };
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if name.is_empty() || name.starts_with('.') || !name.chars().all(plain) {
            return Err(bad(format!("`name`: expected letters, digits, `_`, `-` and `.`, found `{name}`")));
        }
        let file = file.ok_or_else(|| bad("`file` is missing: the benchmark's rows, as JSONL".into()))?;
        let boxed = match boxed.as_deref() {
            None | Some("false") => false,
            Some("true") => true,
            Some(other) => return Err(bad(format!("`boxed`: expected true or false, found `{other}`"))),
        };
        let rules = rules.map_or(Ok(Benchmark::OlympiadBench), |rules| Benchmark::from_name(&rules))?;
        let answer = answer.unwrap_or_else(|| "answer".into());
        let file = path.parent().unwrap_or(Path::new("")).join(file);
        Self::rows(name, &file, &Source::User { question, answer, boxed, rules }, slice)
    }

    fn rows(name: String, path: &Path, source: &Source, slice: Slice) -> Result<Self, Error> {
        let hash = blake3::Hasher::new()
            .update(&std::fs::read(path).map_err(Error::io("read", path))?)
            .finalize()
            .to_hex()
            .to_string();
        let files = [path.to_owned()];
        let mut rows = data::source::Rows::open(&files);
        let (mut items, mut seen) = (Vec::new(), BTreeSet::new());
        while let Some(raw) = rows.next_row()? {
            let at = |reason: String| Error::Row { path: path.to_owned(), line: raw.line, reason };
            let row: Value = serde_json::from_slice(&raw.text).map_err(|e| at(format!("not a JSON object: {e}")))?;
            let place = seen.len() as i64;
            let item = source.item(row, place).map_err(|e| at(e.to_string()))?;
            if seen.insert(item.idx) {
                items.push(item);
            }
        }
        if items.is_empty() {
            return Err(Error::Task { path: path.to_owned(), reason: "no rows".into() });
        }
        items.sort_by_key(|item| item.idx);
        let rules = match source {
            Source::Known(benchmark) => *benchmark,
            Source::User { rules, .. } => *rules,
        };
        let items = slice.of(items);
        if items.is_empty() {
            let reason = "no rows between --start and --end".to_owned();
            return Err(Error::Task { path: path.to_owned(), reason });
        }
        Ok(Self { name, rules: rules.name().to_owned(), items, hash })
    }
}

impl Source {
    fn item(&self, row: Value, place: i64) -> Result<Item, Error> {
        let (question, gold) = match self {
            Self::Known(benchmark) => (benchmark.question(&row)?, benchmark.gold(&row)?),
            Self::User { question, answer, boxed, rules } => {
                let question = match question {
                    Some(key) => text_of(&row, key)?,
                    None => ["question", "problem", "Question", "input", "prompt"]
                        .iter()
                        .find_map(|key| text_of(&row, key).ok())
                        .ok_or_else(|| missing("question"))?,
                };
                let stated = text_of(&row, answer)?;
                let stated = if *boxed { boxed_answer(&stated) } else { stated };
                let normalised = normalise_gold(&stated, rules.name());
                (question.trim().to_owned(), Gold { answer: stated, normalised, solution: String::new() })
            }
        };
        let Value::Object(row) = row else { return Err(missing("question")) };
        let idx = row.get("idx").and_then(Value::as_i64).unwrap_or(place);
        Ok(Item { idx, question, gold, row })
    }
}

/// A text, or a number as it is written.
fn text_of(row: &Value, key: &str) -> Result<String, Error> {
    match row.get(key) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(Value::Number(number)) => Ok(number.to_string()),
        _ => Err(missing(key)),
    }
}

fn missing(key: &str) -> Error {
    Error::Field { name: key.to_owned(), expected: "a text or a number" }
}

/// A folder for the tests of this crate, gone at the end.
#[cfg(test)]
pub(crate) struct Scratch(pub(crate) PathBuf);

#[cfg(test)]
impl Scratch {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("prospect-eval-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

#[cfg(test)]
impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Slice = Slice { num_test_sample: -1, start: 0, end: -1 };

    #[test]
    fn rows_are_sorted_counted_and_taken_once() {
        let scratch = Scratch::new("rows");
        std::fs::create_dir(scratch.0.join("gsm8k")).unwrap();
        let row = |idx: i64| format!("{{\"question\": \"q{idx}\", \"answer\": \"#### {idx}\", \"idx\": {idx}}}\n");
        std::fs::write(scratch.0.join("gsm8k/test.jsonl"), [row(2), row(0), row(2), row(1)].concat()).unwrap();
        let task = Task::read("gsm8k", &scratch.0, ALL).unwrap();
        assert_eq!(task.items.iter().map(|item| item.idx).collect::<Vec<_>>(), [0, 1, 2]);
        let slice = Slice { num_test_sample: 2, start: 1, end: -1 };
        assert_eq!(Task::read("gsm8k", &scratch.0, slice).unwrap().items[0].question, "q1");
        std::fs::write(scratch.0.join("gsm8k/test.jsonl"), "{\"question\": \"q\"}\n").unwrap();
        let error = Task::read("gsm8k", &scratch.0, ALL).unwrap_err();
        assert!(error.to_string().contains("test.jsonl:1: field `answer`"), "{error}");
        assert_eq!(Task::read("aime24", &scratch.0, ALL).unwrap_err().exit_code(), 6);
    }

    #[test]
    fn a_benchmark_of_ones_own_is_a_few_lines_of_yaml() {
        let scratch = Scratch::new("own");
        std::fs::write(scratch.0.join("rows.jsonl"), "{\"ask\": \"1+1?\", \"gold\": 2}\n").unwrap();
        let yaml = scratch.0.join("mine.yaml");
        std::fs::write(&yaml, "file: rows.jsonl\nquestion: ask\nanswer: gold\nrules: aime24\n").unwrap();
        let task = Task::read(yaml.to_str().unwrap(), Path::new(""), ALL).unwrap();
        assert_eq!((task.name.as_str(), task.rules.as_str()), ("mine", "aime24"));
        assert_eq!((task.items[0].question.as_str(), task.items[0].gold.answer.as_str()), ("1+1?", "2"));
        std::fs::write(&yaml, "file: rows.jsonl\nname: ../x\n").unwrap();
        assert!(Task::read(yaml.to_str().unwrap(), Path::new(""), ALL).unwrap_err().to_string().contains("`name`"));
    }
}
