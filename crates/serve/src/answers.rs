//! What comes back: texts, log-probabilities, usage, as OpenAI's interface has them.

use crate::api::Ask;
use crate::worker::is_stop;
use data::Tokenizer;
use infer::{Drawn, Ending, Error, FinishReason, Writer};
use serde_json::{Value, json};

/// One answer as it grows.
pub(crate) struct Choice<'a> {
    tokenizer: &'a Tokenizer,
    writer: Writer<'a>,
    /// All of the text so far.
    pub(crate) text: String,
    /// Tokens drawn.
    pub(crate) tokens: usize,
    /// Why it ended, when it has.
    pub(crate) finish: Option<FinishReason>,
    /// Tokens with their log-probabilities that were not handed out, and where their text begins.
    logprobs: Vec<(Drawn, usize)>,
}

/// What a token has added.
pub(crate) struct Piece {
    pub(crate) text: String,
    /// The answer ended with a stop text: nothing more is to be drawn.
    pub(crate) cut: bool,
}

impl<'a> Choice<'a> {
    pub(crate) fn new(tokenizer: &'a Tokenizer, ask: &'a Ask) -> Choice<'a> {
        let writer = Writer::new(tokenizer, &ask.stop);
        Choice { tokenizer, writer, text: String::new(), tokens: 0, finish: None, logprobs: Vec::new() }
    }

    /// Takes a token in.
    pub(crate) fn push(&mut self, drawn: Drawn) -> Result<Piece, Error> {
        self.tokens += 1;
        let (mut text, mut cut) = (String::new(), false);
        if !is_stop(&drawn) {
            let (piece, ending) = self.writer.push(drawn.token)?;
            text = piece;
            cut = ending == Ending::Text;
        }
        self.finish = if cut { Some(FinishReason::Stop) } else { drawn.finish };
        if self.finish.is_some() && !cut {
            text.push_str(&self.writer.finish()?);
        }
        if drawn.logprobs.is_some() && !is_stop(&drawn) {
            self.logprobs.push((drawn, self.text.len()));
        }
        self.text.push_str(&text);
        Ok(Piece { text, cut })
    }

    fn token(&self, token: u32) -> String {
        // A token that the decoder refuses has no text.
        self.tokenizer.decode(&[token], false).unwrap_or_default()
    }

    /// The log-probabilities of tokens since the last call; null when they were not asked for.
    pub(crate) fn take_logprobs(&mut self, ask: &Ask) -> Value {
        if ask.logprobs.is_none() {
            return Value::Null;
        }
        let all = std::mem::take(&mut self.logprobs);
        let of = |token: u32, logprob: f64| {
            let text = self.token(token);
            json!({"token": text, "logprob": logprob, "bytes": text.as_bytes()})
        };
        let known = all.iter().filter_map(|(drawn, at)| Some((drawn.token, drawn.logprobs.as_ref()?, *at)));
        if ask.chat {
            let entry = |(token, logprobs, _): (u32, &infer::TokenLogprobs, usize)| {
                let mut entry = of(token, logprobs.logprob);
                entry["top_logprobs"] = logprobs.top.iter().map(|(token, logprob)| of(*token, *logprob)).collect();
                entry
            };
            return json!({"content": known.map(entry).collect::<Vec<_>>()});
        }
        let top = |logprobs: &infer::TokenLogprobs| -> Value {
            let pairs = logprobs.top.iter().map(|(token, logprob)| (self.token(*token), json!(logprob)));
            Value::Object(pairs.collect())
        };
        let (mut tokens, mut values, mut tops, mut offsets) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (token, logprobs, at) in known {
            tokens.push(self.token(token));
            values.push(logprobs.logprob);
            tops.push(top(logprobs));
            offsets.push(at);
        }
        json!({"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets})
    }

    fn reason(&self) -> Value {
        self.finish.map_or(Value::Null, |finish| finish.name().into())
    }
}

/// What all parts of an answer say of it.
pub(crate) struct Heading<'a> {
    pub(crate) id: String,
    pub(crate) created: u64,
    pub(crate) model: &'a str,
}

impl Heading<'_> {
    fn with(&self, object: &str, choices: Value) -> Value {
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices})
    }

    /// The whole answer.
    pub(crate) fn whole(&self, ask: &Ask, choices: &mut [Choice<'_>]) -> String {
        let each = choices.iter_mut().enumerate().map(|(index, choice)| {
            let (logprobs, reason) = (choice.take_logprobs(ask), choice.reason());
            if ask.chat {
                let message = json!({"role": "assistant", "content": choice.text, "refusal": null});
                json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": reason})
            } else {
                json!({"index": index, "text": choice.text, "logprobs": logprobs, "finish_reason": reason})
            }
        });
        let each: Value = each.collect();
        let mut whole = self.with(if ask.chat { "chat.completion" } else { "text_completion" }, each);
        whole["usage"] = usage(ask, choices);
        whole.to_string()
    }

    /// An event with what a choice has got more.
    pub(crate) fn part(&self, ask: &Ask, index: usize, choice: &mut Choice<'_>, text: &str, first: bool) -> String {
        let (logprobs, reason) = (choice.take_logprobs(ask), choice.reason());
        let choice = if ask.chat {
            let delta = match (first, text) {
                (true, text) => json!({"role": "assistant", "content": text}),
                (false, "") => json!({}),
                (false, text) => json!({"content": text}),
            };
            json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason})
        } else {
            json!({"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason})
        };
        self.with(object(ask), json!([choice])).to_string()
    }

    /// The last event, where it was asked for.
    pub(crate) fn usage(&self, ask: &Ask, choices: &[Choice<'_>]) -> String {
        let mut part = self.with(object(ask), json!([]));
        part["usage"] = usage(ask, choices);
        part.to_string()
    }
}

fn object(ask: &Ask) -> &'static str {
    if ask.chat { "chat.completion.chunk" } else { "text_completion" }
}

fn usage(ask: &Ask, choices: &[Choice<'_>]) -> Value {
    let prompt: usize = ask.prompts.iter().map(Vec::len).sum();
    let completion: usize = choices.iter().map(|choice| choice.tokens).sum();
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}
