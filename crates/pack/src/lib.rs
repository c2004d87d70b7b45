//! Packs: the tokens, segments and targets of one forward pass, as plain host data.
//!
//! There is no batch axis, no padding and no mask. A [`Pack`] has two parts: *base* rows, which may carry gradient and
//! may be continued, and *tail* rows, which continue base rows and never carry gradient (the mismatched completions of
//! KTO). A [`Segment`] is a run of rows that attend causally to one another and, before that, to all rows of its
//! *context*, a range of base rows that starts at position 0. So a prompt is computed once however many answers share it.
//!
//! The last token of a sequence predicts nothing that is scored, so it is no row, unless it is asked for ([`Last`]).
#![forbid(unsafe_code)]

mod build;

pub use build::{Answer, Family, Last, families_of_rows, plan_packs, plan_packs_with};

use std::ops::Range;

/// A run of rows of one part that attend causally to one another and fully to `context`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows of the part this segment lies in.
    pub rows: Range<usize>,
    /// Base rows seen by every row of the segment; they stand at positions `0..context.len()`. Empty: none.
    pub context: Range<usize>,
}

/// One part of a pack: `t` tokens with their positions, cut into segments in row order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rows {
    /// Token ids, `[t]`.
    pub tokens: Vec<u32>,
    /// Positions inside the sequence, `[t]`; a segment's positions go on where its context ends.
    pub positions: Vec<u32>,
    /// Segments, which tile `0..t`.
    pub segments: Vec<Segment>,
}

impl Rows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    /// Whether the part has no rows.
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }

    /// Appends a segment and returns its rows.
    fn push(&mut self, tokens: &[u32], context: Range<usize>) -> Range<usize> {
        let rows = self.len()..self.len() + tokens.len();
        let first = context.len() as u32;
        self.tokens.extend_from_slice(tokens);
        self.positions.extend(first..first + tokens.len() as u32);
        if !rows.is_empty() {
            self.segments.push(Segment { rows: rows.clone(), context });
        }
        rows
    }
}

/// A scored token: the row that predicts it, the token, the sequence whose log-probability it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Row of the pack: base rows first, then tail rows.
    pub row: u32,
    /// The token to be predicted.
    pub token: u32,
    /// Index of the sequence in the caller's numbering.
    pub sequence: u32,
}

/// What one forward pass computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pack {
    /// Rows that may carry gradient and may be continued.
    pub base: Rows,
    /// Rows that continue base rows and carry no gradient.
    pub tail: Rows,
    /// Scored tokens; those that may carry gradient come first.
    pub targets: Vec<Target>,
    /// How many of the targets may carry gradient.
    pub num_grad_targets: usize,
    /// Runs of base rows, and how many sequences with gradient go through each; rows that are in none go through none.
    pub graded: Vec<(Range<usize>, u32)>,
}

impl Pack {
    /// Rows of both parts.
    pub fn num_rows(&self) -> usize {
        self.base.len() + self.tail.len()
    }

    /// The pack without its tail and without the targets that carry no gradient.
    pub fn base_only(&self) -> Pack {
        Pack {
            base: self.base.clone(),
            tail: Rows::default(),
            targets: self.targets[..self.num_grad_targets].to_vec(),
            num_grad_targets: self.num_grad_targets,
            graded: self.graded.clone(),
        }
    }

    /// How many sequences with gradient go through each base row.
    pub fn base_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.base.len()];
        self.graded.iter().for_each(|(rows, n)| counts[rows.clone()].fill(*n));
        counts
    }

    /// Visible (query, key) pairs of attention, the unit of its cost; `window` limits how far back a row sees.
    pub fn attention_pairs(&self, window: Option<usize>) -> u64 {
        let part = |rows: &Rows| -> u64 {
            let per_segment = |s: &Segment| {
                let (c, n) = (s.context.len() as u64, s.rows.len() as u64);
                match window {
                    None => c * n + n * (n + 1) / 2,
                    Some(w) => (0..n).map(|i| (c + i + 1).min(w as u64)).sum(),
                }
            };
            rows.segments.iter().map(per_segment).sum()
        };
        part(&self.base) + part(&self.tail)
    }
}
