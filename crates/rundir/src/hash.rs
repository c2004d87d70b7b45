//! BLAKE3 of files, streamed.
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{At, Error};

/// Bytes hashed or written at a time: large enough to stream, small enough to stay in cache.
pub(crate) const CHUNK: usize = 1 << 20;

/// A file by its path, length in bytes and BLAKE3 (64 hexadecimal digits).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileHash {
    /// The path as it was given, or relative to the folder the record describes.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// BLAKE3 of the content.
    pub blake3: String,
}

/// Hashes one file in chunks of 1 MiB; the record keeps `path` as it is given.
///
/// Errors: the file cannot be read.
pub fn hash_file(path: &Path) -> Result<FileHash, Error> {
    let (bytes, blake3) = hash_content(path)?;
    Ok(FileHash { path: path.to_string_lossy().into_owned(), bytes, blake3 })
}

/// BLAKE3 of bytes, 64 hexadecimal digits.
pub fn of_bytes(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

pub(crate) fn hash_content(path: &Path) -> Result<(u64, String), Error> {
    let mut file = File::open(path).at("read", path)?;
    let mut buffer = vec![0; CHUNK];
    let (mut hasher, mut bytes) = (blake3::Hasher::new(), 0);
    loop {
        let read = match file.read(&mut buffer) {
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            read => read.at("read", path)?,
        };
        match read {
            0 => return Ok((bytes, hasher.finalize().to_hex().to_string())),
            read => {
                hasher.update(&buffer[..read]);
                bytes += read as u64;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scratch::Scratch;

    #[test]
    fn a_streamed_hash_equals_the_hash_of_the_whole() {
        let scratch = Scratch::new();
        let content: Vec<u8> = (0..CHUNK + 17).map(|i| (i * 31 % 251) as u8).collect();
        std::fs::write(scratch.join("f"), &content).unwrap();
        let found = hash_file(&scratch.join("f")).unwrap();
        assert_eq!(found.bytes, content.len() as u64);
        assert_eq!(found.blake3, blake3::hash(&content).to_hex().to_string());
    }
}
