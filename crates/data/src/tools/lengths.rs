//! Exact statistics of lengths, in memory that depends on how many different lengths there are.

use std::collections::BTreeMap;

/// Lengths that were seen, each with its count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lengths {
    counts: BTreeMap<u64, u64>,
    count: u64,
    sum: u64,
}

/// A bar of a histogram: lengths in `from..to` and how many there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bar {
    /// Least length.
    pub from: u64,
    /// One past the greatest length.
    pub to: u64,
    /// Rows.
    pub count: u64,
}

impl Lengths {
    /// Adds a length.
    pub fn add(&mut self, length: usize) {
        *self.counts.entry(length as u64).or_default() += 1;
        self.count += 1;
        self.sum += length as u64;
    }

    /// Number of lengths.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum
    }

    /// The mean; 0 of none.
    pub fn mean(&self) -> f64 {
        self.sum as f64 / self.count.max(1) as f64
    }

    /// The least.
    pub fn min(&self) -> u64 {
        self.counts.keys().next().copied().unwrap_or(0)
    }

    /// The greatest.
    pub fn max(&self) -> u64 {
        self.counts.keys().next_back().copied().unwrap_or(0)
    }

    /// The least length that at least `percent` percent of the lengths do not exceed (nearest rank).
    pub fn percentile(&self, percent: f64) -> u64 {
        let rank = ((percent / 100.0 * self.count as f64).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        for (&length, &count) in &self.counts {
            seen += count;
            if seen >= rank {
                return length;
            }
        }
        0
    }

    /// How many exceed `limit`.
    pub fn longer_than(&self, limit: usize) -> u64 {
        self.counts.range(limit as u64 + 1..).map(|(_, count)| count).sum()
    }

    /// At most `bars` bars of one round width (1, 2 or 5 times a power of ten) from the least to the greatest length.
    pub fn histogram(&self, bars: usize) -> Vec<Bar> {
        if self.count == 0 {
            return Vec::new();
        }
        let widths = (0..19).flat_map(|power| [1, 2, 5].map(|digit| digit * 10_u64.pow(power)));
        let fits = |width: &u64| self.max() / width - self.min() / width < bars.max(1) as u64;
        let width = widths.into_iter().find(fits).unwrap_or(u64::MAX);
        let first = self.min() / width;
        let mut out: Vec<Bar> = (first..=self.max() / width)
            .map(|n| Bar { from: n * width, to: (n + 1).saturating_mul(width), count: 0 })
            .collect();
        for (&length, &count) in &self.counts {
            out[(length / width - first) as usize].count += count;
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_and_bars_are_those_of_the_sorted_lengths() {
        let mut lengths = Lengths::default();
        (1..=100).rev().for_each(|n| lengths.add(n));
        assert_eq!([0.0, 50.0, 90.0, 99.0, 100.0].map(|p| lengths.percentile(p)), [1, 50, 90, 99, 100]);
        assert_eq!((lengths.min(), lengths.max(), lengths.sum(), lengths.longer_than(90)), (1, 100, 5050, 10));
        let bars = lengths.histogram(6);
        assert_eq!(bars.len(), 6);
        assert_eq!(bars[0], Bar { from: 0, to: 20, count: 19 });
        assert_eq!(bars.iter().map(|b| b.count).sum::<u64>(), 100);
        assert_eq!((Lengths::default().percentile(50.0), Lengths::default().histogram(5)), (0, Vec::new()));
    }
}
