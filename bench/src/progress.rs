//! How far the measuring is, in plain lines on stderr.

use std::time::Instant;

/// Counts the things that are measured, all taken to last about as long as those before.
pub(crate) struct Progress {
    begun: Instant,
    done: usize,
    total: usize,
}

impl Progress {
    /// Of `total` things.
    pub(crate) fn new(total: usize) -> Progress {
        Progress { begun: Instant::now(), done: 0, total }
    }

    /// The next thing begins.
    pub(crate) fn next(&mut self, what: &str) {
        let spent = self.begun.elapsed().as_secs_f64();
        let left = left(spent, self.done, self.total).map_or(String::new(), |s| format!(", about {} left", clock(s)));
        self.done += 1;
        eprintln!("[{}/{}] {what} ({} so far{left})", self.done, self.total, clock(spent));
    }
}

/// Seconds that are left at the speed so far.
fn left(spent: f64, done: usize, total: usize) -> Option<f64> {
    (done > 0).then(|| spent / done as f64 * (total - done.min(total)) as f64)
}

fn clock(seconds: f64) -> String {
    let seconds = seconds.round() as u64;
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_the_speed_so_far() {
        assert_eq!(left(30.0, 3, 10), Some(70.0));
        assert_eq!(left(30.0, 0, 10), None);
        assert_eq!([5.4, 65.0, 7320.0].map(clock), ["5 s", "1 min 5 s", "2 h 2 min"]);
    }
}
