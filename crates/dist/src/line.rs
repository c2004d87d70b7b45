//! Time of a message by its size: a latency and a speed, for small, middling and large ones apart.

/// A line: `latency + bytes * per_byte`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece {
    /// Sizes up to this, bytes.
    pub upto: f64,
    /// Of an empty message, seconds.
    pub latency: f64,
    /// Seconds per byte.
    pub per_byte: f64,
}

/// Up to three lines, as engines send small, middling and large messages in different ways.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// By size, ascending; the last is for all that is larger.
    pub pieces: Vec<Piece>,
}

/// Fewest measurements that a piece is drawn through.
const FEWEST: usize = 3;

impl Line {
    /// The lines that pass nearest to measured `(bytes, seconds)`, ascending by size: least squares of the relative errors.
    pub fn through(measured: &[(f64, f64)]) -> Line {
        assert!(!measured.is_empty(), "a line through nothing");
        let n = measured.len();
        let cuts = |from: usize| (from + FEWEST..=n.saturating_sub(FEWEST)).chain([n]);
        let two = cuts(0).flat_map(|a| cuts(a.min(n)).map(move |b| [a, b.max(a), n]));
        let fits = two.map(|cuts| {
            let mut first = 0;
            let mut pieces = Vec::new();
            for past in cuts.into_iter().filter(|past| *past > 0) {
                if past > first {
                    pieces.push(piece(&measured[first..past]));
                    first = past;
                }
            }
            Line { pieces }
        });
        let miss = |line: &Line| measured.iter().map(|(x, t)| (line.seconds(*x) / t - 1.0).powi(2)).sum::<f64>();
        fits.min_by(|a, b| miss(a).total_cmp(&miss(b))).expect("one piece at least")
    }

    /// Modelled time of `bytes` bytes, seconds.
    pub fn seconds(&self, bytes: f64) -> f64 {
        let at = self.pieces.iter().find(|p| bytes <= p.upto).or(self.pieces.last()).expect("one piece at least");
        at.latency + bytes * at.per_byte
    }
}

/// The line nearest to some measurements, relative errors squared.
fn piece(measured: &[(f64, f64)]) -> Piece {
    let (mut one, mut x, mut xx, mut y, mut xy) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for &(bytes, seconds) in measured {
        let weight = 1.0 / (seconds * seconds);
        one += weight;
        x += weight * bytes;
        xx += weight * bytes * bytes;
        y += weight * seconds;
        xy += weight * bytes * seconds;
    }
    let spread = one * xx - x * x;
    let slope = if spread > 1e-9 * one * xx { (one * xy - x * y) / spread } else { 0.0 };
    // A larger message is not faster.
    let per_byte = slope.max(0.0);
    Piece { upto: measured[measured.len() - 1].0, latency: (y - per_byte * x) / one, per_byte }
}
