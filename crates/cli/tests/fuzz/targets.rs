//! The parsers of outside bytes, each as a function of one file.

use crate::outside;
use data::source::Rows;
use data::tools::{convert, detect, show, stats};
use data::{ChatTemplate, Clock, OnBadRow, Options, Registry, RenderInput, Task, read_examples};
use serde_json::{Value, json};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

/// A parser.
pub(crate) struct Target {
    pub(crate) name: &'static str,
    /// What the input is called when it is a file.
    pub(crate) file: &'static str,
    /// Words that mean something to it.
    pub(crate) words: &'static [&'static str],
    /// Reads the input; a panic is a finding.
    pub(crate) run: fn(&Path, &[u8]),
}

const FIELDS: &[&str] = &[
    "\"prompt\"",
    "\"completion\"",
    "\"label\"",
    "\"messages\"",
    "\"conversations\"",
    "\"from\"",
    "\"value\"",
    "\"role\"",
    "\"content\"",
    "\"chosen\"",
    "\"rejected\"",
    "\"instruction\"",
    "\"output\"",
    "\"history\"",
    "\"tools\"",
    "\"train\"",
    "\"loss_weight\"",
    "\"completions\"",
    "\"labels\"",
    "\"system\"",
    "\"problem\"",
    "\"solution\"",
    "\"text\"",
    "\"type\"",
    "\"chat_template_kwargs\"",
    "\"is_correct\"",
    "true",
    "false",
    "null",
    "{",
    "}",
    "[",
    "]",
    "\\u0000",
    "\\ud800",
    "\n",
];
const JINJA: &[&str] = &[
    "{%",
    "%}",
    "{{",
    "}}",
    "{#",
    "#}",
    "{%-",
    "-%}",
    " for x in messages ",
    " if ",
    " endif ",
    " endfor ",
    " set ",
    " macro m() ",
    " generation ",
    " endgeneration ",
    "|tojson",
    "|safe",
    "|map",
    "|join",
    "[::-1]",
    ".items()",
    ".split()",
    "namespace",
    "loop.",
    "raise_exception('x')",
    "strftime_now('%Y')",
    "range(9)",
    "~",
    "*",
    "messages[0]",
    "none",
    "true",
    "'",
    "\"",
    "recursive",
];
const YAML: &[&str] = &[
    "trainer: ",
    "kto",
    "sft",
    "- ",
    ": ",
    "\n",
    "  ",
    "&a ",
    "*a",
    "<<: ",
    "!!str ",
    "|\n",
    ">\n",
    "{",
    "}",
    "[",
    "]",
    "learning_rate",
    "1e-4",
    "null",
    "~",
    "true",
    "'",
    "\"",
    "#",
    "%",
    "---\n",
    "...\n",
    "model_name_or_path: ",
    "lora_r: ",
    "max_length: ",
    ".inf",
];

const HEADER: &[&str] = &[
    "\"dtype\"",
    "\"shape\"",
    "\"data_offsets\"",
    "\"__metadata__\"",
    "\"weight_map\"",
    "\"F32\"",
    "\"BF16\"",
    "\"F4\"",
    "[0,0]",
    "[18446744073709551615]",
    "[4294967296,4294967296]",
    "../a.safetensors",
    "model.safetensors",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
];
const MODEL: &[&str] = &[
    "\"model_type\"",
    "\"hidden_size\"",
    "\"num_attention_heads\"",
    "\"num_hidden_layers\"",
    "\"n_routed_experts\"",
    "\"rope_parameters\"",
    "\"rope_scaling\"",
    "\"yarn\"",
    "\"factor\"",
    "\"layer_types\"",
    "\"sliding_window\"",
    "1152921504606846976",
    "268435456",
    "-1",
    "0",
    "1e308",
    "null",
    "true",
    "[]",
    "{}",
];
const ADAPTER: &[&str] = &[
    "\"rank_pattern\"",
    "\"alpha_pattern\"",
    "\"use_dora\"",
    "\"modules_to_save\"",
    "\"bias\"",
    "\"target_modules\"",
    "{\"(a*)*b\": 4}",
    "0",
    "-1",
    "null",
    "true",
    "\"all\"",
];

/// Every target.
pub(crate) const TARGETS: [Target; 16] = [
    Target { name: "gguf", file: "a.gguf", words: &["GGUF", "blk.0.", "general."], run: outside::gguf },
    Target { name: "latex", file: "a.tex", words: outside::LATEX, run: outside::latex },
    Target { name: "http", file: "a.http", words: outside::HTTP, run: outside::http },
    Target { name: "jsonl", file: "a.jsonl", words: FIELDS, run: rows },
    Target {
        name: "csv",
        file: "a.csv",
        words: &["prompt", "completion", "label", ",", "\"", "\n", "true", "[{", "}]"],
        run: rows,
    },
    Target { name: "packed", file: "a.jsonl.gz", words: &[], run: rows },
    Target { name: "parquet", file: "a.parquet", words: &["PAR1"], run: rows },
    Target { name: "arrow", file: "a.arrow", words: &["ARROW1"], run: rows },
    Target { name: "template", file: "a.jinja", words: JINJA, run: template },
    Target { name: "config", file: "a.yaml", words: YAML, run: config },
    Target { name: "registry", file: "dataset_info.json", words: FIELDS, run: registry },
    Target { name: "safetensors", file: "model.safetensors", words: HEADER, run: safetensors },
    Target { name: "index", file: "model.safetensors.index.json", words: HEADER, run: index },
    Target { name: "model", file: "config.json", words: MODEL, run: model_config },
    Target { name: "adapter", file: "adapter_config.json", words: ADAPTER, run: adapter },
    Target { name: "tiktoken", file: "qwen.tiktoken", words: &["IQ== ", "=", " ", "\n", "0", "257"], run: tiktoken },
];

/// All that is done with rows: read as they are, looked at, read for every task, counted, written as a table.
fn rows(path: &Path, input: &[u8]) {
    let files = [path.to_owned()];
    let mut raw = Rows::open(&files);
    while let Ok(Some(_)) = raw.next_row() {}
    let mut go_on = |_, _| ControlFlow::Continue(());
    for task in [Task::Kto, Task::Sft, Task::Prompt] {
        let options = Options { on_bad_row: OnBadRow::Skip, ..Options::new(task) };
        let _ = detect::detect(&files, &options);
        let _ = read_examples(&files, &options);
        let strict = Options { default_label: Some(true), alternatives: true, ..Options::new(task) };
        if let Err(e) = read_examples(&files, &strict) {
            assert!(!e.to_string().is_empty());
        }
        if task != Task::Prompt {
            let _ = stats::stats(&files, None, &options, &mut go_on);
            let _ = show::show(&files, 0, None, &strict);
        }
    }
    if input.len().is_multiple_of(8) {
        let out = path.with_file_name("out.parquet");
        let options = Options { on_bad_row: OnBadRow::Skip, ..Options::new(Task::Sft) };
        if convert::convert(&files, &out, &options, None, &mut go_on).is_ok() {
            let written = [out.clone()];
            let mut back = Rows::open(&written);
            while let Some(_row) = back.next_row().expect("what we write we read") {}
        }
        let _ = std::fs::remove_file(&out);
    }
}

fn template(_path: &Path, input: &[u8]) {
    let source = String::from_utf8_lossy(input);
    let specials = vec![("bos_token".to_owned(), "<s>".to_owned())];
    let Ok(template) = ChatTemplate::new(&source, specials, Clock::at(0)) else { return };
    let messages = json!([
        {"role": "system", "content": "s"}, {"role": "user", "content": "a", "n": [1, 2.5, null]},
        {"role": "assistant", "content": "b", "tool_calls": [{"function": {"name": "f", "arguments": {"x": 1}}}]}
    ]);
    let tools = json!([{"type": "function", "function": {"name": "f"}}]);
    let messages: &[Value] = messages.as_array().unwrap();
    for tools in [None, Some(&tools)] {
        let input = RenderInput { messages, tools, add_generation_prompt: true, ..RenderInput::default() };
        let plain = template.render(input);
        if let (Ok(plain), Ok((text, ranges))) = (plain, template.render_with_ranges(input)) {
            assert!(ranges.iter().all(|range| text.get(range.clone()).is_some()), "{ranges:?} of {plain:?}");
        }
    }
}

fn config(_path: &Path, input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    if let Err(errors) = config::load("a.yaml", &text, &[]) {
        let said: usize = errors.problems.iter().map(|problem| problem.pieces().len()).sum();
        assert!(said > 0);
    }
}

fn registry(path: &Path, _input: &[u8]) {
    let Ok(registry) = Registry::read(path) else { return };
    let names: Vec<String> = registry.names().map(str::to_owned).collect();
    for name in names {
        if let Ok(found) = registry.find(&name, None) {
            let row = json!({"instruction": "a", "conversations": [{"from": "human", "value": "b"}], "chosen": 1});
            let _ = found.mapping.apply(row);
            let _: Vec<PathBuf> = found.files;
        }
    }
}

/// A file of tensors: its header, and every tensor that it is said to have.
fn safetensors(path: &Path, _input: &[u8]) {
    let Ok(file) = weights::SafeTensors::open(path) else { return };
    for info in file.infos() {
        assert!(info.element_count() < 1 << 40, "{info:?}");
        let tensor = file.get(&info.name).expect("a name of the header");
        let _ = tensor.to_f32();
        assert!(tensor.bytes().len() <= 1 << 24);
    }
}

/// A shard index beside one good shard.
fn index(path: &Path, _input: &[u8]) {
    let dir = path.parent().expect("a file in a folder");
    let shard = dir.join("model-00001-of-00001.safetensors");
    let info = [weights::TensorInfo::new("a.weight", weights::DType::F32, [2, 3])];
    weights::write_file(&shard, &info, |_, sink| sink.put(&[0.0f32; 6])).expect("a shard");
    if let Ok(checkpoint) = weights::Checkpoint::open(dir) {
        assert!(checkpoint.files().all(|file| file.parent() == Some(dir)), "a shard outside of the folder");
        checkpoint.names().for_each(|name| drop(checkpoint.get(name)));
    }
}

/// A model's configuration, and the sizes it comes to.
fn model_config(_path: &Path, input: &[u8]) {
    let Ok(Value::Object(keys)) = serde_json::from_slice(input) else { return };
    match model::arch::blueprint(&keys) {
        Err(e) => assert!(!e.to_string().is_empty()),
        Ok(blueprint) => {
            let _ = (blueprint.num_parameters(), blueprint.linear_modules().len(), blueprint.rope.tables(8));
        }
    }
}

fn adapter(path: &Path, _input: &[u8]) {
    let dir = path.parent().expect("a file in a folder");
    let Ok(config) = weights::AdapterConfig::read(dir) else { return };
    let _ = (config.rank_of("model.layers.0.self_attn.q_proj"), config.scale_of("aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

fn tiktoken(path: &Path, _input: &[u8]) {
    if let Ok(tokenizer) = data::Tokenizer::load(path.parent().expect("a file in a folder"), Clock::at(0)) {
        let _ = tokenizer.encode("a b \u{e9}<|im_end|>", true);
    }
}
