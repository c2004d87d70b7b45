//! Every file format in and out: what is written is read as it was, by whatever name and packing.

use std::io::Write as _;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use data::source::{Rows, resolve};
use data::tokenizer::Tokenizer;
use data::{Clock, Options, Registry, Sink, Task, TokenizerFiles, load, load_cached};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value as Json, json};

/// A folder of this test's own, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("data-files-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to do about a temporary folder that cannot be removed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data")
}

fn tokenizer() -> Tokenizer {
    Tokenizer::load(&fixtures().join("tokenizer"), Clock::at(0)).unwrap()
}

fn rows(files: &[PathBuf]) -> Vec<Json> {
    let (mut rows, mut out) = (Rows::open(files), Vec::new());
    while let Some(row) = rows.next_row().unwrap() {
        out.push(serde_json::from_slice(&row.text).unwrap());
    }
    assert_eq!(rows.bytes_read(), data::source::total_bytes(files).unwrap());
    out
}

/// Rows of many kinds; equal ones are far apart.
fn samples(count: usize) -> Vec<Map<String, Json>> {
    let row = |n: usize| {
        let call = json!({"type": "function", "function": {"name": "f", "arguments": {"x": n}}});
        let mut answer = json!({"role": "assistant", "content": format!("é{n}🙂\n\"{}\"", "x".repeat(n % 7))});
        if n.is_multiple_of(5) {
            answer["tool_calls"] = json!([call]);
        }
        let row = json!({
            "prompt": [{"role": "user", "content": format!("q{n}")}], "completion": [answer], "label": n.is_multiple_of(3),
            "score": n as f64 / 4.0, "tags": (0..n % 3).collect::<Vec<_>>(), "id": n
        });
        row.as_object().unwrap().clone()
    };
    (0..count).map(row).collect()
}

#[test]
fn what_is_written_is_read_as_it_was() {
    let folder = Folder::new("round-trip");
    let expected = samples(2345);
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.json", "a.parquet", "saved"] {
        let path = folder.0.join(name);
        let mut sink = Sink::create(&path).unwrap();
        expected.iter().for_each(|row| sink.write(row).unwrap());
        assert!(!path.exists(), "{name} stands before it is whole");
        assert_eq!(sink.finish().unwrap().rows, 2345);
        let read = rows(&resolve(&path, "train").unwrap());
        assert_eq!(read.len(), expected.len(), "{name}");
        for (read, expected) in read.iter().zip(&expected) {
            assert_eq!(read, &Json::Object(expected.clone()), "{name}");
        }
    }
    let left: Vec<_> = std::fs::read_dir(&folder.0).unwrap().flatten().map(|e| e.file_name()).collect();
    assert_eq!(left.len(), 6, "{left:?}");
}

#[test]
fn an_output_is_whole_or_not_there_and_never_overwritten() {
    let folder = Folder::new("atomic");
    for name in ["a.jsonl", "a.parquet", "saved"] {
        let path = folder.0.join(name);
        let mut sink = Sink::create(&path).unwrap();
        sink.write(&samples(1)[0]).unwrap();
        drop(sink);
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 0, "{name}");
    }
    let path = folder.file("there.jsonl", "mine");
    let error = Sink::create(&path).err().unwrap();
    assert!(error.to_string().contains("it exists already"), "{error}");
    assert_eq!((error.exit_code(), std::fs::read(&path).unwrap()), (6, b"mine".to_vec()));
    let error = Sink::create(&folder.0.join("a.docx")).err().unwrap();
    assert!(error.to_string().contains("expected a name ending in .jsonl"), "{error}");
    for name in ["empty.parquet", "empty", "empty.json"] {
        let path = folder.0.join(name);
        Sink::create(&path).unwrap().finish().unwrap();
        assert_eq!(rows(&resolve(&path, "train").unwrap()), [] as [Json; 0], "{name}");
    }
}

#[test]
fn packed_texts_are_read_as_their_texts() {
    let folder = Folder::new("packed");
    let lines: String = samples(300).into_iter().map(|row| format!("{}\n", Json::Object(row))).collect();
    let plain = rows(&[folder.file("a.jsonl", &lines)]);
    let gzip = |text: &str| {
        let mut out = GzEncoder::new(Vec::new(), Compression::fast());
        out.write_all(text.as_bytes()).unwrap();
        out.finish().unwrap()
    };
    let zstd = |text: &str| {
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        ruzstd::encoding::compress_to_vec(text.as_bytes(), level)
    };
    let half = lines[..lines.len() / 2].rfind('\n').unwrap() + 1;
    let (first, second) = lines.split_at(half);
    assert_eq!(rows(&[folder.file("b.jsonl.gz", [gzip(first), gzip(second)].concat())]), plain);
    assert_eq!(rows(&[folder.file("c.jsonl.zst", [zstd(first), zstd(second)].concat())]), plain);
    // The name has no say: a packed file is told from its bytes.
    assert_eq!(rows(&[folder.file("d.jsonl", zstd(&lines))]), plain);
    let cut = folder.file("e.jsonl.zst", &zstd(&lines)[..200]);
    let files = [cut];
    let mut broken = Rows::open(&files);
    assert!(std::iter::repeat_with(|| broken.next_row()).take(400).any(|row| row.is_err()));
}

#[test]
fn zstd_pages_of_parquet_are_unpacked() {
    for name in ["zstd_pages_v1.parquet", "zstd_pages_v2.parquet"] {
        let read = rows(&[fixtures().join(name)]);
        assert_eq!(read.len(), 50, "{name}");
        for (i, row) in read.iter().enumerate() {
            assert_eq!(row["messages"][0]["content"], format!("{i}+{i}?"), "{name}");
            assert_eq!(row["messages"][1]["content"], format!("It is {}. ", 2 * i).repeat(3));
            let note = if i % 4 == 0 { json!(format!("n{i}")) } else { Json::Null };
            assert_eq!((&row["label"], &row["note"]), (&json!(i % 3 != 0), &note));
        }
    }
}

#[test]
fn damaged_tables_are_errors() {
    let folder = Folder::new("damaged");
    let good = std::fs::read(fixtures().join("zstd_pages_v2.parquet")).unwrap();
    let read_all = |path: PathBuf| {
        let files = [path];
        let mut rows = Rows::open(&files);
        loop {
            match rows.next_row() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(e) => return Some(e),
            }
        }
    };
    let mut failures = 0;
    for at in (4..good.len()).step_by(97) {
        let mut bytes = good.clone();
        bytes[at] ^= 0x55;
        failures +=
            usize::from(read_all(folder.file("a.parquet", &bytes)).is_some_and(|e| [3, 6].contains(&e.exit_code())));
        let error = read_all(folder.file("b.parquet", &good[..at])).expect("the footer is gone");
        assert!(error.to_string().contains("b.parquet"), "{error}");
    }
    assert!(failures > 5, "{failures}");
}

#[test]
fn csv_cells_become_fields() {
    let folder = Folder::new("csv");
    let text = "\u{feff}prompt,completion,label\n\"a, \"\"b\"\"\nc\",d,TRUE\ne,f,0\n";
    let data = load(&[folder.file("a.csv", text)], &tokenizer(), &Options::new(Task::Kto), &mut |_, _| {
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!(data.label_counts(), (1, 1));
    assert_eq!(tokenizer().decode(data.prompt(0), false).unwrap(), "a, \"b\"\nc");
    let turns = "messages\tlabel\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"q\"\"}, {\"\"role\"\": \"\"assistant\"\", \"\"content\"\": \"\"a\"\"}]\"\ttrue\n";
    assert_eq!(rows(&[folder.file("b.tsv", turns)])[0]["messages"][1]["content"], "a");
    let bad = |text: &str| {
        load(&[folder.file("c.csv", text)], &tokenizer(), &Options::new(Task::Kto), &mut |_, _| {
            ControlFlow::Continue(())
        })
        .unwrap_err()
        .to_string()
    };
    assert!(
        bad("prompt,completion,label\na,b,maybe\n")
            .contains("c.csv: row 1: field `label`: expected boolean, found string \"maybe\"")
    );
    assert!(
        bad("prompt,completion,label\na,b\n")
            .contains("c.csv:2:1: expected 3 cells, as many as in the header; found 2")
    );
}

#[test]
fn a_saved_folder_stands_for_the_shards_of_a_split() {
    let folder = Folder::new("saved");
    let mut sink = Sink::create(&folder.0.join("one/train")).unwrap();
    samples(3).iter().for_each(|row| sink.write(row).unwrap());
    sink.finish().unwrap();
    folder.file("one/dataset_dict.json", r#"{"splits": ["train"]}"#);
    assert_eq!(rows(&resolve(&folder.0.join("one"), "train").unwrap()).len(), 3);
    let error = resolve(&folder.0.join("one"), "test").unwrap_err().to_string();
    assert!(error.contains("no split `test`; it has train"), "{error}");
    for name in ["../secret.arrow", "/etc/passwd", "a/b.arrow", ""] {
        folder.file("two/state.json", json!({"_data_files": [{"filename": name}]}).to_string());
        let error = resolve(&folder.0.join("two"), "train").unwrap_err().to_string();
        assert!(error.contains("expected names of files beside it"), "{error}");
    }
}

#[test]
fn registered_data_sets_are_read_by_their_columns_and_tags() {
    let folder = Folder::new("registry");
    folder.file(
        "talk.jsonl",
        r#"{"talk": [{"who": "q", "says": "2+2?"}, {"who": "a", "says": "4"}], "good": true, "system": "not listed"}"#,
    );
    folder.file("pairs.json", r#"[{"q": "2+2?", "yes": "4", "no": "5"}]"#);
    let info = json!({
        "talk": {"file_name": "talk.jsonl", "formatting": "sharegpt", "columns": {"messages": "talk", "kto_tag": "good"},
                 "tags": {"role_tag": "who", "content_tag": "says", "user_tag": "q", "assistant_tag": "a"}},
        "pairs": {"file_name": "pairs.json", "ranking": true, "columns": {"prompt": "q", "chosen": "yes", "rejected": "no"}},
        "plain": {"file_name": "pairs.json"},
        "far": {"hf_hub_url": "org/name", "subset": "part"}, "code": {"script_url": "x"},
        "pictures": {"file_name": "pairs.json", "columns": {"images": "i"}}
    });
    folder.file("dataset_info.json", info.to_string());
    let registry = Registry::read(&folder.0).unwrap();
    let load_named = |name: &str| {
        let found = registry.find(name, None).unwrap();
        let mut options = Options::new(Task::Kto);
        options.mappings.extend(found.files.iter().map(|file| (file.clone(), found.mapping.clone())));
        load(&found.files, &tokenizer(), &options, &mut |_, _| ControlFlow::Continue(())).unwrap()
    };
    let (talk, pairs) = (load_named("talk"), load_named("pairs"));
    assert_eq!(talk.tokens(0), pairs.tokens(0));
    assert_eq!((pairs.len(), pairs.label_counts()), (2, (1, 1)));
    assert_eq!(registry.find("plain", None).unwrap().mapping, data::Mapping::default());
    // What is on the Hub is read from where it was fetched to, subsets from their folders.
    assert_eq!((registry.on_the_hub("far").as_deref(), registry.on_the_hub("talk")), (Some("org/name"), None));
    folder.file("part/train.jsonl", "{}");
    assert_eq!(registry.find("far", Some(&folder.0)).unwrap().files, [folder.0.join("part/train.jsonl")]);
    for (name, message) in [
        ("far", "on the Hub (org/name)"),
        ("code", "nothing from a data set is ever executed"),
        ("pictures", "rows are text"),
        ("none", "not registered; the first names are talk, pairs"),
    ] {
        let error = registry.find(name, None).unwrap_err().to_string();
        assert!(error.contains(message), "{error}");
    }
}

#[test]
fn cached_tokens_are_the_tokens_and_any_change_misses() {
    let folder = Folder::new("cache");
    let text: String = (0..1500)
        .map(|i| format!("{{\"prompt\": \"{i}+{i}\", \"completion\": \"{}\", \"label\": {}}}\n", i * 2, i % 2 == 0))
        .collect();
    let file = folder.file("a.jsonl", &text);
    let cache = folder.0.join("cache");
    let options = Options::new(Task::Kto);
    let parsed = std::cell::Cell::new(0);
    let load_through = |file: &Path, tokenizer: &TokenizerFiles, options: &Options| {
        let loaded = tokenizer.load().unwrap();
        let get = || {
            parsed.set(parsed.get() + 1);
            Ok::<_, data::Error>(&loaded)
        };
        load_cached(&[file.to_owned()], &tokenizer.fingerprint(), get, options, &cache, &mut |_, _| {
            ControlFlow::Continue(())
        })
    };
    let through =
        |file: &Path, tokenizer: &TokenizerFiles, options: &Options| load_through(file, tokenizer, options).unwrap();
    let files = || TokenizerFiles::open(&fixtures().join("tokenizer"), Clock::at(0)).unwrap();
    let plain =
        load(std::slice::from_ref(&file), &tokenizer(), &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let (built, first) = through(&file, &files(), &options);
    let (found, second) = through(&file, &files(), &options);
    assert_eq!(parsed.get(), 1, "what is found needs no tokenizer");
    assert!(matches!((&first, &second), (data::cache::Origin::Built(a), data::cache::Origin::Found(b)) if a == b));
    for cached in [&built, &found] {
        assert_eq!((cached.rows(), &cached.report), (plain.rows(), &plain.report));
        assert!(
            (0..plain.len())
                .all(|i| cached.tokens(i) == plain.tokens(i) && cached.loss_spans(i) == plain.loss_spans(i))
        );
    }
    let is_new = |file: &Path, tokenizer: &TokenizerFiles, options: &Options| {
        matches!(through(file, tokenizer, options).1, data::cache::Origin::Built(_))
    };
    // A copy under another name is the same data; every change that matters is not.
    assert!(!is_new(&folder.file("b.jsonl", &text), &files(), &options));
    assert!(is_new(&folder.file("c.jsonl", format!("{text}\n")), &files(), &options));
    assert!(is_new(&file, &files(), &Options { max_length: Some(4), ..options.clone() }));
    assert!(is_new(&file, &files(), &Options { task: Task::Sft, ..options.clone() }));
    let other = files().with_template(Path::new("chatml")).unwrap();
    assert!(is_new(&file, &other, &options));
    // A damaged entry is built again.
    let data::cache::Origin::Found(entry) = second else { panic!() };
    let mut bytes = std::fs::read(entry.join("tokens.bin")).unwrap();
    bytes[100] ^= 1;
    std::fs::write(entry.join("tokens.bin"), bytes).unwrap();
    assert!(is_new(&file, &files(), &options));
    assert!(!is_new(&file, &files(), &options));
    // A failure leaves nothing.
    let entries = || {
        let names = std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
        // Locks stay: another run may be waiting for one.
        names.filter(|name| !name.ends_with(".lock")).count()
    };
    let before = entries();
    let bad = folder.file("bad.jsonl", "{\"prompt\": 3}");
    assert!(load_through(&bad, &files(), &options).is_err());
    assert_eq!(entries(), before);
}

#[test]
fn tokenising_that_was_stopped_goes_on_and_gives_the_same() {
    let folder = Folder::new("stopped");
    let row = |i: usize| {
        format!("{{\"prompt\": \"{i}+{i}\", \"completion\": \"{}\", \"label\": {}}}\n", i * 2, i.is_multiple_of(2))
    };
    let file = folder.file("a.jsonl", (0..2000).map(row).collect::<String>());
    let (tokenizer, cache, options) = (tokenizer(), folder.0.join("cache"), Options::new(Task::Kto));
    let files = std::slice::from_ref(&file);
    // Rows that were tokenised are told by the calls: one before the first chunk, one after each.
    let until = |calls: usize| {
        let mut made = 0;
        let loaded = load_cached(files, "print", || Ok(&tokenizer), &options, &cache, &mut |_, _| {
            made += 1;
            if made > calls { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        (loaded, made)
    };
    for calls in [2, 1] {
        let (stopped, _) = until(calls);
        assert!(matches!(stopped, Err::<_, data::Error>(data::Error::Stopped { kept: true })));
    }
    let (built, made) = until(usize::MAX);
    let (built, origin) = built.unwrap();
    assert!(matches!(origin, data::cache::Origin::Built(_)) && made < 5, "{made} calls: rows were done again");
    let plain = load(files, &tokenizer, &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!((built.rows(), &built.report), (plain.rows(), &plain.report));
    assert!((0..2000).all(|i| built.tokens(i) == plain.tokens(i)));
    // A section that does not hold what was noted is begun again.
    let file = folder.file("b.jsonl", (1..2000).map(row).collect::<String>());
    let files = std::slice::from_ref(&file);
    let mut stop = |_: u64, _: u64| ControlFlow::Break(());
    let mut made = 0;
    let twice = &mut |_: u64, _: u64| {
        made += 1;
        if made > 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    assert!(load_cached(files, "print", || Ok::<_, data::Error>(&tokenizer), &options, &cache, twice).is_err());
    let part = std::fs::read_dir(&cache).unwrap().map(|e| e.unwrap().path()).find(|p| p.join("standing.json").exists());
    std::fs::write(part.unwrap().join("tokens.bin"), "other").unwrap();
    assert!(load_cached(files, "print", || Ok::<_, data::Error>(&tokenizer), &options, &cache, &mut stop).is_err());
    let again = load_cached(files, "print", || Ok::<_, data::Error>(&tokenizer), &options, &cache, &mut |_, _| {
        ControlFlow::Continue(())
    });
    assert_eq!(again.unwrap().0.len(), 1999);
}

#[test]
fn of_a_limited_set_no_more_rows_are_read() {
    let folder = Folder::new("limits");
    let row = |i: usize| format!("{{\"prompt\": \"{i}\", \"completion\": \"x\"}}\n");
    let good: String = (0..5).map(row).collect();
    // What comes after the limit is not even looked at.
    let files = [
        folder.file("a.jsonl", format!("{good}broken")),
        folder.file("b.jsonl", format!("{good}broken")),
        folder.file("c.jsonl", &good),
    ];
    let mut options = Options::new(Task::Sft);
    options.limits = vec![(0..1, 5), (1..2, 2)];
    let data = load(&files, &tokenizer(), &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let of = |file: u32| data.rows().iter().filter(|row| row.file == file).count();
    assert_eq!([of(0), of(1), of(2)], [5, 2, 5]);
    options.limits = vec![(0..2, 3), (2..3, 0)];
    let data = load(&files, &tokenizer(), &options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    assert_eq!((data.len(), data.report.rows_read), (3, 3));
}
