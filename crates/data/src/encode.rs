//! From an example to token ids: where the completion begins, what is predicted.

use std::ops::Range;

use serde_json::Value as Json;

use crate::error::{Error, Result, TemplateErrorKind};
use crate::format::{BadField, Body, EMPTY_COMPLETION, Example, Ignored, Task};
use crate::locate::FieldPath;
use crate::template::RenderInput;
use crate::tokenise::{Options, TurnLoss};
use crate::tokenizer::Tokenizer;

/// Ranges of token positions.
pub(crate) type Spans = Vec<Range<u32>>;

/// A tokenised row before truncation.
#[derive(Debug)]
pub(crate) struct Encoded {
    pub prompt: Vec<u32>,
    pub completion: Vec<u32>,
    pub spans: Spans,
    /// The end of the prompt that is no prefix of the whole, when there is one.
    pub unstable_tail: Option<Vec<u32>>,
    pub label: Option<bool>,
    pub hashes: (u64, u64),
    pub ignored: Ignored,
}

/// Why an example has no tokens.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The row is at fault.
    Bad(BadField),
    /// Nothing can be read.
    Fatal(Error),
}

impl Failure {
    /// Whether the row is bad because a completion is empty.
    pub(crate) fn is_empty_completion(&self) -> bool {
        matches!(self, Failure::Bad(bad) if bad.reason == EMPTY_COMPLETION)
    }
}

impl From<BadField> for Failure {
    fn from(bad: BadField) -> Self {
        Failure::Bad(bad)
    }
}

impl From<Error> for Failure {
    /// A template that refuses a conversation is the row's fault; everything else stops the loading.
    fn from(error: Error) -> Self {
        match error {
            Error::Template(e) if e.kind != TemplateErrorKind::Syntax => {
                Failure::Bad(BadField::new(FieldPath::default(), e.to_string()))
            }
            other => Failure::Fatal(other),
        }
    }
}

/// Token ids of the prompt of one example, as generation starts from it.
///
/// # Errors
/// `Tokenizer` or `Template`.
pub fn encode_prompt(tokenizer: &Tokenizer, example: &Example) -> Result<Vec<u32>> {
    match &example.body {
        Body::Plain { prompt, .. } | Body::Text(prompt) => tokenizer.encode(prompt, true),
        Body::Chat { prompt, .. } | Body::Messages(prompt) => {
            tokenizer.encode(&tokenizer.render(input(example, prompt, true))?, false)
        }
    }
}

/// Tokenises the examples of one row. Answers to one prompt share the work of encoding it.
pub(crate) fn encode_examples(
    examples: &[Example],
    tokenizer: &Tokenizer,
    options: &Options,
) -> std::result::Result<Vec<Encoded>, Failure> {
    let mut out: Vec<Encoded> = Vec::with_capacity(examples.len());
    let mut shared: Option<Vec<u32>> = None;
    for (n, example) in examples.iter().enumerate() {
        let splits = matches!(example.body, Body::Plain { .. } | Body::Chat { .. });
        let same = n > 0 && same_prompt(&examples[n - 1].body, &example.body);
        let prompt = match (splits, shared.take().filter(|_| same)) {
            (false, _) => Vec::new(),
            (true, Some(ids)) => ids,
            (true, None) => encode_prompt(tokenizer, example)?,
        };
        out.push(encode_example(example, &prompt, tokenizer, options)?);
        shared = Some(prompt);
    }
    Ok(out)
}

fn same_prompt(a: &Body, b: &Body) -> bool {
    match (a, b) {
        (Body::Plain { prompt: a, .. }, Body::Plain { prompt: b, .. }) => a == b,
        (Body::Chat { prompt: a, .. }, Body::Chat { prompt: b, .. }) => a == b,
        _ => false,
    }
}

fn encode_example(
    example: &Example,
    prompt_ids: &[u32],
    tokenizer: &Tokenizer,
    options: &Options,
) -> std::result::Result<Encoded, Failure> {
    let sft = options.task == Task::Sft;
    let marked = options.assistant_only_loss && sft;
    let (full, written) = match &example.body {
        Body::Plain { .. } | Body::Text(_) if marked => {
            let reason = "`assistant_only_loss` needs conversations, found plain text";
            return Err(BadField::new(FieldPath::default(), reason).into());
        }
        Body::Plain { prompt, completion } => {
            let full = with_eos(format!("{prompt}{completion}"), completion, tokenizer)?;
            (tokenizer.encode(&full, true)?, None)
        }
        Body::Text(text) => (tokenizer.encode(&with_eos(text.clone(), text, tokenizer)?, true)?, None),
        Body::Chat { prompt, completion } => {
            let turns: Vec<Json> = prompt.iter().chain(completion).cloned().collect();
            encode_turns(example, &turns, tokenizer, options)?
        }
        Body::Messages(turns) => encode_turns(example, turns, tokenizer, options)?,
    };
    let prompt_len = prompt_ids.iter().zip(&full).take_while(|(a, b)| a == b).count();
    let split_row = matches!(example.body, Body::Plain { .. } | Body::Chat { .. });
    let completion_only = !sft || options.completion_only_loss.unwrap_or(split_row);
    let by_turns = sft && options.turn_loss != TurnLoss::Whole;
    let from = if completion_only && !by_turns { prompt_len as u32 } else { 0 };
    let spans = match written {
        None => std::iter::once(from..full.len() as u32).collect(),
        Some(spans) if spans.is_empty() => {
            let reason = match marked {
                true => "`assistant_only_loss`: the template marks no text of this row as the assistant's",
                false => "the template writes nothing of the turns that are trained on",
            };
            return Err(BadField::new(FieldPath::default(), reason).into());
        }
        Some(spans) => spans.into_iter().map(|s| s.start.max(from)..s.end).filter(|s| s.start < s.end).collect(),
    };
    let mut prompt = full;
    let completion = prompt.split_off(prompt_len);
    let unstable_tail = (prompt_len < prompt_ids.len()).then(|| prompt_ids[prompt_len..].to_vec());
    let (label, hashes, ignored) = (example.label, example.hashes(), example.ignored);
    Ok(Encoded { prompt, completion, spans, unstable_tail, label, hashes, ignored })
}

fn input<'a>(example: &'a Example, messages: &'a [Json], add_generation_prompt: bool) -> RenderInput<'a> {
    RenderInput {
        messages,
        tools: example.tools.as_ref(),
        documents: None,
        add_generation_prompt,
        extra: example.template_kwargs.as_ref(),
    }
}

/// `text` with the end-of-sequence token's text, unless `completion` ends with it already.
fn with_eos(mut text: String, completion: &str, tokenizer: &Tokenizer) -> Result<String> {
    let Some(eos) = tokenizer.special("eos_token") else {
        let reason = "plain text needs an end of sequence: expected `eos_token` in tokenizer_config.json, found none";
        return Err(Error::Setting { key: "model_name_or_path", reason: reason.into() });
    };
    if !completion.ends_with(eos) {
        text.push_str(eos);
    }
    Ok(text)
}

/// Ids of a conversation; where not all of it is trained on, also the token ranges that are.
fn encode_turns(
    example: &Example,
    turns: &[Json],
    tokenizer: &Tokenizer,
    options: &Options,
) -> Result<(Vec<u32>, Option<Spans>)> {
    let whole = input(example, turns, false);
    let (text, written) = if options.task != Task::Sft {
        (tokenizer.render(whole)?, None)
    } else if options.assistant_only_loss {
        let (text, written) = tokenizer.template()?.render_with_ranges(whole)?;
        (text, Some(written))
    } else if let Some(trained) = trained(example, turns, options.turn_loss) {
        let text = tokenizer.render(whole)?;
        let written = written_by(example, turns, &trained, &text, tokenizer)?;
        (text, Some(written))
    } else {
        (tokenizer.render(whole)?, None)
    };
    let Some(written) = written else { return Ok((tokenizer.encode(&text, false)?, None)) };
    let (ids, offsets) = tokenizer.encode_with_offsets(&text)?;
    // A token is trained on if any byte of it is.
    let spans = written.iter().map(|bytes| {
        let first = offsets.partition_point(|token| token.end <= bytes.start);
        let past = offsets.partition_point(|token| token.start < bytes.end);
        first as u32..past as u32
    });
    let mut merged = Spans::new();
    for span in spans.filter(|s| s.start < s.end) {
        match merged.last_mut() {
            Some(last) if span.start <= last.end => last.end = last.end.max(span.end),
            _ => merged.push(span),
        }
    }
    Ok((ids, Some(merged)))
}

/// Which turns are trained on; `None` for a conversation that is trained on as a whole.
fn trained(example: &Example, turns: &[Json], turn_loss: TurnLoss) -> Option<Vec<bool>> {
    let by_assistant = |turn: &Json| turn["role"] == "assistant";
    match (&example.trained_turns, turn_loss) {
        (Some(trained), _) => Some(trained.clone()),
        (None, TurnLoss::Whole) => None,
        (None, TurnLoss::Assistant) => Some(turns.iter().map(by_assistant).collect()),
        (None, TurnLoss::LastAssistant) => {
            let last = turns.iter().rposition(by_assistant);
            Some((0..turns.len()).map(|n| Some(n) == last).collect())
        }
    }
}

/// Byte ranges of `text` that hold the trained turns: what each adds to the conversation before it, header excepted.
fn written_by(
    example: &Example,
    turns: &[Json],
    trained: &[bool],
    text: &str,
    tokenizer: &Tokenizer,
) -> Result<Vec<Range<usize>>> {
    let shared = |other: &str| {
        let equal = text.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
        text.floor_char_boundary(equal)
    };
    let mut ranges = Vec::new();
    for n in (0..turns.len()).filter(|&n| trained[n]) {
        let header = turns[n]["role"] == "assistant";
        let start = match n {
            0 => 0,
            n => shared(&tokenizer.render(input(example, &turns[..n], header))?),
        };
        let after = tokenizer.render(input(example, &turns[..=n], false))?;
        let mut end = shared(&after);
        if end < after.len() {
            // A template that writes past turns otherwise than the last (thinking left out): the turn ends behind its text.
            let content = turns[n]["content"].as_str().unwrap_or_default();
            let content = content.rsplit("</think>").next().unwrap_or_default().trim();
            if let (Some(at), Some(alone)) = (text[start..].find(content), after.rfind(content)) {
                end = start + at + content.len();
                let ending = &after[alone + content.len()..];
                end += if text[end..].starts_with(ending) { ending.len() } else { 0 };
            }
        }
        if start < end {
            ranges.push(start..end);
        }
    }
    Ok(ranges)
}
