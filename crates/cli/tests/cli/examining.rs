//! `grade`, `eval` and `export gguf`: small benchmarks written here, the tiny model, files read back.

use crate::{Scratch, golden, objects, stderr, text};
use serde_json::{Value, json};
use std::path::Path;

fn read(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// Two rows of every benchmark, in its own form.
fn benchmarks(scratch: &Scratch) {
    let rows = [
        ("aime24", [json!({"id": 60, "problem": "1+1?", "answer": "002"}), json!({"problem": "2+2?", "answer": "4"})]),
        ("amc23", [json!({"question": "1+1?", "answer": 2.0}), json!({"question": "2+2?", "answer": 4.0})]),
        (
            "gsm8k",
            [
                json!({"question": "a", "answer": "so\n#### 2", "idx": 5}),
                json!({"question": "b", "answer": "#### 1,000", "idx": 3}),
            ],
        ),
        (
            "math500",
            [
                json!({"problem": "a", "solution": "\\boxed{2}", "level": 1}),
                json!({"problem": "b", "solution": "\\boxed{\\frac12}", "level": 2}),
            ],
        ),
        (
            "minerva_math",
            [
                json!({"problem": "a", "solution": "\\boxed{2 m}", "type": "x"}),
                json!({"problem": "b", "solution": "\\boxed{1e3}", "type": "y"}),
            ],
        ),
        (
            "olympiadbench",
            [json!({"question": "a", "final_answer": ["$2$"]}), json!({"question": "b", "final_answer": ["$(1,2)$"]})],
        ),
    ];
    for (name, rows) in rows {
        std::fs::create_dir_all(scratch.join("data").join(name)).unwrap();
        scratch.write(&format!("data/{name}/test.jsonl"), &rows.map(|row| row.to_string()).join("\n"));
    }
}

const RUN: &str = "test_cot_-1_seed1_t0.6_s0_e-1";

#[test]
fn grading_says_verdict_rule_and_what_was_found() {
    let scratch = Scratch::new();
    let rows = [
        json!({"gold": "\\frac{1}{2}", "pred": "0.5", "dataset": null}),
        json!({"gold": "5", "pred": "500", "dataset": "aime24"}),
        json!({"gold": "18", "generation": "so it is \\boxed{18 apples}.", "dataset": "gsm8k"}),
    ];
    let file = scratch.write("rows.jsonl", &rows.map(|row| row.to_string()).join("\n"));
    let grade = |mode: &str| objects(&scratch.succeeds(&["grade", text(&file), "--mode", mode, "--json"]));
    let (qwen, strict) = (grade("qwen"), grade("strict"));
    let verdicts = |rows: &[Value]| rows.iter().map(|row| row["verdict"].as_bool().unwrap()).collect::<Vec<_>>();
    assert_eq!(verdicts(&qwen), [true, true, true]);
    assert_eq!(verdicts(&strict), [true, false, true]);
    assert_eq!((&qwen[2]["extracted"], &qwen[2]["normalised"]), (&json!("18"), &json!("18")));
    assert!(strict.iter().all(|row| row["rule"].is_string()));
    let table = scratch.prospect(&["grade", text(&file), "--mode", "strict"]);
    assert!(stderr(&table).contains("2 of 3 right (66.67 %)"), "{}", stderr(&table));
    let bad = scratch.write("bad.jsonl", "{\"gold\": \"1\", \"pred\": \"1\"}\n{\"gold\": \"1\"}\n");
    let output = scratch.prospect(&["grade", text(&bad)]);
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("bad.jsonl:2: field `pred`"), "{}", stderr(&output));
}

#[test]
fn six_benchmarks_run_and_a_torn_evaluation_goes_on() {
    let scratch = Scratch::new();
    benchmarks(&scratch);
    let model = golden("models/qwen2");
    let args = ["eval", text(&model), "--max-tokens-per-call", "8", "--n-sampling", "2", "--output"];
    let table = scratch.succeeds(&[&args[..], &["whole"]].concat());
    assert!(table.contains("olympiadbench") && table.contains("pass@") || table.contains("maj@2"), "{table}");
    let accuracies = read(&scratch.join("whole/final_result.json"));
    assert_eq!(accuracies["dataset_acc"].as_object().unwrap().len(), 6);
    let metrics = read(&scratch.join(&format!("whole/minerva_math/{RUN}_metrics.json")));
    assert_eq!((&metrics["num_samples"], &metrics["num_scores"]), (&json!(2), &json!(4)));
    assert!(metrics["type_acc"]["x"].is_number() && metrics["pass@k"]["pass@4"].is_string(), "{metrics}");
    assert!(std::fs::read_to_string(scratch.join("whole/index.html")).unwrap().contains("gsm8k"));

    // What a killed process leaves: some samples in the journal, the last line torn.
    let result = format!("gsm8k/{RUN}_result.jsonl");
    let whole = std::fs::read_to_string(scratch.join("whole").join(&result)).unwrap();
    let rows = objects(&whole);
    assert_eq!(rows.iter().map(|row| row["idx"].as_i64().unwrap()).collect::<Vec<_>>(), [3, 5]);
    let evaluation = read(&scratch.join(&format!("whole/gsm8k/{RUN}_metrics.json")))["evaluation"].clone();
    let said = json!({"idx": 3, "sample": 1, "tokens": 2, "finish_reason": "stop", "text": "It is \\boxed{1000}."});
    std::fs::create_dir_all(scratch.join("torn/gsm8k")).unwrap();
    let journal = format!("{}\n{said}\n{{\"idx\": 5, \"sam", json!({"evaluation": evaluation}));
    let journal = scratch.write(&format!("torn/gsm8k/{RUN}_unfinished.jsonl"), &journal);
    scratch.succeeds(&[&args[..], &["torn", "--benchmarks", "gsm8k"]].concat());
    let resumed = objects(&std::fs::read_to_string(scratch.join("torn").join(&result)).unwrap());
    assert_eq!(resumed[0]["code"][1], said["text"], "a finished answer is kept");
    assert_eq!((&resumed[0]["code"][0], &resumed[1]), (&rows[0]["code"][0], &rows[1]), "the others are the same");
    assert_eq!((&resumed[0]["score"], &resumed[0]["pred"][1]), (&json!([false, true]), &json!("1000")));
    assert!(!journal.exists());

    // The same again asks nothing; another seed in the same files is refused; n may grow.
    scratch.succeeds(&[&args[..], &["torn", "--benchmarks", "gsm8k"]].concat());
    let other = scratch.prospect(&[&args[..], &["torn", "--benchmarks", "gsm8k", "--top-p", "0.5"]].concat());
    assert_eq!(other.status.code(), Some(2));
    assert!(stderr(&other).contains("top_p is 1.0 there and 0.5 here"), "{}", stderr(&other));
}

#[test]
fn an_evaluation_that_overwrites_another_leaves_it_until_its_first_answer() {
    let scratch = Scratch::new();
    benchmarks(&scratch);
    let model = scratch.join("model");
    std::fs::create_dir(&model).unwrap();
    for entry in std::fs::read_dir(golden("models/qwen2")).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), model.join(entry.file_name())).unwrap();
    }
    let args = ["eval", text(&model), "--benchmarks", "gsm8k", "--max-tokens-per-call", "4", "--output", "out"];
    scratch.succeeds(&args);
    let kept = |what: &str| std::fs::read(scratch.join(&format!("out/gsm8k/{RUN}_{what}"))).unwrap();
    let files = ["result.jsonl", "metrics.json", "answers.html"];
    let before = files.map(kept);
    // A block that the weights lack: that is found where they are loaded.
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    let mut deeper: Value = serde_json::from_str(&config).unwrap();
    deeper["num_hidden_layers"] = json!(deeper["num_hidden_layers"].as_u64().unwrap() + 1);
    deeper["layer_types"].as_array_mut().into_iter().for_each(|types| types.push(types[0].clone()));
    std::fs::write(model.join("config.json"), deeper.to_string()).unwrap();
    let again = [&args[..], &["--overwrite", "--n-sampling", "2"]].concat();
    let output = scratch.prospect(&again);
    assert_eq!(output.status.code(), Some(6), "{}", stderr(&output));
    assert!(files.map(kept) == before, "{}", stderr(&output));
    std::fs::write(model.join("config.json"), &config).unwrap();
    scratch.succeeds(&again);
    let metrics = read(&scratch.join(&format!("out/gsm8k/{RUN}_metrics.json")));
    assert_eq!(metrics["evaluation"]["n_sampling"].as_u64().or(metrics["num_scores"].as_u64()), Some(4), "{metrics}");
    assert!(!scratch.join(&format!("out/gsm8k/{RUN}_unfinished.jsonl")).exists());
}

#[test]
fn generations_with_known_verdicts_get_their_accuracy() {
    let scratch = Scratch::new();
    let model = golden("models/qwen2");
    scratch.write(
        "rows.jsonl",
        &(0..4).map(|i| json!({"ask": "?", "gold": i}).to_string()).collect::<Vec<_>>().join("\n"),
    );
    let yaml = scratch.write("own.yaml", "name: own\nfile: rows.jsonl\nquestion: ask\nanswer: gold\nrules: gsm8k\n");
    std::fs::create_dir_all(scratch.join("out/own")).unwrap();
    // Another program's result file: answers only.
    let said = ["\\boxed{0}", "The answer is 1 apple.", "I think 7", ""];
    let rows: Vec<String> = (0..).zip(said).map(|(i, text)| json!({"idx": i, "code": [text]}).to_string()).collect();
    scratch.write(&format!("out/own/{RUN}_result.jsonl"), &rows.join("\n"));
    let args = ["eval", text(&model), "--benchmarks", text(&yaml), "--output", "out", "--json"];
    let report = objects(&scratch.succeeds(&args)).remove(0);
    let metrics = &report["models"][0]["benchmarks"]["own"];
    assert_eq!((&metrics["acc"], &metrics["empty_samples"]), (&json!(50.0), &json!(1)));
    let page = std::fs::read_to_string(scratch.join(&format!("out/own/{RUN}_answers.html"))).unwrap();
    assert!(page.contains("Wrong (2)") && page.contains("I think 7"), "{page}");
}

#[test]
fn an_adapter_is_examined_on_the_model_that_it_names() {
    let scratch = Scratch::new();
    benchmarks(&scratch);
    let (model, trained) = (golden("models/qwen2"), golden("runs/kto_lora_qwen2/adapter_final"));
    let run = scratch.join("run");
    let adapter = run.join("final");
    std::fs::create_dir_all(&adapter).unwrap();
    std::fs::copy(trained.join("adapter_model.safetensors"), adapter.join("adapter_model.safetensors")).unwrap();
    let mut config = read(&trained.join("adapter_config.json"));
    let mut names = |base: Value| {
        config["base_model_name_or_path"] = base;
        std::fs::write(adapter.join("adapter_config.json"), config.to_string()).unwrap();
    };
    names(json!(text(&model)));
    let common = ["--benchmarks", "gsm8k", "--max-tokens-per-call", "8", "--output"];
    let answers = |more: &[&str], output: &str| -> Vec<Value> {
        scratch.succeeds(&[&["eval"], more, &common, &[output]].concat());
        let rows = std::fs::read_to_string(scratch.join(&format!("{output}/gsm8k/{RUN}_result.jsonl"))).unwrap();
        rows.lines().map(|row| serde_json::from_str::<Value>(row).unwrap()["code"].take()).collect()
    };
    let given = answers(&[text(&model), "--adapter", text(&adapter)], "given");
    assert_ne!(given, answers(&[text(&model)], "base"), "the adapter changes nothing");
    assert_eq!(given, answers(&[text(&adapter)], "named"));
    assert_eq!(given, answers(&[text(&run)], "run"));
    let refused = |more: &[&str]| {
        let output = scratch.prospect(&[&["eval"], more, &common, &["x"]].concat());
        assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
        stderr(&output)
    };
    assert!(refused(&[text(&adapter), "--adapter", text(&trained)]).contains("another one was given for it"));
    names(Value::Null);
    assert!(refused(&[text(&adapter)]).contains("base_model_name_or_path: expected the folder"));
    names(json!("not there"));
    assert_eq!(given, answers(&[text(&adapter), "--base", text(&model)], "told"));
    assert_eq!(given, answers(&[text(&run), "--base", text(&model)], "run told"));
}

#[test]
fn two_models_are_compared_row_by_row() {
    let scratch = Scratch::new();
    benchmarks(&scratch);
    let (a, b) = (golden("models/qwen2"), golden("models/llama"));
    let args = [
        "eval",
        text(&a),
        text(&b),
        "--benchmarks",
        "aime24,amc23",
        "--max-tokens-per-call",
        "4",
        "--output",
        "o",
        "--json",
    ];
    let report = objects(&scratch.succeeds(&args)).remove(0);
    let comparisons = report["comparisons"].as_array().unwrap();
    assert_eq!(
        comparisons.iter().map(|c| c["benchmark"].as_str().unwrap()).collect::<Vec<_>>(),
        ["aime24", "amc23", "all rows"]
    );
    assert_eq!((&comparisons[2]["rows"], &comparisons[2]["p"]), (&json!(4), &json!(1.0)));
    assert!(scratch.join("o/qwen2/index.html").is_file() && scratch.join("o/llama/final_result.json").is_file());
}

#[test]
fn a_model_becomes_gguf_files_that_agree_with_it() {
    let scratch = Scratch::new();
    for (name, least) in [("llama31", 0.0), ("mistral", 0.0), ("qwen2", 0.0), ("qwen3", 0.0)] {
        let model = golden("models").join(name);
        let args = ["export", "gguf", text(&model), "--type", "f32,f16,q8_0,q4_k_m", "--output", name, "--json"];
        let files = objects(&scratch.succeeds(&args));
        let differences: Vec<f64> =
            files.iter().map(|file| file["relative_logit_difference"].as_f64().unwrap()).collect();
        assert!(differences[0] == least && differences.windows(2).all(|pair| pair[0] < pair[1]), "{differences:?}");
        let modelfile = std::fs::read_to_string(scratch.join(name).join("Modelfile")).unwrap();
        assert!(modelfile.starts_with(&format!("FROM ./{name}-Q4_K_M.gguf")), "{modelfile}");
        assert!(modelfile.contains("TEMPLATE") && modelfile.contains("PARAMETER stop \"<|im_end|>\""), "{modelfile}");
        let left: Vec<String> = std::fs::read_dir(scratch.join(name))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|file| file.starts_with('.'))
            .collect();
        assert!(left.is_empty(), "{left:?}");
    }
    let model = golden("models/qwen2");
    let output = scratch.prospect(&["export", "gguf", text(&model), "--type", "q3_k", "--output", "x"]);
    assert_eq!(output.status.code(), Some(2));
}
