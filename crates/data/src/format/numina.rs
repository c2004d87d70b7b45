//! AI-MO/NuminaMath-CoT: the first two `messages` are the prompt and the completion, and every row is desirable.

use serde_json::Value as Json;

use super::{BadField, Body, Fields, Found, Notes, Task, chat, messages};
use crate::locate::FieldPath;

const USED: &[&str] = &["messages", "problem", "solution"];

pub(super) fn read(fields: &Fields, task: Task, notes: &mut Notes) -> Result<Found, BadField> {
    let path = FieldPath::key("messages");
    let mut turns = messages::turns(fields.get("messages").unwrap_or(&Json::Null), &path, notes)?;
    if turns.len() < 2 {
        return Err(BadField::new(path, "expected two turns, the problem and its solution; found one"));
    }
    turns.truncate(2);
    let completion = turns.split_off(1);
    if task == Task::Prompt {
        return Ok(Found::one(Body::Chat { prompt: turns, completion: Vec::new() }, USED));
    }
    Ok(Found::one(chat(turns, completion, path.element(1))?, USED))
}
