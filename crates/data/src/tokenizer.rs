//! A Hugging Face tokenizer folder: token ids both ways, special tokens, and the chat template that belongs to it.

use std::ops::Range;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value as Json};
use tokenizers::AddedToken;

use crate::added::NewToken;
use crate::clock::Clock;
use crate::error::{Error, Result, TemplateError};
use crate::template::{ChatTemplate, RenderInput, named};
use crate::tiktoken;
use crate::words::Words;

/// A tokenizer with its special tokens and chat template.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// The quick way to ids, where there is one.
    words: Option<Words>,
    folder: PathBuf,
    specials: Vec<(String, String)>,
    /// `(add_bos, add_eos)` where the folder's configuration overrides the post-processor of `tokenizer.json`.
    framing: Option<(bool, bool)>,
    model_max_length: Option<usize>,
    template: Option<std::result::Result<ChatTemplate, TemplateError>>,
    added: Vec<NewToken>,
}

/// Special tokens that a template can name.
const SPECIAL_NAMES: [&str; 7] =
    ["bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"];

/// The files of a tokenizer, read as far as telling it from others needs. Parsing the vocabulary takes much longer: [`load`](Self::load).
#[derive(Debug)]
pub struct TokenizerFiles {
    folder: PathBuf,
    config: Map<String, Json>,
    clock: Clock,
    template: Option<String>,
    /// Whether the template was given instead of the folder's own.
    given: bool,
    /// A hash of the tokenizer's own files.
    identity: blake3::Hash,
    /// Special tokens that it is to have beside its own.
    more: Vec<String>,
}

impl TokenizerFiles {
    /// Looks at `tokenizer.json` (or `qwen.tiktoken`), `tokenizer_config.json`, `special_tokens_map.json` and `chat_template.jinja` of `folder`.
    ///
    /// `clock` answers the template's `strftime_now`; give the start of the run, so that a resumed run renders the same.
    ///
    /// # Errors
    /// `Tokenizer` naming the file when one is missing or malformed.
    pub fn open(folder: &Path, clock: Clock) -> Result<Self> {
        let path = path_of(folder)?;
        let config = read_object(&folder.join("tokenizer_config.json"))?;
        let template = template_source(folder, &config)?;
        let identity = identity(folder, &path)?;
        Ok(TokenizerFiles {
            folder: folder.to_owned(),
            config,
            clock,
            template,
            given: false,
            identity,
            more: Vec::new(),
        })
    }

    /// The same tokenizer with special tokens beside its own; those that it has already change nothing.
    pub fn with_tokens(self, more: &[String]) -> Self {
        TokenizerFiles { more: more.to_vec(), ..self }
    }

    /// Where it was found.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The same tokenizer with another chat template: one of [`named`], a Jinja file, or a folder whose tokenizer has one.
    ///
    /// # Errors
    /// `Tokenizer` when there is none at `path`.
    pub fn with_template(self, path: &Path) -> Result<Self> {
        Ok(TokenizerFiles { template: Some(template_at(path)?), given: true, ..self })
    }

    /// A hash of everything that tokens depend on: the tokenizer's files, the template, and the date if the template asks for it.
    pub fn fingerprint(&self) -> String {
        let template = template_identity(self.template.as_deref().unwrap_or_default(), self.clock);
        let more: String =
            self.more.iter().map(|token| format!(" {}", blake3::hash(token.as_bytes()).to_hex())).collect();
        format!("{}{}{more}", self.identity.to_hex(), template.to_hex())
    }

    /// The source of the template that [`with_template`](Self::with_template) gave, for those who write the tokenizer elsewhere.
    pub fn given_template(&self) -> Option<&str> {
        self.template.as_deref().filter(|_| self.given)
    }

    /// Reads the tokenizer.
    ///
    /// # Errors
    /// `Tokenizer` naming the file when one is malformed or names a token that does not exist.
    pub fn load(&self) -> Result<Tokenizer> {
        let (folder, config) = (&self.folder, &self.config);
        let (path, source) = source_of(folder)?;
        let bad = |path: &Path, reason: String| Error::Tokenizer { path: path.to_owned(), reason };
        let mut inner = tokenizers::Tokenizer::from_bytes(&source).map_err(|e| bad(&path, e.to_string()))?;
        drop(source);
        let fallback = |name: &str| {
            let of_file = tiktoken::SPECIALS.iter().find(|(special, _)| *special == name);
            of_file.filter(|_| path.ends_with(tiktoken::FILE)).map(|(_, token)| (*token).to_owned())
        };
        // Truncation and padding saved with a tokenizer are settings of the call that saved it.
        inner.with_truncation(None).map_err(|e| bad(&path, e.to_string()))?.with_padding(None);
        let config_path = folder.join("tokenizer_config.json");
        let map = read_object(&folder.join("special_tokens_map.json"))?;
        add_declared_tokens(&mut inner, config).map_err(|reason| bad(&config_path, reason))?;
        let added = add_tokens(&mut inner, &self.more).map_err(|reason| bad(&path, reason))?;
        let mut specials = Vec::new();
        for name in SPECIAL_NAMES {
            let token = config.get(name).and_then(token_text).or_else(|| map.get(name).and_then(token_text));
            if let Some(token) = token.or_else(|| fallback(name)) {
                if inner.token_to_id(&token).is_none() {
                    let reason = format!("`{name}`: expected a token of the vocabulary, found {token:?}");
                    return Err(bad(&config_path, reason));
                }
                specials.push((name.to_owned(), token));
            }
        }
        let flag = |name: &str| config.get(name).and_then(Json::as_bool);
        let framing = match (flag("add_bos_token"), flag("add_eos_token")) {
            (None, None) => None,
            (bos, eos) => Some((bos.unwrap_or(false), eos.unwrap_or(false))),
        };
        // "No limit" is written as 1e30.
        let limit = config.get("model_max_length").and_then(Json::as_f64).filter(|&n| (1.0..1e15).contains(&n));
        let template = self.template.as_deref().map(|source| ChatTemplate::new(source, specials.clone(), self.clock));
        let model_max_length = limit.map(|n| n as usize);
        let words = Words::of(&inner);
        Ok(Tokenizer { inner, words, folder: folder.clone(), specials, framing, model_max_length, template, added })
    }
}

impl Tokenizer {
    /// Reads the tokenizer of `folder`, with its own chat template: see [`TokenizerFiles`].
    ///
    /// # Errors
    /// As [`TokenizerFiles::open`] and [`TokenizerFiles::load`].
    pub fn load(folder: &Path, clock: Clock) -> Result<Self> {
        TokenizerFiles::open(folder, clock)?.load()
    }

    /// Token ids of `text`; `add_special` adds what the tokenizer adds by itself (BOS, for most that have one).
    ///
    /// # Errors
    /// `Tokenizer` when the vocabulary cannot express the text.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let framed = if add_special { self.framing } else { Some((false, false)) };
        let ids = match &self.words {
            Some(words) => words.encode(&self.inner, text, framed.is_none()),
            None => self.inner.encode_fast(text, framed.is_none()).map(|encoding| encoding.get_ids().to_vec()),
        };
        let ids = ids.map_err(|e| self.failed(&e.to_string()))?;
        let (bos, eos) = framed.unwrap_or_default();
        let bos = self.bos_id().filter(|_| bos);
        let eos = self.eos_id().filter(|_| eos);
        Ok(bos.into_iter().chain(ids).chain(eos).collect())
    }

    /// Token ids of `text` without added tokens, and the byte range of `text` that each stands for.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn encode_with_offsets(&self, text: &str) -> Result<(Vec<u32>, Vec<Range<usize>>)> {
        let encoding = self.inner.encode(text, false).map_err(|e| self.failed(&e.to_string()))?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok((encoding.get_ids().to_vec(), offsets))
    }

    /// The text of `ids`; `skip_special` leaves special tokens out.
    ///
    /// # Errors
    /// `Tokenizer` when the decoder refuses the ids.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.inner.decode(ids, skip_special).map_err(|e| self.failed(&e.to_string()))
    }

    /// The text of a special token, by its configuration name (`eos_token`).
    pub fn special(&self, name: &str) -> Option<&str> {
        self.specials.iter().find(|(n, _)| n == name).map(|(_, token)| token.as_str())
    }

    fn special_id(&self, name: &str) -> Option<u32> {
        self.special(name).and_then(|token| self.token_to_id(token))
    }

    /// Id of the beginning-of-sequence token.
    pub fn bos_id(&self) -> Option<u32> {
        self.special_id("bos_token")
    }

    /// Id of the end-of-sequence token.
    pub fn eos_id(&self) -> Option<u32> {
        self.special_id("eos_token")
    }

    /// Id of the padding token. Nothing here pads; generation code reports it.
    pub fn pad_id(&self) -> Option<u32> {
        self.special_id("pad_token")
    }

    /// The id of a token, given as it stands in the vocabulary.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// What [`TokenizerFiles::with_tokens`] added, in the order of the ids.
    pub fn added(&self) -> &[NewToken] {
        &self.added
    }

    /// The token of an id, as it stands in the vocabulary.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.inner.id_to_token(id)
    }

    /// Number of ids needed: one past the greatest, added tokens included. The model's embedding has at least as many rows.
    pub fn vocab_size(&self) -> usize {
        let added = self.inner.get_added_vocabulary().get_vocab().values().copied().max();
        let base = self.inner.get_vocab_size(false);
        added.map_or(base, |id| base.max(id as usize + 1))
    }

    /// The tokenizer's own limit on sequence length, if it states a real one.
    pub fn model_max_length(&self) -> Option<usize> {
        self.model_max_length
    }

    /// The chat template.
    ///
    /// # Errors
    /// `Tokenizer` when the folder has none, `Template` when it does not compile.
    pub fn template(&self) -> Result<&ChatTemplate> {
        match &self.template {
            Some(Ok(template)) => Ok(template),
            Some(Err(e)) => Err(Error::Template(e.clone())),
            None => Err(Error::Tokenizer {
                path: self.folder.clone(),
                reason: "no chat template: expected chat_template.jinja or `chat_template` in tokenizer_config.json; \
                         name one (`chat_template_path`, on a command line of `data` --template: a file, chatml, qwen, llama3, \
                         ...), or give data as plain text (`prompt` and `completion` strings, or `text`)"
                    .into(),
            }),
        }
    }

    /// Renders a conversation with the tokenizer's chat template.
    ///
    /// # Errors
    /// As [`template`](Self::template), and what [`ChatTemplate::render`] gives.
    pub fn render(&self, input: RenderInput<'_>) -> Result<String> {
        Ok(self.template()?.render(input)?)
    }

    fn failed(&self, reason: &str) -> Error {
        Error::Tokenizer { path: self.folder.join("tokenizer.json"), reason: reason.to_owned() }
    }
}

/// The text of a folder's `tokenizer.json`, or what says the same as its `qwen.tiktoken`.
///
/// # Errors
/// `Tokenizer` when there is neither, or the second is none.
pub fn tokenizer_json(folder: &Path) -> Result<Vec<u8>> {
    Ok(source_of(folder)?.1)
}

/// The file that a folder's tokenizer is in.
fn path_of(folder: &Path) -> Result<PathBuf> {
    let paths = ["tokenizer.json", tiktoken::FILE].map(|name| folder.join(name));
    paths.into_iter().find(|path| path.is_file()).ok_or_else(|| no_tokenizer_json(folder))
}

/// That file, and its text as `tokenizer.json` has it.
fn source_of(folder: &Path) -> Result<(PathBuf, Vec<u8>)> {
    let path = path_of(folder)?;
    if !path.ends_with(tiktoken::FILE) {
        let text = std::fs::read(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
        return Ok((path, text));
    }
    let json = tiktoken::read(&path).map_err(|reason| Error::Tokenizer { path: path.clone(), reason })?;
    Ok((path, json.to_string().into_bytes()))
}

fn no_tokenizer_json(folder: &Path) -> Error {
    let names = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.file_name());
    let other = names
        .filter_map(|n| n.into_string().ok())
        .find(|n| n.ends_with(".tiktoken") || n == "tokenizer.model" || n == "vocab.json" || n == "tiktoken.model");
    let found = other.map_or("none".to_owned(), |n| format!("only {n}"));
    let reason = format!(
        "expected tokenizer.json or qwen.tiktoken, found {found}; convert it once with transformers \
         (AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER)) or take it from the base model"
    );
    Error::Tokenizer { path: folder.to_owned(), reason }
}

/// Adds special tokens as far as they are not there, and says which were not.
fn add_tokens(inner: &mut tokenizers::Tokenizer, more: &[String]) -> std::result::Result<Vec<NewToken>, String> {
    let mut added = Vec::new();
    for text in more {
        if text.trim().is_empty() {
            return Err("new_special_tokens: a token is empty".to_owned());
        }
        if inner.token_to_id(text).is_some() {
            continue;
        }
        let wrong = |what: String| format!("new_special_tokens: {text:?}: {what}");
        inner.add_special_tokens([AddedToken::from(text.clone(), true)]).map_err(|e| wrong(e.to_string()))?;
        let id = inner.token_to_id(text).ok_or_else(|| wrong("it was not added".to_owned()))?;
        added.push(NewToken { id, text: text.clone() });
    }
    Ok(added)
}

/// The chat template that `path` names: one of [`named`], a Jinja file, or that of a folder.
fn template_at(path: &Path) -> Result<String> {
    let none = |reason: String| Error::Tokenizer { path: path.to_owned(), reason };
    let by_name = path.to_str().and_then(named::find).filter(|_| !path.exists());
    let source = if let Some(template) = by_name {
        Some(template.source.to_owned())
    } else if path.is_dir() {
        template_source(path, &read_object(&path.join("tokenizer_config.json"))?)?
    } else {
        Some(std::fs::read_to_string(path).map_err(|e| {
            let names: Vec<&str> = named::ALL.iter().map(|t| t.name).collect();
            none(format!("no chat template can be read there ({e}), and it is none of {}", names.join(", ")))
        })?)
    };
    source.ok_or_else(|| none("expected a chat template, found none".to_owned()))
}

/// A hash of the files that a tokenizer is read from.
fn identity(folder: &Path, tokenizer: &Path) -> Result<blake3::Hash> {
    let mut hasher = blake3::Hasher::new();
    let others = ["tokenizer_config.json", "special_tokens_map.json"].map(|name| folder.join(name));
    for path in [tokenizer.to_owned()].iter().chain(&others) {
        let bytes = match std::fs::read(path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Vec::new(),
            other => other.map_err(|source| Error::Io { path: path.clone(), source })?,
        };
        hasher.update(&(bytes.len() as u64).to_le_bytes()).update(&bytes);
    }
    Ok(hasher.finalize())
}

/// A hash of a template and of what it can know of the clock: nothing, the date, or the second.
fn template_identity(source: &str, clock: Clock) -> blake3::Hash {
    let time_of_day = ["%H", "%I", "%M", "%S", "%T", "%p", "%X", "%c", "%s"].iter().any(|d| source.contains(d));
    let instant = match (source.contains("strftime_now"), time_of_day) {
        (false, _) => 0,
        (true, false) => clock.unix_seconds().div_euclid(86_400),
        (true, true) => clock.unix_seconds(),
    };
    blake3::Hasher::new().update(&instant.to_le_bytes()).update(source.as_bytes()).finalize()
}

/// The JSON object in `path`; empty when there is no such file.
fn read_object(path: &Path) -> Result<Map<String, Json>> {
    let bad = |reason: String| Error::Tokenizer { path: path.to_owned(), reason };
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Map::new()),
        Err(source) => return Err(Error::Io { path: path.to_owned(), source }),
    };
    match serde_json::from_slice(&bytes) {
        Ok(Json::Object(map)) => Ok(map),
        Ok(_) => Err(bad("expected a JSON object".into())),
        Err(e) => Err(bad(format!("not valid JSON: {e}"))),
    }
}

/// A special token is written as a string or as an object with `content`.
fn token_text(json: &Json) -> Option<String> {
    json.as_str().or_else(|| json.get("content").and_then(Json::as_str)).map(str::to_owned)
}

/// Adds tokens that `added_tokens_decoder` declares and `tokenizer.json` lacks, at the ids declared.
fn add_declared_tokens(
    inner: &mut tokenizers::Tokenizer,
    config: &Map<String, Json>,
) -> std::result::Result<(), String> {
    let Some(Json::Object(declared)) = config.get("added_tokens_decoder") else { return Ok(()) };
    let mut missing: Vec<(u32, String, bool)> = Vec::new();
    for (id, token) in declared {
        let id: u32 = id.parse().map_err(|_| format!("`added_tokens_decoder`: expected token ids, found {id:?}"))?;
        let Some(content) = token_text(token) else { continue };
        if inner.token_to_id(&content).is_none() {
            let special = token.get("special").and_then(Json::as_bool).unwrap_or(false);
            missing.push((id, content, special));
        }
    }
    missing.sort();
    for (id, content, special) in missing {
        let token = AddedToken::from(content.clone(), special);
        let added = if special { inner.add_special_tokens([token]) } else { inner.add_tokens([token]) };
        added.map_err(|e| format!("`added_tokens_decoder`: {content:?}: {e}"))?;
        let got = inner.token_to_id(&content);
        if got != Some(id) {
            let got = got.map_or("none".to_owned(), |id| id.to_string());
            return Err(format!(
                "`added_tokens_decoder`: {content:?} is declared with id {id}, but tokenizer.json leaves id {got} for it; \
                 save the tokenizer again with transformers"
            ));
        }
    }
    Ok(())
}

/// The template's text: the file wins over the configuration's key; of several named ones the default.
fn template_source(folder: &Path, config: &Map<String, Json>) -> Result<Option<String>> {
    let path = folder.join("chat_template.jinja");
    match std::fs::read_to_string(&path) {
        Ok(source) => return Ok(Some(source)),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
        Err(source) => return Err(Error::Io { path, source }),
    }
    Ok(match config.get("chat_template") {
        Some(Json::String(source)) => Some(source.clone()),
        Some(Json::Array(named)) => {
            let named = |wanted: &str| {
                let entry = named.iter().find(|t| t.get("name").and_then(Json::as_str) == Some(wanted))?;
                entry.get("template").and_then(Json::as_str).map(str::to_owned)
            };
            named("default")
        }
        _ => None,
    })
}
