//! `score`, `generate` and `merge` against reference numbers and against one another.

use crate::{Scratch, golden, objects, text};
use serde_json::{Value, json};

fn sequences() -> Vec<Value> {
    serde_json::from_str(&std::fs::read_to_string(golden("forward/qwen2/sequences.json")).unwrap()).unwrap()
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

#[test]
fn scores_of_texts_equal_transformers() {
    let scratch = Scratch::new();
    let rows: Vec<String> = sequences().iter().map(|s| json!({"text": s["text"]}).to_string()).collect();
    let rows = scratch.write("texts.jsonl", &rows.join("\n"));
    let model = golden("models/qwen2");
    let scored = objects(&scratch.succeeds(&["score", text(&model), "--data", text(&rows), "--tokens", "--json"]));
    let expected = weights::SafeTensors::open(&golden("forward/qwen2/expected.safetensors")).unwrap();
    assert_eq!(scored.len(), sequences().len());
    for (i, row) in scored.iter().enumerate() {
        let want = expected.get(&format!("logps.{i}")).unwrap().to_f64().unwrap();
        let got = numbers(&row["token_logps"]);
        assert_eq!((row["index"].as_u64(), row["num_tokens"].as_u64()), (Some(i as u64), Some(want.len() as u64)));
        assert_eq!(got.len(), want.len());
        got.iter().zip(&want).for_each(|(g, w)| assert!((g - w).abs() < 1e-4, "row {i}: {g}, expected {w}"));
        assert!((row["logp"].as_f64().unwrap() - want.iter().sum::<f64>()).abs() < 1e-4);
    }
}

/// `reference_logps` of the first batch of TRL's KTOTrainer on conversations and on plain text.
const TRL: [(&str, [f64; 4]); 2] = [
    ("data/kto_chat.jsonl", [-110.83850860595703, -40.943870544433594, -42.24549865722656, -113.1641616821289]),
    ("data/kto_plain.jsonl", [-114.35212707519531, -36.711570739746094, -56.74816131591797, -116.68745422363281]),
];

#[test]
fn scores_of_completions_equal_the_reference_of_trl() {
    let scratch = Scratch::new();
    let model = golden("models/qwen2");
    for (rows, want) in TRL {
        let scored = objects(&scratch.succeeds(&["score", text(&model), "--data", text(&golden(rows)), "--json"]));
        assert_eq!(scored.len(), 48);
        for (row, want) in scored.iter().zip(want) {
            let logp = row["logp"].as_f64().unwrap();
            assert!((logp - want).abs() < 1e-4, "{row}, expected {want}");
            assert!(row.get("token_logps").is_none());
        }
    }
    let rows = golden(TRL[0].0);
    let table = scratch.succeeds(&["score", text(&model), "--data", text(&rows), "--tokens"]);
    assert!(table.lines().next().unwrap().contains("num_tokens"), "{table}");
    assert!(table.contains("-110.838") && table.contains("\"<|im_end|>\""), "{table}");
    assert!(table.lines().last().unwrap().starts_with("48 rows, "), "{table}");
}

#[test]
fn a_conversation_is_scored_as_its_prompt_and_completion() {
    let scratch = Scratch::new();
    let (question, answer) =
        (json!({"role": "user", "content": "2 + 3?"}), json!({"role": "assistant", "content": "5."}));
    let rows = [
        json!({"prompt": [question], "completion": [answer]}),
        json!({"messages": [question, answer]}),
        json!({"conversations": [{"from": "human", "value": "2 + 3?"}, {"from": "gpt", "value": "5."}], "label": true}),
    ];
    let rows = scratch.write("rows.json", &json!(rows).to_string());
    let model = golden("models/qwen2");
    let scored = objects(&scratch.succeeds(&["score", text(&model), "--data", text(&rows), "--json"]));
    let pairs: Vec<_> =
        scored.iter().map(|row| (row["num_tokens"].as_u64().unwrap(), row["logp"].as_f64().unwrap())).collect();
    assert!(pairs.iter().all(|&(n, logp)| n == pairs[0].0 && (logp - pairs[0].1).abs() < 1e-4), "{pairs:?}");
}

#[test]
fn greedy_raw_generation_equals_transformers() {
    let scratch = Scratch::new();
    let model = golden("models/qwen2");
    let sequences = sequences();
    let prompt = |s: &Value| {
        let whole = s["text"].as_str().unwrap();
        whole[..whole.find("assistant\n").unwrap() + "assistant\n".len()].to_owned()
    };
    let rows: Vec<String> = sequences.iter().map(|s| json!({"prompt": prompt(s)}).to_string()).collect();
    let rows = scratch.write("prompts.jsonl", &rows.join("\n"));
    let greedy = ["--raw", "--temperature", "0", "--max-new-tokens", "24", "--ignore-eos", "--json"];
    let from_file = [&["generate", text(&model), "--data", text(&rows)], &greedy[..]].concat();
    let answers = objects(&scratch.succeeds(&from_file));
    assert_eq!(answers.len(), sequences.len());
    for (answer, sequence) in answers.iter().zip(&sequences) {
        assert_eq!(answer["token_ids"], sequence["greedy_24"]);
        assert_eq!((&answer["finish_reason"], &answer["prompt"]), (&json!("length"), &json!(prompt(sequence))));
    }
    let first = prompt(&sequences[0]);
    let alone = [&["generate", text(&model), "--prompt", &first], &greedy[..]].concat();
    assert_eq!(objects(&scratch.succeeds(&alone)), answers[..1]);
}

#[test]
fn a_prompt_is_a_users_turn_unless_it_is_raw() {
    let scratch = Scratch::new();
    let model = golden("models/qwen2");
    let ask = |more: &[&str]| {
        let args = [&["generate", text(&model), "--max-new-tokens", "8", "--json", "--ignore-eos"], more].concat();
        objects(&scratch.succeeds(&args)).remove(0)["token_ids"].clone()
    };
    let templated = "<|im_start|>user\n2 + 3?<|im_end|>\n<|im_start|>assistant\n";
    assert_eq!(ask(&["--prompt", "2 + 3?"]), ask(&["--prompt", templated, "--raw"]));
    assert_ne!(ask(&["--prompt", "2 + 3?"]), ask(&["--prompt", "2 + 3?", "--raw"]));
    let drawn = |seed| ask(&["--prompt", "2 + 3?", "--temperature", "1", "--seed", seed]);
    assert_eq!(drawn("1"), drawn("1"));
    assert_ne!(drawn("1"), drawn("2"));
}

#[test]
fn generation_stops_at_any_end_of_sequence_the_model_names() {
    let scratch = Scratch::new();
    let model = scratch.join("model");
    std::fs::create_dir(&model).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        std::fs::copy(golden("models/qwen2").join(name), model.join(name)).unwrap();
    }
    let sequence = &sequences()[2];
    // The second greedy token, which comes again and again.
    let stop = sequence["greedy_24"][1].clone();
    let settings = json!({"eos_token_id": [390, stop], "max_new_tokens": 7});
    std::fs::write(model.join("generation_config.json"), settings.to_string()).unwrap();
    let whole = sequence["text"].as_str().unwrap();
    let prompt = &whole[..whole.find("assistant\n").unwrap() + "assistant\n".len()];
    let ask = |more: &[&str]| {
        let args = [&["generate", text(&model), "--raw", "--prompt", prompt, "--json"], more].concat();
        objects(&scratch.succeeds(&args)).remove(0)
    };
    let stopped = ask(&[]);
    assert_eq!((&stopped["finish_reason"], &stopped["token_ids"][1]), (&json!("stop"), &stop));
    assert_eq!(stopped["token_ids"].as_array().unwrap().len(), 2);
    let on = ask(&["--ignore-eos"]);
    assert_eq!((&on["finish_reason"], on["token_ids"].as_array().unwrap().len()), (&json!("length"), 7));
}

#[test]
fn a_merged_model_scores_as_base_and_adapter_do() {
    let scratch = Scratch::new();
    let (model, rows) = (golden("models/qwen2"), golden("data/kto_chat.jsonl"));
    let adapter = golden("runs/kto_lora_qwen2/adapter_final");
    let merge = ["merge", text(&model), "--adapter", text(&adapter), "--output"];
    let report = objects(&scratch.succeeds(&[&merge[..], &["merged", "--json"]].concat())).remove(0);
    assert_eq!((&report["modules"], &report["changed"]), (&json!(21), &json!(21)));
    assert_eq!(report["notes"], json!([]));
    let score = |model: &str, more: &[&str]| {
        let args = [&["score", model, "--data", text(&rows), "--json"], more].concat();
        objects(&scratch.succeeds(&args)).iter().map(|row| row["logp"].as_f64().unwrap()).collect::<Vec<_>>()
    };
    let (base, adapted) = (score(text(&model), &[]), score(text(&model), &["--adapter", text(&adapter)]));
    for ((merged, adapted), base) in score("merged", &[]).iter().zip(&adapted).zip(&base) {
        assert!((merged - adapted).abs() < 1e-3, "{merged}, expected {adapted}");
        assert!((merged - base).abs() > 1e-2, "the adapter changes nothing: {merged}");
    }
    let again = scratch.prospect(&[&merge[..], &["merged"]].concat());
    assert_eq!(again.status.code(), Some(2), "a folder with files is not written over");
}

#[test]
fn conversations_gather_in_the_file_that_they_are_saved_in() {
    let scratch = Scratch::new();
    let said = "/params max_new_tokens=3\nhello\n/save talks.jsonl\n/reset\nhi\n/save talks.jsonl\n/quit\n";
    let lines = std::fs::File::open(scratch.write("said", said)).unwrap();
    let output = scratch.command(&["chat", text(&golden("models/qwen2"))]).stdin(lines).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", crate::stderr(&output));
    let rows = objects(&std::fs::read_to_string(scratch.join("talks.jsonl")).unwrap());
    let first: Vec<&Value> = rows.iter().map(|row| &row["messages"][0]["content"]).collect();
    assert_eq!(first, ["hello", "hi"]);
    assert!(rows.iter().all(|row| row["messages"].as_array().unwrap().len() == 2), "{rows:?}");
}
