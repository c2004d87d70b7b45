//! Crashes at every point, full disks at every call, damage at every byte, and rotation against a model.
use super::*;
use crate::disk::Op;
use crate::folder::Opening;
use crate::scratch::Scratch;
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

fn content(step: u64) -> Vec<u8> {
    (0..3000).map(|i| (i * step + i / 7) as u8).collect()
}

/// Writes `checkpoint-<step>` with one file streamed, one in a folder, and one left by path.
fn save(folder: &RunFolder, step: u64) -> Result<Checkpoint, Error> {
    let mut staging = folder.begin_checkpoint(step)?;
    staging.file("state.bin", &mut |out| content(step).chunks(1000).try_for_each(|chunk| out.write_all(chunk)))?;
    staging.file("adapter/weights.bin", &mut |out| out.write_all(&content(step + 1)))?;
    fs::write(staging.path().join("by_path.json"), b"{}").at("write", staging.path())?;
    staging.commit(json!({"log": 12 * step, "loss": 0.1}))
}

fn newest(run: &Path) -> Checkpoint {
    newest_verified(run).unwrap().0.expect("a checkpoint that verifies")
}

fn open(run: &Path) -> RunFolder {
    let opening = if run.exists() { Opening::Resume } else { Opening::Create };
    RunFolder::open(run, opening).unwrap()
}

fn temporaries(run: &Path) -> Vec<String> {
    names(run).unwrap().into_iter().filter(|name| name.starts_with(".tmp-") || name.starts_with(".old-")).collect()
}

#[test]
fn what_was_committed_is_what_verifies() {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    let committed = save(&open(&run), 5).unwrap();
    assert_eq!(verify(&run.join("checkpoint-5")).unwrap(), committed);
    assert_eq!(newest(&run), committed);
    assert_eq!(committed.step(), 5);
    assert_eq!(fs::read(committed.file("state.bin")).unwrap(), content(5));
    let paths: Vec<_> = committed.manifest.files.iter().map(|file| file.path.as_str()).collect();
    assert_eq!(paths, ["adapter/weights.bin", "by_path.json", "state.bin"]);
    assert_eq!(committed.manifest.files[2].blake3, blake3::hash(&content(5)).to_hex().to_string());
    assert_eq!(committed.manifest.meta["log"], 60);
    assert!(temporaries(&run).is_empty());
}

#[test]
fn a_staging_that_is_dropped_leaves_nothing() {
    let scratch = Scratch::new();
    let folder = open(&scratch.join("run"));
    let mut staging = folder.begin_final(1).unwrap();
    let error = staging.file("weights", &mut |_| Err(io::Error::other("no weights"))).unwrap_err();
    assert!(error.to_string().contains("no weights"), "{error}");
    drop(staging);
    assert!(temporaries(folder.path()).is_empty());
    assert!(!folder.path().join("final").exists());
}

#[test]
fn large_writes_reach_the_disk_in_chunks() {
    let scratch = Scratch::new();
    let largest = Arc::new(Mutex::new((0, 0)));
    let counted = largest.clone();
    let probe = move |op: Op, path: &Path| {
        if op == Op::Write && path.ends_with("big") {
            let length = fs::metadata(path)?.len();
            let mut seen = counted.lock().unwrap();
            *seen = (seen.0.max(length - seen.1), length);
        }
        Ok(())
    };
    let folder = RunFolder::open_on(Disk::probed(Arc::new(probe)), &scratch.join("run"), Opening::Create).unwrap();
    let mut staging = folder.begin_checkpoint(1).unwrap();
    staging.file("big", &mut |out| out.write_all(&vec![7; 5 * CHUNK / 2])).unwrap();
    assert_eq!(staging.commit(Value::Null).unwrap().manifest.files[0].bytes, 5 * CHUNK as u64 / 2);
    assert_eq!(*largest.lock().unwrap(), (CHUNK as u64, 2 * CHUNK as u64));
}

/// The order that makes a commit survive a power cut: contents, then names, then the rename, then its name.
#[test]
fn everything_is_synced_before_the_rename_and_the_parent_after_it() {
    let scratch = Scratch::new();
    let calls = Arc::new(Mutex::new(Vec::new()));
    let heard = calls.clone();
    let probe = move |op: Op, path: &Path| {
        heard.lock().unwrap().push((op, path.file_name().unwrap().to_string_lossy().into_owned()));
        Ok(())
    };
    let folder = RunFolder::open_on(Disk::probed(Arc::new(probe)), &scratch.join("run"), Opening::Create).unwrap();
    calls.lock().unwrap().clear();
    save(&folder, 1).unwrap();
    let calls = calls.lock().unwrap();
    let last = |op: Op, name: &str| calls.iter().rposition(|(o, n)| *o == op && n.starts_with(name));
    let renamed = last(Op::Rename, ".tmp-checkpoint-1").expect("renamed");
    for file in ["state.bin", "weights.bin", "MANIFEST.json"] {
        let (written, synced) = (last(Op::Write, file).unwrap(), last(Op::SyncFile, file).unwrap());
        assert!(written < synced && synced < renamed, "{file}");
        assert!(synced <= last(Op::SyncFile, "MANIFEST.json").unwrap(), "{file} synced after the manifest");
    }
    assert!(last(Op::SyncFile, "by_path.json").unwrap() < renamed);
    for dir in [".tmp-checkpoint-1", "adapter"] {
        assert!(last(Op::SyncDir, dir).unwrap() < renamed, "{dir}");
    }
    assert!(last(Op::SyncDir, "run").unwrap() > renamed);
}

/// Fails call number `at` and, when `dead`, every call after it: a process that dies there changes nothing more, but
/// for a removal, in which it dies half way.
fn failing_at(at: usize, dead: bool) -> (Disk, Arc<Mutex<usize>>) {
    let count = Arc::new(Mutex::new(0));
    let counter = count.clone();
    let probe = move |op: Op, path: &Path| {
        let mut count = counter.lock().unwrap();
        *count += 1;
        if dead && op == Op::Remove && *count == at + 1 {
            let _ = fs::remove_file(path.join("state.bin"));
        }
        let fails = if dead { *count > at } else { *count == at + 1 };
        if fails { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    };
    (Disk::probed(Arc::new(probe)), count)
}

/// Steps 1 and 2 are there; then step 3, step 2 again, and a rotation are tried on a disk that fails at one call.
fn with_a_fault(at: usize, dead: bool) -> (Scratch, Result<(), Error>, bool) {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    let folder = open(&run);
    save(&folder, 1).unwrap();
    save(&folder, 2).unwrap();
    drop(folder);
    let (disk, count) = failing_at(at, dead);
    let work = || -> Result<(), Error> {
        let folder = RunFolder::open_on(disk, &run, Opening::Resume)?;
        save(&folder, 2)?;
        let three = save(&folder, 3)?;
        folder.rotate(&three, 2, &[])?;
        Ok(())
    };
    let result = work();
    let struck = *count.lock().unwrap() > at;
    (scratch, result, struck)
}

#[test]
fn a_crash_at_any_call_leaves_a_checkpoint_that_resumes() {
    let mut crashes = 0;
    for at in 0.. {
        let (scratch, _, struck) = with_a_fault(at, true);
        if !struck {
            break;
        }
        crashes += 1;
        let run = scratch.join("run");
        let folder = open(&run);
        assert!(temporaries(&run).is_empty(), "crash at call {at}");
        let (found, passed_over) = newest_verified(&run).unwrap();
        let found = found.unwrap_or_else(|| panic!("crash at call {at}: nothing left"));
        assert!(found.step() >= 2 && passed_over.is_empty(), "crash at call {at}: {passed_over:?}");
        assert_eq!(fs::read(found.file("state.bin")).unwrap(), content(found.step()), "crash at call {at}");
        for step in steps(&run).unwrap() {
            verify(&run.join(format!("checkpoint-{step}"))).unwrap();
        }
        save(&folder, 3).unwrap();
        assert_eq!(newest(&run).step(), 3);
    }
    assert!(crashes > 20, "only {crashes} calls");
}

#[test]
fn a_full_disk_at_any_call_is_an_error_with_exit_code_6_and_harms_nothing() {
    for at in 0.. {
        let (scratch, result, struck) = with_a_fault(at, false);
        if !struck {
            result.unwrap();
            break;
        }
        let run = scratch.join("run");
        // Only a failure to clear away what is no longer needed may pass unnoticed.
        if let Err(error) = result {
            assert_eq!(error.exit_code(), 6);
            assert!(error.to_string().contains("free space"), "{error}");
        }
        let partial: Vec<_> =
            temporaries(&run).into_iter().filter(|name| !run.join(name).join(MANIFEST).exists()).collect();
        assert!(partial.is_empty(), "full at call {at}: {partial:?}");
        for step in steps(&run).unwrap() {
            verify(&run.join(format!("checkpoint-{step}"))).unwrap();
        }
        assert!(newest(&run).step() >= 2, "full at call {at}");
    }
}

#[test]
fn every_flipped_byte_and_every_truncation_is_noticed() {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    let folder = open(&run);
    let mut staging = folder.begin_checkpoint(1).unwrap();
    staging.file("a.bin", &mut |out| out.write_all(b"weights and biases")).unwrap();
    staging.file("b/empty", &mut |_| Ok(())).unwrap();
    let dir = staging.commit(json!({"kl": 0.25})).unwrap().path;
    for name in ["a.bin", MANIFEST] {
        let path = dir.join(name);
        let whole = fs::read(&path).unwrap();
        for at in 0..whole.len() {
            let mut flipped = whole.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(&path, &flipped).unwrap();
            assert!(verify(&dir).is_err(), "{name}: byte {at} flipped");
            fs::write(&path, &whole[..at]).unwrap();
            assert!(verify(&dir).is_err(), "{name}: cut to {at} bytes");
        }
        fs::write(&path, [&whole[..], b" "].concat()).unwrap();
        assert!(verify(&dir).is_err(), "{name}: a byte more");
        fs::write(&path, &whole).unwrap();
        verify(&dir).unwrap();
    }
    fs::remove_file(dir.join("b/empty")).unwrap();
    let error = verify(&dir).unwrap_err();
    assert!(error.to_string().contains("empty"), "{error}");
}

#[test]
fn damaged_checkpoints_are_passed_over_with_their_reasons() {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    let folder = open(&run);
    (1..=12).for_each(|step| drop(save(&folder, step).unwrap()));
    fs::write(run.join("checkpoint-12/state.bin"), b"short").unwrap();
    fs::remove_file(run.join("checkpoint-11").join(MANIFEST)).unwrap();
    fs::remove_dir_all(run.join("checkpoint-10")).unwrap();
    fs::rename(run.join("checkpoint-9"), run.join("checkpoint-10")).unwrap();
    fs::create_dir(run.join("checkpoint-013")).unwrap();
    let (found, passed_over) = newest_verified(&run).unwrap();
    assert_eq!(found.unwrap().step(), 8);
    let reasons: Vec<_> = passed_over.iter().map(|p| p.why.to_string()).collect();
    assert_eq!(
        passed_over
            .iter()
            .map(|p| step_of(&p.path.file_name().unwrap().to_string_lossy()).unwrap())
            .collect::<Vec<_>>(),
        [12, 11, 10]
    );
    assert!(reasons[0].contains("state.bin") && reasons[0].contains("expected 3000 bytes, found 5"), "{reasons:?}");
    assert!(reasons[1].contains(MANIFEST), "{reasons:?}");
    assert!(reasons[2].contains("step 9"), "{reasons:?}");
    assert_eq!(folder.discard_after(8).unwrap(), [12, 11, 10]);
    assert_eq!(steps(&run).unwrap(), (1..=8).collect::<Vec<_>>());
}

#[test]
fn the_checkpoint_just_written_stays_even_below_stale_ones() {
    let scratch = Scratch::new();
    let run = scratch.join("run");
    let folder = open(&run);
    [2, 3, 4].into_iter().for_each(|step| drop(save(&folder, step).unwrap()));
    let newest = save(&folder, 1).unwrap();
    assert_eq!(folder.rotate(&newest, 0, &[3]).unwrap(), [2, 4]);
    assert_eq!(steps(&run).unwrap(), [1, 3]);
}

#[test]
fn a_manifest_cannot_lead_out_of_its_folder() {
    let scratch = Scratch::new();
    let dir = scratch.join("checkpoint-1");
    fs::create_dir(&dir).unwrap();
    fs::write(scratch.join("outside"), b"x").unwrap();
    let outside = FileHash { path: "../outside".into(), bytes: 1, blake3: blake3::hash(b"x").to_hex().to_string() };
    let manifest = Manifest { format: FORMAT, step: 1, files: vec![outside], meta: Value::Null };
    fs::write(dir.join(MANIFEST), seal(&manifest)).unwrap();
    assert!(verify(&dir).unwrap_err().to_string().contains("leads out"));
    for name in ["", "/etc/passwd", "..", "a/../b", "a\\b", "C:x", "./a", "nul\0"] {
        assert!(!is_plain(name) || name == "./a" && !cfg!(unix), "{name:?}");
    }
    assert!(is_plain("adapter/adapter_model.safetensors"));
}

/// A small generator (Marsaglia's xorshift), so that a failure can be replayed from its seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % n
    }
}

/// Random saves, replacements, damage, reopenings and rotations against a model that is a set of steps.
#[test]
fn rotation_keeps_the_newest_and_the_pinned_and_what_was_asked_for() {
    for seed in 1..=12 {
        let scratch = Scratch::new();
        let run = scratch.join("run");
        let mut dice = Dice(0x9E37_79B9_7F4A_7C15 ^ seed);
        let mut folder = open(&run);
        let (mut model, mut damaged, mut best) = (BTreeSet::new(), BTreeSet::new(), None);
        let keep = 1 + dice.below(4) as usize;
        let mut step = 0;
        for _ in 0..40 {
            match dice.below(6) {
                0 => {
                    drop(folder);
                    folder = open(&run);
                }
                1 if model.len() > 1 => {
                    // Damage one that is not the last good one.
                    let good: Vec<u64> = model.difference(&damaged).copied().collect();
                    if good.len() > 1 {
                        let victim = good[dice.below(good.len() as u64) as usize];
                        fs::write(run.join(format!("checkpoint-{victim}/state.bin")), b"gone").unwrap();
                        damaged.insert(victim);
                    }
                }
                _ => {
                    step += dice.below(3); // 0 replaces the newest
                    let newest = save(&folder, step).unwrap();
                    model.insert(step);
                    damaged.remove(&step);
                    if dice.below(4) == 0 {
                        best = Some(step);
                    }
                    let pinned: Vec<u64> = best.into_iter().collect();
                    let removed = folder.rotate(&newest, keep, &pinned).unwrap();
                    for gone in removed {
                        assert!(model.remove(&gone) && gone != step && best != Some(gone), "seed {seed}");
                        assert!(gone < *model.iter().find(|s| **s != step && best != Some(**s)).unwrap_or(&step));
                    }
                    let unpinned = model.iter().filter(|s| **s != step && best != Some(**s)).count();
                    assert!(model.len() <= keep || unpinned == 0, "seed {seed}: {model:?} kept, {keep} wanted");
                    assert!(model.len() >= keep.min(model.len()), "seed {seed}");
                }
            }
            assert_eq!(steps(&run).unwrap(), model.iter().copied().collect::<Vec<_>>(), "seed {seed}");
            assert!(temporaries(&run).is_empty(), "seed {seed}");
            let expected = model.difference(&damaged).max().copied();
            assert_eq!(newest_verified(&run).unwrap().0.map(|c| c.step()), expected, "seed {seed}");
        }
    }
}
