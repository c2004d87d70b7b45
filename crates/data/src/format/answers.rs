//! Several answers to one prompt in one row: `completions` with `labels`, or answers graded one by one.

use serde_json::Value as Json;

use super::{BadField, Body, Fields, Found, Notes, Task, chat, empty_completion, found, messages, string_field, turn};
use crate::locate::FieldPath;

const USED: &[&str] = &["prompt", "completion", "completions", "labels"];

/// One example per answer; for supervised fine-tuning only the answers that are not labelled false.
pub(super) fn read(fields: &Fields, task: Task, notes: &mut Notes) -> Result<Found, BadField> {
    let name = if fields.get("completions").is_some_and(|v| !v.is_null()) { "completions" } else { "completion" };
    let path = FieldPath::key(name);
    let answers = match fields.get(name) {
        Some(Json::Array(answers)) if !answers.is_empty() => answers,
        other => {
            let reason = format!("expected a list of answers, found {}", found(other));
            return Err(BadField::new(path, reason));
        }
    };
    let labels = read_labels(fields, answers.len())?;
    if task == Task::Kto && labels.is_none() && !matches!(fields.get("label"), Some(Json::Bool(_))) {
        let reason = format!("expected a list of {} booleans, one for each answer; found nothing", answers.len());
        return Err(BadField::new(FieldPath::key("labels"), reason));
    }
    let prompt = Prompt::read(fields, notes)?;
    let mut bodies = Vec::with_capacity(answers.len());
    for (n, answer) in answers.iter().enumerate() {
        let label = labels.as_ref().map(|labels| labels[n]);
        if task == Task::Sft && label == Some(false) {
            continue;
        }
        bodies.push((prompt.body(answer, &path.element(n), notes)?, label));
    }
    if bodies.is_empty() {
        return Err(BadField::new(FieldPath::key("labels"), "every answer is labelled false; nothing to train on"));
    }
    Ok(Found { bodies, used: USED })
}

fn read_labels(fields: &Fields, count: usize) -> Result<Option<Vec<bool>>, BadField> {
    let list = |name: &'static str| Some((name, fields.get(name)?.as_array()?));
    let Some((name, labels)) = list("labels").or_else(|| list("label")) else { return Ok(None) };
    let read: Option<Vec<bool>> = labels.iter().map(Json::as_bool).collect();
    match read {
        Some(read) if read.len() == count => Ok(Some(read)),
        _ => {
            let reason = format!("expected {count} booleans, one for each answer; found {}", found(fields.get(name)));
            Err(BadField::new(FieldPath::key(name), reason))
        }
    }
}

/// A prompt that several answers share.
pub(super) enum Prompt {
    Text(String),
    Turns(Vec<Json>),
}

impl Prompt {
    pub(super) fn read(fields: &Fields, notes: &mut Notes) -> Result<Self, BadField> {
        match fields.get("prompt") {
            Some(turns @ Json::Array(_)) => {
                Ok(Prompt::Turns(messages::turns(turns, &FieldPath::key("prompt"), notes)?))
            }
            _ => Ok(Prompt::Text(string_field(fields, "prompt")?)),
        }
    }

    /// The example that `answer` makes: a string, one turn, or a list of turns.
    pub(super) fn body(&self, answer: &Json, path: &FieldPath, notes: &mut Notes) -> Result<Body, BadField> {
        match (self, answer) {
            (_, Json::String(text)) if text.trim().is_empty() => Err(empty_completion(path.clone())),
            (Prompt::Text(prompt), Json::String(text)) => {
                Ok(Body::Plain { prompt: prompt.clone(), completion: text.clone() })
            }
            (Prompt::Turns(prompt), Json::String(text)) => {
                chat(prompt.clone(), vec![turn("assistant", text)], path.clone())
            }
            (prompt, Json::Object(_) | Json::Array(_)) => {
                let turns = match answer {
                    Json::Array(_) => messages::turns(answer, path, notes)?,
                    _ => vec![messages::read_turn(answer, path, notes)?],
                };
                let prompt = match prompt {
                    Prompt::Turns(prompt) => prompt.clone(),
                    Prompt::Text(text) => vec![turn("user", text)],
                };
                chat(prompt, turns, path.clone())
            }
            (_, other) => {
                let reason =
                    format!("expected an answer as string, turn or list of turns; found {}", found(Some(other)));
                Err(BadField::new(path.clone(), reason))
            }
        }
    }
}

/// Whether a value is an answer with its grade: `{solution, is_correct}`.
pub(super) fn is_graded(value: &Json) -> bool {
    value.get("solution").is_some_and(Json::is_string) && value.get("is_correct").is_some_and(Json::is_boolean)
}

/// `question` and graded answers under any names; desirable is what is correct.
pub(super) fn read_graded(fields: &Fields, task: Task) -> Result<Found, BadField> {
    let prompt = vec![turn("user", &string_field(fields, "question")?)];
    if task == Task::Prompt {
        return Ok(Found::one(Body::Chat { prompt, completion: Vec::new() }, &["question"]));
    }
    let mut bodies = Vec::new();
    for (name, answer) in fields.iter().filter(|(_, value)| is_graded(value)) {
        let correct = answer["is_correct"] == true;
        if task == Task::Sft && !correct {
            continue;
        }
        let solution = turn("assistant", answer["solution"].as_str().unwrap_or_default());
        bodies.push((chat(prompt.clone(), vec![solution], FieldPath::key(name).field("solution"))?, Some(correct)));
    }
    if bodies.is_empty() {
        let reason = "expected an answer that `is_correct`, found none; remove the row";
        return Err(BadField::new(FieldPath::default(), reason));
    }
    Ok(Found { bodies, used: &["question"] })
}
