//! Names of the Hub in a configuration: fetched on first use from a Hub on this machine.

use crate::fake_hub::FakeHub;
use crate::server::HostileServer;
use crate::{Scratch, golden, stderr};

fn read(path: &str) -> Vec<u8> {
    std::fs::read(golden(path)).unwrap()
}

#[test]
fn a_model_and_a_data_set_are_fetched_once_and_pinned() {
    let scratch = Scratch::new();
    let mut files: Vec<(String, Vec<u8>)> = std::fs::read_dir(golden("models/qwen2"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&path).unwrap()))
        .collect();
    files.push(("pytorch_model.bin".into(), vec![7; 2000]));
    let files: Vec<(&str, Vec<u8>)> = files.iter().map(|(name, bytes)| (name.as_str(), bytes.clone())).collect();
    let model = FakeHub::with(&files);
    let rows = FakeHub::with(&[("train.jsonl", read("data/kto_chat.jsonl")), ("other.jsonl", b"{}".to_vec())]);
    let server = HostileServer::start(move |request| {
        if request.target.contains("datasets/") { rows.answer(request) } else { model.answer(request) }
    });
    let run = |more: &[&str]| {
        let words = [
            "train",
            "--model-name",
            "org/tiny",
            "--dataset-name",
            "org/rows",
            "--dataset-file",
            "train.jsonl",
            "--max-steps",
            "1",
            "--batch-size",
            "4",
            "--hf-token",
            "hf_CANARY",
            "max_length=128",
        ];
        let mut command = scratch.command(&[&words[..], more].concat());
        command.env("HF_ENDPOINT", server.url()).env("HF_HOME", scratch.join("hf")).env_remove("HF_TOKEN");
        command.env("NO_PROXY", "127.0.0.1,localhost").output().unwrap()
    };
    let first = run(&["output_dir=a"]);
    assert_eq!(first.status.code(), Some(0), "{}", stderr(&first));
    assert!(
        stderr(&first).contains("org/tiny") && stderr(&first).contains("pinned in prospect.lock"),
        "{}",
        stderr(&first)
    );
    assert!(server.requests_for("pytorch_model.bin").is_empty() && server.requests_for("other.jsonl").is_empty());
    assert_eq!(
        server.requests_for("resolve").iter().filter(|r| r.header("authorization").is_some()).count(),
        server.requests_for("resolve").len()
    );
    let lock = std::fs::read_to_string(scratch.join("prospect.lock")).unwrap();
    assert!(lock.contains("org/tiny") && lock.contains("org/rows") && !lock.contains("CANARY"), "{lock}");
    let fetched = server.requests_for("resolve").len();
    let second = run(&["output_dir=b"]);
    assert_eq!(second.status.code(), Some(0), "{}", stderr(&second));
    assert_eq!(server.requests_for("resolve").len(), fetched, "nothing is fetched again");
    let config = std::fs::read_to_string(scratch.join("a/config.yaml")).unwrap();
    assert!(config.contains("model_name_or_path: org/tiny\n"), "{config}");
    drop(server);
    let mut offline = scratch.command(&["train", "--model-name", "org/none", "--local-file", "x.jsonl"]);
    let offline = offline.env("HF_HUB_OFFLINE", "1").env("HF_HOME", scratch.join("hf")).output().unwrap();
    assert!(offline.status.code() != Some(0) && stderr(&offline).contains("org/none"), "{}", stderr(&offline));
}
