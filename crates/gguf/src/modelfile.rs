//! A Modelfile for Ollama beside the GGUF file: where the model is, its template, where answers end.

use data::{RenderInput, Tokenizer};
use serde_json::{Value, json};
use std::fmt::Write;

/// Templates in Ollama's own language, each with a conversation as it must look: tried in turn against the model's.
const TEMPLATES: [(&str, &str, &str); 2] = [
    (
        "<|im_start|>user\nU1<|im_end|>\n<|im_start|>assistant\nA1<|im_end|>\n<|im_start|>user\nU2<|im_end|>\n<|im_start|>assistant\n",
        "{{- range .Messages }}<|im_start|>{{ .Role }}\n{{ .Content }}<|im_end|>\n{{ end }}<|im_start|>assistant\n",
        "<|im_start|>system\n%<|im_end|>\n",
    ),
    (
        "<|start_header_id|>user<|end_header_id|>\n\nU1<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\nA1<|eot_id|>\
         <|start_header_id|>user<|end_header_id|>\n\nU2<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "{{- range .Messages }}<|start_header_id|>{{ .Role }}<|end_header_id|>\n\n{{ .Content }}<|eot_id|>{{ end }}\
         <|start_header_id|>assistant<|end_header_id|>\n\n",
        "<|start_header_id|>system<|end_header_id|>\n\n%<|eot_id|>",
    ),
];

/// The Modelfile's text; `defaults` is the model's generation_config.json.
pub(crate) fn text(file: &str, tokenizer: &Tokenizer, stop: &[u32], defaults: &Value) -> String {
    let mut out = format!("FROM ./{file}\n");
    match template(tokenizer) {
        Some((template, system)) => {
            let _ = writeln!(out, "TEMPLATE \"\"\"{template}\"\"\"");
            if !system.is_empty() {
                let _ = writeln!(out, "SYSTEM \"\"\"{system}\"\"\"");
            }
        }
        None => out.push_str("# The chat template, if any, is the one in the file.\n"),
    }
    let stops = stop.iter().filter_map(|id| tokenizer.id_to_token(*id)).filter(|token| !token.contains(['"', '\n']));
    stops.for_each(|token| {
        let _ = writeln!(out, "PARAMETER stop \"{token}\"");
    });
    for (key, name) in [("temperature", "temperature"), ("top_p", "top_p"), ("top_k", "top_k")] {
        if let Some(value) = defaults[key].as_f64().filter(|_| defaults["do_sample"] == true) {
            let _ = writeln!(out, "PARAMETER {name} {value}");
        }
    }
    out
}

/// The template that renders a conversation as the model's own does, and the system's turn that it adds by itself.
fn template(tokenizer: &Tokenizer) -> Option<(&'static str, String)> {
    let turn = |role: &str, content: &str| json!({"role": role, "content": content});
    let messages = [turn("user", "U1"), turn("assistant", "A1"), turn("user", "U2")];
    let input = RenderInput { messages: &messages, add_generation_prompt: true, ..Default::default() };
    let rendered = tokenizer.template().ok()?.render(input).ok()?;
    // Ollama adds the beginning of a text by itself.
    let rendered = tokenizer.special("bos_token").and_then(|bos| rendered.strip_prefix(bos)).unwrap_or(&rendered);
    TEMPLATES.iter().find_map(|(conversation, template, system)| {
        let before = rendered.strip_suffix(conversation)?;
        let (start, end) = system.split_once('%')?;
        let added = before.strip_prefix(start).and_then(|rest| rest.strip_suffix(end));
        match (before.is_empty(), added) {
            (true, _) => Some((*template, String::new())),
            (false, Some(system)) if !system.contains("\"\"\"") && !system.contains(end) => {
                Some((*template, system.to_owned()))
            }
            _ => None,
        }
    })
}
