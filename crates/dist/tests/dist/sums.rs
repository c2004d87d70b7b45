//! The tree, the shards, the deal.

use dist::Shards;
use dist::deal::deal;
use dist::tree::{Node, Tree};
use std::ops::Range;

/// Leaf `i`: sums of these depend on their order.
fn leaf(i: u64) -> Vec<f32> {
    (0..5).map(|k| ((i * 13 + k * 7) % 31) as f32 * 10f32.powi((i % 9) as i32 - 4)).collect()
}

fn of_leaves(leaves: impl Iterator<Item = u64>) -> Tree {
    let mut tree = Tree::default();
    leaves.for_each(|i| tree.push(Node { level: 0, index: i }, leaf(i)));
    tree
}

#[test]
fn a_sum_has_the_same_bits_whoever_holds_its_leaves() {
    for leaves in 1..=23u64 {
        let alone = of_leaves(0..leaves).finish().unwrap();
        for ranks in 1..=5 {
            for uneven in 0..3u64 {
                let costs: Vec<u64> = (0..leaves).map(|i| 1 + (i * uneven) % 5).collect();
                let mut whole = Tree::default();
                for range in deal(&costs, ranks) {
                    let own = of_leaves(range.start as u64..range.end as u64);
                    own.nodes().iter().for_each(|(node, sum)| whole.push(*node, sum.clone()));
                }
                let sum = whole.finish().unwrap();
                assert_eq!(sum, alone, "{leaves} leaves over {ranks} ranks");
            }
        }
    }
    assert_eq!(Tree::default().finish(), None);
}

#[test]
fn the_order_matters_at_all() {
    let in_a_row = (1..23).fold(leaf(0), |mut sum, i| {
        sum.iter_mut().zip(leaf(i)).for_each(|(a, b)| *a += b);
        sum
    });
    assert_ne!(of_leaves(0..23).finish().unwrap(), in_a_row);
}

#[test]
fn a_rank_keeps_no_more_than_two_nodes_of_a_level() {
    for (first, past) in [(0, 64), (1, 64), (5, 59), (31, 33)] {
        let tree = of_leaves(first..past);
        for level in 0..7 {
            assert!(tree.nodes().iter().filter(|(n, _)| n.level == level).count() <= 2, "{first}..{past}");
        }
    }
}

#[test]
fn shards_tile_the_arena_in_stripes_whose_borders_do_not_move() {
    for len in [0, 1, 1023, 1024, 1025, 70_001, 100 << 20] {
        let whole: Vec<_> = Shards::new(len, 1).parts(0, 0..len).collect();
        for ranks in 1..=7 {
            let shards = Shards::new(len, ranks);
            let mut all: Vec<_> = (0..ranks).flat_map(|r| shards.parts(r, 0..len)).collect();
            all.sort_by_key(|r| r.start);
            assert_eq!(all, whole, "{len} over {ranks}");
            let longest = (0..ranks).map(|r| shards.count(r, 0..len)).max().unwrap();
            let stripe = whole.first().map_or(0, ExactSizeIterator::len);
            assert!(longest <= len.div_ceil(ranks) + stripe, "{longest} of {len} over {ranks}");
        }
        assert_eq!(whole.iter().map(ExactSizeIterator::len).sum::<usize>(), len);
    }
}

/// What rank `rank` has of `values`, which are those of `window`.
pub(crate) fn pick(shards: &Shards, rank: usize, window: Range<usize>, values: &[f32]) -> Vec<f32> {
    let from = window.start;
    shards.parts(rank, window).flat_map(|part| &values[part.start - from..part.end - from]).copied().collect()
}

#[test]
fn what_ranks_have_of_a_window_lies_together_with_each_of_them() {
    let values: Vec<f32> = (0..40_000).map(|i| i as f32).collect();
    // No stripe begins within the last tensor's blocks of 300.
    let blocks = |at: usize| if at < 20_000 { at } else { 20_000 + (at - 20_000) / 300 * 300 };
    for (ranks, window) in [(1, 0..40_000), (2, 100..39_000), (3, 19_999..20_001), (4, 7_000..31_000), (5, 50..50)] {
        let shards = Shards::with_borders(values.len(), ranks, blocks);
        let mut found = vec![-1.0; window.len()];
        for rank in 0..ranks {
            let own = pick(&shards, rank, 0..values.len(), &values);
            let part = &own[shards.place(rank, window.clone())];
            assert_eq!(part, pick(&shards, rank, window.clone(), &values[window.clone()]));
            assert_eq!(part.len(), shards.count(rank, window.clone()));
            let mut rest = part;
            for at in shards.parts(rank, window.clone()) {
                assert!(at.end == window.end || blocks(at.end) == at.end, "{at:?}");
                let (these, after) = rest.split_at(at.len());
                found[at.start - window.start..at.end - window.start].copy_from_slice(these);
                rest = after;
            }
        }
        assert_eq!(found, values[window]);
    }
}

#[test]
fn sums_of_squares_by_stripe_are_the_same_over_any_number_of_ranks() {
    let values: Vec<f32> = (0..40_000).map(|i| (i as f32 * 0.37).sin()).collect();
    let whole = Shards::new(values.len(), 1).square_sums(0, &values);
    for ranks in 2..6 {
        let shards = Shards::new(values.len(), ranks);
        let sums = |rank| shards.square_sums(rank, &pick(&shards, rank, 0..values.len(), &values));
        assert_eq!(shards.in_order(&(0..ranks).map(sums).collect::<Vec<_>>()), whole);
    }
}

#[test]
fn work_is_dealt_in_runs_whose_dearest_is_as_cheap_as_can_be() {
    assert_eq!(deal(&[5, 1, 1, 1, 5], 2), [0..3, 3..5]);
    assert_eq!(deal(&[9, 1, 1, 1], 2), [0..1, 1..4]);
    assert_eq!(deal(&[1, 1], 4), [0..1, 1..2, 2..2, 2..2]);
    assert_eq!(deal(&[], 2), [0..0, 0..0]);
    assert_eq!(deal(&[4, 4, 4, 4, 4, 4], 3), [0..2, 2..4, 4..6]);
    for n in 0..40usize {
        for ranks in 1..6 {
            let costs: Vec<u64> = (0..n as u64).map(|i| 1 + i * i % 11).collect();
            let runs = deal(&costs, ranks);
            let (total, most) = (costs.iter().sum::<u64>(), costs.iter().copied().max().unwrap_or(0));
            let dearest = runs.iter().map(|r| costs[r.clone()].iter().sum::<u64>()).max().unwrap();
            assert!(dearest <= total.div_ceil(ranks as u64) + most, "{runs:?}");
            assert_eq!(runs.len(), ranks);
        }
    }
}
