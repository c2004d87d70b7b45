//! Special tokens that a tokenizer gets beside its own, as its files have them.

use std::path::Path;

use serde_json::{Map, Value as Json, json};

use crate::error::{Error, Result};
use crate::tokenizer::tokenizer_json;

/// A special token that a tokenizer did not have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Its id.
    pub id: u32,
    /// Its text.
    pub text: String,
}

impl NewToken {
    /// As `tokenizer.json` has it; `tokenizer_config.json` has the same by id.
    fn entry(&self) -> Map<String, Json> {
        let off = ["single_word", "lstrip", "rstrip", "normalized"].map(|name| (name.to_owned(), Json::from(false)));
        let content = ("content".to_owned(), self.text.clone().into());
        std::iter::once(content).chain(off).chain([("special".to_owned(), true.into())]).collect()
    }
}

/// Puts tokens into the tokenizer's files in `folder`, which were copied from `base`; its `tokenizer.json` is written even where
/// `base` has another file in its place.
///
/// # Errors
/// `Tokenizer` and `Io` naming the file that is malformed, cannot be read, or cannot be written.
pub fn write_tokens(base: &Path, folder: &Path, tokens: &[NewToken]) -> Result<()> {
    let path = folder.join("tokenizer.json");
    let mut file = object(&path, &tokenizer_json(base)?)?;
    let list = file.entry("added_tokens").or_insert_with(|| json!([]));
    let list = list.as_array_mut().ok_or_else(|| wrong(&path, "`added_tokens`: expected a list".to_owned()))?;
    for token in tokens {
        let mut entry: Map<String, Json> = [("id".to_owned(), token.id.into())].into_iter().collect();
        entry.extend(token.entry());
        list.push(entry.into());
    }
    put(&path, &Json::Object(file))?;
    change(&folder.join("tokenizer_config.json"), |config| {
        if let Some(Json::Object(decoder)) = config.get_mut("added_tokens_decoder") {
            decoder.extend(tokens.iter().map(|token| (token.id.to_string(), token.entry().into())));
        }
        // transformers 5 has one name for the list, older ones the other, and reads both.
        let name = if config.get("extra_special_tokens").is_some_and(Json::is_array) {
            "extra_special_tokens"
        } else {
            "additional_special_tokens"
        };
        list_specials(config, name, tokens);
    })?;
    let map = folder.join("special_tokens_map.json");
    if map.is_file() {
        change(&map, |config| list_specials(config, "additional_special_tokens", tokens))?;
    }
    let flat = folder.join("added_tokens.json");
    if flat.is_file() {
        change(&flat, |config| config.extend(tokens.iter().map(|token| (token.text.clone(), token.id.into()))))?;
    }
    Ok(())
}

fn list_specials(config: &mut Map<String, Json>, name: &str, tokens: &[NewToken]) {
    let list = config.entry(name).or_insert_with(|| json!([]));
    if !list.is_array() {
        *list = json!([]);
    }
    list.as_array_mut().into_iter().for_each(|list| list.extend(tokens.iter().map(|token| token.text.clone().into())));
}

fn change(path: &Path, with: impl FnOnce(&mut Map<String, Json>)) -> Result<()> {
    let text = match std::fs::read(path) {
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => b"{}".to_vec(),
        other => other.map_err(|source| Error::Io { path: path.to_owned(), source })?,
    };
    let mut config = object(path, &text)?;
    with(&mut config);
    put(path, &Json::Object(config))
}

fn object(path: &Path, text: &[u8]) -> Result<Map<String, Json>> {
    serde_json::from_slice(text).map_err(|e| wrong(path, format!("not a JSON object: {e}")))
}

fn put(path: &Path, json: &Json) -> Result<()> {
    std::fs::write(path, format!("{json:#}\n")).map_err(|source| Error::Io { path: path.to_owned(), source })
}

fn wrong(path: &Path, reason: String) -> Error {
    Error::Tokenizer { path: path.to_owned(), reason }
}
