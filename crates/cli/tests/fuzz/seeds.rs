//! Good files to start from, one of every kind that a parser knows.

use data::template::named;
use data::{JsonRow, Sink};
use serde_json::{Value, json};
use std::path::Path;

/// The seeds of a target.
pub(crate) fn of(target: &str) -> Vec<Vec<u8>> {
    match target {
        "jsonl" => jsonl(),
        "csv" => vec![
            b"prompt,completion,label\n\"a \"\"b\"\"\",c,true\nd,\"e\nf\",false\n".to_vec(),
            b"messages,label\n\"[{\"\"role\"\": \"\"user\"\", \"\"content\"\": \"\"a\"\"}]\",1\n".to_vec(),
        ],
        "packed" => packed(),
        "parquet" => {
            let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/data");
            let packed = ["zstd_pages_v1.parquet", "zstd_pages_v2.parquet"].map(|name| std::fs::read(fixtures.join(name)));
            let mut seeds = vec![written("a.parquet", &tables(40)), written("b.parquet", &tables(1))];
            seeds.extend(packed.into_iter().map(|file| file.expect("a fixture")));
            seeds
        }
        "arrow" => vec![written("saved", &tables(40)), written("one", &tables(1))],
        "template" => named::ALL.iter().map(|template| template.source.as_bytes().to_vec()).collect(),
        "config" => configs(),
        "safetensors" => vec![tensors(r#"{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[4],"data_offsets":[24,32]},"__metadata__":{"format":"pt"}}"#, 32)],
        "index" => vec![
            br#"{"metadata": {"total_size": 24}, "weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}"#.to_vec(),
            br#"{"weight_map": {"a.weight": "../x.safetensors", "b": "model-00002-of-00002.safetensors"}}"#.to_vec(),
        ],
        "model" => models(),
        "adapter" => vec![
            br#"{"peft_type": "LORA", "r": 8, "lora_alpha": 16, "target_modules": ["q_proj"], "rank_pattern": {"q_proj": 4},
                "alpha_pattern": {".*v_proj": 2.5}, "use_dora": true, "modules_to_save": ["lm_head"], "bias": "all"}"#
                .to_vec(),
        ],
        "tiktoken" => vec![(0..=255u8).map(vocabulary).collect::<String>().into_bytes()],
        "gguf" => crate::outside::gguf_seeds(),
        "latex" => crate::outside::latex_seeds(),
        "http" => crate::outside::http_seeds(),
        _ => vec![
            br#"{"a": {"file_name": "a.json", "formatting": "sharegpt", "ranking": true, "columns": {"messages": "m", "chosen": "c",
                "rejected": "r"}, "tags": {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}},
                "b": {"hf_hub_url": "org/name", "columns": {"prompt": "q", "response": "a", "kto_tag": "k"}}, "c": {"script_url": "x"}}"#
                .to_vec(),
            br#"{"self": {"file_name": "dataset_info.json", "num_samples": 3, "formatting": "openai"}}"#.to_vec(),
        ],
    }
}

/// A header, its length before it, and zeros behind it.
fn tensors(header: &str, bytes: usize) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), &vec![0; bytes]].concat()
}

/// The configurations of the reference models.
fn models() -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/models");
    let mut paths: Vec<_> = std::fs::read_dir(folder).expect("models").flatten().map(|e| e.path()).collect();
    paths.sort();
    paths.into_iter().map(|path| std::fs::read(path.join("config.json")).expect("a configuration")).collect()
}

/// The line of a byte in a vocabulary.
fn vocabulary(byte: u8) -> String {
    let digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let [high, low] = [byte >> 2, (byte & 3) << 4].map(|i| digits[usize::from(i)] as char);
    format!("{high}{low}== {byte}\n")
}

/// One row of every shape.
fn shapes() -> Vec<Value> {
    let turns = json!([{"role": "system", "content": "s"}, {"role": "user", "content": [{"type": "text", "text": "q"}]},
        {"role": "assistant", "content": "a", "train": true, "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]}]);
    let talk = json!([{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "info": {"x": [1, null]}}]);
    vec![
        json!({"prompt": "q", "completion": "a", "label": true}),
        json!({"prompt": turns, "completion": [{"role": "assistant", "content": "a"}], "label": false,
            "tools": "[{\"name\": \"f\"}]", "chat_template_kwargs": {"enable_thinking": false}}),
        json!({"messages": turns, "label": true}),
        json!({"conversations": talk, "system": "s", "kto_tag": true}),
        json!({"conversations": talk, "chosen": {"from": "gpt", "value": "b"}, "rejected": {"from": "gpt", "value": "c"}}),
        json!({"chosen": turns, "rejected": turns}),
        json!({"prompt": "p", "chosen": "p a", "rejected": "p b"}),
        json!({"chosen": "same é a", "rejected": "same é b"}),
        json!({"instruction": "i", "input": "x", "output": "o", "history": [["q", "a"]], "system": "s"}),
        json!({"problem": "p", "solution": "s", "messages": turns, "source": "x"}),
        json!({"prompt": "q", "completions": ["a", [{"role": "assistant", "content": "b"}]], "labels": [true, false]}),
        json!({"question": "q", "one": {"solution": "s", "is_correct": true}, "two": {"solution": "t", "is_correct": false}}),
        json!({"text": "t"}),
    ]
}

fn jsonl() -> Vec<Vec<u8>> {
    let rows = shapes();
    let lines = |rows: &[Value]| rows.iter().map(|row| format!("{row}\n")).collect::<String>().into_bytes();
    let mut seeds: Vec<Vec<u8>> = rows.iter().map(|row| lines(std::slice::from_ref(row))).collect();
    seeds.push(lines(&rows));
    seeds.push(format!("\u{feff} {:#}\n", Value::from(rows)).into_bytes());
    seeds
}

fn packed() -> Vec<Vec<u8>> {
    let text = jsonl().remove(13);
    let mut packed = gzip(&text);
    let mut seeds = vec![packed.clone()];
    packed.extend_from_slice(&gzip(b"{\"text\": \"more\"}\n"));
    seeds.push(packed);
    // A zstd frame of one raw block: magic, descriptor (single segment, one byte of size), header of the block, bytes.
    let body = b"{\"text\": \"a\"}\n";
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0x20, body.len() as u8];
    frame.extend_from_slice(&((body.len() as u32) << 3 | 1).to_le_bytes()[..3]);
    frame.extend_from_slice(body);
    seeds.push(frame);
    seeds
}

/// What our own writer packs.
fn gzip(text: &[u8]) -> Vec<u8> {
    let rows: Vec<JsonRow> = text.split(|b| *b == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
    written("a.jsonl.gz", &rows)
}

fn tables(count: usize) -> Vec<JsonRow> {
    let row = |n: usize| {
        let row = json!({
            "prompt": [{"role": "user", "content": format!("q{n}")}], "completion": [{"role": "assistant", "content": "a".repeat(n)}],
            "label": n.is_multiple_of(3), "score": n as f64 / 4.0, "tags": (0..n % 3).collect::<Vec<_>>(), "id": n,
            "mixed": if n.is_multiple_of(2) { json!(n) } else { json!("x") },
        });
        row.as_object().unwrap().clone()
    };
    (0..count).map(row).collect()
}

/// The bytes that a sink of that name writes; of a folder its first shard.
fn written(name: &str, rows: &[JsonRow]) -> Vec<u8> {
    let folder = std::env::temp_dir().join(format!("prospect-fuzz-seed-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let path = folder.join(name);
    let mut sink = Sink::create(&path).unwrap();
    rows.iter().for_each(|row| sink.write(row).unwrap());
    sink.finish().unwrap();
    let file = if path.is_dir() { path.join("data-00000-of-00001.arrow") } else { path };
    let bytes = std::fs::read(file).unwrap();
    std::fs::remove_dir_all(&folder).unwrap();
    bytes
}

fn configs() -> Vec<Vec<u8>> {
    let kto = "trainer: kto\nmodel_name_or_path: m\ndataset_name: d.jsonl\noutput_dir: o\nbeta: 0.1\nlearning_rate: 1e-6\n\
               use_peft: true\nlora_r: 8\nlora_target_modules: [q_proj, v_proj]\nmax_length: 512\nlr_scheduler_type: cosine\n";
    let sft = "# comment\ntrainer: sft\nmodel_name_or_path: \"m\"\ndataset_name:\n  - a.jsonl\n  - b.jsonl\noutput_dir: 'o'\n\
               num_train_epochs: 2\nsave_strategy: 'no'\npacking: true\n";
    [kto, sft].map(|text| text.as_bytes().to_vec()).to_vec()
}
