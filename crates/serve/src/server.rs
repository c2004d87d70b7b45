//! The server: who may connect, and how it ends.

use crate::Refusal;
use crate::connection;
use crate::worker::{Queue, work};
use infer::{Defaults, Limits, ModelFolder, Placed};
use std::collections::HashMap;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Bytes of a connection thread's stack.
const STACK: usize = 512 << 10;
/// What a connection too many may cost those that wait to be let in.
const BRIEFLY: Duration = Duration::from_millis(50);

/// How a server serves.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The name under which the model is served.
    pub name: String,
    /// The key that clients must know.
    pub api_key: Option<String>,
    /// What holds where a request does not say.
    pub defaults: Defaults,
    /// Unfinished answers at most; further requests are told to come again.
    pub queue: usize,
    /// Connections at most.
    pub connections: usize,
    /// Bytes of a body at most.
    pub body_bytes: usize,
    /// Bounds of memory and of a step.
    pub limits: Limits,
}

/// Ends a server from elsewhere: answers under way are finished, nothing new is taken.
#[derive(Clone)]
pub struct Stop {
    set: Arc<AtomicBool>,
    address: SocketAddr,
}

impl Stop {
    /// Ends it.
    pub fn stop(&self) {
        if !self.set.swap(true, Ordering::SeqCst) {
            // Wakes the thread that waits for connections; when that fails it is awake or gone.
            let _ = TcpStream::connect(self.address);
        }
    }

    /// Whether it is ending.
    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }
}

/// A server that listens.
pub struct Server {
    listener: TcpListener,
    settings: Settings,
    stop: Stop,
}

/// What all connections see.
pub(crate) struct Shared<'a> {
    pub(crate) settings: &'a Settings,
    pub(crate) folder: &'a ModelFolder,
    pub(crate) queue: &'a Queue,
    pub(crate) stop: &'a Stop,
    /// Seconds since 1970.
    pub(crate) began: u64,
    pub(crate) requests: AtomicU64,
}

impl Shared<'_> {
    /// Tokens of a prompt and its answer.
    pub(crate) fn room(&self) -> usize {
        self.settings.limits.positions.min(self.settings.limits.cache_rows)
    }
}

impl Server {
    /// Takes an address, as in `127.0.0.1:8000`.
    ///
    /// # Errors
    /// An address that cannot be taken.
    pub fn bind(address: &str, settings: Settings) -> std::io::Result<Server> {
        let listener = TcpListener::bind(address)?;
        let mut own = listener.local_addr()?;
        if own.ip().is_unspecified() {
            own.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        Ok(Server { listener, settings, stop: Stop { set: Arc::default(), address: own } })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.stop.address
    }

    /// What ends it.
    pub fn stop(&self) -> Stop {
        self.stop.clone()
    }

    /// Serves until it is stopped, then until every answer that was begun is finished.
    ///
    /// # Errors
    /// A model whose stop tokens cannot be read; no threads; a GPU that fails, after which nothing is answered any more.
    pub fn run(&self, folder: &ModelFolder, model: &Placed) -> Result<(), infer::Error> {
        let stop_tokens = folder.stop_tokens()?;
        let queue = Queue::new(self.settings.queue);
        let began = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let requests = AtomicU64::new(0);
        let shared = Shared { settings: &self.settings, folder, queue: &queue, stop: &self.stop, began, requests };
        let open: Mutex<HashMap<usize, Arc<TcpStream>>> = Mutex::default();
        let count = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            let worker = scope.spawn(|| {
                let worked = work(model, self.settings.limits, &stop_tokens, &queue);
                worked.inspect_err(|_| self.stop.stop())
            });
            for number in 0.. {
                let accepted = self.listener.accept();
                if self.stop.is_set() {
                    break;
                }
                // A connection that failed on its way in; or no descriptors for now, which ends when another one does.
                let Ok((stream, _)) = accepted else {
                    std::thread::yield_now();
                    continue;
                };
                if count.load(Ordering::SeqCst) >= self.settings.connections {
                    let refusal = Refusal::new(503, "too many connections; try again in a moment");
                    // A system without such timeouts is not one we know; the client sees at least that the connection ends.
                    if stream.set_write_timeout(Some(BRIEFLY)).is_ok() {
                        connection::refuse(&stream, &refusal, BRIEFLY);
                    }
                    continue;
                }
                let stream = Arc::new(stream);
                lock(&open).insert(number, Arc::clone(&stream));
                count.fetch_add(1, Ordering::SeqCst);
                let (shared, open, counted) = (&shared, &open, &count);
                let end = move || {
                    lock(open).remove(&number);
                    counted.fetch_sub(1, Ordering::SeqCst);
                };
                let thread = std::thread::Builder::new().stack_size(STACK);
                let started = thread.spawn_scoped(scope, move || {
                    connection::serve(&stream, shared);
                    end();
                });
                if started.is_err() {
                    lock(open).remove(&number);
                    count.fetch_sub(1, Ordering::SeqCst);
                }
            }
            queue.close();
            // Who waits for a next request hears that there will be none; who is being answered still is.
            lock(&open).values().for_each(|stream| drop(stream.shutdown(Shutdown::Read)));
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
