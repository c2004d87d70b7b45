//! `{text}`: one string, trained on as a whole.

use serde_json::{Map, Value as Json};

use super::{BadField, Body, Task, string_field};
use crate::locate::FieldPath;

pub(super) fn read(fields: &Map<String, Json>, name: &str, task: Task) -> Result<Body, BadField> {
    let text = string_field(fields, name)?;
    if text.is_empty() {
        return Err(BadField::new(FieldPath::key(name), "expected text, found an empty string; remove the row"));
    }
    Ok(match task {
        Task::Prompt => Body::Plain { prompt: text, completion: String::new() },
        Task::Kto | Task::Sft => Body::Text(text),
    })
}
