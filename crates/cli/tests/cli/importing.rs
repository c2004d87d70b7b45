//! Other tools' files and flags through the command line, and what is looked at before a run.

use crate::{Scratch, golden, objects, stderr, text};
use serde_json::{Value, json};

/// A LLaMA-Factory run on a registered data set of the scratch folder.
fn llama_factory(scratch: &Scratch) -> std::path::PathBuf {
    let row = |i: u32| json!({"conversations": [{"from": "human", "value": format!("{i} + 1?")}, {"from": "assistant", "value": format!("{}", i + 1)}]});
    std::fs::create_dir_all(scratch.join("data")).unwrap();
    scratch.write("data/talks.json", &Value::from((0..40).map(row).collect::<Vec<_>>()).to_string());
    let info = json!({"talks": {"file_name": "talks.json", "formatting": "sharegpt",
        "columns": {"messages": "conversations"},
        "tags": {"role_tag": "from", "content_tag": "value", "user_tag": "human", "assistant_tag": "assistant"}}});
    scratch.write("data/dataset_info.json", &info.to_string());
    scratch.write(
        "sft.yaml",
        &format!(
            "model_name_or_path: {}\nstage: sft\ndo_train: true\nfinetuning_type: full\ndeepspeed: ds.json\n\
             packing: true\nneat_packing: true\ndataset: talks\ntokenized_path: tokens\ntemplate: AM-thinking\n\
             cutoff_len: 1024\noverwrite_cache: true\noutput_dir: saves\nresume_from_checkpoint: true\nlogging_steps: 1\n\
             per_device_train_batch_size: 2\nlearning_rate: 1.0e-4\nmax_steps: 2\nplot_loss: true\nreport_to: wandb\n",
            golden("models/qwen2").display()
        ),
    )
}

#[test]
fn a_llama_factory_file_is_planned_and_trained_as_it_stands() {
    let scratch = Scratch::new();
    let yaml = llama_factory(&scratch);
    let plan = objects(&scratch.succeeds(&["plan", text(&yaml), "--json"])).remove(0);
    assert_eq!((&plan["rows"]["train"], &plan["steps"]), (&json!(40), &json!(2)));
    let output = scratch.prospect(&["train", text(&yaml)]);
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for part in ["read as a LLaMA-Factory configuration", "`deepspeed` has no effect", "step 2/2  loss "] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let entries = std::fs::read_dir(scratch.join("tokens")).unwrap().map(|e| e.unwrap().file_name());
    let entries = entries.filter(|name| !name.to_string_lossy().starts_with('.')).count();
    assert_eq!(entries, 1, "plan and run share an entry");
    let template = std::fs::read_to_string(scratch.join("saves/final/chat_template.jinja")).unwrap();
    assert!(template.contains("first think about the reasoning process"), "{template}");

    let ours = scratch.succeeds(&["import", text(&yaml)]);
    let again = scratch.write("ours.yaml", &format!("{ours}output_dir: other\n").replace("output_dir: saves\n", ""));
    let planned = objects(&scratch.succeeds(&["plan", text(&again), "--json"])).remove(0);
    assert_eq!(planned["rows"], plan["rows"]);
}

#[test]
fn import_says_what_becomes_of_every_key() {
    let scratch = Scratch::new();
    let yaml = scratch.write(
        "theirs.yaml",
        "stage: sft\nfinetuning_type: lora\ndataset: a\nquantization_bit: 3\nfoo: 1\nfp16: true\n",
    );
    let output = scratch.prospect(&["import", text(&yaml), "--json"]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    assert!(said.contains("6 keys: 3 mapped, 1 without effect, 1 refused, 1 unknown"), "{said}");
    let found = objects(&String::from_utf8(output.stdout).unwrap());
    let outcomes: Vec<&str> = found.iter().map(|key| key["outcome"].as_str().unwrap()).collect();
    assert_eq!(outcomes, ["mapped", "mapped", "mapped", "refused", "unknown", "no effect"]);
    assert_eq!((&found[3]["line"], &found[0]["our_key"]), (&json!(4), &json!("trainer")));
    let output = scratch.prospect(&["import", text(&yaml), "--output", "ours.yaml"]);
    assert_eq!(output.status.code(), Some(2));
    let ours = std::fs::read_to_string(scratch.join("ours.yaml")).unwrap();
    assert!(ours.starts_with("# yaml-language-server: $schema=prospect.schema.json\n"), "{ours}");
    assert!(ours.contains("# not taken: quantization_bit: 3 (") && ours.contains("# unknown: foo: 1"), "{ours}");
    let schema: Value = serde_json::from_slice(&std::fs::read(scratch.join("prospect.schema.json")).unwrap()).unwrap();
    let shown: Value = serde_json::from_str(&scratch.succeeds(&["schema"])).unwrap();
    assert_eq!(schema, shown);
    assert_eq!(
        scratch.prospect(&["import", text(&yaml), "--output", "ours.yaml"]).status.code(),
        Some(2),
        "not overwritten"
    );
}

#[test]
fn the_flags_of_another_trainer_train_without_a_file_and_win_over_one() {
    let scratch = Scratch::new();
    let (model, rows) = (golden("models/qwen2"), golden("data/kto_chat.jsonl"));
    let flags = [
        "train",
        "--model-name",
        text(&model),
        "--local-file",
        text(&rows),
        "--output-dir",
        "out",
        "--batch-size",
        "2",
        "--gradient-accumulation",
        "2",
        "--max-seq-length",
        "96",
        "--learning-rate",
        "5e-7",
        "--num-epochs",
        "2",
        "--max-steps",
        "2",
        "--wandb",
        "--wandb-project",
        "p",
        "--wandb-run-name",
        "first",
        "--split-dataset",
        "--hf-token",
        "hf_CANARY",
        "--model-size",
        "7b",
    ];
    let planned = scratch.prospect(&[&flags[..], &["--dry-run"]].concat());
    let said = stderr(&planned);
    assert_eq!(planned.status.code(), Some(0), "{said}");
    assert!(said.contains("nothing was trained or written") && said.contains("--hf-token: "), "{said}");
    assert!(String::from_utf8(planned.stdout).unwrap().contains("expected peak"));
    assert!(!scratch.join("out").exists());
    let output = scratch.prospect(&flags);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let config = std::fs::read_to_string(scratch.join("out/config.yaml")).unwrap();
    for line in [
        "max_length: 96",
        "per_device_train_batch_size: 2",
        "max_steps: 2",
        "run_name: first",
        "val_size: 0.1",
        "use_peft: true",
    ] {
        assert!(config.contains(&format!("{line}\n")), "{line} in {config}");
    }
    let grep = std::process::Command::new("grep").args(["-r", "hf_CANARY", text(&scratch.0)]).output().unwrap();
    assert!(grep.stdout.is_empty() && !stderr(&output).contains("hf_CANARY"), "the token was written down");

    let run = scratch.kto_run("max_steps: 9");
    let plan =
        |words: &[&str]| objects(&scratch.succeeds(&[&["plan", text(&run), "--json"], words].concat())).remove(0);
    assert_eq!(plan(&["--max-steps", "3"])["steps"], json!(3));
    assert_eq!(plan(&["--max-steps", "3", "max_steps=4"])["steps"], json!(4));
    let alone = scratch.prospect(&["train", "--model-size", "13b"]);
    assert!(alone.status.code() == Some(2) && stderr(&alone).contains("--model-name"), "{}", stderr(&alone));
}

#[test]
fn validate_says_all_that_is_wrong_and_exits_with_the_first() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("");
    let output = scratch.prospect(&["validate", text(&run)]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert!(!scratch.join("run").exists() && !scratch.join("cache").exists());
    scratch.write("bad.jsonl", "{\"prompt\": \"a\"}\n{\"prompt\": \"a\", \"completion\": \"b\", \"label\": \"yes\"}\n");
    let output = scratch.prospect(&["validate", text(&run), "dataset_name=[bad.jsonl, none.jsonl]", "--json"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
    let found = objects(&String::from_utf8(output.stdout).unwrap());
    let said: Vec<&str> = found.iter().filter_map(|f| f["problem"].as_str()).collect();
    assert!(said.len() == 2 && said[0].contains("bad.jsonl:1:1") && said[0].contains("bad.jsonl:2:45"), "{said:#?}");
    assert!(said[1].contains("none.jsonl"), "{said:#?}");
    // Nothing answers there, and the rows are looked at all the same.
    let away = "model_name_or_path=org/away";
    let words = ["validate", text(&run), away, "dataset_name=none.jsonl", "--json"];
    let output = scratch.command(&words).env("HF_HUB_OFFLINE", "1").output().unwrap();
    let found = objects(&String::from_utf8(output.stdout).unwrap());
    let said: Vec<&str> = found.iter().filter_map(|f| f["problem"].as_str()).collect();
    assert!(said.len() == 2 && said[0].contains("HF_HUB_OFFLINE") && said[1].contains("none.jsonl"), "{said:#?}");
    let config = scratch.prospect(&["validate", text(&run), "beta=-1", "learning_rat=3"]);
    assert!(config.status.code() == Some(2) && stderr(&config).matches("error[").count() == 2, "{}", stderr(&config));
}

#[test]
fn a_run_in_stages_is_planned_trained_and_resumed() {
    let scratch = Scratch::new();
    let run = scratch.kto_run(&format!(
        "stages:\n  - max_steps: 2\n  - dataset_name: {}\n    max_steps: 1\n",
        golden("data/kto_plain.jsonl").display()
    ));
    let plan = scratch.prospect(&["plan", text(&run)]);
    assert!(String::from_utf8(plan.stdout.clone()).unwrap().contains("stage 2"), "{}", stderr(&plan));
    scratch.succeeds(&["train", text(&run)]);
    for part in ["stage-1/final", "stage-2/final", "final/adapter_config.json", "config.yaml", "prospect.schema.json"] {
        assert!(scratch.join("run").join(part).exists(), "{part}");
    }
    let again = scratch.prospect(&["resume", "run"]);
    assert_eq!(again.status.code(), Some(0), "{}", stderr(&again));
    assert!(stderr(&again).contains("stage 2 of 2 is done"), "{}", stderr(&again));
}
