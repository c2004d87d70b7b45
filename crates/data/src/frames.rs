//! Writing zstd: one frame for every few mebibytes, as readers take frames one after the other.

use std::io::{Result, Write};

use ruzstd::encoding::{CompressionLevel, compress_to_vec};

/// Bytes of a frame before they are packed: matches are looked for within a block of 128 KiB, so more would gain nothing.
const FRAME: usize = 4 << 20;

/// A writer that packs.
pub(crate) struct Frames<W> {
    out: W,
    waiting: Vec<u8>,
}

impl<W: Write> Frames<W> {
    pub(crate) fn new(out: W) -> Frames<W> {
        Frames { out, waiting: Vec::with_capacity(FRAME) }
    }

    /// Ends the frame and gives the writer back.
    pub(crate) fn finish(mut self) -> Result<W> {
        self.end_frame()?;
        Ok(self.out)
    }

    fn end_frame(&mut self) -> Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let frame = compress_to_vec(self.waiting.as_slice(), CompressionLevel::Fastest);
        self.waiting.clear();
        self.out.write_all(&frame)
    }
}

impl<W: Write> Write for Frames<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize> {
        let taken = bytes.len().min(FRAME - self.waiting.len());
        self.waiting.extend_from_slice(&bytes[..taken]);
        if self.waiting.len() == FRAME {
            self.end_frame()?;
        }
        Ok(taken)
    }

    /// What waits for the end of its frame stays.
    fn flush(&mut self) -> Result<()> {
        self.out.flush()
    }
}
