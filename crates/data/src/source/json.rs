//! Rows of a text file: the lines of a JSONL or the elements of a JSON array of any size.

use std::io::BufRead;
use std::path::{Path, PathBuf};

use super::RawRow;
use super::packed::{Progress, Text};
use crate::error::{Error, Place, Result};

/// Cuts one file into rows: the lines of a JSONL, or the elements of a JSON array.
pub(super) struct Splitter {
    path: PathBuf,
    file: u32,
    reader: Text,
    array: bool,
    line: u64,
    column: u64,
    pub(super) read: Progress,
}

impl Splitter {
    pub(super) fn open(path: &Path, file: u32, reader: Text, read: Progress) -> Result<Self> {
        let mut s = Splitter { path: path.to_owned(), file, reader, array: false, line: 1, column: 1, read };
        if s.fill()?.starts_with(b"\xef\xbb\xbf") {
            s.reader.consume(3);
        }
        if s.peek_token()? == Some(b'[') {
            s.bump()?;
            s.array = true;
        }
        Ok(s)
    }

    pub(super) fn next_row(&mut self) -> Result<Option<RawRow>> {
        if self.array { self.next_element() } else { self.next_line() }
    }

    fn next_line(&mut self) -> Result<Option<RawRow>> {
        loop {
            let (line, column, mut text) = (self.line, self.column, Vec::new());
            let io = |source| Error::Io { path: self.path.clone(), source };
            let n = self.reader.read_until(b'\n', &mut text).map_err(io)?;
            if n == 0 {
                return Ok(None);
            }
            self.line += 1;
            self.column = 1;
            while text.last().is_some_and(u8::is_ascii_whitespace) {
                text.pop();
            }
            if !text.is_empty() {
                return Ok(Some(RawRow { file: self.file, line, column, text }));
            }
        }
    }

    /// The next element of the array, up to the `,` or `]` that ends it.
    fn next_element(&mut self) -> Result<Option<RawRow>> {
        match self.peek_token()? {
            None => return Err(self.malformed("the array is not closed; expected `]`, found the end of the file")),
            Some(b']') => {
                self.bump()?;
                return match self.peek_token()? {
                    None => Ok(None),
                    Some(_) => Err(self.malformed("expected nothing after the array's `]`")),
                };
            }
            Some(_) => {}
        }
        let (line, column) = (self.line, self.column);
        let (mut text, mut depth, mut in_string, mut escaped) = (Vec::new(), 0_usize, false, false);
        loop {
            let Some(c) = self.peek()? else {
                return Err(Error::Row {
                    place: Place { file: self.path.clone(), line, column },
                    field: String::new(),
                    reason:
                        "expected `,` or `]` behind the row that starts here, found the end of the file: it is cut off"
                            .into(),
                });
            };
            match c {
                _ if in_string => {
                    in_string = escaped || c != b'"';
                    escaped = !escaped && c == b'\\';
                }
                b'"' => in_string = true,
                b'{' | b'[' => depth += 1,
                b',' | b']' if depth == 0 => break,
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            text.push(c);
            self.bump()?;
        }
        if self.peek()? == Some(b',') {
            self.bump()?;
        }
        while text.last().is_some_and(u8::is_ascii_whitespace) {
            text.pop();
        }
        Ok(Some(RawRow { file: self.file, line, column, text }))
    }

    fn malformed(&self, reason: &str) -> Error {
        let place = Place { file: self.path.clone(), line: self.line, column: self.column };
        Error::Row { place, field: String::new(), reason: reason.into() }
    }

    fn fill(&mut self) -> Result<&[u8]> {
        self.reader.fill_buf().map_err(|source| Error::Io { path: self.path.clone(), source })
    }

    fn peek(&mut self) -> Result<Option<u8>> {
        Ok(self.fill()?.first().copied())
    }

    /// The next byte that is not white space, which stays unread.
    fn peek_token(&mut self) -> Result<Option<u8>> {
        while let Some(c) = self.peek()? {
            if !c.is_ascii_whitespace() {
                return Ok(Some(c));
            }
            self.bump()?;
        }
        Ok(None)
    }

    /// Steps over one byte. Continuation bytes of UTF-8 are no columns of their own.
    fn bump(&mut self) -> Result<()> {
        let Some(c) = self.peek()? else { return Ok(()) };
        self.reader.consume(1);
        match c {
            b'\n' => (self.line, self.column) = (self.line + 1, 1),
            0x80..=0xbf => {}
            _ => self.column += 1,
        }
        Ok(())
    }
}
