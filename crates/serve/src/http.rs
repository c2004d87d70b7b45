//! HTTP/1.1 as far as this server speaks it: requests with a known length, answers whole or in chunks.

use std::io::{ErrorKind, Read, Write};

/// Bytes of a request line with its headers at most.
const HEAD_BYTES: usize = 32 << 10;
/// Headers at most.
const HEADERS: usize = 100;

/// A request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, ..
    pub method: String,
    /// Without the query.
    pub path: String,
    /// What came after `Bearer`.
    pub bearer: Option<String>,
    /// The page of a browser that asks.
    pub origin: Option<String>,
    /// Whether the connection is to stay.
    pub keep_alive: bool,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there is no request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// The client has gone, or takes too long; there is nobody to answer, or nothing to answer to.
    Gone,
    /// What came cannot be taken: a status and why.
    Bad(u16, &'static str),
}

fn gone(_: std::io::Error) -> Trouble {
    Trouble::Gone
}

/// Reads the next request; `rest` keeps what was read beyond it. `None`: the client has ended the connection.
///
/// # Errors
/// What cannot be taken. The connection is of no use then: where the next request begins is not known.
pub fn read(
    stream: &mut (impl Read + Write),
    rest: &mut Vec<u8>,
    body_bytes: usize,
) -> Result<Option<Request>, Trouble> {
    let (mut request, length, head, expects) = loop {
        if let Some(parsed) = parse(rest)? {
            break parsed;
        }
        if rest.len() >= HEAD_BYTES {
            return Err(Trouble::Bad(431, "the headers are too long"));
        }
        let mut buffer = [0; 4096];
        match stream.read(&mut buffer).map_err(gone)? {
            0 if rest.is_empty() => return Ok(None),
            0 => return Err(Trouble::Gone),
            n => rest.extend_from_slice(&buffer[..n]),
        }
    };
    if length > body_bytes {
        return Err(Trouble::Bad(413, "the body is too long"));
    }
    rest.drain(..head);
    if expects && rest.len() < length {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").map_err(gone)?;
    }
    while rest.len() < length {
        let mut buffer = [0; 16 << 10];
        let most = (length - rest.len()).min(buffer.len());
        match stream.read(&mut buffer[..most]) {
            Ok(0) => return Err(Trouble::Gone),
            Ok(n) => rest.extend_from_slice(&buffer[..n]),
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(e) => return Err(gone(e)),
        }
    }
    request.body = rest.drain(..length).collect();
    Ok(Some(request))
}

/// The head of a request, if it is whole: with the length of its body and its own, and whether the client waits for a word before it
/// sends the body.
fn parse(bytes: &[u8]) -> Result<Option<(Request, usize, usize, bool)>, Trouble> {
    let bad = |why| Err(Trouble::Bad(400, why));
    let mut headers = [httparse::EMPTY_HEADER; HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    let head = match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(httparse::Error::TooManyHeaders) => return Err(Trouble::Bad(431, "too many headers")),
        Err(_) => return bad("this is not HTTP/1.1"),
    };
    let path = parsed.path.unwrap_or_default();
    let mut request = Request {
        method: parsed.method.unwrap_or_default().to_owned(),
        path: path.split(['?', '#']).next().unwrap_or_default().to_owned(),
        keep_alive: parsed.version == Some(1),
        ..Request::default()
    };
    let (mut length, mut expects) = (None, false);
    for header in parsed.headers.iter() {
        let Ok(value) = std::str::from_utf8(header.value).map(str::trim) else { continue };
        match header.name.to_ascii_lowercase().as_str() {
            "content-length" => {
                let n = Some(value).filter(|v| v.bytes().all(|b| b.is_ascii_digit())).and_then(|v| v.parse().ok());
                let Some(n) = n else { return bad("Content-Length: expected a number") };
                if length.is_some_and(|other: usize| other != n) {
                    return bad("two lengths");
                }
                length = Some(n);
            }
            "transfer-encoding" => return Err(Trouble::Bad(411, "a body needs a Content-Length")),
            "connection" if value.eq_ignore_ascii_case("close") => request.keep_alive = false,
            "connection" if value.eq_ignore_ascii_case("keep-alive") => request.keep_alive = true,
            "expect" if value.eq_ignore_ascii_case("100-continue") => expects = true,
            "origin" => request.origin = Some(value.to_owned()),
            "authorization" => {
                let bearer = value.split_once(' ').filter(|(kind, _)| kind.eq_ignore_ascii_case("bearer"));
                request.bearer = bearer.map(|(_, key)| key.trim().to_owned());
            }
            _ => {}
        }
    }
    Ok(Some((request, length.unwrap_or(0), head, expects)))
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        411 => "Length Required",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    }
}

/// Writes a whole answer.
///
/// # Errors
/// The connection.
pub fn respond(stream: &mut impl Write, status: u16, body: &str, keep_alive: bool) -> std::io::Result<()> {
    // When to come again, where that helps.
    let retry = if matches!(status, 429 | 503) { "Retry-After: 1\r\n" } else { "" };
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let head = format!(
        "HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{retry}Connection: {connection}\r\n\r\n",
        reason(status),
        body.len()
    );
    stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
    stream.flush()
}

/// Begins an answer of events.
///
/// # Errors
/// The connection.
pub fn begin_events(stream: &mut impl Write, keep_alive: bool) -> std::io::Result<()> {
    let connection = if keep_alive { "keep-alive" } else { "close" };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\
         Connection: {connection}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.flush()
}

/// Writes an event as a chunk of its own; `None` ends the answer.
///
/// # Errors
/// The connection.
pub fn event(stream: &mut impl Write, data: Option<&str>) -> std::io::Result<()> {
    let chunk = match data {
        Some(data) => format!("{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8),
        None => "0\r\n\r\n".to_owned(),
    };
    stream.write_all(chunk.as_bytes())?;
    stream.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A client that sends `input` in pieces of `piece` bytes.
    struct Client<'a> {
        input: &'a [u8],
        piece: usize,
        output: Vec<u8>,
    }

    impl Read for Client<'_> {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            let n = self.piece.min(buffer.len()).min(self.input.len());
            buffer[..n].copy_from_slice(&self.input[..n]);
            self.input = &self.input[n..];
            Ok(n)
        }
    }

    impl Write for Client<'_> {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.output.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn all(input: &str, piece: usize) -> (Vec<Request>, Option<Trouble>, String) {
        let mut client = Client { input: input.as_bytes(), piece, output: Vec::new() };
        let (mut rest, mut found) = (Vec::new(), Vec::new());
        loop {
            match read(&mut client, &mut rest, 100) {
                Ok(Some(request)) => found.push(request),
                Ok(None) => return (found, None, String::from_utf8(client.output).unwrap()),
                Err(trouble) => return (found, Some(trouble), String::from_utf8(client.output).unwrap()),
            }
        }
    }

    #[test]
    fn requests_are_read_whatever_pieces_they_come_in() {
        let input = "POST /v1/x?q=1 HTTP/1.1\r\nContent-Length: 5\r\nAuthorization: bearer abc\r\nExpect: 100-continue\r\n\r\nhello\
                     GET /health HTTP/1.1\r\nConnection: close\r\n\r\n";
        for piece in [1, 7, 1000] {
            let (found, trouble, _) = all(input, piece);
            assert_eq!(trouble, None);
            assert_eq!((found[0].path.as_str(), found[0].body.as_slice()), ("/v1/x", &b"hello"[..]));
            assert_eq!((found[0].bearer.as_deref(), found[0].keep_alive), (Some("abc"), true));
            assert_eq!((found[1].method.as_str(), found[1].keep_alive), ("GET", false));
        }
        assert!(all(input, 1).2.contains("100 Continue"));
    }

    #[test]
    fn what_cannot_be_taken_is_refused() {
        let status = |input: &str| match all(input, 1000).1 {
            Some(Trouble::Bad(status, _)) => status,
            other => panic!("{other:?}"),
        };
        assert_eq!(status("hello\r\n\r\n"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\nContent-Length: 101\r\n\r\n"), 413);
        assert_eq!(status("POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx"), 400);
        assert_eq!(status("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 411);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(40_000))), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(200))), 431);
        assert_eq!(all("POST / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhel", 1000).1, Some(Trouble::Gone));
    }
}
