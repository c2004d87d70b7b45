//! How far a long conversion is: written beside its output, so that the same call goes on where it was stopped or killed.

use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// How far an output is: what comes after is cut off when the work goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Position {
    /// Rows that are whole.
    pub rows: u64,
    /// Their bytes in the file.
    pub bytes: u64,
}

/// The file that remembers, named by the output and by a key of everything that the result depends on.
pub(crate) struct Journal {
    path: PathBuf,
}

#[derive(Serialize, Deserialize)]
struct Entry<T> {
    outputs: Vec<Position>,
    state: T,
}

impl Journal {
    /// The journal of `output`; `parts` are what the result depends on besides `files`, which count by place, size and time.
    ///
    /// # Errors
    /// `Io` for a file that is not there.
    pub(crate) fn of(output: &Path, files: &[PathBuf], parts: &[&str]) -> Result<(Journal, String)> {
        let mut hasher = blake3::Hasher::new();
        let mut add = |part: &str| {
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        };
        add(env!("CARGO_PKG_VERSION"));
        add(&output.to_string_lossy());
        parts.iter().for_each(|part| add(part));
        for file in files {
            let about = std::fs::canonicalize(file).and_then(|path| Ok((std::fs::metadata(&path)?, path)));
            let (about, path) = about.map_err(|source| Error::Io { path: file.clone(), source })?;
            add(&format!("{} {} {:?}", path.display(), about.len(), about.modified().ok()));
        }
        let key = hasher.finalize().to_hex()[..16].to_owned();
        let name = output.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        Ok((Journal { path: output.with_file_name(format!(".{name}.{key}.mark")) }, key))
    }

    /// What was written last; `None` if there is nothing that can be gone on from.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Option<(Vec<Position>, T)> {
        let entry: Entry<T> = serde_json::from_slice(&std::fs::read(&self.path).ok()?).ok()?;
        Some((entry.outputs, entry.state))
    }

    /// Remembers where the outputs and the work are; the outputs' rows have to be on the disk.
    ///
    /// # Errors
    /// `Write`.
    pub(crate) fn write<T: Serialize>(&self, outputs: &[Position], state: &T) -> Result<()> {
        let entry = Entry { outputs: outputs.to_vec(), state };
        let text = serde_json::to_vec(&entry).expect("plain data serialises");
        let new = self.path.with_extension("mark-new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.path));
        written.map_err(|source| Error::Write { path: self.path.clone(), source })
    }

    /// Forgets: the work is done.
    pub(crate) fn remove(self) {
        // A journal that cannot be removed is of no use to anybody and does no harm.
        let _ = std::fs::remove_file(&self.path);
    }
}
