//! `{messages}` and `{conversations}`: a list of turns, as `role` and `content` or as `from` and `value`.

use serde_json::{Map, Value as Json};

use super::{BadField, Body, Ignored, Task, found};
use crate::locate::FieldPath;

pub(super) fn read(
    fields: &Map<String, Json>,
    name: &str,
    task: Task,
    ignored: &mut Ignored,
) -> Result<Body, BadField> {
    let path = FieldPath::key(name);
    let mut prompt = turns(&fields[name], &path, ignored)?;
    let by_assistant = |turn: Option<&Json>| turn.is_some_and(|t| t["role"] == "assistant");
    match task {
        Task::Sft if prompt.iter().all(says_nothing) => {
            Err(BadField::new(path, "expected something to train on, found only empty turns; remove the row"))
        }
        Task::Sft => Ok(Body::Messages(prompt)),
        Task::Prompt => {
            if by_assistant(prompt.last()) {
                prompt.pop();
            }
            Ok(Body::Chat { prompt, completion: Vec::new() })
        }
        Task::Kto => {
            let last = path.element(prompt.len() - 1);
            if !by_assistant(prompt.last()) {
                let role = found(prompt.last().and_then(|t| t.get("role")));
                let reason =
                    format!("expected the last turn to be the assistant's (it is the completion), found role {role}");
                return Err(BadField::new(last, reason));
            }
            if prompt.len() < 2 {
                return Err(BadField::new(last, "expected a turn before the assistant's, found none"));
            }
            let completion = prompt.pop().into_iter().collect::<Vec<_>>();
            if completion.iter().all(says_nothing) {
                let reason = "expected something to train on, found an empty completion; remove the row";
                return Err(BadField::new(last, reason));
            }
            Ok(Body::Chat { prompt, completion })
        }
    }
}

/// Checks a list of turns and gives each as `role` and `content` (first among its fields if they had other names).
pub(super) fn turns(list: &Json, path: &FieldPath, ignored: &mut Ignored) -> Result<Vec<Json>, BadField> {
    match list {
        Json::Array(items) if !items.is_empty() => {
            items.iter().enumerate().map(|(n, turn)| read_turn(turn, &path.element(n), ignored)).collect()
        }
        Json::Array(_) => Err(BadField::new(path.clone(), "expected at least one turn, found an empty list")),
        other => Err(BadField::new(path.clone(), format!("expected list of turns, found {}", found(Some(other))))),
    }
}

fn read_turn(turn: &Json, path: &FieldPath, ignored: &mut Ignored) -> Result<Json, BadField> {
    let Json::Object(fields) = turn else {
        let reason = format!("expected an object with `role` and `content`, found {}", found(Some(turn)));
        return Err(BadField::new(path.clone(), reason));
    };
    let sharegpt = fields.contains_key("from") && !fields.contains_key("role");
    let (role_key, content_key) = match (sharegpt, fields.contains_key("value") && !fields.contains_key("content")) {
        (true, _) => ("from", "value"),
        (false, true) => ("role", "value"),
        (false, false) => ("role", "content"),
    };
    let role = match fields.get(role_key) {
        Some(Json::String(role)) if sharegpt => standard_role(role),
        Some(Json::String(role)) => role,
        other => {
            let reason = format!("expected string, found {}", found(other));
            return Err(BadField::new(path.field(role_key), reason));
        }
    };
    let content = match fields.get(content_key) {
        Some(Json::String(text)) => Json::String(text.clone()),
        Some(Json::Array(parts)) => Json::String(joined_text(parts, &path.field(content_key))?),
        // A turn that only calls a tool says nothing.
        None | Some(Json::Null) if calls_tool(turn) => Json::Null,
        other => {
            let reason = format!("expected string, found {}", found(other));
            return Err(BadField::new(path.field(content_key), reason));
        }
    };
    let mut out = Map::with_capacity(fields.len());
    if role_key != "role" || content_key != "content" {
        out.insert("role".into(), Json::Null);
        out.insert("content".into(), Json::Null);
    }
    for (key, value) in fields {
        match key.as_str() {
            "loss_weight" => ignored.loss_weight = true,
            key if key == role_key || key == content_key => {
                out.insert(if key == role_key { "role" } else { "content" }.into(), Json::Null);
            }
            _ => _ = out.insert(key.clone(), value.clone()),
        }
    }
    out.insert("role".into(), role.into());
    out.insert("content".into(), content);
    Ok(Json::Object(out))
}

/// ShareGPT's names for the parties.
fn standard_role(from: &str) -> &str {
    match from {
        "human" => "user",
        "gpt" | "chatgpt" | "bot" | "model" | "function_call" => "assistant",
        "observation" => "tool",
        other => other,
    }
}

/// The text of a content given in parts; templates of text models take one string.
fn joined_text(parts: &[Json], path: &FieldPath) -> Result<String, BadField> {
    let mut text = String::new();
    for (n, part) in parts.iter().enumerate() {
        let kind = part.get("type").and_then(Json::as_str);
        match (kind, part.get("text").or_else(|| part.get("value"))) {
            (Some("text"), Some(Json::String(piece))) => text.push_str(piece),
            (Some("text"), other) => {
                let reason = format!("expected string in `text`, found {}", found(other));
                return Err(BadField::new(path.element(n), reason));
            }
            (kind, _) => {
                let kind = kind.map_or(found(Some(part)), |k| format!("a part of type {k:?}"));
                let reason = format!("expected a part of type \"text\", found {kind}; only text can be trained on");
                return Err(BadField::new(path.element(n), reason));
            }
        }
    }
    Ok(text)
}

fn calls_tool(turn: &Json) -> bool {
    turn.get("tool_calls").and_then(Json::as_array).is_some_and(|calls| !calls.is_empty())
}

/// Whether a turn holds neither text nor a tool call.
pub(super) fn says_nothing(turn: &Json) -> bool {
    !calls_tool(turn) && turn.get("content").and_then(Json::as_str).is_none_or(|text| text.trim().is_empty())
}
