//! Time of a message by its size. Engines send small, middling and large messages in different ways, and past the caches each size has a
//! speed of its own: no one latency and bandwidth describe them, so a model goes straight from one measured size to the next.

/// Times by size, as measured and in between.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// `(bytes, seconds)`, ascending by size.
    points: Vec<(f64, f64)>,
}

impl Line {
    /// The line through measured `(bytes, seconds)`, ascending by size.
    pub fn through(measured: &[(f64, f64)]) -> Line {
        assert!(!measured.is_empty(), "a line through nothing");
        Line { points: measured.to_vec() }
    }

    /// Modelled time of `bytes` bytes, seconds: below what was measured that of the smallest message, beyond it at the speed of the largest.
    pub fn seconds(&self, bytes: f64) -> f64 {
        let past = self.points.partition_point(|(x, _)| *x < bytes);
        match (past.checked_sub(1).map(|i| self.points[i]), self.points.get(past)) {
            (Some((x, t)), Some((y, u))) => t + (u - t) * (bytes - x) / (y - x),
            (Some((x, t)), None) => t * bytes / x,
            (None, _) => self.points[0].1,
        }
    }
}
