//! Ranks: what they say to one another, over which engine, and which ranges of the arena are whose.
//!
//! An engine ([`Comm`]) moves bytes between ranks and gives up at a deadline. Everything above it is ours and the same on every engine:
//! [`World`] makes collectives of it, whose sums run in the order of the ranks, counts bytes and time, and names the rank
//! that did not come; [`tree`] sums gradients in an order that does not depend on how many ranks there are; [`shards`] deals an
//! arena out in stripes.

mod channel;
mod comm;
pub mod deal;
mod error;
pub mod estimate;
pub mod launch;
pub mod line;
#[cfg(feature = "mpi")]
mod mpi;
pub mod nccl;
pub mod rendezvous;
pub mod shards;
mod solo;
pub mod threads;
pub mod tree;
mod world;

pub use channel::Channel;
pub use comm::{Comm, Stuck};
pub use error::Error;
#[cfg(feature = "mpi")]
pub use mpi::Mpi;
pub use nccl::Nccl;
pub use rendezvous::Rendezvous;
pub use shards::Shards;
pub use solo::Solo;
pub use world::{Collective, Coming, Meter, TIMEOUT, Traffic, World};
