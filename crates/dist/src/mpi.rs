//! MPI, linked when built: point-to-point messages that are never waited for without a deadline.
//!
//! Open MPI's and MPICH's own collectives would not say who is missing, and sum in an order of their own; so only
//! `MPI_Isend` and `MPI_Irecv` are used, all posted at once, and asked after until the deadline.

use crate::{Comm, Error, Stuck};
use mpi_sys as ffi;
use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Bytes of a message at most: MPI counts in 32 bits.
const MESSAGE: usize = 1 << 30;
/// Tag of the last words of a rank; those of exchanges are below.
const FAREWELL: c_int = 32_767;
/// How long last words may take, and how long the others get to read them before MPI's launcher ends them.
const GRACE: Duration = Duration::from_millis(1500);

/// This process as a rank of `MPI_COMM_WORLD`.
pub struct Mpi {
    rank: usize,
    size: usize,
    /// Set for good when an exchange fails: messages under way may then still point at memory that is gone, so nothing of MPI
    /// is called again, and without a call nothing moves.
    dead: AtomicBool,
    exchanges: AtomicU32,
}

/// A message under way, and with whom.
struct Pending {
    peer: usize,
    request: ffi::MPI_Request,
}

impl Mpi {
    /// Starts MPI. Once per process; dropped on the same thread, used by one thread at a time.
    ///
    /// Errors: MPI does not start.
    pub fn start() -> Result<Mpi, Error> {
        let (mut provided, mut rank, mut size): (c_int, c_int, c_int) = (0, 0, 0);
        // SAFETY: null arguments are allowed since MPI-2; the rest point at locals. Communicators are constants of MPI.
        let failed = unsafe {
            ffi::MPI_Init_thread(
                std::ptr::null_mut(),
                std::ptr::null_mut(),
                ffi::RSMPI_THREAD_SERIALIZED,
                &mut provided,
            ) + ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN)
                + ffi::MPI_Comm_rank(ffi::RSMPI_COMM_WORLD, &mut rank)
                + ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &mut size)
        };
        // SAFETY: a constant of MPI.
        if failed != 0 || provided < unsafe { ffi::RSMPI_THREAD_SERIALIZED } {
            return Err(Error::Launch { what: "MPI does not start; see what it said above".to_owned() });
        }
        Ok(Mpi { rank: rank as usize, size: size as usize, dead: AtomicBool::new(false), exchanges: AtomicU32::new(0) })
    }

    fn post_receive(&self, from: usize, tag: c_int, part: &mut [u8], pending: &mut Vec<Pending>) -> bool {
        part.chunks_mut(MESSAGE).all(|chunk| {
            let mut request = MaybeUninit::uninit();
            // SAFETY: the buffer lives until `exchange` returns; if it returns before the message is whole, MPI is not called
            // again (`dead`), so nothing is written later.
            let code = unsafe {
                ffi::MPI_Irecv(
                    chunk.as_mut_ptr().cast(),
                    chunk.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    from as c_int,
                    tag,
                    ffi::RSMPI_COMM_WORLD,
                    request.as_mut_ptr(),
                )
            };
            // SAFETY: MPI sets the request unless it failed.
            pending.extend((code == 0).then(|| Pending { peer: from, request: unsafe { request.assume_init() } }));
            code == 0
        })
    }

    fn post_send(&self, to: usize, tag: c_int, part: &[u8], pending: &mut Vec<Pending>) -> bool {
        part.chunks(MESSAGE).all(|chunk| {
            let mut request = MaybeUninit::uninit();
            // SAFETY: as for receiving; a buffer that is sent is only read.
            let code = unsafe {
                ffi::MPI_Isend(
                    chunk.as_ptr().cast(),
                    chunk.len() as c_int,
                    ffi::RSMPI_UINT8_T,
                    to as c_int,
                    tag,
                    ffi::RSMPI_COMM_WORLD,
                    request.as_mut_ptr(),
                )
            };
            // SAFETY: MPI sets the request unless it failed.
            pending.extend((code == 0).then(|| Pending { peer: to, request: unsafe { request.assume_init() } }));
            code == 0
        })
    }

    /// Waits until everything is through, someone leaves, or time is up.
    fn wait(&self, mut pending: Vec<Pending>, until: Instant) -> Result<(), Stuck> {
        let mut rounds = 0u32;
        loop {
            let mut broken = None;
            pending.retain_mut(|p| {
                let mut done: c_int = 0;
                // SAFETY: the request came from MPI and is open; statuses may be ignored.
                let code = unsafe { ffi::MPI_Test(&mut p.request, &mut done, ffi::RSMPI_STATUS_IGNORE) };
                if code != 0 {
                    broken = Some(p.peer);
                }
                done == 0
            });
            if let Some(peer) = broken {
                return Err(Stuck::Missing(vec![peer]));
            }
            if pending.is_empty() {
                return Ok(());
            }
            rounds = rounds.saturating_add(1);
            if rounds.is_multiple_of(16) {
                if let Some(stuck) = self.last_words() {
                    return Err(stuck);
                }
                if Instant::now() >= until {
                    let mut missing: Vec<usize> = pending.iter().map(|p| p.peer).collect();
                    missing.sort_unstable();
                    missing.dedup();
                    // Whoever waits for this rank later is told for whom it has waited; buffers are still in place here.
                    let names: Vec<String> = missing.iter().map(usize::to_string).collect();
                    self.say(&format!("{IN_VAIN}{}", names.join(",")));
                    return Err(Stuck::Missing(missing));
                }
            }
            // Ranks may outnumber processors.
            match rounds {
                0..4000 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }

    /// What a rank said when it left, if one did.
    fn last_words(&self) -> Option<Stuck> {
        let (mut there, mut status): (c_int, _) = (0, MaybeUninit::<ffi::MPI_Status>::zeroed());
        // SAFETY: the flag and the status are locals; MPI fills the status where there is a message.
        unsafe {
            ffi::MPI_Iprobe(ffi::RSMPI_ANY_SOURCE, FAREWELL, ffi::RSMPI_COMM_WORLD, &mut there, status.as_mut_ptr());
        }
        if there == 0 {
            return None;
        }
        // SAFETY: filled above; plain integers, valid at zero.
        let from = unsafe { status.assume_init() }.MPI_SOURCE;
        let mut text = [0u8; LAST_WORDS];
        // SAFETY: every farewell has this length; a message is there, so this returns.
        unsafe {
            ffi::MPI_Recv(
                text.as_mut_ptr().cast(),
                LAST_WORDS as c_int,
                ffi::RSMPI_UINT8_T,
                from,
                FAREWELL,
                ffi::RSMPI_COMM_WORLD,
                ffi::RSMPI_STATUS_IGNORE,
            );
        }
        let end = text.iter().position(|b| *b == 0).unwrap_or(LAST_WORDS);
        let why = String::from_utf8_lossy(&text[..end]).into_owned();
        Some(match why.strip_prefix(IN_VAIN) {
            Some(names) => Stuck::Missing(names.split(',').filter_map(|n| n.parse().ok()).collect()),
            None => Stuck::Left { rank: from as usize, why },
        })
    }

    /// Sends last words to all others; does not wait for those who do not listen.
    fn say(&self, why: &str) {
        let mut text = why.as_bytes()[..why.len().min(LAST_WORDS - 1)].to_vec();
        text.resize(LAST_WORDS, 0);
        let mut pending = Vec::new();
        for to in (0..self.size).filter(|r| *r != self.rank) {
            self.post_send(to, FAREWELL, &text, &mut pending);
        }
        let until = Instant::now() + GRACE;
        while !pending.is_empty() && Instant::now() < until {
            pending.retain_mut(|p| {
                let mut done: c_int = 0;
                // SAFETY: the request came from MPI and is open; the text outlives this loop, and what is left is never asked
                // after again.
                unsafe { ffi::MPI_Test(&mut p.request, &mut done, ffi::RSMPI_STATUS_IGNORE) };
                done == 0
            });
            std::thread::yield_now();
        }
    }
}

/// Begins the last words of a rank that waited in vain for those that follow.
const IN_VAIN: &str = "in vain:";

/// Bytes of last words: so few that MPI sends them without asking the receiver.
const LAST_WORDS: usize = 512;

impl Comm for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn host(&self) -> String {
        let mut name = vec![0u8; 1024];
        let mut len: c_int = 0;
        // SAFETY: MPI_MAX_PROCESSOR_NAME is 256 in Open MPI and 128 in MPICH.
        unsafe { ffi::MPI_Get_processor_name(name.as_mut_ptr().cast(), &mut len) };
        name.truncate(len as usize);
        String::from_utf8_lossy(&name).into_owned()
    }

    fn exchange(&self, send: &[&[u8]], receive: &mut [&mut [u8]], until: Instant) -> Result<(), Stuck> {
        assert!(!self.dead.load(Ordering::SeqCst), "an exchange after one that failed");
        let tag = (self.exchanges.fetch_add(1, Ordering::SeqCst) % 16_384) as c_int;
        let mut pending = Vec::new();
        let mut result = Ok(());
        // Beginning with the next rank, so that not all send to rank 0 first.
        let peers = || (1..self.size).map(|i| (self.rank + i) % self.size);
        for from in peers() {
            if !self.post_receive(from, tag, receive[from], &mut pending) {
                result = Err(Stuck::Missing(vec![from]));
            }
        }
        for to in peers() {
            if !self.post_send(to, tag, send[to], &mut pending) {
                result = Err(Stuck::Missing(vec![to]));
            }
        }
        receive[self.rank].copy_from_slice(send[self.rank]);
        let result = result.and_then(|()| self.wait(pending, until));
        self.dead.store(result.is_err(), Ordering::SeqCst);
        result
    }

    fn leave(&self, why: &str) {
        if !self.dead.swap(true, Ordering::SeqCst) {
            self.say(why);
        }
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if self.dead.load(Ordering::SeqCst) {
            // The launcher ends all ranks as soon as one goes without `MPI_Finalize`: the others get time to say why they end.
            std::thread::sleep(GRACE);
        } else {
            // SAFETY: started once, ended once, nothing under way.
            unsafe { ffi::MPI_Finalize() };
        }
    }
}
