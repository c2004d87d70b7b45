//! `pull` from a local server that stands for the Hub.

use crate::fake_hub::FakeHub;
use crate::server::HostileServer;
use crate::{Scratch, golden, objects, stderr, text};
use serde_json::json;
use std::process::{Command, Output};

const CANARY: &str = "hf_CANARY_of_the_command";

fn hub() -> (FakeHub, HostileServer) {
    let file = |name: &str| std::fs::read(golden("models/qwen2").join(name)).unwrap();
    let hub = FakeHub::with(&[
        ("config.json", file("config.json")),
        ("tokenizer.json", file("tokenizer.json")),
        ("tokenizer_config.json", file("tokenizer_config.json")),
        ("big.bin", vec![7; 300_000]),
        ("data/train-00000.jsonl", b"{\"prompt\": \"q\", \"completion\": \"a\", \"label\": true}\n".to_vec()),
    ]);
    let serving = hub.clone();
    (hub, HostileServer::start(move |request| serving.answer(request)))
}

pub(crate) fn command(scratch: &Scratch, server: &HostileServer, args: &[&str]) -> Command {
    let mut command = scratch.command(args);
    command.env("HF_ENDPOINT", server.url()).env("HF_HOME", scratch.join("home")).env("HF_TOKEN", CANARY);
    for name in [
        "HF_HUB_CACHE",
        "HF_HUB_OFFLINE",
        "HTTPS_PROXY",
        "ALL_PROXY",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "http_proxy",
    ] {
        command.env_remove(name);
    }
    command
}

fn pull(scratch: &Scratch, server: &HostileServer, args: &[&str]) -> Output {
    let output = command(scratch, server, &[&["pull"], args].concat()).output().unwrap();
    let said = [output.stdout.as_slice(), &output.stderr].concat();
    assert!(!String::from_utf8_lossy(&said).contains(CANARY));
    output
}

#[test]
fn a_repository_is_pulled_pinned_and_found_offline() {
    let (scratch, (hub, server)) = (Scratch::new(), hub());
    let output = pull(&scratch, &server, &["model", "org/tiny", "--include", "*.json", "--output", "out", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let report = objects(&String::from_utf8(output.stdout).unwrap()).remove(0);
    assert_eq!(
        (&report["fetched"], &report["path"], &report["commit"]),
        (&json!(3), &json!("out"), &json!(hub.commit()))
    );
    assert!(scratch.join("out/tokenizer.json").is_file() && !scratch.join("out/big.bin").exists());
    let lock = std::fs::read_to_string(scratch.join("prospect.lock")).unwrap();
    assert!(lock.contains(&hub.commit()) && !lock.contains(CANARY), "{lock}");

    let asked = server.requests().len();
    let again = pull(&scratch, &server, &["model", "org/tiny", "--include", "*.json", "--output", "out"]);
    assert!(stderr(&again).contains("3 files") && stderr(&again).contains("0 of them fetched"), "{}", stderr(&again));
    assert_eq!(server.requests().len(), asked, "what is pinned and there needs no question");

    // Into the cache, then without a network.
    assert_eq!(pull(&scratch, &server, &["dataset", "org/rows"]).status.code(), Some(0));
    let mut offline = command(&scratch, &server, &["pull", "dataset", "org/rows"]);
    let output = offline.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let root = String::from_utf8(output.stdout).unwrap();
    assert!(std::path::Path::new(root.trim()).join("big.bin").is_file(), "{root}");
    let mut offline = command(&scratch, &server, &["pull", "model", "org/other"]);
    let output = offline.env("HF_HUB_OFFLINE", "1").output().unwrap();
    assert_eq!((output.status.code(), stderr(&output).contains("HF_HUB_OFFLINE")), (Some(2), true));
}

#[test]
fn what_is_not_there_is_said_with_its_exit_code() {
    let (scratch, (_hub, server)) = (Scratch::new(), hub());
    for (args, code, said) in [
        (vec!["model", "../tiny"], 2, "repository name"),
        (vec!["model", "org/tiny", "--revision", "a..b"], 2, "revision"),
        (vec!["model", "org/tiny", "--include", "*.none"], 2, "none of the 5 files"),
        (vec!["space", "org/tiny"], 2, "dataset"),
    ] {
        let output = pull(&scratch, &server, &args);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {}", stderr(&output));
        assert!(stderr(&output).contains(said), "{args:?}: {}", stderr(&output));
    }
    assert!(!scratch.join("prospect.lock").exists());
}

#[test]
fn data_and_tokenizers_are_pulled_where_they_are_named() {
    let (scratch, (_hub, server)) = (Scratch::new(), hub());
    let output =
        command(&scratch, &server, &["data", "show", "org/rows", "--model", "org/tiny", "--json"]).output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    let shown = objects(&String::from_utf8(output.stdout).unwrap()).remove(0);
    assert_eq!(
        (&shown["format"], &shown["examples"][0]["learns_to_stop"]),
        (&json!("prompt-completion"), &json!(true))
    );
    let cached = scratch.join("home/hub/models--org--tiny");
    assert!(cached.is_dir() && server.requests_for("tiny/resolve").iter().all(|r| !r.target.contains("big.bin")));
    assert!(text(&cached).ends_with("tiny"));
}
