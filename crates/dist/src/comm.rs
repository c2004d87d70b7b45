//! What an engine does: moves bytes between ranks until a deadline.

use std::time::Instant;

/// Why an exchange did not come to its end. The engine is then dead: it may not be used again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stuck {
    /// The deadline passed and these ranks had not done their part.
    Missing(Vec<usize>),
    /// A rank took its leave.
    Left {
        /// Which.
        rank: usize,
        /// What it said.
        why: String,
    },
}

/// A way for ranks to exchange bytes. Every rank makes the same calls in the same order.
pub trait Comm: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Name of the machine this rank is on.
    fn host(&self) -> String;

    /// Sends `send[i]` to rank `i` and receives `receive[i]` from it; both have a part for every rank. Parts may differ in
    /// length, both sides know it, and an empty part is no message. The own part is copied.
    ///
    /// Errors: the deadline passed, here or at a rank that says so, or another rank has left.
    fn exchange(&self, send: &[&[u8]], receive: &mut [&mut [u8]], until: Instant) -> Result<(), Stuck>;

    /// Tells every other rank that this one will do no further part, and why. What they are waiting for ends with
    /// [`Stuck::Left`]. The engine is dead afterwards.
    fn leave(&self, why: &str);
}
