//! Leaving out rows that repeat others, exactly or nearly.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::label::completion;
use super::{PROGRESS_ROWS, Progress, hash, next_object, tell};
use crate::error::{Error, Result};
use crate::format::{Body, Example, Reading, Task, read_row};
use crate::rng::mix;
use crate::sink::{JsonRow, Sink, Written};
use crate::source::{Rows, total_bytes};
use crate::tokenise::Options;

/// What makes two rows the same.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Same {
    /// All their text, label included.
    Exact,
    /// Their prompts.
    Prompt,
    /// Five-word pieces of prompt and completion, in at least this share (Jaccard similarity, estimated by MinHash).
    Near {
        /// The share, in 0..1; 0.8 is customary.
        threshold: f64,
    },
}

/// What was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deduplicated {
    /// Rows in the files.
    pub rows_read: u64,
    /// Rows left out.
    pub removed: u64,
    /// The first few of them: number of the row and of the earlier row that it repeats, from 0.
    pub examples: Vec<(u64, u64)>,
    /// The output and its rows.
    pub written: Written,
}

/// Hash functions of a signature, in bands of rows: two rows of similarity 0.8 meet in one of 32 bands of 4 with probability
/// 1 - (1 - 0.8^4)^32 > 0.9999, two of similarity 0.3 with probability 0.23 (and then fail the estimate).
const BANDS: usize = 32;
const BAND: usize = 4;
/// Words of a piece.
const WORDS: usize = 5;
/// Pairs that a report shows.
const EXAMPLES: usize = 10;

type Signature = [u32; BANDS * BAND];

/// Writes `files` without the rows that repeat an earlier one; the first stays, unchanged.
///
/// Exact comparison takes about 16 bytes of memory for each row. Near comparison takes about 1.3 kB for each row that stays.
///
/// # Errors
/// `Io`, `Row`, `Write`, `Table`.
pub fn dedup(
    files: &[PathBuf],
    output: &Path,
    same: Same,
    options: &Options,
    progress: Progress<'_>,
) -> Result<Deduplicated> {
    let total = total_bytes(files)?;
    if let Same::Near { threshold } = same
        && !(threshold > 0.0 && threshold <= 1.0)
    {
        let reason = format!("expected a share above 0 and up to 1, found {threshold}");
        return Err(Error::Setting { key: "threshold", reason });
    }
    let mut sink = Sink::create(output)?;
    let mut rows = Rows::open(files);
    let (mut exact, mut near) = (HashMap::new(), Near::default());
    let (mut rows_read, mut removed, mut examples) = (0_u64, 0, Vec::new());
    while let Some((_, row)) = next_object(files, &mut rows)? {
        let content = content(&row, options);
        let earlier = match same {
            Same::Exact => remember(&mut exact, hash(content.all.as_bytes()), rows_read),
            Same::Prompt => remember(&mut exact, hash(content.prompt.as_bytes()), rows_read),
            Same::Near { threshold } => near.find(&content.text, threshold, rows_read),
        };
        match earlier {
            Some(earlier) => {
                removed += 1;
                if examples.len() < EXAMPLES {
                    examples.push((rows_read, earlier));
                }
            }
            None => sink.write(&row)?,
        }
        rows_read += 1;
        if rows_read.is_multiple_of(PROGRESS_ROWS as u64) {
            tell(progress, rows.bytes_read(), total)?;
        }
    }
    Ok(Deduplicated { rows_read, removed, examples, written: sink.finish()? })
}

fn remember(seen: &mut HashMap<u64, u64>, key: u64, row: u64) -> Option<u64> {
    match seen.entry(key) {
        std::collections::hash_map::Entry::Occupied(entry) => Some(*entry.get()),
        std::collections::hash_map::Entry::Vacant(entry) => {
            entry.insert(row);
            None
        }
    }
}

/// What a row is compared by. A row of no known shape is compared by all of its text.
struct Content {
    all: String,
    prompt: String,
    text: String,
}

fn content(row: &JsonRow, options: &Options) -> Content {
    let all = || serde_json::to_string(row).expect("JSON values serialise");
    let reading = Reading {
        shape: options.shape,
        default_label: Some(true),
        alternatives: options.alternatives,
        ..Reading::new(Task::Kto, &options.text_field)
    };
    let json = serde_json::Value::Object(row.clone());
    let read = read_row(&json, &reading).or_else(|_| read_row(&json, &Reading { task: Task::Sft, ..reading }));
    let Ok(read) = read else { return Content { all: all(), prompt: all(), text: all() } };
    let prompt = read.examples.first().map(prompt).unwrap_or_default();
    let completions: Vec<String> = read.examples.iter().map(completion).collect();
    let written: Vec<String> =
        read.examples.iter().map(|e| serde_json::Value::Object(e.to_row()).to_string()).collect();
    let text = format!("{prompt} {}", completions.join(" "));
    Content { all: written.join("\n"), prompt, text }
}

fn prompt(example: &Example) -> String {
    match &example.body {
        Body::Plain { prompt, .. } => prompt.clone(),
        Body::Chat { prompt, .. } => serde_json::to_string(prompt).expect("JSON values serialise"),
        Body::Messages(turns) => {
            let last = turns.len() - usize::from(turns.len() > 1);
            serde_json::to_string(&turns[..last]).expect("JSON values serialise")
        }
        Body::Text(text) => text.clone(),
    }
}

/// Signatures of the rows that stay, found again by their bands.
#[derive(Default)]
struct Near {
    signatures: Vec<(u64, Signature)>,
    bands: HashMap<(u8, u64), Vec<u32>>,
}

impl Near {
    /// The earlier row that this text nearly repeats; if there is none, the row is remembered.
    fn find(&mut self, text: &str, threshold: f64, row: u64) -> Option<u64> {
        let signature = signature(text);
        let keys = (0..BANDS).map(|band| {
            let values = &signature[band * BAND..(band + 1) * BAND];
            (band as u8, values.iter().fold(0, |key, &value| mix(key ^ u64::from(value))))
        });
        let keys: Vec<(u8, u64)> = keys.collect();
        let mut tried = HashSet::new();
        for key in &keys {
            for &candidate in self.bands.get(key).into_iter().flatten() {
                if !tried.insert(candidate) {
                    continue;
                }
                let (earlier, other) = &self.signatures[candidate as usize];
                let equal = signature.iter().zip(other).filter(|(a, b)| a == b).count();
                if equal as f64 >= threshold * signature.len() as f64 {
                    return Some(*earlier);
                }
            }
        }
        let number = self.signatures.len() as u32;
        self.signatures.push((row, signature));
        for key in keys {
            self.bands.entry(key).or_default().push(number);
        }
        None
    }
}

/// MinHash (Broder 1997): the least of each of 128 hashes over the pieces of the text.
fn signature(text: &str) -> Signature {
    let words: Vec<u64> = text
        .split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.to_lowercase().bytes().fold(0, |hash, byte| mix(hash ^ u64::from(byte))))
        .collect();
    let mut least = [u32::MAX; BANDS * BAND];
    for piece in words.windows(WORDS.min(words.len()).max(1)) {
        let piece = piece.iter().fold(0, |hash, &word| mix(hash ^ word));
        for (n, least) in least.iter_mut().enumerate() {
            *least = (*least).min((mix(piece ^ mix(n as u64 + 1)) >> 32) as u32);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_agree_as_much_as_the_texts_do() {
        let text = |from: usize, to: usize| (from..to).map(|n| format!("w{n} ")).collect::<String>();
        let similarity = |a: &str, b: &str| {
            let (a, b) = (signature(a), signature(b));
            a.iter().zip(&b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64
        };
        assert_eq!(similarity("A cat, sat.", "a CAT sat"), 1.0);
        assert!((similarity(&text(0, 200), &text(20, 220)) - 176.0 / 216.0).abs() < 0.12);
        assert!(similarity(&text(0, 100), &text(100, 200)) < 0.05);
        let mut near = Near::default();
        assert_eq!(near.find(&text(0, 200), 0.7, 0), None);
        assert_eq!(near.find(&text(300, 500), 0.7, 1), None);
        assert_eq!(near.find(&text(5, 200), 0.7, 2), Some(0));
    }
}
