//! Signals: stop and save, save and go on, exit at once.

use crate::training::adapter_of;
use crate::{Scratch, objects, stderr, text};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// A run that is under way: its first step has been logged.
fn under_way(scratch: &Scratch, args: &[&str]) -> (Child, impl Iterator<Item = String> + use<>) {
    let mut child = scratch.command(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    let first = lines.find(|line| line.starts_with("step 1/"));
    assert!(first.is_some(), "no step was made");
    (child, lines)
}

fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Longer than it takes to send a signal.
const LONG: &str = "max_steps: 80\nsave_strategy: 'no'";

#[test]
fn a_run_stopped_by_sigterm_is_resumed_to_the_same_bits() {
    let scratch = Scratch::new();
    let run = scratch.kto_run(LONG);
    let (mut child, lines) = under_way(&scratch, &["train", text(&run)]);
    signal(&child, "STOP");
    let second = scratch.prospect(&["resume", "run"]);
    assert_eq!(second.status.code(), Some(6), "{}", stderr(&second));
    assert!(stderr(&second).contains(&format!("in use by process {}", child.id())), "{}", stderr(&second));
    ["TERM", "CONT"].iter().for_each(|name| signal(&child, name));
    let said: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(75), "{said:?}");
    assert!(said.iter().any(|line| line == "resume         prospect resume run"), "{said:?}");
    let state = objects(&scratch.succeeds(&["runs", "ls", "--json"])).remove(0)["state"].clone();
    assert_eq!(state, "stopped");

    scratch.succeeds(&["resume", "run"]);
    scratch.succeeds(&["train", text(&run), "output_dir=whole"]);
    assert_eq!(adapter_of(&scratch.join("run")), adapter_of(&scratch.join("whole")));
    // Speed is all that may differ.
    let log = |run: &str| {
        let text = std::fs::read_to_string(scratch.join(run).join("log.jsonl")).unwrap();
        let mut records = objects(&text);
        records.iter_mut().for_each(|r| drop(r.as_object_mut().unwrap().remove("tokens_per_second")));
        records
    };
    assert_eq!(log("run"), log("whole"));
}

#[test]
fn a_run_stopped_before_its_first_step_says_that_the_earlier_one_is_still_there() {
    let scratch = Scratch::new();
    let run = scratch.kto_run("max_steps: 2");
    scratch.succeeds(&["train", text(&run)]);
    let before = adapter_of(&scratch.join("run"));
    let mut command = scratch.command(&["train", text(&run), "overwrite_output_dir=true", "max_steps=400000"]);
    let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(|line| line.unwrap());
    // It listens by then, and has yet to read anything.
    assert!(lines.any(|line| line.starts_with("run folder")));
    ["STOP", "TERM", "CONT"].iter().for_each(|name| signal(&child, name));
    let said: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{said:?}");
    assert!(said.iter().any(|line| line.contains("run is as it was")), "{said:?}");
    assert_eq!(adapter_of(&scratch.join("run")), before);
    // Killed there, it leaves as much.
    let mut child = command.spawn().unwrap();
    assert!(BufReader::new(child.stderr.take().unwrap()).lines().any(|line| line.unwrap().starts_with("run folder")));
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(scratch.succeeds(&["runs", "ls"]).contains("finished"));
    scratch.succeeds(&["resume", "run"]);
    assert_eq!(adapter_of(&scratch.join("run")), before);
}

#[test]
fn sigusr1_saves_and_the_run_goes_on() {
    let scratch = Scratch::new();
    let run = scratch.kto_run(LONG);
    let (mut child, lines) = under_way(&scratch, &["train", text(&run)]);
    signal(&child, "USR1");
    let said: Vec<String> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said:?}");
    assert!(said.iter().any(|line| line.starts_with("saved run/checkpoint-")), "{said:?}");
}

#[test]
fn a_second_signal_ends_the_process_at_once() {
    let scratch = Scratch::new();
    let run = scratch.kto_run(LONG);
    let (mut child, lines) = under_way(&scratch, &["train", text(&run)]);
    // Both are there when the process wakes up.
    ["STOP", "TERM", "INT", "CONT"].iter().for_each(|name| signal(&child, name));
    drop(lines);
    assert_eq!(child.wait().unwrap().code(), Some(130));
}
