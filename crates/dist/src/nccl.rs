//! NCCL, found when it is asked for: bytes go from GPU to GPU, over NVLink or the network that it finds.
//!
//! Its sums are not used, as MPI's are not: what is exchanged is sent and received in one group of messages between pairs of ranks. Nothing
//! is waited for without a deadline: the communicator is made not to block, and is asked how it goes. Who is missing NCCL does
//! not know; that is said over the [`Channel`] which brought its id.

mod api;

use crate::channel::{conclude, given_up, not_met};
use crate::{Channel, Comm, Error, Stuck};
use api::{Api, IN_PROGRESS};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How a GPU and NCCL are found.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The GPU's number.
    pub device: usize,
    /// Folders in which NCCL and the driver may lie, beside where the system finds libraries.
    pub folders: Vec<PathBuf>,
}

/// NCCL, the driver and a GPU, found.
pub struct Found(Api);

impl Found {
    /// Looks for them.
    ///
    /// Errors: what is not there or too old, and what to do.
    pub fn open(options: &Options) -> Result<Found, Error> {
        Api::open(options).map(Found).map_err(|what| Error::Launch { what })
    }
}

/// This process as a rank of a communicator of NCCL.
pub struct Nccl {
    api: Api,
    channel: Box<dyn Channel>,
    communicator: usize,
    stream: usize,
    /// Set for good when an exchange fails: the communicator is gone then.
    dead: AtomicBool,
    room: Mutex<Room>,
}

/// Device memory that messages lie in.
#[derive(Default)]
struct Room {
    address: u64,
    bytes: usize,
}

/// Messages begin at multiples of so many bytes.
const ALIGNED: usize = 256;
/// After so many questions how it goes, a rank sleeps between them.
const EAGER: u32 = 4000;
/// How long.
const NAP: Duration = Duration::from_micros(100);
/// How long last words may take.
const GRACE: Duration = Duration::from_millis(1500);

/// Where a message lies.
struct Placed {
    peer: usize,
    at: usize,
    len: usize,
}

/// Places for messages that are not to the own rank, behind `first`; and where they end.
fn placed(lens: impl Iterator<Item = usize>, own: usize, first: usize) -> (Vec<Placed>, usize) {
    let mut next = first;
    let place = |(peer, len): (usize, usize)| {
        let at = next;
        next = (at + len).next_multiple_of(ALIGNED);
        Placed { peer, at, len }
    };
    let all = lens.enumerate().filter(|(peer, len)| *peer != own && *len > 0).map(place).collect();
    (all, next)
}

impl Nccl {
    /// Makes this process a rank of a communicator whose id rank 0 tells the others over `channel`. All ranks make this call.
    ///
    /// Errors: ranks that do not come until the deadline, or NCCL's own.
    pub fn join(Found(api): Found, channel: Box<dyn Channel>, until: Instant) -> Result<Nccl, Error> {
        let failed = |what: String| Error::Launch { what };
        let id = if channel.rank() == 0 { api.unique_id() } else { Ok([0; 128]) };
        let join = |id: [u8; 128]| {
            let id = channel.lead_says(&id, until).map_err(|stuck| not_met(&*channel, stuck))?;
            let id: [u8; 128] =
                id.try_into().map_err(|_| failed("rank 0 sent something else than NCCL's id".to_owned()))?;
            let stream = api.stream().map_err(failed)?;
            Ok((stream, api.join(channel.size(), channel.rank(), &id).map_err(failed)?))
        };
        let joined = id.map_err(failed).and_then(join).inspect_err(|e| {
            channel.say(&e.to_string(), GRACE);
            channel.end();
        });
        let (stream, communicator) = joined?;
        let nccl = Nccl { api, channel, communicator, stream, dead: AtomicBool::new(false), room: Mutex::default() };
        let others = (0..nccl.channel.size()).filter(|rank| *rank != nccl.channel.rank());
        let come = nccl.wait(until, others.collect(), || Ok(true));
        come.inspect_err(|_| nccl.abandon()).map_err(|stuck| not_met(&*nccl.channel, stuck))?;
        Ok(nccl)
    }

    /// Name of the GPU's library and NCCL's version.
    pub fn version(&self) -> String {
        self.api.version.clone()
    }

    fn left(&self, why: String) -> Stuck {
        Stuck::Left { rank: self.channel.rank(), why }
    }

    /// Waits until the communicator has done what it was asked for and `done` holds, someone leaves, or time is up. `peers` are those
    /// who are waited for.
    fn wait(
        &self,
        until: Instant,
        peers: BTreeSet<usize>,
        done: impl Fn() -> Result<bool, String>,
    ) -> Result<(), Stuck> {
        let mut rounds = 0u32;
        loop {
            match self.api.state(self.communicator) {
                Ok(IN_PROGRESS) => {}
                Ok(_) if done().map_err(|why| self.left(why))? => return Ok(()),
                Ok(_) => {}
                // A connection of NCCL's own broke: who is behind it has said so, or says nothing.
                Err(_) => return Err(conclude(&*self.channel, peers, None)),
            }
            if let Some(stuck) = given_up(&*self.channel, until, || peers.clone()) {
                return Err(stuck);
            }
            rounds = rounds.saturating_add(1);
            match rounds {
                0..EAGER => std::thread::yield_now(),
                _ => std::thread::sleep(NAP),
            }
        }
    }

    /// Ends the communicator with all that is under way.
    fn abandon(&self) {
        if !self.dead.swap(true, Ordering::SeqCst) {
            self.api.abort(self.communicator);
            self.channel.end();
        }
    }

    /// Device memory for so many bytes.
    fn room(&self, bytes: usize) -> Result<u64, String> {
        let mut room = self.room.lock().unwrap_or_else(PoisonError::into_inner);
        if room.bytes < bytes {
            if room.bytes > 0 {
                self.api.free(room.address);
            }
            *room = Room::default();
            *room = Room { address: self.api.alloc(bytes)?, bytes };
        }
        Ok(room.address)
    }

    /// Sends and receives all messages in one group.
    fn post(&self, base: u64, out: &[Placed], into: &[Placed], send: &[&[u8]]) -> Result<(), String> {
        for message in out {
            self.api.copy_in(send[message.peer], base + message.at as u64)?;
        }
        self.api.group(|| {
            for Placed { peer, at, len } in into {
                self.api.receive(base + *at as u64, *len, *peer, (self.communicator, self.stream))?;
            }
            for Placed { peer, at, len } in out {
                self.api.send(base + *at as u64, *len, *peer, (self.communicator, self.stream))?;
            }
            Ok(())
        })
    }
}

impl Comm for Nccl {
    fn rank(&self) -> usize {
        self.channel.rank()
    }

    fn size(&self) -> usize {
        self.channel.size()
    }

    fn host(&self) -> String {
        self.channel.host()
    }

    fn exchange(&self, send: &[&[u8]], receive: &mut [&mut [u8]], until: Instant) -> Result<(), Stuck> {
        assert!(!self.dead.load(Ordering::SeqCst), "an exchange after one that failed");
        let own = self.rank();
        receive[own].copy_from_slice(send[own]);
        let (out, end) = placed(send.iter().map(|part| part.len()), own, 0);
        let (into, end) = placed(receive.iter().map(|part| part.len()), own, end);
        if end == 0 {
            return Ok(());
        }
        let peers = out.iter().chain(&into).map(|message| message.peer).collect();
        let work = || {
            // The lane's thread comes here as well as the run's own.
            let base = self.api.enter().and_then(|()| self.room(end)).map_err(|why| self.left(why))?;
            self.post(base, &out, &into, send).map_err(|why| self.left(why))?;
            self.wait(until, peers, || self.api.is_through(self.stream))?;
            for Placed { peer, at, .. } in &into {
                self.api.copy_out(base + *at as u64, receive[*peer]).map_err(|why| self.left(why))?;
            }
            Ok(())
        };
        work().inspect_err(|_| self.abandon())
    }

    fn leave(&self, why: &str) {
        if !self.dead.load(Ordering::SeqCst) {
            self.channel.say(why, GRACE);
            self.abandon();
        }
    }
}

impl Drop for Nccl {
    fn drop(&mut self) {
        if self.dead.load(Ordering::SeqCst) {
            return;
        }
        // What is under way has come to its end on this rank, and on the others when they come here.
        let _ = self.api.enter();
        self.api.finish(self.communicator, Instant::now() + GRACE);
        let room = self.room.get_mut().unwrap_or_else(PoisonError::into_inner);
        if room.bytes > 0 {
            self.api.free(room.address);
        }
    }
}
