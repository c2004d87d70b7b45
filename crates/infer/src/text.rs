//! From tokens to text as they come: whole characters only, and nothing of a text that ends the answer.

use crate::Error;
use data::Tokenizer;

/// Tokens that are decoded together at most before their text is taken for settled.
const LONGEST_CHARACTER: usize = 8;

/// Whether an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It does.
    None,
    /// A stop text has come up; what was handed out ends before it.
    Text,
}

/// Turns one answer's tokens into text, piece by piece. The pieces together are the text up to the first stop text.
pub struct Writer<'a> {
    tokenizer: &'a Tokenizer,
    stops: &'a [String],
    tokens: Vec<u32>,
    /// Where the tokens begin whose text says how the next ones look.
    context: usize,
    /// Where the tokens begin whose text was not handed out yet.
    settled: usize,
    /// Text that may be the beginning of a stop text.
    held: String,
    ended: bool,
}

impl<'a> Writer<'a> {
    /// A writer for one answer that ends before any of `stops`.
    pub fn new(tokenizer: &'a Tokenizer, stops: &'a [String]) -> Writer<'a> {
        Writer { tokenizer, stops, tokens: Vec::new(), context: 0, settled: 0, held: String::new(), ended: false }
    }

    /// Takes a token; returns the text that is certain now.
    ///
    /// # Errors
    /// What the tokenizer cannot decode.
    pub fn push(&mut self, token: u32) -> Result<(String, Ending), Error> {
        if self.ended {
            return Ok((String::new(), Ending::Text));
        }
        self.tokens.push(token);
        let text = self.new_text(false)?;
        self.held.push_str(&text);
        Ok(self.hand_out(false))
    }

    /// The text that was held back; the answer is over.
    ///
    /// # Errors
    /// As [`Writer::push`].
    pub fn finish(&mut self) -> Result<String, Error> {
        if self.ended {
            return Ok(String::new());
        }
        let text = self.new_text(true)?;
        self.held.push_str(&text);
        Ok(self.hand_out(true).0)
    }

    /// The text of tokens that were not handed out yet, unless it may end within a character.
    fn new_text(&mut self, last: bool) -> Result<String, Error> {
        let decode = |tokens: &[u32]| self.tokenizer.decode(tokens, true).map_err(Error::Data);
        let before = decode(&self.tokens[self.context..self.settled])?;
        let all = decode(&self.tokens[self.context..])?;
        let within = all.ends_with('\u{fffd}') && self.tokens.len() - self.settled < LONGEST_CHARACTER;
        if (within && !last) || !all.starts_with(&before) || all.len() == before.len() {
            return Ok(String::new());
        }
        (self.context, self.settled) = (self.settled, self.tokens.len());
        Ok(all[before.len()..].to_owned())
    }

    fn hand_out(&mut self, last: bool) -> (String, Ending) {
        if let Some(at) = first_stop(&self.held, self.stops) {
            self.ended = true;
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), Ending::Text);
        }
        let keep = if last { 0 } else { begun(&self.held, self.stops) };
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), Ending::None)
    }
}

/// Where the first of the stop texts begins.
fn first_stop(text: &str, stops: &[String]) -> Option<usize> {
    stops.iter().filter(|stop| !stop.is_empty()).filter_map(|stop| text.find(stop.as_str())).min()
}

/// Bytes at the end of `text` that a stop text may begin with.
fn begun(text: &str, stops: &[String]) -> usize {
    let of = |stop: &String| {
        let longest = stop.len().saturating_sub(1).min(text.len());
        (1..=longest).rev().find(|&n| text.as_bytes()[text.len() - n..] == stop.as_bytes()[..n]).unwrap_or(0)
    };
    stops.iter().map(of).max().unwrap_or(0)
}

/// The text before the first of the stop texts, and whether there was one.
pub fn cut<'t>(text: &'t str, stops: &[String]) -> (&'t str, bool) {
    match first_stop(text, stops) {
        Some(at) => (&text[..at], true),
        None => (text, false),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::Clock;
    use data::rng::Stream;
    use std::path::Path;

    fn tokenizer() -> Tokenizer {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/qwen2");
        Tokenizer::load(&folder, Clock::at(0)).unwrap()
    }

    fn written(tokenizer: &Tokenizer, tokens: &[u32], stops: &[String]) -> (String, bool) {
        let mut writer = Writer::new(tokenizer, stops);
        let mut text = String::new();
        for &token in tokens {
            let (piece, ending) = writer.push(token).unwrap();
            assert!(!piece.ends_with('\u{fffd}') || tokens.len() > 3);
            text.push_str(&piece);
            if ending == Ending::Text {
                return (text, true);
            }
        }
        text.push_str(&writer.finish().unwrap());
        (text, false)
    }

    #[test]
    fn pieces_together_are_the_whole_text_cut_at_the_first_stop() {
        let tokenizer = tokenizer();
        let texts = ["Grüße, 世界! a🙂b 😀\n\nQuestion: x", "plain", "", "<<aab<<aaab", "é́"];
        for text in texts {
            let tokens = tokenizer.encode(text, false).unwrap();
            for stops in
                [vec![], vec!["\n\nQuestion".to_owned()], vec!["aab".into(), "界! a".into()], vec!["🙂".into()]]
            {
                let (expected, found) = cut(text, &stops);
                assert_eq!(written(&tokenizer, &tokens, &stops), (expected.to_owned(), found), "{text:?} {stops:?}");
            }
        }
    }

    #[test]
    fn tokens_of_no_text_end_up_as_the_decoder_has_them() {
        let (tokenizer, draw) = (tokenizer(), Stream::new(4, 4));
        for case in 0..200 {
            let tokens: Vec<u32> = (0..12).map(|i| draw.below(case * 12 + i, 380) as u32).collect();
            assert_eq!(written(&tokenizer, &tokens, &[]).0, tokenizer.decode(&tokens, true).unwrap(), "{tokens:?}");
        }
    }
}
