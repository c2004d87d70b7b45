//! English number words to digits, as the `word2number` package reads them.

use super::normalise::compiled;
use regex::Regex;
use std::sync::LazyLock;

static DECIMAL: LazyLock<Regex> = LazyLock::new(|| compiled(r"\d"));

const WORDS: [(&str, i128); 31] = [
    ("zero", 0),
    ("one", 1),
    ("two", 2),
    ("three", 3),
    ("four", 4),
    ("five", 5),
    ("six", 6),
    ("seven", 7),
    ("eight", 8),
    ("nine", 9),
    ("ten", 10),
    ("eleven", 11),
    ("twelve", 12),
    ("thirteen", 13),
    ("fourteen", 14),
    ("fifteen", 15),
    ("sixteen", 16),
    ("seventeen", 17),
    ("eighteen", 18),
    ("nineteen", 19),
    ("twenty", 20),
    ("thirty", 30),
    ("forty", 40),
    ("fifty", 50),
    ("sixty", 60),
    ("seventy", 70),
    ("eighty", 80),
    ("ninety", 90),
    ("hundred", 100),
    ("thousand", 1_000),
    ("million", 1_000_000),
];
const BILLION: i128 = 1_000_000_000;

fn value(word: &str) -> Option<i128> {
    if word == "billion" {
        return Some(BILLION);
    }
    WORDS.iter().find(|(name, _)| *name == word).map(|&(_, value)| value)
}

/// The number that `text` spells, in digits; `None` where the package refuses. Words that are no numbers are skipped, so
/// `"June ten"` is 10, as there; a text of digits loses its leading zeros.
pub(super) fn number_words(text: &str) -> Option<String> {
    let text = text.replace('-', " ").to_lowercase();
    if let Some(digits) = text.chars().map(digit).collect::<Option<String>>().filter(|digits| !digits.is_empty()) {
        let digits = digits.trim_start_matches('0');
        return Some(if digits.is_empty() { "0".to_owned() } else { digits.to_owned() });
    }
    let words: Vec<&str> = text.split_whitespace().filter(|word| *word == "point" || value(word).is_some()).collect();
    let count = |wanted: &str| words.iter().filter(|word| **word == wanted).count();
    if words.is_empty() || ["thousand", "million", "billion", "point"].iter().any(|word| count(word) > 1) {
        return None;
    }
    let (whole, decimals) = match words.iter().position(|word| *word == "point") {
        Some(at) => (&words[..at], &words[at + 1..]),
        None => (&words[..], &[][..]),
    };
    let whole: Vec<i128> = whole.iter().filter_map(|word| value(word)).collect();
    let total = integer(&whole)?;
    let digits: Option<String> =
        decimals.iter().map(|word| value(word).filter(|v| *v < 10).map(|v| char::from(b'0' + v as u8))).collect();
    match digits {
        Some(digits) if !digits.is_empty() => {
            let fraction: f64 = format!("0.{digits}").parse().ok()?;
            Some(format!("{:?}", total as f64 + fraction))
        }
        _ => Some(total.to_string()),
    }
}

/// The ASCII digit for a decimal digit of any script: their runs begin at a zero and hold whole tens.
fn digit(c: char) -> Option<char> {
    if c.is_ascii() {
        return c.is_ascii_digit().then_some(c);
    }
    let is_decimal = |c: char| DECIMAL.is_match(c.encode_utf8(&mut [0; 4]));
    let before = (0..u32::from(c)).rev().map_while(char::from_u32).take_while(|c| is_decimal(*c)).count();
    is_decimal(c).then(|| char::from(b'0' + (before % 10) as u8))
}

/// The value of the words before `point`; empty is 0.
fn integer(words: &[i128]) -> Option<i128> {
    if let [] | [_] = words {
        return Some(words.first().copied().unwrap_or(0));
    }
    let at = |wanted: i128| words.iter().position(|value| *value == wanted);
    let (billion, million, thousand) = (at(BILLION), at(1_000_000), at(1_000));
    // A larger unit after a smaller one is malformed.
    if thousand.is_some() && (thousand < million || thousand < billion) || million.is_some() && million < billion {
        return None;
    }
    let mut total = 0i128;
    if let Some(end) = billion {
        total += group(&words[..end])? * BILLION;
    }
    if let Some(end) = million {
        total += group(&words[billion.map_or(0, |at| at + 1)..end])? * 1_000_000;
    }
    if let Some(end) = thousand {
        total += group(&words[million.or(billion).map_or(0, |at| at + 1)..end])? * 1_000;
    }
    // The first of these units that is not the last word decides where the hundreds begin.
    let last = words.len() - 1;
    let begin = [thousand, million, billion].into_iter().flatten().find(|at| *at != last).map(|at| at + 1);
    let hundreds = match begin {
        Some(begin) => group(&words[begin..])?,
        None if thousand.or(million).or(billion).is_none() => group(words)?,
        None => 0,
    };
    Some(total + hundreds)
}

/// The package's rule for the up to four words between two units; more are cut to the first.
fn group(words: &[i128]) -> Option<i128> {
    Some(match *words {
        [a, b, c, d] => a * b + c + d,
        [a, b, c] => a * b + c,
        [a, b] if a == 100 || b == 100 => a * b,
        [a, b] => a + b,
        [a, ..] => a,
        [] => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::number_words;

    #[test]
    fn words_become_digits() {
        let cases = [
            ("twenty-one", "21"),
            ("two million twenty three thousand and forty nine", "2023049"),
            ("two point five", "2.5"),
            ("three hundred", "300"),
            ("the point (1,2)", "0"),
            ("June ten", "10"),
            ("025", "25"),
            ("１２３", "123"),
        ];
        for (text, expected) in cases {
            assert_eq!(number_words(text).as_deref(), Some(expected), "{text}");
        }
    }

    #[test]
    fn texts_without_number_words_are_refused() {
        for text in ["", "x", "-5", "two thousand thousand", "thousand million two"] {
            assert_eq!(number_words(text), None, "{text}");
        }
    }
}
