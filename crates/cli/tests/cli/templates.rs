//! Templates that mean harm: each ends as an error of its row, within its time and memory, and the next row is rendered.

use crate::{Scratch, golden, objects, stderr};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Templates that hang or grow, and what becomes of them.
const HOSTILE: [(&str, &str); 16] = [
    // Loops in loops: fuel.
    (
        "{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{% endfor %}{% endfor %}{% endfor %}",
        "limit",
    ),
    // A string doubled forty times: address space.
    (
        "{% set ns = namespace(s='x' * 1000) %}{% for i in range(40) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s|length }}",
        "limit",
    ),
    (
        "{% set ns = namespace(s=['x']) %}{% for i in range(40) %}{% set ns.s = ns.s + ns.s %}{% endfor %}{{ ns.s|length }}",
        "limit",
    ),
    (
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = ns.s|replace('x', 'xxxx') %}{% endfor %}{{ ns.s|length }}",
        "limit",
    ),
    (
        "{% set ns = namespace(s='x') %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s]|join(ns.s) %}{% endfor %}{{ ns.s|length }}",
        "limit",
    ),
    (
        "{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s }}",
        "limit",
    ),
    (
        "{% set ns = namespace(s=[1]) %}{% for i in range(40) %}{% set ns.s = [ns.s, ns.s] %}{% endfor %}{{ ns.s|tojson }}",
        "limit",
    ),
    // Endless output.
    ("{% for a in range(9999) %}{% for b in range(9999) %}{{ 'y' * 100000 }}{% endfor %}{% endfor %}", "limit"),
    // Deep calls.
    ("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "type"),
    ("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", "type"),
    // One operation that asks for much.
    ("{{ 'x' * 99999999999 }}", "any"),
    ("{{ 'x'|center(99999999999) }}", "any"),
    ("{{ '%99999999999d'|format(1) }}", "any"),
    ("{{ 'x'|indent(99999999999) }}", "any"),
    ("{{ range(99999999999)|list|length }}", "any"),
    ("{{ messages|tojson(indent=99999999999) }}", "any"),
];

/// Memory of the process that renders, in MiB, and its time for a row, in seconds.
const LIMITS: [&str; 4] = ["--max-memory", "256", "--max-seconds", "3"];

fn render(scratch: &Scratch, template: &str, rows: &[Value]) -> Vec<Value> {
    scratch.write("t.jinja", template);
    scratch.write("rows.jsonl", &rows.iter().map(|row| format!("{row}\n")).collect::<String>());
    let args = [&["data", "render", "t.jinja", "--conversations", "rows.jsonl", "--json"], &LIMITS[..]].concat();
    objects(&scratch.succeeds(&args))
}

#[test]
fn hostile_templates_end_as_errors_and_the_next_row_is_rendered() {
    let scratch = Scratch::new();
    let row = |hostile: bool| json!({"messages": [{"role": "user", "content": "hi"}], "hostile": hostile});
    for (template, kind) in HOSTILE {
        // White space and all: the harm is done in the first row only.
        let guarded = format!("{{% if hostile %}}{template}{{% else %}}fine{{% endif %}}");
        let began = Instant::now();
        let answers = render(&scratch, &guarded, &[row(true), row(false)]);
        // Three seconds of processor time are thirty on the wall of a busy machine at worst.
        assert!(began.elapsed() < Duration::from_secs(40), "{template}: {:?}", began.elapsed());
        if kind == "any" {
            assert!(
                answers[0]["error"].is_string() || answers[0]["rendered"].as_str().is_some_and(|t| t.len() < 100_000),
                "{template}"
            );
        } else {
            assert_eq!(answers[0]["kind"], kind, "{template}: {}", answers[0]);
        }
        assert_eq!(answers[1], json!({"rendered": "fine"}), "{template}");
    }
}

#[test]
fn templates_nested_past_reason_are_refused() {
    let scratch = Scratch::new();
    let row = json!({"messages": [{"role": "user", "content": "hi"}]});
    for (open, close) in
        [("(", ")"), ("[", "]"), ("{% if true %}", "{% endif %}"), ("not ", ""), ("-", ""), ("{{", "}}")]
    {
        let (left, right) = (open.repeat(100_000), close.repeat(100_000));
        let template =
            if open.starts_with("{%") { format!("{left}{right}") } else { format!("{{{{ {left}1{right} }}}}") };
        let answer = render(&scratch, &template, std::slice::from_ref(&row)).remove(0);
        assert!(answer["error"].is_string(), "{open}: {answer}");
    }
}

#[test]
fn what_a_template_says_is_told_by_kind() {
    let scratch = Scratch::new();
    let row = json!({
        "messages": [{"role": "user", "content": "hi"}], "add_generation_prompt": true, "bos_token": "<s>",
        "chat_template_kwargs": {"deep": 1}, "tools": [{"name": "t"}]
    });
    let of = |template: &str| render(&scratch, template, std::slice::from_ref(&row)).remove(0);
    let all = "{{ bos_token }}{{ messages[0].content }}{{ deep }}{{ tools[0].name }}{{ add_generation_prompt }}";
    assert_eq!(of(all), json!({"rendered": "<s>hi1tTrue"}));
    assert_eq!(of("{{ raise_exception('no') }}"), json!({"error": "no", "kind": "raised", "line": 1}));
    assert_eq!(of("{% if %}")["kind"], "syntax");
    assert_eq!(of("a\n{{ messages + 1 }}")["line"], 2);
    let bad = render(&scratch, "x", &[json!({"prompt": "a"}), json!([1])]);
    assert!(bad.iter().all(|answer| answer["error"].as_str().unwrap().contains("`messages`")), "{bad:?}");
    let plain = scratch.succeeds(&["data", "render", "chatml", "--conversations", "rows.jsonl"]);
    assert!(plain.starts_with("--- row 0\nerror (type): "), "{plain}");
}

#[test]
fn a_hostile_template_of_a_model_ends_the_command_within_its_memory() {
    let scratch = Scratch::new();
    let growing = "{% set ns = namespace(s='x' * 1000) %}{% for i in range(26) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s|length }}";
    let folder = scratch.join("model");
    std::fs::create_dir(&folder).unwrap();
    for file in std::fs::read_dir(golden("models/qwen2")).unwrap().map(|entry| entry.unwrap().path()) {
        std::fs::copy(&file, folder.join(file.file_name().unwrap())).unwrap();
    }
    scratch.write("model/chat_template.jinja", growing);
    let row = json!({"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "a"}]});
    scratch.write("rows.jsonl", &format!("{row}\n"));
    let words = ["data", "show", "rows.jsonl", "--model", "model"];
    let output = scratch.prospect(&words);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    assert!(stderr(&output).contains("more than 1024 MiB of memory"), "{}", stderr(&output));
}
