//! What SFT and KTO can do besides their plain losses: weighted tokens, noise, a likelihood term, frozen blocks, mixtures, names,
//! the token cache.

use crate::lab::{Lab, PLAIN, Stepped};
use crate::{Scratch, lora, over, rows, small};
use kernels::{Cpu, Memory};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use testkit::{noise, slope};
use train::step::{Execution, TextRow};
use train::text::{Noise, TextLoss, shaped_text_step};
use train::{Control, Ended, Event, Job};

type C = Cpu<f64>;

fn lab(trainer: &str, keys: Value) -> Lab<C> {
    Lab::new(C::new(2), &small(trainer, &std::env::temp_dir(), keys), 0.02)
}

fn shaped(lab: &Lab<C>, execution: Execution, texts: &[TextRow], shape: TextLoss) -> Stepped {
    let mut grads = train::gradient::Gradient::running(&lab.backend, lab.policy.table.len());
    let report = shaped_text_step(&lab.context(execution), texts, &[texts.len()], shape, &mut grads).unwrap();
    Stepped { report, gradient: lab.backend.to_host(grads.values.view()) }
}

/// The slope of `loss` along a random direction of all trained values, against what the gradient says.
fn check(lab: &mut Lab<C>, gradient: &[f64], what: &str, loss: &dyn Fn(&Lab<C>) -> f64) {
    let at = lab.values();
    let direction = noise(at.len(), 5);
    let norm = direction.iter().map(|d| d * d).sum::<f64>().sqrt();
    let claimed: f64 = gradient.iter().zip(&direction).map(|(g, d)| g * d / norm).sum();
    let found = slope(|h| {
        let moved: Vec<f64> = at.iter().zip(&direction).map(|(v, d)| v + h * d / norm).collect();
        lab.set(&moved);
        loss(lab)
    });
    lab.set(&at);
    assert!((found - claimed).abs() < 1e-9 + 1e-7 * found.abs(), "{what}: {found} by differences, {claimed}");
    assert!(found.abs() > 1e-5, "{what}: no slope");
}

const DFT: TextLoss = TextLoss { dft: true, noise: None };

#[test]
fn dft_gradients_are_those_of_the_likelihood_weighted_by_probabilities_held_fixed() {
    for keys in [json!({}), lora()] {
        let mut lab = lab("sft", keys);
        let texts = lab.texts(4);
        let step = shaped(&lab, PLAIN, &texts, DFT);
        // One sequence per target: its log-probability is the token's.
        let tokens: Vec<TextRow> = texts
            .iter()
            .flat_map(|text| {
                let scored = (0..text.scored.len()).filter(|&i| text.scored[i] && (i > 0 || !text.prompt.is_empty()));
                scored.map(|i| {
                    let mut only = vec![false; text.scored.len()];
                    only[i] = true;
                    TextRow { scored: only, ..text.clone() }
                })
            })
            .collect();
        let logps = |lab: &Lab<C>| -> Vec<f64> {
            let sums = train::step::score_text(&lab.context(PLAIN), &tokens).unwrap();
            sums.iter().map(|s| s.logp).collect()
        };
        let weights: Vec<f64> = logps(&lab).iter().map(|logp| logp.exp()).collect();
        let loss = |lab: &Lab<C>| {
            -logps(lab).iter().zip(&weights).map(|(logp, p)| p * logp).sum::<f64>() / weights.len() as f64
        };
        assert!((loss(&lab) - step.report.loss).abs() < 1e-13, "{} {}", loss(&lab), step.report.loss);
        check(&mut lab, &step.gradient, "dft", &loss);
    }
}

#[test]
fn a_plain_shape_is_the_plain_step() {
    let lab = lab("sft", json!({}));
    let texts = lab.texts(4);
    shaped(&lab, PLAIN, &texts, TextLoss::default()).assert_same(&lab.text_step(PLAIN, &texts), "no shape");
}

#[test]
fn noise_gradients_equal_differences_of_the_noisy_loss() {
    for keys in [json!({}), lora()] {
        let mut lab = lab("sft", keys);
        let texts = lab.texts(3);
        let shape = TextLoss { dft: false, noise: Some(Noise { alpha: 5.0, key: 11 }) };
        let step = shaped(&lab, PLAIN, &texts, shape);
        assert_ne!(step.report.loss, lab.text_step(PLAIN, &texts).report.loss);
        check(&mut lab, &step.gradient, "noise", &|lab| shaped(lab, PLAIN, &texts, shape).report.loss);
    }
}

#[test]
fn noise_does_not_depend_on_packs_or_on_what_is_kept() {
    let lab = lab("sft", json!({}));
    let texts = lab.texts(6);
    let shape = TextLoss { dft: true, noise: Some(Noise { alpha: 8.0, key: 3 }) };
    let whole = shaped(&lab, PLAIN, &texts, shape);
    for (budget_rows, keep) in [(1, model::Keep::All), (64, model::Keep::Inputs), (1 << 20, model::Keep::Inputs)] {
        let cut = shaped(&lab, Execution { budget_rows, keep, ..PLAIN }, &texts, shape);
        cut.assert_near(&whole, (1e-12, 1e-10), &format!("{budget_rows} rows"));
    }
    let other = TextLoss { noise: Some(Noise { alpha: 8.0, key: 4 }), ..shape };
    assert_ne!(shaped(&lab, PLAIN, &texts, other).report.loss, whole.report.loss);
    let none = TextLoss { noise: Some(Noise { alpha: 0.0, key: 3 }), dft: false };
    shaped(&lab, PLAIN, &texts, none).assert_near(&lab.text_step(PLAIN, &texts), (1e-13, 1e-12), "alpha 0");
}

#[test]
fn the_likelihood_term_s_gradient_equals_differences_of_the_loss() {
    for loss in ["kto", "apo_zero_unpaired"] {
        let mut lab = lab("kto", over(&lora(), json!({"pref_ftx": 0.3, "loss_type": loss})));
        let step = lab.preference_step(PLAIN, 0..4);
        let plain =
            Lab::new(C::new(2), &small("kto", &std::env::temp_dir(), over(&lora(), json!({"loss_type": loss}))), 0.02);
        let scored = lab.scored(0..4);
        let good: Vec<f64> = (0..4)
            .filter(|&i| scored.outcomes[i].desirable)
            .map(|i| -scored.outcomes[i].policy_logp / scored.sums[i].tokens as f64)
            .collect();
        let (n, c) = (4.0, good.len() as f64);
        let term = 0.3 * good.iter().sum::<f64>() / c * n / c;
        let without = plain.preference_step(PLAIN, 0..4).report.loss;
        assert!(good.len() < 4 && (step.report.loss - without - term).abs() < 1e-13, "{loss}");
        let z0 = scored.kl.z0;
        check(&mut lab, &step.gradient, loss, &|lab| {
            let (p, scored) = (lab.preference(), lab.scored(0..4));
            let mut losses = objective::evaluate(p.loss, &p.settings, &scored.outcomes, z0, 1.0);
            objective::ftx::add(p.ftx, &scored.outcomes, &scored.sums, &mut losses);
            losses.iter().map(|l| l.loss / 4.0).sum()
        });
    }
}

#[test]
fn only_the_named_blocks_have_a_gradient_and_it_is_the_full_one() {
    let full = lab("sft", json!({}));
    let texts = full.texts(3);
    let whole = full.text_step(PLAIN, &texts);
    for (n, block) in [(1, 2), (-1, 0)] {
        let part = lab("sft", json!({"freeze_trainable_layers": n}));
        let names: Vec<&str> = part.policy.table.params().iter().map(|p| p.name.as_str()).collect();
        assert!(names.iter().all(|name| name.starts_with(&format!("model.layers.{block}."))), "{names:?}");
        // The lab moves what is trained; the same values everywhere make the gradients comparable.
        let mut moved = lab("sft", json!({}));
        let mut values = Lab::new(C::new(2), &small("sft", &std::env::temp_dir(), json!({})), 0.0).values();
        let table = &moved.policy.table;
        let ranges: Vec<_> = part
            .policy
            .table
            .params()
            .iter()
            .map(|p| {
                let same = table.params().iter().find(|q| q.name == p.name).unwrap();
                (same.range(), p.range())
            })
            .collect();
        let own = part.values();
        ranges.iter().for_each(|(to, from)| values[to.clone()].copy_from_slice(&own[from.clone()]));
        moved.set(&values);
        let (all, some) = (moved.text_step(PLAIN, &texts), part.text_step(PLAIN, &texts));
        assert!((all.report.loss - some.report.loss).abs() < 1e-12);
        for (to, from) in ranges {
            let gap = testkit::largest_gap(&some.gradient[from], &all.gradient[to]);
            assert!(gap < 1e-10, "block {block}: {gap:e}");
        }
    }
    assert!(whole.report.loss.is_finite());
}

/// Rows of questions in a file of the folder.
fn write_rows(folder: &Scratch, name: &str, count: usize) -> PathBuf {
    let row = |i| json!({"prompt": format!("{name} {i}?"), "completion": format!(" {i}."), "label": i % 2 == 0});
    let text: Vec<String> = (0..count).map(|i| row(i).to_string()).collect();
    std::fs::write(folder.join(name), text.join("\n")).unwrap();
    folder.join(name)
}

fn small_kto(keys: Value) -> Value {
    over(&small("kto", &std::env::temp_dir(), lora()), keys)
}

fn job(keys: Value) -> Result<Job, train::Error> {
    let config = small_kto(keys);
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e}"));
    Job::new(loaded.config, data::Clock::at(0), &mut |_| {})
}

#[test]
fn a_mixture_has_its_weights_and_is_the_same_every_time() {
    let folder = Scratch::new("mix");
    let (a, b) = (write_rows(&folder, "a.jsonl", 30), write_rows(&folder, "b.jsonl", 90));
    let sources = |job: &Job| -> Vec<(String, u64)> {
        let of = |i| {
            (job.train.data.source(i).0.file_name().unwrap().to_string_lossy().into_owned(), job.train.data.source(i).1)
        };
        (0..job.train.data.len()).map(of).collect()
    };
    let keys = json!({"dataset_name": [a, b], "mix_weights": [1, 3], "mix_until": "first_exhausted"});
    let (first, again) = (job(keys.clone()).unwrap(), job(keys.clone()).unwrap());
    assert_eq!(sources(&first), sources(&again));
    let from_a = sources(&first).iter().filter(|(name, _)| name == "a.jsonl").count();
    assert!(
        first.train.data.len() > 90 && (first.train.data.len() - from_a) as f64 / from_a as f64 - 3.0 < 0.5,
        "{from_a}"
    );
    assert!(first.notes.iter().any(|note| note.starts_with("mixed: ")), "{:?}", first.notes);
    let all = job(over(&keys, json!({"mix_until": "all_exhausted", "mix_weights": [3, 1]}))).unwrap();
    let of_b: std::collections::BTreeSet<u64> =
        sources(&all).into_iter().filter(|(name, _)| name == "b.jsonl").map(|(_, line)| line).collect();
    assert_eq!(of_b.len(), 90, "every row of the longer set");
    let few = job(json!({"dataset_name": [a, b], "max_samples": 7})).unwrap();
    assert_eq!(few.train.data.len(), 14);
}

#[test]
fn several_answers_in_one_row_are_trained_on_and_share_their_prompt() {
    let folder = Scratch::new("answers");
    let row = |i: usize| json!({"prompt": format!("{i}?"), "completion": [format!(" {i}."), " no", " yes"], "label": [true, false, true]});
    let text: Vec<String> = (0..6).map(|i| row(i).to_string()).collect();
    std::fs::write(folder.join("rows.jsonl"), text.join("\n")).unwrap();
    let keys = json!({"dataset_name": folder.join("rows.jsonl"), "alternatives": true, "max_steps": 2});
    let job = job(keys.clone()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(job.train.data.label_counts(), (12, 6));
    assert!(
        job.train.data.prompt(0) == job.train.data.prompt(2) && job.train.data.prompt(0) != job.train.data.prompt(3)
    );
    let ended = run(&over(&small_kto(keys.clone()), json!({"output_dir": folder.join("run")})), None);
    assert_eq!((ended.step, ended.stopped), (2, false));
    assert!(ended.values.iter().any(|(name, value)| name == "loss" && value.is_finite()), "{:?}", ended.values);
    let Err(error) = self::job(over(&keys, json!({"alternatives": false}))) else { panic!("a list is no answer") };
    assert!(error.to_string().contains("completion"), "{error}");
}

#[test]
fn evaluations_take_the_test_split_and_are_refused_without_rows() {
    let folder = Scratch::new("held-out");
    let of = |names: Value| job(json!({"dataset_name": names, "eval_strategy": "epoch"}));
    write_rows(&folder, "train.jsonl", 30);
    let Err(refused) = of(json!(folder.0)) else { panic!("nothing to evaluate on") };
    assert_eq!(refused.exit_code(), 2);
    assert!(refused.to_string().contains("a split `test`"), "{refused}");
    write_rows(&folder, "test.jsonl", 8);
    let found = of(json!(folder.0)).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((found.train.data.len(), found.eval.as_ref().map(|eval| eval.data.len())), (30, Some(8)));
}

#[test]
fn evaluation_takes_the_loss_that_training_takes() {
    let folder = Scratch::new("evaluated");
    let eval = |trainer: &str, set: &str, keys: Value| -> f64 {
        let of_run = json!({"eval_dataset_name": rows(set), "eval_strategy": "steps", "eval_steps": 1, "max_steps": 1,
            "learning_rate": 1e-12, "dataset_name": rows(set), "max_samples": 4, "per_device_eval_batch_size": 4,
            "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1, "logging_steps": 1, "shuffle": false,
            "overwrite_output_dir": true});
        let config = over(&over(&small(trainer, &folder.join("run"), of_run), json!({})), keys);
        let values = run(&config, None).values;
        let value =
            |name: &str| values.iter().find(|(n, _)| n == name).unwrap_or_else(|| panic!("{name}: {values:?}")).1;
        assert!((value("loss") - value("eval_loss")).abs() < 1e-5, "{trainer}: {values:?}");
        value("eval_loss")
    };
    let plain = eval("sft", "sft_prompt_completion.jsonl", json!({}));
    let weighted = eval("sft", "sft_prompt_completion.jsonl", json!({"loss_type": "dft"}));
    assert!(weighted < plain / 2.0, "{weighted} {plain}");
    let kto = eval("kto", "kto_chat.jsonl", lora());
    let with_term = eval("kto", "kto_chat.jsonl", over(&lora(), json!({"pref_ftx": 0.5})));
    assert!(with_term > kto + 0.1, "{with_term} {kto}");
}

#[test]
fn a_stop_while_rows_are_tokenised_is_a_run_that_can_be_resumed() {
    let folder = Scratch::new("early");
    let config = over(
        &small_kto(json!({"max_steps": 2, "tokenized_path": folder.join("tokens")})),
        json!({"output_dir": folder.join("run")}),
    );
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e}"));
    let control = Control::default();
    control.stop.store(true, Ordering::SeqCst);
    let ended = train::run(&loaded, &[], &control, &mut |_| {}).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!((ended.step, ended.stopped, ended.exit_code()), (0, true, 75));
    assert!(folder.join("run/config.yaml").is_file());
    let resumed = run(&over(&config, json!({"resume_from_checkpoint": true})), None);
    assert_eq!((resumed.step, resumed.stopped), (2, false));
}

#[test]
fn a_registered_name_is_read_with_its_columns_and_tags() {
    let folder = Scratch::new("registry");
    let row = json!({"talk": [{"who": "person", "says": "2 + 2?"}, {"who": "bot", "says": "4"}], "good": true});
    let other = json!({"talk": [{"who": "person", "says": "3 + 3?"}, {"who": "bot", "says": "7"}], "good": false});
    std::fs::write(folder.join("talks.json"), json!([row, other]).to_string()).unwrap();
    let entry = json!({"talks": {"file_name": "talks.json", "formatting": "sharegpt",
        "columns": {"messages": "talk", "kto_tag": "good"},
        "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "person", "assistant_tag": "bot"}}});
    std::fs::write(folder.join("dataset_info.json"), entry.to_string()).unwrap();
    let keys = json!({"dataset_name": null, "dataset": "talks", "dataset_dir": folder.path()});
    let job = job(keys.clone()).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(job.train.data.label_counts(), (1, 1));
    let tokenizer = data::Tokenizer::load(&crate::model("qwen2"), data::Clock::at(0)).unwrap();
    let text = tokenizer.decode(job.train.data.tokens(0), false).unwrap();
    assert!(text.contains("2 + 2?") && text.contains('4'), "{text}");
    let Err(error) = self::job(over(&keys, json!({"dataset": "talk"}))) else { panic!("no such name") };
    assert!(error.to_string().contains("its first names are talks"), "{error}");
}

#[test]
fn the_cache_gives_the_same_rows_and_misses_when_anything_changes() {
    let folder = Scratch::new("cache");
    let (a, cache) = (write_rows(&folder, "a.jsonl", 12), folder.join("tokens"));
    let entry = |e: std::io::Result<std::fs::DirEntry>| !e.unwrap().file_name().to_string_lossy().starts_with('.');
    let entries = || std::fs::read_dir(&cache).map_or(0, |dir| dir.map(entry).filter(|is| *is).count());
    let keys = json!({"dataset_name": [a], "tokenized_path": cache});
    let (built, found) = (job(keys.clone()).unwrap(), job(keys.clone()).unwrap());
    assert_eq!(entries(), 1);
    let plain = job(json!({"dataset_name": [a]})).unwrap();
    for job in [&built, &found] {
        assert_eq!(job.train.data.rows(), plain.train.data.rows());
        assert!((0..12).all(|i| job.train.data.tokens(i) == plain.train.data.tokens(i)));
    }
    job(over(&keys, json!({"max_length": 12}))).unwrap();
    assert_eq!(entries(), 2);
    job(over(&keys, json!({"template": "chatml"}))).unwrap();
    assert_eq!(entries(), 3);
    write_rows(&folder, "a.jsonl", 13);
    assert_eq!(job(keys).unwrap().train.data.len(), 13);
    assert_eq!(entries(), 4);
}

#[test]
fn everything_that_is_wrong_is_found_at_once() {
    let folder = Scratch::new("validate");
    let good = write_rows(&folder, "a.jsonl", 4);
    let bad = folder.join("bad.jsonl");
    std::fs::write(&bad, "{\"prompt\": \"a\", \"completion\": \"b\", \"label\": 3}\nnot json\n{\"prompt\": \"a\"}\n")
        .unwrap();
    let config = |keys: Value| {
        let config = small_kto(keys);
        config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e}")).config
    };
    let found = |keys| -> Vec<String> {
        let (findings, _) = train::validate(&config(keys), 10, &mut |_| {});
        findings.into_iter().map(|f| format!("{} {}", f.part, f.what)).collect()
    };
    assert_eq!(found(json!({"dataset_name": [good]})), Vec::<String>::new());
    let all = found(json!({"dataset_name": [good, bad, "missing.jsonl"], "lora_target_modules": ["no_such_layer"]}));
    for part in ["adapter ", "bad.jsonl:1:", "bad.jsonl:2:", "bad.jsonl:3:", "missing.jsonl"] {
        assert!(all.iter().any(|text| text.contains(part)), "{part}: {all:#?}");
    }
    let memory = found(json!({"dataset_name": [good], "max_memory": "1MiB"}));
    assert!(memory.len() == 1 && memory[0].starts_with("memory "), "{memory:?}");
}

/// Runs a configuration; stops it at the `stop`th step that any stage makes.
fn run(config: &Value, stop: Option<usize>) -> Ended {
    let loaded = config::load("test.yaml", &config.to_string(), &[]).unwrap_or_else(|e| panic!("{e}"));
    let (control, mut made) = (Control::default(), 0);
    let mut observe = |event| {
        if let Event::Step { .. } = event {
            made += 1;
            control.stop.fetch_or(stop == Some(made), Ordering::SeqCst);
        }
    };
    train::run(&loaded, &[], &control, &mut observe).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn stages_run_in_order_and_resume_to_the_same_bits_wherever_they_were_stopped() {
    let folder = Scratch::new("stages");
    let stages = json!([
        {"trainer": "sft", "dataset_name": rows("sft_prompt_completion.jsonl"), "max_steps": 3},
        {"trainer": "kto", "dataset_name": rows("kto_chat.jsonl"), "max_steps": 4, "use_peft": true, "lora_r": 4},
        {"trainer": "kto", "dataset_name": rows("kto_plain.jsonl"), "max_steps": 3, "use_peft": true, "lora_r": 4,
         "learning_rate": 5e-4}
    ]);
    let config = |name: &str| {
        let base = over(&small("kto", &folder.join(name), json!({})), json!({"trainer": null, "dataset_name": null}));
        over(&base, json!({"stages": stages}))
    };
    let adapter = |root: &Path| std::fs::read(root.join("final/adapter_model.safetensors")).unwrap();
    let whole = run(&config("whole"), None);
    assert_eq!((whole.step, whole.stopped), (10, false));
    assert_eq!(adapter(&folder.join("whole")), adapter(&folder.join("whole/stage-3")));
    assert_ne!(adapter(&folder.join("whole")), adapter(&folder.join("whole/stage-2")));
    for (name, stop) in [("first", 2), ("second", 5), ("third", 9)] {
        let stopped = run(&config(name), Some(stop));
        assert!(stopped.stopped && stopped.step == stop as u64, "{name}: {stopped:?}");
        assert!(!folder.join(name).join("final").exists());
        let resumed = run(&over(&config(name), json!({"resume_from_checkpoint": true})), None);
        assert_eq!((resumed.step, resumed.stopped), (10, false), "{name}");
        assert_eq!(adapter(&folder.join(name)), adapter(&folder.join("whole")), "{name}");
    }
    // What the run folder says of itself is the same run.
    let text = std::fs::read_to_string(folder.join("whole/config.yaml")).unwrap();
    let again = config::load("config.yaml", &text, &[]).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(again.stages.len(), 3);
    assert!(text.starts_with(config::MODELINE) && folder.join("whole").join(config::SCHEMA_FILE).is_file());
}

#[test]
fn a_model_with_frozen_blocks_is_saved_whole_and_only_those_blocks_moved() {
    let folder = Scratch::new("blocks");
    let config =
        small("sft", &folder.join("run"), json!({"freeze_trainable_layers": 1, "max_steps": 2, "template": "chatml"}));
    run(&config, None);
    let (base, end) = (weights::Checkpoint::open(&crate::model("qwen2")).unwrap(), folder.join("run/final"));
    let trained = weights::Checkpoint::open(&end).unwrap();
    let moved = |name: &str| base.get(name).unwrap().to_f32().unwrap() != trained.get(name).unwrap().to_f32().unwrap();
    let mut blocks = 0;
    for info in base.infos() {
        let last = info.name.starts_with("model.layers.2.");
        blocks += usize::from(last);
        assert_eq!(moved(&info.name), last, "{}", info.name);
    }
    assert!(blocks > 5);
    let template = std::fs::read_to_string(end.join("chat_template.jinja")).unwrap();
    assert!(template.contains("<|im_start|>"), "{template}");
}

#[test]
fn prompts_are_answered_while_the_model_learns() {
    let scratch = Scratch::new("samples");
    let keys = json!({"generate_prompts": ["2 + 3?", "Hi"], "generate_steps": 2, "generate_max_new_tokens": 5, "max_steps": 4});
    let config = small("sft", &scratch.join("run"), keys);
    crate::finish(&config);
    let text = std::fs::read_to_string(scratch.join("run").join("train.log")).unwrap();
    let answers: Vec<&str> = text.lines().filter(|line| line.contains(" -> ")).collect();
    assert_eq!(answers.len(), 4, "{text}");
    assert!(
        answers[0].starts_with("step 2: \"2 + 3?\" -> \"") && answers[3].starts_with("step 4: \"Hi\""),
        "{answers:?}"
    );
    let samples: Vec<Value> =
        crate::log_of(&scratch.join("run")).into_iter().filter(|r| r["samples"].is_array()).collect();
    assert_eq!((samples.len(), &samples[1]["step"], &samples[0]["samples"][1]["prompt"]), (2, &json!(4), &json!("Hi")));
}
