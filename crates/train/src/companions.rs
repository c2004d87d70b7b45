//! What stands beside trained weights: tokenizer, chat template and generation defaults, as the rows were written.

use crate::{Error, Job};
use serde_json::{Value, json};
use std::path::Path;

/// Copies the base's companions; a template that was given instead of the tokenizer's goes with the model, and so does the token
/// that it ends answers with, for a base whose own end of sequence is another.
pub(crate) fn write(job: &Job, dir: &Path) -> Result<(), Error> {
    let base = &job.config.model.path;
    weights::copy_companions(base, dir)?;
    let own = crate::prepare::tokenizer_folder(&job.config);
    if own != base {
        weights::copy_companions(own, dir)?;
    }
    if !job.new_tokens.is_empty() {
        data::write_tokens(base, dir, &job.new_tokens)?;
    }
    if let Some(template) = &job.given_template {
        put(dir, "chat_template.jinja", template)?;
    }
    if job.ends.is_empty() {
        return Ok(());
    }
    let name = "generation_config.json";
    let text = std::fs::read(dir.join(name)).unwrap_or_default();
    let mut defaults: Value = serde_json::from_slice(&text).ok().filter(Value::is_object).unwrap_or_else(|| json!({}));
    let mut ends: Vec<Value> = job.ends.iter().map(|id| json!(id)).collect();
    let known = match &defaults["eos_token_id"] {
        Value::Array(ids) => ids.clone(),
        id @ Value::Number(_) => vec![id.clone()],
        _ => Vec::new(),
    };
    ends.extend(known.into_iter().filter(|id| job.ends.iter().all(|end| json!(end) != *id)));
    defaults["eos_token_id"] = ends.into();
    put(dir, name, &format!("{defaults:#}\n"))
}

fn put(dir: &Path, name: &str, text: &str) -> Result<(), Error> {
    let path = dir.join(name);
    std::fs::write(&path, text).map_err(|source| Error::Io { doing: "write", path, source })
}
