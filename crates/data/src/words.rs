//! Byte-level BPE word by word: the same ids as the tokenizer's own pipeline, without what that builds along the way.
//!
//! The pipeline makes a list of pieces with offsets, alignments and texts of every token, of which training wants the ids. Here a text
//! is cut at added tokens, each part is cut into words by the tokenizer's own pattern, and a word that was seen before is looked up.
//! New words go through the tokenizer's model. Tokenizers that do more than this are left to the pipeline: [`Words::of`] is `None`.

use std::collections::HashMap;
use std::sync::Mutex;

use regex_automata::meta::Regex;
use regex_automata::{Anchored, Input};
use serde_json::Value as Json;
use tokenizers::{AddedToken, Model, NormalizedString, Normalizer, NormalizerWrapper, Tokenizer};

/// Words that one thread remembers, and the bytes of the longest of them.
const REMEMBERED: usize = 1 << 16;
const LONGEST: usize = 64;
/// GPT-2's pattern, which the `ByteLevel` pre-tokenizer has built in.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// How these patterns end: white space, but for its last character where a word follows.
const TAIL: &str = r"|\s+(?!\S)|\s+";

/// What a tokenizer needs to be done word by word.
pub(crate) struct Words {
    /// Added tokens that stand in the text as they are, and those that stand in the normalised text.
    added: [Option<Added>; 2],
    /// Whether texts are brought into Unicode's form C first.
    form_c: bool,
    cuts: Vec<Cut>,
    /// The character that stands for each byte.
    letters: [char; 256],
    /// Ids that the tokenizer adds before and behind a text.
    frame: (Vec<u32>, Vec<u32>),
    /// What threads remember, while they do something else.
    memories: Mutex<Vec<Memory>>,
}

type Memory = HashMap<Box<str>, Box<[u32]>>;

/// Tokens that are found in a text before anything else, longest first.
struct Added {
    find: Regex,
    ids: HashMap<String, u32>,
}

/// One `Split` of the pre-tokenizer: matches are words, and so is what lies between them.
struct Cut {
    pattern: Regex,
    /// Whether white space that the pattern leaves is a word too, but for its last character where something follows.
    tail: bool,
}

impl std::fmt::Debug for Words {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Words").field("cuts", &self.cuts.len()).field("form_c", &self.form_c).finish()
    }
}

impl Words {
    /// What `tokenizer` needs; `None` when it does something that is not done here.
    pub(crate) fn of(tokenizer: &Tokenizer) -> Option<Words> {
        let json = |part: Option<Json>| part.unwrap_or(Json::Null);
        let normalizer = json(tokenizer.get_normalizer().and_then(|n| serde_json::to_value(n).ok()));
        let form_c = match normalizer["type"].as_str() {
            None if normalizer.is_null() => false,
            Some("NFC") => true,
            _ => return None,
        };
        if !matches!(tokenizer.get_model(), tokenizers::ModelWrapper::BPE(model) if model.dropout.is_none()) {
            return None;
        }
        let added: Vec<(u32, AddedToken)> = tokenizer.get_added_tokens_decoder().into_iter().collect();
        let plain = |t: &AddedToken| !(t.lstrip || t.rstrip || t.single_word || t.content.is_empty());
        // What form C makes of a normalised token is another question.
        if !added.iter().all(|(_, t)| plain(t) && (!t.normalized || !form_c || t.content.is_ascii())) {
            return None;
        }
        let of_kind = |normalized: bool| {
            let tokens: Vec<(&str, u32)> = added
                .iter()
                .filter(|(_, t)| t.normalized == normalized)
                .map(|(id, t)| (t.content.as_str(), *id))
                .collect();
            Added::new(tokens)
        };
        let cuts = cuts(&json(tokenizer.get_pre_tokenizer().and_then(|p| serde_json::to_value(p).ok())))?;
        let (added, letters) = ([of_kind(false)?, of_kind(true)?], letters());
        let mut words = Words { added, form_c, cuts, letters, frame: Default::default(), memories: Mutex::default() };
        words.frame = frame(tokenizer)?;
        Some(words)
    }

    /// Ids of `text`; `add_special` adds what the tokenizer adds by itself.
    ///
    /// # Errors
    /// As the tokenizer's model.
    pub(crate) fn encode(&self, tokenizer: &Tokenizer, text: &str, add_special: bool) -> tokenizers::Result<Vec<u32>> {
        let mut memory = self.memories.lock().expect("nobody panics while holding it").pop().unwrap_or_default();
        let mut out = Vec::with_capacity(text.len() / 3 + 8);
        if add_special {
            out.extend(&self.frame.0);
        }
        let mut encoder = Encoder { words: self, tokenizer, memory: &mut memory, out: &mut out };
        let encoded = encoder.raw(text);
        self.memories.lock().expect("nobody panics while holding it").push(memory);
        encoded?;
        if add_special {
            out.extend(&self.frame.1);
        }
        Ok(out)
    }
}

struct Encoder<'a> {
    words: &'a Words,
    tokenizer: &'a Tokenizer,
    memory: &'a mut Memory,
    out: &'a mut Vec<u32>,
}

impl Encoder<'_> {
    fn raw(&mut self, text: &str) -> tokenizers::Result<()> {
        let words = self.words;
        each_part(words.added[0].as_ref(), text, &mut |part| match part {
            Part::Token(id) => {
                self.out.push(id);
                Ok(())
            }
            Part::Text(part) if words.form_c && !part.is_ascii() => {
                let mut normalized = NormalizedString::from(part);
                NormalizerWrapper::normalize(self.tokenizer.get_normalizer().expect("it is form C"), &mut normalized)?;
                self.normalized(normalized.get())
            }
            Part::Text(part) => self.normalized(part),
        })
    }

    fn normalized(&mut self, text: &str) -> tokenizers::Result<()> {
        let words = self.words;
        each_part(words.added[1].as_ref(), text, &mut |part| match part {
            Part::Token(id) => {
                self.out.push(id);
                Ok(())
            }
            Part::Text(part) => self.cut(&words.cuts, part),
        })
    }

    fn cut(&mut self, cuts: &[Cut], text: &str) -> tokenizers::Result<()> {
        let Some((cut, rest)) = cuts.split_first() else { return self.word(text) };
        let mut at = 0;
        while at < text.len() {
            let end = cut.next(text, at);
            self.cut(rest, &text[at..end])?;
            at = end;
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> tokenizers::Result<()> {
        if let Some(ids) = self.memory.get(word) {
            self.out.extend_from_slice(ids);
            return Ok(());
        }
        let letters: String = word.bytes().map(|byte| self.words.letters[usize::from(byte)]).collect();
        let tokens = self.tokenizer.get_model().tokenize(&letters)?;
        self.out.extend(tokens.iter().map(|token| token.id));
        if word.len() <= LONGEST && self.memory.len() < REMEMBERED {
            self.memory.insert(word.into(), tokens.iter().map(|token| token.id).collect());
        }
        Ok(())
    }
}

enum Part<'t> {
    Token(u32),
    Text(&'t str),
}

/// The parts of a text between added tokens, and these.
fn each_part<'t>(
    added: Option<&Added>,
    text: &'t str,
    each: &mut dyn FnMut(Part<'t>) -> tokenizers::Result<()>,
) -> tokenizers::Result<()> {
    let mut from = 0;
    for found in added.iter().flat_map(|added| added.find.find_iter(text).map(move |m| (m, *added))) {
        let (place, added) = found;
        if from < place.start() {
            each(Part::Text(&text[from..place.start()]))?;
        }
        each(Part::Token(added.ids[&text[place.range()]]))?;
        from = place.end();
    }
    if from < text.len() { each(Part::Text(&text[from..])) } else { Ok(()) }
}

impl Added {
    /// `Some(None)` for no tokens, `None` where they cannot be searched for.
    fn new(mut tokens: Vec<(&str, u32)>) -> Option<Option<Added>> {
        if tokens.is_empty() {
            return Some(None);
        }
        // Of tokens that begin at the same place the longest is meant.
        tokens.sort_by_key(|(text, _)| (std::cmp::Reverse(text.len()), *text));
        let escaped: Vec<String> = tokens.iter().map(|(text, _)| escape(text)).collect();
        let find = Regex::new(&escaped.join("|")).ok()?;
        let ids = tokens.into_iter().map(|(text, id)| (text.to_owned(), id)).collect();
        Some(Some(Added { find, ids }))
    }
}

/// A text as a pattern that matches nothing else.
fn escape(text: &str) -> String {
    let hex = |c: char| format!("\\x{{{:x}}}", c as u32);
    text.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_string() } else { hex(c) }).collect()
}

impl Cut {
    fn new(pattern: &str) -> Option<Cut> {
        let (body, tail) = match pattern.strip_suffix(TAIL) {
            Some(body) => (body, true),
            None => (pattern, false),
        };
        if !is_plain(body) {
            return None;
        }
        Some(Cut { pattern: Regex::new(body).ok()?, tail })
    }

    /// Where the word ends that begins at byte `at` of `text`.
    fn next(&self, text: &str, at: usize) -> usize {
        let input = Input::new(text).range(at..);
        if let Some(end) = self.pattern.search_half(&input.clone().anchored(Anchored::Yes))
            && end.offset() > at
        {
            return end.offset();
        }
        let is_space = |c: char| self.tail && c.is_whitespace();
        let rest = &text[at..];
        let space = rest.len() - rest.trim_start_matches(is_space).len();
        if space == 0 {
            // What no pattern takes is a word up to where one does.
            let next = self.pattern.find_iter(input).find(|m| !m.is_empty()).map_or(text.len(), |m| m.start());
            return rest.find(is_space).map_or(next, |n| next.min(at + n));
        }
        let last = rest[..space].chars().next_back().map_or(0, char::len_utf8);
        if space == rest.len() || space == last { at + space } else { at + space - last }
    }
}

/// Whether a pattern means the same here as to the tokenizer: nothing that looks around, remembers or never gives back.
fn is_plain(pattern: &str) -> bool {
    let mut outside = String::new();
    let mut chars = pattern.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some(c) if c.is_ascii_digit() || "ABGKXZbkz".contains(c) => return false,
                c => {
                    // A class or a character by name: braces behind it are no count.
                    if c.is_some_and(|c| "pPxuU".contains(c)) && chars.as_str().starts_with('{') {
                        chars.by_ref().find(|&c| c == '}');
                    }
                    outside.push('x');
                }
            },
            '[' => {
                // A class means the same to both, whatever is in it.
                let mut depth = 1;
                while depth > 0 {
                    match chars.next() {
                        None => return false,
                        Some('[') => depth += 1,
                        Some(']') => depth -= 1,
                        Some('\\') => _ = chars.next(),
                        Some(_) => {}
                    }
                }
                outside.push('x');
            }
            c => outside.push(c),
        }
    }
    let other = ["(?=", "(?!", "(?<", "(?>", "(?P", "(?#", "(?x", "?+", "*+", "++", "}+", "^", "$"];
    !other.iter().any(|sign| outside.contains(sign))
}

/// The cuts of a pre-tokenizer that ends in bytes; `None` for any other.
fn cuts(pre_tokenizer: &Json) -> Option<Vec<Cut>> {
    let one = std::slice::from_ref(pre_tokenizer);
    let parts = match pre_tokenizer["type"].as_str()? {
        "Sequence" => pre_tokenizer["pretokenizers"].as_array()?.as_slice(),
        _ => one,
    };
    let (bytes, splits) = parts.split_last()?;
    if bytes["type"] != "ByteLevel" || bytes["add_prefix_space"] != false {
        return None;
    }
    let mut cuts = Vec::new();
    for split in splits {
        if split["type"] != "Split" || split["behavior"] != "Isolated" || split["invert"] != false {
            return None;
        }
        cuts.push(Cut::new(split["pattern"]["Regex"].as_str()?)?);
    }
    if bytes["use_regex"] != false {
        cuts.push(Cut::new(GPT2)?);
    }
    Some(cuts)
}

/// What the tokenizer adds to a text by itself; `None` where it does not put it around.
fn frame(tokenizer: &Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    let ids = |special| Some(tokenizer.encode_fast("a", special).ok()?.get_ids().to_vec());
    let (plain, framed) = (ids(false)?, ids(true)?);
    let at = framed.windows(plain.len().max(1)).position(|ids| ids == plain)?;
    Some((framed[..at].to_vec(), framed[at + plain.len()..].to_vec()))
}

/// GPT-2's characters for bytes: printable ones for themselves, the others from 256 on.
fn letters() -> [char; 256] {
    let printable = |byte: u32| matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
    let mut next = 256;
    std::array::from_fn(|byte| {
        let byte = byte as u32;
        let code = if printable(byte) { byte } else { next };
        next += u32::from(!printable(byte));
        char::from_u32(code).expect("below the surrogates")
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::mix;
    use serde_json::json;

    const QWEN: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    const DEEPSEEK: &str = r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##;
    const PIECES: [&str; 40] = [
        "a",
        "B",
        "the",
        " the",
        "é",
        "e\u{301}",
        "中文",
        "🙂",
        "1",
        "2345",
        "'s",
        "'LL",
        "'",
        " ",
        "  ",
        "\n",
        "\r\n",
        "\t",
        "\u{a0}",
        "\u{3000}",
        ".",
        "!?",
        "...\n",
        "<|im_end|>",
        "<|im_end|",
        "|>",
        "<",
        "<|endoftext|>",
        "ß",
        "ǅ",
        "\u{200d}",
        "_x",
        "\u{0}",
        "{\"",
        "//\n",
        " \n ",
        "«",
        "́",
        "Ⅷ",
        "한글",
    ];

    fn tokenizer(change: impl Fn(&mut Json)) -> Tokenizer {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fixtures/data/tokenizer/tokenizer.json");
        let mut json: Json = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        change(&mut json);
        Tokenizer::from_bytes(json.to_string().as_bytes()).unwrap()
    }

    fn with_pattern(patterns: &[&str], built_in: bool) -> Tokenizer {
        let split =
            |p: &&str| json!({"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": false});
        let mut parts: Vec<Json> = patterns.iter().map(split).collect();
        parts
            .push(json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": built_in}));
        tokenizer(|json| json["pre_tokenizer"] = json!({"type": "Sequence", "pretokenizers": parts}))
    }

    /// Texts of random pieces come out as from the pipeline.
    fn check(tokenizer: &Tokenizer, what: &str) {
        let words = Words::of(tokenizer).unwrap_or_else(|| panic!("{what} is done word by word"));
        let mut state = 7;
        let mut draw = |n: usize| {
            state = mix(state + 1);
            state as usize % n
        };
        for _ in 0..400 {
            let text: String = (0..draw(14)).map(|_| PIECES[draw(PIECES.len())]).collect();
            for special in [false, true] {
                let expected = tokenizer.encode_fast(text.as_str(), special).unwrap();
                assert_eq!(words.encode(tokenizer, &text, special).unwrap(), expected.get_ids(), "{what}: {text:?}");
            }
        }
    }

    #[test]
    fn ids_are_the_pipeline_s() {
        check(&with_pattern(&[QWEN], false), "Qwen");
        check(&with_pattern(&[LLAMA3], false), "Llama 3");
        check(&with_pattern(&[O200K], false), "GPT-OSS");
        check(&with_pattern(&[], true), "GPT-2");
        check(&with_pattern(&[r"\p{N}{1,3}", "[一-龥]+", DEEPSEEK], false), "DeepSeek");
        check(&with_pattern(&[r"\p{L}+|\s+(?!\S)|\s+"], false), "gaps");
        let form_c = |json: &mut Json| json["normalizer"] = json!({"type": "NFC"});
        check(&tokenizer(form_c), "form C");
        check(&tokenizer(|json| json["added_tokens"][0]["normalized"] = true.into()), "normalised tokens");
        let framed = |json: &mut Json| {
            let token = |id: &str| json!({"SpecialToken": {"id": id, "type_id": 0}});
            json["post_processor"] = json!({
                "type": "TemplateProcessing",
                "single": [token("<|im_end|>"), {"Sequence": {"id": "A", "type_id": 0}}, token("<|endoftext|>")],
                "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
                "special_tokens": {
                    "<|im_end|>": {"id": "<|im_end|>", "ids": [json["added_tokens"][0]["id"]], "tokens": ["<|im_end|>"]},
                    "<|endoftext|>": {"id": "<|endoftext|>", "ids": [json["added_tokens"][1]["id"]], "tokens": ["<|endoftext|>"]},
                },
            });
        };
        check(&tokenizer(framed), "framed");
    }

    #[test]
    fn what_does_more_is_left_to_the_pipeline() {
        let more: [&dyn Fn(&mut Json); 5] = [
            &|json| json["normalizer"] = json!({"type": "Lowercase"}),
            &|json| json["added_tokens"][0]["lstrip"] = true.into(),
            &|json| json["pre_tokenizer"]["pretokenizers"][1]["add_prefix_space"] = true.into(),
            &|json| json["pre_tokenizer"]["pretokenizers"][0]["behavior"] = "Removed".into(),
            &|json| json["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = r"a(?=b)|\s+(?!\S)|\s+".into(),
        ];
        for (n, change) in more.iter().enumerate() {
            assert!(Words::of(&tokenizer(change)).is_none(), "{n}");
        }
        for pattern in ["a?+", "a++", "x(?<!y)", "^a", "a$", r"(a)\1", "[a", r"\bа"] {
            assert!(!is_plain(pattern), "{pattern}");
        }
    }
}
