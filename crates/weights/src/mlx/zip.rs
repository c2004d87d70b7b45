//! ZIP archives as NumPy writes them: stored or deflated members, no encryption, below four gibibytes.
//!
//! Source: PKWARE's APPNOTE 6.3.10.

use std::fs::File;
use std::ops::Range;
use std::path::Path;

use crate::error::Error;
use crate::write::write_pieces;
use mapped::Map;

const END: u32 = 0x0605_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const LOCAL: u32 = 0x0403_4b50;
/// Bytes of the fixed part of the end record, of a central and of a local header.
const END_SIZE: usize = 22;
const CENTRAL_SIZE: usize = 46;
const LOCAL_SIZE: usize = 30;
/// The end record is looked for in this many bytes: its comment is at most 65,535 long.
const END_WITHIN: usize = END_SIZE + 0xffff;
/// 1 January 1980, so that equal contents are equal files.
const DATE: u16 = 0x21;
/// A version of the format that every reader knows.
const VERSION: u16 = 20;

/// An open archive.
#[derive(Debug)]
pub(super) struct Archive {
    map: Map,
    members: Vec<Member>,
}

/// A file in an archive.
#[derive(Debug)]
struct Member {
    name: String,
    deflated: bool,
    crc: u32,
    size: usize,
    /// Its bytes, packed or not.
    range: Range<usize>,
}

impl Archive {
    /// Opens a file and reads its directory; what does not lie inside the file is refused.
    pub(super) fn open(path: &Path) -> Result<Archive, Error> {
        let file = File::open(path).map_err(Error::io("open", path))?;
        let metadata = file.metadata().map_err(Error::io("read", path))?;
        if !metadata.is_file() || metadata.len() < END_SIZE as u64 {
            return Err(Error::adapter(path, "expected an npz archive, found something shorter or no file"));
        }
        let map = Map::new(path, &file, metadata.len() as usize).map_err(Error::io("map", path))?;
        let members = directory(map.bytes()).map_err(|what| Error::adapter(path, what))?;
        Ok(Archive { map, members })
    }

    /// The members' names, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(|member| member.name.as_str())
    }

    /// The bytes of the `i`-th member, unpacked and checked against their checksum.
    pub(super) fn read(&self, i: usize) -> Result<Vec<u8>, Error> {
        let member = &self.members[i];
        let bad = |what: &str| Error::adapter(self.map.path(), format!("{}: {what}", member.name));
        let packed = &self.map.bytes()[member.range.clone()];
        let bytes = if member.deflated {
            miniz_oxide::inflate::decompress_to_vec_with_limit(packed, member.size)
                .map_err(|_| bad("its packed bytes are damaged"))?
        } else {
            packed.to_vec()
        };
        self.map.release(member.range.clone());
        if bytes.len() != member.size || crc32fast::hash(&bytes) != member.crc {
            return Err(bad("its bytes do not have the checksum that the archive says; the file is damaged"));
        }
        Ok(bytes)
    }
}

fn directory(bytes: &[u8]) -> Result<Vec<Member>, String> {
    let from = bytes.len().saturating_sub(END_WITHIN);
    let last = bytes.len() - END_SIZE;
    let end = (from..=last).rev().find(|&at| u32_at(bytes, at) == Some(END));
    let end = end.ok_or("no npz archive, or its end is missing")?;
    let short = || "its directory does not lie in the file; it is damaged".to_owned();
    let count = u16_at(bytes, end + 10).ok_or_else(short)?;
    let mut at = u32_at(bytes, end + 16).ok_or_else(short)? as usize;
    if count == u16::MAX || at == u32::MAX as usize {
        return Err("an archive of more than four gibibytes (ZIP64) is not read".to_owned());
    }
    let mut members = Vec::new();
    for _ in 0..count {
        let (member, next) = member(bytes, at).ok_or_else(short)?;
        members.push(member?);
        at = next;
    }
    Ok(members)
}

/// The member whose central header is at `at`, and where the next one is; `None` where it does not lie in the file.
fn member(bytes: &[u8], at: usize) -> Option<(Result<Member, String>, usize)> {
    if u32_at(bytes, at)? != CENTRAL {
        return None;
    }
    let lengths = [28, 30, 32].map(|offset| u16_at(bytes, at + offset).map(usize::from));
    let [name, extra, comment] = [lengths[0]?, lengths[1]?, lengths[2]?];
    let text = bytes.get(at + CENTRAL_SIZE..at + CENTRAL_SIZE + name)?;
    let next = at + CENTRAL_SIZE + name + extra + comment;
    let (flags, method) = (u16_at(bytes, at + 8)?, u16_at(bytes, at + 10)?);
    let packed = u32_at(bytes, at + 20)?;
    let size = u32_at(bytes, at + 24)?;
    let name = String::from_utf8_lossy(text).into_owned();
    if flags & 1 == 1 || !matches!(method, 0 | 8) || packed == u32::MAX || size == u32::MAX {
        let what = format!(
            "{name}: members that are encrypted, beyond four gibibytes or packed by method {method} are not read"
        );
        return Some((Err(what), next));
    }
    let local = u32_at(bytes, at + 42)? as usize;
    if u32_at(bytes, local)? != LOCAL {
        return None;
    }
    let behind = usize::from(u16_at(bytes, local + 26)?) + usize::from(u16_at(bytes, local + 28)?);
    let range = local + LOCAL_SIZE + behind..local + LOCAL_SIZE + behind + packed as usize;
    bytes.get(range.clone())?;
    let member = Member { name, deflated: method == 8, crc: u32_at(bytes, at + 16)?, size: size as usize, range };
    Some((Ok(member), next))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Writes an archive of stored members, whole or not at all; `contents` gives the bytes of a name, one at a time.
pub(super) fn write(path: &Path, names: &[String], mut contents: impl FnMut(usize) -> Vec<u8>) -> Result<(), Error> {
    write_pieces(path, |put| {
        let (mut directory, mut at) = (Vec::new(), 0u64);
        let too_long =
            || Error::adapter(path, "more than four gibibytes do not fit an npz archive; write mlx-lm's form");
        for (i, name) in names.iter().enumerate() {
            let bytes = contents(i);
            let size = u32::try_from(bytes.len()).map_err(|_| too_long())?;
            let offset = u32::try_from(at).map_err(|_| too_long())?;
            let shared = shared_fields(crc32fast::hash(&bytes), size, name);
            let mut header = LOCAL.to_le_bytes().to_vec();
            header.extend(&shared);
            header.extend(name.as_bytes());
            put(&header)?;
            put(&bytes)?;
            at += header.len() as u64 + u64::from(size);
            directory.extend(CENTRAL.to_le_bytes());
            directory.extend(VERSION.to_le_bytes());
            directory.extend(&shared);
            // No comment, the first disk, no attributes.
            directory.extend([0; 10]);
            directory.extend(offset.to_le_bytes());
            directory.extend(name.as_bytes());
        }
        let start = u32::try_from(at).map_err(|_| too_long())?;
        put(&directory)?;
        let count = u16::try_from(names.len()).map_err(|_| too_long())?;
        let mut end = END.to_le_bytes().to_vec();
        end.extend([0; 4]);
        end.extend(count.to_le_bytes());
        end.extend(count.to_le_bytes());
        end.extend((directory.len() as u32).to_le_bytes());
        end.extend(start.to_le_bytes());
        end.extend([0; 2]);
        put(&end)
    })
}

/// What a local and a central header have in common, from the version to the length of the extra field.
fn shared_fields(crc: u32, size: u32, name: &str) -> Vec<u8> {
    let mut fields = Vec::with_capacity(LOCAL_SIZE - 4);
    // Version, no flags, stored, no time of day, the date.
    [VERSION, 0, 0, 0, DATE].iter().for_each(|field| fields.extend(field.to_le_bytes()));
    [crc, size, size].iter().for_each(|field| fields.extend(field.to_le_bytes()));
    [name.len() as u16, 0].iter().for_each(|field| fields.extend(field.to_le_bytes()));
    fields
}
