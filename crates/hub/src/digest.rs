//! The two hashes by which the Hub names contents: SHA-256 (LFS) and git's blob SHA-1.

use crate::Error;
use crate::error::At;
use ring::digest;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The hash of a file's contents; `Display` is lower-case hex, as in the cache's `blobs/`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Digest {
    /// SHA-256 of the contents (LFS object id).
    Sha256([u8; 32]),
    /// SHA-1 of `blob <length>\0` and the contents (git blob id). Guards against accidents, not against a collision
    /// made on purpose; the Hub offers nothing better for small files.
    GitBlob([u8; 20]),
}

impl Digest {
    /// Reads 64 or 40 hexadecimal digits; `None` for anything else.
    pub fn parse(hex: &str) -> Option<Digest> {
        match hex.len() {
            64 => Some(Digest::Sha256(unhex(hex)?)),
            40 => Some(Digest::GitBlob(unhex(hex)?)),
            _ => None,
        }
    }

    /// Hashes a file in the way of `self`.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be read.
    pub fn of_same_kind(self, path: &Path) -> Result<Digest, Error> {
        let mut file = File::open(path).at("open", path)?;
        let length = file.metadata().at("read", path)?.len();
        let mut hasher = Hasher::like(self, length);
        hasher.read_from(&mut file, path)?;
        Ok(hasher.finish())
    }

    /// `sha256` or `git`, as written in lock files.
    pub fn kind(self) -> &'static str {
        match self {
            Digest::Sha256(_) => "sha256",
            Digest::GitBlob(_) => "git",
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: &[u8] = match self {
            Digest::Sha256(bytes) => bytes,
            Digest::GitBlob(bytes) => bytes,
        };
        bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

/// A running hash.
#[derive(Clone)]
pub(crate) struct Hasher(digest::Context);

impl Hasher {
    pub(crate) fn sha256() -> Hasher {
        Hasher(digest::Context::new(&digest::SHA256))
    }

    pub(crate) fn git_blob(length: u64) -> Hasher {
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        context.update(format!("blob {length}\0").as_bytes());
        Hasher(context)
    }

    /// A hash of the kind of `digest` for contents of `length` bytes.
    pub(crate) fn like(digest: Digest, length: u64) -> Hasher {
        match digest {
            Digest::Sha256(_) => Hasher::sha256(),
            Digest::GitBlob(_) => Hasher::git_blob(length),
        }
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Adds all that is left of `file`, and says how many bytes that was.
    pub(crate) fn read_from(&mut self, file: &mut File, path: &Path) -> Result<u64, Error> {
        let mut buffer = vec![0; 1 << 18];
        let mut length = 0;
        loop {
            match file.read(&mut buffer).at("read", path)? {
                0 => return Ok(length),
                n => {
                    self.update(&buffer[..n]);
                    length += n as u64;
                }
            }
        }
    }

    pub(crate) fn finish(self) -> Digest {
        let digest = self.0.finish();
        match digest.as_ref().len() {
            32 => Digest::Sha256(digest.as_ref().try_into().expect("SHA-256 has 32 bytes")),
            _ => Digest::GitBlob(digest.as_ref().try_into().expect("SHA-1 has 20 bytes")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_agree_with_git_and_sha256sum() {
        let mut sha256 = Hasher::sha256();
        sha256.update(b"abc");
        assert_eq!(sha256.finish().to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        let mut blob = Hasher::git_blob(12);
        blob.update(b"hello world\n");
        assert_eq!(blob.finish().to_string(), "3b18e512dba79e4c8300dd08aeb37f8e728b8dad");
    }

    #[test]
    fn only_hexadecimal_digits_of_the_two_lengths_are_a_digest() {
        let hex = "3b18e512dba79e4c8300dd08aeb37f8e728b8dad";
        assert_eq!(Digest::parse(hex).unwrap().to_string(), hex);
        for other in ["", "../../etc/passwd", &hex[1..], &format!("{}/", &hex[1..]), &"é".repeat(20)] {
            assert_eq!(Digest::parse(other), None, "{other:?}");
        }
    }
}
