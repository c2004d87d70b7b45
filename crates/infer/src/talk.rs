//! A conversation as the model sees it.

use crate::Error;
use data::{RenderInput, Tokenizer};
use serde_json::{Value, json};

/// Turns of a user and a model, and what the model is told first.
pub struct Talk<'a> {
    tokenizer: &'a Tokenizer,
    /// What the model is told first.
    pub system: Option<String>,
    turns: Vec<Value>,
}

impl<'a> Talk<'a> {
    /// A conversation in which nothing was said.
    pub fn new(tokenizer: &'a Tokenizer) -> Talk<'a> {
        Talk { tokenizer, system: None, turns: Vec::new() }
    }

    /// Whether there is a chat template; without one the texts of all turns are put together.
    pub fn has_template(&self) -> bool {
        self.tokenizer.template().is_ok()
    }

    /// Adds what the user says.
    pub fn say(&mut self, text: &str) {
        self.turns.push(json!({"role": "user", "content": text}));
    }

    /// Adds what the model has answered.
    pub fn hear(&mut self, text: &str) {
        self.turns.push(json!({"role": "assistant", "content": text}));
    }

    /// Takes the last answer back; whether there is a turn of the user's to answer.
    pub fn unsay(&mut self) -> bool {
        if self.turns.last().is_some_and(|turn| turn["role"] == "assistant") {
            self.turns.pop();
        }
        !self.turns.is_empty()
    }

    /// Takes the last turn back.
    pub fn forget_last(&mut self) {
        self.turns.pop();
    }

    /// Forgets all turns.
    pub fn reset(&mut self) {
        self.turns.clear();
    }

    /// All turns, the system's first.
    pub fn messages(&self) -> Vec<Value> {
        self.from(0)
    }

    fn from(&self, first: usize) -> Vec<Value> {
        let system = self.system.iter().map(|text| json!({"role": "system", "content": text}));
        system.chain(self.turns[first..].iter().cloned()).collect()
    }

    /// The tokens after which the model answers, and how many of the oldest turns were left out so that they are at most `room`.
    /// The last turn always stays.
    ///
    /// # Errors
    /// A template that refuses the conversation.
    pub fn prompt(&self, room: usize) -> Result<(Vec<u32>, usize), Error> {
        let mut first = 0;
        loop {
            let tokens = self.tokens(&self.from(first))?;
            let last = first + 2 >= self.turns.len();
            if tokens.len() <= room || last {
                return Ok((tokens, first));
            }
            // A user's turn goes together with its answer.
            first += 2;
        }
    }

    fn tokens(&self, messages: &[Value]) -> Result<Vec<u32>, Error> {
        if !self.has_template() {
            let text: String = messages.iter().filter_map(|m| m["content"].as_str()).collect();
            return Ok(self.tokenizer.encode(&text, true)?);
        }
        let input = RenderInput { messages, add_generation_prompt: true, ..Default::default() };
        Ok(self.tokenizer.encode(&self.tokenizer.render(input)?, false)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::Clock;
    use std::path::Path;

    #[test]
    fn old_turns_go_first_and_the_system_stays() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/qwen2");
        let tokenizer = Tokenizer::load(&folder, Clock::at(0)).unwrap();
        let mut talk = Talk::new(&tokenizer);
        talk.system = Some("S".into());
        for turn in ["first", "second"] {
            talk.say(turn);
            talk.hear("answer");
        }
        talk.say("third");
        let text = |room| {
            let (tokens, dropped) = talk.prompt(room).unwrap();
            (tokenizer.decode(&tokens, false).unwrap(), dropped)
        };
        let (whole, dropped) = text(1000);
        assert!(dropped == 0 && whole.contains("first") && whole.contains("second"), "{whole}");
        let (less, dropped) = text(tokenizer.encode(&whole, false).unwrap().len() - 1);
        assert!(
            dropped == 2 && !less.contains("first") && less.contains("second") && less.contains("system\nS"),
            "{less}"
        );
        let (least, dropped) = text(1);
        assert!(dropped == 4 && least.contains("third") && !least.contains("second"), "{least}");
        assert!(talk.unsay(), "the user's turn is to be answered");
        assert_eq!(talk.messages().len(), 6);
    }
}
