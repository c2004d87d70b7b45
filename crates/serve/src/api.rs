//! What is asked: the bodies of `chat/completions` and `completions`, checked key by key.

use data::{RenderInput, Tokenizer};
use infer::{Defaults, Sampling};
use serde_json::{Map, Value, json};

/// Answers to one prompt at most.
const CHOICES: u64 = 16;
/// Log-probabilities at a token at most, as in OpenAI's interface.
const TOP: u64 = 20;
/// Prompts of one request at most.
const PROMPTS: usize = 64;

/// A request that cannot be served, with its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// Of HTTP.
    pub status: u16,
    /// What was expected, found, and what to do.
    pub message: String,
    /// The key of the body that is wrong.
    pub param: Option<&'static str>,
}

impl Refusal {
    pub(crate) fn new(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), param: None }
    }

    fn of(param: &'static str, expected: &str, found: &Value) -> Refusal {
        let mut found = found.to_string();
        if found.len() > 60 {
            found = format!("{} ..", found.chars().take(57).collect::<String>());
        }
        Refusal { status: 400, message: format!("{param}: expected {expected}, found {found}"), param: Some(param) }
    }

    /// As OpenAI's interface has errors.
    pub(crate) fn body(&self) -> String {
        let kind = match self.status {
            401 | 403 => "authentication_error",
            429 => "rate_limit_error",
            500.. => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.param, "code": null}}).to_string()
    }
}

/// What is asked for, in tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Ask {
    /// Whether it is a conversation.
    pub chat: bool,
    /// Prompts, one or several.
    pub prompts: Vec<Vec<u32>>,
    /// Answers to each.
    pub choices: u64,
    /// Tokens of an answer at most; `None`: not said.
    pub max_tokens: Option<usize>,
    /// How they are drawn; choice `i` draws with the seed plus `i`.
    pub sampling: Sampling,
    /// Texts that end an answer.
    pub stop: Vec<String>,
    /// Whether log-probabilities are wanted, and of how many tokens.
    pub logprobs: Option<usize>,
    /// Whether the answer comes in events.
    pub stream: bool,
    /// Whether the last event says how many tokens there were.
    pub usage: bool,
}

impl Ask {
    /// Reads the body of a request. `seed` is taken where it names none.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(
        body: &[u8],
        chat: bool,
        tokenizer: &Tokenizer,
        defaults: &Defaults,
        seed: u64,
    ) -> Result<Ask, Refusal> {
        let body: Value = serde_json::from_slice(body)
            .map_err(|e| Refusal::new(400, format!("the body is not JSON: {e}; send an object")))?;
        let Value::Object(body) = body else { return Err(Refusal::of("body", "an object", &body)) };
        unsupported(&body)?;
        let prompts = if chat { vec![conversation(&body, tokenizer)?] } else { prompts(&body, tokenizer)? };
        let logprobs = if chat {
            let top = integer(&body, "top_logprobs", TOP)?;
            flag(&body, "logprobs")?.then_some(top.unwrap_or(0))
        } else {
            integer(&body, "logprobs", TOP)?
        };
        let max_tokens = match integer(&body, "max_completion_tokens", u64::from(u32::MAX))? {
            None => integer(&body, "max_tokens", u64::from(u32::MAX))?,
            some => some,
        };
        let model = defaults.sampling;
        let asked = ["top_p", "top_k", "min_p"].iter().any(|key| body.get(*key).is_some_and(|v| !v.is_null()));
        let unsaid = if asked && model.temperature == 0.0 { 1.0 } else { model.temperature };
        let sampling = Sampling {
            temperature: number(&body, "temperature", 0.0..=100.0)?.unwrap_or(unsaid),
            top_p: number(&body, "top_p", f64::MIN_POSITIVE..=1.0)?.unwrap_or(model.top_p),
            top_k: integer(&body, "top_k", u64::from(u32::MAX))?.map_or(model.top_k, |k| k as usize),
            min_p: number(&body, "min_p", 0.0..=1.0)?.unwrap_or(model.min_p),
            repetition_penalty: number(&body, "repetition_penalty", f64::MIN_POSITIVE..=100.0)?
                .unwrap_or(model.repetition_penalty),
            seed: integer(&body, "seed", u64::MAX)?.unwrap_or(seed),
        };
        let choices = integer(&body, "n", CHOICES)?.unwrap_or(1);
        if choices == 0 {
            return Err(Refusal::of("n", "at least 1", &json!(0)));
        }
        let options = body.get("stream_options").unwrap_or(&Value::Null);
        Ok(Ask {
            chat,
            prompts,
            choices,
            max_tokens: max_tokens.map(|n| n as usize),
            sampling,
            stop: stop(&body)?,
            logprobs: logprobs.map(|n| n as usize),
            stream: flag(&body, "stream")?,
            usage: options["include_usage"] == true,
        })
    }
}

fn number(
    body: &Map<String, Value>,
    key: &'static str,
    range: std::ops::RangeInclusive<f64>,
) -> Result<Option<f64>, Refusal> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_f64().filter(|x| range.contains(x)) {
            Some(x) => Ok(Some(x)),
            None => {
                let least = if *range.start() > 0.0 { "above 0".to_owned() } else { format!("from {}", range.start()) };
                Err(Refusal::of(key, &format!("a number {least} to {}", range.end()), value))
            }
        },
    }
}

fn integer(body: &Map<String, Value>, key: &'static str, most: u64) -> Result<Option<u64>, Refusal> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_u64().filter(|n| *n <= most) {
            Some(n) => Ok(Some(n)),
            None => Err(Refusal::of(key, &format!("a whole number from 0 to {most}"), value)),
        },
    }
}

fn flag(body: &Map<String, Value>, key: &'static str) -> Result<bool, Refusal> {
    match body.get(key) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(on)) => Ok(*on),
        Some(value) => Err(Refusal::of(key, "true or false", value)),
    }
}

fn stop(body: &Map<String, Value>) -> Result<Vec<String>, Refusal> {
    let bad = |value: &Value| Refusal::of("stop", "a text or a list of up to 16 texts, none of them empty", value);
    let texts = match body.get("stop") {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(list)) => {
            let texts: Option<Vec<String>> = list.iter().map(|text| text.as_str().map(str::to_owned)).collect();
            texts.ok_or_else(|| bad(&body["stop"]))?
        }
        Some(value) => return Err(bad(value)),
    };
    if texts.len() > 16 || texts.iter().any(String::is_empty) {
        return Err(bad(&body["stop"]));
    }
    Ok(texts)
}

/// Keys that would change the answer and are not understood here.
fn unsupported(body: &Map<String, Value>) -> Result<(), Refusal> {
    const KEYS: [(&str, &str); 7] = [
        ("presence_penalty", "repetition_penalty does something like it"),
        ("frequency_penalty", "repetition_penalty does something like it"),
        ("logit_bias", "leave it out"),
        ("suffix", "leave it out"),
        ("echo", "leave it out"),
        ("best_of", "use n"),
        ("functions", "use tools"),
    ];
    for (key, instead) in KEYS {
        let empty = match body.get(key) {
            None | Some(Value::Null | Value::Bool(false)) => true,
            Some(Value::Number(n)) => n.as_f64() == Some(0.0) || (key == "best_of" && n.as_u64() == Some(1)),
            Some(Value::Object(map)) => map.is_empty(),
            Some(Value::String(text)) => text.is_empty(),
            Some(_) => false,
        };
        if !empty {
            let message = format!("{key} is not supported; {instead}");
            return Err(Refusal { status: 400, message, param: Some(key) });
        }
    }
    let format = body.get("response_format").map_or(&Value::Null, |format| &format["type"]);
    match format {
        Value::Null => Ok(()),
        text if text == "text" => Ok(()),
        other => Err(Refusal::of("response_format", "text", other)),
    }
}

fn conversation(body: &Map<String, Value>, tokenizer: &Tokenizer) -> Result<Vec<u32>, Refusal> {
    const EXPECTED: &str = "a list of messages, each with `role` and `content`";
    let Some(Value::Array(list)) = body.get("messages") else {
        return Err(Refusal::of("messages", EXPECTED, body.get("messages").unwrap_or(&Value::Null)));
    };
    if list.is_empty() {
        return Err(Refusal::of("messages", EXPECTED, &body["messages"]));
    }
    let mut messages = list.clone();
    for message in &mut messages {
        if !message["role"].is_string() {
            return Err(Refusal::of("messages", EXPECTED, message));
        }
        // Parts of text are one text.
        if let Value::Array(parts) = &message["content"] {
            let texts: Option<String> =
                parts.iter().map(|part| part["text"].as_str().filter(|_| part["type"] == "text")).collect();
            let Some(text) = texts else { return Err(Refusal::of("messages", "content of text only", message)) };
            message["content"] = text.into();
        }
    }
    let tools = body.get("tools").filter(|tools| !tools.is_null());
    let input = RenderInput { messages: &messages, tools, add_generation_prompt: true, ..Default::default() };
    let text = tokenizer.render(input).map_err(|e| Refusal::new(400, format!("messages: {e}")))?;
    tokenizer.encode(&text, false).map_err(|e| Refusal::new(400, format!("messages: {e}")))
}

fn prompts(body: &Map<String, Value>, tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>, Refusal> {
    let value = body.get("prompt").unwrap_or(&Value::Null);
    let bad = || Refusal::of("prompt", "a text, token ids, or a list of up to 64 of these", value);
    let encode = |text: &str| -> Result<Vec<u32>, Refusal> {
        let tokens = tokenizer.encode(text, true).map_err(|e| Refusal::new(400, format!("prompt: {e}")))?;
        Ok(if tokens.is_empty() { tokenizer.bos_id().into_iter().collect() } else { tokens })
    };
    let ids = |list: &[Value]| -> Option<Vec<u32>> {
        list.iter().map(|id| id.as_u64().and_then(|id| u32::try_from(id).ok())).collect()
    };
    let one = |value: &Value| match value {
        Value::String(text) => encode(text),
        Value::Array(list) => ids(list).ok_or_else(bad),
        _ => Err(bad()),
    };
    match value {
        Value::String(text) => Ok(vec![encode(text)?]),
        Value::Array(list) if list.first().is_some_and(Value::is_u64) => Ok(vec![ids(list).ok_or_else(bad)?]),
        Value::Array(list) if !list.is_empty() && list.len() <= PROMPTS => list.iter().map(one).collect(),
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::Clock;
    use std::path::Path;

    fn read(chat: bool, body: Value) -> Result<Ask, Refusal> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/qwen2");
        let tokenizer = Tokenizer::load(&folder, Clock::at(0)).unwrap();
        let defaults = Defaults { sampling: Sampling::GREEDY, max_new_tokens: None };
        Ask::read(body.to_string().as_bytes(), chat, &tokenizer, &defaults, 7)
    }

    #[test]
    fn a_conversation_and_its_parts_of_text_are_one() {
        let plain =
            read(true, json!({"messages": [{"role": "user", "content": "ab"}], "top_logprobs": 3, "logprobs": true}))
                .unwrap();
        let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
        let parted =
            read(true, json!({"messages": [{"role": "user", "content": parts}], "n": 2, "stop": "x"})).unwrap();
        assert_eq!(plain.prompts, parted.prompts);
        assert_eq!((plain.logprobs, plain.sampling.seed, plain.choices), (Some(3), 7, 1));
        assert_eq!((parted.logprobs, parted.choices, parted.stop), (None, 2, vec!["x".to_owned()]));
    }

    #[test]
    fn prompts_are_texts_or_tokens() {
        let of = |prompt: Value| read(false, json!({"prompt": prompt})).map(|ask| ask.prompts);
        assert_eq!(of(json!([1, 2])).unwrap(), [[1, 2]]);
        assert_eq!(of(json!([[1, 2], [3, 4]])).unwrap(), [[1, 2], [3, 4]]);
        assert_eq!(of(json!(["a", "a"])).unwrap().len(), 2);
        for bad in [json!(null), json!([]), json!([1, -2]), json!([{}]), json!(vec!["a"; 65])] {
            assert_eq!(of(bad).unwrap_err().param, Some("prompt"));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |key: &str, value: Value| {
            let mut body = json!({"messages": [{"role": "user", "content": "a"}]});
            body[key] = value;
            read(true, body).unwrap_err()
        };
        for (key, value) in [
            ("temperature", json!(-1)),
            ("temperature", json!("hot")),
            ("top_p", json!(0)),
            ("n", json!(0)),
            ("n", json!(1000)),
            ("stop", json!([""])),
            ("stop", json!([1])),
            ("stream", json!("yes")),
            ("seed", json!(-1)),
            ("max_tokens", json!(1.5)),
            ("messages", json!([])),
            ("messages", json!([{"content": "x"}])),
            ("presence_penalty", json!(0.5)),
            ("response_format", json!({"type": "json_object"})),
        ] {
            let refusal = wrong(key, value);
            assert_eq!((refusal.status, refusal.param), (400, Some(key)), "{refusal:?}");
        }
    }
}
