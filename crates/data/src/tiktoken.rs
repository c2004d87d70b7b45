//! `qwen.tiktoken`, the vocabulary of the first Qwen models and of OpenSeek: one token per line, base64 and rank. Read as the
//! byte-level BPE that it is, with the merges that the ranks imply, so that no code of the model folder is needed.

use serde_json::{Map, Value as Json, json};
use std::collections::HashMap;
use std::path::Path;

/// Its name in a model folder.
pub(crate) const FILE: &str = "qwen.tiktoken";
/// Largest file that is read, bytes; the real one has two and a half million.
const LARGEST: u64 = 64 << 20;
/// Longest token, bytes.
const LONGEST: usize = 1024;
/// Qwen's words, single digits, punctuation and white space.
const PIECES: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Tokens behind the ranks: three by name, then numbered ones.
const NAMED: [&str; 3] = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"];
const NUMBERED: usize = 205;
/// What the files' own code takes where `tokenizer_config.json` says nothing.
pub(crate) const SPECIALS: [(&str, &str); 4] = [
    ("bos_token", "<|extra_203|>"),
    ("eos_token", "<|extra_204|>"),
    ("pad_token", "<|endoftext|>"),
    ("unk_token", "<|endoftext|>"),
];

/// Reads the file as the `tokenizer.json` that says the same; the reason when it is none.
pub(crate) fn read(path: &Path) -> Result<Json, String> {
    let length = std::fs::metadata(path).map_err(|e| e.to_string())?.len();
    if length > LARGEST {
        return Err(format!("expected at most {LARGEST} bytes, found {length}"));
    }
    parse(&std::fs::read(path).map_err(|e| e.to_string())?)
}

fn parse(bytes: &[u8]) -> Result<Json, String> {
    let tokens = tokens(bytes)?;
    let ranks: HashMap<&[u8], u32> = tokens.iter().zip(0..).map(|(t, rank)| (t.as_slice(), rank)).collect();
    if ranks.len() != tokens.len() {
        return Err("a token stands there twice".to_owned());
    }
    let names = byte_names();
    let name = |token: &[u8]| token.iter().map(|b| names[usize::from(*b)]).collect::<String>();
    let mut merges = Vec::with_capacity(tokens.len());
    for (token, rank) in tokens.iter().zip(0..) {
        match &split(token, rank, &ranks)[..] {
            [_] if token.len() == 1 => {}
            [a, b] => merges.push(json!([name(a), name(b)])),
            parts => {
                let found = parts.len();
                return Err(format!("line {}: the token is no pair of tokens above it, but {found}", rank + 1));
            }
        }
    }
    if let Some(byte) = (0..=255u8).find(|b| !ranks.contains_key(&[*b][..])) {
        return Err(format!("expected a token for every byte, found none for {byte}"));
    }
    let vocab: Map<String, Json> = tokens.iter().zip(0u32..).map(|(t, rank)| (name(t), rank.into())).collect();
    Ok(described(vocab, merges))
}

fn described(vocab: Map<String, Json>, merges: Vec<Json>) -> Json {
    let first = vocab.len();
    let numbered = (0..NUMBERED).map(|i| format!("<|extra_{i}|>"));
    let special = NAMED.map(str::to_owned).into_iter().chain(numbered).zip(first..);
    let flags = json!({"single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    let added: Vec<Json> = special
        .map(|(content, id)| {
            let mut token = json!({"id": id, "content": content});
            token.as_object_mut().into_iter().for_each(|t| t.extend(flags.as_object().cloned().unwrap_or_default()));
            token
        })
        .collect();
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false});
    let pieces = json!({"type": "Split", "pattern": {"Regex": PIECES}, "behavior": "Isolated", "invert": false});
    json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [pieces, bytes]},
        "post_processor": null,
        "decoder": bytes,
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": true,
            "vocab": vocab,
            "merges": merges,
        },
    })
}

/// The tokens by rank.
fn tokens(bytes: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let text = std::str::from_utf8(bytes).map_err(|e| format!("expected base64 and ranks, found no text: {e}"))?;
    let mut tokens = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |what: &str| format!("line {number}: expected {what}, found {line:.80}");
        let (token, rank) = line.split_once(' ').ok_or_else(|| wrong("base64, a blank, a rank"))?;
        if rank.trim().parse() != Ok(tokens.len()) {
            return Err(wrong(&format!("rank {}: ranks are counted without gaps", tokens.len())));
        }
        let token = decoded(token).filter(|t| (1..=LONGEST).contains(&t.len()));
        tokens.push(token.ok_or_else(|| wrong("a token in base64"))?);
    }
    if tokens.is_empty() {
        return Err("expected tokens, found none".to_owned());
    }
    Ok(tokens)
}

/// Base64 with padding.
fn decoded(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    let mut bytes = Vec::with_capacity(text.len() * 3 / 4);
    let (mut bits, mut held) = (0u32, 0);
    for c in digits.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        (bits, held) = (bits << 6 | u32::from(value), held + 6);
        if held >= 8 {
            held -= 8;
            bytes.push((bits >> held) as u8);
            bits &= (1 << held) - 1;
        }
    }
    (bits == 0 && text.len().is_multiple_of(4)).then_some(bytes)
}

/// The parts that a token is joined from last: merging by the ranks below its own.
fn split<'t>(token: &'t [u8], rank: u32, ranks: &HashMap<&[u8], u32>) -> Vec<&'t [u8]> {
    let mut ends: Vec<usize> = (0..=token.len()).collect();
    loop {
        let joined = |i: usize| ranks.get(&token[ends[i]..ends[i + 2]]).copied().filter(|r| *r < rank);
        let best = (0..ends.len().saturating_sub(2)).filter_map(|i| Some((joined(i)?, i))).min();
        match best {
            Some((_, i)) => drop(ends.remove(i + 1)),
            None => return ends.windows(2).map(|w| &token[w[0]..w[1]]).collect(),
        }
    }
}

/// GPT-2's printable characters for bytes: themselves where they print, else those from U+0100 on.
fn byte_names() -> [char; 256] {
    let mut next = 0x100;
    std::array::from_fn(|b| {
        let byte = b as u8;
        if matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff) {
            return char::from(byte);
        }
        next += 1;
        char::from_u32(next - 1).expect("below the surrogates")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All bytes, then `lo`, `low`, ` w`.
    fn file(more: &[&str]) -> String {
        let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let encoded = |bytes: &[u8]| {
            let padded = [bytes, &[0, 0]].concat();
            let groups = bytes.len().div_ceil(3);
            let text: String = (0..groups)
                .flat_map(|g| {
                    let n = (0..3).fold(0u32, |n, i| n << 8 | u32::from(*padded.get(3 * g + i).unwrap_or(&0)));
                    (0..4).map(move |i| digits[(n >> (18 - 6 * i)) as usize & 63] as char)
                })
                .collect();
            let pad = (3 - bytes.len() % 3) % 3;
            format!("{}{}", &text[..text.len() - pad], "=".repeat(pad))
        };
        let bytes = (0..=255u8).map(|b| encoded(&[b]));
        let lines = bytes.chain(more.iter().map(|t| encoded(t.as_bytes()))).zip(0..);
        lines.map(|(token, rank)| format!("{token} {rank}\n")).collect()
    }

    #[test]
    fn ranks_become_merges_and_tokens_come_back_as_text() {
        let json = parse(file(&["lo", "low", " w"]).as_bytes()).unwrap();
        let tokenizer = tokenizers::Tokenizer::from_bytes(json.to_string()).unwrap();
        let ids = tokenizer.encode_fast("low w<|im_end|>\u{e9}", false).unwrap().get_ids().to_vec();
        assert_eq!(ids, [257, 258, 261, 0xc3, 0xa9]);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), "low w<|im_end|>\u{e9}");
        // NFC: e and an accent are one character.
        assert_eq!(tokenizer.encode_fast("e\u{301}", false).unwrap().get_ids(), [0xc3, 0xa9]);
    }

    #[test]
    fn what_is_no_vocabulary_is_refused_with_the_line() {
        let good = file(&[]);
        let cases = [
            (String::new(), "found none"),
            (good.replacen("IQ== 33", "IQ== 34", 1), "line 34: expected rank 33"),
            (good.replacen("IQ== 33", "I*== 33", 1), "line 34: expected a token in base64"),
            (good.replacen("IQ== 33", "IQ==", 1), "line 34: expected base64, a blank, a rank"),
            (good.replacen("IQ== 33", "Ig== 33", 1), "twice"),
            (file(&["low"]), "line 257: the token is no pair of tokens above it, but 3"),
            (good.lines().take(200).map(|l| format!("{l}\n")).collect(), "none for 200"),
        ];
        for (text, expected) in cases {
            let found = parse(text.as_bytes()).unwrap_err();
            assert!(found.contains(expected), "{found}");
        }
        assert!(parse(&[0xff, 0xfe]).unwrap_err().contains("no text"));
    }

    /// The vectors of a real vocabulary, where `PROSPECT_TIKTOKEN` names the folder that has them.
    #[test]
    fn a_real_vocabulary_gives_the_ids_of_its_vectors() {
        let Some(folder) = std::env::var_os("PROSPECT_TIKTOKEN").map(std::path::PathBuf::from) else { return };
        let tokenizer = crate::Tokenizer::load(&folder, crate::Clock::at(0)).unwrap();
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
        let (inputs, outputs) = (read("vectors.inp"), read("vectors.out"));
        let inputs: Vec<&str> = inputs.split("\n__ggml_vocab_test__\n").collect();
        let mut compared = 0;
        for (input, output) in inputs.iter().zip(outputs.lines()) {
            let ids: Vec<u32> = output.split_whitespace().map(|id| id.parse().unwrap()).collect();
            assert_eq!(tokenizer.encode(input, false).unwrap(), ids, "{input:?}");
            compared += 1;
        }
        assert_eq!((compared, tokenizer.vocab_size()), (47, 151_851));
    }
}
