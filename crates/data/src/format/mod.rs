//! Row shapes: one file each, chosen by looking at the row's fields or named by the user.

mod alpaca;
mod answers;
pub mod mapping;
mod messages;
mod numina;
mod pair;
mod prompt_completion;
mod shape;
mod text;

use serde_json::{Map, Value as Json};

use crate::locate::FieldPath;

pub use shape::Shape;

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
    /// Whether each turn of [`Body::Messages`] is trained on, where turns say so (`train`, `loss_weight`).
    pub trained_turns: Option<Vec<bool>>,
    /// Whether the row held something training does not use: a label under [`Task::Sft`], or weights that have no effect.
    pub ignored: Ignored,
}

/// Fields of a row that have no effect, to be reported.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// A `label` in a row for supervised fine-tuning.
    pub label: bool,
    /// `loss_weight` on a turn that is neither 0 nor 1, or where turns are not trained one by one.
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

/// How rows are read.
#[derive(Clone, Copy, Debug)]
pub struct Reading<'a> {
    /// What the rows are for.
    pub task: Task,
    /// Field that holds plain text.
    pub text_field: &'a str,
    /// The shape of every row; `None`: told from each row's fields.
    pub shape: Option<Shape>,
    /// Label of rows that have none.
    pub default_label: Option<bool>,
    /// Whether a list in `completion` is several answers and not one of several turns.
    pub alternatives: bool,
}

impl<'a> Reading<'a> {
    /// Rows for `task`, told by their fields, every label written out.
    pub fn new(task: Task, text_field: &'a str) -> Self {
        Reading { task, text_field, shape: None, default_label: None, alternatives: false }
    }
}

/// What one row of a file is.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadRow {
    /// Its shape.
    pub shape: Shape,
    /// What it holds: one example, or several when several answers share a prompt. Of a pair the chosen answer comes first.
    pub examples: Vec<Example>,
    /// Names of fields that were not used (`source`, `conversations[].info`), each once.
    pub unused: Vec<String>,
}

/// What a reader of one shape finds.
struct Found {
    /// Contents, each with the label that belongs to it by its place in the row.
    bodies: Vec<(Body, Option<bool>)>,
    /// Top-level fields that were read.
    used: &'static [&'static str],
}

impl Found {
    fn one(body: Body, used: &'static [&'static str]) -> Self {
        Found { bodies: vec![(body, None)], used }
    }
}

/// What is noticed while turns are read.
#[derive(Default)]
struct Notes {
    ignored: Ignored,
    unused: Vec<String>,
    /// For each turn of the list read last, whether it says that it is trained on.
    trained: Vec<Option<bool>>,
}

impl Notes {
    fn unused(&mut self, name: &str) {
        if !self.unused.iter().any(|n| n == name) {
            self.unused.push(name.to_owned());
        }
    }
}

type Fields = Map<String, Json>;

/// Reads one row.
///
/// # Errors
/// The field at fault, what was expected and what was found.
pub fn read_row(row: &Json, reading: &Reading<'_>) -> Result<ReadRow, BadField> {
    let Json::Object(fields) = row else {
        return Err(BadField::new(FieldPath::default(), format!("expected a JSON object, found {}", found(Some(row)))));
    };
    let task = reading.task;
    let detected = reading.shape.or_else(|| Shape::of(fields, reading));
    let Some(shape) = detected else { return Err(unknown_shape(fields, task, reading.text_field)) };
    let mut notes = Notes::default();
    let read = match shape {
        Shape::PromptCompletion => prompt_completion::read(fields, task, &mut notes)?,
        Shape::Messages | Shape::Conversations | Shape::AmThinking => messages::read(fields, shape, task, &mut notes)?,
        Shape::Pair => pair::read(fields, task, &mut notes)?,
        Shape::Alpaca => alpaca::read(fields, task, &mut notes)?,
        Shape::NuminaMath => numina::read(fields, task, &mut notes)?,
        Shape::Answers => answers::read(fields, task, &mut notes)?,
        Shape::Graded => answers::read_graded(fields, task)?,
        Shape::Text => text::read(fields, reading.text_field, task)?,
    };
    let trained_turns = trained_turns(&read.bodies, &mut notes)?;
    let (tools, template_kwargs) = (read_tools(fields, shape)?, read_template_kwargs(fields)?);
    let ignored = Ignored { label: task == Task::Sft && label_of(fields).is_some(), ..notes.ignored };
    let mut examples = Vec::with_capacity(read.bodies.len());
    // NuminaMath-CoT is solutions only.
    let default_label = reading.default_label.or((shape == Shape::NuminaMath).then_some(true));
    for (body, label) in read.bodies {
        let label = match (task, label) {
            (Task::Kto, Some(label)) => Some(label),
            (Task::Kto, None) => Some(read_label(fields, default_label)?),
            _ => None,
        };
        let (tools, template_kwargs, trained_turns) = (tools.clone(), template_kwargs.clone(), trained_turns.clone());
        examples.push(Example { body, label, tools, template_kwargs, trained_turns, ignored });
    }
    const ALWAYS: [&str; 4] = ["label", "kto_tag", "tools", "chat_template_kwargs"];
    let is_read = |name: &str, value: &Json| match shape {
        Shape::Text => name == reading.text_field,
        Shape::Graded => answers::is_graded(value),
        _ => false,
    };
    for (name, value) in fields {
        let known = read.used.contains(&name.as_str()) || ALWAYS.contains(&name.as_str()) || is_read(name, value);
        if !value.is_null() && !known {
            notes.unused(name);
        }
    }
    Ok(ReadRow { shape, examples, unused: notes.unused })
}

/// Which turns are trained on, if the row is one conversation and its turns say so. Turns that do not say are if they are the
/// assistant's.
fn trained_turns(bodies: &[(Body, Option<bool>)], notes: &mut Notes) -> Result<Option<Vec<bool>>, BadField> {
    if notes.trained.iter().all(Option::is_none) {
        return Ok(None);
    }
    let [(Body::Messages(turns), _)] = bodies else {
        notes.ignored.loss_weight = true;
        return Ok(None);
    };
    // A `system` field goes before the turns that say.
    let before = turns.len() - notes.trained.len();
    let says = std::iter::repeat_n(&Some(false), before).chain(&notes.trained);
    let trained: Vec<bool> = says.zip(turns).map(|(says, turn)| says.unwrap_or(turn["role"] == "assistant")).collect();
    if trained.contains(&true) {
        return Ok(Some(trained));
    }
    let reason =
        "no turn of this conversation is trained on: every `train` is false or `loss_weight` 0; remove the row";
    Err(BadField::new(FieldPath::default(), reason))
}

fn unknown_shape(fields: &Fields, task: Task, text_field: &str) -> BadField {
    let names: Vec<String> = fields.keys().take(12).map(|k| format!("`{k}`")).collect();
    let found = if names.is_empty() { "an empty object".to_owned() } else { names.join(", ") };
    let expected = match task {
        Task::Kto => "`prompt` + `completion` + `label`, `messages` + `label`, `conversations` + `label`, \
                      `instruction` + `output` + `label`, or `chosen` + `rejected`"
            .to_owned(),
        Task::Sft => {
            format!("`messages`, `conversations`, `prompt` + `completion`, `instruction` + `output`, or `{text_field}`")
        }
        Task::Prompt => format!("`prompt`, `messages`, `conversations`, `instruction`, or `{text_field}`"),
    };
    BadField::new(FieldPath::default(), format!("expected {expected}; found {found}"))
}

/// The field that holds the label: `label`, or LLaMA-Factory's `kto_tag`.
fn label_of(fields: &Fields) -> Option<(&'static str, &Json)> {
    ["label", "kto_tag"].into_iter().find_map(|name| Some((name, fields.get(name).filter(|v| !v.is_null())?)))
}

/// Whether a row says which of its answers are desirable.
pub(crate) fn has_label(fields: &Fields) -> bool {
    label_of(fields).is_some() || fields.get("labels").is_some_and(Json::is_array)
}

fn read_label(fields: &Fields, default: Option<bool>) -> Result<bool, BadField> {
    let (name, label) = match (label_of(fields), default) {
        (Some((name, label)), _) => (name, Some(label)),
        (None, Some(default)) => return Ok(default),
        (None, None) => ("label", fields.get("label")),
    };
    label.and_then(Json::as_bool).ok_or_else(|| {
        let advice = match label {
            Some(Json::Array(_)) => {
                "several answers in one row are lists in `completions` and `labels`, or are asked for: `alternatives`"
            }
            _ => "write true for a desirable completion, false for an undesirable one, without quotes",
        };
        BadField::new(FieldPath::key(name), format!("expected boolean, found {}; {advice}", found(label)))
    })
}

/// Tools come as a list of schemas or as that list written into a string.
fn read_tools(fields: &Fields, shape: Shape) -> Result<Option<Json>, BadField> {
    let bad =
        |what: String| BadField::new(FieldPath::key("tools"), format!("expected a list of JSON schemas, found {what}"));
    let tools = match fields.get("tools") {
        None | Some(Json::Null) => return Ok(None),
        Some(Json::String(text)) if text.trim().is_empty() => return Ok(None),
        Some(Json::String(text)) => match serde_json::from_str(text) {
            Ok(Json::Array(tools)) => tools,
            Ok(other) => return Err(bad(format!("a string that holds {}", found(Some(&other))))),
            Err(e) => return Err(bad(format!("a string that is not JSON ({e})"))),
        },
        Some(Json::Array(tools)) => tools.clone(),
        other => return Err(bad(found(other))),
    };
    if shape != Shape::Conversations {
        return Ok(Some(Json::Array(tools)));
    }
    // ShareGPT rows list bare functions; templates expect each as `{type, function}`.
    let wrapped = tools.into_iter().map(|tool| {
        let bare = tool.get("name").is_some() && tool.get("function").is_none();
        if bare { serde_json::json!({"type": "function", "function": tool}) } else { tool }
    });
    Ok(Some(wrapped.collect()))
}

fn read_template_kwargs(fields: &Fields) -> Result<Option<Fields>, BadField> {
    let path = FieldPath::key("chat_template_kwargs");
    let parsed;
    let mut kwargs = fields.get("chat_template_kwargs");
    // Tables without a type for it hold the object as text.
    if let Some(Json::String(text)) = kwargs
        && let Ok(object) = serde_json::from_str::<Json>(text)
    {
        parsed = object;
        kwargs = Some(&parsed);
    }
    match kwargs {
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
fn string_field(fields: &Fields, name: &str) -> Result<String, BadField> {
    match fields.get(name) {
        Some(Json::String(text)) => Ok(text.clone()),
        other => Err(BadField::new(FieldPath::key(name), format!("expected string, found {}", found(other)))),
    }
}

/// The complaint about a completion that holds nothing.
pub(crate) const EMPTY_COMPLETION: &str = "expected something to train on, found an empty completion; remove the row";

fn empty_completion(path: FieldPath) -> BadField {
    BadField::new(path, EMPTY_COMPLETION)
}

/// Prompt and answer as a body; an answer without text is refused.
fn chat(prompt: Vec<Json>, completion: Vec<Json>, path: FieldPath) -> Result<Body, BadField> {
    match completion.iter().all(messages::says_nothing) {
        true => Err(empty_completion(path)),
        false => Ok(Body::Chat { prompt, completion }),
    }
}

/// A turn of two fields.
fn turn(role: &str, content: &str) -> Json {
    serde_json::json!({"role": role, "content": content})
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

    /// The row in the form this crate writes: `prompt` + `completion` (+ `label`), `messages` or `text`.
    pub fn to_row(&self) -> Fields {
        let mut row = Fields::new();
        match &self.body {
            Body::Plain { prompt, completion } => {
                row.insert("prompt".into(), prompt.as_str().into());
                row.insert("completion".into(), completion.as_str().into());
            }
            Body::Chat { prompt, completion } => {
                row.insert("prompt".into(), prompt.clone().into());
                row.insert("completion".into(), completion.clone().into());
            }
            Body::Messages(turns) => {
                let mut turns = turns.clone();
                for (turn, &trained) in turns.iter_mut().zip(self.trained_turns.iter().flatten()) {
                    turn["train"] = trained.into();
                }
                row.insert("messages".into(), turns.into());
            }
            Body::Text(text) => _ = row.insert("text".into(), text.as_str().into()),
        }
        if let Some(label) = self.label {
            row.insert("label".into(), label.into());
        }
        if let Some(tools) = &self.tools {
            row.insert("tools".into(), tools.clone());
        }
        if let Some(kwargs) = &self.template_kwargs {
            row.insert("chat_template_kwargs".into(), kwargs.clone().into());
        }
        row
    }
}
