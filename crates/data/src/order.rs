//! Which rows form which step: a pure function of (seed, epoch, step), so that resuming is a look-up.

use std::ops::Range;

use crate::rng::Stream;

/// How rows are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    /// File order in every epoch (`train_sampling_strategy: sequential`, `compat: trl`).
    None,
    /// A new permutation of the rows in every epoch (SFT).
    Rows,
    /// Rows are shuffled once and cut into steps; every epoch is a new permutation of whole steps. A row meets the same rows
    /// in every epoch, so KTO's partners stay in the step that scores their completions as matched rows.
    Groups,
}

/// The order of a run. Windows never cross the end of an epoch: the last step of an epoch is shorter when rows do not divide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order {
    /// Rows (or bins of a packed data set).
    pub rows: usize,
    /// Rows of a micro-batch.
    pub micro_batch: usize,
    /// Micro-batches of a step.
    pub accumulation: usize,
    /// The run's seed.
    pub seed: u64,
    /// How rows are ordered.
    pub shuffle: Shuffle,
}

/// Stream numbers: what a draw is for.
const ONCE: u64 = 1 << 32;
const EPOCH: u64 = 2 << 32;

impl Order {
    /// Rows of a full step.
    pub fn rows_per_step(&self) -> usize {
        assert!(self.micro_batch > 0 && self.accumulation > 0, "a step has at least one row: {self:?}");
        self.micro_batch * self.accumulation
    }

    /// Steps of an epoch: with `b` micro-batches and `G` of them in a step, `floor(b / G)` and one more for what is left
    /// (transformers' count). Zero only for no rows.
    pub fn steps_per_epoch(&self) -> usize {
        self.rows.div_ceil(self.rows_per_step())
    }

    /// Steps of a run: `max_steps` if given, else `ceil(epochs * steps_per_epoch)`.
    pub fn total_steps(&self, epochs: f64, max_steps: Option<usize>) -> usize {
        max_steps.unwrap_or_else(|| (epochs * self.steps_per_epoch() as f64).ceil() as usize)
    }

    /// The epoch (from 0) and the step in it (from 0) of step `step` of the run (from 0). Data repeat as long as steps go on.
    pub fn locate(&self, step: usize) -> (usize, usize) {
        let per_epoch = self.steps_per_epoch();
        assert!(per_epoch > 0, "a data set without rows has no steps");
        (step / per_epoch, step % per_epoch)
    }

    /// Rows in the order in which [`Shuffle::Groups`] cuts them into steps; file order otherwise. Partners are chosen in it.
    pub fn base(&self) -> Vec<u32> {
        let mut rows: Vec<u32> = (0..u32::try_from(self.rows).expect("fewer than 2^32 rows")).collect();
        if self.shuffle == Shuffle::Groups {
            Stream::new(self.seed, ONCE).shuffle(&mut rows);
        }
        rows
    }

    /// The order of epoch `epoch` (from 0). Time and memory are those of one permutation of the rows.
    pub fn epoch(&self, epoch: usize) -> Epoch {
        let (mut rows, per_step) = (self.base(), self.rows_per_step());
        let stream = Stream::new(self.seed, EPOCH + epoch as u64);
        let mut steps: Vec<Range<u32>> = (0..self.steps_per_epoch())
            .map(|s| (s * per_step) as u32..((s + 1) * per_step).min(self.rows) as u32)
            .collect();
        match self.shuffle {
            Shuffle::None => {}
            Shuffle::Rows => stream.shuffle(&mut rows),
            Shuffle::Groups => stream.shuffle(&mut steps),
        }
        Epoch { rows, steps, micro_batch: self.micro_batch }
    }
}

/// The steps of one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Epoch {
    rows: Vec<u32>,
    steps: Vec<Range<u32>>,
    micro_batch: usize,
}

impl Epoch {
    /// Number of steps.
    pub fn len(&self) -> usize {
        self.steps.len()
    }

    /// Whether there is no step.
    pub fn is_empty(&self) -> bool {
        self.steps.is_empty()
    }

    /// Step `step` (from 0) of the epoch.
    pub fn step(&self, step: usize) -> Step<'_> {
        let Range { start, end } = self.steps[step];
        Step { rows: &self.rows[start as usize..end as usize], micro_batch: self.micro_batch }
    }
}

/// The rows of one step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step<'a> {
    rows: &'a [u32],
    micro_batch: usize,
}

impl<'a> Step<'a> {
    /// All rows of the step.
    pub fn rows(self) -> &'a [u32] {
        self.rows
    }

    /// The micro-batches of the step; the last may be shorter.
    pub fn micro_batches(self) -> std::slice::Chunks<'a, u32> {
        self.rows.chunks(self.micro_batch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(rows: usize, micro_batch: usize, accumulation: usize, shuffle: Shuffle) -> Order {
        Order { rows, micro_batch, accumulation, seed: 233, shuffle }
    }

    const ALL: [Shuffle; 3] = [Shuffle::None, Shuffle::Rows, Shuffle::Groups];

    #[test]
    fn every_row_is_in_every_epoch_once() {
        for shuffle in ALL {
            for rows in [0, 1, 2, 7, 46, 97] {
                for (micro, accumulation) in [(1, 1), (4, 5), (3, 2), (50, 4)] {
                    let order = order(rows, micro, accumulation, shuffle);
                    for epoch in 0..3 {
                        let e = order.epoch(epoch);
                        assert_eq!(e.len(), order.steps_per_epoch());
                        let mut seen: Vec<u32> = (0..e.len()).flat_map(|s| e.step(s).rows().to_vec()).collect();
                        seen.sort_unstable();
                        assert_eq!(seen, (0..rows as u32).collect::<Vec<_>>());
                    }
                }
            }
        }
    }

    #[test]
    fn a_window_never_crosses_the_end_of_an_epoch() {
        // 46 rows, micro-batches of 4, windows of 5: 12 micro-batches are 5 + 5 + 2, the last of 2 rows.
        let order = order(46, 4, 5, Shuffle::None);
        assert_eq!(order.steps_per_epoch(), 3);
        assert_eq!(order.total_steps(2.0, None), 6);
        assert_eq!(order.total_steps(0.5, None), 2);
        assert_eq!(order.total_steps(2.0, Some(12)), 12);
        assert_eq!(order.locate(4), (1, 1));
        let epoch = order.epoch(1);
        let sizes = |s: usize| epoch.step(s).micro_batches().map(<[u32]>::len).collect::<Vec<_>>();
        assert_eq!((sizes(0), sizes(1), sizes(2)), (vec![4; 5], vec![4; 5], vec![4, 2]));
        assert_eq!(epoch.step(2).rows(), [40, 41, 42, 43, 44, 45]);
    }

    #[test]
    fn groups_stay_together_while_their_order_changes() {
        let order = order(45, 2, 2, Shuffle::Groups);
        let groups = |epoch: usize| {
            let e = order.epoch(epoch);
            (0..e.len()).map(|s| e.step(s).rows().to_vec()).collect::<Vec<_>>()
        };
        let (mut a, mut b) = (groups(0), groups(1));
        assert_ne!(a, b);
        a.sort();
        b.sort();
        assert_eq!(a, b);
        let cut: Vec<Vec<u32>> = order.base().chunks(4).map(<[u32]>::to_vec).collect();
        assert!(cut.iter().all(|group| a.contains(group)));
    }

    #[test]
    fn an_epoch_depends_on_seed_and_number_only() {
        for shuffle in [Shuffle::Rows, Shuffle::Groups] {
            let order = order(64, 4, 2, shuffle);
            assert_eq!(order.epoch(5), order.epoch(5));
            assert_ne!(order.epoch(5), order.epoch(6));
            assert_ne!(order.epoch(5), Order { seed: 234, ..order }.epoch(5));
        }
        let file_order = order(64, 4, 2, Shuffle::None);
        assert_eq!(file_order.epoch(0), file_order.epoch(9));
    }
}
