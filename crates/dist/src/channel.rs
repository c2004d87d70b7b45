//! What ranks say beside their exchanges: last words, and whom those waited for who have waited in vain.

use crate::{Error, Stuck};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// A way to speak to all other ranks beside the exchanges. One thread at a time uses it.
pub trait Channel: Send + Sync {
    /// This rank, from 0.
    fn rank(&self) -> usize;

    /// How many ranks there are.
    fn size(&self) -> usize;

    /// Name of the machine this rank is on.
    fn host(&self) -> String;

    /// Rank 0's bytes; what the others give is not looked at.
    ///
    /// Errors: rank 0 is not there at the deadline; on rank 0, some other.
    fn lead_says(&self, own: &[u8], until: Instant) -> Result<Vec<u8>, Stuck>;

    /// Sends words to all others; does not wait longer than `patience` for those who do not listen.
    fn say(&self, words: &str, patience: Duration);

    /// What a rank has said, and which, if any has. Does not wait.
    fn hear(&self) -> Option<(usize, String)>;

    /// This rank ends, whatever the others do: nobody is waited for any more, and nothing is said or heard.
    fn end(&self) {}
}

/// What went wrong as ranks met.
pub(crate) fn not_met(channel: &dyn Channel, stuck: Stuck) -> Error {
    let (rank, size) = (channel.rank(), channel.size());
    let who = match stuck {
        Stuck::Missing(ranks) => {
            format!("nothing from rank {}", ranks.iter().map(usize::to_string).collect::<Vec<_>>().join(", "))
        }
        Stuck::Left { rank, why } => format!("rank {rank} has ended: {why}"),
    };
    Error::Launch {
        what: format!("rank {rank} of {size}, as ranks meet: {who}; look at that rank's output and machine"),
    }
}

/// Begins the last words of a rank that waited in vain for those that follow.
const IN_VAIN: &str = "in vain:";
/// How long a rank that has waited in vain takes to say so, and then listens to others that have.
const HEARING: Duration = Duration::from_millis(300);

/// The last words of a rank.
pub(crate) enum Words {
    /// It ends by itself, and why.
    Left(String),
    /// It has waited for these.
    InVain(Vec<usize>),
}

/// What a rank said when it gave up, if one did, and which.
pub(crate) fn last_words(channel: &dyn Channel) -> Option<(usize, Words)> {
    let (rank, why) = channel.hear()?;
    let words = match why.strip_prefix(IN_VAIN) {
        Some(names) => Words::InVain(names.split(',').filter_map(|n| n.parse().ok()).collect()),
        None => Words::Left(why),
    };
    Some((rank, words))
}

/// Who of the `missing` is missing indeed, and what ends the wait for them at `until`, if anything does: ranks that wait for them in turn
/// say so, as this one does, and are not to blame.
pub(crate) fn given_up(
    channel: &dyn Channel,
    until: Instant,
    missing: impl FnOnce() -> BTreeSet<usize>,
) -> Option<Stuck> {
    match last_words(channel) {
        Some((rank, Words::Left(why))) => Some(Stuck::Left { rank, why }),
        Some((rank, Words::InVain(names))) => Some(conclude(channel, missing(), Some((rank, names)))),
        None if Instant::now() >= until => Some(conclude(channel, missing(), None)),
        None => None,
    }
}

/// Who of the `missing` is missing indeed.
pub(crate) fn conclude(channel: &dyn Channel, missing: BTreeSet<usize>, heard: Option<(usize, Vec<usize>)>) -> Stuck {
    let (own, names): (usize, Vec<String>) = (channel.rank(), missing.iter().map(usize::to_string).collect());
    channel.say(&format!("{IN_VAIN}{}", names.join(",")), HEARING);
    let (mut silent, mut there) = (missing.clone(), BTreeSet::from([own]));
    let mut hear = |(rank, names): (usize, Vec<usize>)| {
        there.insert(rank);
        silent.extend(names);
    };
    heard.into_iter().for_each(&mut hear);
    let until = Instant::now() + HEARING;
    while Instant::now() < until {
        match last_words(channel) {
            Some((rank, Words::Left(why))) => return Stuck::Left { rank, why },
            Some((rank, Words::InVain(names))) => hear((rank, names)),
            None => std::thread::yield_now(),
        }
    }
    let late = silent.contains(&own);
    silent.retain(|rank| !there.contains(rank));
    Stuck::Missing(match (silent.is_empty(), late) {
        (false, _) => silent.into_iter().collect(),
        // All are there, and it was this rank that they waited for.
        (true, true) => vec![own],
        // It is the way between them that is not.
        (true, false) => missing.into_iter().collect(),
    })
}
