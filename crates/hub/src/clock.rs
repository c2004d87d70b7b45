//! Time and chance behind one trait, so that retries can be tested without waiting.

use ring::rand::{SecureRandom, SystemRandom};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What the client needs to know of time and chance.
pub trait Clock: Send + Sync {
    /// Time since some fixed moment; never goes back.
    fn now(&self) -> Duration;
    /// Waits.
    fn sleep(&self, pause: Duration);
    /// Seconds since 1970, for dates in `Retry-After`.
    fn unix_seconds(&self) -> u64;
    /// A random number in [0, 1), for jitter.
    fn chance(&self) -> f64;
}

/// The machine's clock and randomness.
#[derive(Debug)]
pub struct SystemClock {
    started: Instant,
    random: SystemRandom,
}

impl Default for SystemClock {
    fn default() -> SystemClock {
        SystemClock { started: Instant::now(), random: SystemRandom::new() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    fn unix_seconds(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn chance(&self) -> f64 {
        let mut bytes = [0; 4];
        // Without randomness the full delay is the safe choice.
        match self.random.fill(&mut bytes) {
            Ok(()) => f64::from(u32::from_le_bytes(bytes)) / (f64::from(u32::MAX) + 1.0),
            Err(_) => 0.999,
        }
    }
}

/// The pause that a `Retry-After` asks for: seconds, or a date of RFC 9110 in its preferred form.
pub(crate) fn retry_after(value: &str, unix_seconds: u64) -> Option<Duration> {
    let value = value.trim();
    if let Ok(seconds) = value.parse::<u64>() {
        return Some(Duration::from_secs(seconds));
    }
    Some(Duration::from_secs(http_date(value)?.saturating_sub(unix_seconds)))
}

/// The pause until the window of a `RateLimit` header resets: `"api";r=0;t=55`.
pub(crate) fn rate_limit_reset(value: &str) -> Option<Duration> {
    let seconds = value.split([';', ',']).find_map(|item| item.trim().strip_prefix("t="))?;
    Some(Duration::from_secs(seconds.parse().ok()?))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970.
fn http_date(text: &str) -> Option<u64> {
    let mut words = text.split_once(", ")?.1.split([' ', ':']);
    let day: u64 = words.next()?.parse().ok().filter(|day| (1..=31).contains(day))?;
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = words.next()?;
    let month = months.iter().position(|name| *name == month)? as u64 + 1;
    let year: u64 = words.next()?.parse().ok().filter(|year| (1970..10_000).contains(year))?;
    let mut clock = [0u64; 3];
    for (part, limit) in clock.iter_mut().zip([24, 60, 61]) {
        *part = words.next()?.parse().ok().filter(|part| *part < limit)?;
    }
    (words.next() == Some("GMT")).then_some(())?;
    // Days from the civil date with the year beginning in March, so that the leap day comes last
    // (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = 365 * year + year / 4 - year / 100 + year / 400 + day_of_year;
    Some(days.checked_sub(719_468)? * 86_400 + clock[0] * 3600 + clock[1] * 60 + clock[2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_read_in_seconds_as_a_date_and_from_the_rate_limit() {
        let seconds = Duration::from_secs;
        assert_eq!(retry_after(" 120 ", 0), Some(seconds(120)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_700), Some(seconds(77)));
        assert_eq!(retry_after("Thu, 29 Feb 2024 23:59:59 GMT", 1_709_251_199), Some(seconds(0)));
        assert_eq!(retry_after("Thu, 01 Jan 1970 00:00:01 GMT", 0), Some(seconds(1)));
        assert_eq!(retry_after("Sun, 06 Nov 1994 08:49:37 GMT", u64::MAX), Some(seconds(0)));
        for broken in ["", "soon", "-1", "1.5", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49 GMT"] {
            assert_eq!(retry_after(broken, 0), None, "{broken}");
        }
        assert_eq!(rate_limit_reset("\"api\";r=0;t=55"), Some(seconds(55)));
        assert_eq!(rate_limit_reset("\"api\";r=0"), None);
    }
}
