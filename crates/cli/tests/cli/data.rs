//! `data`: the tools as a user meets them.

use crate::{Scratch, golden, objects, stderr, text};
use serde_json::{Value, json};
use std::path::Path;

fn lines(rows: &[Value]) -> String {
    rows.iter().map(|row| format!("{row}\n")).collect()
}

fn read(scratch: &Scratch, name: &str) -> Vec<Value> {
    objects(&std::fs::read_to_string(scratch.join(name)).unwrap())
}

fn report(scratch: &Scratch, args: &[&str]) -> Value {
    objects(&scratch.succeeds(&[&["data"], args, &["--json"]].concat())).remove(0)
}

#[test]
fn every_tool_has_help_with_an_example() {
    let scratch = Scratch::new();
    for tool in ["show", "stats", "convert", "render", "unpair", "mix", "sample", "dedup", "label"] {
        let help = scratch.succeeds(&["data", tool, "--help"]);
        assert!(help.contains("Example") && help.contains(&format!("  prospect data {tool}")), "{help}");
    }
}

#[test]
fn a_row_is_shown_in_parts_in_colour_and_as_json() {
    let scratch = Scratch::new();
    let (model, rows) = (golden("models/qwen2"), golden("data/kto_chat.jsonl"));
    let show = ["data", "show", text(&rows), "--model", text(&model), "--row", "1"];
    let plain = scratch.succeeds(&show);
    assert!(
        plain.contains("--- prompt, ") && plain.contains("--- trained, end of sequence, 1 token\n<|im_end|>"),
        "{plain}"
    );
    assert!(plain.contains("the model learns to stop") && !plain.contains('\u{1b}'), "{plain}");
    let coloured = scratch.succeeds(&[&show[..], &["--color", "always"]].concat());
    assert!(coloured.contains("\u{1b}[32m") && !coloured.contains("--- prompt"), "{coloured}");
    let json = objects(&scratch.succeeds(&[&show[..], &["--json"]].concat())).remove(0);
    let example = &json["examples"][0];
    let tokens = example["tokens"].as_array().unwrap();
    let prompt = example["prompt_tokens"].as_u64().unwrap() as usize;
    let trained = |t: &Value| t["trained"] == true;
    assert!(tokens[..prompt].iter().all(|t| !trained(t)) && tokens[prompt..].iter().all(trained), "{json}");
    assert_eq!(
        (&json["task"], &json["format"], &json["line"]),
        (&json!("kto"), &json!("prompt-completion"), &json!(2))
    );
    let output = scratch.prospect(&show);
    assert!(
        stderr(&output).contains("format prompt-completion for KTO, told from the first row"),
        "{}",
        stderr(&output)
    );
    // Cut before its end the row does not teach to stop.
    let limit = (tokens.len() - 3).to_string();
    let cut = scratch.succeeds(&[&show[..], &["--max-length", &limit, "--table"]].concat());
    assert!(cut.contains("stopping is not taught") && cut.contains("--- cut off, 3 tokens"), "{cut}");
}

#[test]
fn a_registered_name_is_read_by_its_columns() {
    let scratch = Scratch::new();
    scratch.write("rows.json", &json!([{"q": "2+2?", "a": "4", "good": true, "by": "me"}]).to_string());
    let entry = json!({"file_name": "rows.json", "columns": {"prompt": "q", "response": "a", "kto_tag": "good"}});
    scratch.write("dataset_info.json", &json!({"sums": entry}).to_string());
    let shown = report(&scratch, &["show", "sums"]);
    assert_eq!((&shown["format"], &shown["task"]), (&json!("alpaca"), &json!("kto")));
    assert_eq!(shown["examples"][0]["label"], true);
    let other = scratch.prospect(&["data", "show", "sum", "--registry", "dataset_info.json"]);
    assert!(stderr(&other).contains("the first names are sums"), "{}", stderr(&other));
}

#[test]
fn rows_are_counted_with_their_problems() {
    let scratch = Scratch::new();
    let row = |p: &str, c: &str, label: bool| json!({"prompt": p, "completion": c, "label": label, "id": 1});
    let rows =
        [row("a", "b", true), row("a", "b", true), row("a", "c", false), row("d", "", true), row("e", "f", true)];
    scratch.write("rows.jsonl", &lines(&rows));
    let stats =
        report(&scratch, &["stats", "rows.jsonl", "--model", text(&golden("models/qwen2")), "--max-length", "1"]);
    let field = |name: &str| stats[name].clone();
    assert_eq!(
        [field("rows_read"), field("rows"), field("bad"), field("empty_completions")],
        [5, 4, 1, 1].map(|n| json!(n))
    );
    assert_eq!([field("duplicates"), field("distinct_prompts"), field("largest_group")], [1, 2, 3].map(|n| json!(n)));
    assert_eq!(field("suggested_weights"), json!({"desirable": 1.0, "undesirable": 3.0}));
    assert_eq!((field("unit"), field("too_long")), (json!("tokens"), json!(4)));
    let said = scratch.succeeds(&["data", "stats", "rows.jsonl"]);
    for part in [
        "3 true, 1 false",
        "outside the paper's 1 to 4/3",
        "undesirable_weight 3",
        "rows.jsonl:4:28: field `completion`",
        "█",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
    scratch.write("good.jsonl", &lines(&rows[..2]));
    assert!(scratch.succeeds(&["data", "stats", "good.jsonl"]).contains("every label is true"));
}

#[test]
fn data_are_converted_to_every_format_and_back() {
    let scratch = Scratch::new();
    let rows = golden("data/kto_chat.jsonl");
    let mut from = text(&rows).to_owned();
    for to in ["a.parquet", "b", "c.json", "d.jsonl.gz", "e.jsonl"] {
        let done = report(&scratch, &["convert", &from, to]);
        assert_eq!((&done["rows_read"], &done["written"][0]["rows"]), (&json!(48), &json!(48)), "{to}: {done}");
        from = to.to_owned();
    }
    let original = objects(&std::fs::read_to_string(rows).unwrap());
    for (back, row) in read(&scratch, "e.jsonl").iter().zip(&original) {
        assert_eq!(
            (&back["prompt"], &back["completion"], &back["label"]),
            (&row["prompt"], &row["completion"], &row["label"])
        );
    }
    let done = report(&scratch, &["convert", "e.jsonl", "f.jsonl", "--split", "0.75", "--to", "sft"]);
    assert_eq!(done["written"].as_array().unwrap().len(), 2);
    assert!(scratch.join("f-train.jsonl").is_file() && scratch.join("f-test.jsonl").is_file());
    assert!(read(&scratch, "f-test.jsonl").iter().all(|row| row.get("label").is_none()));
    let refused = scratch.prospect(&["data", "convert", "e.jsonl", "c.json"]);
    assert_eq!(refused.status.code(), Some(6), "what is there is not written over: {}", stderr(&refused));
}

#[test]
fn several_files_of_differing_columns_become_one_table() {
    let scratch = Scratch::new();
    let talk = |info: Value| {
        json!({"system": "s", "conversations": [{"from": "human", "value": "q", "info": info},
        {"from": "assistant", "value": "<think>t</think> <answer>a</answer>", "info": {"ppl": 1.5}}]})
    };
    scratch.write("math.jsonl", &lines(&[talk(json!({"ground_truth": 1}))]));
    scratch.write("code.jsonl", &lines(&[talk(json!({"test_case": ["x"], "ground_truth": "1"})), talk(Value::Null)]));
    let done = report(&scratch, &["convert", "math.jsonl", "code.jsonl", "all.parquet", "--to", "sft"]);
    assert_eq!((&done["formats"], &done["written"][0]["rows"]), (&json!({"am-thinking": 3}), &json!(3)));
    assert_eq!(done["unused_fields"]["system"], 3, "{done}");
    let back = report(&scratch, &["stats", "all.parquet"]);
    assert_eq!((&back["rows"], &back["bad"]), (&json!(3), &json!(0)));
}

#[test]
fn pairs_become_rows_and_rows_are_mixed_drawn_and_cleaned() {
    let scratch = Scratch::new();
    let pairs: Vec<Value> =
        (0..50).map(|n| json!({"prompt": format!("q{n}"), "chosen": "good", "rejected": "bad"})).collect();
    scratch.write("pairs.jsonl", &lines(&pairs));
    let done = report(&scratch, &["unpair", "pairs.jsonl", "rows.jsonl"]);
    assert_eq!((&done["desirable"], &done["undesirable"]), (&json!(50), &json!(50)));
    assert_eq!(read(&scratch, "rows.jsonl")[1], json!({"prompt": "q0", "completion": "bad", "label": false}));
    let done = report(&scratch, &["mix", "rows.jsonl=3", "pairs.jsonl", "--output", "mixed.jsonl", "--rows", "1000"]);
    assert_eq!((&done["sources"][0]["taken"], &done["sources"][1]["taken"]), (&json!(750), &json!(250)));
    let said = scratch.prospect(&["data", "mix", "rows.jsonl", "pairs.jsonl", "-o", "again.jsonl"]);
    assert!(stderr(&said).contains("the sources' formats differ"), "{}", stderr(&said));
    let done = report(&scratch, &["sample", "mixed.jsonl", "some.jsonl", "--rows", "10"]);
    assert!(done["written"][0]["rows"].as_u64().unwrap() >= 10);
    let done = report(&scratch, &["sample", "rows.jsonl", "parts.jsonl", "--split", "0.5", "--by", "prompt"]);
    assert_eq!(done["rows_read"], 100);
    let done = report(&scratch, &["dedup", "mixed.jsonl", "clean.jsonl"]);
    assert_eq!((&done["rows_read"], &done["removed"]), (&json!(1000), &json!(850)));
    assert_eq!(scratch.prospect(&["data", "mix", "rows.jsonl=x", "-o", "y.jsonl"]).status.code(), Some(2));
    assert_eq!(scratch.prospect(&["data", "sample", "rows.jsonl", "y.jsonl"]).status.code(), Some(2));
}

#[test]
fn completions_are_labelled_and_negatives_made() {
    let scratch = Scratch::new();
    let rows: Vec<Value> = (0..6)
        .map(|n| json!({"prompt": format!("{n}+{n}?"), "completion": format!("it is\n#### {}", n + n % 2 + 1), "answer": 2 * n}))
        .collect();
    scratch.write("rows.jsonl", &lines(&rows));
    let done = report(&scratch, &["label", "rows.jsonl", "gold.jsonl", "--gold", "answer"]);
    let right = (0..6).filter(|n| n + n % 2 + 1 == 2 * n).count();
    assert_eq!((&done["desirable"], &done["undesirable"]), (&json!(right), &json!(6 - right)));
    let done = report(&scratch, &["label", "rows.jsonl", "regex.jsonl", "--regex", "#### [13]$"]);
    assert_eq!(done["desirable"], read(&scratch, "regex.jsonl").iter().filter(|row| row["label"] == true).count());
    scratch.write("scores.jsonl", "0\n1\n2\n3\n4\n5\n");
    let done =
        report(&scratch, &["label", "rows.jsonl", "scored.jsonl", "--scores", "scores.jsonl", "--threshold", "2"]);
    assert_eq!(done["desirable"], 4);
    let done = report(&scratch, &["label", "rows.jsonl", "made.jsonl", "--make-negatives=changed-answer"]);
    assert_eq!(done["made"], json!({"negative:changed-answer": 6}));
    let made = read(&scratch, "made.jsonl");
    assert!(
        made.chunks(2)
            .all(|p| p[0]["source"] == "data" && p[1]["source"] == "negative:changed-answer" && p[1]["label"] == false)
    );
    let all = report(&scratch, &["label", "rows.jsonl", "all.jsonl", "--make-negatives"]);
    assert_eq!(all["made"].as_object().unwrap().len(), 3);
    let two = scratch.prospect(&["data", "label", "rows.jsonl", "x.jsonl", "--gold", "answer", "--regex", "a"]);
    assert_eq!(two.status.code(), Some(2));
}

/// A conversion that Ctrl-C stops half-way goes on from there.
#[cfg(unix)]
#[test]
fn a_stopped_conversion_goes_on_where_it_was() {
    use std::process::{Command, Stdio};
    let scratch = Scratch::new();
    let fifo = scratch.join("in.jsonl");
    let rows: Vec<Value> = (0..40_000)
        .map(|n| json!({"prompt": format!("q{n}"), "completion": "a".repeat(400), "label": n % 2 == 0}))
        .collect();
    scratch.write("in.jsonl", &lines(&rows));
    let convert = ["data", "convert", text(&fifo), "out.parquet"];
    let mut child = scratch.command(&convert).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    // As soon as rows wait beside the output, the work is under way.
    let waiting = || {
        let entries = std::fs::read_dir(&scratch.0).unwrap().flatten();
        entries
            .filter(|e| e.file_name().to_string_lossy().ends_with(".rows"))
            .any(|e| e.metadata().is_ok_and(|m| m.len() > 0))
    };
    while !waiting() && child.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    let _ = Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    let output = child.wait_with_output().unwrap();
    if output.status.code() == Some(75) {
        assert!(stderr(&output).contains("goes on where it stopped"), "{}", stderr(&output));
        assert!(!scratch.join("out.parquet").exists());
        let again = scratch.prospect(&convert);
        assert!(stderr(&again).contains("went on after row "), "{}", stderr(&again));
    }
    let stats = report(&scratch, &["stats", "out.parquet"]);
    assert_eq!(
        (&stats["rows"], &stats["desirable"], &stats["duplicates"]),
        (&json!(40_000), &json!(20_000), &json!(0))
    );
    let hidden =
        std::fs::read_dir(&scratch.0).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0);
    assert!(Path::new(&scratch.join("out.parquet")).is_file());
}
