//! One file: fetched into a partial file that survives anything, verified, never longer than announced.

use crate::Error;
use crate::address::Address;
use crate::clock::Clock;
use crate::digest::{Digest, Hasher};
use crate::error::At;
use crate::http::{Call, Client, Failure, Patience, Reply};
use crate::layout::make_parent;
use crate::listing::RemoteFile;
use crate::settings::Limits;
use crate::watch::{Event, Watch};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use ureq::http::StatusCode;

/// Fetches `file` from `address` into `partial`, going on from what is there; on return it is complete, verified and on
/// the disk. On any error what was received is kept, unless it was wrong.
pub(crate) fn fetch(
    client: &Client,
    address: &Address,
    file: &RemoteFile,
    partial: &Path,
    watch: &dyn Watch,
) -> Result<(), Error> {
    let mut received = Received::open(partial, file)?;
    let mut patience = Patience::default();
    let mut furthest = received.length;
    loop {
        let attempt = match received.length < file.size {
            true => receive(client, address, &mut received, watch),
            false => Ok(()),
        };
        match attempt.and_then(|()| received.verify().map_err(Failure::again)) {
            Ok(()) => return received.sync(),
            Err(failure) => {
                if !failure.may_pass() {
                    return Err(failure.error);
                }
                // An attempt that got further than all before it is no failure in a row.
                if received.length > furthest {
                    furthest = received.length;
                    patience = Patience::default();
                }
                client.wait(failure, &mut patience, watch)?;
            }
        }
    }
}

/// One request for what is missing.
fn receive(client: &Client, address: &Address, received: &mut Received<'_>, watch: &dyn Watch) -> Result<(), Failure> {
    let mut call = Call::get(address.clone());
    if received.length > 0 {
        call.headers.push(("range".into(), format!("bytes={}-", received.length)));
    }
    let reply = client.once(&call)?;
    received.agree(&reply)?;
    let url = reply.address.clone();
    let mut body = reply.body.into_with_config().limit(u64::MAX).reader();
    let mut pace = Pace::new(client.clock.as_ref(), &client.settings.limits);
    let mut buffer = vec![0; 1 << 17];
    loop {
        if watch.stop() {
            return Err(Error::Stopped.into());
        }
        let count = match body.read(&mut buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(broke(&url, format!("the connection broke: {error}"), received)),
        };
        if count == 0 {
            let whole = received.length == received.file.size;
            return if whole { Ok(()) } else { Err(broke(&url, "the connection ended early".into(), received)) };
        }
        received.add(&buffer[..count])?;
        watch.event(Event::Progress { path: &received.file.path, done: received.length, size: received.file.size });
        if !pace.fast_enough(count) {
            return Err(broke(&url, "too slow".into(), received));
        }
    }
}

fn broke(url: &Address, why: String, received: &Received<'_>) -> Failure {
    let why = format!("{why} after {} of {} bytes", received.length, received.file.size);
    Failure::again(Error::Network { url: url.to_string(), why })
}

/// A partial file and the hash of what is in it.
struct Received<'a> {
    file: &'a RemoteFile,
    path: PathBuf,
    out: File,
    length: u64,
    hasher: Hasher,
}

impl<'a> Received<'a> {
    fn open(path: &Path, file: &'a RemoteFile) -> Result<Received<'a>, Error> {
        make_parent(path)?;
        // A link in the place of the partial file would lead our writes elsewhere.
        if path.symlink_metadata().is_ok_and(|found| !found.is_file()) {
            fs::remove_file(path).at("remove what is not a file at", path)?;
        }
        let mut out =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).at("open", path)?;
        let mut hasher = Hasher::like(file.digest, file.size);
        let length = hasher.read_from(&mut out, path)?;
        let mut received = Received { file, path: path.to_path_buf(), out, length, hasher };
        if length > file.size {
            received.start_over()?;
        }
        Ok(received)
    }

    fn start_over(&mut self) -> Result<(), Error> {
        self.out.set_len(0).at("truncate", &self.path)?;
        self.out.seek(SeekFrom::Start(0)).at("truncate", &self.path)?;
        self.length = 0;
        self.hasher = Hasher::like(self.file.digest, self.file.size);
        Ok(())
    }

    fn corrupt(&self, why: String) -> Error {
        Error::Corrupt { file: self.file.path.to_string(), why }
    }

    /// Compares an answer's head with what was asked for.
    fn agree(&mut self, reply: &Reply) -> Result<(), Failure> {
        if !reply.is_plain() {
            return Err(reply.protocol("the file comes compressed, which was not asked for").into());
        }
        let range = reply.header("content-range").and_then(content_range);
        match (reply.status, range) {
            (StatusCode::PARTIAL_CONTENT, Some((from, total)))
                if from == self.length && total.is_none_or(|total| total == self.file.size) => {}
            (StatusCode::OK, _) => {
                if self.length > 0 {
                    self.start_over()?;
                }
            }
            (status, _) => {
                let found = reply.header("content-range").unwrap_or("no Content-Range").to_owned();
                let asked = self.length;
                self.start_over()?;
                let why = format!("asked for bytes from {asked}, found status {} and {found}", status.as_u16());
                return Err(Failure::again(reply.protocol(why)));
            }
        }
        let expected = self.file.size - self.length;
        match reply.header("content-length").and_then(|length| length.parse::<u64>().ok()) {
            Some(length) if length != expected => {
                let why = format!("expected {expected} bytes, Content-Length is {length}");
                Err(Failure::again(self.corrupt(why)))
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        if self.length + bytes.len() as u64 > self.file.size {
            self.start_over()?;
            return Err(Failure::again(self.corrupt(format!("expected {} bytes, more came", self.file.size))));
        }
        self.out.write_all(bytes).at("write", &self.path)?;
        self.hasher.update(bytes);
        self.length += bytes.len() as u64;
        Ok(())
    }

    /// Compares the hash; contents that are wrong are thrown away.
    fn verify(&mut self) -> Result<(), Error> {
        let found: Digest = self.hasher.clone().finish();
        if found == self.file.digest {
            return Ok(());
        }
        self.start_over()?;
        Err(self.corrupt(format!("expected the {} hash {}, found {found}", found.kind(), self.file.digest)))
    }

    fn sync(self) -> Result<(), Error> {
        self.out.sync_all().at("write", &self.path)
    }
}

/// `bytes 5-9/10` or `bytes 5-9/*`: where it begins, and how long the whole is.
fn content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let from = range.split_once('-')?.0.parse().ok()?;
    match total {
        "*" => Some((from, None)),
        total => Some((from, Some(total.parse().ok()?))),
    }
}

/// Whether enough bytes arrive in each window of time: a trickle keeps a connection alive and helps nobody.
struct Pace<'a> {
    clock: &'a dyn Clock,
    window: Duration,
    enough: u64,
    began: Duration,
    bytes: u64,
}

impl<'a> Pace<'a> {
    fn new(clock: &'a dyn Clock, limits: &Limits) -> Pace<'a> {
        Pace { clock, window: limits.slow_window, enough: limits.slow_bytes, began: clock.now(), bytes: 0 }
    }

    fn fast_enough(&mut self, count: usize) -> bool {
        self.bytes += count as u64;
        let now = self.clock.now();
        if now.saturating_sub(self.began) < self.window {
            return true;
        }
        let enough = self.bytes >= self.enough;
        (self.began, self.bytes) = (now, 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_is_read_or_refused() {
        assert_eq!(content_range("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(content_range("bytes 5-9/*"), Some((5, None)));
        for broken in ["", "bytes */10", "bytes 5-9", "5-9/10", "bytes x-9/10", "bytes 5-9/x"] {
            assert_eq!(content_range(broken), None, "{broken}");
        }
    }
}
