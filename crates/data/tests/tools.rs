//! The tools around training data, each on rows whose answer is known.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use data::split::ValSize;
use data::tokenizer::Tokenizer;
use data::tools::{convert, dedup, label, mix, negatives, sample, show, stats};
use data::{Clock, OnBadRow, Options, Shape, Task, TurnLoss};
use serde_json::{Value as Json, json};

/// A folder of this test's own, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("data-tools-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn rows(&self, name: &str, rows: &[Json]) -> Vec<PathBuf> {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        let path = self.0.join(name);
        std::fs::write(&path, text).unwrap();
        vec![path]
    }

    fn read(&self, name: &str) -> Vec<Json> {
        let text = std::fs::read_to_string(self.0.join(name)).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn out(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to do about a temporary folder that cannot be removed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tokenizer() -> Tokenizer {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data/tokenizer");
    Tokenizer::load(&folder, Clock::at(0)).unwrap()
}

fn row(prompt: &str, completion: &str, label: bool) -> Json {
    json!({"prompt": prompt, "completion": completion, "label": label})
}

fn split(train_share: f64) -> Option<convert::Split> {
    Some(convert::Split { train_share, seed: 3 })
}

fn silent() -> impl FnMut(u64, u64) -> ControlFlow<()> {
    |_, _| ControlFlow::Continue(())
}

#[test]
fn pairs_are_converted_to_interleaved_rows_and_split_by_prompt() {
    let folder = Folder::new("convert");
    let pairs: Vec<Json> =
        (0..400).map(|n| json!({"prompt": format!("q{n}"), "chosen": "yes", "rejected": "no", "id": n})).collect();
    let files = folder.rows("pairs.jsonl", &pairs);
    let options = Options::new(Task::Kto);
    let done = convert::unpair(&files, &folder.out("a.jsonl"), &options, &mut silent()).unwrap();
    assert_eq!((done.rows_read, done.desirable, done.undesirable, done.written[0].rows), (400, 400, 400, 800));
    assert_eq!((done.shapes[&Shape::Pair], done.unused_fields["id"]), (400, 400));
    assert_eq!(folder.read("a.jsonl")[..2], [row("q0", "yes", true), row("q0", "no", false)]);
    let done = convert::convert(&files, &folder.out("b.jsonl"), &options, split(0.75), &mut silent()).unwrap();
    let (train, test) = (folder.read("b-train.jsonl"), folder.read("b-test.jsonl"));
    assert_eq!(done.written.iter().map(|w| w.rows as usize).collect::<Vec<_>>(), [train.len(), test.len()]);
    assert!(train.len() + test.len() == 800 && (540..660).contains(&train.len()), "{}", train.len());
    assert!(train.chunks(2).chain(test.chunks(2)).all(|pair| pair[0]["prompt"] == pair[1]["prompt"]));
    // The other order of rows, the same sides.
    let reversed: Vec<Json> = pairs.into_iter().rev().collect();
    convert::convert(&folder.rows("r.jsonl", &reversed), &folder.out("c.jsonl"), &options, split(0.75), &mut silent())
        .unwrap();
    let sorted = |mut rows: Vec<Json>| {
        rows.sort_by_key(Json::to_string);
        rows
    };
    assert_eq!(sorted(folder.read("c-test.jsonl")), sorted(test));
    for share in [0.0, 1.0, f64::NAN] {
        assert!(convert::convert(&files, &folder.out("d.jsonl"), &options, split(share), &mut silent()).is_err());
    }
    let error = convert::unpair(
        &folder.rows("x.jsonl", &[row("a", "b", true)]),
        &folder.out("e.jsonl"),
        &options,
        &mut silent(),
    );
    assert!(error.is_err() && !folder.out("e.jsonl").exists());
}

#[test]
fn statistics_count_what_is_there() {
    let folder = Folder::new("stats");
    let rows = [
        row("one two", "a", true),
        row("one two", "a", true),
        row("one two", "a", false),
        row("three", "a b c d e f g h", false),
        row("four", "", true),
        json!({"prompt": "five", "completion": "x", "label": "yes"}),
        row("six", "y", true),
    ];
    let files = folder.rows("a.jsonl", &rows);
    let options = Options { max_length: Some(6), ..Options::new(Task::Kto) };
    for tokenizer in [None, Some(&tokenizer())] {
        let s = stats::stats(&files, tokenizer, &options, &mut silent()).unwrap();
        assert_eq!((s.report.rows_read, s.report.rows, s.report.bad, s.empty_completions), (7, 5, 2, 1));
        assert_eq!((s.report.desirable, s.report.undesirable, s.weights), (3, 2, Some((1.0, 1.5))));
        assert_eq!((s.duplicates, s.contradictions), (1, 3));
        assert_eq!((s.distinct_prompts, s.shared_prompts, s.largest_group, s.contrasted_prompts), (3, 1, 3, 1));
        assert_eq!(s.totals.count(), 5);
        if tokenizer.is_some() {
            assert_eq!(s.too_long, s.totals.longer_than(6));
            assert!(s.too_long >= 1 && s.report.truncated == 0);
        } else {
            assert_eq!((s.prompts.max(), s.completions.max()), (7, 15));
        }
    }
    assert_eq!((stats::suggested_weights(0, 3), stats::suggested_weights(10, 40)), (None, Some((4.0, 1.0))));
}

#[test]
fn a_row_is_shown_as_the_model_sees_it() {
    let folder = Folder::new("show");
    let turns = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes", "train": true},
        {"role": "user", "content": "so"}, {"role": "assistant", "content": "no", "train": false}]);
    let rows = [json!({"messages": turns, "label": true, "source": "x"}), row("q", "a", false)];
    let files = folder.rows("a.jsonl", &rows);
    let tokenizer = tokenizer();
    let trained = |options: &Options, n: usize| {
        let shown = show::show(&files, n, Some(&tokenizer), options).unwrap();
        let tokens = &shown.examples[0].tokens;
        tokens.iter().filter(|t| t.trained).map(|t| t.text.as_str()).collect::<String>()
    };
    let (kto, sft) = (Options::new(Task::Kto), Options::new(Task::Sft));
    assert_eq!(trained(&kto, 0), "no<|im_end|>\n");
    assert_eq!(trained(&sft, 0), "yes<|im_end|>\n");
    let shown = show::show(&files, 0, Some(&tokenizer), &kto).unwrap();
    assert_eq!(
        (shown.place.line, shown.shape, shown.unused.as_slice()),
        (1, Shape::Messages, &["source".to_owned()][..])
    );
    let example = &shown.examples[0];
    assert!(example.learns_to_stop && example.tokens[example.prompt_len].text.contains('n'));
    assert_eq!(example.example.label, Some(true));
    // Cut before its end, the row does not teach to stop.
    let len = example.tokens.len();
    let cut = show::show(&files, 0, Some(&tokenizer), &Options { max_length: Some(len - 2), ..kto.clone() }).unwrap();
    assert!(!cut.examples[0].learns_to_stop && cut.examples[0].tokens[len - 2].cut);
    let none = show::show(&files, 0, Some(&tokenizer), &Options { max_length: Some(2), ..kto.clone() }).unwrap();
    assert!(none.examples[0].dropped.is_some());
    assert!(show::show(&files, 1, None, &kto).unwrap().examples[0].tokens.is_empty());
    assert!(show::show(&files, 2, None, &kto).unwrap_err().to_string().contains("expected a row below 2"));
}

#[test]
fn turns_are_trained_as_asked() {
    let folder = Folder::new("turns");
    let turns = json!([{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "so"}, {"role": "assistant", "content": "no"}]);
    let files = folder.rows("a.jsonl", &[json!({"messages": turns})]);
    let tokenizer = tokenizer();
    let trained = |turn_loss: TurnLoss| {
        let options = Options { turn_loss, ..Options::new(Task::Sft) };
        let data = data::load(&files, &tokenizer, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
        let text = |s: &std::ops::Range<u32>| {
            tokenizer.decode(&data.tokens(0)[s.start as usize..s.end as usize], false).unwrap()
        };
        data.loss_spans(0).iter().map(text).collect::<Vec<_>>()
    };
    assert_eq!(trained(TurnLoss::Assistant), ["yes<|im_end|>\n", "no<|im_end|>\n"]);
    assert_eq!(trained(TurnLoss::LastAssistant), ["no<|im_end|>\n"]);
    assert_eq!(trained(TurnLoss::Whole).len(), 1);
}

#[test]
fn mixtures_keep_weights_and_order() {
    let folder = Folder::new("mix");
    let source = |name: &str, count: usize| {
        let rows: Vec<Json> = (0..count).map(|n| json!({"id": format!("{name}{n}")})).collect();
        folder.rows(&format!("{name}.jsonl"), &rows)
    };
    let sources = [source("a", 300), source("b", 50)];
    let done =
        mix::mix(&sources, &[3.0, 1.0], &folder.out("out.jsonl"), (5, mix::End::AllExhausted), &mut silent()).unwrap();
    assert_eq!((done.sizes.as_slice(), done.written.rows), (&[300, 50][..], done.taken.iter().sum()));
    let ids: Vec<String> = folder.read("out.jsonl").iter().map(|r| r["id"].as_str().unwrap().to_owned()).collect();
    let of = |name: char| ids.iter().filter(|id| id.starts_with(name)).cloned().collect::<Vec<_>>();
    assert_eq!(of('a'), (0..300).map(|n| format!("a{n}")).collect::<Vec<_>>());
    assert_eq!(of('b'), (0..of('b').len()).map(|n| format!("b{}", n % 50)).collect::<Vec<_>>());
    assert!((80..=120).contains(&of('b').len()), "{}", of('b').len());
    mix::mix(&sources, &[3.0, 1.0], &folder.out("again.jsonl"), (5, mix::End::AllExhausted), &mut silent()).unwrap();
    assert_eq!(folder.read("again.jsonl"), folder.read("out.jsonl"));
}

#[test]
fn samples_are_the_same_rows_whatever_their_order() {
    let folder = Folder::new("sample");
    let rows: Vec<Json> = (0..500).map(|n| json!({"id": n, "prompt": n / 2})).collect();
    let files = folder.rows("a.jsonl", &rows);
    let reversed = folder.rows("r.jsonl", &rows.iter().rev().cloned().collect::<Vec<_>>());
    let ids = |files: &[PathBuf], name: &str, size: ValSize| {
        sample::sample(files, &folder.out(name), size, 7, &mut silent()).unwrap();
        folder.read(name).iter().map(|r| r["id"].as_u64().unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    let small = ids(&files, "1.jsonl", ValSize::Rows(40));
    assert_eq!(small.len(), 40);
    assert_eq!(ids(&reversed, "2.jsonl", ValSize::Rows(40)), small);
    assert!(ids(&files, "3.jsonl", ValSize::Rows(90)).is_superset(&small));
    assert!((70..=130).contains(&ids(&files, "4.jsonl", ValSize::Fraction(0.2)).len()));
    assert!(sample::sample(&files, &folder.out("5.jsonl"), ValSize::Rows(0), 7, &mut silent()).is_err());
    let parts = sample::split(&files, &folder.out("s.jsonl"), (0.5, 7), Some("prompt"), &mut silent()).unwrap();
    assert_eq!(parts.iter().map(|w| w.rows).sum::<u64>(), 500);
    let prompts = |name: &str| {
        folder.read(name).iter().map(|r| r["prompt"].as_u64().unwrap()).collect::<std::collections::BTreeSet<_>>()
    };
    assert!(prompts("s-train.jsonl").is_disjoint(&prompts("s-test.jsonl")));
}

#[test]
fn repeated_rows_are_left_out() {
    let folder = Folder::new("dedup");
    let long = |n: usize| (0..60).map(|k| format!("word{} ", k * (n + 1))).collect::<String>();
    let rows = [
        row("a", &long(0), true),
        json!({"label": true, "prompt": "a", "completion": long(0), "id": 1}),
        row("a", &format!("{} indeed", long(0)), true),
        row("a", "b", true),
        row("c", &long(6), false),
    ];
    let files = folder.rows("a.jsonl", &rows);
    let options = Options::new(Task::Kto);
    let run = |name: &str, same| dedup::dedup(&files, &folder.out(name), same, &options, &mut silent()).unwrap();
    let exact = run("exact.jsonl", dedup::Same::Exact);
    assert_eq!((exact.rows_read, exact.removed, exact.examples.as_slice()), (5, 1, &[(1, 0)][..]));
    assert_eq!(folder.read("exact.jsonl")[1], rows[2]);
    assert_eq!(run("near.jsonl", dedup::Same::Near { threshold: 0.8 }).examples, [(1, 0), (2, 0)]);
    assert_eq!(run("prompt.jsonl", dedup::Same::Prompt).removed, 3);
}

#[test]
fn completions_are_labelled_by_a_rule() {
    let folder = Folder::new("label");
    let rows = [
        json!({"prompt": "6*7", "completion": "so 6*7=42\n#### 42", "gold": "1\n#### 42"}),
        json!({"prompt": "6*7", "completion": "it is \\boxed{41}", "gold": 42}),
        json!({"prompt": "6*7", "completion": "who knows", "gold": "42", "label": true}),
    ];
    let files = folder.rows("a.jsonl", &rows);
    let options = Options::new(Task::Kto);
    let labels = |name: &str, rule: &label::Rule| {
        let done = label::label(&files, &folder.out(name), rule, &options, &mut silent()).unwrap();
        let labels: Vec<bool> = folder.read(name).iter().map(|r| r["label"].as_bool().unwrap()).collect();
        assert_eq!(done.desirable, labels.iter().filter(|l| **l).count());
        (labels, done)
    };
    let gold = label::Rule::Gold { field: "gold".into() };
    let (by_gold, done) = labels("gold.jsonl", &gold);
    // Only the last row had a label.
    assert_eq!((by_gold, done.without_answer, done.changed), (vec![true, false, false], 1, 1));
    assert_eq!(labels("regex.jsonl", &label::Rule::matches(r"\\boxed\{").unwrap()).0, [false, true, false]);
    assert_eq!(labels("length.jsonl", &label::Rule::Length { min: 10, max: 16 }).0, [false, true, false]);
    let file = folder.rows("scores.jsonl", &[json!(0.5), json!({"score": 2}), json!(0)]).remove(0);
    assert_eq!(labels("scores_out.jsonl", &label::Rule::Scores { file, threshold: 0.5 }).0, [true, true, false]);
    let short = folder.rows("short.jsonl", &[json!(1)]).remove(0);
    let rule = label::Rule::Scores { file: short, threshold: 0.5 };
    let error = label::label(&files, &folder.out("x.jsonl"), &rule, &options, &mut silent()).unwrap_err().to_string();
    assert!(error.contains("expected a score for every completion, found 1"), "{error}");
    let error = label::label(
        &files,
        &folder.out("y.jsonl"),
        &label::Rule::Gold { field: "none".into() },
        &options,
        &mut silent(),
    );
    assert!(error.unwrap_err().to_string().contains("a.jsonl:1:1: field `none`: expected the right answer"));
    assert!(label::Rule::matches("(").is_err());
}

#[test]
fn negatives_are_made_and_say_how() {
    let folder = Folder::new("negatives");
    let rows: Vec<Json> = (0..30)
        .map(|n| json!({"prompt": [{"role": "user", "content": format!("{n}+{n}?")}], "completion": [{"role": "assistant", "content": format!("We add them and get\n#### {}", 2 * n)}]}))
        .collect();
    let files = folder.rows("a.jsonl", &rows);
    let options = Options { on_bad_row: OnBadRow::Error, ..Options::new(Task::Kto) };
    let done = negatives::make_negatives(
        &files,
        &folder.out("out.jsonl"),
        (&negatives::Negative::ALL, 1),
        &options,
        &mut silent(),
    )
    .unwrap();
    assert_eq!(
        (done.desirable, done.undesirable, done.made.iter().map(|m| m.1).sum::<usize>()),
        (30, 0, 30 - done.without)
    );
    let out = folder.read("out.jsonl");
    assert_eq!(out.len() as u64, done.written.rows);
    for pair in out.chunks(2) {
        let [good, bad] = pair else { panic!() };
        let text = |row: &Json| row["completion"][0]["content"].as_str().unwrap().to_owned();
        assert_eq!((&good["label"], &bad["label"], &good["source"]), (&json!(true), &json!(false), &json!("data")));
        assert_eq!(good["prompt"], bad["prompt"]);
        assert_ne!(text(good), text(bad));
        match bad["source"].as_str().unwrap() {
            "negative:changed-answer" => {
                assert!(text(bad).starts_with("We add them and get\n#### ") && text(bad).len() < 32, "{}", text(bad));
            }
            "negative:truncated" => assert!(text(good).starts_with(&text(bad))),
            "negative:other-row" => assert!(out.iter().any(|row| text(row) == text(bad) && row["label"] == true)),
            other => panic!("{other}"),
        }
    }
    let error =
        negatives::make_negatives(&files, &folder.out("x.jsonl"), (&[], 1), &options, &mut silent()).unwrap_err();
    assert_eq!(error.exit_code(), 2);
}

#[test]
fn a_conversion_that_was_stopped_goes_on_to_the_same_bytes() {
    let folder = Folder::new("stopped");
    let rows: Vec<Json> = (0..1000)
        .map(|n| json!({"prompt": format!("q{}", n / 2), "completion": format!("a{n}"), "label": n % 2 == 0, "id": n}))
        .collect();
    let files = folder.rows("in.jsonl", &rows);
    let options = Options::new(Task::Kto);
    for (name, share) in [
        ("a.jsonl", None),
        ("a.jsonl.gz", None),
        ("a.json", None),
        ("a.parquet", None),
        ("a", None),
        ("b.jsonl", split(0.7)),
    ] {
        let whole = folder.0.join("whole").join(name);
        let expected = convert::convert(&files, &whole, &options, share, &mut silent()).unwrap();
        let out = folder.0.join("parts").join(name);
        let mut calls = 0;
        let done = loop {
            calls += 1;
            let mut told = 0;
            let mut stop = |_, _| {
                told += 1;
                if told > 4 * calls { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            match convert::convert(&files, &out, &options, share, &mut stop) {
                Ok(done) => break done,
                Err(e) => assert_eq!((e.exit_code(), out.exists()), (75, false), "{e}"),
            }
        };
        assert!(calls > 2 && done.gone_on_from > 0, "{name}: {calls} calls");
        let counts = |c: &convert::Converted| {
            (c.rows_read, c.desirable, c.undesirable, c.shapes.clone(), c.unused_fields.clone())
        };
        assert_eq!(counts(&done), counts(&expected), "{name}");
        for (part, whole) in done.written.iter().zip(&expected.written) {
            let read = |path: &Path| {
                let files = data::source::resolve(path, "train").unwrap();
                let (mut rows, mut all) = (data::source::Rows::open(&files), Vec::new());
                while let Some(row) = rows.next_row().unwrap() {
                    all.push(row.text);
                }
                all
            };
            assert_eq!((part.rows, read(&part.path)), (whole.rows, read(&whole.path)), "{name}");
        }
        let mut left = std::fs::read_dir(folder.0.join("parts")).unwrap().flatten();
        assert!(left.all(|entry| !entry.file_name().to_string_lossy().starts_with('.')), "{name}");
    }
    // Other settings are other work, and bad rows leave nothing behind.
    let out = folder.out("c.jsonl");
    let mut at_once = |_, _| ControlFlow::Break(());
    assert!(convert::convert(&files, &out, &options, None, &mut at_once).is_err());
    let other = Options { default_label: Some(true), ..options.clone() };
    assert_eq!(convert::convert(&files, &out, &other, None, &mut silent()).unwrap().gone_on_from, 0);
    let bad = folder.rows("bad.jsonl", &[json!({"prompt": 1})]);
    assert!(convert::convert(&bad, &folder.0.join("bad/out.jsonl"), &options, None, &mut silent()).is_err());
    assert_eq!(std::fs::read_dir(folder.0.join("bad")).unwrap().count(), 0);
}

#[test]
fn what_data_are_for_is_told_from_the_first_row() {
    use data::tools::detect::detect;
    let folder = Folder::new("detect");
    let of = |row: Json| {
        let found = detect(&folder.rows("a.jsonl", &[row]), &Options::new(Task::Sft)).unwrap().unwrap();
        (found.shape, found.task)
    };
    assert_eq!(of(row("a", "b", true)), (Some(Shape::PromptCompletion), Task::Kto));
    assert_eq!(of(json!({"prompt": "a", "completion": "b"})), (Some(Shape::PromptCompletion), Task::Sft));
    assert_eq!(of(json!({"chosen": "a", "rejected": "b"})), (Some(Shape::Pair), Task::Kto));
    assert_eq!(of(json!({"messages": [], "kto_tag": false})), (Some(Shape::Messages), Task::Kto));
    assert_eq!(of(json!({"prompt": "a", "completions": [], "labels": []})), (Some(Shape::Answers), Task::Kto));
    assert_eq!(of(json!({"text": "a"})), (Some(Shape::Text), Task::Sft));
    assert_eq!(of(json!({"what": "a"})), (None, Task::Sft));
    assert_eq!(detect(&folder.rows("b.jsonl", &[]), &Options::new(Task::Sft)).unwrap(), None);
}

#[test]
fn rows_that_wait_for_their_table_stay_when_the_table_cannot_be_written() {
    let folder = Folder::new("refused");
    let rows: Vec<Json> =
        (0..1000).map(|n| json!({"prompt": "q", "completion": format!("a{n}"), "label": true})).collect();
    let files = folder.rows("in.jsonl", &rows);
    let (options, out) = (Options::new(Task::Kto), folder.out("out/a.parquet"));
    let names = || std::fs::read_dir(out.parent().unwrap()).unwrap().flatten().map(|entry| entry.path());
    // Stopped in the second pass, the waiting rows tell the names of what is temporary.
    let mut told = 0;
    let mut stop = |_, _| {
        told += 1;
        if told > 10 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert_eq!(convert::convert(&files, &out, &options, None, &mut stop).unwrap_err().exit_code(), 75);
    let waiting = names().find(|path| path.extension().is_some_and(|e| e == "rows")).expect("rows wait");
    std::fs::create_dir_all(waiting.with_extension("part")).unwrap();
    let refused = convert::convert(&files, &out, &options, None, &mut silent()).unwrap_err();
    assert_eq!((refused.exit_code(), waiting.exists(), out.exists()), (6, true, false), "{refused}");
    let done = convert::convert(&files, &out, &options, None, &mut silent()).unwrap();
    assert_eq!((done.gone_on_from, done.written[0].rows), (1000, 1000));
    assert!(names().eq([out.clone()]), "{:?}", names().collect::<Vec<_>>());
}
