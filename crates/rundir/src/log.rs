//! The run's logs: `log.jsonl`, one object per logged step, and `train.log`, the same as text.
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{At, Error};

/// One logged record: metric names as TRL spells them, to numbers.
pub type Record = Map<String, Value>;

/// Appends whole lines to a log and knows its length, so that a resumed run can go on where the checkpoint stood.
pub struct LineLog {
    path: PathBuf,
    /// `None`: another rank writes it.
    file: Option<File>,
    position: u64,
}

impl LineLog {
    /// Opens a log anew, or cut back to `resume_at` bytes so that it equals the log of a run never interrupted.
    ///
    /// Errors: it cannot be written, or has fewer bytes than `resume_at`.
    pub fn open(path: &Path, resume_at: Option<u64>) -> Result<LineLog, Error> {
        let position = resume_at.unwrap_or(0);
        let open = File::options().write(true).create(position == 0).truncate(false).open(path);
        let mut file = open.at("open", path)?;
        whole_to(&file, path, position)?;
        file.set_len(position).at("truncate", path)?;
        file.seek(SeekFrom::Start(position)).at("open", path)?;
        Ok(LineLog { path: path.to_path_buf(), file: Some(file), position })
    }

    /// A log that another rank writes: what is given to this one is let go.
    pub fn nowhere() -> LineLog {
        LineLog { path: PathBuf::new(), file: None, position: 0 }
    }

    /// Appends one JSON object as a line.
    ///
    /// Errors: the disk fails.
    pub fn record(&mut self, record: &impl Serialize) -> Result<(), Error> {
        self.line(&serde_json::to_string(record).expect("a record is JSON"))
    }

    /// Appends one line of text, given to the system before this returns.
    ///
    /// Errors: the disk fails.
    pub fn line(&mut self, text: &str) -> Result<(), Error> {
        let line = format!("{text}\n");
        let Some(file) = &mut self.file else { return Ok(()) };
        file.write_all(line.as_bytes()).at("write", &self.path)?;
        self.position += line.len() as u64;
        Ok(())
    }

    /// Length in bytes: what a checkpoint records and [`LineLog::open`] takes.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Makes the lines durable; called before a checkpoint that records the position is committed.
    ///
    /// Errors: the disk fails.
    pub fn sync(&self) -> Result<(), Error> {
        self.file.as_ref().map_or(Ok(()), |file| file.sync_all().at("write", &self.path))
    }
}

/// Whether a log is as long as it was when a checkpoint was taken.
fn whole_to(file: &File, path: &Path, position: u64) -> Result<(), Error> {
    let found = file.metadata().at("open", path)?.len();
    if found >= position {
        return Ok(());
    }
    let why = format!(
        "the checkpoint was taken at {position} bytes, found {found}; restore the file, or resume from an earlier checkpoint"
    );
    Err(Error::damaged(path, why))
}

/// Reads all records of a `log.jsonl`. A last line without its end, left by a killed process, is not a record.
///
/// Errors: the file cannot be read; a line is not a JSON object (named by its number).
pub fn read(path: &Path) -> Result<Vec<Record>, Error> {
    let text = fs::read_to_string(path).at("read", path)?;
    let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
    let parse = |(index, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| Error::damaged(path, format!("line {}: {e}", index + 1)))
    };
    whole.lines().enumerate().map(parse).collect()
}

/// The last records of a `log.jsonl`, without reading the rest of a long one. Lines that are no records are left out.
///
/// Errors: the file cannot be read.
pub fn read_tail(path: &Path) -> Result<Vec<Record>, Error> {
    read_tail_at(path, fs::metadata(path).at("read", path)?.len())
}

/// As [`read_tail`], of the log as it was at `length` bytes.
///
/// Errors: the file cannot be read, or is shorter.
pub fn read_tail_at(path: &Path, length: u64) -> Result<Vec<Record>, Error> {
    const TAIL: u64 = 64 << 10;
    let mut file = File::open(path).at("read", path)?;
    whole_to(&file, path, length)?;
    file.seek(SeekFrom::Start(length.saturating_sub(TAIL))).at("read", path)?;
    let mut bytes = Vec::new();
    file.take(length.min(TAIL)).read_to_end(&mut bytes).at("read", path)?;
    Ok(bytes.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;
    use serde_json::json;

    #[test]
    fn a_log_cut_back_and_continued_equals_the_uninterrupted_one() {
        let scratch = Scratch::new();
        let write = |log: &mut LineLog, steps: std::ops::Range<u32>| {
            steps.for_each(|step| log.record(&json!({"step": step, "loss": 0.1 / f64::from(step + 1)})).unwrap());
        };
        let (whole, cut) = (scratch.join("whole.jsonl"), scratch.join("cut.jsonl"));
        write(&mut LineLog::open(&whole, None).unwrap(), 0..9);
        let mut log = LineLog::open(&cut, None).unwrap();
        write(&mut log, 0..4);
        let position = log.position();
        write(&mut log, 4..7);
        fs::OpenOptions::new().append(true).open(&cut).unwrap().write_all(b"{\"step\": 7, \"lo").unwrap();
        let mut log = LineLog::open(&cut, Some(position)).unwrap();
        assert_eq!(fs::metadata(&cut).unwrap().len(), position);
        write(&mut log, 4..9);
        assert_eq!(fs::read(&whole).unwrap(), fs::read(&cut).unwrap());
    }

    #[test]
    fn a_log_shorter_than_the_checkpoint_remembers_is_refused() {
        let scratch = Scratch::new();
        let path = scratch.join("log.jsonl");
        LineLog::open(&path, None).unwrap().line("{}").unwrap();
        let error = LineLog::open(&path, Some(4)).err().expect("refused");
        assert_eq!(error.exit_code(), 6);
        assert!(error.to_string().contains("4 bytes, found 3"), "{error}");
    }

    #[test]
    fn a_torn_last_line_is_no_record_and_a_bad_line_is_named() {
        let scratch = Scratch::new();
        let path = scratch.join("log.jsonl");
        fs::write(&path, "{\"step\": 1}\n{\"step\": 2}\n{\"st").unwrap();
        let records = read(&path).unwrap();
        assert_eq!(records.iter().map(|r| r["step"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2]);
        assert_eq!(read_tail(&path).unwrap(), records);
        fs::write(&path, "{\"step\": 1}\n[2]\n").unwrap();
        assert!(read(&path).unwrap_err().to_string().contains("line 2"));
    }

    #[test]
    fn the_tail_of_a_long_log_ends_with_its_last_record() {
        let scratch = Scratch::new();
        let path = scratch.join("log.jsonl");
        let mut log = LineLog::open(&path, None).unwrap();
        for step in 0..5000 {
            log.record(&json!({"step": step, "loss": 0.5})).unwrap();
        }
        let tail = read_tail(&path).unwrap();
        assert!(tail.len() > 100 && tail.len() < 5000);
        assert_eq!(tail.last().unwrap()["step"], 4999);
        // As it was when a checkpoint was taken.
        let line = log.position();
        log.record(&json!({"step": 5000, "loss": 0.5})).unwrap();
        assert_eq!(read_tail_at(&path, line).unwrap(), tail);
        assert_eq!(read_tail_at(&path, 0).unwrap(), Vec::<Record>::new());
        assert_eq!(read_tail_at(&path, log.position() + 1).unwrap_err().exit_code(), 6);
    }
}
