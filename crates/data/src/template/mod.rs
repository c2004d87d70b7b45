//! Chat templates: Jinja as `transformers` runs it (trimmed blocks, plain `tojson`, `{% generation %}`), bounded in time and size.

mod bounds;
mod json;
pub mod named;
mod rewrite;

use std::fmt::Write as _;
use std::ops::Range;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Rest, Value, ValueKind, ValueOrKwargs};
use minijinja::{Environment, ErrorKind, Output, State, UndefinedBehavior, filters};
use serde_json::Value as Json;

use crate::clock::Clock;
use crate::error::{TemplateError, TemplateErrorKind};

/// Instructions a render may execute; published templates take less than a tenth of it for four thousand turns.
const FUEL: u64 = 10_000_000;
/// Bytes a render may produce.
const OUTPUT_CAP: usize = 64 << 20;
/// Noncharacters (Unicode's own for internal use) that bracket `{% generation %}` text until the ranges are taken.
const MARKS: [char; 2] = ['\u{fdd0}', '\u{fdd1}'];
/// Noncharacters that bracket what the `safe` filter returned until it is written.
const SAFE: [char; 2] = ['\u{fdd2}', '\u{fdd3}'];
/// Filters that give a generator in Jinja (so `tojson` refuses their result), and the engine's versions of them.
const GENERATORS: [(&str, &str); 5] = [
    ("map", "__map"),
    ("select", "__select"),
    ("reject", "__reject"),
    ("selectattr", "__selectattr"),
    ("rejectattr", "__rejectattr"),
];
/// Detail prefix by which `raise_exception` is told apart from the engine's own errors.
const RAISED: &str = "raised: ";
/// Detail prefix of what [`bounds`] refuses.
const BOUND: &str = "bound: ";
/// Name of the filter a `{% generation %}` block is turned into.
const GENERATION_FILTER: &str = "__generation";
/// Name of the function that guards what a loop iterates.
const ITERABLE: &str = "__iterable";
/// Names of the functions that guard what `{% set %}` keeps: in a variable, and in a namespace.
const KEPT: &str = "__kept";
const KEPT_ATTRIBUTE: &str = "__kept_attribute";
/// Variable that says whether generation blocks are to be marked.
const MARKING: &str = "__marking";

/// What a template sees besides its special tokens.
#[derive(Clone, Copy, Debug, Default)]
pub struct RenderInput<'a> {
    /// Turns, each an object with `role` and `content`.
    pub messages: &'a [Json],
    /// JSON schemas of tools; `None` is Jinja's `none`.
    pub tools: Option<&'a Json>,
    /// Retrieved documents; `None` is Jinja's `none`.
    pub documents: Option<&'a Json>,
    /// Whether the header of the assistant's next turn is appended.
    pub add_generation_prompt: bool,
    /// Further variables (`enable_thinking`, ...).
    pub extra: Option<&'a serde_json::Map<String, Json>>,
}

/// A compiled chat template.
pub struct ChatTemplate {
    env: Environment<'static>,
    specials: Vec<(String, String)>,
    generation: bool,
}

impl std::fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChatTemplate").field("specials", &self.specials).field("generation", &self.generation).finish()
    }
}

impl ChatTemplate {
    /// Compiles `source`. `specials` become variables (`bos_token`, ...); `clock` answers `strftime_now`.
    ///
    /// # Errors
    /// `Syntax` if the source is not valid Jinja, `Limit` for an expression that no one writes by hand.
    pub fn new(source: &str, specials: Vec<(String, String)>, clock: Clock) -> Result<Self, TemplateError> {
        let mut env = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        env.set_syntax(syntax.expect("the delimiters are Jinja's own"));
        env.set_undefined_behavior(UndefinedBehavior::Lenient);
        env.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        env.set_fuel(Some(FUEL));
        env.set_unknown_method_callback(|state, value, method, args| {
            if method == "format" {
                bounds::widths(value.as_str().unwrap_or_default())?;
            }
            minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
        });
        env.set_formatter(write_value);
        env.add_filter("tojson", json::tojson);
        env.add_filter("safe", |text: String| format!("{}{text}{}", SAFE[0], SAFE[1]));
        for (name, inner) in GENERATORS {
            env.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
                let items = state.apply_filter(inner, &args.into_values())?.try_iter()?.collect::<Vec<_>>();
                Ok::<_, minijinja::Error>(Value::make_one_shot_iterator(items.into_iter()))
            });
        }
        env.add_filter("__map", filters::map);
        env.add_filter("__select", filters::select);
        env.add_filter("__reject", filters::reject);
        env.add_filter("__selectattr", filters::selectattr);
        env.add_filter("__rejectattr", filters::rejectattr);
        env.add_filter("__format", filters::format);
        env.add_filter("format", |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            bounds::widths(args.first().and_then(Value::as_str).unwrap_or_default())?;
            state.apply_filter("__format", &args)
        });
        env.add_filter("__indent", filters::indent);
        env.add_filter("indent", |state: &mut State<'_, '_>, args: Rest<ValueOrKwargs>| {
            let args = args.into_values();
            for arg in args.iter().skip(1) {
                let named = if arg.is_kwargs() { arg.get_attr("width")? } else { arg.clone() };
                bounds::width(&named)?;
            }
            state.apply_filter("__indent", &args)
        });
        env.add_filter(GENERATION_FILTER, mark_generation);
        env.add_function("raise_exception", |message: String| -> Result<Value, minijinja::Error> {
            Err(minijinja::Error::new(ErrorKind::InvalidOperation, format!("{RAISED}{message}")))
        });
        env.add_function(ITERABLE, |value: Value| -> Result<Value, minijinja::Error> {
            match value.kind() {
                ValueKind::None => Err(minijinja::Error::new(ErrorKind::InvalidOperation, "none is not iterable")),
                _ => Ok(value),
            }
        });
        env.add_function(KEPT, |value: Value| bounds::kept(value, false));
        env.add_function(KEPT_ATTRIBUTE, |value: Value| bounds::kept(value, true));
        env.add_function("strftime_now", move |format: &str| clock.strftime(format));
        bounds::check_source(source)?;
        let (source, generation) = rewrite::rewrite_tags(source);
        env.add_template_owned("chat", source).map_err(|e| classify(&e))?;
        Ok(ChatTemplate { env, specials, generation })
    }

    /// Whether the template marks the assistant's text with `{% generation %}`.
    pub fn marks_generation(&self) -> bool {
        self.generation
    }

    /// The conversation as text.
    ///
    /// # Errors
    /// `Raised` when the template refuses the conversation, `Type` for an operation on a wrong or undefined value,
    /// `Limit` when it runs too long or writes too much.
    pub fn render(&self, input: RenderInput<'_>) -> Result<String, TemplateError> {
        self.run(input, false)
    }

    /// The conversation as text, and the byte ranges of it that `{% generation %}` blocks wrote, in order.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_with_ranges(&self, input: RenderInput<'_>) -> Result<(String, Vec<Range<usize>>), TemplateError> {
        take_marks(&self.run(input, true)?)
    }

    fn run(&self, input: RenderInput<'_>, marking: bool) -> Result<String, TemplateError> {
        let mut variables: Vec<(&str, Value)> = Vec::new();
        variables.extend(self.specials.iter().map(|(k, v)| (k.as_str(), Value::from(v.as_str()))));
        for (name, value) in input.extra.into_iter().flatten() {
            variables.push((name, to_value(value)?));
        }
        let messages = input.messages.iter().map(message_value).collect::<Result<Vec<_>, _>>()?;
        let optional = |json: Option<&Json>| json.map_or(Ok(Value::from(())), to_value);
        variables.extend([
            ("messages", Value::from(messages)),
            ("tools", optional(input.tools)?),
            ("documents", optional(input.documents)?),
            ("add_generation_prompt", Value::from(input.add_generation_prompt)),
            (MARKING, Value::from(marking)),
        ]);
        let context = Value::from_pairs(variables);
        let template = self.env.get_template("chat").map_err(|e| classify(&e))?;
        let mut out = Capped(Vec::new());
        template.render_captured_to(context, &mut out).map_err(|e| classify(&e))?;
        Ok(String::from_utf8(out.0).expect("Jinja writes UTF-8"))
    }
}

/// A buffer that refuses to grow past [`OUTPUT_CAP`].
struct Capped(Vec<u8>);

impl std::io::Write for Capped {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        if self.0.len() + bytes.len() > OUTPUT_CAP {
            return Err(std::io::Error::other(format!("more than {} MiB of output", OUTPUT_CAP >> 20)));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A turn as the template sees it: reasoning is found under each of its three customary names.
fn message_value(message: &Json) -> Result<Value, TemplateError> {
    let reasoning = ["reasoning_content", "thinking", "reasoning"]
        .iter()
        .find_map(|k| message.get(k).filter(|v| !v.is_null()))
        .cloned();
    match (message, reasoning) {
        (Json::Object(fields), Some(reasoning)) => {
            let mut fields = fields.clone();
            fields.entry("thinking").or_insert_with(|| reasoning.clone());
            fields.insert("reasoning_content".into(), reasoning);
            to_value(&Json::Object(fields))
        }
        _ => to_value(message),
    }
}

/// JSON as the engine's own values, key order kept. Text that holds one of our brackets is refused.
fn to_value(json: &Json) -> Result<Value, TemplateError> {
    Ok(match json {
        Json::Null => Value::from(()),
        Json::Bool(b) => Value::from(*b),
        Json::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => Value::from(i),
            (None, Some(u)) => Value::from(u),
            (None, None) => Value::from(n.as_f64()),
        },
        // 0xEF opens every noncharacter of ours in UTF-8; looking for one byte is much cheaper than for four characters.
        Json::String(s) if s.as_bytes().contains(&0xef) && s.contains(|c| MARKS.contains(&c) || SAFE.contains(&c)) => {
            let reason = "a message holds one of the noncharacters U+FDD0 to U+FDD3; remove it".to_owned();
            return Err(TemplateError { kind: TemplateErrorKind::Type, line: 0, reason });
        }
        Json::String(s) => Value::from(s.as_str()),
        Json::Array(items) => Value::from(items.iter().map(to_value).collect::<Result<Vec<_>, _>>()?),
        Json::Object(fields) => {
            let pairs = fields.iter().map(|(k, v)| Ok((k.as_str(), to_value(v)?)));
            Value::from_pairs(pairs.collect::<Result<Vec<_>, TemplateError>>()?)
        }
    })
}

/// Writes one `{{ expression }}`.
///
/// Jinja's `safe` gives a string type that HTML-escapes whatever it is joined with, even where nothing else escapes;
/// published templates were trained with that, so it is part of their meaning.
fn write_value(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), minijinja::Error> {
    let Some(text) = value.as_str().filter(|s| s.contains(SAFE[0])) else {
        return minijinja::escape_formatter(out, state, value);
    };
    let mut inside = false;
    for piece in text.split(SAFE) {
        match inside {
            true => out.write_str(piece)?,
            false => piece.chars().try_for_each(|c| match c {
                '&' => out.write_str("&amp;"),
                '<' => out.write_str("&lt;"),
                '>' => out.write_str("&gt;"),
                '\'' => out.write_str("&#39;"),
                '"' => out.write_str("&#34;"),
                c => out.write_char(c),
            })?,
        }
        inside = !inside;
    }
    Ok(())
}

/// Sorts the engine's errors into what a template author can act on.
fn classify(error: &minijinja::Error) -> TemplateError {
    let line = error.line().unwrap_or(0);
    let detail = error.detail().unwrap_or_default();
    let new = |kind, reason: String| TemplateError { kind, line, reason };
    if let Some(message) = detail.strip_prefix(RAISED) {
        return new(TemplateErrorKind::Raised, message.to_owned());
    }
    if let Some(reason) = detail.strip_prefix(BOUND) {
        return new(TemplateErrorKind::Limit, reason.to_owned());
    }
    let text = match detail {
        "" => error.kind().to_string(),
        detail => format!("{}: {detail}", error.kind()),
    };
    match error.kind() {
        ErrorKind::SyntaxError => new(TemplateErrorKind::Syntax, text),
        ErrorKind::OutOfFuel => new(TemplateErrorKind::Limit, format!("more than {FUEL} instructions")),
        ErrorKind::WriteFailure => {
            new(TemplateErrorKind::Limit, format!("more than {} MiB of output", OUTPUT_CAP >> 20))
        }
        _ => new(TemplateErrorKind::Type, text),
    }
}

/// The body of a `{% generation %}` block, bracketed when ranges are wanted.
fn mark_generation(state: &mut State<'_, '_>, body: &str) -> String {
    let marking = state.lookup(MARKING).is_some_and(|v| v.is_true());
    if marking { format!("{}{body}{}", MARKS[0], MARKS[1]) } else { body.to_owned() }
}

/// Removes the brackets and returns what they enclosed.
fn take_marks(text: &str) -> Result<(String, Vec<Range<usize>>), TemplateError> {
    let (mut out, mut ranges, mut open) = (String::with_capacity(text.len()), Vec::new(), None);
    for piece in text.split_inclusive(MARKS) {
        let mark = piece.chars().next_back().filter(|c| MARKS.contains(c));
        out.push_str(mark.map_or(piece, |m| &piece[..piece.len() - m.len_utf8()]));
        match (mark, open) {
            (None, _) => {}
            (Some(m), None) if m == MARKS[0] => open = Some(out.len()),
            (Some(m), Some(start)) if m == MARKS[1] => {
                ranges.push(start..out.len());
                open = None;
            }
            _ => {
                let reason =
                    "generation blocks are nested, or a message holds the noncharacter U+FDD0 or U+FDD1".into();
                return Err(TemplateError { kind: TemplateErrorKind::Type, line: 0, reason });
            }
        }
    }
    Ok((out, ranges))
}
