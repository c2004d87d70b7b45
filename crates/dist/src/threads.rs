//! Ranks as threads of one process, for tests.

use crate::{Comm, Stuck};
use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

/// What threads share.
struct Hub {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    /// Messages under way, by sender and receiver.
    queues: Vec<VecDeque<Vec<u8>>>,
    /// What ended the talk for everyone.
    over: Option<Stuck>,
}

/// One of several threads.
pub struct Threads {
    hub: Arc<Hub>,
    rank: usize,
    size: usize,
}

/// The engines of `size` threads, in order of rank.
pub fn threads(size: usize) -> Vec<Threads> {
    let queues = (0..size * size).map(|_| VecDeque::new()).collect();
    let hub = Arc::new(Hub { state: Mutex::new(State { queues, over: None }), changed: Condvar::new() });
    (0..size).map(|rank| Threads { hub: Arc::clone(&hub), rank, size }).collect()
}

impl Comm for Threads {
    fn rank(&self) -> usize {
        self.rank
    }

    fn size(&self) -> usize {
        self.size
    }

    fn host(&self) -> String {
        format!("thread-{}", self.rank)
    }

    fn exchange(&self, send: &[&[u8]], receive: &mut [&mut [u8]], until: Instant) -> Result<(), Stuck> {
        let mut state = self.hub.state.lock().unwrap_or_else(PoisonError::into_inner);
        for (to, part) in send.iter().enumerate().filter(|(_, p)| !p.is_empty()) {
            state.queues[self.rank * self.size + to].push_back(part.to_vec());
        }
        self.hub.changed.notify_all();
        let mut open: Vec<usize> = (0..self.size).filter(|&from| !receive[from].is_empty()).collect();
        loop {
            open.retain(|&from| match state.queues[from * self.size + self.rank].pop_front() {
                None => true,
                Some(part) => {
                    let (expected, found) = (receive[from].len(), part.len());
                    assert!(expected == found, "{found} bytes from rank {from}, expected {expected}");
                    receive[from].copy_from_slice(&part);
                    false
                }
            });
            if open.is_empty() {
                return Ok(());
            }
            if let Some(stuck) = state.over.clone() {
                return Err(stuck);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                state.over = Some(Stuck::Missing(open.clone()));
                self.hub.changed.notify_all();
                return Err(Stuck::Missing(open));
            }
            state = self.hub.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn leave(&self, why: &str) {
        let mut state = self.hub.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.over.get_or_insert_with(|| Stuck::Left { rank: self.rank, why: why.to_owned() });
        self.hub.changed.notify_all();
    }
}
