//! Compiled kernels on disk, under a name made from all that they depend on; processes share them.

use super::super::Error;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

/// A folder of compiled kernels, or none.
pub(super) struct Cache(Option<PathBuf>);

/// Before the code: what the file is, and the key whole, so that two keys of one hash are no danger.
fn header(key: &[String]) -> Vec<u8> {
    let key = key.join("\0");
    [b"prospect kernels 1\n".as_slice(), &(key.len() as u64).to_le_bytes(), key.as_bytes()].concat()
}

impl Cache {
    pub(super) fn new(folder: Option<PathBuf>) -> Cache {
        Cache(folder)
    }

    /// What is kept under `key`, else what `make` makes, which is then kept. A folder that cannot be written is only slower.
    pub(super) fn get(
        &self,
        name: &str,
        key: &[String],
        make: impl FnOnce() -> Result<Vec<u8>, Error>,
    ) -> Result<Vec<u8>, Error> {
        let Some(folder) = &self.0 else { return make() };
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let file = folder.join(format!("{name}-{:016x}.cubin", hasher.finish()));
        let header = header(key);
        if let Some(code) = std::fs::read(&file).ok().and_then(|b| b.strip_prefix(&*header).map(<[u8]>::to_vec)) {
            return Ok(code);
        }
        let code = make()?;
        keep(&file, &[&*header, &code].concat()).ok();
        Ok(code)
    }
}

/// Writes a file under another name first: readers find all of it or nothing.
fn keep(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let part = file.with_extension(format!("{}.part", std::process::id()));
    std::fs::write(&part, bytes)?;
    std::fs::rename(&part, file).inspect_err(|_| {
        std::fs::remove_file(&part).ok();
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_is_kept_under_all_that_it_depends_on_and_a_broken_file_is_made_again() {
        let folder = std::env::temp_dir().join(format!("prospect-kernels-{}", std::process::id()));
        let cache = Cache::new(Some(folder.clone()));
        let get = |key: &str, make: &[u8]| cache.get("k", &[key.into(), "sm_80".into()], || Ok(make.to_vec())).unwrap();
        assert_eq!([get("a", b"one"), get("a", b"two"), get("b", b"two")], [b"one", b"one", b"two"]);
        for file in std::fs::read_dir(&folder).unwrap() {
            std::fs::write(file.unwrap().path(), b"prospect kernels 1\n").unwrap();
        }
        assert_eq!(get("a", b"three"), b"three");
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 2, "nothing half written stays");
        std::fs::remove_dir_all(folder).unwrap();
    }
}
