//! Wrong inputs and failing disks: what is said, the exit code, and what is left untouched.

use crate::{Bits, Damage, Scratch, finish, log_of, lora, model, notes, over, resume, rows, small, stop_after, train};
use data::{Clock, Tokenizer};
use rundir::Status;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use train::{Control, Error, Event};
use weights::{Checkpoint, DType, TensorInfo};

/// A copy of a model folder that can be spoilt.
fn copy_of(name: &str, scratch: &Scratch) -> PathBuf {
    let (from, to) = (model(name), scratch.join("model"));
    std::fs::create_dir_all(&to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
    to
}

/// Writes `model`'s tensors again, changed, in files of at most `largest` bytes.
fn rewrite(folder: &Path, largest: usize, change: &dyn Fn(&str, &mut [f32])) {
    let source = Checkpoint::open(folder).unwrap();
    let infos: Vec<TensorInfo> = source.infos().cloned().collect();
    let values: Vec<Vec<f32>> = infos
        .iter()
        .map(|i| {
            let mut values = source.get(&i.name).unwrap().to_f32().unwrap();
            change(&i.name, &mut values);
            values
        })
        .collect();
    drop(source);
    let _ = std::fs::remove_file(folder.join("model.safetensors"));
    let infos: Vec<TensorInfo> = infos.into_iter().map(|i| TensorInfo { dtype: DType::F32, ..i }).collect();
    weights::write_model(folder, &infos, largest, |info, sink| -> Result<(), weights::Error> {
        sink.put(&values[infos.iter().position(|i| i.name == info.name).unwrap()])
    })
    .unwrap();
}

fn edit_config(folder: &Path, with: Value) {
    let path = folder.join("config.json");
    let config: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    std::fs::write(&path, over(&config, with).to_string()).unwrap();
}

/// The error a run ends with, whose text has all `parts`.
fn refused(config: &Value, code: u8, parts: &[&str]) -> Error {
    let error = train(config, &Control::default(), &mut Vec::new()).expect_err("a wrong input");
    let text = error.to_string();
    assert_eq!(error.exit_code(), code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
    error
}

/// Refused for an adapter and for all weights.
fn refused_both(scratch: &Scratch, with: Value, code: u8, parts: &[&str]) {
    for (i, tuning) in [json!({}), lora()].into_iter().enumerate() {
        let output = scratch.join(&format!("run-{i}"));
        refused(&over(&small("kto", &output, tuning), with.clone()), code, parts);
        assert!(!output.join("final").exists());
        assert_eq!(Status::read(&output).unwrap().exit_code, Some(code));
    }
}

#[test]
fn a_truncated_weights_file_is_named() {
    let scratch = Scratch::new("truncated");
    let folder = copy_of("qwen2", &scratch);
    let file = folder.join("model.safetensors");
    let bytes = std::fs::read(&file).unwrap();
    for keep in [bytes.len() - 5000, 200, 3] {
        std::fs::write(&file, &bytes[..keep]).unwrap();
        let with = json!({"model_name_or_path": folder, "overwrite_output_dir": true});
        refused_both(&scratch, with, 6, &["model/model.safetensors: not a valid safetensors file", "truncated"]);
    }
}

#[test]
fn a_missing_shard_is_named() {
    let scratch = Scratch::new("shard");
    let folder = copy_of("qwen2", &scratch);
    rewrite(&folder, 200_000, &|_, _| {});
    finish(&small("kto", &scratch.join("whole"), json!({"model_name_or_path": folder, "max_steps": 1})));
    let shard = "model-00002-of-00004.safetensors";
    std::fs::remove_file(folder.join(shard)).unwrap();
    refused_both(&scratch, json!({"model_name_or_path": folder}), 6, &[shard]);
}

#[test]
fn tensors_of_other_shapes_are_named_with_both_shapes() {
    let scratch = Scratch::new("shapes");
    let folder = copy_of("qwen2", &scratch);
    edit_config(&folder, json!({"intermediate_size": 96}));
    refused_both(
        &scratch,
        json!({"model_name_or_path": folder}),
        6,
        &["mlp.gate_proj.weight", "[160, 64]", "[96, 64]"],
    );
}

#[test]
fn a_tokenizer_larger_than_the_embedding_is_refused() {
    let scratch = Scratch::new("vocabulary");
    let folder = copy_of("qwen2", &scratch);
    edit_config(&folder, json!({"vocab_size": 380}));
    refused_both(&scratch, json!({"model_name_or_path": folder}), 2, &["391 tokens", "380 rows", "vocab_size"]);
}

#[test]
fn max_length_above_the_models_positions_is_refused() {
    let scratch = Scratch::new("positions");
    refused_both(&scratch, json!({"max_length": 5000}), 2, &["max_length", "5000", "1024"]);
}

#[test]
fn a_length_that_nobody_asked_for_gives_way_to_the_models_positions() {
    let scratch = Scratch::new("default-length");
    let folder = copy_of("qwen2", &scratch);
    edit_config(&folder, json!({"max_position_embeddings": 96}));
    let with = json!({"model_name_or_path": folder, "max_length": null, "max_steps": 2});
    let config = over(&small("kto", &scratch.join("run"), lora()), with);
    let mut events = Vec::new();
    train(&config, &Control::default(), &mut events).unwrap();
    assert!(notes(&events).contains("max_length: 96"), "{}", notes(&events));
    // The run folder's own configuration asks for nothing either, and so resumes.
    let written = std::fs::read_to_string(scratch.join("run/config.yaml")).unwrap();
    let said = "resume_from_checkpoint".to_owned();
    let loaded = config::load("config.yaml", &written, &[(said, "true".to_owned())]).unwrap();
    assert!(!train::run(&loaded, &[], &Control::default(), &mut |_| {}).unwrap().stopped);
}

#[test]
fn rows_that_cannot_be_trained_on_are_refused() {
    let scratch = Scratch::new("rows");
    let file = scratch.join("rows.jsonl");
    let good = r#"{"prompt": "Q: 1 + 1?", "completion": "2", "label": true}"#;
    let cases: [(&str, String, Value, &[&str]); 5] = [
        ("empty file", String::new(), json!({}), &["rows.jsonl"]),
        ("nothing but blank lines", "\n\n".to_owned(), json!({}), &["rows.jsonl"]),
        ("every completion is cut off", format!("{good}\n{good}\n"), json!({"max_length": 3}), &["max_length"]),
        (
            "a label that is text",
            format!("{good}\n{}\n", good.replace("true", "\"yes\"")),
            json!({}),
            &["rows.jsonl:2:53", "label", "yes"],
        ),
        (
            "a label that is missing",
            format!("{good}\n{}\n", good.replace(", \"label\": true", "")),
            json!({}),
            &["rows.jsonl:2:", "label"],
        ),
    ];
    for (name, text, keys, parts) in cases {
        std::fs::write(&file, text).unwrap();
        let with = over(&keys, json!({"dataset_name": file, "overwrite_output_dir": true}));
        assert!(!parts.is_empty(), "{name}");
        refused_both(&scratch, with, 3, parts);
    }
    let missing = scratch.join("nowhere.jsonl");
    refused_both(&scratch, json!({"dataset_name": missing, "overwrite_output_dir": true}), 3, &["nowhere.jsonl"]);
}

#[test]
fn bad_rows_can_be_skipped_and_are_counted() {
    let scratch = Scratch::new("skip");
    let file = scratch.join("rows.jsonl");
    let text = std::fs::read_to_string(rows("kto_chat.jsonl")).unwrap();
    std::fs::write(&file, format!("{text}{{\"prompt\": \"x\", \"completion\": \"y\", \"label\": 7}}\n")).unwrap();
    let mut events = Vec::new();
    let config = small("kto", &scratch.join("run"), json!({"dataset_name": file, "bad_rows": "skip", "max_steps": 1}));
    train(&config, &Control::default(), &mut events).unwrap();
    let said = notes(&events);
    assert!(said.contains("1 bad rows skipped") && said.contains("rows.jsonl:49:"), "{said}");
}

#[test]
fn an_output_that_cannot_be_written_is_named() {
    let scratch = Scratch::new("output");
    std::fs::write(scratch.join("file"), "").unwrap();
    refused(&small("kto", &scratch.join("file/run"), json!({})), 6, &["file/run", "is a file"]);
    // A folder of other files is no run folder.
    std::fs::create_dir(scratch.join("papers")).unwrap();
    std::fs::write(scratch.join("papers/thesis.tex"), "precious").unwrap();
    for with in [json!({}), json!({"overwrite_output_dir": true}), json!({"resume_from_checkpoint": true})] {
        refused(&small("kto", &scratch.join("papers"), with), 2, &["papers", "not a run folder", "output_dir"]);
    }
    assert_eq!(std::fs::read_to_string(scratch.join("papers/thesis.tex")).unwrap(), "precious");
}

/// `kto_chat.jsonl` with a letter that no other row has in the prompt or the completion of line `line`.
fn marked_rows(scratch: &Scratch, line: usize, field: &str) -> PathBuf {
    let text = std::fs::read_to_string(rows("kto_plain.jsonl")).unwrap();
    let mark = |(i, row): (usize, &str)| {
        let mut row: Value = serde_json::from_str(row).unwrap();
        if i + 1 == line {
            row[field] = json!(format!("{} \u{3a9}", row[field].as_str().unwrap()));
        }
        row.to_string()
    };
    let marked: Vec<String> = text.lines().enumerate().map(mark).collect();
    let file = scratch.join("marked.jsonl");
    std::fs::write(&file, marked.join("\n")).unwrap();
    file
}

/// A model whose embedding of that letter, and of it alone, is infinite.
fn model_with_a_poisoned_letter(scratch: &Scratch) -> PathBuf {
    let folder = copy_of("llama", scratch);
    let tokenizer = Tokenizer::load(&folder, Clock::at(0)).unwrap();
    let letter = *tokenizer.encode("\u{3a9}", false).unwrap().last().unwrap() as usize;
    rewrite(&folder, usize::MAX, &|name, values| {
        if name == "model.embed_tokens.weight" {
            let width = values.len() / 391;
            values[letter * width] = f32::INFINITY;
        }
    });
    folder
}

#[test]
fn an_infinite_weight_stops_the_run_before_the_update_and_names_the_sample() {
    for (tuning, keys) in [("full", json!({})), ("lora", lora())] {
        for field in ["prompt", "completion"] {
            let scratch = Scratch::new("infinite");
            // The eleventh row in file order is met in step 3 of 2 x 2 rows.
            let data = marked_rows(&scratch, 11, field);
            let with = json!({
                "model_name_or_path": model_with_a_poisoned_letter(&scratch),
                "dataset_name": data,
                "shuffle": false,
                "save_steps": 1,
                "lr_scheduler_type": "constant",
            });
            let (poisoned, clean) = (scratch.join("poisoned"), scratch.join("clean"));
            let config = |output: &Path| over(&small("kto", output, keys.clone()), with.clone());
            let error = refused(&config(&poisoned), 5, &["step 3", "not finite", "marked.jsonl:11"]);
            let Error::NotFinite { step: 3, samples, .. } = error else { panic!("{tuning} {field}: {error}") };
            assert_eq!(samples.len(), 1, "{tuning} {field}: {samples:?}");
            // The two steps before are what they would have been, and the last checkpoint is theirs.
            finish(&over(&config(&clean), json!({"max_steps": 2})));
            let [left, wanted] = [&poisoned, &clean].map(|run| rundir::verify(&run.join("checkpoint-2")).unwrap());
            assert_eq!(left.manifest.files, wanted.manifest.files, "{tuning} {field}");
            assert!(!poisoned.join("checkpoint-3").exists(), "{tuning} {field}");
            assert_eq!(log_of(&poisoned).len(), 2);
            let status = Status::read(&poisoned).unwrap();
            assert_eq!((status.exit_code, status.step), (Some(5), 2));
            assert!(!poisoned.join("final").exists());
        }
    }
}

#[test]
fn an_infinite_weight_under_packed_text_names_rows() {
    let scratch = Scratch::new("infinite-packed");
    let folder = copy_of("llama", &scratch);
    rewrite(&folder, usize::MAX, &|name, values| {
        if name == "model.norm.weight" {
            values[3] = f32::INFINITY;
        }
    });
    let keys = json!({
        "model_name_or_path": folder,
        "dataset_name": rows("sft_text46.jsonl"),
        "packing": true,
        "max_length": 256,
    });
    refused(&small("sft", &scratch.join("run"), keys), 5, &["step 1", "not finite", "sft_text46.jsonl:"]);
}

#[test]
fn an_absurd_learning_rate_ends_finite_or_with_exit_code_5() {
    for trainer in ["kto", "sft"] {
        for tuning in [json!({}), lora()] {
            let scratch = Scratch::new("absurd");
            let output = scratch.join("run");
            let keys = over(&tuning, json!({"learning_rate": 1e6, "save_steps": 1, "max_grad_norm": 0.0}));
            match train(&small(trainer, &output, keys), &Control::default(), &mut Vec::new()) {
                Ok(_) => assert!(log_of(&output).iter().all(|r| r["loss"].is_number()), "a loss is not finite"),
                Err(error) => {
                    assert_eq!(error.exit_code(), 5, "{error}");
                    assert!(error.to_string().contains("lower the learning rate"), "{error}");
                    let step = Status::read(&output).unwrap().step;
                    assert!(step > 0 && rundir::verify(&output.join(format!("checkpoint-{step}"))).is_ok());
                }
            }
        }
    }
}

#[test]
fn changed_files_are_refused_by_name_when_a_run_is_resumed() {
    let scratch = Scratch::new("changed");
    let folder = copy_of("qwen2", &scratch);
    let data = scratch.join("rows.jsonl");
    std::fs::copy(rows("kto_chat.jsonl"), &data).unwrap();
    let config = small("kto", &scratch.join("run"), json!({"model_name_or_path": folder, "dataset_name": data}));
    stop_after(&config, 2);
    let again = over(&config, json!({"resume_from_checkpoint": true}));
    for file in [data, folder.join("model.safetensors"), folder.join("tokenizer.json")] {
        let kept = std::fs::read(&file).unwrap();
        // One digit of a number, one bit of a weight, a blank.
        let mut changed = kept.clone();
        let at = if file.ends_with("rows.jsonl") {
            kept.iter().rposition(u8::is_ascii_digit).unwrap()
        } else {
            kept.len() - 1
        };
        match file.extension().unwrap().to_str() {
            Some("json") => changed.push(b' '),
            _ => changed[at] ^= 1,
        }
        std::fs::write(&file, changed).unwrap();
        refused(&again, 3, &[&file.display().to_string(), "changed"]);
        std::fs::write(&file, kept).unwrap();
    }
    resume(&config);
}

#[test]
fn a_changed_configuration_is_refused_by_key_when_a_run_is_resumed() {
    let scratch = Scratch::new("reconfigured");
    let config = small("kto", &scratch.join("run"), lora());
    stop_after(&config, 2);
    let again = over(&config, json!({"resume_from_checkpoint": true}));
    for (with, said) in [
        (json!({"beta": 0.2}), "beta: 0.1 when the run began, 0.2 now"),
        (json!({"seed": 7}), "seed: 42 when the run began, 7 now"),
        (json!({"lora_r": 8}), "lora_r: 4 when the run began, 8 now"),
        (json!({"val_size": 4}), "val_size: unset when the run began, 4"),
    ] {
        refused(&over(&again, with), 2, &[said, "prospect resume"]);
    }
    // What only decides what is written down may change, and is said.
    let said = notes(&resume(&over(&config, json!({"logging_steps": 3}))));
    assert!(said.contains("logging_steps: 1 when the run began, 3 now"), "{said}");
}

#[test]
fn a_second_run_on_a_run_folder_is_refused() {
    let scratch = Scratch::new("second");
    let config = small("kto", &scratch.join("run"), over(&lora(), json!({"max_steps": 2})));
    let mut tried = 0;
    let mut observe = |event| {
        if matches!(event, Event::Step { .. }) {
            for with in [json!({"resume_from_checkpoint": true}), json!({"overwrite_output_dir": true})] {
                refused(&over(&config, with), 6, &["in use", &std::process::id().to_string()]);
                tried += 1;
            }
        }
    };
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap();
    train::run(&loaded, &[], &Control::default(), &mut observe).unwrap();
    assert_eq!(tried, 4);
    // Done, it is free again, and still not overwritten by accident.
    refused(&config, 2, &["already holds a run", "overwrite_output_dir"]);
    assert!(scratch.join("run/final").exists());
}

#[test]
fn an_overwritten_run_leaves_nothing_of_the_one_before() {
    let scratch = Scratch::new("overwrite");
    let (fresh, over_old) = (scratch.join("fresh"), scratch.join("over"));
    finish(&small("kto", &fresh, json!({})));
    // Same number of rows, another model: its reference must not be taken for the new one's.
    finish(&small("kto", &over_old, json!({"model_name_or_path": model("qwen3"), "max_steps": 12, "save_steps": 5})));
    finish(&small("kto", &over_old, json!({"overwrite_output_dir": true})));
    Bits::of(&over_old, 12).assert_same(&Bits::of(&fresh, 12), "in place of another run");
    let names = |run: &Path| -> Vec<PathBuf> {
        files(run).into_keys().map(|path| path.strip_prefix(run).unwrap().to_owned()).collect()
    };
    assert_eq!(names(&over_old), names(&fresh));
    let text = |run: &Path| std::fs::read_to_string(run.join("train.log")).unwrap();
    assert_eq!(text(&over_old).lines().next(), text(&fresh).lines().next(), "the opening is in the log");
}

#[test]
fn a_start_that_fails_leaves_the_earlier_run_as_it_was() {
    let scratch = Scratch::new("in-place");
    let run = scratch.join("run");
    finish(&small("kto", &run, json!({"max_steps": 3, "save_steps": 1, "report_to": "tensorboard"})));
    assert!(
        run.join("reference.bin").exists() && run.join("tensorboard").is_dir() && run.join("checkpoint-2").is_dir()
    );
    let config = |with: Value| small("kto", &run, with);
    let missing = scratch.join("nowhere");
    refused_in_place(&run, &config(json!({"model_name_or_path": missing})), 6, &["nowhere"]);
    refused_in_place(&run, &config(json!({"dataset_name": missing.with_extension("jsonl")})), 3, &["nowhere.jsonl"]);
    refused_in_place(&run, &config(json!({"max_memory": "1 MB"})), 4, &["max_memory"]);
    // This one has read all there is and is at its first step.
    let data = marked_rows(&scratch, 1, "completion");
    let model = model_with_a_poisoned_letter(&scratch);
    let keys = over(&lora(), json!({"model_name_or_path": model, "dataset_name": data, "shuffle": false}));
    refused_in_place(&run, &config(keys), 5, &["step 1", "not finite"]);
    // What is read must not be what goes.
    let before = files(&run);
    let own = json!({"model_name_or_path": run.join("final"), "overwrite_output_dir": true});
    refused(&config(own), 2, &["model_name_or_path", "belongs to the run in output_dir", "another output_dir"]);
    let own = json!({"dataset_name": run.join("log.jsonl"), "overwrite_output_dir": true});
    refused(&config(own), 2, &["dataset_name", "log.jsonl"]);
    assert!(files(&run) == before);
    // It resumes, too.
    resume(&small("kto", &run, json!({"max_steps": 4, "save_steps": 1, "report_to": "tensorboard"})));
    assert!(run.join("checkpoint-4").is_dir());
}

type Moment = fn(&Event) -> bool;

#[test]
fn a_run_stopped_before_its_first_step_leaves_the_earlier_one() {
    let scratch = Scratch::new("in-place-stop");
    let run = scratch.join("run");
    finish(&small("kto", &run, json!({"max_steps": 2})));
    let before = files(&run);
    // While rows are read, while the reference is taken, and in the first step.
    let moments: [(Value, Moment); 3] = [
        (json!({}), |event| matches!(event, Event::Tokenising { .. })),
        (json!({}), |event| matches!(event, Event::Progress { what, .. } if what.contains("reference"))),
        (lora(), |event| matches!(event, Event::Opening(_))),
    ];
    for (n, (keys, moment)) in moments.iter().enumerate() {
        let config = small("kto", &run, over(keys, json!({"overwrite_output_dir": true})));
        let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e:?}"));
        let control = Control::default();
        let mut observe = |event| {
            if moment(&event) {
                control.stop.store(true, Ordering::SeqCst);
            }
        };
        let ended = train::run(&loaded, &[], &control, &mut observe).unwrap();
        assert!(ended.stopped && !ended.begun && ended.exit_code() == 130, "{n}: {ended:?}");
        assert!(files(&run) == before, "{n}");
    }
    // After its first step it is there, and goes on.
    let config = small("kto", &run, json!({"max_steps": 4, "overwrite_output_dir": true}));
    stop_after(&config, 1);
    resume(&small("kto", &run, json!({"max_steps": 4})));
    assert_eq!(log_of(&run).len(), 4);
}

#[test]
fn stages_take_the_place_of_an_earlier_run_once_the_first_is_possible() {
    let scratch = Scratch::new("in-place-stages");
    let run = scratch.join("run");
    let sft = json!({"trainer": "sft", "dataset_name": rows("sft_prompt_completion.jsonl"), "max_steps": 2});
    let kto = json!({"trainer": "kto", "dataset_name": rows("kto_chat.jsonl"), "max_steps": 2});
    let staged = |stages: &[Value], with: Value| {
        let base =
            over(&small("kto", &run, json!({})), json!({"trainer": null, "dataset_name": null, "max_steps": null}));
        over(&over(&base, json!({"stages": stages})), with)
    };
    finish(&staged(&[sft.clone(), kto.clone()], json!({})));
    let before = files(&run);
    assert!(run.join("stage-2/final").is_dir());
    let whole = [sft.clone(), kto.clone()];
    refused(&staged(&whole, json!({})), 2, &["already holds a run"]);
    let missing = scratch.join("nowhere");
    let broken = over(&kto, json!({"dataset_name": missing.with_extension("jsonl")}));
    let with = |keys: Value| over(&keys, json!({"overwrite_output_dir": true}));
    refused(&staged(&[sft.clone(), broken.clone()], with(json!({}))), 3, &["nowhere.jsonl"]);
    refused(&staged(&[broken, kto.clone()], with(json!({}))), 3, &["nowhere.jsonl"]);
    refused(&staged(&whole, with(json!({"model_name_or_path": missing}))), 6, &["nowhere"]);
    refused(&staged(&whole, with(json!({"max_memory": "1 MB"}))), 4, &["max_memory"]);
    assert!(files(&run) == before);
    finish(&staged(&[sft], with(json!({}))));
    assert!(run.join("stage-1/final").is_dir() && !run.join("stage-2").exists());
}

/// Every file below a folder with its bytes, the lock apart.
fn files(root: &Path) -> Files {
    let mut found = Files::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != ".lock" {
                found.insert(path.clone(), std::fs::read(&path).unwrap());
            }
        }
    }
    found
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A start in place of an earlier run ends as it would in a folder of its own, and the earlier run is as it was.
fn refused_in_place(run: &Path, config: &Value, code: u8, parts: &[&str]) {
    let before = files(run);
    let fresh = run.with_extension("fresh");
    let alone = refused(&over(config, json!({"output_dir": fresh})), code, parts);
    let config = over(config, json!({"output_dir": run, "overwrite_output_dir": true}));
    let error = refused(&config, code, parts);
    assert_eq!(error.to_string(), alone.to_string());
    let after = files(run);
    assert_eq!(after.keys().collect::<Vec<_>>(), before.keys().collect::<Vec<_>>(), "{error}");
    assert!(after == before, "files have changed: {error}");
    std::fs::remove_dir_all(fresh).unwrap();
}

/// Stops after steps 2 and 4, so that there are two checkpoints.
fn two_checkpoints(config: &Value) {
    stop_after(config, 2);
    stop_after(&over(config, json!({"resume_from_checkpoint": true})), 4);
}

#[test]
fn a_damaged_newest_checkpoint_is_passed_over_and_said_so() {
    let scratch = Scratch::new("damaged");
    let whole = scratch.join("whole");
    let config = |output: &Path| small("kto", output, lora());
    finish(&config(&whole));
    let whole = Bits::of(&whole, 12);
    let damage: [(&str, Damage); 4] = [
        ("flipped", |dir| {
            let file = dir.join(weights::ADAPTER_WEIGHTS_FILE);
            let mut bytes = std::fs::read(&file).unwrap();
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            std::fs::write(file, bytes).unwrap();
        }),
        ("cut", |dir| {
            let file = dir.join("optimizer.safetensors");
            let bytes = std::fs::read(&file).unwrap();
            std::fs::write(file, &bytes[..bytes.len() / 2]).unwrap();
        }),
        ("without its manifest", |dir| std::fs::remove_file(dir.join("MANIFEST.json")).unwrap()),
        ("without its weights", |dir| std::fs::remove_file(dir.join(weights::ADAPTER_WEIGHTS_FILE)).unwrap()),
    ];
    for (what, damage) in damage {
        let output = scratch.join(what);
        two_checkpoints(&config(&output));
        damage(&output.join("checkpoint-4"));
        let said = notes(&resume(&config(&output)));
        assert!(said.contains("passed over") && said.contains("checkpoint-4"), "{what}: {said}");
        assert!(said.contains("checkpoint-2 (step 2 of 12)"), "{what}: {said}");
        Bits::of(&output, 12).assert_same(&whole, what);
    }
}

#[test]
fn a_named_checkpoint_must_be_whole_and_the_runs_own() {
    let scratch = Scratch::new("named");
    let output = scratch.join("run");
    let config = small("kto", &output, lora());
    two_checkpoints(&config);
    let from = |path: &Path| over(&config, json!({"resume_from_checkpoint": path}));
    refused(&from(&output.join("checkpoint-9")), 2, &["checkpoint-9", "does not exist"]);
    let elsewhere = over(&from(&output.join("checkpoint-2")), json!({"output_dir": scratch.join("other")}));
    refused(&elsewhere, 2, &["checkpoint-2", "not in output_dir"]);
    assert!(!scratch.join("other").exists(), "a refused run left a folder");
    let file = output.join("checkpoint-2/optimizer.safetensors");
    let kept = std::fs::read(&file).unwrap();
    std::fs::write(&file, &kept[1..]).unwrap();
    refused(&from(&output.join("checkpoint-2")), 6, &["checkpoint-2", "damaged"]);
    assert!(output.join("checkpoint-4").exists(), "a refused resume removed a checkpoint");
    std::fs::write(&file, kept).unwrap();
    // An earlier one than the newest: what came after it is made again.
    finish(&from(&output.join("checkpoint-2")));
    let whole = scratch.join("whole");
    finish(&small("kto", &whole, lora()));
    Bits::of(&output, 12).assert_same(&Bits::of(&whole, 12), "from an earlier checkpoint");
}

/// Set in a process whose files cannot grow beyond a limit: the configuration it is to train with.
#[cfg(unix)]
const LIMITED: &str = "PROSPECT_TEST_LIMITED";

/// Stands in for a full disk, which a test cannot have: a process whose files cannot grow to the size of the optimiser's state,
/// so that a write in the middle of a checkpoint fails.
#[cfg(unix)]
#[test]
fn a_checkpoint_that_cannot_be_written_leaves_the_one_before() {
    if let Some(config) = std::env::var_os(LIMITED) {
        let loaded = config::load("child.yaml", &config.to_string_lossy(), &[]).unwrap();
        let error = train::run(&loaded, &[], &Control::default(), &mut |_| {}).expect_err("the limit was not reached");
        println!("exit {}: {error}", error.exit_code());
        return;
    }
    let scratch = Scratch::new("limited");
    let (whole, run) = (scratch.join("whole"), scratch.join("run"));
    let config = |output: &Path| small("kto", output, json!({}));
    finish(&config(&whole));
    stop_after(&config(&run), 2);
    let again = over(&config(&run), json!({"resume_from_checkpoint": true, "save_steps": 4}));
    // Blocks of 512 bytes; without the trap the signal would end the process before the write fails.
    let child = std::process::Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 1500; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "faults::a_checkpoint_that_cannot_be_written_leaves_the_one_before", "--nocapture"])
        .env(LIMITED, again.to_string())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{said}{}", String::from_utf8_lossy(&child.stderr));
    assert!(said.contains("exit 6: cannot write") && said.contains("optimizer.safetensors"), "{said}");
    rundir::verify(&run.join("checkpoint-2")).unwrap();
    let names = std::fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned());
    let left: Vec<String> = names.filter(|n| n.contains("checkpoint")).collect();
    assert_eq!(left, ["checkpoint-2"]);
    let status = Status::read(&run).unwrap();
    assert_eq!((status.exit_code, status.step), (Some(6), 4));
    resume(&config(&run));
    Bits::of(&run, 12).assert_same(&Bits::of(&whole, 12), "resumed on a disk with room");
}
