//! Ranks that a launcher started without bringing them together meet at rank 0's port, which all of them were told, or find in a file.
//!
//! Nothing but small words goes this way: the id of an engine, and what ranks say when they end. A connection that breaks says as much
//! of its rank.

mod notice;

use crate::{Channel, Error, Stuck};
use notice::{Notice, read};
use std::collections::VecDeque;
use std::fmt;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Where ranks meet, and who they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meeting {
    /// Where rank 0 is found.
    pub place: Place,
    /// Name of the job: who belongs to another is sent away.
    pub job: String,
    /// This rank, and how many there are.
    pub rank: (usize, usize),
    /// Name of the machine this rank is on.
    pub machine: String,
}

/// Where rank 0 is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// At a port of a host.
    Port {
        /// Rank 0's host.
        host: String,
        /// Its port.
        port: u16,
    },
    /// At the port that it writes, with its hosts, to a file which all ranks can read.
    File(PathBuf),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Port { host, port } => write!(f, "{host}:{port}"),
            Place::File(path) => write!(f, "the address in {}", path.display()),
        }
    }
}

/// This process among ranks that have met.
pub struct Rendezvous {
    meeting: Meeting,
    hub: Arc<Hub>,
    /// Rank 0's, where others read its address; gone with it.
    _notice: Option<Notice>,
}

#[derive(Default)]
struct Hub {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Of rank 0, to everyone; of the others, to rank 0 alone.
    streams: Vec<Option<TcpStream>>,
    /// Who will say no more, and did not break off.
    done: Vec<bool>,
    heard: VecDeque<(usize, String)>,
    lead: Option<Vec<u8>>,
    closed: bool,
}

/// What a message is.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// The first of a rank: the job's name.
    Hello = 1,
    /// Bytes of rank 0.
    Lead = 2,
    /// Words of a rank.
    Words = 3,
    /// The last of a rank that ends as it should.
    Done = 4,
}

/// Most bytes of a message.
const MESSAGE: usize = 1 << 16;
/// Begins a message, so that who is not one of ours is known at once.
const MARK: [u8; 4] = *b"prs1";
/// How long a stranger may take to say who it is.
const GREETING: Duration = Duration::from_secs(5);
/// Between two attempts to reach rank 0, which may start later, or to see whether someone comes.
const AGAIN: Duration = Duration::from_millis(20);

/// What is said of a rank whose connection ended without a word.
const BROKE_OFF: &str = "its connection is gone: the process was killed, or its machine is not there";

fn send(stream: &mut TcpStream, kind: Kind, from: usize, bytes: &[u8]) -> std::io::Result<()> {
    let mut message = MARK.to_vec();
    message.push(kind as u8);
    message.extend((from as u32).to_le_bytes());
    message.extend((bytes.len() as u32).to_le_bytes());
    message.extend(bytes);
    stream.write_all(&message)
}

/// A message: what it is, whose, and its bytes; `None` where the connection ended or says what it should not.
fn receive(stream: &mut TcpStream) -> Option<(Kind, usize, Vec<u8>)> {
    let mut head = [0u8; 13];
    stream.read_exact(&mut head).ok()?;
    let number = |at: usize| u32::from_le_bytes(std::array::from_fn(|i| head[at + i])) as usize;
    let kinds = [Kind::Hello, Kind::Lead, Kind::Words, Kind::Done];
    let kind = kinds.into_iter().find(|kind| *kind as u8 == head[4])?;
    if head[..4] != MARK || number(9) > MESSAGE {
        return None;
    }
    let mut bytes = vec![0; number(9)];
    stream.read_exact(&mut bytes).ok()?;
    Some((kind, number(5), bytes))
}

impl Hub {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells everyone who is connected, but `not`.
    fn tell(&self, state: &mut State, kind: Kind, from: usize, bytes: &[u8], not: usize) {
        for (rank, stream) in state.streams.iter_mut().enumerate() {
            if let Some(stream) = stream.as_mut().filter(|_| rank != not) {
                // Whoever is gone is seen to be gone where its words are waited for.
                let _ = send(stream, kind, from, bytes);
            }
        }
    }

    /// Takes what comes from a rank until it has ended; rank 0 passes on what is said.
    fn listen(&self, rank: usize, mut stream: TcpStream) {
        loop {
            let message = receive(&mut stream);
            let mut state = self.state();
            let (from, words) = match message {
                Some((Kind::Lead, _, bytes)) => {
                    state.lead = Some(bytes);
                    self.changed.notify_all();
                    continue;
                }
                Some((Kind::Words, from, bytes)) => (from, String::from_utf8_lossy(&bytes).into_owned()),
                Some((Kind::Done | Kind::Hello, ..)) => {
                    state.done[rank] = true;
                    return self.changed.notify_all();
                }
                None if state.closed || state.done[rank] => return,
                None => {
                    (state.done[rank], state.streams[rank]) = (true, None);
                    (rank, BROKE_OFF.to_owned())
                }
            };
            self.tell(&mut state, Kind::Words, from, words.as_bytes(), rank);
            state.heard.push_back((from, words));
            self.changed.notify_all();
            if state.done[rank] {
                return;
            }
        }
    }

    /// Lets ranks in until all are there.
    fn admit(self: Arc<Hub>, listener: &TcpListener, job: &str) {
        loop {
            let state = self.state();
            if state.closed || state.streams.iter().skip(1).all(Option::is_some) {
                return;
            }
            drop(state);
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(AGAIN);
                continue;
            };
            let greeted = stream.set_nonblocking(false).and_then(|()| stream.set_read_timeout(Some(GREETING)));
            let hello = greeted.ok().and_then(|()| receive(&mut stream));
            let Some((Kind::Hello, rank, bytes)) = hello else { continue };
            let mut state = self.state();
            let known = bytes == job.as_bytes() && state.streams.get(rank).is_some_and(|s| rank > 0 && s.is_none());
            let ready =
                stream.set_read_timeout(None).and_then(|()| stream.set_nodelay(true)).and_then(|()| stream.try_clone());
            let Some(read) = ready.ok().filter(|_| known) else { continue };
            state.streams[rank] = Some(stream);
            drop(state);
            self.changed.notify_all();
            let hub = Arc::clone(&self);
            std::thread::spawn(move || hub.listen(rank, read));
        }
    }
}

/// Rank 0's port, the job's name, and the file that tells others where it is.
fn open(meeting: &Meeting) -> Result<(TcpListener, String, Option<Notice>), String> {
    let listen = |listener: std::io::Result<TcpListener>| {
        listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener))
    };
    match &meeting.place {
        Place::Port { host, port } => {
            // Where the name is that of a balancer or a service, it is none of this machine's.
            let bound = TcpListener::bind((host.as_str(), *port))
                .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)));
            let listener = listen(bound).map_err(|e| {
                format!("rank 0 cannot open port {port}, where ranks meet: {e}; set MASTER_PORT to a free one")
            })?;
            Ok((listener, meeting.job.clone(), None))
        }
        Place::File(path) => {
            let bound = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0))
                .or_else(|_| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)));
            let listener = listen(bound).map_err(|e| format!("rank 0 cannot open a port, where ranks meet: {e}"))?;
            let written = listener.local_addr().and_then(|at| Notice::write(path, &meeting.machine, at.port()));
            let (notice, job) = written.map_err(|e| {
                format!(
                    "rank 0 cannot write {}, where others find it: {e}; look at PROSPECT_INIT_METHOD",
                    path.display()
                )
            })?;
            Ok((listener, job, Some(notice)))
        }
    }
}

/// A connection to rank 0, and the job's name.
fn reach(meeting: &Meeting) -> std::io::Result<(TcpStream, String)> {
    let (hosts, port, job) = match &meeting.place {
        Place::Port { host, port } => (vec![host.clone()], *port, meeting.job.clone()),
        Place::File(path) => read(path)?,
    };
    let addresses = hosts.iter().filter_map(|host| (host.as_str(), port).to_socket_addrs().ok()).flatten();
    TcpStream::connect(&*addresses.collect::<Vec<_>>()).map(|stream| (stream, job))
}

impl Rendezvous {
    /// Meets the others: rank 0 opens the port, the others come there until the deadline.
    ///
    /// Errors: the port cannot be opened, or rank 0 does not answer.
    pub fn join(meeting: &Meeting, until: Instant) -> Result<Rendezvous, Error> {
        let Meeting { place, rank: (rank, size), .. } = meeting;
        let failed = |what: String| Error::Launch { what };
        let hub = Arc::new(Hub::default());
        {
            let mut state = hub.state();
            state.streams.resize_with(*size, || None);
            state.done.resize(*size, false);
        }
        let mut notice = None;
        if *rank == 0 {
            let (listener, job, written) = open(meeting).map_err(failed)?;
            notice = written;
            let hub = Arc::clone(&hub);
            std::thread::spawn(move || hub.admit(&listener, &job));
        } else {
            let (mut stream, job) = loop {
                match reach(meeting) {
                    Ok(found) => break found,
                    Err(e) if Instant::now() >= until => {
                        let what = format!(
                            "rank {rank} of {size} cannot reach rank 0 at {place}: {e}; look at rank 0's output, and at MASTER_ADDR and MASTER_PORT or PROSPECT_INIT_METHOD"
                        );
                        return Err(failed(what));
                    }
                    Err(_) => std::thread::sleep(AGAIN),
                }
            };
            let greeted = stream.set_nodelay(true).and_then(|()| send(&mut stream, Kind::Hello, *rank, job.as_bytes()));
            let read = greeted.and_then(|()| stream.try_clone());
            let read = read.map_err(|e| failed(format!("rank {rank} of {size} lost rank 0 at {place}: {e}")))?;
            hub.state().streams[0] = Some(stream);
            let hub = Arc::clone(&hub);
            std::thread::spawn(move || hub.listen(0, read));
        }
        Ok(Rendezvous { meeting: meeting.clone(), hub, _notice: notice })
    }

    /// Waits until something holds of the state, or the deadline.
    fn wait<'s>(&'s self, until: Instant, holds: impl Fn(&State) -> bool) -> MutexGuard<'s, State> {
        let mut state = self.hub.state();
        while !holds(&state) && Instant::now() < until {
            let left = until.saturating_duration_since(Instant::now());
            state = self.hub.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        state
    }
}

impl Channel for Rendezvous {
    fn rank(&self) -> usize {
        self.meeting.rank.0
    }

    fn size(&self) -> usize {
        self.meeting.rank.1
    }

    fn host(&self) -> String {
        self.meeting.machine.clone()
    }

    fn lead_says(&self, own: &[u8], until: Instant) -> Result<Vec<u8>, Stuck> {
        let over = |state: &State| !state.heard.is_empty() || state.done.iter().any(|done| *done);
        if self.rank() == 0 {
            let here = |state: &State| state.streams.iter().skip(1).all(Option::is_some);
            let mut state = self.wait(until, |state| here(state) || over(state));
            let missing = (1..self.size()).filter(|rank| state.streams[*rank].is_none()).collect::<Vec<_>>();
            if !missing.is_empty() {
                return Err(Stuck::Missing(missing));
            }
            self.hub.tell(&mut state, Kind::Lead, 0, own, 0);
            return Ok(own.to_vec());
        }
        let mut state = self.wait(until, |state| state.lead.is_some() || over(state));
        match (state.lead.take(), state.heard.front()) {
            (Some(lead), _) => Ok(lead),
            (None, Some((rank, why))) => Err(Stuck::Left { rank: *rank, why: why.clone() }),
            (None, None) => Err(Stuck::Missing(vec![0])),
        }
    }

    fn say(&self, words: &str, patience: Duration) {
        let mut state = self.hub.state();
        let of =
            |stream: &Option<TcpStream>| stream.as_ref().is_none_or(|s| s.set_write_timeout(Some(patience)).is_ok());
        if state.streams.iter().all(of) {
            self.hub.tell(&mut state, Kind::Words, self.rank(), words.as_bytes(), self.rank());
        }
    }

    fn hear(&self) -> Option<(usize, String)> {
        self.hub.state().heard.pop_front()
    }
}

impl Drop for Rendezvous {
    fn drop(&mut self) {
        let mut state = self.hub.state();
        state.closed = true;
        self.hub.tell(&mut state, Kind::Done, self.rank(), &[], self.rank());
        for stream in state.streams.iter().flatten() {
            // The other side reads what is on its way first.
            let _ = stream.shutdown(Shutdown::Write);
        }
    }
}
