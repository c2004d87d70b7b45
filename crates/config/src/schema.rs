//! The JSON Schema of a configuration, made from the table of keys, so that editors complete and check it.

use crate::table::{self, Entry, Status};
use crate::value::{Choice, Kind};
use serde_json::{Map, Value, json};

/// The schema: draft 7, which the language servers of editors read.
pub fn schema() -> Value {
    let mut properties: Map<String, Value> =
        table::entries().map(|entry| (entry.key.to_owned(), property(entry))).collect();
    let stage: Map<String, Value> =
        properties.keys().map(|key| (key.clone(), json!({"$ref": format!("#/properties/{key}")}))).collect();
    properties.insert(
        "stages".into(),
        json!({
            "description": "data sets trained on one after the other in one run folder, each with what is different in it",
            "type": "array",
            "items": {"type": "object", "additionalProperties": false, "properties": stage},
        }),
    );
    json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "prospect: the configuration of a run",
        "type": "object",
        "additionalProperties": false,
        "properties": properties,
    })
}

fn property(entry: &Entry) -> Value {
    let mut out = type_of(&entry.kind);
    let said = match entry.status {
        Status::Works(..) | Status::Mapping => entry.doc.to_owned(),
        Status::Spelling(of) => format!("another spelling of `{of}`: {}", entry.doc),
        Status::NoEffect(reason) => format!("no effect ({reason}): {}", entry.doc),
        Status::Refused { reason, .. } => format!("not offered ({reason}): {}", entry.doc),
    };
    let fields = out.as_object_mut().expect("a schema is an object");
    fields.insert("description".into(), json!(said));
    if let (Status::Works(..), Ok(default)) = (entry.status, serde_json::from_str::<Value>(entry.default)) {
        fields.insert("default".into(), default);
    } else if matches!(entry.status, Status::Works(..)) && !entry.default.is_empty() {
        fields.insert("default".into(), json!(entry.default));
    }
    if matches!(entry.status, Status::NoEffect(_) | Status::Refused { .. }) {
        fields.insert("deprecationMessage".into(), json!(said));
    }
    out
}

/// `null` leaves every key unset; numbers may be written as YAML 1.1 takes them for text.
fn type_of(kind: &Kind) -> Value {
    let names = |choices: &[Choice]| -> Vec<Value> {
        let taken = choices.iter().filter(|choice| !matches!(choice, Choice::Not(..)));
        taken.map(|choice| json!(choice.name())).collect()
    };
    let either = |types: &[&str]| json!({"type": types.iter().chain(&["null"]).collect::<Vec<_>>()});
    match kind {
        Kind::Bool => either(&["boolean"]),
        Kind::Int(least) if *least == i64::MIN => either(&["integer"]),
        Kind::Int(least) => {
            json!({"anyOf": [{"type": "integer", "minimum": least}, {"type": "null"}]})
        }
        Kind::Float(_) => either(&["number", "string"]),
        Kind::FloatOr(..) => either(&["number", "string"]),
        Kind::Bytes => either(&["integer", "string"]),
        Kind::Text => either(&["string", "number", "boolean"]),
        Kind::BoolOrText => either(&["boolean", "string"]),
        Kind::Texts | Kind::Names => {
            json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}, {"type": "null"}]})
        }
        Kind::Numbers(_) => {
            json!({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "number"}}, {"type": "null"}]})
        }
        Kind::Pairs(_) => {
            json!({"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": ["string", "null"]}]})
        }
        // `no` without quotes is YAML 1.1's false.
        Kind::Choice(choices) => {
            let mut all = names(choices);
            if all.contains(&json!("no")) || all.contains(&json!("false")) {
                all.push(json!(false));
            }
            if all.contains(&json!("true")) {
                all.push(json!(true));
            }
            all.push(Value::Null);
            json!({"enum": all})
        }
        Kind::Choices(choices) => {
            let one = json!({"enum": names(choices)});
            json!({"anyOf": [one, {"type": "array", "items": one}, {"type": "null"}]})
        }
        Kind::BoolOr(others) => {
            let words: Vec<Value> = others.iter().map(|word| json!(word)).collect();
            json!({"anyOf": [{"type": ["boolean", "null"]}, {"enum": words}]})
        }
        Kind::Map(inner) => {
            let properties: Map<String, Value> = inner
                .iter()
                .map(|entry| (entry.key.rsplit('.').next().unwrap_or(entry.key).to_owned(), property(entry)))
                .collect();
            json!({"type": ["object", "null", "string"], "additionalProperties": false, "properties": properties})
        }
        Kind::Anything => json!({}),
    }
}
