//! Every shape of row that users bring, read into the one form that training knows.

use data::format::{Body, ReadRow, Reading, Shape, Task, read_row};
use serde_json::{Value as Json, json};

fn read(row: &Json, task: Task) -> ReadRow {
    read_row(row, &Reading::new(task, "text")).unwrap_or_else(|bad| panic!("{}: {}: {row}", bad.path, bad.reason))
}

fn complaint(row: &Json, task: Task) -> String {
    let bad = read_row(row, &Reading::new(task, "text")).unwrap_err();
    format!("{}: {}", bad.path, bad.reason)
}

fn user(text: &str) -> Json {
    json!({"role": "user", "content": text})
}

fn assistant(text: &str) -> Json {
    json!({"role": "assistant", "content": text})
}

/// Shape, and the rows as they are written.
fn rows(row: &Json, task: Task) -> (Shape, Vec<Json>) {
    let read = read(row, task);
    (read.shape, read.examples.iter().map(|e| Json::Object(e.to_row())).collect())
}

#[test]
fn every_layout_of_a_pair_is_the_same_two_rows() {
    let turns = [user("2+2?"), assistant("4"), assistant("5")];
    let [q, good, bad] = &turns;
    let chat = |answer: &Json, label: bool| json!({"prompt": [q], "completion": [answer], "label": label});
    let expected = (Shape::Pair, vec![chat(good, true), chat(bad, false)]);
    let layouts = [
        json!({"prompt": [q], "chosen": [good], "rejected": [bad]}),
        json!({"chosen": [q, good], "rejected": [q, bad]}),
        json!({"prompt": "2+2?", "chosen": [q, good], "rejected": [q, bad], "score_chosen": 7.0}),
        json!({"prompt": [q], "chosen": [q, good], "rejected": [q, bad]}),
        json!({"prompt": "2+2?", "chosen": [good], "rejected": [bad]}),
        json!({"conversations": [{"from": "human", "value": "2+2?"}], "chosen": {"from": "gpt", "value": "4"}, "rejected": {"from": "gpt", "value": "5"}}),
        json!({"messages": [q], "chosen": good, "rejected": bad}),
        json!({"instruction": "2+2?", "input": "", "chosen": "4", "rejected": "5"}),
        json!({"chosen_messages": [q, good], "rejected_messages": [q, bad]}),
    ];
    for layout in &layouts {
        assert_eq!(rows(layout, Task::Kto), expected, "{layout}");
        assert_eq!(rows(layout, Task::Sft).1, [json!({"prompt": [q], "completion": [good]})], "{layout}");
        let prompt = &read(layout, Task::Prompt).examples[0].body;
        assert_eq!(prompt, &Body::Chat { prompt: vec![q.clone()], completion: Vec::new() }, "{layout}");
    }
    assert_eq!(read(&layouts[2], Task::Kto).unused, ["score_chosen"]);
}

#[test]
fn a_pair_of_strings_keeps_its_prompt_or_shares_its_beginning() {
    let row = |p: &str, c: &str, label: bool| json!({"prompt": p, "completion": c, "label": label});
    let beside = json!({"prompt": "The sky is", "chosen": " blue.", "rejected": " green."});
    assert_eq!(rows(&beside, Task::Kto).1, [row("The sky is", " blue.", true), row("The sky is", " green.", false)]);
    let within = json!({"chosen": "The sky is blue.", "rejected": "The sky is green."});
    assert_eq!(rows(&within, Task::Kto).1, rows(&beside, Task::Kto).1);
    let accents = json!({"chosen": "né à", "rejected": "né é"});
    assert_eq!(rows(&accents, Task::Kto).1[1], row("né", " é", false));
    assert!(complaint(&json!({"chosen": "a", "rejected": 3}), Task::Kto).starts_with("chosen: expected two strings"));
    assert!(complaint(&json!({"prompt": "a", "chosen": "", "rejected": "b"}), Task::Kto).starts_with("chosen: "));
}

#[test]
fn alpaca_is_put_together_with_history_and_system() {
    let row = json!({"instruction": "And", "input": "3+3?", "output": "6", "system": "Be brief.", "history": [["2+2?", "4"]], "kto_tag": true});
    let system = json!({"role": "system", "content": "Be brief."});
    let prompt = json!([system, user("2+2?"), assistant("4"), user("And\n3+3?")]);
    let expected = json!({"prompt": prompt, "completion": [assistant("6")], "label": true});
    assert_eq!(rows(&row, Task::Kto), (Shape::Alpaca, vec![expected]));
    let plain = json!({"instruction": "hi", "input": "", "output": "yo"});
    assert_eq!(rows(&plain, Task::Sft).1, [json!({"prompt": [user("hi")], "completion": [assistant("yo")]})]);
    assert!(complaint(&plain, Task::Kto).starts_with("label: expected boolean, found nothing"));
    assert!(complaint(&json!({"instruction": "hi", "output": " "}), Task::Sft).starts_with("output: "));
    assert!(
        complaint(&json!({"instruction": "hi", "output": "a", "history": [["a"]]}), Task::Sft)
            .starts_with("history[0]: ")
    );
}

#[test]
fn sharegpt_turns_take_standard_names_and_calls_become_calls() {
    let row = json!({
        "conversations": [
            {"from": "human", "value": "Weather?", "id": 1},
            {"from": "function_call", "value": "{\"name\": \"weather\", \"arguments\": \"{\\\"at\\\": \\\"Rome\\\"}\"}"},
            {"from": "observation", "value": "sunny"},
            {"from": "gpt", "value": "Sunny."}
        ],
        "system": "You have tools.",
        "tools": "[{\"name\": \"weather\", \"parameters\": {}}]",
        "source": "x"
    });
    let read = read(&row, Task::Sft);
    let Body::Messages(turns) = &read.examples[0].body else { panic!("{read:?}") };
    let roles: Vec<&str> = turns.iter().map(|t| t["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
    assert_eq!(
        turns[2]["tool_calls"],
        json!([{"type": "function", "function": {"name": "weather", "arguments": {"at": "Rome"}}}])
    );
    assert_eq!(
        read.examples[0].tools,
        Some(json!([{"type": "function", "function": {"name": "weather", "parameters": {}}}]))
    );
    assert_eq!(read.unused, ["conversations[].id", "source"]);
}

#[test]
fn am_thinking_keeps_from_and_value_only() {
    let row = json!({"system": "left out", "conversations": [
        {"from": "human", "value": "q", "info": {"ground_truth": "1", "test_case": null}},
        {"from": "assistant", "value": "<think>t</think> <answer>1</answer>", "info": {"ppl": 1.5}}
    ]});
    let read = read(&row, Task::Sft);
    assert_eq!(read.shape, Shape::AmThinking);
    assert_eq!(read.unused, ["conversations[].info", "system"]);
    let expected = json!({"messages": [user("q"), assistant("<think>t</think> <answer>1</answer>")]});
    assert_eq!(Json::Object(read.examples[0].to_row()), expected);
}

#[test]
fn numina_math_is_its_first_two_messages_and_desirable() {
    let row = json!({"source": "cn_k12", "problem": "p", "solution": "s", "messages": [user("p"), assistant("s"), user("more")]});
    let expected = json!({"prompt": [user("p")], "completion": [assistant("s")], "label": true});
    assert_eq!(rows(&row, Task::Kto), (Shape::NuminaMath, vec![expected]));
    assert_eq!(read(&row, Task::Kto).unused, ["source"]);
}

#[test]
fn several_answers_are_several_rows_of_one_prompt() {
    let row = json!({"prompt": [user("q")], "completions": ["a", [assistant("b")], assistant("c")], "labels": [true, false, true]});
    let labels: Vec<Option<bool>> = read(&row, Task::Kto).examples.iter().map(|e| e.label).collect();
    assert_eq!(labels, [Some(true), Some(false), Some(true)]);
    let hashes: Vec<u64> = read(&row, Task::Kto).examples.iter().map(|e| e.hashes().0).collect();
    assert!(hashes.iter().all(|h| *h == hashes[0]));
    let kept = rows(&row, Task::Sft).1;
    assert_eq!(kept.iter().map(|r| &r["completion"][0]["content"]).collect::<Vec<_>>(), ["a", "c"]);
    let few = json!({"prompt": "q", "completions": ["a", "b"], "labels": [true]});
    assert!(complaint(&few, Task::Kto).starts_with("labels: expected 2 booleans"));
    assert!(
        complaint(&json!({"prompt": "q", "completions": ["a"]}), Task::Kto).starts_with("labels: expected a list of 1")
    );
    // A list in `completion` is one answer of several turns, unless it is said to be several answers.
    let listed = json!({"prompt": "q", "completion": ["a", "b"], "label": [true, false]});
    assert!(complaint(&listed, Task::Kto).starts_with("completion: expected string"));
    let reading = Reading { alternatives: true, ..Reading::new(Task::Kto, "text") };
    let read = read_row(&listed, &reading).unwrap();
    assert_eq!((read.shape, read.examples.len(), read.examples[1].label), (Shape::Answers, 2, Some(false)));
    let graded = json!({"question": "q", "gold": "1", "small": {"solution": "1", "is_correct": true}, "big": {"solution": "2", "is_correct": false}});
    assert_eq!(rows(&graded, Task::Kto).1.len(), 2);
    assert_eq!(rows(&graded, Task::Sft).1, [json!({"prompt": [user("q")], "completion": [assistant("1")]})]);
}

#[test]
fn turns_say_whether_they_are_trained_on() {
    let flagged = |row: Json| {
        let example = read(&row, Task::Sft).examples.remove(0);
        (example.trained_turns, example.ignored.loss_weight)
    };
    let turn = |role: &str, name: &str, value: Json| json!({"role": role, "content": "x", name: value});
    let weights =
        json!({"messages": [turn("user", "loss_weight", json!(0.0)), turn("assistant", "loss_weight", json!(1.0))]});
    assert_eq!(flagged(weights), (Some(vec![false, true]), false));
    let mixed = json!({"messages": [user("a"), turn("assistant", "train", json!(false)), user("b"), assistant("c")], "system": "s"});
    assert_eq!(flagged(mixed), (Some(vec![false, false, false, false, true]), false));
    let half = json!({"messages": [user("a"), turn("assistant", "weight", json!(0.5))]});
    assert_eq!(flagged(half), (Some(vec![false, true]), true));
    let none = json!({"messages": [user("a"), turn("assistant", "train", json!(false))]});
    assert!(complaint(&none, Task::Sft).contains("no turn of this conversation is trained on"));
    let wrong = json!({"messages": [user("a"), turn("assistant", "train", json!("yes"))]});
    assert!(complaint(&wrong, Task::Sft).starts_with("messages[1].train: expected a boolean"));
}

#[test]
fn parts_of_a_content_are_text_reasoning_and_calls() {
    let content = json!([
        {"type": "reasoning", "value": "hm"}, {"type": "text", "value": "so "}, {"type": "text", "text": "4"},
        {"type": "tool_call", "value": "{\"name\": \"f\", \"arguments\": {}}"}
    ]);
    let row = json!({"messages": [user("q"), {"role": "assistant", "content": content}]});
    let Body::Messages(turns) = read(&row, Task::Sft).examples.remove(0).body else { panic!() };
    assert_eq!((&turns[1]["content"], &turns[1]["reasoning_content"]), (&json!("so 4"), &json!("hm")));
    assert_eq!(turns[1]["tool_calls"][0]["function"]["name"], "f");
}

#[test]
fn a_written_row_is_read_as_what_it_was() {
    let originals = [
        json!({"instruction": "hi", "output": "yo", "label": true}),
        json!({"prompt": "a", "completion": "b", "label": false, "tools": [{"name": "t"}], "chat_template_kwargs": {"k": 1}}),
        json!({"messages": [user("a"), {"role": "assistant", "content": "x", "loss_weight": 1.0}], "label": true}),
    ];
    for row in &originals {
        for task in [Task::Kto, Task::Sft] {
            let mut first = read(row, task).examples;
            first.iter_mut().for_each(|e| e.ignored = data::format::Ignored::default());
            let mut second = read(&Json::Object(first[0].to_row()), task).examples;
            second.iter_mut().for_each(|e| e.ignored = data::format::Ignored::default());
            assert_eq!(first, second, "{row}");
        }
    }
}

#[test]
fn a_shape_that_is_asked_for_is_not_guessed() {
    let row = json!({"messages": [user("a"), assistant("b")], "instruction": "i", "output": "o"});
    let as_shape = |shape| read_row(&row, &Reading { shape: Some(shape), ..Reading::new(Task::Sft, "text") });
    assert_eq!(as_shape(Shape::Alpaca).unwrap().shape, Shape::Alpaca);
    assert!(Shape::ALL.iter().all(|&shape| Shape::named(shape.name()) == Some(shape)));
    // Fields that the shape needs and the row lacks are complaints.
    for shape in Shape::ALL {
        let reading = Reading { shape: Some(shape), ..Reading::new(Task::Kto, "text") };
        assert!(read_row(&json!({"x": 1}), &reading).is_err(), "{shape:?}");
    }
}
