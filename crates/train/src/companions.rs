//! What stands beside trained weights: tokenizer, chat template and generation defaults, as the rows were written.

use crate::{Error, Job};
use data::template::named;
use serde_json::{Value, json};
use std::path::Path;

/// Copies the base's companions; a template that was given instead of the tokenizer's goes with the model, and so does the token
/// that it ends answers with, for a base whose own end of sequence is another.
pub(crate) fn write(job: &Job, dir: &Path) -> Result<(), Error> {
    weights::copy_companions(&job.config.model.path, dir)?;
    let Some(template) = job.tokenizer.given_template() else { return Ok(()) };
    put(dir, "chat_template.jinja", template)?;
    let given = job.config.data.chat_template.as_deref().and_then(Path::to_str).and_then(named::find);
    let stop = given.and_then(|template| job.tokenizer.token_to_id(template.stop?));
    let Some(stop) = stop.filter(|stop| job.tokenizer.eos_id() != Some(*stop)) else { return Ok(()) };
    let name = "generation_config.json";
    let text = std::fs::read(dir.join(name)).unwrap_or_default();
    let mut defaults: Value = serde_json::from_slice(&text).ok().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let mut ends = vec![json!(stop)];
    match &defaults["eos_token_id"] {
        Value::Array(ids) => ends.extend(ids.iter().filter(|id| **id != stop).cloned()),
        Value::Number(id) if *id != stop.into() => ends.push(json!(id)),
        Value::Null => ends.extend(job.tokenizer.eos_id().map(Value::from)),
        _ => {}
    }
    defaults["eos_token_id"] = ends.into();
    put(dir, name, &format!("{defaults:#}\n"))
}

fn put(dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|source| Error::Io { doing: "write", path, source })
}
