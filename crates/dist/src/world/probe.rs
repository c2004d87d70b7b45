//! How long ranks take to talk, measured: each collective by size, each pair of ranks.

use super::{Collective, World};
use crate::Error;
use std::ops::Range;
use std::time::Instant;

impl World {
    /// Median time of `collective` over `bytes` bytes in all, seconds; what counts of each of `rounds` is the slowest rank's time. All ranks
    /// make this call, and all return the same.
    pub fn time(&self, collective: Collective, bytes: usize, rounds: usize) -> Result<f64, Error> {
        let (len, size) = (bytes / size_of::<f32>(), self.size());
        let ranges: Vec<Range<usize>> = (0..size).map(|r| r * len / size..(r + 1) * len / size).collect();
        let mut values = vec![0f32; len];
        self.slowest(rounds, || match collective {
            Collective::AllReduce => self.all_reduce(&mut values),
            Collective::ReduceScatter => self.reduce_scatter(&values, &ranges).map(drop),
            Collective::AllGather => self.all_gather(&mut values, &ranges),
            Collective::Broadcast => self.broadcast(bytemuck::cast_slice(&values)).map(drop),
            Collective::Barrier => self.barrier(),
        })
    }

    /// Median time in which two ranks send `bytes` bytes to one another at once, seconds, while the others wait. All ranks make this
    /// call, and all return the same.
    pub fn time_pair(&self, pair: (usize, usize), bytes: usize, rounds: usize) -> Result<f64, Error> {
        let peer = match self.rank() {
            own if own == pair.0 => Some(pair.1),
            own if own == pair.1 => Some(pair.0),
            _ => None,
        };
        let (given, mut taken) = (vec![0u8; bytes], vec![0u8; bytes]);
        self.slowest(rounds, || {
            let mut send: Vec<&[u8]> = vec![&[]; self.size()];
            let mut receive: Vec<&mut [u8]> = (0..self.size()).map(|_| &mut [][..]).collect();
            if let Some(peer) = peer {
                (send[peer], receive[peer]) = (&given, &mut taken);
            }
            self.exchange(Collective::AllGather, &send, &mut receive)
        })
    }

    /// Median over `rounds` of the slowest rank's time of some work that all do, after a round that is not counted.
    fn slowest(&self, rounds: usize, mut work: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
        work()?;
        let mut own = Vec::with_capacity(rounds);
        for _ in 0..rounds {
            self.barrier()?;
            let begin = Instant::now();
            work()?;
            own.push(begin.elapsed().as_secs_f64());
        }
        let all = self.gather_numbers(&own)?;
        let mut slowest: Vec<f64> = (0..rounds).map(|i| all.iter().map(|rank| rank[i]).fold(0.0, f64::max)).collect();
        slowest.sort_by(f64::total_cmp);
        Ok(slowest[rounds / 2])
    }
}
