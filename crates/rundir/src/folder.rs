//! Creating, locking and reopening a run folder, and the small files in it.
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::disk::{self, Disk};
use crate::error::{At, Error};
use crate::hash::{FileHash, hash_file};
use crate::log::LineLog;
use crate::status::{self, Status};
use crate::time;

/// Input files above this many bytes are recorded by path, length and hash instead of being copied.
pub const LARGEST_INPUT_COPIED: u64 = 16 << 20;

const LOCK: &str = ".lock";
/// What a run puts into its folder besides `checkpoint-N` and dot files, `status.json` apart: replaced by `Overwrite`.
const OWNED: [&str; 11] = [
    "config.yaml",
    "inputs",
    "lock.json",
    "log.jsonl",
    "train.log",
    "reference.bin",
    "plots",
    "final",
    "README.md",
    "tensorboard",
    "prospect.schema.json",
];
/// Begins the names of the folders of a run in stages: `stage-1`.
const STAGE: &str = "stage-";

/// How a run folder is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// A new run: the folder must be absent or empty, or that of a run that ended before it had begun, so has neither
    /// `lock.json` nor a checkpoint nor a result, in none of its stages.
    Create,
    /// A new run in place of an earlier one, whose files stay as they are until [`RunFolder::begun`] removes them; files that
    /// no run wrote stay for good.
    Overwrite,
    /// An earlier run goes on.
    Resume,
}

/// A run folder that this process holds; the hold ends with the value, or with the process however it dies.
pub struct RunFolder {
    pub(crate) root: PathBuf,
    pub(crate) disk: Disk,
    pub(crate) lock: Option<File>,
    /// Whether another process holds it and writes what is to be written; all writing here is left out.
    pub(crate) follows: bool,
    /// Where the files of a run wait that is to replace an earlier one; see [`crate::begin`].
    pub(crate) aside: Option<PathBuf>,
    /// Whether they wait no longer.
    pub(crate) begun: AtomicBool,
}

/// One input of a run: where it came from, and where its copy is when there is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// The file given, with its length and BLAKE3.
    #[serde(flatten)]
    pub file: FileHash,
    /// Name of the verbatim copy under `inputs/`; absent above [`LARGEST_INPUT_COPIED`].
    pub copy: Option<String>,
}

/// Whether a run got as far as its first step: what it made is not to be removed unasked. A run in stages has its locks and
/// checkpoints in theirs.
fn has_begun(root: &Path) -> Result<bool, Error> {
    for name in names(root)? {
        let begun = match is_stage(&name) {
            true => root.join(&name).is_dir() && has_begun(&root.join(&name))?,
            false => name == crate::lock::FILE || name == "final" || name.starts_with("checkpoint-"),
        };
        if begun {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_stage(name: &str) -> bool {
    name.strip_prefix(STAGE).is_some_and(|n| n.parse::<u32>().is_ok())
}

/// Whether a file or folder in a run folder is the run's own, `status.json` apart, so that `Overwrite` removes it.
pub(crate) fn is_owned(name: &str) -> bool {
    OWNED.contains(&name) || is_stage(name) || crate::checkpoint::step_of(name).is_some()
}

/// Whether `path` is, or lies in, something that `Overwrite` removes from the run folder at `root`.
pub fn is_replaced(root: &Path, path: &Path) -> bool {
    let (Ok(root), Ok(path)) = (root.canonicalize(), path.canonicalize()) else { return false };
    let first = path.strip_prefix(&root).ok().and_then(|inside| inside.components().next());
    root.join(status::FILE).exists() && first.is_some_and(|name| is_owned(&name.as_os_str().to_string_lossy()))
}

impl RunFolder {
    /// Opens the folder at `root` and takes its lock; leftovers of a killed process are cleared away.
    ///
    /// Errors: the folder holds a run or foreign files (`Create`), foreign files (`Overwrite`, `Resume`) or nothing
    /// (`Resume`): exit 2; another process holds it, or it cannot be written: exit 6.
    pub fn open(root: &Path, opening: Opening) -> Result<RunFolder, Error> {
        RunFolder::open_on(Disk::default(), root, opening)
    }

    /// The folder of a run that another rank holds: what is there can be read, and whatever would be written is left to that rank.
    pub fn follow(root: &Path) -> RunFolder {
        let (root, disk) = (root.to_path_buf(), Disk::default());
        RunFolder { root, disk, lock: None, follows: true, aside: None, begun: AtomicBool::new(false) }
    }

    pub(crate) fn open_on(disk: Disk, root: &Path, opening: Opening) -> Result<RunFolder, Error> {
        let holds_files = holds_files(root)?;
        let is_run = root.join(status::FILE).exists();
        match opening {
            Opening::Resume if !holds_files => return Err(Error::NoRun(root.to_path_buf())),
            _ if holds_files && !is_run => return Err(Error::NotARun(root.to_path_buf())),
            Opening::Resume | Opening::Overwrite | Opening::Create => {}
        }
        disk.create_dir_all(root).at("create run folder", root)?;
        let lock = acquire(root)?;
        let (root, begun) = (root.to_path_buf(), AtomicBool::new(false));
        let mut folder = RunFolder { root, disk, lock, follows: false, aside: None, begun };
        folder.settle()?;
        // Looked at again under the lock: another process may have been quicker.
        let held = folder.root.join(status::FILE).exists();
        let there = held && has_begun(&folder.root)?;
        if opening == Opening::Create && there {
            return Err(Error::NotEmpty(folder.root.clone()));
        }
        folder.sweep()?;
        match opening {
            Opening::Overwrite if there => folder.wait()?,
            Opening::Create | Opening::Overwrite if held => folder.clear()?,
            Opening::Create | Opening::Overwrite | Opening::Resume => {}
        }
        folder.begin_status(opening)?;
        Ok(folder)
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// Whether the folder is locked; false only on a file system that has no locks.
    pub fn is_locked(&self) -> bool {
        self.lock.is_some()
    }

    /// Writes a small file (`config.yaml`, `lock.json`, `README.md`, `plots/loss.svg`) durably and in one step; its
    /// folder is made when missing.
    ///
    /// Errors: it cannot be written.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Error> {
        if self.follows {
            return Ok(());
        }
        let path = self.home().join(name);
        let parent = path.parent().expect("a name inside the run folder");
        self.disk.create_dir_all(parent).at("create folder", parent)?;
        self.disk.replace(&path, bytes).at("write", &path)
    }

    /// Copies the files given into `inputs/` verbatim, and lists them all in `inputs/inputs.json`.
    ///
    /// Errors: a file cannot be read, or its copy not be written.
    pub fn keep_inputs(&self, files: &[&Path]) -> Result<Vec<Input>, Error> {
        if self.follows {
            return Ok(Vec::new());
        }
        let folder = self.home().join("inputs");
        self.disk.create_dir_all(&folder).at("create folder", &folder)?;
        let mut inputs: Vec<Input> = Vec::with_capacity(files.len());
        for path in files {
            let file = hash_file(path)?;
            let copy = (file.bytes <= LARGEST_INPUT_COPIED).then(|| free_name(path, &inputs));
            if let Some(name) = &copy {
                self.disk
                    .replace(&folder.join(name), &fs::read(path).at("read", path)?)
                    .at("write", &folder.join(name))?;
            }
            inputs.push(Input { file, copy });
        }
        self.write(&format!("inputs/{INPUTS}"), &serde_json::to_vec_pretty(&inputs).expect("strings and numbers"))?;
        Ok(inputs)
    }

    /// Opens `log.jsonl` or `train.log`: anew, or cut back to the position that a checkpoint recorded. A run that
    /// [waits](RunFolder::waits) cannot: its files are still to be moved, and some systems move none that are open.
    ///
    /// Errors: the file cannot be written, or is shorter than `resume_at`.
    pub fn open_log(&self, name: &str, resume_at: Option<u64>) -> Result<LineLog, Error> {
        if self.follows {
            return Ok(LineLog::nowhere());
        }
        assert!(!self.waits(), "{name} of a run that still waits for its folder");
        LineLog::open(&self.root.join(name), resume_at)
    }

    /// Records the number of optimiser steps planned.
    ///
    /// Errors: `status.json` cannot be read or written.
    pub fn set_total_steps(&self, total_steps: u64) -> Result<(), Error> {
        if self.follows {
            return Ok(());
        }
        let mut status = Status::read(self.home())?;
        status.total_steps = total_steps;
        status.write(&self.disk, self.home())
    }

    /// Records how the run ended: the exit code, the step reached, and the error's text where there was one. Nothing of a run
    /// that still [waits](RunFolder::waits): the folder says how the earlier run ended.
    ///
    /// Errors: `status.json` cannot be read or written.
    pub fn end(&self, exit_code: u8, step: u64, error: Option<&str>) -> Result<(), Error> {
        if self.follows || self.waits() {
            return Ok(());
        }
        let mut status = Status::read(&self.root)?;
        status.ended = Some(time::now());
        status.exit_code = Some(exit_code);
        status.error = error.map(str::to_owned);
        status.step = step;
        status.write(&self.disk, &self.root)
    }

    fn begin_status(&self, opening: Opening) -> Result<(), Error> {
        let now = time::now();
        // A status torn by power loss must not keep a good checkpoint from being resumed.
        let mut status = Status::read(self.home()).unwrap_or_default();
        if opening == Opening::Resume {
            status.resumed.push(now);
        } else {
            status = Status { started: now, ..Status::default() };
        }
        (status.ended, status.exit_code, status.error) = (None, None, None);
        status.pid = std::process::id();
        status.version = env!("CARGO_PKG_VERSION").to_owned();
        status.write(&self.disk, self.home())
    }

    /// Puts back what a killed process had set aside, and removes what it had not finished.
    fn sweep(&self) -> Result<(), Error> {
        for name in names(&self.root)? {
            let path = self.root.join(&name);
            match set_aside_from(&name) {
                Some(target) if !self.root.join(target).exists() => {
                    self.disk.rename(&path, &self.root.join(target)).at("restore", &path)?;
                }
                Some(_) => self.discard(&path)?,
                None if name.starts_with(".tmp-") => self.disk.remove(&path).at("remove", &path)?,
                None => {}
            }
        }
        Ok(())
    }

    /// Removes a file or folder by way of a `.tmp-` name, so that it is never seen half removed.
    pub(crate) fn discard(&self, path: &Path) -> Result<(), Error> {
        let doomed = self.doom(path)?;
        self.disk.remove(&doomed).at("remove", &doomed)
    }

    /// Gives a file or folder a `.tmp-` name, under which it is still to be removed.
    pub(crate) fn doom(&self, path: &Path) -> Result<PathBuf, Error> {
        let name = path.file_name().expect("a name").to_string_lossy();
        let doomed = disk::fresh(&self.root, name.trim_start_matches('.'));
        self.disk.rename(path, &doomed).at("remove", path)?;
        Ok(doomed)
    }
}

const INPUTS: &str = "inputs.json";

/// The name under which `target` is set aside while its replacement is moved in; see [`set_aside_from`].
pub(crate) fn set_aside_name(target: &str) -> String {
    format!(".old-{}-{target}", disk::nonce())
}

fn set_aside_from(name: &str) -> Option<&str> {
    name.strip_prefix(".old-")?.split_once('-').map(|(_, target)| target)
}

/// Whether the folder exists and holds anything but the traces of a process killed while it was created.
fn holds_files(root: &Path) -> Result<bool, Error> {
    if !root.exists() {
        return Ok(false);
    }
    Ok(names(root)?.iter().any(|name| name != LOCK && !name.starts_with(".tmp-")))
}

/// The names in a folder, sorted.
pub(crate) fn names(folder: &Path) -> Result<Vec<String>, Error> {
    let entries = fs::read_dir(folder).at("read folder", folder)?;
    let mut names = Vec::new();
    for entry in entries {
        names.push(entry.at("read folder", folder)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// A name for the copy of `path` that no earlier input has.
fn free_name(path: &Path, inputs: &[Input]) -> String {
    let name = path.file_name().map_or_else(|| "input".to_owned(), |n| n.to_string_lossy().into_owned());
    let taken = |name: &str| name == INPUTS || inputs.iter().any(|input| input.copy.as_deref() == Some(name));
    if !taken(&name) {
        return name;
    }
    (2..).map(|n| format!("{n}-{name}")).find(|name| !taken(name)).expect("some number is free")
}

/// Takes the lock and leaves our process id in it; `None` on a file system without locks.
pub(crate) fn acquire(root: &Path) -> Result<Option<File>, Error> {
    let path = root.join(LOCK);
    let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = open.at("create lock", &path)?;
    // `is_held` of another process holds a shared lock for an instant: that is no owner, so look again for a moment.
    let patience = Instant::now() + Duration::from_millis(100);
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if Instant::now() < patience => std::thread::yield_now(),
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let _ = file.read_to_string(&mut text);
                return Err(Error::InUse { path: root.to_path_buf(), pid: text.trim().parse().ok() });
            }
            Err(TryLockError::Error(e)) if e.kind() == io::ErrorKind::Unsupported => return Ok(None),
            Err(TryLockError::Error(e)) => return Err(e).at("lock", &path),
        }
    }
    let note = |file: &mut File| -> io::Result<()> {
        file.set_len(0)?;
        file.rewind()?;
        writeln!(file, "{}", std::process::id())
    };
    note(&mut file).at("write", &path)?;
    Ok(Some(file))
}

/// Whether some process holds the run folder now.
pub(crate) fn is_held(root: &Path) -> bool {
    File::open(root.join(LOCK)).is_ok_and(|file| matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_second_opening_is_refused_and_names_the_process() {
        let scratch = Scratch::new();
        let run = scratch.join("a/run");
        let held = RunFolder::open(&run, Opening::Create).unwrap();
        assert!(held.is_locked() && is_held(&run));
        for opening in [Opening::Create, Opening::Overwrite, Opening::Resume] {
            let error = RunFolder::open(&run, opening).err().expect("refused");
            assert_eq!(error.exit_code(), 6);
            assert!(error.to_string().contains(&format!("process {}", std::process::id())), "{error}");
        }
        drop(held);
        assert!(!is_held(&run));
        RunFolder::open(&run, Opening::Resume).unwrap();
    }

    #[test]
    fn a_run_that_never_began_does_not_stand_in_the_way() {
        let scratch = Scratch::new();
        let run = scratch.join("run");
        let folder = RunFolder::open(&run, Opening::Create).unwrap();
        folder.write("config.yaml", b"trainer: kto\n").unwrap();
        folder.end(3, 0, Some("row 7 has no label")).unwrap();
        drop(folder);
        let folder = RunFolder::open(&run, Opening::Create).unwrap();
        assert!(!run.join("config.yaml").exists());
        folder.write(crate::lock::FILE, b"{}").unwrap();
        drop(folder);
        assert_eq!(RunFolder::open(&run, Opening::Create).err().expect("refused").exit_code(), 2);
    }

    #[test]
    fn an_earlier_run_is_replaced_or_resumed_only_when_asked() {
        let scratch = Scratch::new();
        let run = scratch.join("run");
        assert_eq!(RunFolder::open(&run, Opening::Resume).err().expect("refused").exit_code(), 2);
        let folder = RunFolder::open(&run, Opening::Create).unwrap();
        folder.write("config.yaml", b"trainer: kto\n").unwrap();
        folder.write("plots/loss.svg", b"<svg/>").unwrap();
        folder.begin_checkpoint(1).unwrap().commit(serde_json::Value::Null).unwrap();
        folder.end(1, 1, None).unwrap();
        drop(folder);
        fs::write(run.join("notes.txt"), "mine").unwrap();

        let error = RunFolder::open(&run, Opening::Create).err().expect("refused");
        assert!(error.to_string().contains("overwrite_output_dir") && error.to_string().contains("resume"), "{error}");
        assert_eq!(error.exit_code(), 2);

        drop(RunFolder::open(&run, Opening::Resume).unwrap());
        let status = Status::read(&run).unwrap();
        assert_eq!((status.resumed.len(), status.exit_code, status.ended), (1, None, None));
        assert!(run.join("checkpoint-1").exists());

        RunFolder::open(&run, Opening::Overwrite).unwrap().begun().unwrap();
        assert_eq!(names(&run).unwrap(), [".lock", "notes.txt", "status.json"]);
        assert!(Status::read(&run).unwrap().resumed.is_empty());
    }

    #[test]
    fn a_folder_of_other_files_is_never_touched() {
        let scratch = Scratch::new();
        fs::write(scratch.join("README.md"), "precious").unwrap();
        for opening in [Opening::Create, Opening::Overwrite, Opening::Resume] {
            let error = RunFolder::open(scratch.path(), opening).err().expect("refused");
            assert!(matches!(error, Error::NotARun(_)) && error.exit_code() == 2, "{error}");
        }
        assert_eq!(names(scratch.path()).unwrap(), ["README.md"]);
    }

    #[test]
    fn an_output_that_cannot_be_written_exits_6() {
        let scratch = Scratch::new();
        fs::write(scratch.join("file"), "").unwrap();
        let error = RunFolder::open(&scratch.join("file/run"), Opening::Create).err().expect("refused");
        assert_eq!(error.exit_code(), 6);
        assert!(error.to_string().contains("file/run") && error.to_string().contains("is a file"), "{error}");
        let error = RunFolder::open(&scratch.join("file"), Opening::Create).err().expect("refused");
        assert_eq!(error.exit_code(), 6);
    }

    #[test]
    fn what_a_killed_process_left_is_cleared_and_what_it_set_aside_comes_back() {
        let scratch = Scratch::new();
        let run = scratch.join("run");
        drop(RunFolder::open(&run, Opening::Create).unwrap());
        let [restored, outdated] = ["checkpoint-4", "checkpoint-5"].map(|name| run.join(set_aside_name(name)));
        for path in [&restored, &outdated, &run.join("checkpoint-5"), &run.join(".tmp-checkpoint-6-ab")] {
            fs::create_dir(path).unwrap();
            fs::write(path.join("f"), path.file_name().unwrap().to_string_lossy().as_bytes()).unwrap();
        }
        fs::write(run.join(".tmp-config.yaml-cd"), "half").unwrap();
        drop(RunFolder::open(&run, Opening::Resume).unwrap());
        assert_eq!(names(&run).unwrap(), [".lock", "checkpoint-4", "checkpoint-5", "status.json"]);
        assert_eq!(fs::read(run.join("checkpoint-5/f")).unwrap(), b"checkpoint-5");
    }

    #[test]
    fn a_torn_status_does_not_keep_a_run_from_being_resumed() {
        let scratch = Scratch::new();
        let run = scratch.join("run");
        drop(RunFolder::open(&run, Opening::Create).unwrap());
        fs::write(run.join(status::FILE), "").unwrap();
        drop(RunFolder::open(&run, Opening::Resume).unwrap());
        assert_eq!(Status::read(&run).unwrap().resumed.len(), 1);
    }

    #[test]
    fn inputs_are_copied_verbatim_and_big_ones_are_recorded() {
        let scratch = Scratch::new();
        fs::create_dir(scratch.join("other")).unwrap();
        let [small, same_name, big] = ["rows.jsonl", "other/rows.jsonl", "big.jsonl"].map(|name| scratch.join(name));
        fs::write(&small, "one\r\n").unwrap();
        fs::write(&same_name, "two").unwrap();
        File::create(&big).unwrap().set_len(LARGEST_INPUT_COPIED + 1).unwrap();
        let run = scratch.join("run");
        let folder = RunFolder::open(&run, Opening::Create).unwrap();
        let inputs = folder.keep_inputs(&[&small, &same_name, &big]).unwrap();
        let copies: Vec<_> = inputs.iter().map(|input| input.copy.as_deref()).collect();
        assert_eq!(copies, [Some("rows.jsonl"), Some("2-rows.jsonl"), None]);
        assert_eq!(fs::read(run.join("inputs/rows.jsonl")).unwrap(), b"one\r\n");
        assert_eq!(fs::read(run.join("inputs/2-rows.jsonl")).unwrap(), b"two");
        assert_eq!(inputs[2].file, hash_file(&big).unwrap());
        let listed: Vec<Input> = serde_json::from_slice(&fs::read(run.join("inputs/inputs.json")).unwrap()).unwrap();
        assert_eq!(listed, inputs);
    }
}
