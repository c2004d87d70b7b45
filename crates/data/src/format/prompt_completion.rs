//! `{prompt, completion}`: two strings or two lists of turns.

use serde_json::{Map, Value as Json};

use super::{BadField, Body, Ignored, Task, found, messages, string_field};
use crate::locate::FieldPath;

pub(super) fn read(fields: &Map<String, Json>, task: Task, ignored: &mut Ignored) -> Result<Body, BadField> {
    let (prompt, completion) = (FieldPath::key("prompt"), FieldPath::key("completion"));
    if task == Task::Prompt {
        return Ok(match &fields["prompt"] {
            turns @ Json::Array(_) => {
                Body::Chat { prompt: messages::turns(turns, &prompt, ignored)?, completion: Vec::new() }
            }
            _ => Body::Plain { prompt: string_field(fields, "prompt")?, completion: String::new() },
        });
    }
    match (&fields["prompt"], &fields["completion"]) {
        (Json::String(p), Json::String(c)) => {
            if c.trim().is_empty() {
                return Err(empty(completion));
            }
            Ok(Body::Plain { prompt: p.clone(), completion: c.clone() })
        }
        (p @ Json::Array(_), c @ Json::Array(_)) => {
            let body = Body::Chat {
                prompt: messages::turns(p, &prompt, ignored)?,
                completion: messages::turns(c, &completion, ignored)?,
            };
            match &body {
                Body::Chat { completion: turns, .. } if turns.iter().all(messages::says_nothing) => {
                    Err(empty(completion))
                }
                _ => Ok(body),
            }
        }
        (Json::String(_), c @ Json::Array(_)) => Err(mixed(completion, "string, as `prompt` is", c)),
        (p @ (Json::String(_) | Json::Array(_)), c) => {
            let expected = if p.is_array() { "list of turns, as `prompt` is" } else { "string, as `prompt` is" };
            Err(mixed(completion, expected, c))
        }
        (p, _) => Err(mixed(prompt, "string or list of turns", p)),
    }
}

fn mixed(path: FieldPath, expected: &str, value: &Json) -> BadField {
    BadField::new(path, format!("expected {expected}; found {}", found(Some(value))))
}

fn empty(path: FieldPath) -> BadField {
    BadField::new(path, "expected something to train on, found an empty completion; remove the row")
}
