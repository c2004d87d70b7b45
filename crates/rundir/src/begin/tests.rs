//! One run in place of another: starts that fail, deaths and full disks at every call.
use super::*;
use crate::disk::Op;
use crate::error::Error;
use crate::folder::Opening;
use crate::runs::{self, State};
use crate::scratch::Scratch;
use crate::status::{self, Status};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::{Arc, Mutex};

/// Every file below a folder, with its contents; the lock and what is swept do not count.
type Files = BTreeMap<String, Vec<u8>>;

fn files(root: &Path) -> Files {
    fn collect(dir: &Path, prefix: &str, found: &mut Files) {
        for name in names(dir).unwrap() {
            let (path, name) = (dir.join(&name), format!("{prefix}{name}"));
            if path.is_dir() && !name.starts_with(".tmp-") {
                collect(&path, &format!("{name}/"), found);
            } else if !path.is_dir() && !name.starts_with(".tmp-") {
                found.insert(name, fs::read(&path).unwrap());
            }
        }
    }
    let mut found = Files::new();
    collect(root, "", &mut found);
    found.remove(".lock");
    found
}

/// The same without the status, whose times are of the moment.
fn but_status(mut files: Files) -> Files {
    files.remove(status::FILE);
    files
}

/// A run that is done, beside a file of the user's.
fn earlier(run: &Path) -> Files {
    let folder = RunFolder::open(run, Opening::Create).unwrap();
    folder.write("config.yaml", b"trainer: kto\nbeta: 0.1\n").unwrap();
    let rows = run.with_extension("jsonl");
    fs::write(&rows, "the earlier rows").unwrap();
    folder.keep_inputs(&[&rows]).unwrap();
    folder.write(crate::lock::FILE, b"{\"earlier\": true}").unwrap();
    folder.write("reference.bin", b"earlier").unwrap();
    folder.write("stage-1/lock.json", b"{}").unwrap();
    folder.write("plots/loss.svg", b"<svg/>").unwrap();
    folder.open_log("log.jsonl", None).unwrap().line("{\"step\": 1, \"loss\": 0.5}").unwrap();
    for mut staging in [folder.begin_checkpoint(1).unwrap(), folder.begin_final(1).unwrap()] {
        staging.file("state.bin", &mut |out| out.write_all(b"weights of days")).unwrap();
        staging.commit(Value::Null).unwrap();
    }
    folder.end(0, 1, None).unwrap();
    fs::write(run.join("notes.txt"), "mine").unwrap();
    drop(folder);
    files(run)
}

/// What a run writes before its first step.
fn start(disk: Disk, run: &Path) -> Result<RunFolder, Error> {
    let folder = RunFolder::open_on(disk, run, Opening::Overwrite)?;
    folder.write("config.yaml", b"trainer: sft\n")?;
    let rows = run.with_extension("later.jsonl");
    fs::write(&rows, "the later rows").unwrap();
    folder.keep_inputs(&[&rows])?;
    folder.write(crate::lock::FILE, b"{\"later\": true}")?;
    folder.set_total_steps(9)?;
    Ok(folder)
}

#[test]
fn a_start_that_comes_to_nothing_leaves_every_byte_of_the_earlier_run() {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    let before = earlier(&run);
    for end in [true, false] {
        let folder = start(Disk::default(), &run).unwrap();
        assert!(folder.waits());
        assert_eq!(files(&run), before, "while it starts");
        assert_eq!(runs::show(&run).unwrap().checkpoints, [1]);
        if end {
            folder.end(6, 0, Some("no such model")).unwrap();
        }
        drop(folder);
        assert_eq!(files(&run), before);
        assert!(names(&run).unwrap().iter().all(|name| !name.starts_with(".tmp-")), "something was left");
    }
}

#[test]
fn a_run_that_begins_leaves_nothing_of_the_earlier_one() {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    earlier(&run);
    let folder = start(Disk::default(), &run).unwrap();
    folder.begun().unwrap();
    assert!(!folder.waits());
    folder.begun().unwrap();
    folder.end(75, 4, None).unwrap();
    let found = files(&run);
    let named =
        ["config.yaml", "inputs/inputs.json", "inputs/run.later.jsonl", "lock.json", "notes.txt", "status.json"];
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), named);
    assert_eq!((&found["config.yaml"][..], &found["notes.txt"][..]), (&b"trainer: sft\n"[..], &b"mine"[..]));
    let status = Status::read(&run).unwrap();
    assert_eq!((status.exit_code, status.step, status.total_steps), (Some(75), 4, 9));
    assert!(names(&run).unwrap().iter().all(|name| name == ".lock" || !name.starts_with('.')), "something was left");
}

#[test]
fn only_a_run_that_had_begun_is_waited_for() {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    let folder = start(Disk::default(), &run).unwrap();
    assert!(!folder.waits() && run.join("config.yaml").exists(), "there was no earlier one");
    fs::remove_file(run.join(crate::lock::FILE)).unwrap();
    drop(folder);
    let folder = RunFolder::open(&run, Opening::Overwrite).unwrap();
    assert!(!folder.waits() && !run.join("config.yaml").exists(), "it had not begun");
    drop(folder);
    // Of a run in stages only the stages have.
    fs::create_dir(run.join("stage-1")).unwrap();
    drop(RunFolder::open(&run, Opening::Create).unwrap());
    for file in ["stage-2/lock.json", "stage-1/checkpoint-3/MANIFEST.json", "final/MANIFEST.json"] {
        let path = run.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, "{}").unwrap();
        let refused = RunFolder::open(&run, Opening::Create).err().unwrap_or_else(|| panic!("{file} was cleared"));
        assert!(matches!(refused, Error::NotEmpty(_)), "{refused}");
        assert!(RunFolder::open(&run, Opening::Overwrite).unwrap().waits(), "{file}");
        fs::remove_dir_all(run.join(file.split('/').next().unwrap())).unwrap();
    }
}

/// Fails call number `at` and, when `dead`, every call after it: a process that dies there changes nothing more, but for a
/// removal, in which it dies half way.
fn failing_at(at: usize, dead: bool) -> (Disk, Arc<Mutex<usize>>) {
    let count = Arc::new(Mutex::new(0));
    let counter = count.clone();
    let probe = move |op: Op, path: &Path| {
        let mut count = counter.lock().unwrap();
        *count += 1;
        if dead && op == Op::Remove && *count == at + 1 && path.is_dir() {
            let first = names(path).unwrap().first().map(|name| path.join(name));
            let _ = first.map(fs::remove_file);
        }
        let fails = if dead { *count > at } else { *count == at + 1 };
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    };
    (Disk::probed(Arc::new(probe)), count)
}

/// Starts a run in place of another on a disk that fails at each call in turn, and looks at what is left each time. The last
/// argument is whether the new run was told that it has begun.
fn at_every_call(dead: bool, look: impl Fn(&str, &Path, &Files, bool)) -> usize {
    let made = Scratch::new();
    let before = earlier(&made.join("run"));
    for at in 0.. {
        let scratch = Scratch::new();
        let run = scratch.join("run");
        copied(&made.join("run"), &run);
        let (disk, count) = failing_at(at, dead);
        let begun = start(disk, &run).and_then(|folder| {
            let begun = folder.begun();
            if let Err(error) = &begun {
                let _ = folder.end(error.exit_code(), 0, Some(&error.to_string()));
            }
            begun
        });
        if *count.lock().unwrap() <= at {
            begun.unwrap();
            return at;
        }
        if let Err(error) = &begun {
            assert_eq!(error.exit_code(), 6, "call {at}: {error}");
        }
        look(&format!("call {at}"), &run, &before, begun.is_ok());
    }
    unreachable!("the calls end")
}

/// A folder with all that it holds, once more.
fn copied(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for name in names(from).unwrap() {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            copied(&from, &to);
        } else {
            fs::copy(from, to).unwrap();
        }
    }
}

/// Whether the run is the new one, whole; else it is the earlier one, to the last byte.
fn is_new(call: &str, run: &Path, before: &Files) -> bool {
    let found = files(run);
    assert!(
        names(run).unwrap().iter().all(|n| n == ".lock" || n.starts_with(".tmp-") || !n.starts_with('.')),
        "{call}"
    );
    if found == *before {
        return false;
    }
    let named =
        ["config.yaml", "inputs/inputs.json", "inputs/run.later.jsonl", "lock.json", "notes.txt", "status.json"];
    assert_eq!(found.keys().map(String::as_str).collect::<Vec<_>>(), named, "{call}");
    assert_eq!(found["config.yaml"], b"trainer: sft\n", "{call}");
    assert_eq!(found["lock.json"], b"{\"later\": true}", "{call}");
    assert_eq!(Status::read(run).unwrap().total_steps, 9, "{call}");
    true
}

#[test]
fn a_death_at_any_call_leaves_one_of_the_two_runs_whole() {
    let seen = Mutex::new([0, 0]);
    let calls = at_every_call(true, |call, run, before, told| {
        let unsettled = is_unsettled(run);
        // Whoever only reads finds a run, and is not told that it is done.
        let details = runs::show(run).unwrap();
        assert!(!unsettled || details.summary.state == State::Killed, "{call}: {:?}", details.summary.state);
        // The next opening does the rest, whatever it is for.
        for opening in [Opening::Create, Opening::Overwrite, Opening::Resume] {
            let copy = Scratch::new();
            let copy = copy.join("run");
            copied(run, &copy);
            let opened = RunFolder::open(&copy, opening);
            assert_eq!(opened.is_err(), opening == Opening::Create, "{call}: {opening:?}");
            drop(opened);
            assert!(!is_unsettled(&copy), "{call}: {opening:?}");
            match opening {
                Opening::Resume => assert_eq!(Status::read(&copy).unwrap().resumed.len(), 1, "{call}"),
                _ => assert!(is_new(call, &copy, before) || !unsettled, "{call}: {opening:?}"),
            }
        }
        settle(run).unwrap();
        let new = is_new(call, run, before);
        assert!(new || !(told || unsettled), "{call}: begun, and gone again");
        seen.lock().unwrap()[usize::from(new)] += 1;
        // The next one resumes it, or wants its place and comes to nothing.
        let now = but_status(files(run));
        for opening in [Opening::Overwrite, Opening::Resume] {
            drop(RunFolder::open(run, opening).unwrap());
            assert_eq!(but_status(files(run)), now, "{call}: {opening:?}");
            assert!(names(run).unwrap().iter().all(|n| n == ".lock" || !n.starts_with('.')), "{call}: {opening:?}");
        }
    });
    let [old, new] = *seen.lock().unwrap();
    assert!(old > 10 && new > 10 && old + new == calls, "{old} deaths before, {new} after, of {calls}");
}

#[test]
fn a_full_disk_at_any_call_leaves_one_of_the_two_runs_whole() {
    at_every_call(false, |call, run, before, told| {
        let unsettled = is_unsettled(run);
        settle(run).unwrap();
        let new = is_new(call, run, before);
        assert!(new || !(told || unsettled), "{call}: begun, and gone again");
        let tidy = names(run).unwrap().iter().all(|n| n == ".lock" || !n.starts_with('.'));
        assert!(tidy || new, "{call}: {:?}", names(run).unwrap());
    });
}

#[test]
fn a_folder_that_is_held_is_not_settled_by_another() {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    earlier(&run);
    let folder = start(Disk::default(), &run).unwrap();
    fs::create_dir(run.join(BEGUN)).unwrap();
    settle(&run).unwrap();
    assert!(run.join(BEGUN).exists());
    drop(folder);
    settle(&run).unwrap();
    assert!(!run.join(BEGUN).exists());
    settle(&scratch.join("none")).unwrap();
}
