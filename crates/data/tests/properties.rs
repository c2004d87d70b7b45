//! Properties of every reader and writer, on rows that nobody thought of.

use std::io::Write as _;
use std::path::{Path, PathBuf};

use data::format::{Reading, read_row};
use data::source::{Rows, resolve};
use data::{Body, Example, Options, Sink, Task, read_examples};
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Map, Value as Json, json};

/// Draws that are the same in every run (SplitMix64).
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    fn text(&mut self) -> String {
        const PIECES: [&str; 18] = [
            "", "a", " ", "\n", "\r\n", "\t", "\"", "\\", "{", "}", "[", "]", ",", ":", "\u{0}", "é", "🙂", "\u{feff}",
        ];
        (0..self.below(12)).map(|_| PIECES[self.below(PIECES.len())]).collect()
    }

    /// Text that says something.
    fn words(&mut self) -> String {
        format!("w{}{}", self.below(100), self.text())
    }
}

/// The type of a column.
#[derive(Clone)]
enum Kind {
    Bool,
    Int,
    Float,
    Text,
    List(Box<Kind>),
    Object(Vec<(String, Kind)>),
}

impl Kind {
    fn draw(draw: &mut Draw, depth: usize) -> Kind {
        match draw.below(if depth == 0 { 4 } else { 6 }) {
            0 => Kind::Bool,
            1 => Kind::Int,
            2 => Kind::Float,
            3 => Kind::Text,
            4 => Kind::List(Box::new(Kind::draw(draw, depth - 1))),
            _ => Kind::Object((0..1 + draw.below(3)).map(|n| (format!("f{n}"), Kind::draw(draw, depth - 1))).collect()),
        }
    }

    fn value(&self, draw: &mut Draw) -> Json {
        if draw.below(8) == 0 {
            return Json::Null;
        }
        match self {
            Kind::Bool => (draw.below(2) == 0).into(),
            Kind::Int => (draw.next() as i64 >> draw.below(64)).into(),
            Kind::Float => (draw.next() as i64 as f64 / 2_f64.powi(draw.below(90) as i32) + 0.5).into(),
            Kind::Text => draw.text().into(),
            Kind::List(item) => (0..draw.below(4)).map(|_| item.value(draw)).collect(),
            Kind::Object(fields) => fields.iter().map(|(name, kind)| (name.clone(), kind.value(draw))).collect(),
        }
    }
}

/// Without fields that are null: in a table that is how a field is absent.
fn without_nulls(value: &Json) -> Json {
    match value {
        Json::Object(fields) => {
            let kept = fields.iter().filter(|(_, value)| !value.is_null());
            kept.map(|(name, value)| (name.clone(), without_nulls(value))).collect()
        }
        Json::Array(items) => items.iter().map(without_nulls).collect(),
        other => other.clone(),
    }
}

/// A folder of this test's own, removed with the value.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("data-properties-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Nothing to do about a temporary folder that cannot be removed.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn rows(files: &[PathBuf]) -> Vec<Json> {
    let (mut rows, mut out) = (Rows::open(files), Vec::new());
    while let Some(row) = rows.next_row().unwrap() {
        out.push(serde_json::from_slice(&row.text).unwrap());
    }
    out
}

fn read(path: &Path) -> Vec<Json> {
    rows(&resolve(path, "train").unwrap())
}

#[test]
fn rows_of_any_columns_come_back_from_every_file_format() {
    let folder = Folder::new("formats");
    for seed in 0..40 {
        let mut draw = Draw(seed);
        let columns: Vec<(String, Kind)> =
            (0..1 + draw.below(5)).map(|n| (format!("c{n}"), Kind::draw(&mut draw, 3))).collect();
        // Beyond a batch, a row group, and a chunk.
        let count = [0, 1, 7, 300, 1001, 2100][draw.below(6)];
        let written: Vec<Map<String, Json>> = (0..count)
            .map(|_| columns.iter().map(|(name, kind)| (name.clone(), kind.value(&mut draw))).collect())
            .collect();
        for name in ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet", "saved"] {
            let path = folder.0.join(seed.to_string()).join(name);
            let mut sink = Sink::create(&path).unwrap();
            written.iter().for_each(|row| sink.write(row).unwrap());
            assert_eq!(sink.finish().unwrap().rows, count);
            let back = read(&path);
            assert_eq!(back.len(), written.len(), "seed {seed}, {name}");
            let table = name == "a.parquet" || name == "saved";
            for (n, (back, row)) in back.iter().zip(&written).enumerate() {
                let row = Json::Object(row.clone());
                let same = if table { without_nulls(back) == without_nulls(&row) } else { *back == row };
                assert!(same, "seed {seed}, {name}, row {n}: {back} is not {row}");
            }
        }
    }
}

#[test]
fn json_is_read_under_any_spacing_and_packing() {
    let folder = Folder::new("spacing");
    for seed in 0..60 {
        let mut draw = Draw(seed);
        let kind = Kind::Object(vec![("a".into(), Kind::draw(&mut draw, 3)), ("b".into(), Kind::Text)]);
        let written: Vec<Json> = (0..draw.below(50))
            .map(|_| if let Json::Object(row) = kind.value(&mut draw) { Json::Object(row) } else { json!({}) })
            .collect();
        let array = draw.below(2) == 0;
        let space = |draw: &mut Draw| ["", " ", "\n", "\r\n \t", "\n\n"][draw.below(5)].to_owned();
        let mut text = if draw.below(4) == 0 { "\u{feff}".to_owned() } else { String::new() };
        if array {
            text += &format!("{}[{}", space(&mut draw), space(&mut draw));
        }
        for (n, row) in written.iter().enumerate() {
            let pretty = array && draw.below(3) == 0;
            text += &if pretty { format!("{row:#}") } else { row.to_string() };
            match (array, n + 1 == written.len()) {
                (true, true) => {}
                (true, false) => text += &format!("{},{}", space(&mut draw), space(&mut draw)),
                (false, true) if draw.below(2) == 0 => {}
                (false, _) => text += ["\n", "\r\n", " \n\n"][draw.below(3)],
            }
        }
        if array {
            text += &format!("{}]{}", space(&mut draw), space(&mut draw));
        }
        // Several members or frames, cut anywhere.
        let cut = draw.below(text.len() + 1);
        let parts = [&text.as_bytes()[..cut], &text.as_bytes()[cut..]];
        let gzip = |bytes: &[u8]| {
            let mut out = GzEncoder::new(Vec::new(), Compression::fast());
            out.write_all(bytes).unwrap();
            out.finish().unwrap()
        };
        let zstd = |bytes: &[u8]| ruzstd::encoding::compress_to_vec(bytes, ruzstd::encoding::CompressionLevel::Fastest);
        // What pzstd tells its own decoder, and others pass over.
        let skipped = |bytes: &[u8]| {
            let length = (bytes.len() as u32).to_le_bytes();
            [&[0x50 + (seed % 16) as u8, 0x2a, 0x4d, 0x18], &length[..], bytes].concat()
        };
        let files = [
            ("a.json", parts.concat()),
            ("a.json.gz", parts.map(gzip).concat()),
            ("a.json.zst", parts.map(zstd).concat()),
            ("b.json.zst", [skipped(parts[0]), zstd(parts[0]), skipped(b""), zstd(parts[1])].concat()),
        ];
        for (name, bytes) in files {
            let path = folder.0.join(name);
            std::fs::write(&path, bytes).unwrap();
            assert_eq!(rows(&[path]), written, "seed {seed}, {name}: {text:?}");
        }
    }
}

#[test]
fn cells_of_csv_are_the_strings_that_were_written() {
    let folder = Folder::new("csv");
    for seed in 0..60 {
        let mut draw = Draw(seed);
        let delimiter = if draw.below(2) == 0 { b',' } else { b'\t' };
        let names: Vec<String> =
            (0..1 + draw.below(4)).map(|n| format!("c{n}{}", ["", " x", "\"", "é"][draw.below(4)])).collect();
        let path = folder.0.join(if delimiter == b',' { "a.csv" } else { "a.tsv" });
        let mut out = csv::WriterBuilder::new().delimiter(delimiter).from_path(&path).unwrap();
        out.write_record(&names).unwrap();
        let mut written = Vec::new();
        for _ in 0..draw.below(30) {
            let cells: Vec<String> = names.iter().map(|_| draw.words()).collect();
            out.write_record(&cells).unwrap();
            written.push(names.iter().cloned().zip(cells.into_iter().map(Json::String)).collect::<Json>());
        }
        out.flush().unwrap();
        assert_eq!(rows(&[path]), written, "seed {seed}");
    }
}

fn turns(draw: &mut Draw, first: &str, second: &str, count: usize) -> Vec<Json> {
    (0..count).map(|n| json!({"role": if n % 2 == 0 { first } else { second }, "content": draw.words()})).collect()
}

/// An example of any form that training knows.
fn example(draw: &mut Draw, task: Task) -> Example {
    let count = 1 + 2 * draw.below(3);
    let body = match draw.below(if task == Task::Kto { 2 } else { 4 }) {
        0 => Body::Plain { prompt: draw.text(), completion: draw.words() },
        1 => Body::Chat {
            prompt: turns(draw, "user", "assistant", count),
            completion: turns(draw, "assistant", "user", 1),
        },
        2 => Body::Messages(turns(draw, "user", "assistant", count + 1)),
        _ => Body::Text(draw.words()),
    };
    let chat = matches!(body, Body::Chat { .. } | Body::Messages(_));
    let tools = (chat && draw.below(3) == 0).then(|| json!([{"type": "function", "function": {"name": draw.words()}}]));
    let kwargs = (chat && draw.below(3) == 0).then(|| Map::from_iter([("enable_thinking".to_owned(), json!(true))]));
    let label = (task == Task::Kto).then(|| draw.below(2) == 0);
    Example { body, label, tools, template_kwargs: kwargs, trained_turns: None, ignored: Default::default() }
}

#[test]
fn an_example_that_is_written_is_read_as_itself() {
    for (seed, task) in (0..400).flat_map(|seed| [(seed, Task::Kto), (seed, Task::Sft)]) {
        let example = example(&mut Draw(seed), task);
        let row = Json::Object(example.to_row());
        let back = read_row(&row, &Reading::new(task, "text")).unwrap_or_else(|e| panic!("seed {seed}: {row}: {e:?}"));
        assert_eq!(back.examples, [example], "seed {seed}: {row}");
        assert_eq!(back.unused, [""; 0], "seed {seed}: {row}");
    }
}

#[test]
fn examples_survive_a_conversion_to_any_format_and_back() {
    let folder = Folder::new("convert");
    for seed in 0..12 {
        let mut draw = Draw(seed);
        let task = if seed % 2 == 0 { Task::Kto } else { Task::Sft };
        // A table has one type for each column: texts and turns do not mix in one.
        let plain = draw.below(2) == 0;
        let fits = |e: &Example| matches!(e.body, Body::Plain { .. }) == plain;
        let examples: Vec<Example> =
            std::iter::repeat_with(|| example(&mut draw, task)).filter(fits).take(50).collect();
        let mut last = folder.0.join(format!("{seed}.jsonl"));
        let mut sink = Sink::create(&last).unwrap();
        examples.iter().for_each(|e| sink.write(&e.to_row()).unwrap());
        sink.finish().unwrap();
        let options = Options::new(task);
        for name in ["parquet", "json", "saved", "jsonl.gz", "jsonl.zst"] {
            let next =
                folder.0.join(if name == "saved" { format!("saved{seed}") } else { format!("{seed}.next.{name}") });
            let files = resolve(&last, "train").unwrap();
            let mut go_on = |_, _| std::ops::ControlFlow::Continue(());
            data::tools::convert::convert(&files, &next, &options, None, &mut go_on).unwrap();
            last = next;
        }
        let back = read_examples(&resolve(&last, "train").unwrap(), &options).unwrap();
        let back: Vec<Example> = back.into_iter().map(|(_, e)| e).collect();
        assert_eq!(back, examples, "seed {seed}");
    }
}
