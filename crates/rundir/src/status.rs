//! How a run stands: `status.json`, written when it starts, resumes and ends.
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::error::{At, Error};

/// Name of the file; a folder that has it is a run folder.
pub const FILE: &str = "status.json";

/// The life of a run. Steps taken so far are read from the log, so that this file changes only at the ends.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// When the run began (RFC 3339, UTC).
    pub started: String,
    /// When it was resumed, each time.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub resumed: Vec<String>,
    /// When it ended; absent while it runs and after it was killed.
    pub ended: Option<String>,
    /// What the process exited with; 0 done, 75 saved and to be resumed.
    pub exit_code: Option<u8>,
    /// Why it ended, when it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Optimiser steps taken when it ended.
    pub step: u64,
    /// Optimiser steps planned; 0 until the plan is made.
    pub total_steps: u64,
    /// The process that ran it last.
    pub pid: u32,
    /// The version of this program that ran it last.
    pub version: String,
}

impl Status {
    /// Reads the status of the run at `root`.
    ///
    /// Errors: the file cannot be read, or is no status.
    pub fn read(root: &Path) -> Result<Status, Error> {
        let path = root.join(FILE);
        let bytes = std::fs::read(&path).at("read", &path)?;
        serde_json::from_slice(&bytes).map_err(|e| Error::damaged(&path, e.to_string()))
    }

    pub(crate) fn write(&self, disk: &Disk, root: &Path) -> Result<(), Error> {
        let path = root.join(FILE);
        let mut bytes = serde_json::to_vec_pretty(self).expect("strings and numbers are JSON");
        bytes.push(b'\n');
        disk.replace(&path, &bytes).at("write", &path)
    }
}
