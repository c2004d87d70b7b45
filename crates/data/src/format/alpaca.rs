//! Alpaca's `{instruction, input, output, history, system}`, put together as LLaMA-Factory does.

use serde_json::Value as Json;

use super::{BadField, Body, Fields, Found, Notes, Task, chat, found, string_field, turn};
use crate::locate::FieldPath;

const USED: &[&str] = &["instruction", "input", "output", "history", "system"];

pub(super) fn read(fields: &Fields, task: Task, _notes: &mut Notes) -> Result<Found, BadField> {
    let prompt = prompt(fields)?;
    if task == Task::Prompt {
        return Ok(Found::one(Body::Chat { prompt, completion: Vec::new() }, USED));
    }
    let answer = turn("assistant", &string_field(fields, "output")?);
    Ok(Found::one(chat(prompt, vec![answer], FieldPath::key("output"))?, USED))
}

/// The turns before the answer: system, the pairs of `history`, then `instruction` and `input` on two lines.
pub(super) fn prompt(fields: &Fields) -> Result<Vec<Json>, BadField> {
    let mut turns = Vec::new();
    let mut push = |role: &str, text: &str| turns.push(turn(role, text));
    match fields.get("system") {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) if text.is_empty() => {}
        _ => push("system", &string_field(fields, "system")?),
    }
    match fields.get("history") {
        None | Some(Json::Null) => {}
        Some(Json::String(text)) if text.is_empty() => {}
        Some(Json::Array(pairs)) => {
            for (n, pair) in pairs.iter().enumerate() {
                let (Some(question), Some(answer)) = (pair[0].as_str(), pair[1].as_str()) else {
                    let reason = format!("expected a list of question and answer, found {}", found(Some(pair)));
                    return Err(BadField::new(FieldPath::key("history").element(n), reason));
                };
                push("user", question);
                push("assistant", answer);
            }
        }
        other => {
            let reason = format!("expected a list of pairs, found {}", found(other));
            return Err(BadField::new(FieldPath::key("history"), reason));
        }
    }
    let instruction = string_field(fields, "instruction")?;
    let input = match fields.get("input") {
        None | Some(Json::Null) => String::new(),
        _ => string_field(fields, "input")?,
    };
    let parts: Vec<&str> = [instruction.as_str(), &input].into_iter().filter(|part| !part.is_empty()).collect();
    if parts.is_empty() {
        return Err(BadField::new(FieldPath::key("instruction"), "expected a question, found an empty string"));
    }
    push("user", &parts.join("\n"));
    Ok(turns)
}
