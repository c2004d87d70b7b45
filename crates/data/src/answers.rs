//! Answers to many prompts, written down as they come: a killed job goes on where it was, and the finished file has them in order.

use crate::error::{Error, Result};
use crate::journal::Journal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

/// A file of answers that is being written. Until it is whole, answers are in a hidden file beside it, a line each.
pub struct AnswerFile {
    output: PathBuf,
    journal: PathBuf,
    file: File,
    answers: BTreeMap<u64, Value>,
}

impl AnswerFile {
    /// Begins, or goes on with, the answers of `output`. `parts` are all that the answers depend on: a job of other parts begins anew.
    ///
    /// # Errors
    /// `Setting` when the output is there already; `Io` and `Write`.
    pub fn open(output: &Path, parts: &[&str]) -> Result<AnswerFile> {
        if output.exists() {
            let reason = format!("{} is there already; remove it, or name another file", output.display());
            return Err(Error::Setting { key: "output", reason });
        }
        let (_, key) = Journal::of(output, &[], parts)?;
        let name = output.file_name().unwrap_or_default().to_string_lossy();
        let journal = output.with_file_name(format!(".{name}.{key}.part"));
        let failed = |source| Error::Write { path: journal.clone(), source };
        if let Some(folder) = output.parent() {
            std::fs::create_dir_all(folder).map_err(failed)?;
        }
        let mut answers = BTreeMap::new();
        let whole = match File::open(&journal) {
            Ok(file) => read(BufReader::new(file), &mut answers),
            Err(_) => 0,
        };
        let file = File::options().create(true).append(true).open(&journal).map_err(failed)?;
        file.set_len(whole).map_err(failed)?;
        Ok(AnswerFile { output: output.to_owned(), journal, file, answers })
    }

    /// Whether prompt `index` is answered.
    pub fn has(&self, index: u64) -> bool {
        self.answers.contains_key(&index)
    }

    /// Answers there are.
    pub fn len(&self) -> usize {
        self.answers.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Adds the answer to prompt `index`; it is with the system when this returns.
    ///
    /// # Errors
    /// `Write`.
    pub fn add(&mut self, index: u64, answer: Value) -> Result<()> {
        let line = format!("{}\n", json!({"index": index, "answer": answer}));
        let written = self.file.write_all(line.as_bytes());
        written.map_err(|source| Error::Write { path: self.journal.clone(), source })?;
        self.answers.insert(index, answer);
        Ok(())
    }

    /// Writes the output, answers in the order of their prompts, and removes the hidden file.
    ///
    /// # Errors
    /// `Write`.
    pub fn finish(self) -> Result<()> {
        let failed = |source| Error::Write { path: self.output.clone(), source };
        let text: String = self.answers.values().map(|answer| format!("{answer}\n")).collect();
        let new = self.journal.with_extension("new");
        let mut file = File::create(&new).map_err(failed)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
        std::fs::rename(&new, &self.output).map_err(failed)?;
        // All of it is in the output.
        let _ = std::fs::remove_file(&self.journal);
        Ok(())
    }
}

/// Reads whole lines; returns their bytes. What comes after the first that is not whole is dropped.
fn read(mut reader: impl BufRead, answers: &mut BTreeMap<u64, Value>) -> u64 {
    let (mut whole, mut line) = (0, Vec::new());
    loop {
        line.clear();
        let Ok(length) = reader.read_until(b'\n', &mut line) else { return whole };
        let entry = line.strip_suffix(b"\n").and_then(|line| serde_json::from_slice::<Value>(line).ok());
        let Some((index, mut entry)) = entry.and_then(|entry| Some((entry["index"].as_u64()?, entry))) else {
            return whole;
        };
        answers.insert(index, entry["answer"].take());
        whole += length as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_job_goes_on_and_the_file_is_in_order() {
        let folder = std::env::temp_dir().join(format!("answers-{}", std::process::id()));
        let output = folder.join("out.jsonl");
        let mut file = AnswerFile::open(&output, &["a"]).unwrap();
        file.add(2, json!({"text": "two\n"})).unwrap();
        file.add(0, json!({"text": "zero"})).unwrap();
        let length = file.file.metadata().unwrap().len();
        file.file.set_len(length - 2).unwrap();
        drop(file);
        assert!(!output.exists());
        assert!(AnswerFile::open(&output, &["b"]).unwrap().is_empty(), "another job has answers of its own");
        let mut file = AnswerFile::open(&output, &["a"]).unwrap();
        assert!(file.has(2) && !file.has(0) && file.len() == 1, "a torn line is no answer");
        file.add(1, json!({"text": "one"})).unwrap();
        file.add(0, json!({"text": "zero"})).unwrap();
        file.finish().unwrap();
        let text = std::fs::read_to_string(&output).unwrap();
        assert_eq!(text, "{\"text\":\"zero\"}\n{\"text\":\"one\"}\n{\"text\":\"two\\n\"}\n");
        assert!(AnswerFile::open(&output, &["a"]).is_err());
        std::fs::remove_dir_all(folder).unwrap();
    }
}
