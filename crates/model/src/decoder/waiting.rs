//! What blocks keep until backward comes to them. Inputs of those that are computed again may wait outside of the device.

use kernels::{Backend, Offloaded};
use nn::{BlockSaved, Kept};

/// A block's memory of its forward pass, as [`Kept`].
pub(super) struct Waiting<B: Backend> {
    x_td: Offloaded<B>,
    rows: Option<Vec<u32>>,
    saved: Option<BlockSaved<B>>,
}

impl<B: Backend> Waiting<B> {
    /// Of a block that is done.
    pub(super) fn new(backend: &B, Kept { x_td, rows, saved }: Kept<B>) -> Waiting<B> {
        let x_td = if saved.is_some() { Offloaded::Here(x_td) } else { backend.offload(x_td) };
        Waiting { x_td, rows, saved }
    }
}

/// Begins to bring back what the topmost block needs.
pub(super) fn prefetch<B: Backend>(waiting: &mut [Waiting<B>]) {
    if let Some(next) = waiting.last_mut() {
        next.x_td.prefetch();
    }
}

/// What the topmost block needs; meanwhile what the one below it needs comes back.
pub(super) fn taken<B: Backend>(backend: &B, waiting: &mut Vec<Waiting<B>>) -> Kept<B> {
    let Waiting { x_td, rows, saved } = waiting.pop().expect("backward without a kept forward pass");
    // First, as waiting for this one is waiting for all that was asked for before.
    let x_td = backend.reload(x_td);
    prefetch(waiting);
    Kept { x_td, rows, saved }
}
