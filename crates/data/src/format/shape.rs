//! The shapes that rows come in, and how each is told from a row's fields.

use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

use super::{Fields, Reading, Task, answers};

/// The shape of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Shape {
    /// `prompt`, `completion`: strings or lists of turns.
    PromptCompletion,
    /// `messages`: a list of turns.
    Messages,
    /// `conversations`: a list of turns, mostly with `from` and `value` (ShareGPT).
    Conversations,
    /// `conversations` of AM-Thinking-v1-Distilled: turns with an `info`, a `system` that its recipe leaves out.
    AmThinking,
    /// `chosen` and `rejected`, with the prompt beside them or in them.
    Pair,
    /// `instruction`, `input`, `output`, `history`, `system`.
    Alpaca,
    /// `problem`, `solution` and `messages` of NuminaMath-CoT: the first two messages.
    NuminaMath,
    /// `prompt` and several answers: `completions` and `labels`.
    Answers,
    /// `question` and several answers, each an object with `solution` and `is_correct`.
    Graded,
    /// One field of text.
    Text,
}

impl Shape {
    /// Every shape, in the order in which they are tried.
    pub const ALL: [Shape; 10] = [
        Shape::Pair,
        Shape::Answers,
        Shape::PromptCompletion,
        Shape::NuminaMath,
        Shape::Messages,
        Shape::AmThinking,
        Shape::Conversations,
        Shape::Alpaca,
        Shape::Graded,
        Shape::Text,
    ];

    /// The name by which a user asks for it.
    pub fn name(self) -> &'static str {
        match self {
            Shape::PromptCompletion => "prompt-completion",
            Shape::Messages => "messages",
            Shape::Conversations => "sharegpt",
            Shape::AmThinking => "am-thinking",
            Shape::Pair => "pair",
            Shape::Alpaca => "alpaca",
            Shape::NuminaMath => "numina-math",
            Shape::Answers => "answers",
            Shape::Graded => "graded",
            Shape::Text => "text",
        }
    }

    /// The shape of that name.
    pub fn named(name: &str) -> Option<Shape> {
        Shape::ALL.into_iter().find(|shape| shape.name() == name)
    }

    /// The shape of a row, told from its fields.
    pub(crate) fn of(fields: &Fields, reading: &Reading<'_>) -> Option<Shape> {
        Shape::ALL.into_iter().find(|shape| shape.fits(fields, reading))
    }

    fn fits(self, fields: &Fields, reading: &Reading<'_>) -> bool {
        let has = |name: &str| fields.get(name).is_some_and(|v| !v.is_null());
        let prompt_only = reading.task == Task::Prompt;
        match self {
            Shape::Pair => (has("chosen") && has("rejected")) || (has("chosen_messages") && has("rejected_messages")),
            Shape::Answers => {
                let listed = has("completions")
                    || reading.alternatives && matches!(fields.get("completion"), Some(Json::Array(_)));
                has("prompt") && listed && !prompt_only
            }
            Shape::PromptCompletion => has("prompt") && (has("completion") || prompt_only),
            Shape::NuminaMath => has("problem") && has("solution") && has("messages"),
            Shape::Messages => has("messages"),
            Shape::AmThinking => {
                let turns = fields.get("conversations").and_then(Json::as_array);
                turns.is_some_and(|t| t.iter().any(|t| t.get("from").is_some() && t.get("info").is_some()))
            }
            Shape::Conversations => has("conversations"),
            Shape::Alpaca => has("instruction") && (has("output") || prompt_only),
            Shape::Graded => has("question") && fields.values().any(answers::is_graded),
            Shape::Text => has(reading.text_field) && reading.task != Task::Kto,
        }
    }
}
