//! What comes from models and clients: GGUF files, answers in LaTeX, requests over HTTP.

use eval::grader::{Answer, Mode, Row, grade};
use infer::{Defaults, Sampling};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

/// Processor time that the grading of one pair may take.
const GRADING: Duration = Duration::from_millis(50);

pub(crate) const LATEX: &[&str] = &[
    "\\frac",
    "\\sqrt",
    "\\left",
    "\\right",
    "\\boxed{",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "\\cup",
    "\\infty",
    "\\pi",
    "\\text{",
    "\\cdot",
    "\\pm",
    "\\sin",
    "\\log",
    "\\sum",
    "^",
    "_",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "&",
    "\\\\",
    "|",
    "!",
    "%",
    "=",
    "<",
    "\\le",
    ",",
    "999999999",
    "1e9",
    "^{^{",
    "0.",
    "/",
    "\n\n",
    "answer is ",
];
pub(crate) const HTTP: &[&str] = &[
    "POST ",
    "GET ",
    " HTTP/1.1\r\n",
    "HTTP/1.0",
    "\r\n",
    "\r\n\r\n",
    "Content-Length: ",
    "Transfer-Encoding: chunked",
    "Expect: 100-continue",
    "Connection: close",
    "Authorization: Bearer ",
    "18446744073709551615",
    "\"messages\"",
    "\"prompt\"",
    "\"role\"",
    "\"content\"",
    "\"stop\"",
    "\"n\"",
    "\"temperature\"",
    "\"logprobs\"",
    "\"tools\"",
    "1e308",
    "[[[[",
    "null",
    "true",
];

/// A file: read as a container, every tensor unpacked.
pub(crate) fn gguf(path: &Path, _: &[u8]) {
    let Ok(file) = gguf::Gguf::open(path) else { return };
    for info in &file.tensors {
        let _ = file.values(info);
    }
}

/// The first line is the right answer, the second what was answered, the rest a whole text.
pub(crate) fn latex(_: &Path, input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (gold, rest) = text.split_once('\n').unwrap_or((&text, "1"));
    let (pred, whole) = rest.split_once('\n').unwrap_or((rest, rest));
    for mode in [Mode::Qwen, Mode::Strict] {
        for answer in [Answer::Pred(pred), Answer::Generation(whole)] {
            let began = crate::processor_time();
            grade(&Row { gold, dataset: None, answer }, mode);
            let took = crate::processor_time().saturating_sub(began);
            // Built without optimisation an order of magnitude is allowed for.
            let allowed = if cfg!(debug_assertions) { 20 * GRADING } else { GRADING };
            assert!(took < allowed, "a pair takes {took:?}");
        }
    }
}

/// What a client sends, byte after byte; what it gets goes nowhere.
struct Client<'a>(&'a [u8]);

impl Read for Client<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Client<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A connection: requests one after the other, their bodies as what is asked.
pub(crate) fn http(_: &Path, input: &[u8]) {
    static TOKENIZER: OnceLock<data::Tokenizer> = OnceLock::new();
    let tokenizer = TOKENIZER.get_or_init(|| {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models/qwen2");
        data::Tokenizer::load(&folder, data::Clock::at(0)).unwrap()
    });
    let defaults = Defaults { sampling: Sampling::GREEDY, max_new_tokens: None };
    let (mut client, mut rest) = (Client(input), Vec::new());
    while let Ok(Some(request)) = serve::http::read(&mut client, &mut rest, 1 << 20) {
        for chat in [true, false] {
            let _ = serve::Ask::read(&request.body, chat, tokenizer, &defaults, 0);
        }
    }
}

pub(crate) fn gguf_seeds() -> Vec<Vec<u8>> {
    let text = |out: &mut Vec<u8>, text: &str| {
        out.extend((text.len() as u64).to_le_bytes());
        out.extend(text.as_bytes());
    };
    // Version 3, two tensors (f32 of 4, q8_0 of 32), metadata of every kind there is a reader for.
    let mut out = b"GGUF\x03\0\0\0".to_vec();
    out.extend(2u64.to_le_bytes());
    out.extend(4u64.to_le_bytes());
    text(&mut out, "general.architecture");
    out.extend(8u32.to_le_bytes());
    text(&mut out, "llama");
    text(&mut out, "llama.block_count");
    out.extend(4u32.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    text(&mut out, "tokenizer.ggml.tokens");
    out.extend(9u32.to_le_bytes());
    out.extend(8u32.to_le_bytes());
    out.extend(2u64.to_le_bytes());
    text(&mut out, "a");
    text(&mut out, "b");
    text(&mut out, "general.alignment");
    out.extend(4u32.to_le_bytes());
    out.extend(32u32.to_le_bytes());
    for (name, dims, kind, offset) in [("norm", &[4u64][..], 0u32, 0u64), ("w", &[32, 1], 8, 32)] {
        text(&mut out, name);
        out.extend((dims.len() as u32).to_le_bytes());
        dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
        out.extend(kind.to_le_bytes());
        out.extend(offset.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(32) + 32 + 34, 7);
    vec![out]
}

pub(crate) fn latex_seeds() -> Vec<Vec<u8>> {
    let seeds: [&str; 8] = [
        "\\frac{1}{2}\n0.5\nSo the answer is \\boxed{\\dfrac12}.",
        "(-\\infty, 3] \\cup [5, \\infty)\n(-\\infty,3]\\cup[5,\\infty)\nThe final answer is $x \\le 3$ or $x \\ge 5$.",
        "\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}\n\\begin{bmatrix}1&2\\\\3&4\\end{bmatrix}\n\\boxed{\\left[1\\right]}",
        "2\\sqrt{3} + \\pi\n\\sqrt{12}+3.14159265\n# Answer\n\n\\boxed{\\sqrt{12} + \\pi}",
        "x^2 + 2x + 1\n(x+1)^2\n$$\\boxed{(x+1)^{2}}$$",
        "10 \\text{ cm}\n0.1 m\nIt is 10 centimetres.",
        "\\{1, 2, 3\\}\n3, 2, 1\nThe set is \\{3,1,2\\}.",
        "y = 2x + 3\n2x - y = -3\nthe line $y=2x+3$",
    ];
    seeds.iter().map(|seed| seed.as_bytes().to_vec()).collect()
}

pub(crate) fn http_seeds() -> Vec<Vec<u8>> {
    let request = |path: &str, more: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: a\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len())
    };
    let chat = request(
        "/v1/chat/completions",
        "Authorization: Bearer k\r\nExpect: 100-continue\r\n",
        r#"{"messages": [{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "é"}]}], "n": 2,
           "temperature": 0.5, "top_p": 0.9, "stop": ["x", "y"], "logprobs": true, "top_logprobs": 2, "stream": true, "seed": 1,
           "stream_options": {"include_usage": true}, "tools": [{"type": "function", "function": {"name": "f"}}], "max_tokens": 5}"#,
    );
    let text = request(
        "/v1/completions",
        "Connection: close\r\n",
        r#"{"prompt": ["a", [1, 2]], "logprobs": 1, "min_p": 0.1}"#,
    );
    let get = "GET /v1/models?x=1 HTTP/1.0\r\nConnection: keep-alive\r\nOrigin: http://b\r\n\r\n".to_owned();
    [chat.clone(), text.clone(), get.clone(), format!("{chat}{text}{get}")]
        .into_iter()
        .map(String::into_bytes)
        .collect()
}
