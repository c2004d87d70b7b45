//! What data look like: told from the first row, for people to see and to overrule.

use std::path::PathBuf;

use serde_json::Value as Json;

use super::next_object;
use crate::error::Result;
use crate::format::{Reading, Shape, Task, has_label};
use crate::source::Rows;
use crate::tokenise::Options;

/// What the first row says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Detected {
    /// Its shape; `None` when it has none that is known.
    pub shape: Option<Shape>,
    /// What such rows are for: KTO where they are labelled, supervised fine-tuning elsewhere.
    pub task: Task,
    /// Its fields, in their order.
    pub fields: Vec<String>,
}

/// Looks at the first row of `files`; `None` of no row. A shape in `options` is taken as it is.
///
/// # Errors
/// `Io`, `Table`; `Row` when the first row is no JSON object.
pub fn detect(files: &[PathBuf], options: &Options) -> Result<Option<Detected>> {
    let mut rows = Rows::open(files);
    let Some((raw, row)) = next_object(files, &mut rows)? else { return Ok(None) };
    let fields = row.keys().cloned().collect();
    let (mut row, mut shape) = (Json::Object(row), options.shape);
    if let Some(mapping) = options.mappings.get(&files[raw.file as usize]) {
        row = mapping.apply(row);
        shape = shape.or(mapping.shape);
    }
    let columns = row.as_object().expect("a mapping keeps an object");
    let of = |task| {
        let reading = Reading { shape, alternatives: options.alternatives, ..Reading::new(task, &options.text_field) };
        Shape::of(columns, &reading)
    };
    let shape = shape.or_else(|| of(Task::Kto)).or_else(|| of(Task::Sft));
    let graded = matches!(shape, Some(Shape::Pair | Shape::Graded | Shape::NuminaMath));
    let task = if graded || has_label(columns) { Task::Kto } else { Task::Sft };
    Ok(Some(Detected { shape, task, fields }))
}
