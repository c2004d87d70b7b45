//! What can go wrong between ranks.

use crate::{Collective, Stuck};
use std::fmt;
use std::time::Duration;

/// A peer that failed, or ranks that cannot be started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// An exchange did not come to its end.
    Peer {
        /// What happened.
        stuck: Stuck,
        /// Host of each rank named in it.
        hosts: Vec<String>,
        /// The step, from 1; 0 before the first.
        step: u64,
        /// What was being done.
        collective: Collective,
        /// How long it was waited for.
        waited: Duration,
        /// Which rank says so, and of how many.
        rank: (usize, usize),
    },
    /// How the ranks were started does not fit what this program can do.
    Launch {
        /// What, and what to do.
        what: String,
    },
}

impl Error {
    /// Exit code of the process that ends with this error: 7 a peer, 2 usage.
    pub fn exit_code(&self) -> u8 {
        match self {
            Error::Peer { .. } => 7,
            Error::Launch { .. } => 2,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Launch { what } => f.write_str(what),
            Error::Peer { stuck, hosts, step, collective, waited, rank: (rank, size) } => {
                let named = |ranks: &[usize]| {
                    let each = ranks.iter().zip(hosts).map(|(r, h)| format!("{r} on {h}"));
                    each.collect::<Vec<_>>().join(", ")
                };
                let at = match step {
                    0 => "before the first step".to_owned(),
                    n => format!("at step {n}"),
                };
                write!(f, "rank {rank} of {size}, {at}, {collective}: ")?;
                match stuck {
                    Stuck::Missing(ranks) => write!(
                        f,
                        "nothing from rank {} for {:.1} s (dist_timeout); it is dead, stopped or slow. Look at that rank's output and machine, then `resume`: committed checkpoints are intact",
                        named(ranks),
                        waited.as_secs_f64()
                    ),
                    Stuck::Left { rank, why } => write!(
                        f,
                        "rank {} has ended: {why}. Committed checkpoints are intact; mend that, then `resume`",
                        named(&[*rank])
                    ),
                }
            }
        }
    }
}

impl std::error::Error for Error {}
