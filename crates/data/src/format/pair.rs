//! `{chosen, rejected}`: a desirable and an undesirable answer to one prompt, in any layout of TRL or LLaMA-Factory.

use serde_json::Value as Json;

use super::answers::Prompt;
use super::{BadField, Body, Fields, Found, Notes, Task, alpaca, found, messages, turn};
use crate::locate::FieldPath;

const USED: &[&str] = &[
    "prompt",
    "chosen",
    "rejected",
    "chosen_messages",
    "rejected_messages",
    "messages",
    "conversations",
    "instruction",
    "input",
    "history",
    "system",
];

/// The chosen answer as a desirable example and the rejected one as an undesirable one; for supervised fine-tuning the chosen
/// one only.
pub(super) fn read(fields: &Fields, task: Task, notes: &mut Notes) -> Result<Found, BadField> {
    let names = match fields.get("chosen").is_some_and(|v| !v.is_null()) {
        true => ["chosen", "rejected"],
        false => ["chosen_messages", "rejected_messages"],
    };
    if let Some(name) = names.iter().find(|name| fields.get(**name).is_none_or(Json::is_null)) {
        let name = name.trim_end_matches("_messages");
        let reason = format!("expected a pair, `chosen` and `rejected`; found no `{name}`");
        return Err(BadField::new(FieldPath::default(), reason));
    }
    let answers = names.map(|name| fields.get(name).unwrap_or(&Json::Null));
    let paths = names.map(FieldPath::key);
    let (prompt, answers) = split(fields, answers, &paths, notes)?;
    if task == Task::Prompt {
        let body = match prompt {
            Prompt::Text(prompt) => Body::Plain { prompt, completion: String::new() },
            Prompt::Turns(prompt) => Body::Chat { prompt, completion: Vec::new() },
        };
        return Ok(Found::one(body, USED));
    }
    let mut bodies = vec![(prompt.body(&answers[0], &paths[0], notes)?, Some(true))];
    if task == Task::Kto {
        bodies.push((prompt.body(&answers[1], &paths[1], notes)?, Some(false)));
    }
    Ok(Found { bodies, used: USED })
}

/// The prompt and what each answer adds to it.
fn split(
    fields: &Fields,
    answers: [&Json; 2],
    paths: &[FieldPath; 2],
    notes: &mut Notes,
) -> Result<(Prompt, [Json; 2]), BadField> {
    let has = |name: &str| fields.get(name).is_some_and(|v| !v.is_null());
    let both_lists = answers.iter().all(|a| a.is_array());
    let prompt = if has("prompt") {
        Some(Prompt::read(fields, notes)?)
    } else if has("conversations") || has("messages") {
        let name = if has("conversations") { "conversations" } else { "messages" };
        let mut turns = messages::turns(&fields[name], &FieldPath::key(name), notes)?;
        messages::prepend_system(fields, &mut turns)?;
        Some(Prompt::Turns(turns))
    } else if has("instruction") {
        Some(Prompt::Turns(alpaca::prompt(fields)?))
    } else {
        None
    };
    if both_lists {
        let mut lists = Vec::with_capacity(2);
        for (answer, path) in answers.iter().zip(paths) {
            lists.push(messages::turns(answer, path, notes)?);
        }
        return Ok(split_turns(prompt, lists));
    }
    match (prompt, answers) {
        (Some(prompt), _) => Ok((prompt, answers.map(Json::clone))),
        (None, [Json::String(chosen), Json::String(rejected)]) => {
            let shared = shared_text(chosen, rejected);
            let rest = |text: &str| Json::String(text[shared..].to_owned());
            Ok((Prompt::Text(chosen[..shared].to_owned()), [rest(chosen), rest(rejected)]))
        }
        (None, [chosen, rejected]) => {
            let reason = format!(
                "expected two strings or two lists of turns, or a prompt beside them; found {} and {}",
                found(Some(chosen)),
                found(Some(rejected))
            );
            Err(BadField::new(paths[0].clone(), reason))
        }
    }
}

/// Answers given as lists may repeat the prompt: turns that both start with belong to it.
fn split_turns(prompt: Option<Prompt>, mut lists: Vec<Vec<Json>>) -> (Prompt, [Json; 2]) {
    let shared = lists[0].iter().zip(&lists[1]).take_while(|(a, b)| a == b).count();
    // Two equal lists share all but the answer.
    let shared = shared.min(lists[0].len().saturating_sub(1)).min(lists[1].len().saturating_sub(1));
    let rejected = Json::Array(lists[1].split_off(shared));
    let chosen = Json::Array(lists[0].split_off(shared));
    let shared = lists.swap_remove(0);
    let prompt = match prompt {
        Some(Prompt::Turns(turns)) if shared.is_empty() || shared.starts_with(&turns) => {
            let more = shared.into_iter().skip(turns.len());
            Prompt::Turns(turns.into_iter().chain(more).collect())
        }
        Some(Prompt::Turns(turns)) => Prompt::Turns(turns.into_iter().chain(shared).collect()),
        // The text of the question, once more beside the turns.
        Some(Prompt::Text(_)) | None if !shared.is_empty() => Prompt::Turns(shared),
        Some(Prompt::Text(text)) => Prompt::Turns(vec![turn("user", &text)]),
        None => Prompt::Turns(Vec::new()),
    };
    (prompt, [chosen, rejected])
}

/// Bytes that both texts start with; a space before the answers goes with them (TRL's rule).
fn shared_text(a: &str, b: &str) -> usize {
    let shared: usize = a.chars().zip(b.chars()).take_while(|(a, b)| a == b).map(|(c, _)| c.len_utf8()).sum();
    shared - usize::from(a[..shared].ends_with(' ') && shared < a.len().max(b.len()))
}
