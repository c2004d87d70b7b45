//! Activations that wait in pinned memory of the host: they go and come on a stream of their own, beside the kernels.
//!
//! A copy begins after all that was computed before it: that wrote what goes, or used last the memory that something comes into.
//! What is computed after a wait for the copies may read what came, and have the memory of what went. Copies are made in
//! their order, so a place on the host is free as soon as the way back from it is queued.

use super::arena::Arena;
use super::driver::{Stream, Transfer};
use super::memory::Block;
use super::{Error, Gpu, locked};
use std::sync::{Arc, Mutex};

/// Pinned memory, and what is on its way to it.
pub(crate) struct Offload {
    gpu: Arc<Gpu>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Reserved before the first step.
    room: Option<Arena>,
    /// What went last: nothing that is computed waits for its copy yet.
    leaving: Option<Block>,
    held_bytes: usize,
    peak_bytes: usize,
}

impl State {
    fn take(&mut self, bytes: usize) -> Option<u64> {
        let place = self.room.as_mut()?.take(bytes)?;
        self.held_bytes += Arena::rounded(bytes);
        self.peak_bytes = self.peak_bytes.max(self.held_bytes);
        Some(place)
    }

    fn give(&mut self, place: u64, bytes: usize) {
        self.held_bytes -= Arena::rounded(bytes);
        self.room.iter_mut().for_each(|room| room.give(place, bytes));
    }
}

impl Offload {
    pub(super) fn new(gpu: &Arc<Gpu>) -> Offload {
        Offload { gpu: gpu.clone(), state: Mutex::default() }
    }

    /// Pins all that will be needed.
    pub(super) fn reserve(&self, bytes: usize) -> Result<(), Error> {
        let mut state = locked(&self.state);
        if state.room.is_none() && bytes > 0 {
            let refused = |error: Error| Error::Pinned { bytes, code: error.to_string() };
            state.room = Some(Arena::new(self.gpu.driver.pin(bytes).map_err(refused)?, bytes));
        }
        Ok(())
    }

    pub(super) fn take_peak(&self) -> usize {
        let mut state = locked(&self.state);
        let held = state.held_bytes;
        std::mem::replace(&mut state.peak_bytes, held)
    }

    /// Queues the way of the first `bytes` bytes of a block to the host; where there is no place for them, here it is again.
    pub(super) fn leave(self: &Arc<Self>, block: Block, bytes: usize) -> Result<Held, Block> {
        let mut state = locked(&self.state);
        let place = if bytes > 0 { state.take(bytes) } else { None };
        let Some(place) = place else { return Err(block) };
        // The one before had the time of a block to go.
        self.let_go(&mut state);
        self.transfer(Transfer { device: block.address, pinned: place, bytes, out: true });
        state.leaving = Some(block);
        Ok(Held { offload: self.clone(), bytes, place: Some(place), block: None })
    }

    /// Gives the memory of what went last to others.
    fn let_go(&self, state: &mut State) {
        if let Some(left) = state.leaving.take() {
            self.wait();
            drop(left);
        }
    }

    /// What is computed from here on waits for the copies.
    fn wait(&self) {
        self.gpu.attempt(|| {
            self.gpu.flush()?;
            self.gpu.driver.follow(Stream::Compute)
        });
    }

    fn transfer(&self, transfer: Transfer) {
        self.gpu.attempt(|| {
            self.gpu.flush()?;
            self.gpu.driver.follow(Stream::Transfers)?;
            // SAFETY: the block is held until what is computed waits for the copies, and pinned memory until all is done.
            unsafe { self.gpu.driver.transfer(&transfer) }
        });
    }
}

impl Drop for Offload {
    fn drop(&mut self) {
        let State { room, leaving, .. } = std::mem::take(&mut *locked(&self.state));
        if let Some(room) = room {
            let driver = &*self.gpu.driver;
            // What fails here has failed before.
            driver.follow(Stream::Compute).and_then(|()| driver.wait()).ok();
            driver.unpin(room.address());
        }
        drop(leaving);
    }
}

/// Bytes in pinned memory, or on their way back.
pub struct Held {
    offload: Arc<Offload>,
    bytes: usize,
    /// On the host, until the way back is queued.
    place: Option<u64>,
    /// On the device, from then on.
    block: Option<Block>,
}

impl Held {
    /// Queues the way back.
    pub(crate) fn fetch(&mut self) {
        let Some(place) = self.place.take() else { return };
        let offload = &*self.offload;
        let mut state = locked(&offload.state);
        offload.let_go(&mut state);
        let block = Block::new(&offload.gpu, self.bytes);
        offload.transfer(Transfer { device: block.address, pinned: place, bytes: self.bytes, out: false });
        state.give(place, self.bytes);
        self.block = Some(block);
    }

    /// The bytes on the device, for what is computed from here on.
    pub(super) fn back(mut self) -> Block {
        self.fetch();
        self.offload.wait();
        self.block.take().expect("fetched above")
    }
}

impl Drop for Held {
    /// Of a step that was abandoned.
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            locked(&self.offload.state).give(place, self.bytes);
        }
        if self.block.is_some() {
            self.offload.wait();
        }
    }
}
