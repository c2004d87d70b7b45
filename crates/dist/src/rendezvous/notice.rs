//! The file in which rank 0 says where it is: its job's name, its port, its hosts, a line each.
//!
//! One that an earlier job left behind leads nowhere, and is read again until rank 0 has put its own in its place.

use std::fs;
use std::io::{Error, ErrorKind, Result};
use std::net::{IpAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The first line.
const HEAD: &str = "prospect ranks meet";
/// An address that is not asked anything: which way would it go?
const SOMEWHERE: &str = "192.0.2.1:9";

/// The file, which goes when this goes.
pub(super) struct Notice(PathBuf);

impl Notice {
    /// Says that rank 0 listens at a port of this machine; returns the name of the job as well.
    pub(super) fn write(path: &Path, machine: &str, port: u16) -> Result<(Notice, String)> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |past| past.as_nanos());
        let job = format!("{machine}-{}-{now}", std::process::id());
        let hosts: Vec<String> = std::iter::once(machine.to_owned()).chain(way_out()).collect();
        let text = format!("{HEAD}\n{job}\n{port}\n{}\n", hosts.join("\n"));
        // Nobody reads half of it.
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}", std::process::id()));
        fs::write(&aside, text)?;
        fs::rename(&aside, path)?;
        Ok((Notice(path.to_owned()), job))
    }
}

impl Drop for Notice {
    fn drop(&mut self) {
        // Whoever removed it before was right to.
        let _ = fs::remove_file(&self.0);
    }
}

/// This machine's address towards others: its name may be known to itself only.
fn way_out() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect(SOMEWHERE).ok()?;
    let IpAddr::V4(address) = socket.local_addr().ok()?.ip() else { return None };
    Some(address.to_string())
}

/// Rank 0's hosts and port, and the job's name.
pub(super) fn read(path: &Path) -> Result<(Vec<String>, u16, String)> {
    let text = fs::read_to_string(path)?;
    let mut lines = text.lines();
    let found = (lines.next() == Some(HEAD)).then(|| {
        let (job, port) = (lines.next()?.to_owned(), lines.next()?.parse().ok()?);
        Some((lines.map(str::to_owned).collect(), port, job))
    });
    found.flatten().ok_or_else(|| Error::new(ErrorKind::InvalidData, "it is no file in which ranks meet"))
}
