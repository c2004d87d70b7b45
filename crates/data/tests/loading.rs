//! From files to token rows, against the reference trainer and against wrong input.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use data::tokenizer::Tokenizer;
use data::{Clock, Dataset, Error, OnBadRow, Options, Order, Shuffle, Task, Truncation, load, pairing, read_examples};
use serde_json::Value as Json;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&fixtures().join("tokenizer"), Clock::at(0)).unwrap()
}

/// A folder of this test's own, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("data-loading-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to do about a temporary folder that cannot be removed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn load_text(name: &str, text: &str, options: &Options) -> data::Result<Dataset> {
    let folder = Folder::new(&name.replace('.', "-"));
    load(&[folder.file(name, text)], &tokenizer(), options, &mut |_, _| ControlFlow::Continue(()))
}

/// The message of the error that loading `text` as `rows.jsonl` gives, without the folder's path.
fn complaint(test: &str, text: &str, options: &Options) -> (String, u8) {
    let folder = Folder::new(test);
    let error = load(&[folder.file("rows.jsonl", text)], &tokenizer(), options, &mut |_, _| ControlFlow::Continue(()))
        .unwrap_err();
    (error.to_string().replace(&format!("{}/", folder.0.display()), ""), error.exit_code())
}

fn loss_string(data: &Dataset, row: usize) -> String {
    let spans = data.loss_spans(row);
    (0..data.tokens(row).len() as u32).map(|p| if spans.iter().any(|s| s.contains(&p)) { '1' } else { '0' }).collect()
}

#[test]
fn rows_equal_those_of_the_reference_trainer() {
    let cases: Vec<Json> = serde_json::from_slice(&std::fs::read(fixtures().join("expected.json")).unwrap()).unwrap();
    let ids = |json: &Json| json.as_array().unwrap().iter().map(|v| v.as_u64().unwrap() as u32).collect::<Vec<_>>();
    let tokenizer = tokenizer();
    for case in &cases {
        let task = if case["task"] == "kto" { Task::Kto } else { Task::Sft };
        let mut options = Options::new(task);
        options.max_length = case["max_length"].as_u64().map(|n| n as usize);
        options.completion_only_loss = case["completion_only_loss"].as_bool();
        let file = fixtures().join(case["data"].as_str().unwrap());
        let data = load(&[file], &tokenizer, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let batch = case["batch"].as_u64().unwrap() as usize;
        let order = Order { rows: data.len(), micro_batch: batch, accumulation: 1, seed: 0, shuffle: Shuffle::None };
        let epoch = order.epoch(0);
        let partners = pairing::trl(&data.prompt_hashes(), batch).partner;
        for (k, &row) in epoch.step(0).rows().iter().enumerate() {
            let (row, name) = (row as usize, &case["name"]);
            assert_eq!(data.tokens(row), ids(&case["rows"][k]["ids"]), "{name}, row {k}");
            assert_eq!(loss_string(&data, row), case["rows"][k]["loss"].as_str().unwrap(), "{name}, row {k}");
            if let Some(labels) = case.get("labels") {
                assert_eq!(data.row(row).label, labels[k].as_bool());
            }
            if let Some(mismatched) = case.get("mismatched") {
                let (prompt, answer) = (data.prompt(row), data.mismatched_completion(row, partners[row] as usize));
                assert_eq!([prompt, answer].concat(), ids(&mismatched[k]["ids"]), "{name}, row {k}");
                let loss = "0".repeat(prompt.len()) + &"1".repeat(answer.len());
                assert_eq!(loss, mismatched[k]["loss"].as_str().unwrap(), "{name}, row {k}");
            }
        }
    }
    assert_eq!(cases.len(), 9);
}

#[test]
fn every_shape_of_a_conversation_gives_the_same_row() {
    let shapes = [
        r#"{"prompt": [{"role": "user", "content": "2+2?"}], "completion": [{"role": "assistant", "content": "4"}], "label": true}"#,
        r#"{"messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}], "label": true}"#,
        r#"{"conversations": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}], "label": true}"#,
        r#"{"conversations": [{"from": "human", "value": "2+2?"}, {"from": "gpt", "value": "4"}], "label": true, "system": null}"#,
        r#"{"messages": [{"role": "user", "content": [{"type": "text", "text": "2+"}, {"type": "text", "value": "2?"}]}, {"role": "assistant", "content": "4"}], "label": true}"#,
    ];
    let data = load_text("shapes.jsonl", &shapes.join("\n"), &Options::new(Task::Kto)).unwrap();
    assert_eq!(data.len(), shapes.len());
    for i in 0..data.len() {
        assert_eq!((data.prompt(i), data.completion(i)), (data.prompt(0), data.completion(0)), "shape {i}");
        assert_eq!(data.row(i).prompt_hash, data.row(0).prompt_hash);
    }
    let text = tokenizer().decode(data.tokens(0), false).unwrap();
    assert_eq!(text, "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n");
    assert_eq!(tokenizer().decode(data.completion(0), false).unwrap(), "4<|im_end|>\n");
}

#[test]
fn an_array_a_line_per_row_and_several_files_give_the_same_rows() {
    let rows: Vec<String> =
        (0..1100).map(|i| format!(r#"{{"prompt": "{i}, [\"", "completion": "é}}{i}\\"}}"#)).collect();
    let folder = Folder::new("layouts");
    let lines = folder.file("a.jsonl", &(rows.join("\r\n\n") + "\n"));
    let array = folder.file("b.json", &format!("\u{feff} [\n  {}\n]\n", rows.join(",\n  ")));
    let half =
        [folder.file("c.jsonl", &rows[..7].join("\n")), folder.file("d.json", &format!("[{}]", rows[7..].join(",")))];
    let (tokenizer, options) = (tokenizer(), Options::new(Task::Sft));
    let mut done = Vec::new();
    let a = load(&[lines], &tokenizer, &options, &mut |read, all| {
        done.push((read, all));
        ControlFlow::Continue(())
    })
    .unwrap();
    assert!(done.len() > 1 && done.is_sorted() && done.iter().all(|d| d.1 == done[0].1));
    assert_eq!(done.last().map(|d| d.0), done.last().map(|d| d.1));
    for files in [vec![array], half.to_vec()] {
        let b = load(&files, &tokenizer, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        assert_eq!(b.len(), 1100);
        assert!((0..1100).all(|i| a.tokens(i) == b.tokens(i)));
    }
    assert_eq!(a.row(1099).line, 2199);
}

#[test]
fn a_bad_row_names_place_field_expectation_and_remedy() {
    let good = r#"{"prompt": "a", "completion": "b", "label": true}"#;
    let kto = Options::new(Task::Kto);
    let cases = [
        (
            r#"{"prompt": "a", "completion": "b", "label": "yes"}"#,
            r#"rows.jsonl:2:45: field `label`: expected boolean, found string "yes"; write true for a desirable completion, false for an undesirable one, without quotes"#,
        ),
        (
            r#"{"prompt": "a", "completion": "b", "label": 1}"#,
            "rows.jsonl:2:45: field `label`: expected boolean, found number 1;",
        ),
        (r#"{"prompt": "a", "completion": "b"}"#, "rows.jsonl:2:1: field `label`: expected boolean, found nothing;"),
        (
            r#"{"prompt": "é", "completion": "  ", "label": true}"#,
            "rows.jsonl:2:31: field `completion`: expected something to train on, found an empty completion; remove the row",
        ),
        (
            r#"{"prompt": "a", "completion": ["b"], "label": true}"#,
            "rows.jsonl:2:31: field `completion`: expected string, as `prompt` is; found a list of 1",
        ),
        (
            r#"{"prompt": 3, "completion": "b", "label": true}"#,
            "rows.jsonl:2:12: field `prompt`: expected string or list of turns; found number 3",
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}], "label": true}"#,
            r#"rows.jsonl:2:15: field `messages[0]`: expected the last turn to be the assistant's (it is the completion), found role string "user""#,
        ),
        (
            r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant"}], "label": true}"#,
            "rows.jsonl:2:49: field `messages[1].content`: expected string, found nothing",
        ),
        (
            r#"{"messages": [{"role": "user", "content": [{"type": "image"}]}], "label": true}"#,
            "rows.jsonl:2:44: field `messages[0].content[0]`: expected a part of type \"text\", found a part of type \"image\"; only text can be trained on",
        ),
        (
            r#"{"conversations": [], "label": true}"#,
            "rows.jsonl:2:19: field `conversations`: expected at least one turn, found an empty list",
        ),
        (
            r#"{"text": "a", "label": true}"#,
            "rows.jsonl:2:1: expected `prompt` + `completion` + `label`, `messages` + `label`, `conversations` + `label`, `instruction` + `output` + `label`, or `chosen` + `rejected`; found `text`, `label`",
        ),
        (
            r#"{"chosen": "a", "rejected": "a"}"#,
            "rows.jsonl:2:12: field `chosen`: expected something to train on, found an empty completion",
        ),
        (r#"[1]"#, "rows.jsonl:2:1: expected a JSON object, found a list of 1"),
        (r#"{"prompt": "é" "completion""#, "rows.jsonl:2:16: not valid JSON: expected `,` or `}`"),
        (
            r#"{"prompt": "a", "completion": "b", "label": true, "tools": 3}"#,
            "rows.jsonl:2:60: field `tools`: expected a list of JSON schemas, found number 3",
        ),
        (
            r#"{"prompt": "a", "completion": "b", "label": true, "chat_template_kwargs": {"messages": []}}"#,
            "rows.jsonl:2:88: field `chat_template_kwargs.messages`: this variable is set by the trainer; remove it",
        ),
    ];
    for (row, expected) in cases {
        let (message, code) = complaint("bad-row", &format!("{good}\n{row}\n"), &kto);
        assert!(message.starts_with(expected), "expected {expected}\nfound    {message}");
        assert_eq!(code, 3);
    }
}

#[test]
fn a_bad_row_of_an_array_is_found_in_the_file() {
    let folder = Folder::new("array");
    let text = "[\n {\"prompt\": \"a\", \"completion\": \"b\", \"label\": true},\n {\"prompt\": \"a\",\n  \"completion\": \"b\", \"label\": null}]";
    let error = load(&[folder.file("rows.json", text)], &tokenizer(), &Options::new(Task::Kto), &mut |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap_err();
    let Error::Row { place, field, .. } = &error else { panic!("{error}") };
    assert_eq!((place.line, place.column, field.as_str()), (4, 31, "label"));
    for (name, text, line) in [
        ("open.json", "[{\"text\": \"a\"},\n{\"text\"", 2),
        ("end.json", "[{\"text\": \"a\"}]\nx", 2),
        ("half.json", "[{\"text\": \"a\"}", 1),
    ] {
        let error = load(&[folder.file(name, text)], &tokenizer(), &Options::new(Task::Sft), &mut |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap_err();
        let Error::Row { place, .. } = &error else { panic!("{error}") };
        assert_eq!(place.line, line, "{error}");
    }
}

#[test]
fn bad_rows_are_skipped_and_counted_when_asked() {
    let text = "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": true}\nnonsense\n{\"prompt\": \"a\", \"completion\": \"b\"}\n{\"prompt\": \"c\", \"completion\": \"d\", \"label\": false}\n";
    let options = Options { on_bad_row: OnBadRow::Skip, ..Options::new(Task::Kto) };
    let data = load_text("skip.jsonl", text, &options).unwrap();
    assert_eq!(
        (data.report.rows_read, data.report.rows, data.report.bad, data.report.bad_examples.len()),
        (4, 2, 2, 2)
    );
    assert!(data.report.bad_examples[1].contains("skip.jsonl:3:1: field `label`"), "{:?}", data.report.bad_examples);
    assert_eq!((data.row(1).index, data.row(1).line, data.label_counts()), (3, 4, (1, 1)));
}

#[test]
fn truncation_cuts_drops_and_counts() {
    let text = "{\"prompt\": \"one two three four five six seven\", \"completion\": \"a\", \"label\": true}\n{\"prompt\": \"one\", \"completion\": \"eight nine ten eleven twelve thirteen\", \"label\": true}\n{\"prompt\": \"two\", \"completion\": \"b\", \"label\": false}\n";
    let options = Options { max_length: Some(10), ..Options::new(Task::Kto) };
    let kept = load_text("cut.jsonl", text, &options).unwrap();
    assert_eq!((kept.len(), kept.report.truncated, kept.report.dropped_prompt_only), (2, 1, 1));
    assert_eq!(kept.tokens(0).len(), 10);
    // Behind the shorter prompt, more of the same completion fits; each is cut on its own.
    let (short, long) = (kept.prompt(0).len(), kept.prompt(1).len());
    assert_eq!(kept.mismatched_completion(1, 0).len() + long, 10);
    assert_eq!(kept.mismatched_completion(0, 0), kept.completion(0));
    assert!(kept.mismatched_completion(0, 1).len() + short <= 10);
    let drop = load_text("drop.jsonl", text, &Options { truncation: Truncation::Drop, ..options.clone() }).unwrap();
    assert_eq!((drop.len(), drop.report.truncated, drop.report.dropped_too_long), (1, 0, 2));
    let all = load_text("all.jsonl", text, &Options { max_length: None, ..options.clone() }).unwrap();
    assert_eq!((all.len(), all.report.truncated), (3, 0));
    let (message, code) = complaint("none-left", text, &Options { max_length: Some(1), ..options });
    assert!(
        message.starts_with("none of the 3 rows can be trained on. The first: rows.jsonl:1:1: the row has "),
        "{message}"
    );
    assert!(message.contains("cut to `max_length` (1) nothing to predict is left"), "{message}");
    assert_eq!(code, 3);
}

#[test]
fn empty_data_are_an_error() {
    for text in ["", "\n\n", "[]"] {
        let (message, code) = complaint("empty", text, &Options::new(Task::Sft));
        assert_eq!((message.as_str(), code), ("rows.jsonl: expected at least one row, found none", 3));
    }
}

#[test]
fn losses_cover_what_was_asked_for() {
    let row = r#"{"prompt": [{"role": "user", "content": "hi"}], "completion": [{"role": "assistant", "content": "yes"}], "label": false}"#;
    let predicted = |data: &Dataset| data.report.loss_tokens as usize;
    let sft = Options::new(Task::Sft);
    let completion = load_text("c.jsonl", row, &sft).unwrap();
    assert_eq!(predicted(&completion), completion.completion(0).len());
    assert_eq!(completion.report.ignored_labels, 1);
    let whole = load_text("w.jsonl", row, &Options { completion_only_loss: Some(false), ..sft.clone() }).unwrap();
    assert_eq!(predicted(&whole), whole.tokens(0).len() - 1);
    let text =
        load_text("t.jsonl", r#"{"body": "a b<|im_end|>"}"#, &Options { text_field: "body".into(), ..sft.clone() })
            .unwrap();
    assert_eq!(tokenizer().decode(text.tokens(0), false).unwrap(), "a b<|im_end|>");
    let (message, code) = complaint("marks", row, &Options { assistant_only_loss: true, ..sft });
    assert!(message.starts_with("`assistant_only_loss`: the chat template does not mark"), "{message}");
    assert_eq!(code, 2);
}

#[test]
fn only_what_the_assistant_wrote_is_predicted_when_asked() {
    let folder = Folder::new("generation");
    for name in ["tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(fixtures().join("tokenizer").join(name), folder.0.join(name)).unwrap();
    }
    let template = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% if m.role == 'assistant' %}{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{% else %}{{ m.content + '<|im_end|>' }}{% endif %}{{ '\\n' }}{% endfor %}";
    folder.file("chat_template.jinja", template);
    let tokenizer = Tokenizer::load(&folder.0, Clock::at(0)).unwrap();
    let row = r#"{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yés 🙂"}, {"role": "user", "content": "so"}, {"role": "assistant", "content": "no"}]}"#;
    let options = Options { assistant_only_loss: true, ..Options::new(Task::Sft) };
    let data =
        load(&[folder.file("rows.jsonl", row)], &tokenizer, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let texts: Vec<String> = data
        .loss_spans(0)
        .iter()
        .map(|s| tokenizer.decode(&data.tokens(0)[s.start as usize..s.end as usize], false).unwrap())
        .collect();
    assert_eq!(texts, ["yés 🙂<|im_end|>", "no<|im_end|>"]);
    let silent = r#"{"messages": [{"role": "user", "content": "hi"}]}"#;
    let error =
        load(&[folder.file("silent.jsonl", silent)], &tokenizer, &options, &mut |_, _| ControlFlow::Continue(()))
            .unwrap_err();
    assert!(error.to_string().contains("marks no text of this row as the assistant's"), "{error}");
}

#[test]
fn a_prompt_that_is_no_prefix_is_counted_and_shown() {
    let data = load(&[fixtures().join("kto_awkward46.jsonl")], &tokenizer(), &Options::new(Task::Kto), &mut |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((data.report.unstable_prefix, data.report.unstable_example.as_deref()), (12, Some(" ans")));
}

#[test]
fn prompts_are_read_with_or_without_a_completion() {
    let folder = Folder::new("prompts");
    let text = "{\"prompt\": \"a\"}\n{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}, {\"role\": \"assistant\", \"content\": \"no\"}]}\n{\"text\": \"b\"}";
    let examples = read_examples(&[folder.file("rows.jsonl", text)], &Options::new(Task::Prompt)).unwrap();
    let tokenizer = tokenizer();
    let texts: Vec<String> = examples
        .iter()
        .map(|(_, e)| tokenizer.decode(&data::encode_prompt(&tokenizer, e).unwrap(), false).unwrap())
        .collect();
    assert_eq!(texts, ["a", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "b"]);
}

#[test]
fn a_folder_stands_for_the_files_of_its_split() {
    let folder = Folder::new("splits");
    let names = |found: Vec<PathBuf>| {
        found.iter().map(|f| f.strip_prefix(&folder.0).unwrap().display().to_string()).collect::<Vec<_>>()
    };
    let find = |split: &str| data::source::resolve(&folder.0, split);
    let single = folder.file("a.jsonl", "");
    folder.file("b.json", "");
    folder.file("dataset_info.json", "");
    folder.file("test_set.jsonl", "");
    assert_eq!(names(find("train").unwrap()), ["a.jsonl", "b.json"]);
    folder.file("train-00001-of-00002.jsonl", "");
    folder.file("train-00000-of-00002.jsonl", "");
    folder.file("validation/x.jsonl", "");
    folder.file("trainer.jsonl", "");
    assert_eq!(names(find("train").unwrap()), ["train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"]);
    assert_eq!(names(find("test").unwrap()), ["test_set.jsonl"]);
    assert_eq!(names(find("validation").unwrap()), ["validation/x.jsonl"]);
    assert_eq!(data::source::resolve(&single, "train").unwrap(), std::slice::from_ref(&single));
    let error = find("dev").unwrap_err();
    assert!(error.to_string().contains("no data file for the split `dev`"), "{error}");
    let other = data::source::resolve(&folder.file("x.docx", "PK"), "train").unwrap_err();
    assert!(other.to_string().contains(".arrow (the texts also as .gz or .zst), found .docx"), "{other}");
    assert_eq!(find("train").unwrap(), data::source::resolve(&folder.0.join("train-*.jsonl"), "train").unwrap());
    assert!(data::source::resolve(&folder.0.join("no-*.jsonl"), "train").is_err());
    assert!(data::source::resolve(Path::new("no/such/place"), "train").is_err());
}

#[test]
fn a_tokenizer_folder_explains_what_is_wrong_with_it() {
    let folder = Folder::new("tokenizer");
    folder.file("qwen.tiktoken", "");
    let error = Tokenizer::load(&folder.0, Clock::at(0)).unwrap_err();
    assert!(error.to_string().contains("qwen.tiktoken: expected tokens, found none"), "{error}");
    assert_eq!(error.exit_code(), 6);
    std::fs::copy(fixtures().join("tokenizer/tokenizer.json"), folder.0.join("tokenizer.json")).unwrap();
    folder.file("tokenizer_config.json", r#"{"eos_token": {"content": "<|nope|>"}}"#);
    let error = Tokenizer::load(&folder.0, Clock::at(0)).unwrap_err();
    assert!(
        error.to_string().contains("`eos_token`: expected a token of the vocabulary, found \"<|nope|>\""),
        "{error}"
    );
    folder.file("tokenizer_config.json", "{");
    assert!(Tokenizer::load(&folder.0, Clock::at(0)).unwrap_err().to_string().contains("not valid JSON"));
    folder.file("tokenizer_config.json", "{}");
    let error = Tokenizer::load(&folder.0, Clock::at(0)).unwrap().template().map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("no chat template"), "{error}");
}

#[test]
fn special_tokens_follow_the_configuration() {
    let folder = Folder::new("specials");
    std::fs::copy(fixtures().join("tokenizer/tokenizer.json"), folder.0.join("tokenizer.json")).unwrap();
    folder.file(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<|im_start|>"}, "eos_token": "<|im_end|>", "add_bos_token": true, "model_max_length": 1e30,
            "added_tokens_decoder": {"391": {"content": "<extra>", "special": true}},
            "chat_template": [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "{{ bos_token }}d"}]}"#,
    );
    let t = Tokenizer::load(&folder.0, Clock::at(0)).unwrap();
    assert_eq!((t.bos_id(), t.eos_id(), t.pad_id(), t.model_max_length()), (Some(390), Some(388), None, None));
    assert_eq!((t.vocab_size(), t.token_to_id("<extra>")), (392, Some(391)));
    let plain = t.encode("a<extra>", false).unwrap();
    assert_eq!(t.encode("a<extra>", true).unwrap(), [&[390], plain.as_slice()].concat());
    assert_eq!(plain.last(), Some(&391));
    assert_eq!((t.decode(&plain, false).unwrap(), t.decode(&plain, true).unwrap()), ("a<extra>".into(), "a".into()));
    assert_eq!(t.render(data::RenderInput::default()).unwrap(), "<|im_start|>d");
    folder.file("chat_template.jinja", "file");
    let t = Tokenizer::load(&folder.0, Clock::at(0)).unwrap();
    assert_eq!(t.render(data::RenderInput::default()).unwrap(), "file");
}

#[test]
fn loading_does_not_depend_on_threads() {
    let rows: String = (0..700).map(|i| format!("{{\"prompt\": \"{i}\", \"completion\": \"{}\"}}\n", i * 31)).collect();
    let pool = |n| rayon::ThreadPoolBuilder::new().num_threads(n).build().unwrap();
    let options = Options::new(Task::Sft);
    let one = pool(1).install(|| load_text("one.jsonl", &rows, &options)).unwrap();
    let three = pool(3).install(|| load_text("three.jsonl", &rows, &options)).unwrap();
    assert_eq!(one.rows(), three.rows());
    assert!((0..700).all(|i| one.tokens(i) == three.tokens(i)));
}
