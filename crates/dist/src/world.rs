//! Collectives over any engine: sums in the order of the ranks, bytes and time counted, whoever is missing named.

mod lane;
mod probe;

use crate::shards::even;
use crate::{Comm, Error, Solo, Stuck};
use bytemuck::Pod;
pub use lane::Coming;
use lane::Lane;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What ranks do together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Collective {
    /// Everyone's sum, to everyone.
    AllReduce,
    /// Everyone's sum, a range to each.
    ReduceScatter,
    /// Everyone's part, to everyone.
    AllGather,
    /// One's bytes, to everyone.
    Broadcast,
    /// Nobody goes on before all are there.
    Barrier,
}

impl Collective {
    /// All of them.
    pub const ALL: [Collective; 5] = [
        Collective::AllReduce,
        Collective::ReduceScatter,
        Collective::AllGather,
        Collective::Broadcast,
        Collective::Barrier,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Collective::AllReduce => "all_reduce",
            Collective::ReduceScatter => "reduce_scatter",
            Collective::AllGather => "all_gather",
            Collective::Broadcast => "broadcast",
            Collective::Barrier => "barrier",
        }
    }
}

impl fmt::Display for Collective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What one collective has moved so far, on this rank.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Traffic {
    /// Calls.
    pub calls: u64,
    /// Bytes sent to other ranks.
    pub sent: u64,
    /// Bytes received from other ranks.
    pub received: u64,
    /// Time in it, waiting included.
    pub seconds: f64,
}

/// What all collectives have moved.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Meter([Traffic; Collective::ALL.len()]);

impl Meter {
    /// What `collective` has moved.
    pub fn of(&self, collective: Collective) -> Traffic {
        self.0[collective as usize]
    }

    /// All of it.
    pub fn total(&self) -> Traffic {
        self.0.iter().fold(Traffic::default(), |a, b| Traffic {
            calls: a.calls + b.calls,
            sent: a.sent + b.sent,
            received: a.received + b.received,
            seconds: a.seconds + b.seconds,
        })
    }
}

/// How long ranks wait for one another when nothing else is said.
pub const TIMEOUT: Duration = Duration::from_secs(60);

/// All ranks of a run, seen from one of them.
pub struct World {
    /// What goes on behind; `None`: this is seen from there. Ends before the engine does.
    lane: Option<Lane>,
    core: Arc<Core>,
}

/// The engine, and what is known of it.
struct Core {
    comm: Box<dyn Comm>,
    hosts: Vec<String>,
    state: Mutex<State>,
}

/// What changes as ranks talk.
struct State {
    timeout: Duration,
    step: u64,
    meter: Meter,
    failed: Option<Error>,
}

impl World {
    /// One rank, alone.
    pub fn solo() -> World {
        let hosts = vec![Solo.host()];
        World::with(Box::new(Solo), hosts, TIMEOUT)
    }

    /// The ranks of an engine. All of them make this call; they tell one another their hosts.
    ///
    /// Errors: a rank does not come.
    pub fn new(comm: Box<dyn Comm>, timeout: Duration) -> Result<World, Error> {
        let own = comm.host();
        let unknown = vec!["an unknown host".to_owned(); comm.size()];
        let mut world = World::with(comm, unknown, timeout);
        let hosts = world.gather(own.as_bytes())?;
        let core = Arc::get_mut(&mut world.core).expect("nothing goes on behind yet");
        core.hosts = hosts.iter().map(|h| String::from_utf8_lossy(h).into_owned()).collect();
        Ok(world)
    }

    fn with(comm: Box<dyn Comm>, hosts: Vec<String>, timeout: Duration) -> World {
        let state = Mutex::new(State { timeout, step: 0, meter: Meter::default(), failed: None });
        World { lane: Some(Lane::default()), core: Arc::new(Core { comm, hosts, state }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.core.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This rank, from 0.
    pub fn rank(&self) -> usize {
        self.core.comm.rank()
    }

    /// How many ranks there are.
    pub fn size(&self) -> usize {
        self.core.comm.size()
    }

    /// Whether this is rank 0, who writes and speaks for all.
    pub fn leads(&self) -> bool {
        self.rank() == 0
    }

    /// Machine of each rank.
    pub fn hosts(&self) -> &[String] {
        &self.core.hosts
    }

    /// Has something exchanged while this rank goes on with other work: all that is asked for so is done in the order in which it was
    /// asked for, and before whatever is exchanged directly after that. Every rank asks for the same in the same order.
    pub fn behind<T: Send + 'static>(&self, work: impl FnOnce(&World) -> T + Send + 'static) -> Coming<T> {
        match &self.lane {
            Some(lane) if self.size() > 1 => lane.push(&self.core, work),
            _ => Coming::here(work(self)),
        }
    }

    /// What was moved so far.
    pub fn meter(&self) -> Meter {
        self.state().meter
    }

    /// How long to wait for others from now on.
    pub fn set_timeout(&self, timeout: Duration) {
        self.state().timeout = timeout;
    }

    /// The step that is named when a rank does not come, from 1.
    pub fn set_step(&self, step: u64) {
        self.state().step = step;
    }

    /// The error that ended the talk, if one did: what could not report it at its place is asked here.
    pub fn failure(&self) -> Option<Error> {
        self.state().failed.clone()
    }

    /// Tells the others that this rank ends, unless the talk is over already.
    pub fn leave(&self, why: &str) {
        // One thread at a time speaks to the engine.
        self.lane.iter().for_each(Lane::wait);
        if self.size() > 1 && self.failure().is_none() {
            self.core.comm.leave(why);
        }
    }

    fn exchange(&self, what: Collective, send: &[&[u8]], receive: &mut [&mut [u8]]) -> Result<(), Error> {
        self.lane.iter().for_each(Lane::wait);
        if let Some(e) = self.failure() {
            return Err(e);
        }
        let begin = Instant::now();
        let until = begin + self.state().timeout;
        let result = self.core.comm.exchange(send, receive, until);
        let waited = begin.elapsed();
        let others = |parts: &mut dyn Iterator<Item = usize>| -> u64 {
            parts.enumerate().filter(|(r, _)| *r != self.rank()).map(|(_, n)| n as u64).sum()
        };
        let mut state = self.state();
        let traffic = &mut state.meter.0[what as usize];
        traffic.calls += 1;
        traffic.sent += others(&mut send.iter().map(|p| p.len()));
        traffic.received += others(&mut receive.iter().map(|p| p.len()));
        traffic.seconds += waited.as_secs_f64();
        result.map_err(|stuck| {
            let named = match &stuck {
                Stuck::Missing(ranks) => ranks.clone(),
                Stuck::Left { rank, .. } => vec![*rank],
            };
            let hosts = named.iter().map(|r| self.core.hosts[*r].clone()).collect();
            let (step, rank) = (state.step, (self.rank(), self.size()));
            let error = Error::Peer { stuck, hosts, step, collective: what, waited, rank };
            state.failed = Some(error.clone());
            error
        })
    }

    /// Gives range `ranges[i]` of `values` to rank `i` and receives everyone's values of the own range, in order of rank.
    pub fn scatter(&self, values: &[f32], ranges: &[Range<usize>]) -> Result<Vec<Vec<f32>>, Error> {
        self.scatter_as(Collective::ReduceScatter, values, ranges)
    }

    fn scatter_as(&self, what: Collective, values: &[f32], ranges: &[Range<usize>]) -> Result<Vec<Vec<f32>>, Error> {
        let own = ranges[self.rank()].len();
        let mut received = vec![vec![0f32; own]; self.size()];
        let send: Vec<&[u8]> = ranges.iter().map(|r| bytemuck::cast_slice(&values[r.clone()])).collect();
        let mut receive: Vec<&mut [u8]> = received.iter_mut().map(|r| bytemuck::cast_slice_mut(&mut r[..])).collect();
        self.exchange(what, &send, &mut receive)?;
        Ok(received)
    }

    /// Gives parts to all ranks, in turn where there are fewer; receives `own` elements times `counts[i]` from rank `i`, of which some may
    /// have nothing to give. What this rank gives itself is not copied.
    pub fn scatter_some(&self, mut parts: Vec<Vec<f32>>, counts: &[usize], own: usize) -> Result<Vec<Vec<f32>>, Error> {
        let (rank, members) = (self.rank(), parts.len());
        let expected = counts[rank] * own;
        assert!(parts[rank % members].len() == expected, "{} of {expected} elements", parts[rank % members].len());
        let room = |(from, n): (usize, &usize)| vec![0f32; if from == rank { 0 } else { n * own }];
        let mut received: Vec<Vec<f32>> = counts.iter().enumerate().map(room).collect();
        let part = |to: usize| if to == rank { &[][..] } else { bytemuck::cast_slice(&parts[to % members]) };
        let send: Vec<&[u8]> = (0..self.size()).map(part).collect();
        let mut receive: Vec<&mut [u8]> = received.iter_mut().map(|r| bytemuck::cast_slice_mut(&mut r[..])).collect();
        self.exchange(Collective::ReduceScatter, &send, &mut receive)?;
        received[rank] = parts.swap_remove(rank % members);
        Ok(received)
    }

    /// Gives `own` to the others of the ranks `among`, of which this is one, and receives theirs: `counts[i]` elements of the `i`-th, and
    /// none of its own. Every rank makes the call, those of other groups among themselves.
    pub fn gather_others<T: Pod>(
        &self,
        among: Range<usize>,
        own: &[T],
        counts: &[usize],
    ) -> Result<Vec<Vec<T>>, Error> {
        let other = |rank: usize| rank != self.rank() && among.contains(&rank);
        let room = |(rank, n): (usize, &usize)| vec![T::zeroed(); if other(rank) { *n } else { 0 }];
        let mut received: Vec<Vec<T>> = among.clone().zip(counts).map(room).collect();
        let part = |to: usize| if other(to) { bytemuck::cast_slice(own) } else { &[][..] };
        let send: Vec<&[u8]> = (0..self.size()).map(part).collect();
        let mut receive: Vec<&mut [u8]> = (0..self.size()).map(|_| &mut [][..]).collect();
        for (rank, room) in among.clone().zip(&mut received) {
            receive[rank] = bytemuck::cast_slice_mut(room);
        }
        self.exchange(Collective::AllGather, &send, &mut receive)?;
        Ok(received)
    }

    /// As [`World::gather_others`]; all that the ranks have, its own too, one after the other.
    pub fn gather_among<T: Pod>(&self, among: Range<usize>, own: &[T], counts: &[usize]) -> Result<Vec<T>, Error> {
        let mut received = vec![T::zeroed(); counts.iter().sum()];
        let part = |to: usize| if among.contains(&to) { bytemuck::cast_slice(own) } else { &[][..] };
        let send: Vec<&[u8]> = (0..self.size()).map(part).collect();
        let (mut rest, mut counts) = (&mut received[..], counts.iter());
        let receive = |from: usize| match among.contains(&from) {
            true => {
                let count = counts.next().expect("a count for each of the group");
                bytemuck::cast_slice_mut(rest.split_off_mut(..*count).expect("room for all"))
            }
            false => &mut [][..],
        };
        let mut receive: Vec<&mut [u8]> = (0..self.size()).map(receive).collect();
        self.exchange(Collective::AllGather, &send, &mut receive)?;
        Ok(received)
    }

    /// The sum over all ranks of the own range of `values`; added up in order of rank.
    pub fn reduce_scatter(&self, values: &[f32], ranges: &[Range<usize>]) -> Result<Vec<f32>, Error> {
        Ok(summed(self.scatter(values, ranges)?))
    }

    /// Replaces `values` by their sums over all ranks, added up in order of rank.
    pub fn all_reduce(&self, values: &mut [f32]) -> Result<(), Error> {
        let ranges = even(values.len(), self.size());
        let own = summed(self.scatter_as(Collective::AllReduce, values, &ranges)?);
        values[ranges[self.rank()].clone()].copy_from_slice(&own);
        self.spread(Collective::AllReduce, values, &ranges)
    }

    /// Fills range `ranges[i]` of `values` with what rank `i` has there.
    pub fn all_gather(&self, values: &mut [f32], ranges: &[Range<usize>]) -> Result<(), Error> {
        self.spread(Collective::AllGather, values, ranges)
    }

    /// `ranges` lie in a row and are `values` together.
    fn spread(&self, what: Collective, values: &mut [f32], ranges: &[Range<usize>]) -> Result<(), Error> {
        let own = values[ranges[self.rank()].clone()].to_vec();
        let send: Vec<&[u8]> = (0..self.size()).map(|_| bytemuck::cast_slice(&own)).collect();
        let mut receive: Vec<&mut [u8]> = Vec::with_capacity(self.size());
        let mut rest = values;
        for range in ranges {
            let (part, after) = rest.split_at_mut(range.len());
            receive.push(bytemuck::cast_slice_mut(part));
            rest = after;
        }
        self.exchange(what, &send, &mut receive)
    }

    /// Everyone's bytes, in order of rank; lengths may differ.
    pub fn gather(&self, own: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
        let len = (own.len() as u64).to_le_bytes();
        let mut lens = vec![[0u8; 8]; self.size()];
        let same: Vec<&[u8]> = (0..self.size()).map(|_| &len[..]).collect();
        let mut receive: Vec<&mut [u8]> = lens.iter_mut().map(|l| &mut l[..]).collect();
        self.exchange(Collective::AllGather, &same, &mut receive)?;
        let mut all: Vec<Vec<u8>> = lens.iter().map(|l| vec![0; u64::from_le_bytes(*l) as usize]).collect();
        let same: Vec<&[u8]> = (0..self.size()).map(|_| own).collect();
        let mut receive: Vec<&mut [u8]> = all.iter_mut().map(|b| &mut b[..]).collect();
        self.exchange(Collective::AllGather, &same, &mut receive)?;
        Ok(all)
    }

    /// Everyone's numbers, in order of rank.
    pub fn gather_numbers(&self, own: &[f64]) -> Result<Vec<Vec<f64>>, Error> {
        let bytes = self.gather(bytemuck::cast_slice(own))?;
        let numbers = |b: Vec<u8>| b.as_chunks::<8>().0.iter().map(|w| f64::from_le_bytes(*w)).collect();
        Ok(bytes.into_iter().map(numbers).collect())
    }

    /// Rank 0's bytes; what the others give is not looked at.
    pub fn broadcast(&self, own: &[u8]) -> Result<Vec<u8>, Error> {
        let mut len = (own.len() as u64).to_le_bytes();
        self.take_lead_says(&mut len)?;
        let mut bytes = if self.leads() { own.to_vec() } else { vec![0; u64::from_le_bytes(len) as usize] };
        self.take_lead_says(&mut bytes)?;
        Ok(bytes)
    }

    fn take_lead_says(&self, bytes: &mut [u8]) -> Result<(), Error> {
        let own = if self.leads() { bytes.to_vec() } else { Vec::new() };
        let send: Vec<&[u8]> = (0..self.size()).map(|_| &own[..]).collect();
        let mut receive: Vec<&mut [u8]> = (0..self.size()).map(|_| &mut [][..]).collect();
        receive[0] = bytes;
        self.exchange(Collective::Broadcast, &send, &mut receive)
    }

    /// Returns when every rank has called it.
    pub fn barrier(&self) -> Result<(), Error> {
        let mut there = vec![[0u8]; self.size()];
        let send: Vec<&[u8]> = (0..self.size()).map(|_| &[1u8][..]).collect();
        let mut receive: Vec<&mut [u8]> = there.iter_mut().map(|t| &mut t[..]).collect();
        self.exchange(Collective::Barrier, &send, &mut receive)
    }
}

fn summed(parts: Vec<Vec<f32>>) -> Vec<f32> {
    let mut parts = parts.into_iter();
    let mut sum = parts.next().unwrap_or_default();
    for part in parts {
        sum.iter_mut().zip(&part).for_each(|(a, b)| *a += b);
    }
    sum
}
