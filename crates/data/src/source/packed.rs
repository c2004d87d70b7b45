//! Opening a file that may be packed by gzip or zstd, told from its first bytes.

use std::fs::File;
use std::io::{BufRead, BufReader, Chain, Cursor, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use flate2::bufread::MultiGzDecoder;
use ruzstd::decoding::{FrameDecoder, StreamingDecoder};

use crate::error::{Error, Result};

/// A text on its way in.
pub(super) type Text = BufReader<Box<dyn Read + Send>>;

/// How far a file on disk has been read.
#[derive(Clone, Default)]
pub(super) struct Progress(Arc<AtomicU64>);

impl Progress {
    /// Bytes read.
    pub(super) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

struct Counted(File, Progress);

impl Read for Counted {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(out)?;
        self.1.0.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

const BUFFER: usize = 1 << 20;

/// The first bytes of the file itself, its text unpacked, and how far it has been read.
pub(super) fn open(path: &Path) -> Result<(Vec<u8>, Text, Progress)> {
    let io = |source| Error::Io { path: path.to_owned(), source };
    let progress = Progress::default();
    let mut file = BufReader::with_capacity(BUFFER, Counted(File::open(path).map_err(io)?, progress.clone()));
    let head = file.fill_buf().map_err(io)?;
    let head = head[..head.len().min(8)].to_vec();
    let text: Box<dyn Read + Send> = match head.as_slice() {
        [0x1f, 0x8b, ..] => Box::new(Members(MultiGzDecoder::new(file))),
        // A file may begin with a frame to be skipped.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            Box::new(Frames { file: Some(file), frame: None })
        }
        _ => Box::new(file),
    };
    Ok((head, BufReader::with_capacity(BUFFER, text), progress))
}

type Source = BufReader<Counted>;

/// The members of a gzip file one after the other.
struct Members(MultiGzDecoder<Source>);

impl Read for Members {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        self.0.read(out).map_err(|e| damaged("gzip", e))
    }
}

/// An error of a packed file itself; one of the disk stays as it is.
fn damaged(packing: &str, e: std::io::Error) -> std::io::Error {
    match e.kind() {
        std::io::ErrorKind::InvalidData
        | std::io::ErrorKind::InvalidInput
        | std::io::ErrorKind::UnexpectedEof
        | std::io::ErrorKind::Other => {
            std::io::Error::other(format!("not valid {packing}: the file is damaged or cut off; get it again"))
        }
        _ => e,
    }
}

/// The frames of a zstd file one after the other; skippable ones, as `pzstd` writes them, are passed over.
struct Frames {
    file: Option<Source>,
    frame: Option<Box<StreamingDecoder<FrameSource, FrameDecoder>>>,
}

/// A frame's magic number, which has been read to know its kind, and the rest of the file.
type FrameSource = Chain<Cursor<[u8; 4]>, Source>;

impl Frames {
    /// Opens the next frame; `None` at the end of the file.
    fn next_frame(mut file: Source) -> std::io::Result<Option<Box<StreamingDecoder<FrameSource, FrameDecoder>>>> {
        let mut magic = [0; 4];
        loop {
            if file.fill_buf()?.is_empty() {
                return Ok(None);
            }
            file.read_exact(&mut magic).map_err(|e| damaged("zstd", e))?;
            // RFC 8878, 3.1.2.
            if u32::from_le_bytes(magic) & !0xf != 0x184d_2a50 {
                break;
            }
            let mut length = [0; 4];
            file.read_exact(&mut length).map_err(|e| damaged("zstd", e))?;
            let length = u64::from(u32::from_le_bytes(length));
            if std::io::copy(&mut file.by_ref().take(length), &mut std::io::sink())? < length {
                return Err(damaged("zstd", std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
        let frame = StreamingDecoder::new(Cursor::new(magic).chain(file));
        frame.map(|frame| Some(Box::new(frame))).map_err(|e| damaged("zstd", std::io::Error::other(e.to_string())))
    }
}

impl Read for Frames {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(frame) = &mut self.frame {
                let n = frame.read(out).map_err(|e| damaged("zstd", e))?;
                if n > 0 {
                    return Ok(n);
                }
            }
            if let Some(frame) = self.frame.take() {
                self.file = Some(frame.into_inner().into_inner().1);
            }
            let Some(file) = self.file.take() else { return Ok(0) };
            self.frame = Frames::next_frame(file)?;
        }
    }
}
