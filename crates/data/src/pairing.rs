//! Whose completion scores a row's prompt in KTO's reference point: one partner per row, fixed for the whole run.

use std::collections::HashMap;

/// Partners of the rows of a data set and how well the rule could be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partners {
    /// `partner[i]` is the row whose completion is put after the prompt of row `i`.
    pub partner: Vec<u32>,
    /// Rows whose partner comes from another group, because their own holds too few other prompts.
    pub borrowed: usize,
    /// Rows whose partner has the same prompt, because nothing else was there (or, under [`trl`], came before them).
    pub same_prompt: usize,
    /// Rows that are their own partner: a block of one.
    pub own: usize,
}

impl Partners {
    fn counted(partner: Vec<u32>, prompt_hashes: &[u64], borrowed: usize) -> Self {
        let pairs = || partner.iter().enumerate().map(|(i, &j)| (i, j as usize));
        let own = pairs().filter(|(i, j)| i == j).count();
        let same_prompt = pairs().filter(|&(i, j)| i != j && prompt_hashes[i] == prompt_hashes[j]).count();
        Partners { partner, borrowed, same_prompt, own }
    }
}

/// TRL's pairs: row `i` takes the completion of row `i - 1` of its block of `block` consecutive rows, the first that of the
/// last. A shorter block at the end rotates within itself; a block of one row pairs it with itself.
pub fn trl(prompt_hashes: &[u64], block: usize) -> Partners {
    assert!(block > 0, "a block has at least one row");
    let n = prompt_hashes.len();
    let partner = |i: usize| {
        let first = i / block * block;
        if i > first { i - 1 } else { (first + block).min(n) - 1 }
    };
    Partners::counted((0..n).map(|i| partner(i) as u32).collect(), prompt_hashes, 0)
}

/// Our pairs: inside each group of `group` consecutive rows of `order`, a permutation without fixed points under which every
/// partner has another prompt.
///
/// With the rows of a group arranged prompt by prompt, rotating by the size `c` of the largest set of equal prompts leaves no
/// row on its own prompt if and only if `c` is at most half the group, which is also when such a permutation exists. Rows
/// for which it does not take a completion from the nearest following rows with another prompt (cyclically).
/// With `prompt_hashes` by row, `order` a permutation of the rows.
pub fn group(prompt_hashes: &[u64], order: &[u32], group: usize) -> Partners {
    assert!(group > 0, "a group has at least one row");
    assert_eq!(prompt_hashes.len(), order.len(), "one hash per row");
    let hash = |row: u32| prompt_hashes[row as usize];
    let mut partner = vec![0_u32; order.len()];
    let mut borrowed = 0;
    let mut next_other: Option<Vec<usize>> = None;
    for (g, rows) in order.chunks(group).enumerate() {
        let (arranged, largest) = by_prompt(rows, prompt_hashes);
        let m = arranged.len();
        for (k, &row) in arranged.iter().enumerate() {
            partner[row as usize] = arranged[(k + m - largest % m) % m];
        }
        for (k, &row) in rows.iter().enumerate() {
            if hash(partner[row as usize]) != hash(row) {
                continue;
            }
            let next = next_other.get_or_insert_with(|| next_with_other_prompt(prompt_hashes, order));
            let first = next[g * group + k];
            // Spread over what follows, so that many such rows do not all take the same completion.
            let candidates = [(first + k) % order.len(), first].map(|at| order[at]);
            if let Some(&other) = candidates.iter().find(|&&other| hash(other) != hash(row)) {
                partner[row as usize] = other;
                borrowed += usize::from(!rows.contains(&other));
            } else {
                partner[row as usize] = order[(g * group + k + 1) % order.len()];
            }
        }
    }
    Partners::counted(partner, prompt_hashes, borrowed)
}

/// The rows with equal prompts next to each other, otherwise in the order they came, and the size of the largest such set.
fn by_prompt(rows: &[u32], prompt_hashes: &[u64]) -> (Vec<u32>, usize) {
    let mut sets: Vec<Vec<u32>> = Vec::new();
    let mut place: HashMap<u64, usize> = HashMap::new();
    for &row in rows {
        let at = *place.entry(prompt_hashes[row as usize]).or_insert(sets.len());
        if at == sets.len() {
            sets.push(Vec::new());
        }
        sets[at].push(row);
    }
    let largest = sets.iter().map(Vec::len).max().unwrap_or(0);
    (sets.concat(), largest)
}

/// For each position of `order`, the first following position (cyclically) with another prompt, or itself if there is none.
fn next_with_other_prompt(prompt_hashes: &[u64], order: &[u32]) -> Vec<usize> {
    let n = order.len();
    let hash = |at: usize| prompt_hashes[order[at % n] as usize];
    let mut next: Vec<usize> = (0..n).collect();
    // Twice round, from the end: the second pass sees what lies behind the wrap.
    for at in (0..2 * n).rev() {
        next[at % n] = match (hash(at) == hash(at + 1), next[(at + 1) % n]) {
            (false, _) => (at + 1) % n,
            (true, after) if hash(after) == hash(at) => at % n,
            (true, after) => after,
        };
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    #[test]
    fn trl_rotates_within_blocks() {
        let hashes: Vec<u64> = (0..10).collect();
        let pairs = trl(&hashes, 4);
        assert_eq!(pairs.partner, [3, 0, 1, 2, 7, 4, 5, 6, 9, 8]);
        assert_eq!((pairs.own, pairs.same_prompt), (0, 0));
        assert_eq!(trl(&hashes[..9], 4).own, 1);
        assert_eq!(trl(&[1, 1, 2, 2], 4).same_prompt, 2);
    }

    /// Random data sets with few or many prompts: (hashes, order, group size).
    fn cases() -> impl Iterator<Item = (Vec<u64>, Vec<u32>, usize)> {
        (0..400).map(|seed| {
            let draw = Stream::new(seed, 3);
            let n = 1 + draw.below(0, 40) as usize;
            let prompts = 1 + draw.below(1, 12);
            let hashes: Vec<u64> = (0..n as u64).map(|i| draw.below(10 + i, prompts)).collect();
            let mut order: Vec<u32> = (0..n as u32).collect();
            Stream::new(seed, 4).shuffle(&mut order);
            (hashes, order, 1 + draw.below(2, 9) as usize)
        })
    }

    #[test]
    fn partners_differ_in_prompt_whenever_the_data_have_two() {
        for (hashes, order, size) in cases() {
            let pairs = group(&hashes, &order, size);
            let several = hashes.iter().any(|h| *h != hashes[0]);
            for (i, &j) in pairs.partner.iter().enumerate() {
                if several {
                    assert_ne!(hashes[i], hashes[j as usize], "{hashes:?} {order:?} {size}");
                } else if hashes.len() > 1 {
                    assert_ne!(i, j as usize);
                }
            }
            assert_eq!((pairs.same_prompt + pairs.own == 0), several);
            if !several {
                assert_eq!(pairs.same_prompt + pairs.own, hashes.len());
            }
        }
    }

    #[test]
    fn a_group_is_permuted_whenever_its_prompts_allow_it() {
        let mut checked = 0;
        for (hashes, order, size) in cases() {
            let pairs = group(&hashes, &order, size);
            for rows in order.chunks(size) {
                let count = |row: &u32| rows.iter().filter(|r| hashes[**r as usize] == hashes[*row as usize]).count();
                if rows.iter().map(count).max().unwrap_or(0) * 2 <= rows.len() {
                    let mut partners: Vec<u32> = rows.iter().map(|r| pairs.partner[*r as usize]).collect();
                    let mut rows = rows.to_vec();
                    rows.sort_unstable();
                    partners.sort_unstable();
                    assert_eq!(rows, partners);
                    checked += 1;
                }
            }
        }
        assert!(checked > 500, "{checked}");
    }

    #[test]
    fn distinct_prompts_rotate_by_one() {
        let pairs = group(&[7, 8, 9, 10], &[2, 0, 3, 1], 4);
        assert_eq!(pairs.partner, [2, 3, 1, 0]);
        assert_eq!((pairs.borrowed, pairs.same_prompt, pairs.own), (0, 0, 0));
    }

    #[test]
    fn a_group_of_one_prompt_borrows_and_says_so() {
        let pairs = group(&[1, 1, 2, 3], &[0, 1, 2, 3], 2);
        assert_eq!(pairs.borrowed, 2);
        assert_eq!((pairs.same_prompt, pairs.own), (0, 0));
        assert_eq!(group(&[5], &[0], 4).own, 1);
    }
}
