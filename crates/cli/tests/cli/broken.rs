//! Broken inputs and exactly what is said about them: `broken.txt` holds the messages, `broken.tmp` what differs.

use crate::{Scratch, stderr};
use std::path::Path;

/// A name, the file, its bytes, and the command.
type Case = (&'static str, &'static str, &'static [u8], &'static [&'static str]);

const CONVERT: &[&str] = &["data", "convert", "FILE", "out.jsonl"];
const KTO: &[&str] = &["data", "convert", "FILE", "out.jsonl", "--to", "kto"];

const CASES: [Case; 31] = [
    (
        "a line that is no JSON",
        "a.jsonl",
        b"{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\", completion}\n",
        CONVERT,
    ),
    (
        "a line that is cut off",
        "a.jsonl",
        b"{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"a\", \"comp",
        CONVERT,
    ),
    ("a list instead of an object", "a.jsonl", b"[1, 2]\n", CONVERT),
    ("an array that is not closed", "a.json", b"[{\"text\": \"a\"}, {\"text\": \"b\"}", CONVERT),
    ("something behind an array", "a.json", b"[{\"text\": \"a\"}] {\"text\": \"b\"}", CONVERT),
    ("bytes that are no UTF-8", "a.jsonl", b"{\"text\": \"\xff\xfe\"}\n", CONVERT),
    ("an unknown format", "a.jsonl", b"{\"question\": \"a\", \"reply\": \"b\"}\n", CONVERT),
    ("no row at all", "a.jsonl", b"\n\n", &["data", "stats", "FILE"]),
    ("a label in quotes", "a.jsonl", b"{\"prompt\": \"a\", \"completion\": \"b\", \"label\": \"true\"}\n", CONVERT),
    ("no label", "a.jsonl", b"{\"prompt\": \"a\", \"completion\": \"b\"}\n", KTO),
    ("an empty completion", "a.jsonl", b"{\"prompt\": \"a\", \"completion\": \" \", \"label\": true}\n", CONVERT),
    ("a prompt that is a number", "a.jsonl", b"{\"prompt\": 7, \"completion\": \"b\"}\n", CONVERT),
    ("a turn without content", "a.jsonl", b"{\"messages\": [{\"role\": \"user\"}]}\n", CONVERT),
    ("a turn without a role", "a.jsonl", b"{\"messages\": [{\"content\": \"a\"}]}\n", CONVERT),
    ("messages that are text", "a.jsonl", b"{\"messages\": \"hi\"}\n", CONVERT),
    (
        "a conversation without an answer",
        "a.jsonl",
        b"{\"messages\": [{\"role\": \"user\", \"content\": \"a\"}], \"label\": true}\n",
        CONVERT,
    ),
    ("tools that are no JSON", "a.jsonl", b"{\"prompt\": \"a\", \"completion\": \"b\", \"tools\": \"[{\"}\n", CONVERT),
    (
        "fewer labels than answers",
        "a.jsonl",
        b"{\"prompt\": \"a\", \"completions\": [\"b\", \"c\"], \"labels\": [true]}\n",
        CONVERT,
    ),
    ("a pair that is a pair of numbers", "a.jsonl", b"{\"chosen\": 1, \"rejected\": 2}\n", CONVERT),
    (
        "a row that is no pair",
        "a.jsonl",
        b"{\"prompt\": \"a\", \"completion\": \"b\", \"label\": true}\n",
        &["data", "unpair", "FILE", "out.jsonl"],
    ),
    ("a CSV row of other length", "a.csv", b"prompt,completion\na,b\nc\n", CONVERT),
    ("a CSV cell as Python prints it", "a.csv", b"prompt,completion\n\"[{'role': 'user'}]\",b\n", CONVERT),
    ("a gzip file that is cut off", "a.jsonl.gz", b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\xab\x56", CONVERT),
    ("a zstd file that is damaged", "a.jsonl.zst", b"\x28\xb5\x2f\xfd\xff\xff\xff\xff\xff\xff\xff\xff", CONVERT),
    ("a Parquet file that is cut off", "a.parquet", b"PAR1\x00\x00\x00\x00", CONVERT),
    ("an Arrow file that is cut off", "a.arrow", b"\xff\xff\xff\xff\x10\x00\x00\x00", CONVERT),
    ("a kind of file that is not read", "a.xlsx", b"PK\x03\x04", CONVERT),
    ("a kind of file that is not written", "a.jsonl", b"{\"text\": \"a\"}\n", &["data", "convert", "FILE", "out.xlsx"]),
    ("a row that is not there", "a.jsonl", b"{\"text\": \"a\"}\n", &["data", "show", "FILE", "--row", "3"]),
    (
        "a share that is none",
        "a.jsonl",
        b"{\"text\": \"a\"}\n",
        &["data", "convert", "FILE", "out.jsonl", "--split", "1.5"],
    ),
    (
        "a pattern that is none",
        "a.jsonl",
        b"{\"text\": \"a\"}\n",
        &["data", "label", "FILE", "out.jsonl", "--regex", "("],
    ),
];

#[test]
fn broken_inputs_are_refused_in_these_words() {
    let mut said = String::new();
    for (name, file, bytes, args) in CASES {
        let scratch = Scratch::new();
        std::fs::write(scratch.join(file), bytes).unwrap();
        let args: Vec<&str> = args.iter().map(|arg| if *arg == "FILE" { file } else { arg }).collect();
        let output = scratch.prospect(&[&args[..], &["--quiet"]].concat());
        let code = output.status.code();
        assert!(matches!(code, Some(2 | 3 | 6)), "{name}: {code:?} {}", stderr(&output));
        assert!(output.stdout.is_empty(), "{name}");
        let left = std::fs::read_dir(&scratch.0).unwrap().count();
        assert_eq!(left, 1, "{name} leaves something behind");
        said += &format!("# {name}\n$ prospect {}\n{}exit {}\n\n", args.join(" "), stderr(&output), code.unwrap_or(-1));
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cli");
    let expected = std::fs::read_to_string(folder.join("broken.txt")).unwrap_or_default();
    if said != expected {
        std::fs::write(folder.join("broken.tmp"), &said).unwrap();
    }
    assert!(said == expected, "see tests/cli/broken.tmp; if it is right, it is the new broken.txt");
}
