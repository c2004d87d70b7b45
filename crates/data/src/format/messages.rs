//! `{messages}` and `{conversations}`: a list of turns, as `role` and `content` or as `from` and `value`.

use serde_json::{Map, Value as Json, json};

use super::{BadField, Body, Fields, Found, Notes, Shape, Task, chat, found, string_field, turn};
use crate::locate::FieldPath;

pub(super) fn read(fields: &Fields, shape: Shape, task: Task, notes: &mut Notes) -> Result<Found, BadField> {
    let used: &'static [&str] = match shape {
        Shape::Messages => &["messages", "system"],
        Shape::AmThinking => &["conversations"],
        _ => &["conversations", "system"],
    };
    let path = FieldPath::key(used[0]);
    let mut prompt = turns(fields.get(used[0]).unwrap_or(&Json::Null), &path, notes)?;
    let own = prompt.len();
    // The recipe of AM-Thinking leaves `system` out: its template brings the text.
    if shape != Shape::AmThinking {
        prepend_system(fields, &mut prompt)?;
    }
    let by_assistant = |turn: Option<&Json>| turn.is_some_and(|t| t["role"] == "assistant");
    match task {
        Task::Sft if prompt.iter().all(says_nothing) => {
            Err(BadField::new(path, "expected something to train on, found only empty turns; remove the row"))
        }
        Task::Sft => Ok(Found::one(Body::Messages(prompt), used)),
        Task::Prompt => {
            if by_assistant(prompt.last()) {
                prompt.pop();
            }
            Ok(Found::one(Body::Chat { prompt, completion: Vec::new() }, used))
        }
        Task::Kto => {
            let last = path.element(own - 1);
            if !by_assistant(prompt.last()) {
                let role = found(prompt.last().and_then(|t| t.get("role")));
                let reason =
                    format!("expected the last turn to be the assistant's (it is the completion), found role {role}");
                return Err(BadField::new(last, reason));
            }
            if prompt.len() < 2 {
                return Err(BadField::new(last, "expected a turn before the assistant's, found none"));
            }
            let completion = prompt.pop().into_iter().collect();
            Ok(Found::one(chat(prompt, completion, last)?, used))
        }
    }
}

/// Puts the text of a `system` field before the turns, unless they bring one of their own.
pub(super) fn prepend_system(fields: &Fields, turns: &mut Vec<Json>) -> Result<(), BadField> {
    let empty = |v: &Json| v.is_null() || v.as_str().is_some_and(str::is_empty);
    let says = fields.get("system").is_some_and(|v| !empty(v));
    if says && turns.first().is_none_or(|first| first["role"] != "system") {
        turns.insert(0, turn("system", &string_field(fields, "system")?));
    }
    Ok(())
}

/// Checks a list of turns and gives each as `role` and `content` (first among its fields if they had other names).
pub(super) fn turns(list: &Json, path: &FieldPath, notes: &mut Notes) -> Result<Vec<Json>, BadField> {
    notes.trained.clear();
    match list {
        Json::Array(items) if !items.is_empty() => {
            items.iter().enumerate().map(|(n, turn)| read_turn(turn, &path.element(n), notes)).collect()
        }
        Json::Array(_) => Err(BadField::new(path.clone(), "expected at least one turn, found an empty list")),
        other => Err(BadField::new(path.clone(), format!("expected list of turns, found {}", found(Some(other))))),
    }
}

fn is_sharegpt(turn: &Json) -> bool {
    turn.get("from").is_some() && turn.get("role").is_none()
}

/// Fields of a turn that say whether it is trained on: Axolotl's, LLaMA-Factory's, OpenAI's.
const TRAIN_FLAGS: [&str; 3] = ["train", "loss_weight", "weight"];
/// Fields of a turn in ShareGPT's form that templates know; the rest is book-keeping of the data set.
const KEPT_OF_SHAREGPT: [&str; 6] =
    ["name", "tool_calls", "tool_call_id", "reasoning_content", "thinking", "reasoning"];

/// One turn as `role` and `content`.
pub(super) fn read_turn(turn: &Json, path: &FieldPath, notes: &mut Notes) -> Result<Json, BadField> {
    let Json::Object(fields) = turn else {
        let reason = format!("expected an object with `role` and `content`, found {}", found(Some(turn)));
        return Err(BadField::new(path.clone(), reason));
    };
    let sharegpt = is_sharegpt(turn);
    let (role_key, content_key) = match (sharegpt, fields.contains_key("value") && !fields.contains_key("content")) {
        (true, _) => ("from", "value"),
        (false, true) => ("role", "value"),
        (false, false) => ("role", "content"),
    };
    let spelt = match fields.get(role_key) {
        Some(Json::String(role)) => role.as_str(),
        other => {
            let reason = format!("expected string, found {}", found(other));
            return Err(BadField::new(path.field(role_key), reason));
        }
    };
    let role = if sharegpt { standard_role(spelt) } else { spelt };
    let mut parts = Parts::default();
    match fields.get(content_key) {
        Some(Json::String(text)) if spelt == "function_call" => match tool_calls(text) {
            Some(calls) => parts.calls = calls,
            None => parts.text.clone_from(text),
        },
        Some(Json::String(text)) => parts.text.clone_from(text),
        Some(Json::Array(list)) => parts = Parts::read(list, &path.field(content_key))?,
        // A turn that only calls a tool says nothing.
        None | Some(Json::Null) if calls_tool(turn) => parts.silent = true,
        other => {
            let reason = format!("expected string, found {}", found(other));
            return Err(BadField::new(path.field(content_key), reason));
        }
    }
    let trained = train_flag(fields, path, notes)?;
    notes.trained.push(trained);
    let mut out = Map::with_capacity(fields.len());
    if role_key != "role" || content_key != "content" {
        out.insert("role".into(), Json::Null);
        out.insert("content".into(), Json::Null);
    }
    for (key, value) in fields {
        match key.as_str() {
            key if TRAIN_FLAGS.contains(&key) => {}
            key if key == role_key || key == content_key => {
                out.insert(if key == role_key { "role" } else { "content" }.into(), Json::Null);
            }
            key if sharegpt && !KEPT_OF_SHAREGPT.contains(&key) => {
                let list = FieldPath(path.0.iter().take(1).cloned().collect());
                notes.unused(&format!("{list}[].{key}"));
            }
            // Table formats hold every field of a column in every turn.
            _ if value.is_null() => {}
            _ => _ = out.insert(key.clone(), value.clone()),
        }
    }
    out.insert("role".into(), role.into());
    out.insert("content".into(), if parts.silent { Json::Null } else { parts.text.into() });
    if !parts.reasoning.is_empty() {
        out.insert("reasoning_content".into(), parts.reasoning.into());
    }
    if !parts.calls.is_empty() {
        out.insert("tool_calls".into(), parts.calls.into());
    }
    Ok(Json::Object(out))
}

/// Whether a turn says that it is trained on.
fn train_flag(fields: &Fields, path: &FieldPath, notes: &mut Notes) -> Result<Option<bool>, BadField> {
    let Some((name, value)) = TRAIN_FLAGS.iter().find_map(|n| Some((n, fields.get(*n).filter(|v| !v.is_null())?)))
    else {
        return Ok(None);
    };
    match (value, value.as_f64()) {
        (Json::Bool(train), _) => Ok(Some(*train)),
        (_, Some(weight)) if weight >= 0.0 => {
            notes.ignored.loss_weight |= weight != 0.0 && weight != 1.0;
            Ok(Some(weight > 0.0))
        }
        _ => {
            let reason = format!("expected a boolean or a number from 0, found {}", found(Some(value)));
            Err(BadField::new(path.field(name), reason))
        }
    }
}

/// ShareGPT's names for the parties.
fn standard_role(from: &str) -> &str {
    match from {
        "human" | "user" => "user",
        "gpt" | "chatgpt" | "bot" | "model" | "bing" | "assistant" | "function_call" => "assistant",
        "observation" | "tool" | "function_response" | "tool_response" => "tool",
        other => other,
    }
}

/// The calls in the text of a `function_call` turn: one `{name, arguments}` or a list of them; `None` for any other text.
fn tool_calls(text: &str) -> Option<Vec<Json>> {
    let calls = match serde_json::from_str(text).ok()? {
        Json::Array(calls) => calls,
        call => vec![call],
    };
    let read = calls.into_iter().map(|mut call| {
        if call.get("function").is_some() {
            return Some(call);
        }
        call.get("name")?;
        // Templates print arguments as JSON; given as a string they would be printed in quotes.
        if let Some(Ok(arguments)) = call.get("arguments").and_then(Json::as_str).map(serde_json::from_str::<Json>) {
            call["arguments"] = arguments;
        }
        Some(json!({"type": "function", "function": call}))
    });
    read.collect()
}

/// What the parts of a content say.
#[derive(Default)]
struct Parts {
    text: String,
    reasoning: String,
    calls: Vec<Json>,
    /// No content at all.
    silent: bool,
}

impl Parts {
    /// Puts parts together: templates of text models take one string, with reasoning and calls beside it.
    fn read(list: &[Json], path: &FieldPath) -> Result<Self, BadField> {
        let mut parts = Parts::default();
        for (n, part) in list.iter().enumerate() {
            let bad = |reason: String| Err(BadField::new(path.element(n), reason));
            let value = ["text", "value"].iter().find_map(|name| part.get(name).filter(|v| !v.is_null()));
            match (part.get("type").and_then(Json::as_str), value) {
                (Some("text"), Some(Json::String(piece))) => parts.text.push_str(piece),
                (Some("reasoning" | "thinking"), Some(Json::String(piece))) => parts.reasoning.push_str(piece),
                (Some("tool_call"), Some(Json::String(piece))) => match tool_calls(piece) {
                    Some(calls) => parts.calls.extend(calls),
                    None => return bad("expected a call as JSON with `name` and `arguments`".into()),
                },
                (Some("text"), other) => return bad(format!("expected string in `text`, found {}", found(other))),
                (kind, _) => {
                    let kind = kind.map_or(found(Some(part)), |k| format!("a part of type {k:?}"));
                    return bad(format!("expected a part of type \"text\", found {kind}; only text can be trained on"));
                }
            }
        }
        Ok(parts)
    }
}

fn calls_tool(turn: &Json) -> bool {
    turn.get("tool_calls").and_then(Json::as_array).is_some_and(|calls| !calls.is_empty())
}

/// Whether a turn holds neither text nor a tool call.
pub(super) fn says_nothing(turn: &Json) -> bool {
    let blank = |name: &str| turn.get(name).and_then(Json::as_str).is_none_or(|text| text.trim().is_empty());
    !calls_tool(turn) && blank("content") && blank("reasoning_content")
}
