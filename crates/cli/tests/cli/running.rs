//! Arguments, help, errors, streams.

use crate::{Scratch, golden, stderr, text};
use std::process::Stdio;

#[test]
fn help_names_every_command_and_each_command_has_an_example() {
    let scratch = Scratch::new();
    let help = scratch.succeeds(&["--help"]);
    for command in ["train", "plan", "resume", "runs", "score", "generate", "merge", "demo", "data", "pull"] {
        assert!(help.contains(&format!("\n  {command} ")), "{command} in {help}");
        let own = scratch.succeeds(&[command, "--help"]);
        assert!(own.contains("Example") && own.contains(&format!("  prospect {command}")), "{own}");
    }
    assert_eq!(scratch.prospect(&["trian"]).status.code(), Some(2));
    assert_eq!(scratch.succeeds(&["--version"]), concat!("prospect ", env!("CARGO_PKG_VERSION"), "\n"));
}

#[test]
fn an_unknown_key_is_shown_with_its_line_and_the_nearest_key() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("learning_rat: 1e-6");
    let output = scratch.prospect(&["train", text(&run)]);
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    let line = std::fs::read_to_string(&run).unwrap().lines().position(|l| l.starts_with("learning_rat:")).unwrap() + 1;
    assert!(said.contains("error[C0007]: unknown key `learning_rat`"), "{said}");
    assert!(said.contains(&format!("run.yaml:{line}:1")), "{said}");
    assert!(said.contains("did you mean `learning_rate`?"), "{said}");
    assert!(output.stdout.is_empty() && !scratch.join("run").exists());
}

#[test]
fn colour_is_used_when_it_is_asked_for_and_never_otherwise() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("learning_rat: 1e-6");
    let colours = |flag: &str| stderr(&scratch.prospect(&["train", text(&run), "--color", flag])).contains('\u{1b}');
    assert!(colours("always") && !colours("never") && !colours("auto"));
    let no_color = scratch.command(&["train", text(&run), "--color", "always"]).env("NO_COLOR", "1").output().unwrap();
    assert!(stderr(&no_color).contains('\u{1b}'), "a flag wins over the environment");
}

#[test]
fn what_is_missing_is_named_and_has_its_exit_code() {
    let scratch = Scratch::new();
    let (model, rows) = (golden("models/qwen2"), golden("data/kto_chat.jsonl"));
    let bad = scratch.write("bad.jsonl", "{\"text\": \"a\"}\n{\"text\": 7}\n");
    for (args, code, named) in [
        (vec!["train", "none.yaml"], 2, "none.yaml"),
        (vec!["train", "none.yaml", "beta"], 2, "`beta`"),
        (vec!["resume", "nothing"], 2, "nothing"),
        (vec!["runs", "show", "nothing"], 2, "nothing"),
        (vec!["score", "no-model", "--data", text(&rows)], 6, "no-model"),
        (vec!["score", text(&model), "--data", "no-rows.jsonl"], 3, "no-rows.jsonl"),
        (vec!["score", text(&model), "--data", text(&bad)], 3, "bad.jsonl:2:10"),
        (vec!["generate", text(&model)], 2, "--prompt"),
        (vec!["generate", text(&model), "--prompt", "a", "--temperature", "-1"], 2, "temperature"),
        (vec!["merge", text(&model), "--adapter", "no-adapter", "--output", "out"], 6, "no-adapter"),
        (vec!["merge", text(&model), "--adapter", "a", "--output", "out", "--dtype", "int8"], 2, "float32"),
    ] {
        let output = scratch.prospect(&args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(said.contains(named), "{args:?}: {said}");
        assert!(!said.contains("panicked") && output.stdout.is_empty(), "{args:?}: {said}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scratch = Scratch::new();
    let (model, rows) = (golden("models/qwen2"), golden("data/kto_chat.jsonl"));
    let mut command = scratch.command(&["score", text(&model), "--data", text(&rows)]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}
