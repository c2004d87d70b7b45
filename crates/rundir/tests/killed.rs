//! A process that writes checkpoints, killed at a hundred random moments.
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rundir::{Opening, RunFolder, newest_verified};

const NAME: &str = "a_killed_writer_always_leaves_a_checkpoint_that_verifies";
const FOLDER: &str = "RUNDIR_TEST_WRITER";

/// Writes checkpoints until it is killed, each from the one before; a byte on stdout marks each stretch of work.
fn write_for_ever(run: &Path) -> ! {
    let folder = RunFolder::open(run, Opening::Resume).unwrap();
    let mut newest = newest_verified(run).unwrap().0.expect("a checkpoint to resume from");
    let mark = || std::io::stdout().write_all(b".").and_then(|()| std::io::stdout().flush()).unwrap();
    loop {
        let state = std::fs::read(newest.file("state.bin")).unwrap();
        // Now and then the newest is written again, as after a resume.
        let step = newest.step() + u64::from(!newest.step().is_multiple_of(3) || state[1] == 1);
        let again = u8::from(step == newest.step());
        let mut staging = folder.begin_checkpoint(step).unwrap();
        let content = [&[step as u8, again], &vec![step as u8; 200_000][..]].concat();
        staging
            .file("state.bin", &mut |out| {
                content.chunks(20_000).try_for_each(|chunk| {
                    mark();
                    out.write_all(chunk)
                })
            })
            .unwrap();
        newest = staging.commit(serde_json::json!({"step": step})).unwrap();
        mark();
        folder.rotate(&newest, 2, &[1]).unwrap();
        mark();
    }
}

#[test]
fn a_killed_writer_always_leaves_a_checkpoint_that_verifies() {
    if let Some(run) = std::env::var_os(FOLDER) {
        write_for_ever(Path::new(&run));
    }
    let run: PathBuf = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("killed-{}", std::process::id()));
    let folder = RunFolder::open(&run, Opening::Create).unwrap();
    let mut staging = folder.begin_checkpoint(1).unwrap();
    staging.file("state.bin", &mut |out| out.write_all(&[1, 0])).unwrap();
    staging.commit(serde_json::Value::Null).unwrap();
    drop(folder);

    let (mut reached, mut seed) = (1, 42_u64);
    for kill in 0..100 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(FOLDER, &run)
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        // Some way into the work, and then some way into what follows the mark.
        let marks = 40 + (seed >> 33) % 120;
        // Held until the kill: a closed pipe would end the child in an orderly way.
        let mut out = child.stdout.take().unwrap();
        out.read_exact(&mut vec![0; marks as usize]).unwrap();
        let until = Instant::now() + Duration::from_micros((seed >> 20) % 3000);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        child.kill().unwrap();
        child.wait().unwrap();

        drop(RunFolder::open(&run, Opening::Resume).unwrap_or_else(|e| panic!("kill {kill}: {e}")));
        let (found, passed_over) = newest_verified(&run).unwrap();
        let found = found.unwrap_or_else(|| panic!("kill {kill}: nothing verifies: {passed_over:?}"));
        assert!(passed_over.is_empty(), "kill {kill}: {passed_over:?}");
        assert!(found.step() >= reached, "kill {kill}: step {} after {reached}", found.step());
        assert_eq!(std::fs::read(found.file("state.bin")).unwrap()[0], found.step() as u8, "kill {kill}");
        assert!(run.join("checkpoint-1").exists(), "kill {kill}: the pinned one is gone");
        reached = found.step();
    }
    assert!(reached > 100, "only {reached} steps were taken");
    std::fs::remove_dir_all(&run).unwrap();
}
