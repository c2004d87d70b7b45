//! Work dealt to ranks by its cost.

use std::ops::Range;

/// Cuts work that lies in a row into one run for each rank so that the dearest run is as cheap as can be. Runs may be empty.
pub fn deal(costs: &[u64], ranks: usize) -> Vec<Range<usize>> {
    assert!(ranks > 0, "work for no rank");
    let fits = |most: u64| {
        let (mut runs, mut sum) = (1, 0u64);
        for &cost in costs {
            if sum + cost > most {
                (runs, sum) = (runs + 1, 0);
            }
            sum += cost;
        }
        runs <= ranks
    };
    let (mut low, mut high) = (costs.iter().copied().max().unwrap_or(0), costs.iter().sum());
    while low < high {
        let middle = low + (high - low) / 2;
        if fits(middle) { high = middle } else { low = middle + 1 }
    }
    let mut dealt = Vec::with_capacity(ranks);
    let mut first = 0;
    for rank in 0..ranks {
        let (mut past, mut sum) = (first, 0);
        // While there is work for all, no rank goes without.
        let others = ranks - rank - 1;
        while past < costs.len() && sum + costs[past] <= high && (past == first || costs.len() - past > others) {
            sum += costs[past];
            past += 1;
        }
        dealt.push(first..past);
        first = past;
    }
    assert!(first == costs.len(), "{first} of {} dealt", costs.len());
    dealt
}
