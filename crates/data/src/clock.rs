//! The calendar behind a template's `strftime_now`: a fixed instant, so that a data set renders the same on resume.

use std::time::{SystemTime, UNIX_EPOCH};

/// An instant in UTC, given by whoever starts the run and kept with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    unix_seconds: i64,
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

impl Clock {
    /// The instant `unix_seconds` after 1970-01-01T00:00:00Z.
    pub fn at(unix_seconds: i64) -> Self {
        Clock { unix_seconds }
    }

    /// The machine's present time.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Clock { unix_seconds: since as i64 }
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix_seconds(self) -> i64 {
        self.unix_seconds
    }

    /// C's `strftime` for the directives that dates in templates use; an unknown directive is copied.
    pub fn strftime(self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let padded = directive != Some('-');
            if !padded {
                directive = chars.next();
            }
            match directive {
                Some(d) => out.push_str(&self.field(d, padded)),
                None => out.push('%'),
            }
        }
        out
    }

    fn field(self, directive: char, padded: bool) -> String {
        let (days, seconds) = (self.unix_seconds.div_euclid(86_400), self.unix_seconds.rem_euclid(86_400));
        let (year, month, day) = civil(days);
        let number = |n: i64, width: usize| if padded { format!("{n:0width$}") } else { n.to_string() };
        let weekday = (days + 4).rem_euclid(7) as usize;
        let hour12 = (seconds / 3600 + 11) % 12 + 1;
        match directive {
            'Y' => year.to_string(),
            'y' => number(year.rem_euclid(100), 2),
            'm' => number(month, 2),
            'd' => number(day, 2),
            'B' => MONTHS[month as usize - 1].to_owned(),
            'b' | 'h' => MONTHS[month as usize - 1][..3].to_owned(),
            'A' => DAYS[weekday].to_owned(),
            'a' => DAYS[weekday][..3].to_owned(),
            'j' => number(days - days_before_year(year) + 1, 3),
            'H' => number(seconds / 3600, 2),
            'I' => number(hour12, 2),
            'M' => number(seconds / 60 % 60, 2),
            'S' => number(seconds % 60, 2),
            'p' => if seconds < 43_200 { "AM" } else { "PM" }.to_owned(),
            'Z' => "UTC".to_owned(),
            'F' => self.strftime("%Y-%m-%d"),
            'T' => self.strftime("%H:%M:%S"),
            '%' => "%".to_owned(),
            other => format!("%{other}"),
        }
    }
}

/// Year, month (1..=12) and day (1..=31) of a day count since 1970-01-01 (Hinnant's `civil_from_days`).
fn civil(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day_of_year - (153 * shifted + 2) / 5 + 1)
}

/// Days from 1970-01-01 to the first of January of `year`.
fn days_before_year(year: i64) -> i64 {
    let y = year - 1;
    y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) - 719_162
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        let at = |s| Clock::at(s).strftime("%Y-%m-%d %H:%M:%S %a %j");
        assert_eq!(at(0), "1970-01-01 00:00:00 Thu 001");
        assert_eq!(at(951_782_400), "2000-02-29 00:00:00 Tue 060");
        assert_eq!(at(1_735_689_599), "2024-12-31 23:59:59 Tue 366");
        assert_eq!(at(-1), "1969-12-31 23:59:59 Wed 365");
        assert_eq!(Clock::at(1_721_952_000).strftime("%d %b %Y, %-d %B %I%p 100%%"), "26 Jul 2024, 26 July 12AM 100%");
    }
}
