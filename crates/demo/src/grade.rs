//! Whether an answer is right: the number after `The answer is`.

/// Words that announce the number.
const ANNOUNCEMENT: &str = "The answer is";

/// The number an answer ends with: the one after the last `The answer is`; `None` where there is none.
pub fn extract(answer: &str) -> Option<i64> {
    let after = answer.rsplit_once(ANNOUNCEMENT)?.1.trim_start();
    let negative = after.starts_with('-');
    let digits = after.strip_prefix('-').unwrap_or(after);
    let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
    let number: i64 = digits[..end].parse().ok()?;
    Some(if negative { -number } else { number })
}

/// Whether an answer gives `expected`.
pub fn is_right(answer: &str, expected: i64) -> bool {
    extract(answer) == Some(expected)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_number_after_the_last_announcement_counts() {
        assert_eq!(extract("2 + 3 = 5. The answer is 5."), Some(5));
        assert_eq!(extract("The answer is 4. No: The answer is  12"), Some(12));
        assert_eq!(extract("The answer is -7."), Some(-7));
        for none in ["", "5", "The answer is", "The answer is five.", "The answer is - 5", "the answer is 5"] {
            assert_eq!(extract(none), None, "{none:?}");
        }
        assert_eq!(extract("The answer is 99999999999999999999."), None);
    }

    #[test]
    fn right_means_equal() {
        assert!(is_right("The answer is 15.", 15) && !is_right("The answer is 15.", 5) && !is_right("15", 15));
    }
}
