//! A small HTTP server that answers as it is told, also in ways that no honest server would.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// A request as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// How many requests for the same method and target came before.
    pub(crate) nth: usize,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The first byte that is asked for.
    pub(crate) fn range_start(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.map_or(0, |range| range.trim_end_matches('-').parse().unwrap())
    }
}

/// An answer, honest or not.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) manner: Manner,
}

/// How the body is sent.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Manner {
    Whole,
    /// Announces all, sends so many bytes, and hangs up.
    Cut(usize),
    /// Announces all, sends so many bytes, and waits for the client to give up.
    Stall(usize),
    /// Sends a byte at a time.
    Trickle,
    /// Sends the body again and again, without a length.
    Endless,
    /// Hangs up without a word.
    Silence,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into(), manner: Manner::Whole }
    }

    pub(crate) fn json(value: &serde_json::Value) -> Reply {
        Reply::new(200, value.to_string())
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Reply {
        self.headers.push((name.into(), value.to_string()));
        self
    }

    pub(crate) fn sent(mut self, manner: Manner) -> Reply {
        self.manner = manner;
        self
    }

    /// `bytes` from where the request wants them.
    pub(crate) fn file(request: &Request, bytes: &[u8]) -> Reply {
        let from = request.range_start();
        match request.header("range") {
            None => Reply::new(200, bytes),
            Some(_) if from >= bytes.len() => Reply::new(416, ""),
            Some(_) => {
                let range = format!("bytes {from}-{}/{}", bytes.len() - 1, bytes.len());
                Reply::new(206, &bytes[from..]).with("Content-Range", range)
            }
        }
    }
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// The server; it stops when dropped.
pub(crate) struct HostileServer {
    address: SocketAddr,
    requests: Arc<Mutex<Vec<Request>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl HostileServer {
    pub(crate) fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> HostileServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let (log, stopped) = (requests.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                let (log, handler) = (log.clone(), handler.clone());
                // A client that hangs up is none of the server's business.
                std::thread::spawn(move || serve(stream.ok()?, &log, handler.as_ref()));
            }
        });
        HostileServer { address, requests, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }

    /// The requests whose target holds `part`.
    pub(crate) fn requests_for(&self, part: &str) -> Vec<Request> {
        self.requests().into_iter().filter(|request| request.target.contains(part)).collect()
    }
}

impl Drop for HostileServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for a connection.
        let _ = TcpStream::connect(self.address);
        let _ = self.thread.take().unwrap().join();
    }
}

fn serve(mut stream: TcpStream, log: &Mutex<Vec<Request>>, handler: &Handler) -> Option<()> {
    let mut request = read(&stream)?;
    {
        let mut log = log.lock().unwrap();
        let same = |other: &&Request| other.target == request.target && other.method == request.method;
        request.nth = log.iter().filter(same).count();
        log.push(request.clone());
    }
    let reply = handler(&request);
    if reply.manner == Manner::Silence {
        return None;
    }
    let mut head = format!("HTTP/1.1 {} Whatever\r\nConnection: close\r\n", reply.status);
    for (name, value) in &reply.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let has_length = reply.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let chunked = reply.manner == Manner::Endless;
    if chunked {
        head += "Transfer-Encoding: chunked\r\n";
    } else if !has_length {
        head += &format!("Content-Length: {}\r\n", reply.body.len());
    }
    stream.write_all((head + "\r\n").as_bytes()).ok()?;
    if request.method == "HEAD" {
        return None;
    }
    match reply.manner {
        Manner::Whole => stream.write_all(&reply.body).ok()?,
        Manner::Cut(bytes) => stream.write_all(&reply.body[..bytes]).ok()?,
        Manner::Stall(bytes) => {
            stream.write_all(&reply.body[..bytes]).ok()?;
            let _ = stream.read(&mut [0]);
        }
        Manner::Trickle => reply.body.iter().try_for_each(|byte| stream.write_all(&[*byte])).ok()?,
        Manner::Endless => loop {
            stream.write_all(format!("{:x}\r\n", reply.body.len()).as_bytes()).ok()?;
            stream.write_all(&reply.body).ok()?;
            stream.write_all(b"\r\n").ok()?;
        },
        Manner::Silence => {}
    }
    Some(())
}

fn read(stream: &TcpStream) -> Option<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.insert(name.to_lowercase(), value.trim().to_owned()),
            None => break,
        };
    }
    let length = headers.get("content-length").map_or(0, |length: &String| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Request { method, target, headers, body, nth: 0 })
}
