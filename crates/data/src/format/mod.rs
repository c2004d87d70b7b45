//! Row shapes: one file each, chosen by looking at the row's fields.

mod messages;
mod prompt_completion;
mod text;

use serde_json::{Map, Value as Json};

use crate::locate::FieldPath;

/// What the rows are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Kahneman-Tversky optimisation: prompt, completion and whether it is desirable.
    Kto,
    /// Supervised fine-tuning: prompt and completion, a conversation, or text.
    Sft,
    /// Generation: the prompt is enough; a completion that is there is left out.
    Prompt,
}

/// A row's content.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// Plain strings.
    Plain {
        /// Everything before the answer.
        prompt: String,
        /// The answer; empty for [`Task::Prompt`].
        completion: String,
    },
    /// Turns, split where the answer begins.
    Chat {
        /// The turns before the answer.
        prompt: Vec<Json>,
        /// The answering turns; empty for [`Task::Prompt`].
        completion: Vec<Json>,
    },
    /// A conversation that is trained on as a whole.
    Messages(Vec<Json>),
    /// Text that is trained on as a whole.
    Text(String),
}

/// One row, checked and in one form whatever its shape was.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The content.
    pub body: Body,
    /// Desirable or not; present for [`Task::Kto`].
    pub label: Option<bool>,
    /// Tool schemas for the chat template.
    pub tools: Option<Json>,
    /// Further variables for the chat template.
    pub template_kwargs: Option<Map<String, Json>>,
    /// Whether the row held something training does not use: a label under [`Task::Sft`], or `loss_weight` on a turn.
    pub ignored: Ignored,
}

/// Fields of a row that have no effect, to be reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// A `label` in a row for supervised fine-tuning.
    pub label: bool,
    /// `loss_weight` on a turn.
    pub loss_weight: bool,
}

/// Why a row cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadField {
    /// The field at fault; empty for the whole row.
    pub path: FieldPath,
    /// Expected, found, and what to do.
    pub reason: String,
}

impl BadField {
    /// A complaint about the field at `path`.
    pub fn new(path: FieldPath, reason: impl Into<String>) -> Self {
        BadField { path, reason: reason.into() }
    }
}

/// Reads one row, whose shape is told from its fields. `text_field` names the field of plain text (usually `text`).
///
/// # Errors
/// The field at fault, what was expected and what was found.
pub fn read_row(row: &Json, task: Task, text_field: &str) -> Result<Example, BadField> {
    let Json::Object(fields) = row else {
        return Err(BadField::new(FieldPath::default(), format!("expected a JSON object, found {}", found(Some(row)))));
    };
    let has = |name: &str| fields.get(name).is_some_and(|v| !v.is_null());
    if has("chosen") && has("rejected") && task != Task::Prompt {
        let advice =
            "write each pair as two rows, the chosen answer with label true and the rejected one with label false";
        return Err(BadField::new(FieldPath::key("chosen"), format!("pairs are not read; {advice}")));
    }
    let mut ignored = Ignored { label: task == Task::Sft && has("label"), loss_weight: false };
    let body = if has("prompt") && (has("completion") || task == Task::Prompt) {
        prompt_completion::read(fields, task, &mut ignored)?
    } else if has("messages") {
        messages::read(fields, "messages", task, &mut ignored)?
    } else if has("conversations") {
        messages::read(fields, "conversations", task, &mut ignored)?
    } else if has(text_field) && task != Task::Kto {
        text::read(fields, text_field, task)?
    } else {
        return Err(unknown_shape(fields, task, text_field));
    };
    let label = if task == Task::Kto { Some(read_label(fields)?) } else { None };
    let (tools, template_kwargs) = (read_tools(fields)?, read_template_kwargs(fields)?);
    Ok(Example { body, label, tools, template_kwargs, ignored })
}

fn unknown_shape(fields: &Map<String, Json>, task: Task, text_field: &str) -> BadField {
    let names: Vec<String> = fields.keys().take(12).map(|k| format!("`{k}`")).collect();
    let found = if names.is_empty() { "an empty object".to_owned() } else { names.join(", ") };
    let expected = match task {
        Task::Kto => "`prompt` + `completion` + `label`, `messages` + `label`, or `conversations` + `label`".to_owned(),
        Task::Sft => format!("`messages`, `conversations`, `prompt` + `completion`, or `{text_field}`"),
        Task::Prompt => format!("`prompt`, `messages`, `conversations`, or `{text_field}`"),
    };
    let advice = if fields.contains_key("instruction") && fields.contains_key("output") {
        "; write `instruction` (and `input`) as `prompt` and `output` as `completion`"
    } else {
        ""
    };
    BadField::new(FieldPath::default(), format!("expected {expected}; found {found}{advice}"))
}

fn read_label(fields: &Map<String, Json>) -> Result<bool, BadField> {
    let label = fields.get("label");
    label.and_then(Json::as_bool).ok_or_else(|| {
        let advice = "write true for a desirable completion, false for an undesirable one, without quotes";
        BadField::new(FieldPath::key("label"), format!("expected boolean, found {}; {advice}", found(label)))
    })
}

/// Tools come as a list of schemas or as that list written into a string.
fn read_tools(fields: &Map<String, Json>) -> Result<Option<Json>, BadField> {
    let bad =
        |what: String| BadField::new(FieldPath::key("tools"), format!("expected a list of JSON schemas, found {what}"));
    match fields.get("tools") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) if text.is_empty() => Ok(None),
        Some(Json::String(text)) => match serde_json::from_str(text) {
            Ok(tools @ Json::Array(_)) => Ok(Some(tools)),
            Ok(other) => Err(bad(format!("a string that holds {}", found(Some(&other))))),
            Err(e) => Err(bad(format!("a string that is not JSON ({e})"))),
        },
        Some(tools @ Json::Array(_)) => Ok(Some(tools.clone())),
        other => Err(bad(found(other))),
    }
}

fn read_template_kwargs(fields: &Map<String, Json>) -> Result<Option<Map<String, Json>>, BadField> {
    let path = FieldPath::key("chat_template_kwargs");
    match fields.get("chat_template_kwargs") {
        None | Some(Json::Null) => Ok(None),
        Some(Json::Object(kwargs)) => {
            const TAKEN: [&str; 4] = ["messages", "tools", "documents", "add_generation_prompt"];
            match TAKEN.iter().find(|name| kwargs.contains_key(**name)) {
                Some(name) => Err(BadField::new(path.field(name), "this variable is set by the trainer; remove it")),
                None => Ok(Some(kwargs.clone())),
            }
        }
        other => Err(BadField::new(path, format!("expected an object, found {}", found(other)))),
    }
}

/// A field that must be a string.
fn string_field(fields: &Map<String, Json>, name: &str) -> Result<String, BadField> {
    match fields.get(name) {
        Some(Json::String(text)) => Ok(text.clone()),
        other => Err(BadField::new(FieldPath::key(name), format!("expected string, found {}", found(other)))),
    }
}

/// A value in the words of an error message.
pub(crate) fn found(json: Option<&Json>) -> String {
    match json {
        None => "nothing".into(),
        Some(Json::Null) => "null".into(),
        Some(Json::Bool(b)) => format!("boolean {b}"),
        Some(Json::Number(n)) => format!("number {n}"),
        Some(Json::String(s)) if s.chars().count() > 40 => {
            format!("string {:?}...", s.chars().take(40).collect::<String>())
        }
        Some(Json::String(s)) => format!("string {s:?}"),
        Some(Json::Array(items)) => format!("a list of {}", items.len()),
        Some(Json::Object(_)) => "an object".into(),
    }
}

impl Example {
    /// Hashes of the prompt and of the whole row, the same on every run, machine and tokenizer.
    ///
    /// The prompt's hash keeps partners and splits apart by prompt. Of a conversation trained as a whole, the prompt is all
    /// but the last assistant turn; of a text, all of it.
    pub fn hashes(&self) -> (u64, u64) {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes());
            hasher.update(part.as_bytes());
            u64::from_le_bytes(hasher.finalize().as_bytes()[..8].try_into().expect("eight bytes"))
        };
        let json = |turns: &[Json]| serde_json::to_string(turns).expect("JSON values serialise");
        add(&self.tools.as_ref().map(Json::to_string).unwrap_or_default());
        let (prompt, rest) = match &self.body {
            Body::Plain { prompt, completion } => (add(prompt), completion.clone()),
            Body::Chat { prompt, completion } => (add(&json(prompt)), json(completion)),
            Body::Messages(turns) => {
                let is_last = turns.last().is_some_and(|t| t.get("role").and_then(Json::as_str) == Some("assistant"));
                let cut = turns.len() - usize::from(is_last && turns.len() > 1);
                (add(&json(&turns[..cut])), json(&turns[cut..]))
            }
            Body::Text(text) => (add(text), String::new()),
        };
        add(&rest);
        (prompt, add(if self.label == Some(true) { "1" } else { "0" }))
    }
}
