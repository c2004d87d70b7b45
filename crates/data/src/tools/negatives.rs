//! Undesirable rows made from desirable ones, for data that have none; each says in `source` how it was made.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use serde_json::Value as Json;

use super::answer;
use super::label::completion;
use super::{PROGRESS_ROWS, Progress, tell};
use crate::error::{Error, Result};
use crate::format::{Body, Example, Task};
use crate::read::Examples;
use crate::rng::Stream;
use crate::sink::{Sink, Written};
use crate::source::total_bytes;
use crate::tokenise::Options;

/// How an undesirable completion is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Negative {
    /// The completion of another prompt.
    OtherRow,
    /// The same completion with another number as its final answer.
    ChangedAnswer,
    /// The same completion, cut off somewhere in its second and third quarter.
    Truncated,
}

impl Negative {
    /// Every kind.
    pub const ALL: [Negative; 3] = [Negative::OtherRow, Negative::ChangedAnswer, Negative::Truncated];

    /// What `source` says.
    pub fn name(self) -> &'static str {
        match self {
            Negative::OtherRow => "negative:other-row",
            Negative::ChangedAnswer => "negative:changed-answer",
            Negative::Truncated => "negative:truncated",
        }
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// Desirable rows, all of which are kept.
    pub desirable: usize,
    /// Undesirable rows that were there already, and are kept.
    pub undesirable: usize,
    /// Negatives by kind, in the order that was asked for.
    pub made: Vec<(Negative, usize)>,
    /// Desirable rows from which none of the kinds could make a negative.
    pub without: usize,
    /// The output and its rows.
    pub written: Written,
}

/// Completions that wait to be another row's; a window, so that memory does not grow.
const WINDOW: usize = 1024;

/// Writes `files` with an undesirable row behind each desirable one, of the kinds in turn; where one cannot be made of a row, the
/// next kind is tried. The draws depend on `seed` and the row's content only, except that another row's completion is one of
/// the last thousand.
///
/// # Errors
/// `Setting` without a kind; `Row`, `Io`, `Write`, `Table`.
pub fn make_negatives(
    files: &[PathBuf],
    output: &Path,
    (kinds, seed): (&[Negative], u64),
    options: &Options,
    progress: Progress<'_>,
) -> Result<Made> {
    let total = total_bytes(files)?;
    if kinds.is_empty() {
        let reason = "expected at least one kind of negative, found none".to_owned();
        return Err(Error::Setting { key: "make_negatives", reason });
    }
    let options = Options { task: Task::Kto, default_label: options.default_label.or(Some(true)), ..options.clone() };
    let mut sink = Sink::create(output)?;
    let mut rows = Examples::open(files, &options);
    let mut made: Vec<(Negative, usize)> = kinds.iter().map(|&kind| (kind, 0)).collect();
    let (mut desirable, mut undesirable, mut without) = (0, 0, 0);
    let mut others: VecDeque<(u64, Body)> = VecDeque::new();
    while let Some((_, row)) = rows.next_row()? {
        if rows.rows_read.is_multiple_of(PROGRESS_ROWS) {
            tell(progress, rows.bytes_read(), total)?;
        }
        for example in row.examples {
            write(&mut sink, &example, "data")?;
            if example.label == Some(false) {
                undesirable += 1;
                continue;
            }
            let (prompt, content) = example.hashes();
            let draw = Stream::new(seed, content);
            let turn = desirable;
            desirable += 1;
            let tried = (0..kinds.len()).map(|k| (turn + k) % kinds.len());
            let negative = tried.into_iter().find_map(|k| Some((k, negative(&example, kinds[k], draw, &others)?)));
            match negative {
                Some((k, negative)) => {
                    made[k].1 += 1;
                    write(&mut sink, &negative, kinds[k].name())?;
                }
                None => without += 1,
            }
            others.push_back((prompt, example.body));
            if others.len() > WINDOW {
                others.pop_front();
            }
        }
    }
    Ok(Made { desirable, undesirable, made, without, written: sink.finish()? })
}

fn write(sink: &mut Sink, example: &Example, source: &str) -> Result<()> {
    let mut row = example.to_row();
    row.insert("source".into(), source.into());
    sink.write(&row)
}

fn negative(example: &Example, kind: Negative, draw: Stream, others: &VecDeque<(u64, Body)>) -> Option<Example> {
    let text = completion(example);
    let text = match kind {
        Negative::OtherRow => {
            let (prompt, _) = example.hashes();
            let count = others.len() as u64;
            let first = (count > 0).then(|| draw.below(0, count))?;
            let other = (0..count).map(|n| &others[((first + n) % count) as usize]).find(|(p, _)| *p != prompt)?;
            completion(&Example { body: other.1.clone(), ..example.clone() })
        }
        Negative::ChangedAnswer => {
            let place = answer::find(&text)?;
            let changed = changed(&text[place.clone()], draw)?;
            format!("{}{changed}{}", &text[..place.start], &text[place.end..])
        }
        Negative::Truncated => {
            let length = text.chars().count() as u64;
            let kept = length / 4 + draw.below(1, (length / 2).max(1));
            let kept: String = text.chars().take(kept as usize).collect();
            kept.trim_end().to_owned()
        }
    };
    if text.trim().is_empty() || text == completion(example) {
        return None;
    }
    let body = match &example.body {
        Body::Plain { prompt, .. } => Body::Plain { prompt: prompt.clone(), completion: text },
        Body::Chat { prompt, completion } => {
            // A single answering turn; tool calls have no text to change.
            let [turn] = completion.as_slice() else { return None };
            let mut turn = turn.clone();
            turn["content"] = Json::String(text);
            Body::Chat { prompt: prompt.clone(), completion: vec![turn] }
        }
        Body::Messages(_) | Body::Text(_) => return None,
    };
    Some(Example { body, label: Some(false), ..example.clone() })
}

/// Another number near the one that an answer is: off by one to nine, or a digit's place.
fn changed(answer: &str, draw: Stream) -> Option<String> {
    let number = answer::number(answer)?;
    let off = (draw.below(2, 9) + 1) as f64;
    let other = match draw.below(3, 4) {
        0 => number - off,
        1 if number != 0.0 => number * 10.0,
        _ => number + off,
    };
    let decimals = answer.split_once('.').map_or(0, |(_, rest)| rest.chars().take_while(char::is_ascii_digit).count());
    Some(format!("{other:.decimals$}"))
}
