//! MPI, linked when built: point-to-point messages that are never waited for without a deadline.
//!
//! MPI's own collectives would not say who is missing, and sum in an order of their own; so only `MPI_Isend` and `MPI_Irecv` are used,
//! all posted at once, and asked after until the deadline. `mpi/shim.c` gives them plain arguments.

use crate::channel::{given_up, not_met};
use crate::{Channel, Comm, Error, Stuck};
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

unsafe extern "C" {
    fn prospect_mpi_start(rank: *mut c_int, size: *mut c_int) -> c_int;
    fn prospect_mpi_host(name: *mut c_char, room: c_int) -> c_int;
    fn prospect_mpi_send(bytes: *const c_void, len: c_int, to: c_int, tag: c_int) -> *mut c_void;
    fn prospect_mpi_receive(bytes: *mut c_void, len: c_int, from: c_int, tag: c_int) -> *mut c_void;
    fn prospect_mpi_test(request: *mut c_void) -> c_int;
    fn prospect_mpi_take(tag: c_int, bytes: *mut c_void, len: c_int) -> c_int;
    fn prospect_mpi_end();
}

/// Bytes of a message at most: MPI counts in 32 bits.
const MESSAGE: usize = 1 << 30;
/// Tag of the last words of a rank; those of exchanges are below.
const FAREWELL: c_int = 32_767;
/// Bytes of last words: so few that MPI sends them without asking the receiver.
const LAST_WORDS: usize = 512;
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
    request: *mut c_void,
}

impl Mpi {
    /// Starts MPI. Once per process; dropped on the same thread, used by one thread at a time.
    ///
    /// Errors: MPI does not start, or allows one thread only.
    pub fn start() -> Result<Mpi, Error> {
        let (mut rank, mut size): (c_int, c_int) = (0, 0);
        // SAFETY: both point at locals.
        let failed = unsafe { prospect_mpi_start(&mut rank, &mut size) };
        if failed != 0 {
            let what = format!("MPI does not start (call {failed} of its beginning failed); see what it said above");
            return Err(Error::Launch { what });
        }
        let (dead, exchanges) = (AtomicBool::new(false), AtomicU32::new(0));
        Ok(Mpi { rank: rank as usize, size: size as usize, dead, exchanges })
    }

    /// Posts what is to be received from a rank; `false` if MPI refuses.
    fn post_receive(&self, from: usize, tag: c_int, part: &mut [u8], pending: &mut Vec<Pending>) -> bool {
        part.chunks_mut(MESSAGE).all(|chunk| {
            let len = chunk.len() as c_int;
            // SAFETY: the buffer lives until `exchange` returns; if it returns before the message is whole, MPI is not called
            // again (`dead`), so nothing is written later.
            let request = unsafe { prospect_mpi_receive(chunk.as_mut_ptr().cast(), len, from as c_int, tag) };
            pending.push(Pending { peer: from, request });
            !request.is_null()
        })
    }

    /// Posts what is to be sent to a rank; `false` if MPI refuses.
    fn post_send(&self, to: usize, tag: c_int, part: &[u8], pending: &mut Vec<Pending>) -> bool {
        part.chunks(MESSAGE).all(|chunk| {
            // SAFETY: as for receiving; a buffer that is sent is only read.
            let request = unsafe { prospect_mpi_send(chunk.as_ptr().cast(), chunk.len() as c_int, to as c_int, tag) };
            pending.push(Pending { peer: to, request });
            !request.is_null()
        })
    }

    /// Asks after every message under way and lets go of those that are through; who failed, if anyone did.
    fn test(pending: &mut Vec<Pending>) -> Option<usize> {
        let mut failed = None;
        pending.retain(|p| {
            // SAFETY: the request came from the shim, is not null and not done yet.
            match unsafe { prospect_mpi_test(p.request) } {
                0 => true,
                1 => false,
                _ => {
                    failed = Some(p.peer);
                    true
                }
            }
        });
        failed
    }

    /// Waits until everything is through, someone leaves, or time is up.
    fn wait(&self, mut pending: Vec<Pending>, until: Instant) -> Result<(), Stuck> {
        let mut rounds = 0u32;
        loop {
            if let Some(peer) = Mpi::test(&mut pending) {
                return Err(Stuck::Missing(vec![peer]));
            }
            if pending.is_empty() {
                return Ok(());
            }
            rounds = rounds.saturating_add(1);
            if rounds.is_multiple_of(16) {
                // Buffers of messages under way are still in place here.
                if let Some(stuck) = given_up(self, until, || pending.iter().map(|p| p.peer).collect()) {
                    return Err(stuck);
                }
            }
            // Ranks may outnumber processors.
            match rounds {
                0..4000 => std::thread::yield_now(),
                _ => std::thread::sleep(Duration::from_micros(100)),
            }
        }
    }
}

impl Channel for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn host(&self) -> String {
        let mut name = [0u8; 256];
        // SAFETY: the shim writes no more than there is room for.
        let len = unsafe { prospect_mpi_host(name.as_mut_ptr().cast(), name.len() as c_int) };
        String::from_utf8_lossy(&name[..len as usize]).into_owned()
    }

    fn lead_says(&self, own: &[u8], until: Instant) -> Result<Vec<u8>, Stuck> {
        let leads = self.rank == 0;
        let take = |mut bytes: Vec<u8>| {
            let own = if leads { bytes.clone() } else { Vec::new() };
            let mut receive: Vec<&mut [u8]> = (0..self.size).map(|_| &mut [][..]).collect();
            receive[0] = &mut bytes;
            self.exchange(&vec![&own[..]; self.size], &mut receive, until)?;
            Ok(bytes)
        };
        let len = take((own.len() as u64).to_le_bytes().to_vec())?;
        let len = u64::from_le_bytes(len.try_into().unwrap_or_default()) as usize;
        take(if leads { own.to_vec() } else { vec![0; len] })
    }

    fn say(&self, words: &str, patience: Duration) {
        let mut text = words.as_bytes()[..words.len().min(LAST_WORDS - 1)].to_vec();
        text.resize(LAST_WORDS, 0);
        let mut pending = Vec::new();
        for to in (0..self.size).filter(|r| *r != self.rank) {
            self.post_send(to, FAREWELL, &text, &mut pending);
        }
        pending.retain(|p| !p.request.is_null());
        let until = Instant::now() + patience;
        while !pending.is_empty() && Instant::now() < until && Mpi::test(&mut pending).is_none() {
            std::thread::yield_now();
        }
        // What nobody took is still being sent: its bytes have to stay.
        if !pending.is_empty() {
            std::mem::forget(text);
        }
    }

    fn hear(&self) -> Option<(usize, String)> {
        let mut text = [0u8; LAST_WORDS];
        // SAFETY: every farewell has this length.
        let from = unsafe { prospect_mpi_take(FAREWELL, text.as_mut_ptr().cast(), LAST_WORDS as c_int) };
        let rank = usize::try_from(from).ok()?;
        let end = text.iter().position(|b| *b == 0).unwrap_or(LAST_WORDS);
        Some((rank, String::from_utf8_lossy(&text[..end]).into_owned()))
    }

    fn end(&self) {
        self.dead.store(true, Ordering::SeqCst);
    }
}

impl Mpi {
    /// Whether all ranks say yes. All make this call.
    ///
    /// Errors: a rank does not come until the deadline.
    pub fn all(&self, own: bool, until: Instant) -> Result<bool, Error> {
        let mut said = vec![[0u8]; self.size];
        let mut receive: Vec<&mut [u8]> = said.iter_mut().map(|s| &mut s[..]).collect();
        let done = self.exchange(&vec![&[u8::from(own)][..]; self.size], &mut receive, until);
        done.map_err(|stuck| not_met(self, stuck))?;
        Ok(said.iter().all(|s| s[0] == 1))
    }
}

impl Comm for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn host(&self) -> String {
        Channel::host(self)
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
            self.say(why, GRACE);
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
            unsafe { prospect_mpi_end() };
        }
    }
}
