//! `{text}`: one string, trained on as a whole.

use super::{BadField, Body, Fields, Found, Task, string_field};
use crate::locate::FieldPath;

pub(super) fn read(fields: &Fields, name: &str, task: Task) -> Result<Found, BadField> {
    let text = string_field(fields, name)?;
    if text.is_empty() {
        return Err(BadField::new(FieldPath::key(name), "expected text, found an empty string; remove the row"));
    }
    let body = match task {
        Task::Prompt => Body::Plain { prompt: text, completion: String::new() },
        Task::Sft => Body::Text(text),
        Task::Kto => {
            let reason = "KTO needs a prompt and a completion, found one text; write `prompt` and `completion`";
            return Err(BadField::new(FieldPath::key(name), reason));
        }
    };
    Ok(Found::one(body, &[]))
}
