//! Which pages of the cache hold what: pages are shared by sequences that begin alike, and remembered until their room is needed.
//!
//! A page's content is known by the page before it and its own tokens, so equal beginnings lead to the same page. A page that is
//! full and computed can be referred to by any number of sequences; one that is begun is copied by whoever goes on differently.

use kernels::PAGE;
use std::collections::{BTreeMap, HashMap};

/// A page's place in the chain of its beginning; never used twice, so a page that was given up cannot be taken for its successor.
type Node = u64;
/// The place before the first page.
const ROOT: Node = 0;

/// A page.
#[derive(Debug, Default)]
struct Page {
    /// Sequences that refer to it.
    users: usize,
    /// Its place, when it can be found.
    known: Option<Known>,
    /// When it was last given back; the order in which pages are given up.
    since: u64,
}

#[derive(Debug)]
struct Known {
    parent: Node,
    own: Node,
    /// Tokens whose keys and values it holds, from its first row on.
    tokens: Vec<u32>,
}

/// The pages of a cache.
#[derive(Debug)]
pub(crate) struct Pages {
    pages: Vec<Page>,
    /// Pages that nobody uses, by when they were given back.
    free: BTreeMap<u64, u32>,
    /// Pages that follow a place.
    after: HashMap<Node, Vec<u32>>,
    /// Pages that sequences may yet take, as they were promised.
    promised: usize,
    clock: u64,
}

/// The pages of one sequence.
#[derive(Debug, Default)]
pub(crate) struct Chain {
    /// In the order of positions.
    pub(crate) pages: Vec<u32>,
    /// Pages it may still take.
    promised: usize,
    /// The place of its last page that is known.
    last: Node,
    /// Pages that are known, from the first on.
    known: usize,
}

/// A page that is copied, where to, and how many of its rows.
pub(crate) type Copied = (u32, u32, usize);

/// How a prompt begins in the cache already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Whole pages.
    shared: Vec<u32>,
    /// A page of which the first rows fit, and how many.
    copied: Option<(u32, usize)>,
}

impl Beginning {
    /// Tokens that need not be computed.
    pub(crate) fn tokens(&self) -> usize {
        self.shared.len() * PAGE + self.copied.map_or(0, |(_, rows)| rows)
    }
}

fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Pages {
    /// `count` free pages.
    pub(crate) fn new(count: usize) -> Pages {
        Pages {
            pages: (0..count).map(|i| Page { since: i as u64, ..Page::default() }).collect(),
            free: (0..count as u32).map(|i| (u64::from(i), i)).collect(),
            after: HashMap::new(),
            promised: 0,
            clock: count as u64,
        }
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// How far the cache holds the beginning of `tokens`; of the last token nothing is taken, as its logits are wanted.
    pub(crate) fn beginning(&self, tokens: &[u32]) -> Beginning {
        let (mut shared, mut place, mut copied) = (Vec::new(), ROOT, None);
        let mut left = &tokens[..tokens.len().saturating_sub(1)];
        while let Some(after) = self.after.get(&place) {
            let fit = |&page: &u32| {
                let known = self.pages[page as usize].known.as_ref()?;
                Some((common(&known.tokens, left), page, known))
            };
            let Some((rows, page, known)) = after.iter().filter_map(fit).max_by_key(|(rows, page, _)| (*rows, !page))
            else {
                break;
            };
            if rows < PAGE {
                copied = (rows > 0).then_some((page, rows));
                break;
            }
            shared.push(page);
            (place, left) = (known.own, &left[PAGE..]);
        }
        Beginning { shared, copied }
    }

    /// Makes room for a sequence of up to `positions` tokens that begins so; `None` when there is not enough. A page that is to be copied
    /// comes as (from, to, rows).
    pub(crate) fn admit(&mut self, beginning: Beginning, positions: usize) -> Option<(Chain, Option<Copied>)> {
        let Beginning { shared, copied } = beginning;
        let more = positions.div_ceil(PAGE) - shared.len();
        let idle = |page: u32| usize::from(self.pages[page as usize].users == 0);
        let kept: usize = shared.iter().map(|&page| idle(page)).sum();
        let room = self.free.len().checked_sub(self.promised + more + kept)?;
        // While it is copied the page cannot be given up.
        let copied = copied.filter(|(page, _)| room >= idle(*page));
        for &page in &shared {
            self.use_page(page);
        }
        self.promised += more;
        let last = shared.last().and_then(|&page| self.pages[page as usize].known.as_ref()).map_or(ROOT, |k| k.own);
        let known = shared.len();
        let mut chain = Chain { pages: shared, promised: more, last, known };
        let copy = copied.map(|(from, rows)| {
            // Held while a page is taken: it might be the one that is given up.
            self.use_page(from);
            let to = self.grow(&mut chain);
            self.release(from);
            (from, to, rows)
        });
        Some((chain, copy))
    }

    fn use_page(&mut self, page: u32) {
        let entry = &mut self.pages[page as usize];
        entry.users += 1;
        if entry.users == 1 {
            self.free.remove(&entry.since);
        }
    }

    fn release(&mut self, page: u32) {
        let since = self.tick();
        let entry = &mut self.pages[page as usize];
        entry.users -= 1;
        if entry.users == 0 {
            entry.since = since;
            self.free.insert(since, page);
        }
    }

    /// One more page for a sequence, of those it was promised: the one that was free for longest.
    pub(crate) fn grow(&mut self, chain: &mut Chain) -> u32 {
        assert!(chain.promised > 0, "a sequence that asks for more pages than it was promised");
        let (_, page) = self.free.pop_first().expect("a promised page");
        chain.promised -= 1;
        self.promised -= 1;
        self.forget(page);
        self.pages[page as usize].users = 1;
        chain.pages.push(page);
        page
    }

    fn forget(&mut self, page: u32) {
        if let Some(known) = self.pages[page as usize].known.take()
            && let Some(after) = self.after.get_mut(&known.parent)
        {
            after.retain(|other| *other != page);
            if after.is_empty() {
                self.after.remove(&known.parent);
            }
        }
    }

    /// Lets others find what a sequence has computed: `tokens` are its tokens whose keys and values are in its pages.
    pub(crate) fn publish(&mut self, chain: &mut Chain, tokens: &[u32]) {
        while chain.known < chain.pages.len() && tokens.len() > chain.known * PAGE {
            let (page, first) = (chain.pages[chain.known], chain.known * PAGE);
            let held = &tokens[first..tokens.len().min(first + PAGE)];
            let own = self.tick();
            let known = match &mut self.pages[page as usize].known {
                Some(known) => known,
                empty => {
                    self.after.entry(chain.last).or_default().push(page);
                    empty.insert(Known { parent: chain.last, own, tokens: Vec::with_capacity(PAGE) })
                }
            };
            known.tokens.extend_from_slice(&held[known.tokens.len()..]);
            if known.tokens.len() < PAGE {
                break;
            }
            chain.last = known.own;
            chain.known += 1;
        }
    }

    /// Gives a sequence's pages back. The last comes first, so that beginnings are remembered longest.
    pub(crate) fn give(&mut self, chain: Chain) {
        self.promised -= chain.promised;
        chain.pages.into_iter().rev().for_each(|page| self.release(page));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use data::rng::Stream;

    fn tokens(n: usize, seed: u32) -> Vec<u32> {
        (0..n as u32).map(|i| i * 7 + seed).collect()
    }

    /// A sequence whose tokens are all computed.
    fn computed(pages: &mut Pages, tokens: &[u32], more: usize) -> (Chain, usize) {
        let beginning = pages.beginning(tokens);
        let begun = beginning.tokens();
        let (mut chain, _) = pages.admit(beginning, tokens.len() + more).unwrap();
        while chain.pages.len() * PAGE < tokens.len() {
            pages.grow(&mut chain);
        }
        pages.publish(&mut chain, tokens);
        (chain, begun)
    }

    #[test]
    fn equal_beginnings_are_shared_and_the_page_where_they_part_is_copied() {
        let mut pages = Pages::new(20);
        let first = tokens(40, 1);
        let (a, begun) = computed(&mut pages, &first, 8);
        assert_eq!((begun, a.pages.len()), (0, 3));
        // The same prompt: all but its last token are there.
        let same = pages.beginning(&first);
        assert_eq!(same, Beginning { shared: a.pages[..2].to_vec(), copied: Some((a.pages[2], 7)) });
        let (b, copy) = pages.admit(same, 48).unwrap();
        assert_eq!((&b.pages[..2], copy.map(|(from, _, rows)| (from, rows))), (&a.pages[..2], Some((a.pages[2], 7))));
        assert_ne!(a.pages[2], b.pages[2]);
        // One that parts in the second page.
        let mut other = first.clone();
        other[20] = 99_999;
        let parted = pages.beginning(&other);
        assert_eq!(parted, Beginning { shared: a.pages[..1].to_vec(), copied: Some((a.pages[1], 4)) });
        pages.give(a);
        pages.give(b);
        // Remembered after all have gone.
        assert_eq!(pages.beginning(&first).tokens(), 39);
        assert_eq!(pages.beginning(&tokens(40, 2)).tokens(), 0);
    }

    #[test]
    fn pages_are_never_given_twice_and_all_come_back() {
        let (mut pages, draw) = (Pages::new(30), Stream::new(3, 0));
        let mut live: Vec<(Chain, usize)> = Vec::new();
        for i in 0..4000 {
            let n = draw.below(3 * i, 60) as usize + 1;
            let prompt = tokens(n, draw.below(3 * i + 1, 3) as u32);
            let beginning = pages.beginning(&prompt);
            match pages.admit(beginning, n + 20) {
                Some((mut chain, _)) => {
                    while chain.pages.len() * PAGE < n {
                        pages.grow(&mut chain);
                    }
                    pages.publish(&mut chain, &prompt);
                    live.push((chain, n));
                }
                None => {
                    let (chain, _) = live.swap_remove(draw.below(3 * i + 2, live.len() as u64) as usize);
                    pages.give(chain);
                }
            }
            let mut users = vec![0; 30];
            live.iter().flat_map(|(chain, _)| &chain.pages).for_each(|&page| users[page as usize] += 1);
            assert!(pages.pages.iter().zip(&users).all(|(page, users)| page.users == *users));
            assert_eq!(pages.free.len(), users.iter().filter(|users| **users == 0).count());
            assert!(pages.promised <= pages.free.len());
            // A page that is written to belongs to one sequence.
            assert!(live.iter().all(|(chain, n)| n % PAGE == 0 || users[chain.pages[n / PAGE] as usize] == 1));
        }
        live.into_iter().for_each(|(chain, _)| pages.give(chain));
        assert_eq!((pages.free.len(), pages.promised), (30, 0));
    }
}
