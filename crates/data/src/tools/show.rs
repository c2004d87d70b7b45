//! One row as the model will see it.

use std::path::PathBuf;

use crate::encode::{Encoded, Failure, encode_examples};
use crate::error::{Error, Place, Result};
use crate::format::{Example, Shape};
use crate::read::{parse, place_of, row_error};
use crate::source::Rows;
use crate::tokenise::{Options, Truncation};
use crate::tokenizer::Tokenizer;

/// A token and what training makes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// Its text; a replacement character where it is a part of a character.
    pub text: String,
    /// Whether it is predicted.
    pub trained: bool,
    /// Whether it ends a sequence.
    pub eos: bool,
    /// Whether `max_length` cuts it off.
    pub cut: bool,
}

/// One example of a row.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    /// The example in the one form that training knows.
    pub example: Example,
    /// Its tokens, prompt first; none without a tokenizer.
    pub tokens: Vec<Token>,
    /// Tokens of the prompt.
    pub prompt_len: usize,
    /// Whether truncation drops it, and why.
    pub dropped: Option<String>,
    /// The end of the prompt that the template writes otherwise when an answer follows.
    pub unstable_tail: Option<String>,
    /// Whether the last token that is predicted ends the sequence: a model that never sees that does not learn to stop.
    pub learns_to_stop: bool,
}

/// A row.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownRow {
    /// Where it is.
    pub place: Place,
    /// Its shape.
    pub shape: Shape,
    /// Fields that are not used.
    pub unused: Vec<String>,
    /// Its examples: one, or several when it holds several answers.
    pub examples: Vec<Shown>,
}

/// Row number `row` (from 0) of `files`.
///
/// # Errors
/// `Row` if it is bad, `Setting` if there are fewer rows, `Io`, `Table`, `Tokenizer`, `Template`.
pub fn show(files: &[PathBuf], row: usize, tokenizer: Option<&Tokenizer>, options: &Options) -> Result<ShownRow> {
    let mut rows = Rows::open(files);
    let mut count = 0;
    let raw = loop {
        let Some(raw) = rows.next_row()? else {
            let reason = format!("expected a row below {count} (they count from 0), found {row}");
            return Err(Error::Setting { key: "row", reason });
        };
        if count == row {
            break raw;
        }
        count += 1;
    };
    let read = parse(files, &raw, options).map_err(|bad| row_error(files, &raw, bad))?;
    let mut examples = Vec::with_capacity(read.examples.len());
    let encoded: Vec<Option<Encoded>> = match tokenizer {
        None => read.examples.iter().map(|_| None).collect(),
        Some(tokenizer) => match encode_examples(&read.examples, tokenizer, options) {
            Ok(encoded) => encoded.into_iter().map(Some).collect(),
            Err(Failure::Fatal(e)) => return Err(e),
            Err(Failure::Bad(bad)) => return Err(row_error(files, &raw, bad)),
        },
    };
    for (example, encoded) in read.examples.into_iter().zip(encoded) {
        examples.push(match (tokenizer, encoded) {
            (Some(tokenizer), Some(encoded)) => shown(example, &encoded, tokenizer, options)?,
            _ => Shown {
                example,
                tokens: Vec::new(),
                prompt_len: 0,
                dropped: None,
                unstable_tail: None,
                learns_to_stop: false,
            },
        });
    }
    Ok(ShownRow { place: place_of(files, &raw, 0), shape: read.shape, unused: read.unused, examples })
}

fn shown(example: Example, row: &Encoded, tokenizer: &Tokenizer, options: &Options) -> Result<Shown> {
    let limit = options.max_length.unwrap_or(usize::MAX);
    let ids = || row.prompt.iter().chain(&row.completion).copied();
    let eos = tokenizer.eos_id();
    let mut tokens = Vec::with_capacity(row.prompt.len() + row.completion.len());
    for (n, id) in ids().enumerate() {
        let trained = n > 0 && n < limit && row.spans.iter().any(|s| s.contains(&(n as u32)));
        let text = tokenizer.decode(&[id], false)?;
        tokens.push(Token { id, text, trained, eos: Some(id) == eos, cut: n >= limit });
    }
    let dropped = if tokens.len() > limit && options.truncation == Truncation::Drop {
        Some(format!("it has {} tokens, more than `max_length` ({limit})", tokens.len()))
    } else if tokens.iter().any(|t| t.trained) {
        None
    } else if tokens.len() > limit {
        Some(format!("cut to `max_length` ({limit}), nothing to predict is left"))
    } else {
        Some("no token of it is to be predicted".to_owned())
    };
    // White space may follow the end, as in ChatML.
    let last = tokens.iter().rfind(|t| t.trained && (t.eos || !t.text.trim().is_empty()));
    let learns_to_stop = last.is_some_and(|t| t.eos);
    let unstable_tail = row.unstable_tail.as_ref().map(|tail| tokenizer.decode(tail, false)).transpose()?;
    Ok(Shown { example, tokens, prompt_len: row.prompt.len(), dropped, unstable_tail, learns_to_stop })
}
