//! The tokenizer as llama.cpp keeps it: tokens, their kinds, merges or scores, special ids.

use crate::Error;
use crate::value::{Metadata, Value};
use data::Tokenizer;
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Kinds of tokens.
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// Pre-tokenizers that llama.cpp knows, by the expression that splits texts.
const SPLITS: [(&str, &str); 3] = [
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "qwen2",
    ),
    (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "llama-bpe",
    ),
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        "tekken",
    ),
];

/// A tokenizer in llama.cpp's form.
pub(crate) struct Vocab {
    pub(crate) metadata: Metadata,
    /// Things worth saying to the user.
    pub(crate) notes: Vec<String>,
}

/// Reads `tokenizer.json` of a model folder; `size` is the number of rows of the model's embedding.
pub(crate) fn read(folder: &Path, tokenizer: &Tokenizer, size: usize, stop: &[u32]) -> Result<Vocab, Error> {
    let path = folder.join("tokenizer.json");
    let bytes = data::tokenizer_json(folder)?;
    let bad = |reason: String| Error::Tokenizer { path: path.clone(), reason };
    let json: Json = serde_json::from_slice(&bytes).map_err(|e| bad(format!("not JSON: {e}")))?;
    let model = &json["model"];
    // Files of older versions leave the type of a BPE out.
    let kind = model["type"].as_str().unwrap_or(if model["merges"].is_array() { "BPE" } else { "?" });
    if kind != "BPE" {
        return Err(bad(format!(
            "expected a BPE, found {kind}; llama.cpp's files for other tokenizers are not written"
        )));
    }
    let reader = Reader { path, json: &json, model };
    let byte_level = reader.any("pre_tokenizer", "ByteLevel") || reader.any("decoder", "ByteLevel");
    let sentence_piece = model["byte_fallback"].as_bool() == Some(true);
    let mut vocab = Vocab { metadata: Metadata::new(), notes: Vec::new() };
    let merges = reader.merges()?;
    match (byte_level, sentence_piece) {
        (true, _) => reader.byte_level(size, &merges, &mut vocab)?,
        (false, true) => reader.sentence_piece(size, &merges, &mut vocab)?,
        (false, false) => {
            let reason = "expected a byte-level BPE or one with byte fallback, found neither".to_owned();
            return Err(Error::Tokenizer { path: reader.path, reason });
        }
    }
    special(tokenizer, stop, &mut vocab)?;
    Ok(vocab)
}

struct Reader<'a> {
    path: PathBuf,
    json: &'a Json,
    model: &'a Json,
}

/// A token's text and kind.
type Tokens = (Vec<String>, Vec<i32>);

impl<'a> Reader<'a> {
    fn bad(&self, reason: String) -> Error {
        Error::Tokenizer { path: self.path.clone(), reason }
    }

    /// The parts of a stage (`pre_tokenizer`, `normalizer`, ...), itself or those of a sequence.
    fn parts(&self, stage: &str) -> Vec<&Json> {
        let stage = &self.json[stage];
        let lists = ["pretokenizers", "normalizers", "decoders", "processors"];
        let inner = lists.iter().find_map(|list| stage[*list].as_array());
        inner.map_or_else(|| vec![stage], |list| list.iter().collect())
    }

    fn any(&self, stage: &str, kind: &str) -> bool {
        self.parts(stage).iter().any(|part| part["type"] == kind)
    }

    /// Merges as pairs; files have them as pairs or as texts with a blank between.
    fn merges(&self) -> Result<Vec<(&'a str, &'a str)>, Error> {
        let list = self.model["merges"].as_array().ok_or_else(|| self.bad("`merges`: expected a list".into()))?;
        let pair = |(i, merge): (usize, &'a Json)| {
            let found = match merge {
                Json::String(text) => text.split_once(' '),
                Json::Array(two) => match &two[..] {
                    [Json::String(a), Json::String(b)] => Some((a.as_str(), b.as_str())),
                    _ => None,
                },
                _ => None,
            };
            found.ok_or_else(|| self.bad(format!("`merges[{i}]`: expected two tokens, found {merge}")))
        };
        list.iter().enumerate().map(pair).collect()
    }

    /// Texts and kinds of all ids below `size`.
    fn tokens(&self, size: usize) -> Result<Tokens, Error> {
        let mut tokens: Vec<Option<(String, i32)>> = vec![None; size];
        let mut put = |id: u64, text: &str, kind: i32| -> Result<(), Error> {
            let slot = usize::try_from(id).ok().and_then(|id| tokens.get_mut(id));
            let slot = slot.ok_or_else(|| {
                self.bad(format!("token {text:?} has id {id}, the model's embedding has {size} rows (vocab_size)"))
            })?;
            *slot = Some((text.to_owned(), kind));
            Ok(())
        };
        let vocab = self.model["vocab"].as_object().ok_or_else(|| self.bad("`vocab`: expected an object".into()))?;
        for (text, id) in vocab {
            let id = id.as_u64().ok_or_else(|| self.bad(format!("`vocab`: {text:?}: expected an id, found {id}")))?;
            put(id, text, NORMAL)?;
        }
        for added in self.json["added_tokens"].as_array().map_or(&[][..], Vec::as_slice) {
            let (Some(id), Some(text)) = (added["id"].as_u64(), added["content"].as_str()) else {
                return Err(self.bad(format!("`added_tokens`: expected id and content, found {added}")));
            };
            put(id, text, if added["special"] == true { CONTROL } else { USER_DEFINED })?;
        }
        let named =
            |(id, token): (usize, Option<(String, i32)>)| token.unwrap_or_else(|| (format!("[PAD{id}]"), UNUSED));
        Ok(tokens.into_iter().enumerate().map(named).unzip())
    }

    fn byte_level(&self, size: usize, merges: &[(&str, &str)], vocab: &mut Vocab) -> Result<(), Error> {
        let (tokens, kinds) = self.tokens(size)?;
        // A blank divides the two parts of a merge, so one inside of a part is written as byte-level BPE writes blanks.
        let merge = |(a, b): &(&str, &str)| format!("{} {}", a.replace(' ', "\u{120}"), b.replace(' ', "\u{120}"));
        let pre = self.pre(vocab);
        vocab.metadata.extend([
            text("tokenizer.ggml.model", "gpt2"),
            text("tokenizer.ggml.pre", pre),
            ("tokenizer.ggml.tokens".to_owned(), Value::Texts(tokens)),
            ("tokenizer.ggml.token_type".to_owned(), Value::I32s(kinds)),
            ("tokenizer.ggml.merges".to_owned(), Value::Texts(merges.iter().map(merge).collect())),
        ]);
        Ok(())
    }

    /// llama.cpp's name for how texts are split before merging.
    fn pre(&self, vocab: &mut Vocab) -> &'static str {
        let parts = self.parts("pre_tokenizer");
        let expression = parts.iter().find_map(|part| part["pattern"]["Regex"].as_str());
        if let Some((_, name)) = SPLITS.iter().find(|(known, _)| Some(*known) == expression) {
            return name;
        }
        if expression.is_none() && parts.iter().any(|part| part["type"] == "ByteLevel" && part["use_regex"] != false) {
            return "gpt-2";
        }
        vocab.notes.push(
            "llama.cpp has no name for this tokenizer's pre-tokenizer; `default` is written, and some texts may be split \
             differently there"
                .into(),
        );
        "default"
    }

    fn sentence_piece(&self, size: usize, merges: &[(&str, &str)], vocab: &mut Vocab) -> Result<(), Error> {
        let (mut tokens, mut kinds) = self.tokens(size)?;
        // llama.cpp joins the neighbours whose token has the highest score: the merge that comes first.
        let mut ranks: BTreeMap<String, usize> = BTreeMap::new();
        for (rank, (a, b)) in merges.iter().enumerate() {
            ranks.entry(format!("{a}{b}")).or_insert(rank);
        }
        let unknown = self.model["unk_token"].as_str();
        let mut scores = Vec::with_capacity(size);
        for (text, kind) in tokens.iter_mut().zip(&mut kinds) {
            let hex = text.strip_prefix("<0x").and_then(|rest| rest.strip_suffix('>'));
            if hex.is_some_and(|hex| hex.len() == 2 && u8::from_str_radix(hex, 16).is_ok()) {
                *kind = BYTE;
            } else if Some(text.as_str()) == unknown {
                *kind = UNKNOWN;
            }
            let rank = ranks.get(text.as_str()).copied().unwrap_or(merges.len());
            scores.push(if *kind == NORMAL { -(rank as f32) } else { 0.0 });
        }
        let prepends = self.any("normalizer", "Prepend")
            || self.parts("pre_tokenizer").iter().any(|part| {
                part["type"] == "Metaspace" && (part["prepend_scheme"] != "never" && part["add_prefix_space"] != false)
            });
        vocab.metadata.extend([
            text("tokenizer.ggml.model", "llama"),
            text("tokenizer.ggml.pre", "default"),
            ("tokenizer.ggml.tokens".to_owned(), Value::Texts(tokens)),
            ("tokenizer.ggml.scores".to_owned(), Value::F32s(scores)),
            ("tokenizer.ggml.token_type".to_owned(), Value::I32s(kinds)),
            ("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(prepends)),
        ]);
        Ok(())
    }
}

fn text(key: &str, value: &str) -> (String, Value) {
    (key.to_owned(), Value::Text(value.to_owned()))
}

/// Special ids, and what the tokenizer puts around a text by itself.
fn special(tokenizer: &Tokenizer, stop: &[u32], vocab: &mut Vocab) -> Result<(), Error> {
    let mut id = |key: &str, id: Option<u32>| {
        vocab.metadata.extend(id.map(|id| (format!("tokenizer.ggml.{key}_token_id"), Value::U32(id))));
    };
    let unknown = tokenizer.special("unk_token").and_then(|token| tokenizer.token_to_id(token));
    let eos = tokenizer.eos_id().or(stop.first().copied());
    id("bos", tokenizer.bos_id());
    id("eos", eos);
    id("eot", stop.iter().copied().find(|id| Some(*id) != eos));
    id("unknown", unknown);
    id("padding", tokenizer.pad_id());
    let framed = tokenizer.encode("a", true)?;
    let plain = tokenizer.encode("a", false)?;
    let starts = framed.first() != plain.first() && framed.first().copied() == tokenizer.bos_id();
    let ends = framed.len() > plain.len() + usize::from(starts) && framed.last().copied() == tokenizer.eos_id();
    vocab.metadata.extend([
        ("tokenizer.ggml.add_bos_token".to_owned(), Value::Bool(starts)),
        ("tokenizer.ggml.add_eos_token".to_owned(), Value::Bool(ends)),
    ]);
    Ok(())
}
