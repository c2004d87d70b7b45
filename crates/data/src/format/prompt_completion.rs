//! `{prompt, completion}`: two strings or two lists of turns.

use serde_json::Value as Json;

use super::{BadField, Body, Fields, Found, Notes, Task, chat, empty_completion, found, messages, string_field};
use crate::locate::FieldPath;

const USED: &[&str] = &["prompt", "completion"];

pub(super) fn read(fields: &Fields, task: Task, notes: &mut Notes) -> Result<Found, BadField> {
    let (prompt, completion) = (FieldPath::key("prompt"), FieldPath::key("completion"));
    let nothing = Json::Null;
    let field = |name: &str| fields.get(name).unwrap_or(&nothing);
    let body = match (field("prompt"), field("completion")) {
        (turns @ Json::Array(_), _) if task == Task::Prompt => {
            Body::Chat { prompt: messages::turns(turns, &prompt, notes)?, completion: Vec::new() }
        }
        _ if task == Task::Prompt => Body::Plain { prompt: string_field(fields, "prompt")?, completion: String::new() },
        (Json::String(_), Json::String(c)) if c.trim().is_empty() => return Err(empty_completion(completion)),
        (Json::String(p), Json::String(c)) => Body::Plain { prompt: p.clone(), completion: c.clone() },
        (p @ Json::Array(_), c @ Json::Array(_)) => {
            let prompt = messages::turns(p, &prompt, notes)?;
            chat(prompt, messages::turns(c, &completion, notes)?, completion)?
        }
        (Json::String(_), c) => return Err(mixed(completion, "string, as `prompt` is", c)),
        (Json::Array(_), c) => return Err(mixed(completion, "list of turns, as `prompt` is", c)),
        (p, _) => return Err(mixed(prompt, "string or list of turns", p)),
    };
    Ok(Found::one(body, USED))
}

fn mixed(path: FieldPath, expected: &str, value: &Json) -> BadField {
    BadField::new(path, format!("expected {expected}; found {}", found(Some(value))))
}
