//! Packing several rows into bins of `capacity` tokens, in TRL's three ways; sequences in a bin stay separate.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use crate::dataset::Dataset;

/// How rows fill bins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Best fit, longest rows first; rows longer than a bin lose their end.
    Bfd,
    /// Rows longer than a bin are cut into pieces first; then as `Bfd`.
    BfdSplit,
    /// Rows one after the other, cut wherever a bin is full.
    Wrapped,
}

/// Rows that are packed together: TRL packs each batch of its data-set map on its own.
const BATCH: usize = 1000;

/// A run of tokens of one row. What lies before it in the row is not seen from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The row.
    pub row: u32,
    /// First token in the row.
    pub start: u32,
    /// Number of tokens, at least 1.
    pub len: u32,
}

/// Packed rows: bin `b` is an ordered list of pieces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bins {
    pieces: Vec<Piece>,
    bounds: Vec<u32>,
}

impl Bins {
    /// Number of bins.
    pub fn len(&self) -> usize {
        self.bounds.len()
    }

    /// Whether there is no bin.
    pub fn is_empty(&self) -> bool {
        self.bounds.is_empty()
    }

    /// The pieces of bin `b`.
    pub fn bin(&self, b: usize) -> &[Piece] {
        let start = if b == 0 { 0 } else { self.bounds[b - 1] };
        &self.pieces[start as usize..self.bounds[b] as usize]
    }

    fn push(&mut self, pieces: impl IntoIterator<Item = Piece>) {
        self.pieces.extend(pieces);
        self.bounds.push(self.pieces.len() as u32);
    }
}

/// Packs rows of `lengths` tokens into bins of at most `capacity` tokens.
///
/// `Bfd` keeps every row whole, up to its first `capacity` tokens. For `BfdSplit` and `Wrapped` load the rows without a
/// `max_length`, so that there is something to cut.
pub fn pack(lengths: &[u32], capacity: u32, strategy: Strategy) -> Bins {
    assert!(capacity > 0, "a bin holds at least one token");
    let mut bins = Bins::default();
    for (batch, lengths) in lengths.chunks(BATCH).enumerate() {
        let rows = (0..).map(|i| (batch * BATCH + i) as u32).zip(lengths.iter().copied()).filter(|&(_, len)| len > 0);
        match strategy {
            Strategy::Bfd => {
                best_fit(rows.map(|(row, len)| Piece { row, start: 0, len: len.min(capacity) }), capacity, &mut bins)
            }
            Strategy::BfdSplit => best_fit(rows.flat_map(|(row, len)| cut(row, len, capacity)), capacity, &mut bins),
            Strategy::Wrapped => wrap(rows, capacity, &mut bins),
        }
    }
    bins
}

/// A row in pieces of `capacity` tokens; the last has what is left.
fn cut(row: u32, len: u32, capacity: u32) -> impl Iterator<Item = Piece> {
    let starts = (0..len).step_by(capacity as usize);
    starts.map(move |start| Piece { row, start, len: capacity.min(len - start) })
}

/// Longest first (equal lengths as they came), each into the bin with the least sufficient room, of equal ones the oldest.
fn best_fit(pieces: impl Iterator<Item = Piece>, capacity: u32, out: &mut Bins) {
    let mut pieces: Vec<Piece> = pieces.collect();
    pieces.sort_by_key(|p| std::cmp::Reverse(p.len));
    let mut bins: Vec<Vec<Piece>> = Vec::new();
    let mut with_room: BTreeMap<u32, VecDeque<usize>> = BTreeMap::new();
    for piece in pieces {
        let fit =
            with_room.range_mut(piece.len..).next().map(|(&room, queue)| (room, queue.pop_front(), queue.is_empty()));
        let (room, bin) = match fit {
            Some((room, Some(bin), emptied)) => {
                if emptied {
                    with_room.remove(&room);
                }
                (room, bin)
            }
            _ => {
                bins.push(Vec::new());
                (capacity, bins.len() - 1)
            }
        };
        bins[bin].push(piece);
        if room > piece.len {
            with_room.entry(room - piece.len).or_default().push_back(bin);
        }
    }
    bins.into_iter().for_each(|bin| out.push(bin));
}

fn wrap(rows: impl Iterator<Item = (u32, u32)>, capacity: u32, out: &mut Bins) {
    let (mut bin, mut room) = (Vec::new(), capacity);
    for (row, len) in rows {
        let mut start = 0;
        while start < len {
            let piece = Piece { row, start, len: room.min(len - start) };
            bin.push(piece);
            start += piece.len;
            room -= piece.len;
            if room == 0 {
                out.push(bin.drain(..));
                room = capacity;
            }
        }
    }
    if !bin.is_empty() {
        out.push(bin);
    }
}

impl Dataset {
    /// Lengths of all rows in tokens, for [`pack`].
    pub fn lengths(&self) -> Vec<u32> {
        (0..self.len()).map(|i| self.tokens(i).len() as u32).collect()
    }

    /// Token ids of a piece.
    pub fn piece_tokens(&self, piece: Piece) -> &[u32] {
        &self.tokens(piece.row as usize)[piece.start as usize..(piece.start + piece.len) as usize]
    }

    /// Positions of a piece (from its own start) that are predicted in training; never its first, which nothing precedes.
    pub fn piece_loss_spans(&self, piece: Piece) -> impl Iterator<Item = Range<u32>> {
        let Piece { row, start, len } = piece;
        let spans = self.loss_spans(row as usize).iter();
        let inside = spans.map(move |s| s.start.saturating_sub(start).max(1)..s.end.saturating_sub(start).min(len));
        inside.filter(|s| s.start < s.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Stream;

    fn lengths_of(bins: &Bins) -> Vec<Vec<u32>> {
        (0..bins.len()).map(|b| bins.bin(b).iter().map(|p| p.len).collect()).collect()
    }

    #[test]
    fn the_documented_example_packs_as_documented() {
        // Rows of 5, 2, 3 and 1 tokens in bins of 4.
        let lengths = [5, 2, 3, 1];
        assert_eq!(lengths_of(&pack(&lengths, 4, Strategy::Bfd)), [vec![4], vec![3, 1], vec![2]]);
        let split = pack(&lengths, 4, Strategy::BfdSplit);
        assert_eq!(lengths_of(&split), [vec![4], vec![3, 1], vec![2, 1]]);
        assert_eq!(split.bin(1), [Piece { row: 2, start: 0, len: 3 }, Piece { row: 0, start: 4, len: 1 }]);
        assert_eq!(lengths_of(&pack(&lengths, 4, Strategy::Wrapped)), [vec![4], vec![1, 2, 1], vec![2, 1]]);
    }

    #[test]
    fn of_bins_with_equal_room_the_oldest_is_filled_first() {
        let bins = pack(&[6, 6, 3, 2], 10, Strategy::Bfd);
        let rows = |b: usize| bins.bin(b).iter().map(|p| p.row).collect::<Vec<_>>();
        assert_eq!((rows(0), rows(1)), (vec![0, 2], vec![1, 3]));
    }

    fn cases() -> impl Iterator<Item = (Vec<u32>, u32)> {
        (0..200).map(|seed| {
            let draw = Stream::new(seed, 5);
            let n = draw.below(0, 60);
            (((0..n).map(|i| draw.below(2 + i, 30) as u32)).collect(), 1 + draw.below(1, 25) as u32)
        })
    }

    #[test]
    fn every_token_is_packed_once_and_no_bin_overflows() {
        for (lengths, capacity) in cases() {
            for strategy in [Strategy::Bfd, Strategy::BfdSplit, Strategy::Wrapped] {
                let bins = pack(&lengths, capacity, strategy);
                let mut seen: Vec<Vec<bool>> = lengths.iter().map(|&n| vec![false; n as usize]).collect();
                for b in 0..bins.len() {
                    assert!(!bins.bin(b).is_empty());
                    assert!(bins.bin(b).iter().map(|p| p.len).sum::<u32>() <= capacity);
                    for p in bins.bin(b) {
                        for t in p.start..p.start + p.len {
                            let token = &mut seen[p.row as usize][t as usize];
                            assert!(!*token, "token {t} of row {} twice", p.row);
                            *token = true;
                        }
                    }
                }
                for (row, tokens) in seen.iter().enumerate() {
                    let kept =
                        if strategy == Strategy::Bfd { tokens.len().min(capacity as usize) } else { tokens.len() };
                    assert!(tokens[..kept].iter().all(|&t| t), "row {row} of {lengths:?} under {strategy:?}");
                }
            }
        }
    }

    #[test]
    fn whole_rows_stay_whole_and_bins_fill_in_order() {
        for (lengths, capacity) in cases() {
            let bins = pack(&lengths, capacity, Strategy::Bfd);
            for b in 0..bins.len() {
                for p in bins.bin(b) {
                    assert_eq!((p.start, p.len), (0, lengths[p.row as usize].min(capacity)));
                }
                assert!(bins.bin(b).is_sorted_by_key(|p| std::cmp::Reverse(p.len)));
            }
            let wrapped = pack(&lengths, capacity, Strategy::Wrapped);
            let order: Vec<(u32, u32)> =
                (0..wrapped.len()).flat_map(|b| wrapped.bin(b).iter().map(|p| (p.row, p.start))).collect();
            assert!(order.is_sorted());
            assert!((1..wrapped.len()).all(|b| wrapped.bin(b - 1).iter().map(|p| p.len).sum::<u32>() == capacity));
        }
    }

    #[test]
    fn batches_of_a_thousand_are_packed_apart() {
        let bins = pack(&[1; 1500], 600, Strategy::Bfd);
        assert_eq!(lengths_of(&bins).iter().map(Vec::len).collect::<Vec<_>>(), [600, 400, 500]);
    }
}
