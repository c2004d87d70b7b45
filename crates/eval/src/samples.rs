//! Samples and the journal that keeps them: a line per finished answer, so that a killed evaluation loses none.

use crate::Error;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// By itself, with a stop token or text.
    Stop,
    /// At its greatest length: it was cut off.
    Length,
    /// It never began: the prompt fills the model's positions.
    NoRoom,
    /// Not known, as in files of other programs.
    Unknown,
}

impl Finish {
    /// Its name in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length => "length",
            Self::NoRoom => "no_room",
            Self::Unknown => "unknown",
        }
    }

    fn from_name(name: &str) -> Self {
        let known = [Self::Stop, Self::Length, Self::NoRoom].into_iter().find(|finish| finish.name() == name);
        known.unwrap_or(Self::Unknown)
    }
}

/// One answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// What the model said, without stop texts.
    pub text: String,
    /// Tokens it took.
    pub tokens: usize,
    /// Why it ended.
    pub finish: Finish,
}

/// Samples by row and number.
pub(crate) type Samples = BTreeMap<(i64, usize), Sample>;

/// Writes samples down as they come.
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
}

impl Journal {
    /// Opens the journal at `path` and adds to `samples` what it holds; a new one begins with a line that says whose it is.
    ///
    /// A last line without its end, left by a killed process, is dropped. Errors: the file, a damaged line, a journal of
    /// another evaluation.
    pub(crate) fn open(path: &Path, identity: &Value, samples: &mut Samples) -> Result<Self, Error> {
        let whole = match File::open(path) {
            Ok(file) => read(path, BufReader::new(file), identity, samples)?,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => 0,
            Err(e) => return Err(Error::io("read", path)(e)),
        };
        let options = File::options().create(true).append(true).open(path);
        let file = options.map_err(Error::io("open", path))?;
        file.set_len(whole).map_err(Error::io("write", path))?;
        let mut journal = Self { path: path.to_owned(), file };
        if whole == 0 {
            journal.line(&json!({"evaluation": identity}))?;
        }
        Ok(journal)
    }

    /// Adds a sample; it is with the system when this returns.
    pub(crate) fn add(&mut self, (idx, number): (i64, usize), sample: &Sample) -> Result<(), Error> {
        self.line(&json!({
            "idx": idx,
            "sample": number,
            "tokens": sample.tokens,
            "finish_reason": sample.finish.name(),
            "text": sample.text,
        }))
    }

    fn line(&mut self, object: &Value) -> Result<(), Error> {
        self.file.write_all(format!("{object}\n").as_bytes()).map_err(Error::io("write", &self.path))
    }
}

/// Reads a journal and returns how many of its bytes are whole lines.
fn read(path: &Path, mut reader: impl BufRead, identity: &Value, samples: &mut Samples) -> Result<u64, Error> {
    let (mut whole, mut line) = (0, Vec::new());
    for number in 1.. {
        line.clear();
        let length = reader.read_until(b'\n', &mut line).map_err(Error::io("read", path))?;
        if line.pop() != Some(b'\n') {
            break;
        }
        let damaged = |reason: String| Error::Row { path: path.to_owned(), line: number, reason };
        let value: Value = serde_json::from_slice(&line)
            .map_err(|e| damaged(format!("not a sample ({e}); cut the file before this line, or --overwrite")))?;
        if number == 1 {
            if let Some(reason) = difference(&value["evaluation"], identity) {
                return Err(Error::OtherRun { path: path.to_owned(), reason });
            }
        } else {
            let (key, sample) = of_line(&value).ok_or_else(|| damaged("not a sample; cut the file here".into()))?;
            samples.insert(key, sample);
        }
        whole += length as u64;
    }
    Ok(whole)
}

fn of_line(value: &Value) -> Option<((i64, usize), Sample)> {
    let key = (value["idx"].as_i64()?, usize::try_from(value["sample"].as_u64()?).ok()?);
    let tokens = usize::try_from(value["tokens"].as_u64()?).ok()?;
    let finish = Finish::from_name(value["finish_reason"].as_str()?);
    Some((key, Sample { text: value["text"].as_str()?.to_owned(), tokens, finish }))
}

/// Adds the samples of a result file, ours or the harness's.
pub(crate) fn of_results(path: &Path, samples: &mut Samples) -> Result<(), Error> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(Error::io("read", path)(e)),
    };
    for (line, number) in BufReader::new(file).lines().zip(1..) {
        let line = line.map_err(Error::io("read", path))?;
        let bad = |reason: String| Error::Row { path: path.to_owned(), line: number, reason };
        let row: Value = serde_json::from_str(&line).map_err(|e| bad(format!("not a result ({e}); --overwrite")))?;
        let idx = row["idx"].as_i64().ok_or_else(|| bad("`idx`: expected a whole number".into()))?;
        let texts = row["code"].as_array().ok_or_else(|| bad("`code`: expected a list of texts".into()))?;
        for (k, text) in texts.iter().enumerate() {
            let text = text.as_str().ok_or_else(|| bad("`code`: expected texts".into()))?.to_owned();
            let tokens = row["tokens"][k].as_u64().unwrap_or(0) as usize;
            let finish = row["finish_reason"][k].as_str().map_or(Finish::Unknown, Finish::from_name);
            samples.insert((idx, k), Sample { text, tokens, finish });
        }
    }
    Ok(())
}

/// The first key in which two evaluations differ.
pub(crate) fn difference(found: &Value, expected: &Value) -> Option<String> {
    let keys = expected.as_object()?.keys();
    let of = |key: &str| format!("{key} is {} there and {} here", found[key], expected[key]);
    keys.into_iter().find(|key| found[key.as_str()] != expected[key.as_str()]).map(|key| of(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::task::Scratch;

    fn sample(text: &str) -> Sample {
        Sample { text: text.into(), tokens: 3, finish: Finish::Length }
    }

    #[test]
    fn a_journal_keeps_whole_lines_and_drops_a_torn_one() {
        let scratch = Scratch::new("journal");
        let (path, identity) = (scratch.0.join("j.jsonl"), json!({"model": "a", "seed": 1}));
        let mut journal = Journal::open(&path, &identity, &mut Samples::new()).unwrap();
        journal.add((4, 0), &sample("four\nlines")).unwrap();
        journal.add((5, 1), &sample("five")).unwrap();
        drop(journal);
        let length = std::fs::metadata(&path).unwrap().len();
        let torn = File::options().write(true).open(&path).unwrap();
        torn.set_len(length - 3).unwrap();
        let mut samples = Samples::new();
        let mut journal = Journal::open(&path, &identity, &mut samples).unwrap();
        assert_eq!(samples, Samples::from([((4, 0), sample("four\nlines"))]));
        journal.add((5, 1), &sample("five")).unwrap();
        Journal::open(&path, &identity, &mut samples).unwrap();
        assert_eq!(samples.len(), 2);
        assert_eq!(std::fs::metadata(&path).unwrap().len(), length);
    }

    #[test]
    fn a_journal_of_another_evaluation_is_refused() {
        let scratch = Scratch::new("other");
        let path = scratch.0.join("j.jsonl");
        Journal::open(&path, &json!({"model": "a", "seed": 1}), &mut Samples::new()).unwrap();
        let error = Journal::open(&path, &json!({"model": "a", "seed": 2}), &mut Samples::new()).err().unwrap();
        assert!(error.to_string().contains("seed is 1 there and 2 here"), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}
